"""SPA by size: how wide the side is, how many states it reads, how much data it learns from, how long it learns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.studies.spa import FROM_NOTHING, known_of, trained
from experiments.studies.study import Measured, Study, Tick
from fl.config.settings import Settings
from partitions import Purpose, rng

WIDTHS = (4, 8, 16, 32)  # d / r
EVERY = (1, 2, 4)  # of the base's states
SHARES = (0.04, 0.4, 1.0)  # of the training examples; the paper's small, medium and full
EPOCHS = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class SizeRow:
    """One device at one size; rates as in `models.spa.metrics`, on test questions.

    Args:
        by: what is varied, else the settings hold: 'width' (at: d / r), 'states' (at: how many), 'data' (at: examples),
            all with SPA, or 'S1' and 'S3' (at: epochs).
        lost: token accuracy of the side always asked, less that with the gate.
        parameters: of side and gate; call_bytes: float16 payload of a token asked about, both ways.
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


def measure(settings: Settings, seed: int, tick: Tick) -> Iterator[SizeRow]:
    """Every size on every device, which trains alone."""
    from fl.workloads import spa

    spa.base(settings, tick)
    for device in range(settings.devices):
        tick("device", device, settings.devices)
        for reduction in WIDTHS:
            yield _row("width", reduction, settings.model_copy(update={"spa_reduction": reduction}), seed, device)
        for step in EVERY:
            own = settings.model_copy(update={"spa_every": step})
            yield _row("states", len(spa.side_spec(own).states), own, seed, device)
        examples = len(spa.people(settings, seed).examples(device, 0, "train"))
        for share in SHARES:
            count = max(1, round(share * examples))
            yield _row("data", count, settings, seed, device, count)
        for epochs in EPOCHS:
            for name, mode, pace in (("S1", "s1", 1.0), ("S3", "s3", FROM_NOTHING)):
                changes = {"spa_mode": mode, "lr": pace * settings.lr, "adapt_epochs": epochs}
                yield _row(name, epochs, settings.model_copy(update=changes), seed, device)


def _row(by: str, at: float, own: Settings, seed: int, device: int, examples: int | None = None) -> SizeRow:
    from fl.workloads import spa
    from models.spa.metrics import judge, rates
    from models.spa.modes import mode

    learn, calibrate, test = known_of(own, seed, device)
    if examples is not None:
        order = rng(seed, Purpose.STUDY, device, 1).permutation(len(learn))
        learn = [learn[i] for i in order[:examples]]
    plugin = trained(own, seed, device, [learn, calibrate, test])
    judged = judge(spa.base(own), plugin, own.spa_mode, test)
    asked = judged.score > 0 if mode(own.spa_mode).gated else np.ones(len(judged.score), bool)
    got, spec = rates(judged, asked), plugin.side.spec
    return SizeRow(
        by, at, device, got["M"], got["token_accuracy"], float(judged.side_right.mean()) - got["token_accuracy"],
        got["recall"], got["waste"], sum(value.numel() for value in plugin.state().values()),
        2 * spec.width * (len(spec.states) + 1),
    )  # fmt: skip


def metrics(rows: pd.DataFrame) -> Measured:
    """Means over devices, by what is varied and at what."""
    numbers = ("M", "token_accuracy", "lost", "recall", "waste", "parameters", "call_bytes")
    return {
        (f"{by} {at:g}", name): float(of[name].mean())
        for (by, at), of in rows.groupby(["by", "at"], sort=False)
        for name in numbers
    }


SPA_SIZE = Study(SizeRow, measure, metrics)
