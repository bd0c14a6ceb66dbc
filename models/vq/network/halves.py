"""The device half and the cloud half, of BERT's layers: tokens -> z -> (the boundary) -> z -> hidden states.

B texts, T tokens, p = ``pool``, T' = 1 + ceil((T - 1) / p) positions, d = ``hidden``. What crosses is one row per
position that is no padding, N = sum of T' rows of ``width`` numbers. A layer ends in LayerNorm, so what is projected
and quantised is normalised already. With ``width`` 0 there is no projection, and float32 on the wire makes the two
halves one ordinary encoder.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertAttention, BertEmbeddings, BertLayer

from models.submodel import Axes, State
from models.vq.network.pooling import flatten, pool, pooled_lengths, unflatten, valid
from models.vq.network.tokens import Tokens


@dataclass(frozen=True)
class Shape:
    """What both halves are built from.

    Args:
        vocabulary: token ids.
        hidden: d; heads: of attention; inner: width of the feed-forward layers.
        device_layers, cloud_layers: layers on each side of the cut.
        pool: tokens per position, 1, 2 or 4.
        funnel: halve the queries of the last device layers; otherwise average the neighbours after the last one.
        width: numbers per position that cross, 0: d of them, unprojected.
        frozen: parts that are never trained or sent: 0 none, 1 the embeddings, 1 + n those and the first n layers.
        dropout: of hidden states and of attention.
        tokens: longest text.
    """

    vocabulary: int
    hidden: int = 128
    heads: int = 4
    inner: int = 512
    device_layers: int = 2
    cloud_layers: int = 2
    pool: int = 1
    funnel: bool = True
    width: int = 0
    frozen: int = 0
    dropout: float = 0.1
    tokens: int = 512

    def __post_init__(self) -> None:
        if self.pool not in (1, 2, 4):
            raise ValueError(f"pool = {self.pool}; choose 1, 2 or 4")
        if self.width > self.hidden:
            raise ValueError(
                f"width = {self.width} is more than the {self.hidden} numbers of a state; choose less, or 0"
            )
        if not 0 <= self.frozen <= 1 + self.device_layers:
            most = 1 + self.device_layers
            raise ValueError(f"frozen = {self.frozen}; a device half of {self.device_layers} layers has 0 to {most}")

    @property
    def wire(self) -> int:
        """Numbers per position that cross."""
        return self.width or self.hidden

    @property
    def strides(self) -> list[int]:
        """Pooling of the queries of each device layer: halvings, on the last layers."""
        halvings = self.pool.bit_length() - 1 if self.funnel else 0
        plain = max(self.device_layers - halvings, 0)
        first = 2 ** max(halvings - self.device_layers, 0)  # more halvings than layers: the first pools by more
        strides = [1] * plain + [2] * min(halvings, self.device_layers)
        return [strides[0] * first, *strides[1:]] if strides else []

    @property
    def bert(self) -> BertConfig:
        config = BertConfig(
            vocab_size=self.vocabulary, hidden_size=self.hidden, num_attention_heads=self.heads,
            intermediate_size=self.inner, max_position_embeddings=self.tokens, hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout, layer_norm_eps=1e-12,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        return config


class Half(nn.Module):
    """A part of the split model that is trained, averaged and sent by the names of its parameters."""

    def state(self) -> State:
        """What is trained, detached and copied; frozen parameters are never sent."""
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    def load(self, state: State) -> None:
        """Take trained parameters over. KeyError: others than this half has."""
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if own.keys() != state.keys():
            raise KeyError(f"parameters differ in {sorted(own.keys() ^ state.keys())[:3]}; both sides need one shape")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def axes(self) -> Axes:
        """No axis is cut: devices train whole halves."""
        return {name: (None,) * value.ndim for name, value in self.state().items()}


class PooledLayer(BertLayer):
    """A BERT layer whose queries, and residual stream, are pooled; keys and values are not."""

    def __init__(self, config: BertConfig, stride: int):
        super().__init__(config)
        self.attention = BertAttention(config, is_cross_attention=True)  # the same parameters
        self.stride = stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, T, d), (B,) -> (B, T', d), (B,)."""
        there = valid(lengths, x.shape[1])[:, None, None]
        short = pool(x, lengths, self.stride)
        h, _ = self.attention(short, encoder_hidden_states=x, encoder_attention_mask=there)
        return self.feed_forward_chunk(h), pooled_lengths(lengths, self.stride)


