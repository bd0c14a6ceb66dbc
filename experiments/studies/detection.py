"""Does a client notice that its data drift? ECLM's detector beside those that watch the loss.

At every step a client meets `SAMPLES` new samples. `importance` is ECLM's detector: it compares the importance of the
modules with that of the step before, and reads no label. The others watch the losses of the cloud's dense model:
ADWIN (Bifet and Gavaldà 2007) and Page-Hinkley (Page 1954), by `river`. Each runs at `SENSITIVITIES`, so that
detectors can be compared at equal numbers of false alarms.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from partitions import World, corrupt

SAMPLES = 60  # new samples of a client at a step
SENSITIVITIES: Mapping[str, tuple[float, ...]] = {  # from cautious to nervous
    "importance": (0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05),  # eclm.shift-threshold
    "adwin": (0.0002, 0.002, 0.02, 0.1, 0.3, 0.6),  # river's delta; 0.002 is its default
    "page-hinkley": (100.0, 50.0, 25.0, 12.0, 6.0, 3.0),  # river's threshold; 50 is its default
}


@dataclass(frozen=True)
class Row:
    """What one detector did for one client.

    Args:
        detector: key of `SENSITIVITIES`; sensitivity: its parameter.
        device: number of the client; steps: how many it watched, all but the first, which has nothing before it.
        drifts: drifts of the client's data; noticed: those with an alarm before the client's next drift.
        waited: steps from a drift to its alarm, summed over the noticed ones.
        false_alarms: all other alarms.
    """

    detector: str
    sensitivity: float
    device: int
    steps: int
    drifts: int
    noticed: int
    waited: int
    false_alarms: int


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Let every detector watch every client through all steps."""
    models, world, clients = run.workload.prepare(seed, tick), run.worlds(seed), run.settings.devices.count
    assert isinstance(world, World)
    modular = models.modular()
    dense = models.network("dense").eval()
    steps = run.settings.rounds // run.settings.rounds_per_step
    for device in range(clients):
        tick("drift detection, client", device, clients)
        watching: dict[tuple[str, float], Any] = {
            ("adwin", delta): ADWIN(delta=delta) for delta in SENSITIVITIES["adwin"]
        } | {("page-hinkley", limit): PageHinkley(threshold=limit) for limit in SENSITIVITIES["page-hinkley"]}
        former: dict[str, np.ndarray] = {}
        said: dict[tuple[str, float], list[bool]] = {
            (detector, one): [] for detector, several in SENSITIVITIES.items() for one in several
        }
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
            former = now
            for who, alarm in alarms.items():
                said[who].append(alarm)
        drifts = [world.drifts(device, step) for step in range(1, steps)]
        for (name, sensitivity), of_steps in said.items():
            yield Row(name, sensitivity, device, len(drifts), sum(drifts), *judge(drifts, of_steps[1:]))


def judge(drifts: Sequence[bool], alarms: Sequence[bool]) -> tuple[int, int, int]:
    """Judge the alarms of a client's steps: drifts that were noticed, steps waited for them, and false alarms.

    An alarm is that of the last drift, if this has none yet; else it is false.
    """
    noticed = waited = false = 0
    since: int | None = None  # the drift that waits for its alarm
    for step, (drift, alarm) in enumerate(zip(drifts, alarms, strict=True)):
        since = step if drift else since
        if alarm and since is not None:
            noticed, waited, since = noticed + 1, waited + step - since, None
        elif alarm:
            false += 1
    return noticed, waited, false


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute share of drifts noticed, delay and false alarms of every detector, named 'detector sensitivity'."""
    found: dict[tuple[str, str], float] = {}
    for (detector, sensitivity), of in rows.groupby(["detector", "sensitivity"], sort=False):
        name, total = f"{detector} {sensitivity:g}", of.sum(numeric_only=True)
        found[name, "false_alarms"] = 100 * total["false_alarms"] / total["steps"]
        if total["drifts"]:
            found[name, "noticed"] = total["noticed"] / total["drifts"]
        if total["noticed"]:
            found[name, "delay_steps"] = total["waited"] / total["noticed"]
    return found


DETECTION = Study(Row, measure, metrics)
