"""Costs against reality: latency and peak memory as measured on this CPU, beside what `models.costs` says.

Latency is taken in this process, on as many threads as torch is set to (one, for comparable numbers). Peak memory is
taken in a fresh process, from the high-water mark of resident memory (Linux), which is set back just before training:
unlike a count of torch's own allocations it also sees what kernels take. What libraries keep once they have run,
compiled kernels and scratch, about 12 MB, is left out by running the same training once before.
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

STEPS = 3  # of training in one measurement


@dataclass(frozen=True)
class Latency:
    """Seconds of one model; the estimates are those of the reference model scaled by MACs.

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
    """Real latency of several (sub-)models, every module held active.

    Every round measures each model once, so that whatever else the machine does falls on all alike; the first round is
    warm-up, and the median of the others counts.

    Args:
        models: architecture and axis sizes by name, e.g. ``{"whole": (dense, dense.sizes)}``.
        reference: the one whose measured latency calibrates the estimates.
        recipe: of training.
        repeats: rounds.
    """
    runs = [_Run(architecture, sizes, recipe) for architecture, sizes in models.values()]
    seconds = [[(_timed(run.train) / STEPS, _timed(run.infer)) for run in runs] for _ in range(1 + repeats)]
    medians = dict(zip(models, np.median(seconds[1:], axis=0).tolist(), strict=True))  # the first round warms up
    macs = {name: cost(architecture, sizes, recipe.batch_size).macs for name, (architecture, sizes) in models.items()}
    out = {}
    for name, (train_s, inference_s) in medians.items():
        ratio = macs[name] / macs[reference]
        train_0, inference_0 = medians[reference]
        out[name] = Latency(macs[name], train_s, train_0 * ratio, inference_s, inference_0 * ratio)
    return out


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes: the measured peak, and the sum that `models.costs` makes."""

    measured: int
    accounted: float


def peak_memory(
    model: str,
    input_shape: tuple[int, ...],
    classes: int,
    recipe: Recipe,
    hyper: Mapping[str, int | str] | None = None,
    modules: tuple[int, int, bool] | None = None,
    sizes: Sizes | None = None,
) -> Memory:
    """Real peak memory of training steps as a device makes them, in a process of its own.

    Args:
        model: a name of `models.nn.registry`, built for ``input_shape`` and ``classes`` with ``hyper``.
        modules: (modules, shrink, residual) of the modular model, None for the dense one.
        sizes: the axis sizes in which the sub-model differs from the whole, e.g. ``{"stage1.modules": 3}``.

    Raises:
        subprocess.CalledProcessError: the process failed, e.g. for want of memory; its errors are on stderr.
    """
    asked = {
        "model": model,
        "input_shape": input_shape,
        "classes": classes,
        "hyper": hyper or {},
        "modules": modules,
        "sizes": sizes or {},
        "recipe": asdict(recipe),
    }
    # Freed blocks go back to the system at once, so that resident memory is live memory.
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "experiments.studies.measuring", json.dumps(asked)]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    architecture, all_sizes = _architecture(asked)
    return Memory(int(told.stdout), cost(architecture, all_sizes, recipe.batch_size, recipe.slots).memory)


def _architecture(asked: Mapping[str, Any]) -> tuple[Architecture, Sizes]:
    architecture = MODELS[asked["model"]](tuple(asked["input_shape"]), asked["classes"], **asked["hyper"])
    if asked["modules"]:
        architecture = architecture.modular(*asked["modules"])
    return architecture, {**architecture.sizes, **asked["sizes"]}


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
    """Bytes of a field of /proc/self/status."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, field
    return 1024 * int(found.group(1))


def _measure(asked: Mapping[str, Any]) -> int:
    """Peak bytes of the model and of training it, over what the process holds without them."""
    architecture, sizes = _architecture(asked)
    recipe = Recipe(**asked["recipe"])
    _Run(architecture, sizes, recipe).train()
    run = _Run(architecture, sizes, recipe)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark falls to what is resident
    before = _status("VmRSS")
    run.train()
    held = sum(value.nbytes for value in run.body.state_dict().values())
    return _status("VmHWM") - before + held


if __name__ == "__main__":
    print(_measure(json.loads(sys.argv[1])))
