"""SPA: the paper's Table 3 and the latency part of Table 2; and the curve that the paper does not draw."""

from experiments.catalog.experiment import Experiment, Overrides

AT: dict[str, dict[str, Overrides]] = {
    "smoke": {"tiny": {"tiny-steps": 20, "devices": 1, "spa-facts": 1, "adapt-epochs": 2}},
    "cpu": {"tiny": {"tiny-steps": 400, "devices": 3, "adapt-epochs": 15}},
    "paper": {"smollm2": {"base": "smollm2", "spa-every": 5, "devices": 8, "adapt-epochs": 15}},
}
COMMON: Overrides = {"workload": "spa", "cohort": 1, "lr": 3e-3, "batch-size": 8, "strategies": "la"}

SPA_MODES = Experiment(
    name="spa-modes",
    reference="SPA, Tables 2, 3",
    summary="base, side and gate combined in four ways: how often the device is asked, quality, bytes, latency",
    settings=AT,
    cost={"smoke": "20 s", "cpu": "6 min", "paper": "hours"},
    common=COMMON,
    study="spa-modes",
    plot="spa-modes",
    table=(
        "M", "token_accuracy", "exact", "rouge_l", "diff", "diff_pick", "recall", "waste", "down", "up", "lan_s",
        "total_lan_s",
    ),
    note="Paper (LLaMA-7B, XSum ROUGE-L): S1 36.24 at ratio 1, S2 30.29 at 0.68, S3 28.18 at 1, SPA 35.52 at 0.62; "
    "diff rate 78.2, diff pick 56.8; network time of 50 tokens LST 0.31 s, SPA 0.18 s. Seconds are for 50 tokens: "
    "lan_s is modelled on the line fitted to the paper's Table 2, total_lan_s adds base and side as measured here.",
)  # fmt: skip
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
