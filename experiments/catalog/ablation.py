"""What each of the changes from ECLM to ECLM+ brings, alone and together; FedAvg and FjORD get the prior."""

from experiments.catalog.experiment import SCALES, Experiment
from experiments.catalog.tasks import setting

METHODS = "fedavg-prior,fjord-prior,eclm,eclm-prior,eclm-tailored,eclm-blend,eclm-plus"
PARTS = ("har m=2", "cifar10 m=2", "cifar10 m=5")

ABLATION = Experiment(
    name="ablation",
    reference="",
    summary="from ECLM to ECLM+: class prior, tailored ability training and blended adaptation, one by one",
    settings={scale: {part: setting(part, scale, strategies=METHODS) for part in PARTS} for scale in SCALES},
    cost={"smoke": "5 min", "cpu": "40 min", "paper": "GPU days"},
    plot="accuracy",
    table=("accuracy_mean", "accuracy_std", "accuracy_p10", "global_accuracy", "mb_per_device_round", "memory_mb"),
)
