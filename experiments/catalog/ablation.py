"""What each of the changes from ECLM to ECLM+ brings, alone and together; rivals get the prior."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides
from experiments.catalog.tasks import setting
from fl.config.settings import Settings

METHODS = "na-prior,fedavg-prior,fjord-prior,eclm,eclm-prior,eclm-tailored,eclm-blend,eclm-plus"
PARTS = ("har m=2", "cifar10 m=2", "cifar10 m=5")


def _longer(part: str, scale: str) -> Overrides:
    epochs = Settings.parse(setting(part, scale)).ability_epochs
    return setting(part, scale, strategies="la,fedavg,fedavg-prior", ability_epochs=2 * epochs)


ABLATION = Experiment(
    name="ablation",
    reference="",
    summary="from ECLM to ECLM+: class prior, tailored ability training and blended adaptation, one by one",
    settings={
        scale: {part: setting(part, scale, strategies=METHODS) for part in PARTS}
        | {f"{part} longer": _longer(part, scale) for part in PARTS}
        for scale in SCALES
    },
    cost={"smoke": "8 min", "cpu": "70 min", "paper": "GPU days"},
    plot="accuracy",
    table=("accuracy_mean", "accuracy_std", "accuracy_p10", "global_accuracy", "mb_per_device_round", "memory_mb"),
    note="A step of tailoring takes two passes. In the settings 'longer' the dense models are trained in the cloud for "
    "as many passes as ECLM+'s, not as many epochs; ECLM+ is that of the settings without this word.",
)
