"""The metrics of ``summary.csv``: name, meaning, label, unit, format and direction of each, described only here."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: in ``summary.csv`` and in the tables of the catalogue.
        meaning: definition, with the unit in ``summary.csv``.
        label: name and unit in Markdown tables and figures; empty: ``name`` in words.
        head: header of the terminal table, name and unit on two short lines; empty: ``name``.
        higher_is_better: None: neither direction is better.
        scale: factor from the unit in ``summary.csv`` to that of the label.
        digits: digits after the point; None: three significant digits.
        interval: whether tables show the confidence interval.
    """

    name: str
    meaning: str
    label: str = ""
    head: str = ""
    higher_is_better: bool | None = None
    scale: float = 1.0
    digits: int | None = None
    interval: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name.replace("_", " "))
        object.__setattr__(self, "head", self.head or self.name)

    @property
    def label_with_arrow(self) -> str:
        """Label with an arrow in the direction of better values."""
        return self.label + {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]

    def text(self, value: float) -> str:
        """Format a value of ``summary.csv``."""
        value *= self.scale
        return short(value) if self.digits is None else f"{value:.{self.digits}f}"


def short(value: float) -> str:
    """Format with three significant digits and without an exponent."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits < 6 else "<0.001" if value > 0 else ">-0.001"


UP, DOWN, NEITHER = True, False, None
PERCENT = (100, 1)
# fmt: off
_ROUNDS = (
    Metric("accuracy_mean", "accuracy of a device on its current distribution, mean over devices and steps, 0 to 1",
           "accuracy, %", "accuracy\n%", UP, *PERCENT, interval=True),
    Metric("accuracy_std", "standard deviation of accuracy over devices, mean over steps",
           "std over devices, %", "std\n%", DOWN, *PERCENT),
    Metric("accuracy_p10", "10th percentile of accuracy over devices, mean over steps",
           "10th percentile device, %", "p10\n%", UP, *PERCENT),
    Metric("encounter_accuracy", "accuracy of the devices with a class, domain or concept that is new to them (at step "
           "0: to the cloud), mean over devices and over the steps with such devices",
           "accuracy at a first encounter, %", "new\n%", UP, *PERCENT, interval=True),
    Metric("accuracy_after_shift", "accuracy_mean from a shift to the next one, mean over the scored rounds and over "
           "shifts: the area under the curve, divided by its length",
           "accuracy after a shift, %", "shifted\n%", UP, *PERCENT, interval=True),
    Metric("balanced_accuracy_mean", "mean recall of the classes of a device, mean over devices and steps, 0 to 1",
           higher_is_better=UP),
    Metric("loss", "cross-entropy of a device on its current distribution, mean over devices and steps, nats",
           higher_is_better=DOWN),
    Metric("global_accuracy", "accuracy on the global test set, mean over steps, 0 to 1",
           "global accuracy, %", "global\n%", UP, *PERCENT),
    Metric("final_accuracy_mean", "accuracy_mean at the end of the last step",
           "final accuracy, %", "final\n%", UP, *PERCENT),
    Metric("final_accuracy_std", "accuracy_std at the end of the last step", higher_is_better=DOWN),
    Metric("final_accuracy_p10", "accuracy_p10 at the end of the last step", higher_is_better=UP),
    Metric("final_balanced_accuracy_mean", "balanced_accuracy_mean at the end of the last step", higher_is_better=UP),
    Metric("final_global_accuracy", "global_accuracy at the end of the last step",
           "global accuracy at the end, %", "global\nend, %", UP, *PERCENT, interval=True),
    Metric("up_mb_per_round", "upload of all devices of a round together, MB (1e6 bytes), mean over rounds",
           "up, MB per round", "up\nMB", DOWN),
    Metric("down_mb_per_round", "download of all devices of a round together, MB, mean over rounds",
           "down, MB per round", "down\nMB", DOWN),
    Metric("up_mb_total", "upload of all devices in the whole run, MB", higher_is_better=DOWN),
    Metric("down_mb_total", "download of all devices in the whole run, MB", higher_is_better=DOWN),
    Metric("mb_per_device_round", "upload and download of one device in one round, MB",
           "traffic, MB per device and round", "traffic\nMB", DOWN),
    Metric("deliver_mb", "download of the scored model to one device, MB, mean over devices and steps",
           higher_is_better=DOWN),
    Metric("asked", "devices to which the server sent a model at the end of a step, mean over steps"),
    Metric("adapt_s", "virtual seconds that a device spends in a step to get its scored model, mean over devices and "
           "steps", "adaptation time, virtual s", "adapt\ns", DOWN),
    Metric("forgetting", "accuracy that a device lost on its data of the previous step, mean over devices and steps",
           "forgetting, %", "forgot\n%", DOWN, *PERCENT),
    Metric("divergence", "divergence of the updates of a round (0 alike, 1 unrelated, 2 opposed), mean over rounds",
           "gradient divergence", "diverg.\n", DOWN, interval=True),
    Metric("module_divergence", "divergence in the blocks that can be divided into modules",
           "gradient divergence of the blocks", "modules\n", DOWN, interval=True),
    Metric("variance", "variance of the update of a parameter over devices, mean over parameters and rounds",
           "update variance, 1e-6", "varian.\n1e-6", DOWN, 1e6, interval=True),
    Metric("module_variance", "variance in the blocks that can be divided into modules",
           "update variance of the blocks, 1e-6", "modules\n1e-6", DOWN, 1e6, interval=True),
    Metric("load_cv", "coefficient of variation over modules of the devices that train a module, mean over rounds",
           "module load, CV", "load\nCV", DOWN),
    Metric("virtual_min", "virtual minutes of the whole run", "virtual time, min", "time\nmin", DOWN),
    Metric("gmac_per_device_round", "multiply-accumulates of the local training of one device in one round, 1e9",
           "training, GMAC per device and round", "compute\nGMAC", DOWN),
    Metric("memory_mb", "largest training memory of any device in the run, MB",
           "training memory, MB", "memory\nMB", DOWN),
    Metric("shift_drop", "accuracy lost at a shift (a step at which data drift), mean over shifts",
           "drop at a shift, %", "drop\n%", DOWN, *PERCENT),
    Metric("recovery_rounds", "rounds until the accuracy before a shift is reached again, mean over shifts; if it is "
           "not reached, the rounds until the next shift, a lower bound",
           "recovery, rounds", "recov.\nrounds", DOWN),
    Metric("recovery_s", "recovery_rounds in virtual seconds", "recovery, virtual s", "recov.\ns", DOWN),
    Metric("recovered", "share of the shifts after which the accuracy is reached again before the next shift",
           "recovered shifts, share", "recov.\nshare", UP),
    Metric("rounds_to_target", "rounds until the target of `rounds_to_target.target_accuracies`; in a sweep, since the "
           "last shift", "rounds to target", "target\nrounds", DOWN),
    Metric("min_to_target", "virtual minutes until the target", "virtual min to target", "target\nmin", DOWN),
    Metric("mb_to_target", "upload and download of all devices until the target, MB",
           "MB to target, all devices", "target\nMB", DOWN),
    Metric("failures", "missing or unusable answers of devices in the whole run", higher_is_better=DOWN),
    Metric("refused", "refused updates in the whole run", higher_is_better=DOWN),
    Metric("withheld", "updates in the whole run that were not uploaded because they changed too little"),
    Metric("late", "late updates in the whole run", higher_is_better=DOWN),
)
_CUT = (  # split models, from measures.csv; `train_up` and `train_down` are described with the studies
    Metric("infer_up", "payload sent up across the cut per text in use, bytes", "in use, up, B", "use\nup, B", DOWN),
    Metric("infer_down", "payload sent down across the cut per text in use, bytes",
           "in use, down, B", "use\ndown, B", DOWN),
    Metric("tokens_up", "bytes that the packed token ids of a text would take instead, bytes",
           "token ids, B", "token\nids, B"),
)
_MARGINS = (
    Metric("above_device", "accuracy_mean minus the mean of LA's and AdaptiveNet's with the same seed",
           "above LA and AN", "above\nLA, AN", UP, *PERCENT, interval=True),
    Metric("above_device_ft", "above_device with AdaptiveNet + fine-tuning in the place of AdaptiveNet",
           "above LA and AN + fine-tuning", "above\nLA, AN+ft", UP, *PERCENT, interval=True),
    Metric("above_federated", "accuracy_mean minus the mean of FedAvg's and HeteroFL's with the same seed",
           "above FedAvg and HeteroFL", "above\nFA, HFL", UP, *PERCENT, interval=True),
)
_STUDIES = (
    # submodels, boundary and tasks
    Metric("accuracy", "accuracy on test samples (grades rounded, spans matched exactly), 0 to 1",
           "accuracy, %", "accuracy\n%", UP, *PERCENT, interval=True),
    Metric("score", "accuracy, or the metric that is usual for the task (a correlation, F1 of words), up to 1",
           "score, %", "score\n%", UP, *PERCENT, interval=True),
    Metric("gap", "submodels, specialisation: accuracy of derived minus that of random ones of their size; boundary: "
           "score with float32 minus the score", "gap, points", "gap\npoints", NEITHER, *PERCENT, interval=True),
    Metric("ability_gain", "increase of accuracy by ability enhancing, at a fifth of the modules",
           "ability gain at a fifth of the modules, points", "gain 1/5\npoints", UP, *PERCENT, interval=True),
    Metric("ability_gain_all", "increase of accuracy by ability enhancing, mean over sizes",
           "ability gain, points", "gain\npoints", UP, *PERCENT, interval=True),
    Metric("up", "payload sent up per text (SPA: per token), bytes", "up, B", "up\nB", DOWN),
    Metric("down", "payload sent down per text (SPA: per token), bytes", "down, B", "down\nB", DOWN),
    Metric("train_up", "payload sent up per training text and epoch, bytes", "training, up, B", "train\nup, B", DOWN),
    Metric("train_down", "payload sent down per training text and epoch, bytes",
           "training, down, B", "train\ndown, B", DOWN),
    Metric("probed", "share of the tokens that a linear probe recovers from the payload, 0 to 1",
           "tokens recovered by a probe, %", "probed\n%", DOWN, 100, 0),
    Metric("perplexity", "number of vectors of a codebook that the test texts use, 1 to K; 0 without codes",
           head="perpl.\n"),
    Metric("entropy", "bytes per text if codes were sent at their entropy", "entropy, B", "entropy\nB", DOWN),
    Metric("device", "parameters trained on the device", "device, parameters trained", "device\n", DOWN),
    Metric("cloud", "parameters trained in the cloud", "cloud, parameters trained", "cloud\n", DOWN),
    Metric("change", "score minus the score of the task trained alone",
           "change, points", "change\npoints", UP, *PERCENT, interval=True),
    Metric("weight", "final weight of the task's loss", "final weight", "weight\nat end", NEITHER, 1, 2),
    Metric("mean_weight", "weight of the task's loss, mean over GradNorm's rounds",
           "mean weight", "weight\nmean", NEITHER, 1, 2),
    # latency and routing
    Metric("train_ms", "measured time of a training step, ms", "training step, ms", "train\nms", DOWN),
    Metric("train_ratio", "estimate / measurement of train_ms",
           "training step, estimate / measured", "train\nratio", NEITHER, 1, 2),
    Metric("inference_ms", "measured time of one forward pass of one sample, ms", "inference, ms", "infer\nms", DOWN),
    Metric("inference_ratio", "estimate / measurement of inference_ms",
           "inference, estimate / measured", "infer\nratio", NEITHER, 1, 2),
    Metric("peak_mb", "measured peak memory of training, MB", "peak memory, MB", "peak\nMB", DOWN),
    Metric("memory_ratio", "estimate / measurement of peak_mb",
           "memory, estimate / measured", "peak\nratio", NEITHER, 1, 2),
    Metric("overlap", "share of their routing that two classes have in common, mean over layers, 0 to 1",
           "overlap", "overlap\n", NEITHER, 1, 2, interval=True),
    # specialisation
    Metric("effective_modules", "modules of a layer among which a test sample is divided: exponential of the entropy",
           "modules per sample", "modules\nused", NEITHER, 1, 1),
    Metric("held", "modules of a layer in the sub-model derived for a client within its limits",
           "modules held", "modules\nheld", NEITHER, 1, 1),
    Metric("mass", "share of a client's importance on the modules that it holds, 0 to 1",
           "importance held, %", "mass\n%", UP, *PERCENT, interval=True),
    Metric("derived", "accuracy of derived sub-models as delivered, 0 to 1",
           "accuracy as delivered, %", "delivered\n%", UP, *PERCENT, interval=True),
    Metric("delivered_gain", "increase of derived by ability enhancing",
           "ability gain as delivered, points", "gain\npoints", UP, *PERCENT, interval=True),
    Metric("whole", "accuracy of the whole cloud model on the test set, 0 to 1",
           "cloud model, %", "cloud\n%", UP, *PERCENT, interval=True),
    Metric("above_dense", "whole minus that of the dense model, trained for as many epochs",
           "above dense, points", "above\ndense", UP, *PERCENT, interval=True),
    # detection
    Metric("noticed", "share of the drifts that a detector notices before the client's next one, 0 to 1",
           "drifts noticed, %", "noticed\n%", UP, *PERCENT, interval=True),
    Metric("delay_steps", "steps from a drift to its alarm, mean over the noticed drifts; 0: at once",
           "delay, steps", "delay\nsteps", DOWN, 1, 2),
    Metric("false_alarms", "alarms without a drift, or after the drift was noticed, per 100 steps of a client",
           "false alarms per 100 steps", "false\nper 100", DOWN, 1, 1),
    # SPA
    Metric("M", "exchanges per token: share of the tokens that the server asks the device about",
           higher_is_better=DOWN),
    Metric("token_accuracy", "share of the answer tokens that are predicted right, 0 to 1",
           "token accuracy", "tokens\nright", UP),
    Metric("exact_text", "share of the answers that are generated exactly, 0 to 1", "exact texts", "texts\nexact", UP),
    Metric("rouge_1", "ROUGE-1 of generated answers, 0 to 1", "ROUGE-1", "ROUGE\n1", UP),
    Metric("rouge_2", "ROUGE-2 of generated answers, 0 to 1", "ROUGE-2", "ROUGE\n2", UP),
    Metric("rouge_l", "ROUGE-L of generated answers, 0 to 1", "ROUGE-L", "ROUGE\nL", UP),
    Metric("diff", "share of the tokens that base and side network predict differently, 0 to 1"),
    Metric("diff_pick", "share of the tokens that both predict differently and that the server asks about, 0 to 1",
           "diff pick", "diff\npick"),
    Metric("recall", "diff_pick / diff, 0 to 1", higher_is_better=UP),
    Metric("waste", "share asked about of the tokens that both predict alike, 0 to 1", higher_is_better=DOWN),
    Metric("lost", "token accuracy with all tokens asked about, minus that with the gate", higher_is_better=DOWN),
    Metric("parameters", "parameters that the device trains", "parameters trained", "parts\n", DOWN),
    Metric("train_kb", "memory of a training step without the frozen base, kB",
           "training memory, kB", "train\nkB", DOWN),
    Metric("call_bytes", "payload of one token that the server asks about, both directions, bytes",
           "bytes per token asked about", higher_is_better=DOWN),
    Metric("infer_s", "measured time of base and device for 50 tokens, s", "base and device, s", "infer\ns", DOWN),
    Metric("lan_s", "modelled network time of 50 tokens on a LAN, s", "network, LAN, s", "LAN\ns", DOWN),
    Metric("wifi_s", "modelled network time of 50 tokens on Wi-Fi, s", "network, Wi-Fi, s", "Wi-Fi\ns", DOWN),
    Metric("wire_s", "measured network time of 50 tokens with a delay of 20 ms, s",
           "network, measured with 20 ms, s", "20 ms\ns", DOWN),
    Metric("total_lan_s", "infer_s + lan_s", "total, LAN, s", "total\nLAN, s", DOWN),
    Metric("total_mobile_s", "infer_s + modelled network time of 50 tokens on 4G, s",
           "total, 4G, s", "total\n4G, s", DOWN),
)
# fmt: on
ROUND_METRICS: tuple[str, ...] = tuple(metric.name for metric in _ROUNDS)
CUT_METRICS: tuple[str, ...] = (*(metric.name for metric in _CUT), "train_up", "train_down")
METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_ROUNDS, *_CUT, *_MARGINS, *_STUDIES)}


def metric_of(name: str) -> Metric:
    """Return the metric; one that is not described here is shown under its own name."""
    return METRICS.get(name) or Metric(name, "")
