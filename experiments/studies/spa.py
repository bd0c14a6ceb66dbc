"""SPA on people whom the base was not trained on: variants, baselines and their costs; gates by share of tokens asked.

The language model's libraries are imported when a study runs.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from experiments.studies.results import changed
from experiments.studies.study import Measured, Study, Tick
from fl.workloads.resolve import Run
from partitions import Purpose, rng

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.serving.cloud import Token
    from experiments.serving.device import DeviceHalf
    from fl.workloads.spa import SPA
    from models.spa.activations import ExampleStates
    from models.spa.bases import Base
    from models.spa.train import Plugin

SHOTS = ("zero-shot", "one-shot")
OWN_GATE = "SPA, own gate"  # the gate stays on the device: the cloud sends every token, and again if the gate opens
VARIANTS: dict[str, dict[str, str]] = {
    "S1": {"spa.mode": "s1"},
    "S2": {"spa.mode": "s2"},
    "S3": {"spa.mode": "s3"},
    "LST": {"spa.mode": "s3", "spa.side": "attentive"},
    "SPA": {"spa.mode": "spa"},
    OWN_GATE: {"spa.mode": "spa"},
    "SPA attentive": {"spa.mode": "spa", "spa.side": "attentive"},
    "SPA sparse": {"spa.mode": "spa", "spa.side": "attentive", "spa.policy": "sparse"},
}
"""Run-config keys of the variants with a side network."""
REPLACING_LR = 3.0  # factor of the learning rate for a side that replaces the base, so cannot start from its output
FITS = ("two-stage", "mixture", "expectation", "straight-through")
PRICES = (0.05, 0.3, 1.0, 2.5)
SHARE = 0.6  # largest share of calibration tokens that the capped gate asks about
LONGEST = 48  # tokens of a generated answer
WIRE = "wifi"  # network whose delay a device adds before it answers, when answers are generated
QUICK = 0.1  # quantile over tokens of a measured time: the time without load by other programs
LENGTH = 50  # tokens of the paper's latency table


@dataclass(frozen=True)
class ModeRow:
    """One device with one variant; rates as in `models.spa.metrics`, under teacher forcing.

    Args:
        M: exchanges per token: share of tokens that the side is asked about, plus 1 if the gate stays on the device; of
            LoRA and adapters, their sites in the base.
        rouge_1, rouge_2, rouge_l, exact_text: of answers to all test questions, generated with float16 states.
        written_M: M of these answers; down, up: their payload bytes per token, the prompt's included.
        base_ms, side_ms: measured per generated token, in the base and in the device's part (the `QUICK` quantile of
            the tokens in which it takes part, times their share).
        lan_s, wifi_s, mobile_s: modelled network time of 50 tokens; wire_s: measured over a stream on this machine,
            with the delay of Wi-Fi, 20 ms, before each answer of the device; NaN for LoRA and adapters.
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
        by: 'threshold' (one two-stage gate with different tau), 'capped' (tau set on calibration tokens so that it asks
            about 60 % of them), 'oracle' (knows both losses), or a gate fit, with different prices.
        at: the threshold or the price; lost: token accuracy of the side always asked, minus that of the gate.
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


def variant(run: Run, changes: Mapping[str, object]) -> "SPA":
    """Return the workload with other values for some keys."""
    return cast("SPA", changed(run, changes).workload)


def known_of(workload: "SPA", seed: int, device: int) -> "list[list[ExampleStates]]":
    """Return the base's states of a device's examples: to train, to calibrate, to test."""
    people = workload.people(seed)
    return [workload.activations(people.examples(device, 0, split)) for split in ("train", "calibrate", "test")]


def trained(workload: "SPA", seed: int, device: int, known: "list[list[ExampleStates]]") -> "Plugin":
    """Train a device's plugin on its own examples for ``client.adapt-epochs``."""
    from models.spa.session import train

    generator, (learn, calibrate, _) = rng(seed, Purpose.STUDY, device), known
    epochs, fresh = workload.settings.client.adapt_epochs, workload.fresh(seed)
    return train(workload.base(), fresh, workload.training, learn, calibrate, epochs, generator)[0]


@dataclass(frozen=True)
class Measurements:
    """What was measured of a variant on one device; `measure_modes` computes a `ModeRow` from it.

    Args:
        rates: under teacher forcing; parameters, kept: that the device trains, bytes that autograd keeps of a batch.
        answers: generated; traffic: (answers, 3), exchanges, bytes down and up.
        side_ms: in the device's part, of each pass in which it takes part; wire_ms: network time of each exchange.
    """

    rates: dict[str, float]
    parameters: int
    kept: int
    answers: "list[list[Token]]"
    traffic: np.ndarray
    side_ms: Sequence[float]
    wire_ms: Sequence[float]


