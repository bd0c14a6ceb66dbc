"""SPA on people whom the base has never met: modes and rivals with their costs; quality by how often they are asked.

The language model's libraries are imported when a study runs.
"""

import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from experiments.studies.study import Measured, Study, Tick
from fl.config.settings import Settings
from partitions import Purpose, rng

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.serving.cloud import Token
    from experiments.serving.device import DeviceHalf
    from models.spa.activations import Known
    from models.spa.bases import Base
    from models.spa.train import Plugin

SHOTS = ("zero-shot", "one-shot")
OWN_GATE = "SPA, own gate"  # which the cloud does not know: it asks about every token, and once more where it opens
LADDERS: dict[str, dict[str, str]] = {
    "S1": {"spa_mode": "s1"},
    "S2": {"spa_mode": "s2"},
    "S3": {"spa_mode": "s3"},
    "LST": {"spa_mode": "s3", "spa_side": "attentive"},
    "SPA": {"spa_mode": "spa"},
    OWN_GATE: {"spa_mode": "spa"},
    "SPA attentive": {"spa_mode": "spa", "spa_side": "attentive"},
    "SPA sparse": {"spa_mode": "spa", "spa_side": "attentive", "spa_policy": "sparse"},
}
FROM_NOTHING = 3.0  # times the learning rate, for a side that takes the base's place and cannot start from it
FITS = ("two-stage", "mixture", "expectation", "straight-through")
PRICES = (0.05, 0.3, 1.0, 2.5)
SHARE = 0.6  # of calibration tokens, for the gate that may ask that much and no more
LONGEST = 48  # tokens of an answer that is written freely
WIRE = "wifi"  # whose exchanges' time a device waits before it answers, when answers are written freely
QUICK = 0.1  # quantile over tokens of a measured time: what it takes when the machine does nothing else meanwhile
LENGTH = 50  # tokens of the paper's latency table


@dataclass(frozen=True)
class ModeRow:
    """One device with one variant; rates as in `models.spa.metrics`, under teacher forcing.

    Args:
        M: exchanges per token: the share of tokens asked about, 1 more with a gate of one's own; of LoRA and adapters,
            their sites in the base.
        rouge_1, rouge_2, rouge_l, exact_text: of answers to all test questions, written freely, float16 states.
        written_M: M of these; down, up: their payload bytes per token, the prompt's included.
        base_ms, side_ms: measured per written token, in the base and in the device's part (the `QUICK` quantile of the
            tokens that it takes part in, times their share).
        lan_s, wifi_s, mobile_s: modelled network time of 50 tokens; wire_s: measured, over a stream on this machine
            whose device waits 20 ms, as Wi-Fi's exchanges take, before each answer; NaN for LoRA and adapters.
        parameters: that the device trains; train_kb: 1e3 bytes of a training step beside the frozen base: these
            parameters, their gradients, AdamW's moments, and what autograd keeps of one batch.
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
    rouge_1: float
    rouge_2: float
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
    wire_s: float
    parameters: int
    train_kb: float


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


def known_of(settings: Settings, seed: int, device: int) -> "list[list[Known]]":
    """What the base says of a device's examples: to train, to calibrate, to test."""
    from fl.workloads import spa
    from models.spa.activations import Activations
    from models.spa.side import SIDES

    spec, who = spa.side_spec(settings), spa.people(settings, seed)
    known = Activations(spa.base(settings), spec.states, SIDES[spec.kind].attends)
    return [known(who.examples(device, 0, split)) for split in ("train", "calibrate", "test")]


def trained(settings: Settings, seed: int, device: int, known: "list[list[Known]]") -> "Plugin":
    """A device's plugin after ``adapt-epochs`` on its own."""
    from fl.workloads import spa
    from models.spa.session import train

    generator, (learn, calibrate, _) = rng(seed, Purpose.STUDY, device), known
    how, fresh = spa.training(settings), spa.fresh(settings, seed)
    return train(spa.base(settings), fresh, how, learn, calibrate, settings.adapt_epochs, generator)[0]


@dataclass(frozen=True)
class Seen:
    """A variant on one device, before it is boiled down to a `ModeRow`.

    Args:
        rates: under teacher forcing; parameters, kept: that the device trains, bytes that autograd keeps of a batch.
        answers: written freely; traffic: (answers, 3), exchanges, bytes down and up.
        side_ms: in the device's part, of each pass that it takes part in; wire_ms: waiting for the network in each.
    """

    rates: dict[str, float]
    parameters: int
    kept: int
    answers: "list[list[Token]]"
    traffic: np.ndarray
    side_ms: Sequence[float]
    wire_ms: Sequence[float]


