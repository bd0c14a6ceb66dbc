"""The device half and the cloud half, built from BERT layers: tokens -> z -> (boundary) -> z -> hidden states.

B texts, T tokens, p = ``pool``, T' = 1 + ceil((T - 1) / p) positions, d = ``hidden``. The halves exchange one row of
``width`` numbers per position that is not padding, N = sum of T' rows. A layer ends in LayerNorm, so projection and
quantiser get normalised inputs. With ``width`` 0 there is no projection. If messages are float32 too, the two halves
are one ordinary encoder.
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
    """Sizes of both halves.

    Args:
        vocabulary: number of token ids.
        hidden: d.
        heads: attention heads.
        inner: width of the feed-forward layers.
        device_layers, cloud_layers: layers on each side of the cut.
        pool: tokens per position, 1, 2 or 4.
        funnel: halve the queries of the last device layers; otherwise average neighbours after the last layer.
        width: exchanged numbers per position; 0: d of them, without a projection.
        frozen: parts that are never trained or sent: 0 none, 1 the embeddings, 1 + n also the first n layers.
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
            largest = 1 + self.device_layers
            raise ValueError(f"frozen = {self.frozen}; a device half of {self.device_layers} layers has 0 to {largest}")

    @property
    def wire(self) -> int:
        """Exchanged numbers per position."""
        return self.width or self.hidden

    @property
    def strides(self) -> list[int]:
        """Pooling of the queries of each device layer: halvings in the last layers."""
        halvings = self.pool.bit_length() - 1 if self.funnel else 0
        unpooled = max(self.device_layers - halvings, 0)
        first = 2 ** max(halvings - self.device_layers, 0)  # with more halvings than layers, the first layer pools more
        strides = [1] * unpooled + [2] * min(halvings, self.device_layers)
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
    """A part of the split model; its trainable parameters are averaged and sent by name."""

    def state(self) -> State:
        """Copy the trainable parameters, without gradients; frozen parameters are never sent."""
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    def load(self, state: State) -> None:
        """Load trainable parameters. KeyError: their names differ from this half's."""
        ours = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if ours.keys() != state.keys():
            raise KeyError(f"parameters differ in {sorted(ours.keys() ^ state.keys())[:3]}; both sides need one shape")
        with torch.no_grad():
            for name, parameter in ours.items():
                parameter.copy_(state[name])

    def axes(self) -> Axes:
        """Name the axes of each parameter: none is cut, because clients train whole halves."""
        return {name: (None,) * value.ndim for name, value in self.state().items()}