def measure_modes(run: Run, seed: int, tick: Tick) -> Iterator[ModeRow]:
    """Measure every variant on every device: trained alone, scored on rephrased questions."""
    from models.spa.latency import LINKS
    from models.spa.metrics import text_scores
    from models.spa.rivals import BASELINES

    workload, devices = cast("SPA", run.workload), run.settings.devices.count
    base, people = workload.base(tick), workload.people(seed)
    for name in (*SHOTS, *BASELINES, *VARIANTS):
        for device in range(devices):
            tick(f"{name}, device", device, devices)
            if name in VARIANTS:
                found = _side(run, seed, device, name)
            elif name in BASELINES:
                found = _baseline(workload, seed, device, name)
            else:
                found = _alone(workload, seed, device, shots=SHOTS.index(name))
            texts = [base.text([token.id for token in answer]) for answer in found.answers]
            scores = text_scores(texts, [question.output for question in people.examples(device, 0, "test")])
            tokens = sum(map(len, found.answers))
            calls, down, up = (float(x) for x in found.traffic.sum(0) / tokens)
            pass_ms = _quick([token.base_ms for answer in found.answers for token in answer])
            side_ms = _quick(found.side_ms) * len(found.side_ms) / tokens
            wire_ms = _quick(found.wire_ms) * len(found.wire_ms) / tokens if name not in BASELINES else float("nan")
            times = [LINKS[line].seconds(LENGTH * calls, LENGTH * down, LENGTH * up) for line in ("lan", "wifi", "4g")]
            yield ModeRow(
                name, device, **found.rates, rouge_1=scores["rouge1"], rouge_2=scores["rouge2"],
                rouge_l=scores["rougeL"], exact_text=scores["exact_text"], written_M=calls, down=down, up=up,
                base_ms=pass_ms - (side_ms if name in BASELINES else 0.0), side_ms=side_ms,
                lan_s=times[0], wifi_s=times[1], mobile_s=times[2], wire_s=LENGTH * wire_ms / 1e3,
                parameters=found.parameters, train_kb=(found.kept + 4 * 4 * found.parameters) / 1e3,
            )  # fmt: skip


def _quick(times: Sequence[float]) -> float:
    return float(np.quantile(times, QUICK)) if len(times) else 0.0


def _alone(workload: "SPA", seed: int, device: int, shots: int) -> Measurements:
    """Measure the base alone. ``shots`` of the device's questions and their answers precede each question."""
    from experiments.serving.cloud import Session
    from models.spa.activations import Activations
    from models.spa.metrics import compare, rates

    base, people = workload.base(), workload.people(seed)
    before = "".join(f"{e.instruction}\n{e.output}\n" for e in people.examples(device, 0, "train")[:shots])
    plain = people.examples(device, 0, "test")
    prompted = [replace(question, instruction=before + question.instruction) for question in plain]
    known = Activations(base, (base.layers,), whole=False)
    scored = compare(base, known(plain), known(prompted))
    answers = [list(Session(base, None, None, base.encode(q)[0]).greedy(LONGEST)) for q in prompted]
    no_device = {"M": 0.0, **dict.fromkeys(("diff", "diff_pick", "recall", "waste"), float("nan"))}
    got = rates(scored, np.ones(len(scored.same), bool)) | no_device
    return Measurements(got, 0, 0, answers, np.zeros((len(answers), 3)), [], [])


def _baseline(workload: "SPA", seed: int, device: int, name: str) -> Measurements:
    """Measure LoRA or adapters with as many parameters as the plugin has, trained for as many epochs."""
    from experiments.serving.cloud import Session
    from models.costs import saved_bytes
    from models.spa.activations import Activations
    from models.spa.metrics import compare, rates
    from models.spa.rivals import BASELINES, answers_loss, tune

    base, people, client = workload.base(), workload.people(seed), workload.settings.client
    budget = sum(value.numel() for value in workload.fresh(seed).state().values())
    tuned = BASELINES[name](base, budget, int(rng(seed, Purpose.INIT).integers(2**31)))
    learn, test = (people.examples(device, 0, split) for split in ("train", "test"))
    tune(tuned, learn, client.adapt_epochs, client.lr, client.batch_size, rng(seed, Purpose.STUDY, device))
    plain, tuned_states = (Activations(each, (base.layers,), whole=False) for each in (base, tuned.base))
    scored = compare(base, plain(test), tuned_states(test))
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
    batch = learn[: client.batch_size]
    return Measurements(
        rates(scored, np.ones(len(scored.same), bool)) | {"M": float(tuned.sites)},
        tuned.parameters,
        saved_bytes(lambda: answers_loss(tuned.base, batch), tuned.base.model.parameters()),
        answers,
        np.array([tuned.traffic(len(p), len(a)) for p, a in zip(prompts, answers, strict=True)]),
        side_ms,
        [],
    )


