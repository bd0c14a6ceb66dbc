"""SPA by size: width of the side network, number of states that it reads, amount of training data, and epochs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from experiments.studies.spa import REPLACING_LR, known_of, trained, variant
from experiments.studies.study import Measured, Study, Tick
from fl.workloads.resolve import Run
from partitions import Purpose, rng

if TYPE_CHECKING:
    from fl.workloads.spa import SPA

WIDTHS = (4, 8, 16, 32)  # d / r
EVERY = (1, 2, 4)  # of the base's states
SHARES = (0.04, 0.4, 1.0)  # of the training examples: small, medium and full in the paper
EPOCHS = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class SizeRow:
    """One device at one size; rates as in `models.spa.metrics`, on test questions.

    Args:
        by: the only changed size: 'width' (at: d / r), 'states' (at: their number), 'data' (at: examples), all with
            SPA, or 'S1' and 'S3' (at: epochs).
        lost: token accuracy of the side always asked, minus that with the gate.
        parameters: of side and gate; call_bytes: float16 payload per token that the cloud asks about, both directions.
    """

    by: str
    at: float
    device: int
    M: float
    token_accuracy: float
    lost: float
    recall: float
    waste: float
    parameters: int
    call_bytes: int


def measure(run: Run, seed: int, tick: Tick) -> Iterator[SizeRow]:
    """Measure every size on every device, which trains alone."""
    workload, devices, lr = cast("SPA", run.workload), run.settings.devices.count, run.settings.client.lr
    workload.base(tick)
    for device in range(devices):
        tick("device", device, devices)
        for reduction in WIDTHS:
            yield _row("width", reduction, variant(run, {"spa.reduction": reduction}), seed, device)
        for step in EVERY:
            own = variant(run, {"spa.every": step})
            yield _row("states", len(own.side_spec.states), own, seed, device)
        examples = len(workload.people(seed).examples(device, 0, "train"))
        for share in SHARES:
            count = max(1, round(share * examples))
            yield _row("data", count, workload, seed, device, count)
        for epochs in EPOCHS:
            for name, mode, factor in (("S1", "s1", 1.0), ("S3", "s3", REPLACING_LR)):
                changes = {"spa.mode": mode, "client.lr": factor * lr, "client.adapt-epochs": epochs}
                yield _row(name, epochs, variant(run, changes), seed, device)


def _row(by: str, at: float, workload: "SPA", seed: int, device: int, examples: int | None = None) -> SizeRow:
    from models.spa.metrics import evaluate_tokens, rates
    from models.spa.modes import mode

    learn, calibrate, test = known_of(workload, seed, device)
    if examples is not None:
        order = rng(seed, Purpose.STUDY, device, 1).permutation(len(learn))
        learn = [learn[i] for i in order[:examples]]
    plugin = trained(workload, seed, device, [learn, calibrate, test])
    scored = evaluate_tokens(workload.base(), plugin, workload.options.mode, test)
    asked = scored.score > 0 if mode(workload.options.mode).gated else np.ones(len(scored.score), bool)
    got, spec = rates(scored, asked), plugin.side.spec
    return SizeRow(
        by, at, device, got["M"], got["token_accuracy"], float(scored.side_right.mean()) - got["token_accuracy"],
        got["recall"], got["waste"], sum(value.numel() for value in plugin.state().values()),
        2 * spec.width * (len(spec.states) + 1),
    )  # fmt: skip


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute means over devices for each size."""
    numbers = ("M", "token_accuracy", "lost", "recall", "waste", "parameters", "call_bytes")
    return {
        (f"{by} {at:g}", name): float(of[name].mean())
        for (by, at), of in rows.groupby(["by", "at"], sort=False)
        for name in numbers
    }


SPA_SIZE = Study(SizeRow, measure, metrics)