class PooledLayer(BertLayer):
    """A BERT layer that pools the queries and the residual stream, but not keys and values."""

    def __init__(self, config: BertConfig, stride: int):
        super().__init__(config)
        self.attention = BertAttention(config, is_cross_attention=True)  # same parameters as self-attention
        self.stride = stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Compute (B, T, d), (B,) -> (B, T', d), (B,)."""
        mask = valid(lengths, x.shape[1])[:, None, None]
        pooled = pool(x, lengths, self.stride)
        h, _ = self.attention(pooled, encoder_hidden_states=x, encoder_attention_mask=mask)
        return self.feed_forward_chunk(h), pooled_lengths(lengths, self.stride)


class DeviceHalf(Half):
    """Embeddings, pooling layers, and the projection into code space."""

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
        """Set the mode; frozen parts stay in evaluation mode, so their output for a text never changes."""
        super().train(mode)
        for part in [self.embeddings, *self.layers][: self.shape.frozen]:
            part.eval()
        return self

    def stem(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Compute the output of the frozen parts, (B, T, d) and lengths (B,); it can be cached."""
        with torch.set_grad_enabled(self.shape.frozen == 0):
            x, lengths = self.embeddings(tokens.ids, tokens.types), tokens.lengths
            for layer in self.layers[: max(self.shape.frozen - 1, 0)]:
                x, lengths = layer(x, lengths)
        return x, lengths

    def hidden(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute rows (N, d) of the last layer, pooled, from the stem's output."""
        for layer in self.layers[max(self.shape.frozen - 1, 0) :]:
            x, lengths = layer(x, lengths)
        if not self.shape.funnel:
            x, lengths = pool(x, lengths, self.shape.pool), pooled_lengths(lengths, self.shape.pool)
        return flatten(x, lengths)

    def encode(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute z (N, width) from the stem's output."""
        return self.into(self.hidden(x, lengths))

    def forward(self, tokens: Tokens) -> Tensor:
        """Compute z (N, width)."""
        return self.encode(*self.stem(tokens))

    def checksum(self) -> str:
        """Return the SHA-256 of the frozen parameters, in hex; it must be the same on both sides and all clients."""
        digest = hashlib.sha256()
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                digest.update(name.encode() + parameter.detach().numpy().tobytes())
        return digest.hexdigest()


class CloudHalf(Half):
    """The projection from code space back to d, and the layers that all tasks share."""

    out: nn.Linear | nn.Identity

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.out = nn.Linear(shape.width, shape.hidden) if shape.width else nn.Identity()
        self.positions = nn.Embedding(shape.tokens, shape.hidden)
        self.layers = nn.ModuleList(PooledLayer(shape.bert, 1) for _ in range(shape.cloud_layers))

    def forward(self, z: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute hidden states (B, T', d) and positions of each text (B,).

        Args:
            z: (N, width).
            lengths: (B,) tokens of each text.
        """
        lengths = pooled_lengths(lengths, self.shape.pool)
        h = unflatten(self.out(z), lengths)
        h = h + self.positions.weight[: h.shape[1]]
        for layer in self.layers:
            h, _ = layer(h, lengths)
        return h, lengths


def build(shape: Shape, seed: int) -> tuple[DeviceHalf, CloudHalf]:
    """Build both halves from scratch with BERT's initial weights; code space is an orthogonal projection."""
    with seeded(seed):
        device, cloud = DeviceHalf(shape), CloudHalf(shape)
        for half in (device, cloud):
            half.apply(bert_init)
        if shape.width:
            set_projection(device, cloud, torch.empty(shape.width, shape.hidden))
    nn.init.zeros_(cloud.positions.weight)
    return device, cloud


def bert_init(module: nn.Module) -> None:
    """Initialise a module as BERT does."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def set_projection(device: DeviceHalf, cloud: CloudHalf, empty: Tensor) -> None:
    """Set W_in to random orthonormal rows and W_out to its transpose."""
    assert isinstance(device.into, nn.Linear) and isinstance(cloud.out, nn.Linear)
    rows = nn.init.orthogonal_(empty)
    with torch.no_grad():
        device.into.weight.copy_(rows)
        cloud.out.weight.copy_(rows.T)


def principal(device: DeviceHalf, cloud: CloudHalf, count: float, sums: Tensor, products: Tensor, seed: int) -> None:
    """Initialise code space as the principal subspace of the states, and W_out as the best linear inverse.

    A random rotation inside the subspace lets the groups of a product quantiser share the variance.

    Args:
        device, cloud: the halves, changed in place.
        count: positions.
        sums: (d,) sum of the states h over positions and clients.
        products: (d, d) sum of h h^T.
        seed: of the rotation.
    """
    assert isinstance(device.into, nn.Linear) and isinstance(cloud.out, nn.Linear)
    width, mean = device.shape.width, (sums / count).double()
    covariance = products.double() / count - torch.outer(mean, mean)
    _, vectors = torch.linalg.eigh(covariance)
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())
    rows = rotation @ vectors[:, -width:].T
    with torch.no_grad():
        device.into.weight.copy_(rows)
        device.into.bias.copy_(-rows @ mean)
        cloud.out.weight.copy_(rows.T)
        cloud.out.bias.copy_(mean)


def weigh(device: DeviceHalf, cloud: CloudHalf, z: Tensor, slopes: Tensor, groups: int, floor: float = 0.01) -> None:
    """Change the coordinates of code space so that squared error is the error's effect on the task.

    The function of the halves does not change. An error e of a position changes the task by g e to first order, where g
    is its gradient. The mean square is e^T G e with G = mean of g g^T. The new coordinates are the principal ones of
    G^(1/2) z. They are assigned to groups so that the variances of each group have a similar product (Ge et al. 2013,
    optimised product quantisation).

    Args:
        device, cloud: the halves, changed in place.
        z: (n, width) activations of many positions; only mean and covariance matter.
        slopes: (width, width) sum of g g^T.
        groups: of the product quantiser.
        floor: added to G, as a share of its mean eigenvalue.
    """
    assert isinstance(device.into, nn.Linear) and isinstance(cloud.out, nn.Linear)
    width, mean, covariance = z.shape[1], z.double().mean(0), torch.cov(z.double().T, correction=0)
    eigenvalues, axes = torch.linalg.eigh(slopes.double())
    roots = (eigenvalues.clamp_min(0) + floor * eigenvalues.mean()).sqrt()
    forward, backward = roots[:, None] * axes.T, axes / roots
    variances, rotation = torch.linalg.eigh(forward @ covariance @ forward.T)
    assigned: list[list[int]] = [[] for _ in range(groups)]
    product = [0.0] * groups
    for i in reversed(range(width)):
        group = min((j for j in range(groups) if len(assigned[j]) < width // groups), key=lambda j: product[j])
        assigned[group].append(i)
        product[group] += float(variances[i].clamp_min(1e-12).log())
    rotation = rotation[:, [i for members in assigned for i in members]]
    scale = (covariance.trace() / variances.sum()).sqrt()  # the commitment loss keeps its scale
    forward, backward = scale * rotation.T @ forward, backward @ rotation / scale
    with torch.no_grad():
        cloud.out.bias.add_((cloud.out.weight.double() @ mean).float())
        cloud.out.weight.copy_(cloud.out.weight.double() @ backward)
        device.into.bias.copy_(forward @ (device.into.bias.double() - mean))
        device.into.weight.copy_(forward @ device.into.weight.double())


def projected(device: DeviceHalf, cloud: CloudHalf) -> tuple[DeviceHalf, CloudHalf]:
    """Copy both halves with a projection into code space; without one, add an identity of all d numbers."""
    device, cloud = deepcopy(device), deepcopy(cloud)
    if not device.shape.width:
        device.shape = cloud.shape = replace(device.shape, width=device.shape.hidden)
        device.into, cloud.out = (nn.Linear(device.shape.hidden, device.shape.hidden) for _ in range(2))
        for layer in (device.into, cloud.out):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
    return device, cloud


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the context, torch's random numbers depend only on ``seed``; the outer random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