def _side(run: Run, seed: int, device: int, name: str) -> Measurements:
    """Measure a side network beside the base: the paper's S1 to S3, LST and SPA."""
    from experiments.serving.device import DeviceHalf
    from models.costs import saved_bytes
    from models.spa.activations import Batch
    from models.spa.metrics import evaluate_tokens, rates
    from models.spa.modes import mode
    from models.spa.train import outputs, side_losses

    how, lr = mode(VARIANTS[name]["spa.mode"]), run.settings.client.lr
    workload = variant(run, VARIANTS[name] if how.plugged else VARIANTS[name] | {"client.lr": REPLACING_LR * lr})
    options, base, known = workload.options, workload.base(), known_of(workload, seed, device)
    plugin, (learn, _, test) = trained(workload, seed, device, known), known
    scored = evaluate_tokens(base, plugin, options.mode, test, options.policy)
    asked = scored.score > plugin.gate.tau if how.gated else np.ones(len(scored.score), bool)
    half = DeviceHalf(plugin, base.checksum, options.mode, options.policy)
    if name == OWN_GATE:
        half.gate_site = "device"
    prompts = [base.encode(question)[0] for question in workload.people(seed).examples(device, 0, "test")]
    answers = _over_a_stream(base, half, prompts)
    batch = Batch.of(learn[: workload.settings.client.batch_size])
    weights = [*plugin.side.parameters(), *base.model.parameters()]
    found, always, tokens = rates(scored, asked), int(name == OWN_GATE), [t for answer in answers for t in answer]

    def side_loss() -> "Tensor":
        o = outputs(plugin.side, batch, options.policy, batch.scored)
        return side_losses(base, workload.training, batch.b[batch.scored], o, batch.targets).mean()

    return Measurements(
        found | {"M": found["M"] + always},
        sum(value.numel() for value in (plugin.state() if how.gated else plugin.side.state_dict()).values()),
        saved_bytes(side_loss, weights),
        answers,
        np.array([[sum(always + t.asked for t in a), sum(t.down for t in a), sum(t.up for t in a)] for a in answers]),
        [token.side_ms for token in tokens if token.asked],
        [(t.call_ms - t.side_ms) / calls for t in tokens for calls in [always + t.asked] for _ in range(calls)],
    )


def _over_a_stream(base: "Base", half: "DeviceHalf", prompts: Sequence[list[int]]) -> "list[list[Token]]":
    """Generate answers with a device in another thread, at the end of a stream with the delay of `WIRE`."""
    from experiments.serving.cloud import Session, Terms
    from experiments.serving.device import serve
    from experiments.serving.link import Remote, pair
    from models.spa.latency import LINKS

    half.delay = LINKS[WIRE].call_s
    near, far = pair()
    device = threading.Thread(target=serve, args=(half, far))
    device.start()
    link, terms = Remote(near, timeout=60.0), Terms.of(half.hello(), base)
    answers = [list(Session(base, link, terms, prompt).greedy(LONGEST)) for prompt in prompts]
    near.close()
    device.join()
    far.close()
    return answers


def measure_gates(run: Run, seed: int, tick: Tick) -> Iterator[GateRow]:
    """Measure quality against M, by threshold and by price, for every gate fit."""
    import torch

    from models.spa.gate import threshold
    from models.spa.metrics import curve, evaluate_tokens, oracle, rates
    from models.spa.session import train

    workload, devices = cast("SPA", run.workload), run.settings.devices.count
    base = workload.base(tick)
    for device in range(devices):
        tick("device", device, devices)
        known = known_of(workload, seed, device)
        (learn, calibrate, test), plugin = known, trained(workload, seed, device, known)
        scores = evaluate_tokens(base, plugin, "spa", test)
        always = float(scores.side_right.mean())

        def row(by: str, at: float, got: dict[str, float], always: float = always, device: int = device) -> GateRow:
            lost = always - got["token_accuracy"]
            return GateRow(
                by, at, device, got["M"], got["token_accuracy"], got["ce"], lost, got["recall"], got["waste"]
            )

        for point in curve(scores):
            yield row("threshold", point["tau"], point)
        tau = threshold(torch.from_numpy(evaluate_tokens(base, plugin, "spa", calibrate).score), SHARE)
        yield row("capped", tau, rates(scores, scores.score > tau))
        for price in PRICES:
            yield row("oracle", price, oracle(scores, price))
            for fit in FITS:
                own = variant(run, {"spa.gate": fit, "spa.price": price})
                if fit == "two-stage":  # its side does not depend on the price: only the gate is fitted again
                    unused = rng(seed, Purpose.STUDY, device)
                    other, _ = train(base, plugin, own.training, learn, calibrate, 0, unused)
                else:
                    other = trained(own, seed, device, known)
                own_scores = evaluate_tokens(base, other, "spa", test)
                yield row(fit, price, rates(own_scores, own_scores.score > 0))


def mode_metrics(rows: pd.DataFrame) -> Measured:
    """Compute means over devices, and times of 50 tokens, with the median base time of all variants for each."""
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
    """Compute means over devices: of the capped gate, and of each fit and the oracle at each price."""
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