class DeviceHalf(Half):
    """Embeddings, layers that pool, and the projection into code space."""

    into: nn.Linear | nn.Identity

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, config = shape, shape.bert
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(PooledLayer(config, stride) for stride in shape.strides)
        self.into = nn.Linear(shape.hidden, shape.width) if shape.width else nn.Identity()
        for part in [self.embeddings, *self.layers][: shape.frozen]:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "DeviceHalf":
        """Frozen parts stay in evaluation, so that what they say of a text never changes."""
        super().train(mode)
        for part in [self.embeddings, *self.layers][: self.shape.frozen]:
            part.eval()
        return self

    def stem(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """What the frozen parts say, (B, T, d) and (B,) lengths; it may be kept for the next epoch."""
        with torch.set_grad_enabled(self.shape.frozen == 0):
            x, lengths = self.embeddings(tokens.ids, tokens.types), tokens.lengths
            for layer in self.layers[: max(self.shape.frozen - 1, 0)]:
                x, lengths = layer(x, lengths)
        return x, lengths

    def hidden(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Rows (N, d) of the last layer, pooled, of what the stem said."""
        for layer in self.layers[max(self.shape.frozen - 1, 0) :]:
            x, lengths = layer(x, lengths)
        if not self.shape.funnel:
            x, lengths = pool(x, lengths, self.shape.pool), pooled_lengths(lengths, self.shape.pool)
        return flatten(x, lengths)

    def encode(self, x: Tensor, lengths: Tensor) -> Tensor:
        """z (N, width) of what the stem said."""
        return self.into(self.hidden(x, lengths))

    def forward(self, tokens: Tokens) -> Tensor:
        """z (N, width)."""
        return self.encode(*self.stem(tokens))

    def checksum(self) -> str:
        """Of the frozen parameters, in hex: both sides and all devices must have the same."""
        digest = hashlib.sha256()
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                digest.update(name.encode() + parameter.detach().numpy().tobytes())
        return digest.hexdigest()


class CloudHalf(Half):
    """From code space back to d, and the layers that all tasks share."""

    out: nn.Linear | nn.Identity

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.out = nn.Linear(shape.width, shape.hidden) if shape.width else nn.Identity()
        self.positions = nn.Embedding(shape.tokens, shape.hidden)
        self.layers = nn.ModuleList(PooledLayer(shape.bert, 1) for _ in range(shape.cloud_layers))

    def forward(self, z: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """z (N, width) of texts of ``lengths`` (B,) tokens -> hidden states (B, T', d), positions of each (B,)."""
        lengths = pooled_lengths(lengths, self.shape.pool)
        h = unflatten(self.out(z), lengths)
        h = h + self.positions.weight[: h.shape[1]]
        for layer in self.layers:
            h, _ = layer(h, lengths)
        return h, lengths


def build(shape: Shape, seed: int) -> tuple[DeviceHalf, CloudHalf]:
    """Both halves from scratch: BERT's initial weights; code space is an orthogonal projection and the way back."""
    with seeded(seed):
        device, cloud = DeviceHalf(shape), CloudHalf(shape)
        for half in (device, cloud):
            half.apply(initial)
        if shape.width:
            align(device, cloud, torch.empty(shape.width, shape.hidden))
    nn.init.zeros_(cloud.positions.weight)
    return device, cloud


def initial(module: nn.Module) -> None:
    """BERT's initial weights."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def align(device: DeviceHalf, cloud: CloudHalf, empty: Tensor) -> None:
    """W_in with orthonormal rows, W_out its transpose."""
    assert isinstance(device.into, nn.Linear) and isinstance(cloud.out, nn.Linear)
    rows = nn.init.orthogonal_(empty)
    with torch.no_grad():
        device.into.weight.copy_(rows)
        cloud.out.weight.copy_(rows.T)


def principal(device: DeviceHalf, cloud: CloudHalf, count: float, sums: Tensor, products: Tensor, seed: int) -> None:
    """Start code space as the principal subspace of what is projected; W_out is the best linear way back.

    Directions inside the subspace are rotated at random, so that the groups of a product quantiser share the variance.

    Args:
        count: positions; sums: (d,), products: (d, d), over them of h and h h^T, summed over devices.
    """
    assert isinstance(device.into, nn.Linear) and isinstance(cloud.out, nn.Linear)
    width, mean = device.shape.width, (sums / count).double()
    covariance = products.double() / count - torch.outer(mean, mean)
    _, vectors = torch.linalg.eigh(covariance)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())
    rows = turn @ vectors[:, -width:].T
    with torch.no_grad():
        device.into.weight.copy_(rows)
        device.into.bias.copy_(-rows @ mean)
        cloud.out.weight.copy_(rows.T)
        cloud.out.bias.copy_(mean)


def weigh(device: DeviceHalf, cloud: CloudHalf, z: Tensor, slopes: Tensor, groups: int, floor: float = 0.01) -> None:
    """Change the coordinates of code space, and nothing else, so that squared error is what it costs the task.

    An error e of a position costs g e to first order, where g is the gradient there of what matters: e^T G e in the
    mean square, G = mean of g g^T. The new coordinates are the principal ones of G^(1/2) z; they are dealt out so that
    the variances of each group have a like product (Ge et al. 2013, optimised product quantisation).

    Args:
        z: (n, width), what the device sends of many positions; of it only mean and covariance matter.
        slopes: (width, width), the sum of g g^T.
        groups: of the product quantiser; floor: what is added to G, as a share of its mean variance.
    """
    assert isinstance(device.into, nn.Linear) and isinstance(cloud.out, nn.Linear)
    width, mean, covariance = z.shape[1], z.double().mean(0), torch.cov(z.double().T, correction=0)
    costs, axes = torch.linalg.eigh(slopes.double())
    roots = (costs.clamp_min(0) + floor * costs.mean()).sqrt()
    there, back = roots[:, None] * axes.T, axes / roots
    variances, turn = torch.linalg.eigh(there @ covariance @ there.T)
    dealt: list[list[int]] = [[] for _ in range(groups)]
    product = [0.0] * groups
    for i in reversed(range(width)):
        to = min((j for j in range(groups) if len(dealt[j]) < width // groups), key=lambda j: product[j])
        dealt[to].append(i)
        product[to] += float(variances[i].clamp_min(1e-12).log())
    turn = turn[:, [i for own in dealt for i in own]]
    scale = (covariance.trace() / variances.sum()).sqrt()  # the commitment means the same as before
    there, back = scale * turn.T @ there, back @ turn / scale
    with torch.no_grad():
        cloud.out.bias.add_((cloud.out.weight.double() @ mean).float())
        cloud.out.weight.copy_(cloud.out.weight.double() @ back)
        device.into.bias.copy_(there @ (device.into.bias.double() - mean))
        device.into.weight.copy_(there @ device.into.weight.double())


def projected(device: DeviceHalf, cloud: CloudHalf) -> tuple[DeviceHalf, CloudHalf]:
    """Copies that have a projection into code space; where there was none, one of all d numbers that does nothing."""
    device, cloud = deepcopy(device), deepcopy(cloud)
    if not device.shape.width:
        device.shape = cloud.shape = replace(device.shape, width=device.shape.hidden)
        device.into, cloud.out = (nn.Linear(device.shape.hidden, device.shape.hidden) for _ in range(2))
        for same in (device.into, cloud.out):
            nn.init.eye_(same.weight)
            nn.init.zeros_(same.bias)
    return device, cloud


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers inside follow from ``seed`` alone, and those outside do not notice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
