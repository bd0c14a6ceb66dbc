"""Experiments of the SPA workload: the paper's Tables 1 to 3, 5 to 7 and Fig. 4, its gate, and federated plugins."""

from experiments.catalog.experiment import Experiment, Overrides, View

COMMON: Overrides = {"workload": "spa", "cohort": 1, "client.lr": 3e-3, "client.batch-size": 8, "strategies": "la"}
SETTINGS: dict[str, dict[str, Overrides]] = {
    "smoke": {"tiny": {"spa.tiny-steps": 20, "devices.count": 1, "spa.facts": 1, "client.adapt-epochs": 2}},
    "cpu": {"tiny": {"spa.tiny-steps": 400, "devices.count": 3, "client.adapt-epochs": 15}},
    "paper": {"smollm2": {"spa.base": "smollm2", "spa.every": 5, "devices.count": 8, "client.adapt-epochs": 15}},
}
WEAK: Overrides = {"spa.tiny-steps": 100, "spa.facts": 12}  # base model trained for fewer steps, more private facts
TWO_BASES = {**SETTINGS, "cpu": {**SETTINGS["cpu"], "tiny, weak base": {**SETTINGS["cpu"]["tiny"], **WEAK}}}

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
    """Return settings by the part of the plugin that is averaged; na and la average nothing, so they run once."""
    return {
        "all shared": {**sizes, "strategies": "na,la,fedavg"},
        "own gate": {**sizes, "strategies": "fedavg", "spa.personal": "gate"},
        "own gate and output": {**sizes, "strategies": "fedavg", "spa.personal": "gate+out"},
    }


SPA_MODES = Experiment(
    name="spa-modes",
    reference="SPA, Tables 1, 3",
    summary="combinations of base, side network and gate, and their rivals: exchanges, quality, bytes, time",
    settings=TWO_BASES,
    cost={"smoke": "30 s", "cpu": "8 min", "paper": "hours"},
    common={**COMMON, "client.lr": 1e-2},
    study="spa-modes",
    plot="spa-modes",
    table=("M", "token_accuracy", "exact_text", "rouge_1", "rouge_2", "rouge_l"),
    paper={("tiny", method): values for method, values in PAPER.items()},
    note="M: exchanges per token. The paper uses LLaMA-7B on XSum.",
)
SPA_COSTS = View(
    name="spa-costs",
    reference="SPA, Table 2",
    summary="cost of each variant: parameters, bytes, training memory, seconds for 50 tokens",
    of="spa-modes",
    plot="spa-costs",
    table=(
        "parameters", "train_kb", "down", "up", "infer_s", "lan_s", "total_lan_s", "wifi_s", "wire_s", "total_mobile_s",
    ),
    note="Seconds are for 50 tokens. infer_s: base and device, measured on this machine. lan_s: modelled with the line "
    "fitted to the paper's Table 2. wifi_s: modelled with 20 ms and 50 Mb/s. wire_s: measured over a stream on one "
    "machine, with 20 ms before each answer of the device. total_mobile_s: modelled with 50 ms and 10 Mb/s. down, up: "
    "payload bytes per token. train_kb: memory of a training step, without the frozen base. The paper uses LLaMA-7B.",
)  # fmt: skip
SPA_EFFECT = View(
    name="spa-effect",
    reference="SPA, Table 3",
    summary="which tokens the server asks the device about: those that base and side network predict differently, or "
    "others",
    of="spa-modes",
    plot="spa-effect",
    table=("M", "diff", "diff_pick", "recall", "waste"),
    note="diff: share of all tokens that base and side network predict differently. diff pick: share of all tokens "
    "that they predict differently and that the server asks about. recall = diff pick / diff. waste: share asked about "
    "of the tokens that both predict alike.",
)
SPA_SIZE = Experiment(
    name="spa-size",
    reference="SPA, Tables 5 to 7, Fig. 4",
    summary="SPA by the side network's width, the states that it reads and its training data; S1 and S3 by epochs",
    settings=TWO_BASES,
    cost={"smoke": "30 s", "cpu": "6 min", "paper": "hours"},
    common={**COMMON, "client.lr": 1e-2},
    study="spa-size",
    plot="spa-size",
    table=("M", "token_accuracy", "lost", "recall", "waste", "parameters", "call_bytes"),
    note="width: d / r. states: number of base states that the side network reads. data: number of training examples. "
    "S1, S3: epochs. call bytes: both directions, per token that the server asks about. Paper, with 4, 44 and 100 % of "
    "the data: ROUGE-L on XSum is 31.5, 33.8 and 35.5, and M is 82.3, 71.5 and 61.8 %; S1 after a few epochs is better "
    "than S3 after 20.",
)
SPA_FEDERATED = Experiment(
    name="spa-federated",
    summary="plugins of non-IID, drifting persons: trained alone, averaged, averaged without the gate, and fine-tuned",
    settings={
        "smoke": _shared({"spa.tiny-steps": 20, "devices.count": 3, "spa.facts": 1, "rounds": 2, "rounds-per-step": 1}),
        "cpu": _shared({**WEAK, "devices.count": 12, "cohort": 6, "rounds": 8, "rounds-per-step": 4, "eval.every": 4}),
        "paper": _shared(
            {
                "spa.base": "smollm2",
                "spa.every": 5,
                "devices.count": 40,
                "cohort": 10,
                "rounds": 40,
                "rounds-per-step": 10,
            }
        ),
    },
    cost={"smoke": "1 min", "cpu": "8 min", "paper": "days"},
    common={**COMMON, "client.local-epochs": 2, "client.adapt-epochs": 2},
    table=("accuracy_mean", "accuracy_p10", "loss", "up_mb_per_round", "mb_per_device_round"),
    note="Accuracy: share of correct answer tokens, with the gate. +ft and la are scored after local training.",
)
SPA_GATE = Experiment(
    name="spa-gate",
    summary="token accuracy against the share of tokens that the server asks the device about, by threshold and price",
    settings=SETTINGS,
    cost={"smoke": "20 s", "cpu": "5 min", "paper": "hours"},
    common=COMMON,
    study="spa-gate",
    plot="spa-gate",
    table=("M", "token_accuracy", "lost", "recall", "waste"),
    note="lost: token accuracy with all tokens asked about, minus that with the gate. The paper has one point, M = "
    "0.62.",
)
