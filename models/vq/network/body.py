"""The split model as what is federated: one body of both halves and a head, and the running statistics of the codebook.

The statistics are kept *per example*: devices return ``decay N + (1 - decay) n / examples``, and a mean weighted by
examples is then exactly the exponential mean over the union of their data, whoever computes it. The codebook is a pure
function of the statistics, so vectors are never merged; nobody's vector is dragged by those who did not use it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal
from zlib import crc32

import torch
from torch import Tensor, nn

from models.costs import Cost, CostModel, loss_bytes, macs
from models.nn.body import Architecture, Body
from models.submodel import Axes, Coverage, Sizes, State
from models.vq.network.composite import states
from models.vq.network.halves import CloudHalf, DeviceHalf, Shape, build
from models.vq.network.heads import head_for
from models.vq.network.tokens import Tokens
from models.vq.quantiser.codebook import Codebook, Statistics
from models.vq.quantiser.codebook_ema import CodebookEMA
from partitions.rng import Purpose, rng

Build = Callable[[Shape, int], tuple[DeviceHalf, CloudHalf]]
CODEBOOK = "counts", "sums"  # what of the state the codebook follows from
Merge = Literal["statistics", "vectors", "nothing"]


class SplitBody(Body):
    """Device half, cloud half, a head for classes, and ``counts`` (m, K), ``sums`` (m, K, w) per example.

    What is frozen is no part of the state: every process has it already, and shares it.

    Args:
        sizes: ``classes`` alone: no axis is cut.
        codes: (K, m); None: activations cross, and there are no statistics.
    """

    layers: tuple[str, ...] = ()
    counts: Tensor
    sums: Tensor

    def __init__(self, sizes: Sizes, shape: Shape, codes: tuple[int, int] | None, seed: int = 0, build: Build = build):
        super().__init__(sizes)
        self.shape, self.codes = shape, codes
        self.device, self.cloud = build(shape, seed)
        self.register_load_state_dict_post_hook(_have_the_frozen)
        self.head = head_for("classify", shape, sizes["classes"], seed)
        if codes:
            K, m = codes
            self.register_buffer("counts", torch.zeros(m, K))
            self.register_buffer("sums", torch.zeros(m, K, shape.wire // m))

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (B, classes) of token ids (B, T), in one graph without a wire; `models.vq.ends` is the split step."""
        tokens, keeper = of_ids(x), self.keeper()
        h, positions, _ = states(self.device, self.cloud, tokens, keeper.codebook if keeper else None)
        return self.head(h, positions, tokens.lengths)

    def state(self) -> State:
        frozen = _frozen(self)
        return {name: value.detach().clone() for name, value in self.state_dict().items() if name not in frozen}

    def axes(self) -> Axes:
        return {name: (None,) * value.ndim for name, value in self.state().items()}

    def on_device(self) -> set[str]:
        """The entries of the state that belong on the device's side of the cut; statistics are on both."""
        return {name for name in self.state() if name.startswith("device.") or name in CODEBOOK}

    @property
    def weight(self) -> float:
        """Of the loss in training."""
        return 1.0

    def keeper(self) -> CodebookEMA | None:
        """The codebook of the statistics, dead vectors revived; its version is a checksum of the vectors.

        Everybody who holds the same statistics gets the same codebook.
        """
        if not self.codes:
            return None
        running = Statistics(self.counts.double(), self.sums.double())
        blank = Codebook(torch.zeros_like(self.sums))
        address = Purpose.INIT, 2, crc32(self.counts.numpy().tobytes())
        keeper = CodebookEMA(blank, running).update(blank.no_statistics(), decay=1.0).revive(rng(0, *address))
        version = crc32(keeper.codebook.vectors.numpy().tobytes())
        return replace(keeper, codebook=replace(keeper.codebook, version=version))

    def keep(self, running: Statistics) -> None:
        """Take statistics per example over."""
        self.counts.copy_(running.counts)
        self.sums.copy_(running.sums)

    def moved(
        self, keeper: CodebookEMA, new: Statistics, examples: int, decay: float, merge: Merge = "statistics"
    ) -> None:
        """Add what a device saw of so many examples, each as often as it was seen, to the statistics it was sent.

        Args:
            merge: 'vectors' lets a mean of states be one of vectors: each weighs the same, whoever used it.
        """
        if merge == "vectors":
            vectors = keeper.update(new.scaled(1 / examples), decay).codebook.vectors
            weight = keeper.running.counts.mean(1, keepdim=True).expand_as(keeper.running.counts)
            self.keep(Statistics(weight, weight[..., None] * vectors))
        else:
            self.keep(keeper.running.scaled(decay) + new.scaled((1 - decay) / examples))


def _frozen(body: nn.Module) -> set[str]:
    return {name for name, p in body.named_parameters() if not p.requires_grad}


def _have_the_frozen(body: nn.Module, keys: Any) -> None:
    """A state without what is frozen is a whole one."""
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in _frozen(body)]


def split_body(
    shape: Shape, classes: int, codes: tuple[int, int] | None, tokens: int = 0, build: Build = build
) -> Architecture:
    """The whole as an architecture; a sub-model is the same.

    Args:
        tokens: of the longest text, for its costs; 0: as many as the shape allows.
        build: both halves.

    Raises:
        ValueError: the groups do not divide the code space.
    """
    if codes and shape.wire % codes[1]:
        raise ValueError(f"{codes[1]} groups do not divide a code space of {shape.wire} numbers; choose a divisor")

    def make(sizes: Sizes, generator: torch.Generator | None) -> SplitBody:
        return SplitBody(sizes, shape, codes, generator.initial_seed() if generator else 0, build)

    return Architecture(make, {"classes": classes}, (tokens or shape.tokens,))


@dataclass(frozen=True)
class SplitCosts(CostModel):
    """Costs of what a device holds on texts of full length; lengths are numbers, which the meta device does not have.

    Args:
        held: what that is of the whole.
    """

    held: Coverage = field(default_factory=dict)

    @cached_property
    def whole(self) -> Cost:
        body = self.architecture.part(self.held)
        ids = torch.ones(self.batch_size, *self.architecture.input_shape, dtype=torch.int64)
        state, held = (sum(v.numel() for v in of.values()) for of in (body.state(), body.state_dict()))
        weights = sum(p.numel() for p in body.parameters() if p.requires_grad)
        saved = loss_bytes(body, ids, torch.zeros(self.batch_size, dtype=torch.int64))
        memory = 4 * (weights * (1 + self.optimizer_slots) + held) + saved
        return Cost(state, 4 * state, macs(body, ids[:1]), memory)

    def _cost(self, sizes: Sizes) -> Cost:
        return self.whole


def of_ids(ids: Tensor) -> Tokens:
    """Texts of ids (B, T) as data sets hold them: 0 is padding, and each sentence ends with what the text ends with."""
    ids = ids.long()
    lengths = (ids != 0).sum(1)
    ends = ids == ids.gather(1, lengths[:, None] - 1)
    types = (ends.cumsum(1) - ends.long()).clamp(max=1) * (ids != 0)
    longest = int(lengths.max())
    return Tokens(ids[:, :longest], types[:, :longest], lengths)


def device_state(body: SplitBody, state: State) -> State:
    """The part of a state that the device's side needs."""
    wanted = body.on_device()
    return {name: value for name, value in state.items() if name in wanted}
