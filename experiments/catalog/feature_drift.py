"""What the cloud cannot know: pictures change on the devices, each in its own way."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides
from experiments.catalog.tasks import setting

METHODS = "na,na-prior,la,fedavg,fedavg-prior,eclm-plus"
PART = "cifar10 m=5"
# All of a device's samples are new ones at a shift, and look as they now do.
DRIFT: Overrides = {"drift": "feature", "severity-step": 1.0, "drift-fraction": 1.0}
STEPS: dict[str, Overrides] = {
    "smoke": {},
    "cpu": {"rounds": 12},  # two shifts
    "paper": {"rounds": 150},
}

FEATURE_DRIFT = Experiment(
    name="feature-drift",
    reference="",
    summary="pictures get noisy, blurred, bright or turned on each device: knowing its classes is not enough",
    settings={
        scale: {f"{PART} feature": {**setting(PART, scale, strategies=METHODS), **DRIFT, **STEPS[scale]}}
        for scale in SCALES
    },
    cost={"smoke": "2 min", "cpu": "50 min", "paper": "GPU days"},
    plot="steps",
    table=("final_accuracy_mean", "accuracy_mean", "accuracy_p10", "mb_per_device_round", "memory_mb"),
    note="The final accuracy is that after the last shift. The cloud trains on pictures as they are published.",
)
