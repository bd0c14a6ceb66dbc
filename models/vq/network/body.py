"""The split model as one federated body: both halves, a head, and the running statistics of the codebook.

Statistics are stored *per example*: clients return ``decay N + (1 - decay) n / examples``. A mean weighted by examples
is then exactly the exponential mean over the union of their data. The codebook is a pure function of the statistics, so
its vectors are never averaged. Clients that do not use a vector do not move it.
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
CODEBOOK = "counts", "sums"  # entries of the state that determine the codebook
Merge = Literal["statistics", "vectors", "nothing"]


class SplitBody(Body):
    """Device half, cloud half, a head for classes, and ``counts`` (m, K), ``sums`` (m, K, w) per example.

    Frozen parameters are no part of the state: every process has them already, and shares them.

    Args:
        sizes: only ``classes``: no axis is cut.
        shape: of the halves.
        codes: (K, m); None: the halves exchange activations, and there are no statistics.
        seed: of the initial weights.
        build: builds both halves.
    """

    layers: tuple[str, ...] = ()
    never_negative: tuple[str, ...] = ("counts",)
    counts: Tensor
    sums: Tensor

    def __init__(self, sizes: Sizes, shape: Shape, codes: tuple[int, int] | None, seed: int = 0, build: Build = build):
        super().__init__(sizes)
        self.shape, self.codes = shape, codes
        self.device, self.cloud = build(shape, seed)
        self.register_load_state_dict_post_hook(_ignore_missing_frozen)
        self.head = head_for("classify", shape, sizes["classes"], seed)
        if codes:
            K, m = codes
            self.register_buffer("counts", torch.zeros(m, K))
            self.register_buffer("sums", torch.zeros(m, K, shape.wire // m))

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Compute logits (B, classes) of token ids (B, T) in one graph; `models.vq.ends` computes the split step."""
        tokens, codebook_ema = tokens_from_ids(x), self.codebook_ema()
        h, positions, _ = states(self.device, self.cloud, tokens, codebook_ema.codebook if codebook_ema else None)
        return self.head(h, positions, tokens.lengths)

    def state(self) -> State:
        frozen = _frozen(self)
        return {name: value.detach().clone() for name, value in self.state_dict().items() if name not in frozen}

    def axes(self) -> Axes:
        return {name: (None,) * value.ndim for name, value in self.state().items()}

    def device_entries(self) -> set[str]:
        """Return the names of the entries that the device needs; both sides need the statistics."""
        return {name for name in self.state() if name.startswith("device.") or name in CODEBOOK}

    @property
    def weight(self) -> float:
        """Weight of the loss in training."""
        return 1.0

    def codebook_ema(self) -> CodebookEMA | None:
        """Compute the codebook of the statistics, with unused vectors revived; None: activations cross the cut.

        Its version is a checksum of the vectors. All processes with the same statistics get the same codebook. As long
        as the statistics are zero there is none: the model is trained with activations first.
        """
        if not self.codes or not self.counts.any():
            return None
        running = Statistics(self.counts.double(), self.sums.double())
        blank = Codebook(torch.zeros_like(self.sums))
        address = Purpose.INIT, 2, crc32(self.counts.numpy().tobytes())
        codebook_ema = CodebookEMA(blank, running).update(blank.zero_statistics(), decay=1.0).revive(rng(0, *address))
        version = crc32(codebook_ema.codebook.vectors.numpy().tobytes())
        return replace(codebook_ema, codebook=replace(codebook_ema.codebook, version=version))

    def set_statistics(self, running: Statistics) -> None:
        """Set the statistics per example."""
        self.counts.copy_(running.counts)
        self.sums.copy_(running.sums)

    def add_statistics(
        self, ema: CodebookEMA, new: Statistics, examples: int, decay: float, merge: Merge = "statistics"
    ) -> None:
        """Add a client's new statistics to the received ones.

        Args:
            ema: the received codebook and statistics.
            new: statistics of the client's training.
            examples: number of examples in ``new``, repetitions included.
            decay: weight of the received statistics.
            merge: with 'vectors', the mean of states equals the mean of vectors, with the same weight for used and
                unused ones.
        """
        if merge == "vectors":
            vectors = ema.update(new.scaled(1 / examples), decay).codebook.vectors
            weight = ema.running.counts.mean(1, keepdim=True).expand_as(ema.running.counts)
            self.set_statistics(Statistics(weight, weight[..., None] * vectors))
        else:
            self.set_statistics(ema.running.scaled(decay) + new.scaled((1 - decay) / examples))


def _frozen(body: nn.Module) -> set[str]:
    return {name for name, p in body.named_parameters() if not p.requires_grad}


def _ignore_missing_frozen(body: nn.Module, result: Any) -> None:
    """Accept a state without frozen parameters as complete."""
    result.missing_keys[:] = [name for name in result.missing_keys if name not in _frozen(body)]


def split_body(
    shape: Shape, classes: int, codes: tuple[int, int] | None, tokens: int = 0, build: Build = build
) -> Architecture:
    """Return the architecture of the whole split model; every sub-model is the whole.

    Args:
        shape: of the halves.
        classes: number of classes.
        codes: (K, m), or None.
        tokens: longest text, for the costs; 0: as long as the shape allows.
        build: builds both halves.

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
    """Costs of a client's part on texts of full length, computed with real numbers: the meta device has no lengths.

    Args:
        coverage: the client's part.
    """

    coverage: Coverage = field(default_factory=dict)

    @cached_property
    def whole(self) -> Cost:
        body = self.architecture.part(self.coverage)
        ids = torch.ones(self.batch_size, *self.architecture.input_shape, dtype=torch.int64)
        sent, stored = (sum(v.numel() for v in tensors.values()) for tensors in (body.state(), body.state_dict()))
        weights = sum(p.numel() for p in body.parameters() if p.requires_grad)
        saved = loss_bytes(body, ids, torch.zeros(self.batch_size, dtype=torch.int64))
        memory = 4 * (weights * (1 + self.optimizer_slots) + stored) + saved
        return Cost(sent, 4 * sent, macs(body, ids[:1]), memory)

    def _cost(self, sizes: Sizes) -> Cost:
        return self.whole


def tokens_from_ids(ids: Tensor) -> Tokens:
    """Convert ids (B, T) of data sets into texts: 0 is padding, and every sentence ends with the text's last token."""
    ids = ids.long()
    lengths = (ids != 0).sum(1)
    ends = ids == ids.gather(1, lengths[:, None] - 1)
    types = (ends.cumsum(1) - ends.long()).clamp(max=1) * (ids != 0)
    longest = int(lengths.max())
    return Tokens(ids[:, :longest], types[:, :longest], lengths)


def device_state(body: SplitBody, state: State) -> State:
    """Return the part of a state that the device needs."""
    entries = body.device_entries()
    return {name: value for name, value in state.items() if name in entries}
