"""Group against batch norm: what sub-models and merging make of running statistics (`models.nn.blocks.Norm`)."""

from experiments.catalog.experiment import SCALES, Experiment
from experiments.catalog.tasks import setting

NORM = Experiment(
    name="norm",
    reference="",
    summary="group or batch norm under label skew: whole models and sub-models, as trained, merged and adapted",
    settings={
        scale: {
            f"cifar10 m=2 {norm}": setting("cifar10 m=2", scale, strategies="na,fedavg,heterofl,eclm", norm=norm)
            for norm in ("group", "batch")
        }
        for scale in SCALES
    },
    cost={"smoke": "5 min", "cpu": "1 h", "paper": "GPU day"},
    seeds=(1, 2),
    plot="accuracy",
    table=("accuracy_mean", "accuracy_std", "accuracy_p10", "global_accuracy"),
)
