"""Measured latency and peak memory on this CPU, and the estimates of `models.costs`.

Latency is measured in this process, on as many threads as torch is set to (use one for comparable numbers). Peak memory
is measured in a new process, from the high-water mark of resident memory (Linux), which is reset before training. It
includes the memory of kernels, which a count of torch's own allocations does not. The same training runs once before,
so that memory which libraries keep after their first use (compiled kernels, scratch; about 12 MB) is not counted.
"""

import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.costs import cost, full_gates
from models.nn.body import Architecture, Body
from models.nn.registry import MODELS
from models.submodel import Sizes
from models.training.loop import Recipe, fit

STEPS = 3  # training steps in one measurement


@dataclass(frozen=True)
class Latency:
    """Seconds of one model; an estimate is the time of the reference model scaled by MACs.

    Args:
        macs: of one forward pass of one sample.
        train_s, train_estimate_s: one training step of a whole batch.
        inference_s, inference_estimate_s: one forward pass of one sample.
    """

    macs: float
    train_s: float
    train_estimate_s: float
    inference_s: float
    inference_estimate_s: float


def latencies(
    models: Mapping[str, tuple[Architecture, Sizes]],
    reference: str,
    recipe: Recipe,
    repeats: int = 15,
) -> dict[str, Latency]:
    """Measure the latency of several (sub-)models with all modules active.

    Every round measures each model once, so that other load on the machine affects all of them alike. The first round
    warms up; the median of the others is returned.

    Args:
        models: architecture and axis sizes by name, e.g. ``{"whole": (dense, dense.sizes)}``.
        reference: the model whose measured latency calibrates the estimates.
        recipe: of training.
        repeats: rounds.
    """
    runs = [_Run(architecture, sizes, recipe) for architecture, sizes in models.values()]
    seconds = [[(_timed(run.train) / STEPS, _timed(run.infer)) for run in runs] for _ in range(1 + repeats)]
    medians = dict(zip(models, np.median(seconds[1:], axis=0).tolist(), strict=True))
    macs = {name: cost(architecture, sizes, recipe.batch_size).macs for name, (architecture, sizes) in models.items()}
    out = {}
    for name, (train_s, inference_s) in medians.items():
        ratio = macs[name] / macs[reference]
        train_0, inference_0 = medians[reference]
        out[name] = Latency(macs[name], train_s, train_0 * ratio, inference_s, inference_0 * ratio)
    return out


@dataclass(frozen=True)
class Memory:
    """Bytes of training: the measured peak, and the estimate of `models.costs`."""

    measured: int
    accounted: float


def peak_memory(
    model: str,
    input_shape: tuple[int, ...],
    classes: int,
    recipe: Recipe,
    options: Mapping[str, int | str] | None = None,
    modules: tuple[int, int, bool] | None = None,
    sizes: Sizes | None = None,
) -> Memory:
    """Measure the peak memory of a client's training steps in a separate process.

    Args:
        model: a name of `models.nn.registry`, built for ``input_shape`` and ``classes`` with ``options``.
        modules: (modules, shrink, residual) of the modular model, None for the dense one.
        sizes: the axis sizes in which the sub-model differs from the whole model, e.g. ``{"stage1.modules": 3}``.

    Raises:
        subprocess.CalledProcessError: the process failed, e.g. without enough memory; its errors are on stderr.
    """
    request = {
        "model": model, "input_shape": input_shape, "classes": classes, "options": options or {}, "modules": modules,
        "sizes": sizes or {}, "recipe": asdict(recipe),
    }  # fmt: skip
    # Freed blocks are returned to the system at once, so that resident memory is memory in use.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **malloc, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", "from experiments.studies.measuring import main; main()", json.dumps(request)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    architecture, all_sizes = _architecture(request)
    return Memory(int(done.stdout), cost(architecture, all_sizes, recipe.batch_size, recipe.slots).memory)


def _architecture(request: Mapping[str, Any]) -> tuple[Architecture, Sizes]:
    architecture = MODELS[request["model"]](tuple(request["input_shape"]), request["classes"], **request["options"])
    if request["modules"]:
        architecture = architecture.modular(*request["modules"])
    return architecture, {**architecture.sizes, **request["sizes"]}


class _Run:
    """A model with random data for ``STEPS`` batches."""

    def __init__(self, architecture: Architecture, sizes: Sizes, recipe: Recipe):
        generator = torch.Generator().manual_seed(0)
        samples = STEPS * recipe.batch_size
        self.body: Body = architecture.build(sizes, generator)
        self.x = torch.randn(samples, *architecture.input_shape, generator=generator)
        self.y = torch.arange(samples) % sizes["classes"]
        self.gates = full_gates(architecture, self.body, samples)
        self.recipe = recipe

    def train(self) -> None:
        fit(self.body, self.x, self.y, self.recipe, 1, np.random.default_rng(0), self.gates)

    @torch.no_grad()
    def infer(self) -> None:
        self.body.eval()
        self.body(self.x[:1], None if self.gates is None else [g[:1] for g in self.gates])


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _status(field: str) -> int:
    """Return the bytes of a field of /proc/self/status."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, field
    return 1024 * int(found.group(1))


def _measure(request: Mapping[str, Any]) -> int:
    """Return the peak bytes of the model and its training, without those that the process needs before."""
    architecture, sizes = _architecture(request)
    recipe = Recipe(**request["recipe"])
    _Run(architecture, sizes, recipe).train()
    run = _Run(architecture, sizes, recipe)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # reset the high-water mark
    before = _status("VmRSS")
    run.train()
    model = sum(value.nbytes for value in run.body.state_dict().values())
    return _status("VmHWM") - before + model


def main() -> None:
    """Print the peak memory of the request in the first argument."""
    print(_measure(json.loads(sys.argv[1])))
