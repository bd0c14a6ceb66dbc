"""What the cloud cannot know: pictures change on the devices, each in its own way, or all in the same way."""

from experiments.catalog.experiment import Experiment, Overrides
from experiments.catalog.tasks import FEATURE, TURNED, setting

METHODS = "na,na-prior,la,fedavg,fedavg-prior,eclm-plus"
PART = "cifar10 m=5"
STEPS: dict[str, dict[str, Overrides]] = {
    "smoke": {"feature": FEATURE, "rotation": TURNED},
    # two shifts; one, and 16 rounds
    "cpu": {"feature": {**FEATURE, "rounds": 12}, "rotation": {**TURNED, "rounds": 20}},
    "paper": {"feature": {**FEATURE, "rounds": 150}, "rotation": {**TURNED, "rounds": 250}},
}

FEATURE_DRIFT = Experiment(
    name="feature-drift",
    reference="",
    summary="pictures change, on each device in its own way or on all in the same: knowing its classes is not enough",
    settings={
        scale: {f"{PART} {how}": {**setting(PART, scale, strategies=METHODS), **drift} for how, drift in hows.items()}
        for scale, hows in STEPS.items()
    },
    cost={"smoke": "3 min", "cpu": "90 min", "paper": "GPU days"},
    plot="steps",
    table=("final_accuracy_mean", "accuracy_mean", "accuracy_p10", "mb_per_device_round", "memory_mb"),
    note="The final accuracy is that after the last shift. The cloud trains on pictures as they are published.",
)
