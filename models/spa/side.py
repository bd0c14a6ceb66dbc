"""Side networks: small ladders next to the base that read some of its states and add to the head's input.

All take a stack (B, T, S, d) of the S states in `SideSpec.states` and return o (B, T, d). r is the side's width.

    s = D_0 n(h_0);   s <- mu_l s + (1 - mu_l) D_l n(h_l);   s <- block_l(s);   o = P LN(s)

n is layer norm without parameters, because states grow strongly with depth; mu_l = sigmoid(alpha_l / 0.1) is learned
(LST, Sung et al. 2022, arXiv:2206.06522). If o is added to b, P is initially zero, so training starts from the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig
from transformers.cache_utils import DynamicLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from partitions.errors import lookup

TEMPERATURE = 0.1  # of mu
Cached = list[tuple[Tensor, Tensor]]
"""Keys and values (B, heads, positions, width) of the blocks of an attentive side."""


class SideOutput(NamedTuple):
    """Output of a side: o (B, T, d), and an attentive side's cache for later positions."""

    o: Tensor
    cached: Cached


@dataclass(frozen=True)
class SideSpec:
    """Sizes of a side network.

    Args:
        kind: 'position-wise' (no attention, so tokens are independent), 'attentive' (LST's transformer blocks), or
            'released' (the layout of the authors' code, with inner width d).
        width: d, the base's width.
        states: ascending indices of the states of the stack that the side reads; the last state is included.
        reduction: d / r.
        zero: initialise P with zeros.
    """

    kind: Literal["position-wise", "attentive", "released"]
    width: int
    states: tuple[int, ...]
    reduction: int = 8
    zero: bool = True
    r: int = field(init=False)

    def __post_init__(self) -> None:
        lookup("side", self.kind, SIDES)
        if self.width < self.reduction:
            raise ValueError(f"reduction = {self.reduction} is larger than the base's width {self.width}")
        r = self.width // self.reduction
        # rotary embeddings need an even width
        object.__setattr__(self, "r", r - r % 2 if self.kind == "attentive" else r)

    def build(self, seed: int) -> "Side":
        """Build the side with initial weights from ``seed``."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # torch's layers use the global generator
            return SIDES[self.kind](self)


def every_nth_state(layers: int, step: int) -> tuple[int, ...]:
    """Return every ``step``-th of the states 0, ..., layers, and the last: (0, 5, ..., 30) of 30 layers with step 5."""
    return tuple(sorted({*range(0, layers + 1, step), layers}))


class Side(nn.Module):
    """A ladder; `block` of a subclass computes between two rungs.

    Class attributes:
        attends: positions depend on each other, so the side also needs the prompt's states.
    """

    attends = False

    def __init__(self, spec: SideSpec):
        super().__init__()
        self.spec = spec
        self.down = nn.ModuleList(nn.Linear(spec.width, spec.r, bias=False) for _ in spec.states)
        self.alpha = nn.Parameter(torch.zeros(len(spec.states) - 1))
        self.norm = nn.LayerNorm(spec.r)
        self.out = nn.Linear(spec.r, spec.width, bias=False)
        if spec.zero:
            nn.init.zeros_(self.out.weight)

    def forward(
        self, stack: Tensor, visible: Tensor | None = None, cached: Cached | None = None, at: int | None = None
    ) -> SideOutput:
        """Compute o of every position.

        Args:
            stack: (B, T, S, d).
            visible: (B, T, cached + T) bool, positions that each position attends to; by default all up to itself.
            cached: cache of the previous positions.
            at: position of the first token in the text; by default the one after the cached positions.
        """
        h = F.layer_norm(stack, stack.shape[-1:])
        mu = torch.sigmoid(self.alpha / TEMPERATURE)
        s = self.down[0](h[..., 0, :])
        new_cache: Cached = []
        for rung, down in enumerate(self.down[1:]):
            s = mu[rung] * s + (1 - mu[rung]) * down(h[..., rung + 1, :])
            s, block_cache = self.block(rung, s, visible, cached[rung] if cached else None, at)
            new_cache += block_cache
        return SideOutput(self.out(self.norm(s)), new_cache)

    def block(
        self, rung: int, s: Tensor, visible: Tensor | None, cached: tuple[Tensor, Tensor] | None, at: int | None
    ) -> tuple[Tensor, Cached]:
        """Compute s (B, T, r) after a block, and the block's cache."""
        raise NotImplementedError