def measure_modes(settings: Settings, seed: int, tick: Tick) -> Iterator[ModeRow]:
    """Every variant on every device: trained alone, scored on questions in other words."""
    from fl.workloads import spa
    from models.spa.latency import LINES
    from models.spa.metrics import text_scores
    from models.spa.rivals import RIVALS

    base = spa.base(settings, tick)
    for variant in (*SHOTS, *RIVALS, *LADDERS):
        for device in range(settings.devices):
            tick(f"{variant}, device", device, settings.devices)
            if variant in LADDERS:
                seen = _ladder(settings, seed, device, variant)
            elif variant in RIVALS:
                seen = _rival(settings, seed, device, variant)
            else:
                seen = _alone(settings, seed, device, shots=SHOTS.index(variant))
            texts = [base.text([token.id for token in answer]) for answer in seen.answers]
            wanted = [question.output for question in spa.people(settings, seed).examples(device, 0, "test")]
            scores = text_scores(texts, wanted)
            tokens = sum(map(len, seen.answers))
            calls, down, up = (float(x) for x in seen.traffic.sum(0) / tokens)
            pass_ms = _quick([token.base_ms for answer in seen.answers for token in answer])
            side_ms = _quick(seen.side_ms) * len(seen.side_ms) / tokens
            wire_ms = _quick(seen.wire_ms) * len(seen.wire_ms) / tokens if variant not in RIVALS else float("nan")
            times = [LINES[line].seconds(LENGTH * calls, LENGTH * down, LENGTH * up) for line in ("lan", "wifi", "4g")]
            yield ModeRow(
                variant, device, **seen.rates, rouge_1=scores["rouge1"], rouge_2=scores["rouge2"],
                rouge_l=scores["rougeL"], exact_text=scores["exact_text"], written_M=calls, down=down, up=up,
                base_ms=pass_ms - (side_ms if variant in RIVALS else 0.0), side_ms=side_ms,
                lan_s=times[0], wifi_s=times[1], mobile_s=times[2], wire_s=LENGTH * wire_ms / 1e3,
                parameters=seen.parameters, train_kb=(seen.kept + 4 * 4 * seen.parameters) / 1e3,
            )  # fmt: skip


def _quick(times: Sequence[float]) -> float:
    return float(np.quantile(times, QUICK)) if len(times) else 0.0


def _alone(settings: Settings, seed: int, device: int, shots: int) -> Seen:
    """The base, asked after so many questions of the device and their answers."""
    from experiments.serving.cloud import Session
    from fl.workloads import spa
    from models.spa.activations import Activations
    from models.spa.metrics import compare, rates

    base, who = spa.base(settings), spa.people(settings, seed)
    before = "".join(f"{e.instruction}\n{e.output}\n" for e in who.examples(device, 0, "train")[:shots])
    asked = who.examples(device, 0, "test")
    told = [replace(question, instruction=before + question.instruction) for question in asked]
    known = Activations(base, (base.layers,), whole=False)
    judged = compare(base, known(asked), known(told))
    answers = [list(Session(base, None, None, base.encode(q)[0]).greedy(LONGEST)) for q in told]
    no_device = {"M": 0.0, **dict.fromkeys(("diff", "diff_pick", "recall", "waste"), float("nan"))}
    got = rates(judged, np.ones(len(judged.same), bool)) | no_device
    return Seen(got, 0, 0, answers, np.zeros((len(answers), 3)), [], [])


def _rival(settings: Settings, seed: int, device: int, name: str) -> Seen:
    """LoRA or adapters with as many parameters as the plugin has, trained for as many epochs."""
    from experiments.serving.cloud import Session
    from fl.workloads import spa
    from models.costs import saved_bytes
    from models.spa.activations import Activations
    from models.spa.metrics import compare, rates
    from models.spa.rivals import RIVALS, answers_loss, tune

    base, who = spa.base(settings), spa.people(settings, seed)
    budget = sum(value.numel() for value in spa.fresh(settings, seed).state().values())
    tuned = RIVALS[name](base, budget, int(rng(seed, Purpose.INIT).integers(2**31)))
    learn, test = (who.examples(device, 0, split) for split in ("train", "test"))
    generator = rng(seed, Purpose.STUDY, device)
    tune(tuned, learn, settings.adapt_epochs, settings.lr, settings.batch_size, generator)
    plain, changed = (Activations(each, (base.layers,), whole=False) for each in (base, tuned.base))
    judged = compare(base, plain(test), changed(test))
    prompts = [base.encode(question)[0] for question in test]
    answers: list[list[Token]] = []
    side_ms: list[float] = []
    for prompt in prompts:
        answers.append([])
        since = tuned.watch.ms
        for token in Session(tuned.base, None, None, prompt).greedy(LONGEST):
            answers[-1].append(token)
            side_ms.append(tuned.watch.ms - since)
            since = tuned.watch.ms
    batch = learn[: settings.batch_size]
    return Seen(
        rates(judged, np.ones(len(judged.same), bool)) | {"M": float(tuned.sites)},
        tuned.parameters,
        saved_bytes(lambda: answers_loss(tuned.base, batch), tuned.base.model.parameters()),
        answers,
        np.array([tuned.traffic(len(p), len(a)) for p, a in zip(prompts, answers, strict=True)]),
        side_ms,
        [],
    )


