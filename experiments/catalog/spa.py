"""SPA: the paper's Tables 1 to 3, and the curve that it does not draw."""

from experiments.catalog.experiment import Experiment, Overrides, View

AT: dict[str, dict[str, Overrides]] = {
    "smoke": {"tiny": {"tiny-steps": 20, "devices": 1, "spa-facts": 1, "adapt-epochs": 2}},
    "cpu": {"tiny": {"tiny-steps": 400, "devices": 3, "adapt-epochs": 15}},
    "paper": {"smollm2": {"base": "smollm2", "spa-every": 5, "devices": 8, "adapt-epochs": 15}},
}
WEAK: Overrides = {"tiny-steps": 100, "spa-facts": 12}  # a base that knows little of people who tell more
BOTH = {**AT, "cpu": {**AT["cpu"], "tiny, weak base": {**AT["cpu"]["tiny"], **WEAK}}}
COMMON: Overrides = {"workload": "spa", "cohort": 1, "lr": 3e-3, "batch-size": 8, "strategies": "la"}

PAPER: dict[str, dict[str, float]] = {  # LLaMA-7B on XSum; seconds for 50 tokens
    "one-shot": {"rouge_l": 0.1732},
    "LoRA": {"M": 32, "rouge_l": 0.3824, "infer_s": 3.26, "lan_s": 6.37, "total_lan_s": 9.63},
    "adapter": {"M": 64, "rouge_l": 0.3818, "infer_s": 3.32, "lan_s": 12.56, "total_lan_s": 15.88},
    "S1": {"M": 1, "rouge_l": 0.3624},
    "S2": {"M": 0.68, "rouge_l": 0.3029},
    "LST": {"M": 1, "rouge_l": 0.2818, "infer_s": 3.29, "lan_s": 0.31, "total_lan_s": 3.60},
    "SPA": {
        "M": 0.62, "rouge_l": 0.3552, "infer_s": 3.30, "lan_s": 0.18, "total_lan_s": 3.48, "diff": 0.782,
        "diff_pick": 0.568,
    },
}  # fmt: skip


def _shared(sizes: Overrides) -> dict[str, Overrides]:
    """What of the plugin is averaged; those who average nothing need to run once."""
    return {
        "all shared": {**sizes, "strategies": "na,la,fedavg"},
        "own gate": {**sizes, "strategies": "fedavg", "spa-personal": "gate"},
        "own gate and output": {**sizes, "strategies": "fedavg", "spa-personal": "gate+out"},
    }


SPA_MODES = Experiment(
    name="spa-modes",
    reference="SPA, Tables 1, 3",
    summary="ways to combine base, side and gate, and their rivals: how often devices are asked, quality, bytes, time",
    settings=BOTH,
    cost={"smoke": "30 s", "cpu": "8 min", "paper": "hours"},
    common={**COMMON, "lr": 1e-2},
    study="spa-modes",
    plot="spa-modes",
    table=("M", "token_accuracy", "exact_text", "rouge_1", "rouge_2", "rouge_l"),
    paper={("tiny", method): values for method, values in PAPER.items()},
    note="M: exchanges per token. The paper's base is LLaMA-7B, its data XSum.",
)
SPA_COSTS = View(
    name="spa-costs",
    reference="SPA, Table 2",
    summary="what each way costs: parameters, bytes, training memory, seconds for 50 tokens",
    of="spa-modes",
    plot="spa-costs",
    table=(
        "parameters", "train_kb", "down", "up", "infer_s", "lan_s", "total_lan_s", "wifi_s", "wire_s", "total_mobile_s",
    ),
    note="Seconds are for 50 tokens. infer_s: base and device as measured here; lan_s: modelled on the line fitted to "
    "the paper's Table 2; wifi_s: at 20 ms and 50 Mb/s; wire_s: measured over a stream on one machine, whose device "
    "waits 20 ms before it answers; total_mobile_s: at 50 ms and 10 Mb/s. down, up: payload bytes per token. train_kb: "
    "of a training step, beside the frozen base. The paper's base is LLaMA-7B.",
)  # fmt: skip
SPA_EFFECT = View(
    name="spa-effect",
    reference="SPA, Table 3",
    summary="where the device is asked: at tokens that base and side see differently, or at others",
    of="spa-modes",
    plot="spa-effect",
    table=("M", "diff", "diff_pick", "recall", "waste"),
    note="diff: base and side guess differently; diff pick: they do and the side is asked, both of all tokens; "
    "recall = diff pick / diff; waste: asked though the same, of the same ones.",
)
SPA_SIZE = Experiment(
    name="spa-size",
    reference="SPA, Tables 5 to 7, Fig. 4",
    summary="SPA by the side's width, the states that it reads and how much data it has; S1 and S3 by epochs",
    settings=BOTH,
    cost={"smoke": "30 s", "cpu": "6 min", "paper": "hours"},
    common={**COMMON, "lr": 1e-2},
    study="spa-size",
    plot="spa-size",
    table=("M", "token_accuracy", "lost", "recall", "waste", "parameters", "call_bytes"),
    note="width: d / r; states: that the side reads; data: training examples; S1, S3: epochs. call bytes: of a token "
    "asked about, both ways. Paper: ROUGE-L on XSum 31.5, 33.8, 35.5 and M 82.3, 71.5, 61.8 % with 4, 44 and 100 % of "
    "the data; S1 is better after a few epochs than S3 after 20.",
)
SPA_FEDERATED = Experiment(
    name="spa-federated",
    reference="",
    summary="plugins of non-IID, drifting people: alone, averaged, averaged but for the gate, and then trained on",
    settings={
        "smoke": _shared({"tiny-steps": 20, "devices": 3, "spa-facts": 1, "rounds": 2, "rounds-per-step": 1}),
        "cpu": _shared({**WEAK, "devices": 12, "cohort": 6, "rounds": 8, "rounds-per-step": 4, "eval-every": 4}),
        "paper": _shared(
            {"base": "smollm2", "spa-every": 5, "devices": 40, "cohort": 10, "rounds": 40, "rounds-per-step": 10}
        ),
    },
    cost={"smoke": "1 min", "cpu": "8 min", "paper": "days"},
    common={**COMMON, "local-epochs": 2, "adapt-epochs": 2},
    table=("accuracy_mean", "accuracy_p10", "loss", "up_mb_per_round", "mb_per_device_round"),
    note="Accuracy: of answer tokens, with the gate. +ft, la: after local epochs on the device.",
)
SPA_GATE = Experiment(
    name="spa-gate",
    reference="",
    summary="token accuracy against the share of tokens that the device is asked about, by threshold and by price",
    settings=AT,
    cost={"smoke": "20 s", "cpu": "5 min", "paper": "hours"},
    common=COMMON,
    study="spa-gate",
    plot="spa-gate",
    table=("M", "token_accuracy", "lost", "recall", "waste"),
    note="lost: token accuracy of the side always asked, less that of the gate. The paper has one point, M 0.62.",
)