class PositionWise(Side):
    """Each block is a bottleneck MLP with a residual connection; the default."""

    def __init__(self, spec: SideSpec):
        super().__init__(spec)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(spec.r), nn.Linear(spec.r, 2 * spec.r), nn.GELU(), nn.Linear(2 * spec.r, spec.r))
            for _ in spec.states[1:]
        )

    def block(
        self, rung: int, s: Tensor, visible: Tensor | None, cached: tuple[Tensor, Tensor] | None, at: int | None
    ) -> tuple[Tensor, Cached]:
        return s + self.blocks[rung](s), []


class Attentive(Side):
    """Each block is a transformer layer of width r, as in LST."""

    attends = True

    def __init__(self, spec: SideSpec):
        super().__init__(spec)
        heads = max(n for n in (1, 2, 4, 8) if spec.r % (2 * n) == 0)
        config = LlamaConfig(
            hidden_size=spec.r, intermediate_size=2 * spec.r, num_attention_heads=heads, num_key_value_heads=heads,
            num_hidden_layers=len(spec.states) - 1,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        # index 0 for each, because every block has a separate cache
        self.blocks = nn.ModuleList(LlamaDecoderLayer(config, 0) for _ in spec.states[1:])
        self.rotary = LlamaRotaryEmbedding(config)

    def block(
        self, rung: int, s: Tensor, visible: Tensor | None, cached: tuple[Tensor, Tensor] | None, at: int | None
    ) -> tuple[Tensor, Cached]:
        before, count = (cached[0].shape[2] if cached else 0), s.shape[1]
        if visible is None:
            visible = torch.ones(1, count, before + count, dtype=torch.bool, device=s.device).tril(before)
        cache = DynamicCache([cached]) if cached else DynamicCache()
        position_ids = torch.arange(count, device=s.device)[None] + (before if at is None else at)
        s = self.blocks[rung](
            s, attention_mask=visible[:, None], past_key_values=cache, position_embeddings=self.rotary(s, position_ids)
        )
        layer = cast(DynamicLayer, cache.layers[0])
        return s, [(cast(Tensor, layer.keys), cast(Tensor, layer.values))]


class Released(Side):
    """The authors' code: ReLU, an MLP of inner width d (its arguments are swapped), h added without mixing."""

    def __init__(self, spec: SideSpec):
        nn.Module.__init__(self)
        self.spec = spec
        self.down = nn.ModuleList(nn.Linear(spec.width, spec.r) for _ in spec.states)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(spec.r, spec.width), nn.ReLU(), nn.Linear(spec.width, spec.r))
            for _ in spec.states[1:]
        )
        self.out = nn.Linear(spec.r, spec.width)
        if spec.zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(
        self, stack: Tensor, visible: Tensor | None = None, cached: Cached | None = None, at: int | None = None
    ) -> SideOutput:
        s = self.down[0](stack[..., 0, :])
        for rung, (block, down) in enumerate(zip(self.blocks, self.down[1:], strict=True)):
            s = F.relu(s)
            s = s + block(s) + down(stack[..., rung + 1, :])
        return SideOutput(self.out(s), [])


SIDES: dict[str, type[Side]] = {"position-wise": PositionWise, "attentive": Attentive, "released": Released}


def visibility(called: Tensor, start: Sequence[int] | None = None) -> Tensor:
    """Return which positions see which in training, (B, T, T) bool, as in generation.

    Args:
        called: (B, T) bool, positions whose states reach the device.
        start: None: policy 'catch_up', where each call sends all outstanding states, so every position sees all
            previous ones. Otherwise policy 'sparse' with the first position (B,) of the answer: a position sees itself
            and earlier called ones.
    """
    causal = torch.ones(called.shape[1], called.shape[1], dtype=torch.bool).tril().expand(len(called), -1, -1)
    if start is None:
        return causal
    in_answer = torch.arange(called.shape[1]) >= torch.as_tensor(start)[:, None]
    identity = torch.eye(called.shape[1], dtype=torch.bool)
    return causal & ((called & in_answer)[:, None] | identity)
