"""The paper's rivals, which change the frozen base from within: LoRA (by peft) and bottleneck adapters.

A *site* is where a device's part reads and adds to a state in the middle of the base's pass, so with the base in the
cloud each site is an exchange at every token: one a layer for LoRA on queries and values (Hu et al. 2021,
arXiv:2106.09685), two for adapters after attention and MLP (Houlsby et al. 2019, arXiv:1902.00751). The paper's Table 2
counts them so. Here both parts run in one process, and what would cross is counted: `Tuned.traffic`.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.spa.bases import Base
from models.training.loop import batches
from partitions.errors import DataError
from partitions.personas import Example


@dataclass
class Stopwatch:
    """Milliseconds between pairs of modules, summed up."""

    ms: float = 0.0
    _since: float = 0.0

    def over(self, first: nn.Module, last: nn.Module) -> None:
        """Time from where ``first`` begins to where ``last`` ends, from now on."""
        first.register_forward_pre_hook(self._start)
        last.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.ms += 1e3 * (time.perf_counter() - self._since)


@dataclass(frozen=True)
class Tuned:
    """A base with trainable parts of a device inside; it shares the frozen weights of the base that it was made of.

    Args:
        base: starts with the answers of the one it was made of.
        parts: what the device owns; watch: how long these take.
        sites: exchanges per pass; down, up: float16 bytes per position and pass, all sites together.
    """

    base: Base
    parts: list[nn.Parameter]
    sites: int
    down: int
    up: int
    watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def parameters(self) -> int:
        return sum(part.numel() for part in self.parts)

    def traffic(self, prompt: int, answer: int) -> tuple[int, int, int]:
        """Exchanges, bytes down and up of an answer: a pass over the prompt, and one per token but the last."""
        positions = prompt + answer - 1
        return answer * self.sites, positions * self.down, positions * self.up


class Bottleneck(nn.Module):
    """x (..., d) -> what is added to it: up(relu(down(x))), zero at first."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))


def lora(base: Base, budget: int, seed: int) -> Tuned:
    """Low-rank updates of the query and value projections, alpha = 2 rank.

    Args:
        budget: most trainable parameters; the rank is the highest within it, at least 1.

    Raises:
        DataError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise DataError("LoRA needs one more package; run: python -m pip install peft==0.21.2") from error
    first = _layers(base)[0].self_attn
    d, out = base.width, first.q_proj.out_features + first.v_proj.out_features
    rank = max(1, budget // (base.layers * (2 * d + out)))
    wanted = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = inject_adapter_in_model(wanted, _twin(base))
    parts = [part for part in model.parameters() if part.requires_grad]
    tuned = Tuned(replace(base, model=model), parts, base.layers, 2 * base.layers * d, 2 * base.layers * out)
    for layer in _layers(tuned.base):
        for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            tuned.watch.over(projection.lora_A["default"], projection.lora_B["default"])
    return tuned


def adapters(base: Base, budget: int, seed: int) -> Tuned:
    """A bottleneck after the attention and after the MLP of each layer; ``budget`` as in `lora`."""
    d = base.width
    inner = max(1, (budget // (2 * base.layers) - d) // (2 * d + 1))
    tuned = Tuned(replace(base, model=_twin(base)), [], 2 * base.layers, 4 * base.layers * d, 4 * base.layers * d)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in _layers(tuned.base):
            for block in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part = Bottleneck(d, inner)
                block.register_forward_hook(lambda _, __, x, part=part: x + part(x))
                tuned.watch.over(part, part)
                tuned.parts.extend(part.parameters())
    return tuned


RIVALS: dict[str, Callable[[Base, int, int], Tuned]] = {"LoRA": lora, "adapter": adapters}


def answers_loss(base: Base, examples: Sequence[Example]) -> Tensor:
    """Mean loss per token of the answers, through the whole base."""
    asked, told = zip(*map(base.encode, examples), strict=True)
    rows = [torch.tensor([*prompt, *answer[:-1]]) for prompt, answer in zip(asked, told, strict=True)]
    states = base.model.base_model(nn.utils.rnn.pad_sequence(rows, batch_first=True)).last_hidden_state
    scored = [x[len(prompt) - 1 : len(row)] for x, prompt, row in zip(states, asked, rows, strict=True)]
    targets = torch.tensor([token for answer in told for token in answer])
    return F.cross_entropy(base.head(torch.cat(scored)), targets)


def tune(
    tuned: Tuned, examples: Sequence[Example], epochs: int, lr: float, batch_size: int, generator: np.random.Generator
) -> float:
    """Train the device's parts with AdamW, in place; the mean loss per token of the last epoch (NaN without any)."""
    optimizer = torch.optim.AdamW(tuned.parts, lr=lr)
    last = [float("nan")]
    for _ in range(epochs):
        last = []
        for index in batches(len(examples), batch_size, generator):
            loss = answers_loss(tuned.base, [examples[i] for i in index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last.append(float(loss.detach()))
    return float(np.mean(last))


def _layers(base: Base) -> list[Any]:
    """The transformer layers.

    Raises:
        DataError: they are not built as LLaMA's.
    """
    layers = getattr(base.model.base_model, "layers", None)
    if layers is None or not hasattr(layers[0], "self_attn") or not hasattr(layers[0].self_attn, "q_proj"):
        raise DataError(f"base model '{base.name}' is not built like LLaMA; LoRA and adapters have no place in it")
    return list(layers)


def _twin(base: Base) -> Any:
    """A copy of the model's modules with the same frozen weights, not copies of them."""
    return copy.deepcopy(base.model, {id(weight): weight for weight in base.model.parameters()})
