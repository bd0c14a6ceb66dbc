"""Does a client notice that its data drift? ECLM's detector beside those that watch the loss.

At every step a client meets `SAMPLES` new samples. `importance` is ECLM's detector: it compares the importance of the
modules with that of the step before, and reads no label. The others watch the losses of the cloud's dense model:
ADWIN (Bifet and Gavaldà 2007) and Page-Hinkley (Page 1954), by `river`. Each runs at `SENSITIVITIES`, so that
detectors can be compared at equal numbers of false alarms.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from river.drift import ADWIN, PageHinkley

from experiments.studies.study import Measured, Study, Tick
from fl.workloads.resolve import Run
from fl.workloads.world import tensors
from models.modular.derive import importance_shift
from models.modular.selector import importance
from models.submodel import FULL
from partitions import World, corrupt

SAMPLES = 60  # new samples of a client at a step
SENSITIVITIES: Mapping[str, tuple[float, ...]] = {  # from cautious to nervous
    "importance": (0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05),  # eclm.shift-threshold
    "adwin": (0.0002, 0.002, 0.02, 0.1, 0.3, 0.6),  # river's delta; 0.002 is its default
    "page-hinkley": (100.0, 50.0, 25.0, 12.0, 6.0, 3.0),  # river's threshold; 50 is its default
}


@dataclass(frozen=True)
class Row:
    """What one detector said to one client at one step.

    Args:
        detector: key of `SENSITIVITIES`; sensitivity: its parameter.
        device: number of the client; step: from 1, since at step 0 there is nothing to compare with.
        drifts: 1 if the client's data drift at this step.
        alarm: 1 if the detector says so.
    """

    detector: str
    sensitivity: float
    device: int
    step: int
    drifts: int
    alarm: int


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Let every detector watch every client through all steps."""
    models, world, clients = run.workload.prepare(seed, tick), run.worlds(seed), run.settings.devices.count
    assert isinstance(world, World)
    modular = models.modular()
    dense = models.architectures["dense"].part(FULL).eval()
    dense.load_state_dict(models.state("dense"))
    steps = run.settings.rounds // run.settings.rounds_per_step
    for device in range(clients):
        tick("drift detection, client", device, clients)
        watching: dict[tuple[str, float], Any] = {
            ("adwin", delta): ADWIN(delta=delta) for delta in SENSITIVITIES["adwin"]
        } | {("page-hinkley", limit): PageHinkley(threshold=limit) for limit in SENSITIVITIES["page-hinkley"]}
        former: dict[str, np.ndarray] = {}
        for step in range(steps):
            met = world.stream(device, step, SAMPLES)
            x = corrupt(tensors(world.data, "train", met.train)[0], met.train_corruptions)
            with torch.no_grad():
                losses = F.cross_entropy(dense(x), torch.from_numpy(met.train_labels), reduction="none").tolist()
            wanted = zip(models.costs["modular"].layers, importance(modular.logits(x)), strict=True)
            now = {layer: values.double().numpy() for layer, values in wanted}
            shift = importance_shift(now, former or now)
            alarms = {("importance", limit): shift > limit for limit in SENSITIVITIES["importance"]}
            for who, detector in watching.items():
                alarms[who] = False
                for loss in losses:
                    detector.update(loss)
                    alarms[who] |= detector.drift_detected
            former, drifts = now, int(world.drifts(device, step))
            if step:
                for (name, sensitivity), alarm in alarms.items():
                    yield Row(name, sensitivity, device, step, drifts, int(alarm))


def outcomes(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Judge one detector at one sensitivity, given its rows of one setting and seed.

    Returns:
        The share of drifts that it notices before the next drift of the client; the steps until then, mean over the
        noticed ones (0: at once); and false alarms per 100 steps: alarms before any drift, or after the first alarm
        since a drift.
    """
    noticed: list[int] = []
    drifts = false = 0
    for _, of_device in rows.sort_values("step").groupby("device"):
        since: int | None = None  # the drift that waits for its alarm
        for step, drifted, alarm in of_device[["step", "drifts", "alarm"]].itertuples(index=False):
            if drifted:
                drifts, since = drifts + 1, step
            if alarm and since is not None:
                noticed.append(step - since)
                since = None
            elif alarm:
                false += 1
    share = len(noticed) / drifts if drifts else math.nan
    return share, float(np.mean(noticed)) if noticed else math.nan, 100 * false / len(rows)


def metrics(rows: pd.DataFrame) -> Measured:
    """Return the outcomes of every detector, named 'detector sensitivity'."""
    found: dict[tuple[str, str], float] = {}
    for (detector, sensitivity), of in rows.groupby(["detector", "sensitivity"], sort=False):
        share, delay, false = outcomes(of)
        name = f"{detector} {sensitivity:g}"
        found |= {(name, "noticed"): share, (name, "delay_steps"): delay, (name, "false_alarms"): false}
    return {key: value for key, value in found.items() if not math.isnan(value)}


DETECTION = Study(Row, measure, metrics)