def _ladder(settings: Settings, seed: int, device: int, name: str) -> Seen:
    """A side beside the base: the paper's S1 to S3, LST and SPA."""
    from experiments.serving.device import DeviceHalf
    from fl.workloads import spa
    from models.costs import saved_bytes
    from models.spa.activations import Batch
    from models.spa.metrics import judge, rates
    from models.spa.modes import mode
    from models.spa.train import outputs, side_losses

    own = settings.model_copy(update=LADDERS[name])
    how = mode(own.spa_mode)
    if not how.plugged:
        own = own.model_copy(update={"lr": FROM_NOTHING * own.lr})
    base, known = spa.base(own), known_of(own, seed, device)
    plugin, (learn, _, test) = trained(own, seed, device, known), known
    judged = judge(base, plugin, own.spa_mode, test, own.spa_policy)
    asked = judged.score > plugin.gate.tau if how.gated else np.ones(len(judged.score), bool)
    half = DeviceHalf(plugin, base.checksum, own.spa_mode, own.spa_policy)
    if name == OWN_GATE:
        half.gate_site = "device"
    prompts = [base.encode(question)[0] for question in spa.people(own, seed).examples(device, 0, "test")]
    answers = _over_a_stream(base, half, prompts)
    batch = Batch.of(learn[: own.batch_size])
    weights = [*plugin.side.parameters(), *base.model.parameters()]
    found, always, tokens = rates(judged, asked), int(name == OWN_GATE), [t for answer in answers for t in answer]

    def side_loss() -> "Tensor":
        o = outputs(plugin.side, batch, own.spa_policy, batch.scored)
        return side_losses(base, spa.training(own), batch.b[batch.scored], o, batch.targets).mean()

    return Seen(
        found | {"M": found["M"] + always},
        sum(value.numel() for value in (plugin.state() if how.gated else plugin.side.state_dict()).values()),
        saved_bytes(side_loss, weights),
        answers,
        np.array([[sum(always + t.asked for t in a), sum(t.down for t in a), sum(t.up for t in a)] for a in answers]),
        [token.side_ms for token in tokens if token.asked],
        [(t.call_ms - t.side_ms) / calls for t in tokens for calls in [always + t.asked] for _ in range(calls)],
    )


def _over_a_stream(base: "Base", half: "DeviceHalf", prompts: Sequence[list[int]]) -> "list[list[Token]]":
    """Answers written with a device in a thread of its own, at the end of a stream, with the delay of `WIRE`."""
    from experiments.serving.cloud import Session, accept
    from experiments.serving.device import serve
    from models.spa.latency import LINES

    half.delay = LINES[WIRE].call_s
    with socket.create_server(("127.0.0.1", 0)) as listener:
        device = threading.Thread(target=serve, args=(half, *listener.getsockname()))
        device.start()
        link, terms = accept(base, listener, timeout=60.0)
        answers = [list(Session(base, link, terms, prompt).greedy(LONGEST)) for prompt in prompts]
        link.close()
        device.join()
    return answers


def measure_gates(settings: Settings, seed: int, tick: Tick) -> Iterator[GateRow]:
    """Quality against M, by threshold and by price, for every gate fit."""
    import torch

    from fl.workloads import spa
    from models.spa.gate import threshold
    from models.spa.metrics import curve, judge, oracle, rates
    from models.spa.session import train

    base = spa.base(settings, tick)
    for device in range(settings.devices):
        tick("device", device, settings.devices)
        known = known_of(settings, seed, device)
        (learn, calibrate, test), plugin = known, trained(settings, seed, device, known)
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
                    other = trained(own, seed, device, known)
                seen = judge(base, other, "spa", test)
                yield row(fit, price, rates(seen, seen.score > 0))


def mode_metrics(rows: pd.DataFrame) -> Measured:
    """Means over devices; times of 50 tokens, for which every variant's base takes as long: the median of all."""
    numbers = rows.drop(columns=["experiment", "setting", "seed", "device"]).groupby("variant", sort=False).mean()
    found = {
        (str(variant), str(name)): float(numbers.loc[variant, name]) for variant in numbers.index for name in numbers
    }
    base_ms = float(rows["base_ms"].median())
    for variant in numbers.index:
        line = numbers.loc[variant]
        infer = float(LENGTH * (base_ms + line["side_ms"]) / 1e3)
        found[str(variant), "infer_s"] = infer
        for name in ("lan_s", "wifi_s", "mobile_s"):
            found[str(variant), f"total_{name}"] = infer + float(line[name])
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
