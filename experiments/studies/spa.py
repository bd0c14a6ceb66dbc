"""SPA on people whom the base has never met: modes and their costs, and quality against how often the device is asked.

The language model's libraries are imported when a study runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from experiments.studies.study import Measured, Study, Tick
from fl.config import Settings
from partitions import Purpose, rng

if TYPE_CHECKING:
    from models.spa.activations import Known
    from models.spa.train import Plugin

VARIANTS: dict[str, dict[str, str]] = {
    "S1": {"spa_mode": "s1"},
    "S2": {"spa_mode": "s2"},
    "S3": {"spa_mode": "s3"},
    "LST": {"spa_mode": "s3", "spa_side": "attentive"},
    "SPA": {"spa_mode": "spa"},
    "SPA, attentive": {"spa_mode": "spa", "spa_side": "attentive"},
    "SPA, attentive, sparse": {"spa_mode": "spa", "spa_side": "attentive", "spa_policy": "sparse"},
}
FITS = ("two-stage", "mixture", "expectation", "straight-through")
PRICES = (0.05, 0.3, 1.0, 2.5)
SHARE = 0.6  # of calibration tokens, for the gate that may ask that much and no more
WRITTEN = 4  # test questions answered freely, by each device
LENGTH = 50  # tokens of the paper's latency table


@dataclass(frozen=True)
class ModeRow:
    """One device with one variant; rates as in `models.spa.metrics`, under teacher forcing.

    Args:
        rouge_l, exact_text: of answers written freely, float16 states; written_M: their share of tokens asked about.
        down, up: payload bytes per written token; base_ms, side_ms: measured, per written token.
        lan_s, wifi_s, mobile_s: modelled network time of 50 tokens.
    """

    variant: str
    device: int
    M: float
    ce: float
    token_accuracy: float
    exact: float
    diff: float
    diff_pick: float
    recall: float
    waste: float
    rouge_l: float
    exact_text: float
    written_M: float
    down: float
    up: float
    base_ms: float
    side_ms: float
    lan_s: float
    wifi_s: float
    mobile_s: float


@dataclass(frozen=True)
class GateRow:
    """One point of one device.

    Args:
        by: 'threshold' (one two-stage gate, tau moved), 'capped' (tau set on calibration tokens so that it asks about
            60 % of them), 'oracle' (knows both losses), or a gate fit, whose price is varied.
        at: the threshold or the price; lost: token accuracy of the side always asked, less that of the gate.
    """

    by: str
    at: float
    device: int
    M: float
    token_accuracy: float
    ce: float
    lost: float
    recall: float
    waste: float


def _known(settings: Settings, seed: int, device: int) -> "list[list[Known]]":
    """What the base says of a device's examples: to train, to calibrate, to test."""
    from fl.workloads import spa
    from models.spa.activations import Activations
    from models.spa.side import SIDES

    spec, who = spa.side_spec(settings), spa.people(settings, seed)
    known = Activations(spa.base(settings), spec.states, SIDES[spec.kind].attends)
    return [known(who.examples(device, 0, split)) for split in ("train", "calibrate", "test")]


def _trained(settings: Settings, seed: int, device: int, known: "list[list[Known]]") -> "Plugin":
    """A device's plugin after ``adapt-epochs`` on its own."""
    from fl.workloads import spa
    from models.spa.train import train

    generator, (learn, calibrate, _) = rng(seed, Purpose.STUDY, device), known
    how, fresh = spa.training(settings), spa.fresh(settings, seed)
    return train(spa.base(settings), fresh, how, learn, calibrate, settings.adapt_epochs, generator)[0]


