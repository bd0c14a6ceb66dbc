"""Figs. 10 and 11: many adaptation steps, half of every device's data replaced at each."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides, View
from experiments.catalog.tasks import PARTS, setting

STEPS: dict[str, Overrides] = {
    "smoke": {},
    "cpu": {"devices": 30, "rounds": 24, "rounds-per-step": 3, "eval-every": 1},
    "paper": {"rounds": 1000, "rounds-per-step": 10, "eval-every": 10},
}
CHOSEN = {
    "smoke": ("har subject",),
    "cpu": ("har subject", "cifar10 m=5"),
    "paper": tuple(part for part in PARTS["paper"] if part not in ("cifar10 m=5", "cifar100 m=20", "speech m=10")),
}
GAINS = "Paper, ECLM above LA on HAR, CIFAR-10, CIFAR-100 and Speech: 1.68, 4.33, 4.72 and 6.81 points; "

FIG10 = Experiment(
    name="fig10",
    reference="Fig. 10",
    summary="continuous adaptation: accuracy at each of many steps, with ECLM's two ablations",
    settings={
        scale: {
            part: {
                **setting(part, scale, strategies="la,an,eclm-local,eclm,eclm-plus", measure_forgetting=True),
                **STEPS[scale],
            }
            for part in CHOSEN[scale]
        }
        for scale in SCALES
    },
    cost={"smoke": "20 s", "cpu": "2 h", "paper": "GPU days"},
    plot="steps",
    table=("accuracy_mean", "final_accuracy_mean", "shift_drop", "recovery_rounds", "recovered", "forgetting"),
    note=GAINS + "'eclm-derive' is its 'w/o local adaptation', 'eclm-local' its 'w/o cloud'.",
)
FIG11 = View(
    name="fig11",
    reference="Fig. 11",
    summary="mean accuracy over the steps and time of an adaptation",
    of="fig10",
    plot="adaptation",
    table=("accuracy_mean", "adapt_s", "recovery_s"),
    note=GAINS + "ECLM's adaptation takes 14.5, 45.5, 63.5 and 75.3 % less time than LA's.",
)
