"""Side networks: small ladders beside the base that read some of its states and say what to add at the head.

All take a stack (B, T, S, d) of the S states of `Sides.states` and give o (B, T, d). r is the side's width.

    s = D_0 n(h_0);   s <- mu_l s + (1 - mu_l) D_l n(h_l);   s <- block_l(s);   o = P LN(s)

n is layer norm without parameters, as states grow strongly with depth; mu_l = sigmoid(alpha_l / 0.1) is learned (LST,
Sung et al. 2022, arXiv:2206.06522). Where o is added to b, P starts at zero, so that training starts from the base.
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


class Said(NamedTuple):
    """What a side gives: o (B, T, d), and of an attentive one what later positions attend to."""

    o: Tensor
    cached: Cached


@dataclass(frozen=True)
class SideSpec:
    """What a side network is.

    Args:
        kind: 'position-wise' (no attention, so a token needs no other), 'attentive' (LST's transformer blocks), or
            'released' (the layout of the authors' code, with inner width d).
        width: of the base, d; states: which states of its stack the side reads, ascending; ends with the last.
        reduction: d / r.
        zero: P starts at zero.
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
            raise ValueError(f"reduction = {self.reduction} leaves nothing of a base of width {self.width}")
        r = self.width // self.reduction
        object.__setattr__(self, "r", r - r % 2 if self.kind == "attentive" else r)  # rotary positions come in pairs

    def build(self, seed: int) -> "Side":
        """The side with initial weights of that seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # torch's layers draw from the global generator
            return SIDES[self.kind](self)


def every(layers: int, step: int) -> tuple[int, ...]:
    """Each ``step``-th of the states 0, ..., layers, and the last: (0, 5, ..., 30) of 30 layers with step 5."""
    return tuple(sorted({*range(0, layers + 1, step), layers}))


class Side(nn.Module):
    """A ladder; ``blocks`` of a subclass are what happens between two rungs.

    Class attributes:
        attends: positions depend on each other, so the prompt's states are needed too.
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
    ) -> Said:
        """o of every position.

        Args:
            stack: (B, T, S, d).
            visible: (B, T, cached + T) bool, which positions a position attends to; by default those up to itself.
            cached: of the positions before these.
            at: where the first of these is in the text; by default right after the cached ones.
        """
        h = F.layer_norm(stack, stack.shape[-1:])
        mu = torch.sigmoid(self.alpha / TEMPERATURE)
        s = self.down[0](h[..., 0, :])
        said: Cached = []
        for rung, down in enumerate(self.down[1:]):
            s = mu[rung] * s + (1 - mu[rung]) * down(h[..., rung + 1, :])
            s, kept = self.block(rung, s, visible, cached[rung] if cached else None, at)
            said += kept
        return Said(self.out(self.norm(s)), said)

    def block(
        self, rung: int, s: Tensor, visible: Tensor | None, cached: tuple[Tensor, Tensor] | None, at: int | None
    ) -> tuple[Tensor, Cached]:
        """s (B, T, r) after a block, and what it caches."""
        raise NotImplementedError


class PositionWise(Side):
    """Each block is a bottleneck MLP with a residual; the default."""

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
        # index 0 for each: a block is run with a cache of its own
        self.blocks = nn.ModuleList(LlamaDecoderLayer(config, 0) for _ in spec.states[1:])
        self.rotary = LlamaRotaryEmbedding(config)

    def block(
        self, rung: int, s: Tensor, visible: Tensor | None, cached: tuple[Tensor, Tensor] | None, at: int | None
    ) -> tuple[Tensor, Cached]:
        before, count = (cached[0].shape[2] if cached else 0), s.shape[1]
        if visible is None:
            visible = torch.ones(1, count, before + count, dtype=torch.bool, device=s.device).tril(before)
        cache = DynamicCache([cached]) if cached else DynamicCache()
        places = torch.arange(count, device=s.device)[None] + (before if at is None else at)
        s = self.blocks[rung](
            s, attention_mask=visible[:, None], past_key_values=cache, position_embeddings=self.rotary(s, places)
        )
        kept = cast(DynamicLayer, cache.layers[0])
        return s, [(cast(Tensor, kept.keys), cast(Tensor, kept.values))]


class Released(Side):
    """As in the authors' code: ReLU, an MLP whose inner width is d (their arguments are swapped), h added unmixed."""

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
    ) -> Said:
        s = self.down[0](stack[..., 0, :])
        for rung, (block, down) in enumerate(zip(self.blocks, self.down[1:], strict=True)):
            s = F.relu(s)
            s = s + block(s) + down(stack[..., rung + 1, :])
        return Said(self.out(s), [])


SIDES: dict[str, type[Side]] = {"position-wise": PositionWise, "attentive": Attentive, "released": Released}


def visibility(called: Tensor, start: Sequence[int] | None = None) -> Tensor:
    """Who sees whom in training, (B, T, T) bool, as it is in generation.

    Args:
        called: (B, T) bool, positions whose states reach the device.
        start: None: policy 'catch_up', where the next call brings what was not sent: everybody before. Otherwise
            'sparse', with the first position (B,) of the answer: a position sees itself and earlier called ones.
    """
    causal = torch.ones(called.shape[1], called.shape[1], dtype=torch.bool).tril().expand(len(called), -1, -1)
    if start is None:
        return causal
    answer = torch.arange(called.shape[1]) >= torch.as_tensor(start)[:, None]
    itself = torch.eye(called.shape[1], dtype=torch.bool)
    return causal & ((called & answer)[:, None] | itself)