def measure_modes(settings: Settings, seed: int, tick: Tick) -> Iterator[ModeRow]:
    """Every variant on every device: trained alone, scored on questions in other words."""
    from fl.workloads import spa
    from models.spa.cloud import Session, join
    from models.spa.device import DeviceHalf
    from models.spa.latency import LINES
    from models.spa.metrics import judge, rates, text_scores

    base = spa.base(settings, tick)
    for variant, changes in VARIANTS.items():
        own = settings.model_copy(update=changes)
        for device in range(settings.devices):
            tick(f"{variant}, device", device, settings.devices)
            known = _known(own, seed, device)
            plugin, test = _trained(own, seed, device, known), known[2]
            judged = judge(base, plugin, own.spa_mode, test, own.spa_policy)
            gated = own.spa_mode in ("s2", "spa")
            asked = judged.score > plugin.gate.tau if gated else np.ones(len(judged.score), bool)
            link, terms = join(base, DeviceHalf(plugin, base.checksum, own.spa_mode, own.spa_policy))
            questions = spa.people(own, seed).examples(device, 0, "test")[:: -(-len(test) // WRITTEN)]
            prompts = [base.prompt(q.instruction, q.input) for q in questions]
            answers = [list(Session(base, link, terms, prompt).greedy(48)) for prompt in prompts]
            tokens = [token for answer in answers for token in answer]
            texts = [base.text([token.id for token in answer]) for answer in answers]
            scores = text_scores(texts, [q.output for q in questions])
            each = [
                np.mean([getattr(t, name) for t in tokens]) for name in ("asked", "down", "up", "base_ms", "side_ms")
            ]
            times = [LINES[line].seconds(*(LENGTH * float(x) for x in each[:3])) for line in ("lan", "wifi", "4g")]
            yield ModeRow(
                variant, device, **rates(judged, asked), rouge_l=scores["rougeL"], exact_text=scores["exact_text"],
                written_M=float(each[0]), down=float(each[1]), up=float(each[2]), base_ms=float(each[3]),
                side_ms=float(each[4]), lan_s=times[0], wifi_s=times[1], mobile_s=times[2],
            )  # fmt: skip


def measure_gates(settings: Settings, seed: int, tick: Tick) -> Iterator[GateRow]:
    """Quality against M, by threshold and by price, for every gate fit."""
    import torch

    from fl.workloads import spa
    from models.spa.gate import threshold
    from models.spa.metrics import curve, judge, oracle, rates
    from models.spa.train import train

    base = spa.base(settings, tick)
    for device in range(settings.devices):
        tick("device", device, settings.devices)
        known = _known(settings, seed, device)
        (learn, calibrate, test), plugin = known, _trained(settings, seed, device, known)
        judged = judge(base, plugin, "spa", test)
        always = float(judged.side_right.mean())

        def row(by: str, at: float, got: dict[str, float], always: float = always, device: int = device) -> GateRow:
            lost = always - got["token_accuracy"]
            return GateRow(
                by, at, device, got["M"], got["token_accuracy"], got["ce"], lost, got["recall"], got["waste"]
            )

        for point in curve(judged):
            yield row("threshold", point["tau"], point)
        tau = threshold(torch.from_numpy(judge(base, plugin, "spa", calibrate).score), SHARE)
        yield row("capped", tau, rates(judged, judged.score > tau))
        for price in PRICES:
            yield row("oracle", price, oracle(judged, price))
            for fit in FITS:
                own = settings.model_copy(update={"spa_gate": fit, "spa_price": price})
                if fit == "two-stage":  # the side is the same at any price: only its gate is fitted anew
                    none = rng(seed, Purpose.STUDY, device)
                    other, _ = train(base, plugin, spa.training(own), learn, calibrate, 0, none)
                else:
                    other = _trained(own, seed, device, known)
                seen = judge(base, other, "spa", test)
                yield row(fit, price, rates(seen, seen.score > 0))


def mode_metrics(rows: pd.DataFrame) -> Measured:
    """Means over devices."""
    numbers = rows.drop(columns=["experiment", "setting", "seed", "device"]).groupby("variant", sort=False).mean()
    found = {
        (str(variant), str(name)): float(numbers.loc[variant, name]) for variant in numbers.index for name in numbers
    }
    for variant in numbers.index:
        line = numbers.loc[variant]
        found[str(variant), "total_lan_s"] = float(LENGTH * (line["base_ms"] + line["side_ms"]) / 1e3 + line["lan_s"])
    return found


def gate_metrics(rows: pd.DataFrame) -> Measured:
    """Means over devices: of the capped gate, of each fit and the oracle at each price."""
    found: dict[tuple[str, str], float] = {}
    for by, of in rows[rows["by"] != "threshold"].groupby("by", sort=False):
        groups = (
            [("capped at 60 %", of)] if by == "capped" else [(f"{by}, price {at:g}", g) for at, g in of.groupby("at")]
        )
        for name, group in groups:
            metrics = ("M", "token_accuracy", "lost", "recall", "waste")
            found |= {(name, metric): float(group[metric].mean()) for metric in metrics}
    return found


SPA_MODES = Study(ModeRow, measure_modes, mode_metrics)
SPA_GATE = Study(GateRow, measure_gates, gate_metrics)
