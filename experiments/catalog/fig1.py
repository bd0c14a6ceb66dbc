"""Fig. 1(a): static and updated models while a fifth of every device's data is replaced at each step."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides
from experiments.catalog.tasks import setting

PART = {"smoke": "cifar10 m=2", "cpu": "cifar10 m=5", "paper": "cifar100 m=10"}
STEPS: dict[str, Overrides] = {
    "smoke": {},
    "cpu": {"rounds": 24, "rounds-per-step": 3, "eval-every": 3},
    "paper": {"rounds": 100, "rounds-per-step": 10, "eval-every": 10},
}

FIG1 = Experiment(
    name="fig1",
    reference="Fig. 1",
    summary="static full and sub-model, local adaptation, and a sub-model of the updated cloud model under drift",
    settings={
        scale: {
            PART[scale]: {
                **setting(PART[scale], scale, strategies="na,la,eclm-static,eclm", drift_fraction=0.2),
                **STEPS[scale],
            }
        }
        for scale in SCALES
    },
    cost={"smoke": "2 min", "cpu": "25 min", "paper": "GPU day"},
    plot="steps",
    table=("accuracy_mean", "final_accuracy_mean", "shift_drop", "adapt_s"),
    note="Paper: the static sub-model loses about 11 points as the data shift, local adaptation stays about 10 points "
    "below the ideal, a sub-model of the cloud model that was updated with all devices' new data ('eclm-derive'). "
    "Fig. 1(b), latency under co-running programs, is a measurement on a Jetson Nano and not repeated.",
)
