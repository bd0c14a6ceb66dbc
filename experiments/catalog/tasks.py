"""The four applications of the paper's evaluation (7.1) at each scale, and what its experiments share.

At 'paper' scale: 500 devices, 25 a round, 3 local epochs, learning rate 0.001, batches of 16, 10 epochs of local
adaptation, the paper's models and module counts, images of full size. The paper does not name the optimizer: at its
learning rate only Adam gets anywhere in 3 epochs of 100 samples. Nor does it say how many rounds a step has, or how
much of a block a module is; with twice as many modules as 'shrink' the modular model is about twice its original
(the paper: 25M parameters for VGG16, whose original has 15M).
"""

from collections.abc import Mapping

from experiments.catalog.experiment import SCALES, Overrides

ALL = "na,na-prior,la,an,fedavg,fedavg-prior,heterofl,fjord,fedrolex,eclm-local,eclm,eclm-plus"

PAPER: Overrides = {
    "devices": 500,
    "cohort": 25,
    "local-epochs": 3,
    "adapt-epochs": 10,
    "batch-size": 16,
    "optimizer": "adam",
    "lr": 0.001,
    "offline-lr": 0.001,
    "rounds": 100,
    "rounds-per-step": 50,
    "eval-every": 10,
}
SMOKE: Overrides = {
    "devices": 8,
    "cohort": 3,
    "rounds": 2,
    "rounds-per-step": 1,
    "eval-every": 1,
    "adapt-epochs": 1,
    "dense-epochs": 1,
    "modular-epochs": 1,
    "ability-epochs": 1,
}
# An image task that two cores bear: a quarter of the width, 16 pixels a side.
SMALL: Overrides = {
    "image-size": 16,
    "width": 16,
    "devices": 30,
    "cohort": 6,
    "rounds": 8,
    "rounds-per-step": 4,
    "eval-every": 4,
    "adapt-epochs": 5,
    "lr": 0.003,  # of 0.01 and 0.003 the better one for FedAvg + fine-tuning
    "dense-epochs": 20,
    "modular-epochs": 2,
    "ability-epochs": 12,
    "modules": 8,
    "shrink": 8,
    "top-k": 7,
    "kappa2": 3,
    "weight-decay": 5e-4,
    "limit-low": 0.5,  # at 0.32 one module per layer fills the memory: at this size activations dominate
    "limit-high": 0.6,
}
SKEWED: Overrides = {"partition": "m-classes", "drift": "class-swap"}
# At a shift all of a device's samples are replaced by others that look as its camera now sees.
FEATURE: Overrides = {"drift": "feature", "severity-step": 1.0, "drift-fraction": 1.0}
# After the first step all cameras are turned the same way, each as far as it is: what one device learns serves others.
TURNED: Overrides = {**FEATURE, "corruption": "rotation", "schedule": "1"}
# What is not modular is a floor: in VGG16 the first blocks take 63 % of the MACs, in ResNet34 most of the activations.
HEAVY: Overrides = {"limit-low": 0.85, "limit-high": 1.2}
PAPER_OFFLINE: Overrides = {"dense-epochs": 60, "modular-epochs": 20, "ability-epochs": 20, "weight-decay": 5e-4}


def _scales(common: Overrides, small: Overrides, paper: Overrides) -> dict[str, Overrides]:
    return {
        "smoke": {**common, **small, **SMOKE},
        "cpu": {**common, **small},
        "paper": {**common, **PAPER, **paper},
    }


TASKS: Mapping[str, Mapping[str, Overrides]] = {
    "har": _scales(
        {
            "partition": "subject",
            "drift": "subject",
            "subtasks": "domain",
            "model": "mlp",
            "modules": 16,
            "shrink": 8,
            "top-k": 8,
        },
        {
            "dataset": "har-embedded",
            "devices": 46,
            "cohort": 10,
            "rounds": 16,
            "rounds-per-step": 8,
            "eval-every": 4,
            "limit-low": 0.3,
            "limit-high": 0.5,
        },
        {"dataset": "har-uci"},
    ),
    "cifar10": _scales(
        {**SKEWED, "dataset": "cifar10", "model": "resnet18"},
        SMALL,
        {**PAPER_OFFLINE, "modules": 16, "shrink": 8, "top-k": 8, "limit-low": 0.4, "limit-high": 0.8},
    ),
    "cifar100": _scales(
        {**SKEWED, "dataset": "cifar100", "model": "vgg16"},
        {**SMALL, "model": "resnet18"},  # of 16 pixels VGG16 pools 15 away and learns nothing
        {**PAPER_OFFLINE, **HEAVY, "modules": 32, "shrink": 16, "top-k": 16},
    ),
    "speech": _scales(
        {**SKEWED, "model": "resnet34", "augment": False},  # a spectrogram must not be mirrored
        {**SMALL, **HEAVY, "dataset": "speech-commands-test", "image-size": 20, "width": 8},
        {**PAPER_OFFLINE, **HEAVY, "dataset": "speech-commands", "modules": 32, "shrink": 16, "top-k": 16},
    ),
}
PARTS: Mapping[str, tuple[str, ...]] = {
    scale: (
        "har subject", *(() if scale == "paper" else ("har m=2",)), "cifar10 m=2", "cifar10 m=5",
        "cifar100 m=10", "cifar100 m=20",
        *(("speech m=5", "speech m=10") if scale == "paper" else ("speech m=2", "speech m=5")),
    )
    for scale in SCALES
}  # fmt: skip
"""The seven settings of Table 1: the paper's partitions; of the shipped speech subset, with 12 classes, 2 and 5.
HAR with label skew is ours."""


def setting(name: str, scale: str, **changes: str | int | float | bool) -> Overrides:
    """The run-config of one of `PARTS`, or of a task alone; ``changes`` with underscores, above all."""
    task, _, partition = name.partition(" ")
    own: dict[str, str | int | float | bool] = dict(TASKS[task][scale])
    if partition.startswith("m="):
        own |= {**SKEWED, "subtasks": "class", "classes-per-device": int(partition.removeprefix("m="))}
    return own | {key.replace("_", "-"): value for key, value in changes.items()}
