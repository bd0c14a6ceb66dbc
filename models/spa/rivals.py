"""The paper's baselines, which change the frozen base from within: LoRA (by peft) and bottleneck adapters.

A *site* is a place in the base's pass where a device's part reads a state and adds to it. With the base in the cloud,
each site is an exchange at every token: one per layer for LoRA on queries and values (Hu et al. 2021,
arXiv:2106.09685), two for adapters after attention and MLP (Houlsby et al. 2019, arXiv:1902.00751). The paper's Table 2
counts them this way. Here both parts run in one process; `Tuned.traffic` computes the bytes of a distributed run.
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
from partitions.datasets.text.personas import Example
from partitions.errors import DataError


@dataclass
class Stopwatch:
    """Milliseconds between pairs of modules, summed up."""

    ms: float = 0.0
    _since: float = 0.0

    def over(self, first: nn.Module, last: nn.Module) -> None:
        """Measure from the start of ``first`` to the end of ``last``, from now on."""
        first.register_forward_pre_hook(self._start)
        last.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.ms += 1e3 * (time.perf_counter() - self._since)


@dataclass(frozen=True)
class Tuned:
    """A base with a device's trainable parts inside; it shares the frozen weights with the original base.

    Args:
        base: initially it gives the same logits as the original.
        parts: the device's parameters.
        sites: exchanges per pass.
        down, up: float16 bytes per position and pass, over all sites.
        watch: duration of the device's parts.
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
        """Compute exchanges, bytes down and bytes up of an answer.

        The base makes a pass over the prompt, then one per token but the last.
        """
        positions = prompt + answer - 1
        return answer * self.sites, positions * self.down, positions * self.up


class Bottleneck(nn.Module):
    """Compute up(relu(down(x))), which is added to x (..., d) and is initially 0."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))


def lora(base: Base, budget: int, seed: int) -> Tuned:
    """Add low-rank updates to the query and value projections, alpha = 2 rank.

    Args:
        base: the base model.
        budget: largest number of trainable parameters; the rank is the highest within it, at least 1.
        seed: of the initial weights.

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
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = inject_adapter_in_model(config, _copy_model(base))
    parts = [part for part in model.parameters() if part.requires_grad]
    tuned = Tuned(replace(base, model=model), parts, base.layers, 2 * base.layers * d, 2 * base.layers * out)
    for layer in _layers(tuned.base):
        for projection in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            tuned.watch.over(projection.lora_A["default"], projection.lora_B["default"])
    return tuned


def adapters(base: Base, budget: int, seed: int) -> Tuned:
    """Add a bottleneck after the attention and after the MLP of each layer; ``budget`` as in `lora`."""
    d = base.width
    inner = max(1, (budget // (2 * base.layers) - d) // (2 * d + 1))
    tuned = Tuned(replace(base, model=_copy_model(base)), [], 2 * base.layers, 4 * base.layers * d, 4 * base.layers * d)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in _layers(tuned.base):
            for block in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part = Bottleneck(d, inner)
                block.register_forward_hook(lambda _, __, x, part=part: x + part(x))
                tuned.watch.over(part, part)
                tuned.parts.extend(part.parameters())
    return tuned


BASELINES: dict[str, Callable[[Base, int, int], Tuned]] = {"LoRA": lora, "adapter": adapters}


def answers_loss(base: Base, examples: Sequence[Example]) -> Tensor:
    """Compute the mean loss per answer token through the whole base."""
    prompts, answers = zip(*map(base.encode, examples), strict=True)
    rows = [torch.tensor([*prompt, *answer[:-1]]) for prompt, answer in zip(prompts, answers, strict=True)]
    states = base.model.base_model(nn.utils.rnn.pad_sequence(rows, batch_first=True)).last_hidden_state
    scored = [x[len(prompt) - 1 : len(row)] for x, prompt, row in zip(states, prompts, rows, strict=True)]
    targets = torch.tensor([token for answer in answers for token in answer])
    return F.cross_entropy(base.head(torch.cat(scored)), targets)


def tune(
    tuned: Tuned, examples: Sequence[Example], epochs: int, lr: float, batch_size: int, generator: np.random.Generator
) -> float:
    """Train the device's parts with AdamW, in place; return the mean loss per token of the last epoch (NaN if none)."""
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
    """Return the transformer layers.

    Raises:
        DataError: the model is not built like LLaMA.
    """
    layers = getattr(base.model.base_model, "layers", None)
    if layers is None or not hasattr(layers[0], "self_attn") or not hasattr(layers[0].self_attn, "q_proj"):
        raise DataError(f"base model '{base.name}' is not built like LLaMA; LoRA and adapters have no place in it")
    return list(layers)


def _copy_model(base: Base) -> Any:
    """Copy the model's modules, but share the frozen weights."""
    return copy.deepcopy(base.model, {id(weight): weight for weight in base.model.parameters()})
