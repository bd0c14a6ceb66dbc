"""Run-configs of the four applications in the ECLM paper's evaluation (7.1), at each scale.

Scale 'paper' has 500 devices, 25 per round, 3 local epochs, learning rate 0.001, batches of 16, 10 epochs of local
adaptation, and the paper's models, module counts and image sizes. The paper leaves three things open:

- the optimizer: we use Adam, because SGD hardly learns in 3 epochs of 100 samples at the paper's learning rate;
- the rounds per adaptation step: see ``rounds-per-step``;
- the size of a module: with twice as many modules as ``shrink`` the modular model is about twice as large as the
  original, as in the paper (25M parameters for VGG16, which has 15M).
"""

from collections.abc import Mapping, Sequence

from experiments.catalog.experiment import SCALES, Overrides

PAPER_METHODS = ("na", "la", "an", "fedavg", "heterofl", "eclm")  # in the order of the paper's Table 1
ALL = "na,na-prior,la,an,fedavg,fedavg-prior,heterofl,fjord,fedrolex,eclm-local,eclm,eclm-plus"

PAPER: Overrides = {
    "devices.count": 500, "cohort": 25, "client.local-epochs": 3, "client.adapt-epochs": 10,
    "client.batch-size": 16, "client.optimizer": "adam", "pretrain.optimizer": "adam",
    "client.lr": 0.001, "pretrain.lr": 0.001, "rounds": 100, "rounds-per-step": 50, "eval.every": 10,
}  # fmt: skip
SMOKE: Overrides = {
    "devices.count": 8, "cohort": 3, "rounds": 2, "rounds-per-step": 1, "eval.every": 1, "client.adapt-epochs": 1,
    "pretrain.dense-epochs": 1, "pretrain.modular-epochs": 1, "pretrain.ability-epochs": 1,
}  # fmt: skip
# Image tasks for two cores: a quarter of the width and images of 16 x 16 pixels.
SMALL: Overrides = {
    "data.image-size": 16,
    "model.width": 16,
    "devices.count": 30,
    "cohort": 6,
    "rounds": 8,
    "rounds-per-step": 4,
    "eval.every": 4,
    "client.adapt-epochs": 5,
    "client.lr": 0.003,  # better than 0.01 for FedAvg + fine-tuning
    "pretrain.dense-epochs": 20,
    "pretrain.modular-epochs": 2,
    "pretrain.ability-epochs": 12,
    "eclm.modules": 8,
    "eclm.shrink": 8,
    "an.shrink": 8,
    "eclm.top-k": 7,
    "eclm.kappa2": 3,
    "client.weight-decay": 5e-4,
    "pretrain.weight-decay": 5e-4,
    "devices.limit-low": 0.5,  # with 0.32 one module per layer uses all memory: activations dominate at this size
    "devices.limit-high": 0.6,
}
SKEWED: Overrides = {"data.partition": "m-classes", "drift.kind": "class-swap"}
# At each shift the device replaces all its samples by new ones, corrupted with its new severity.
FEATURE: Overrides = {"drift.kind": "feature", "feature.severity-step": 1.0, "drift.fraction": 1.0}
# One shift, after which all images are rotated; only the angle differs, so devices can learn from each other.
TURNED: Overrides = {**FEATURE, "feature.corruption": "rotation", "drift.schedule": "1"}
# Parts that are not modular set a lower limit: the first blocks have 63 % of the MACs of VGG16, and most of the
# activations of ResNet34.
HEAVY: Overrides = {"devices.limit-low": 0.85, "devices.limit-high": 1.2}
PAPER_OFFLINE: Overrides = {
    "pretrain.dense-epochs": 60,
    "pretrain.modular-epochs": 20,
    "pretrain.ability-epochs": 20,
    "client.weight-decay": 5e-4,
    "pretrain.weight-decay": 5e-4,
}


def _scales(common: Overrides, small: Overrides, paper: Overrides) -> dict[str, Overrides]:
    return {
        "smoke": {**common, **small, **SMOKE},
        "cpu": {**common, **small},
        "paper": {**common, **PAPER, **paper},
    }


TASKS: Mapping[str, Mapping[str, Overrides]] = {
    "har": _scales(
        {
            "data.partition": "subject", "drift.kind": "subject", "eclm.subtasks": "domain", "model.name": "mlp",
            "eclm.modules": 16, "eclm.shrink": 8, "an.shrink": 8, "eclm.top-k": 2,
        },
        {
            "data.name": "har-embedded", "devices.count": 46, "cohort": 10, "rounds": 16, "rounds-per-step": 8,
            "eval.every": 4, "devices.limit-low": 0.3, "devices.limit-high": 0.5,
        },
        {"data.name": "har-uci"},
    ),
    "cifar10": _scales(
        {**SKEWED, "data.name": "cifar10", "model.name": "resnet18"},
        SMALL,
        {**PAPER_OFFLINE, "eclm.modules": 16, "eclm.shrink": 8, "an.shrink": 8, "eclm.top-k": 8,
        "devices.limit-low": 0.4, "devices.limit-high": 0.8},
    ),
    "cifar100": _scales(
        {**SKEWED, "data.name": "cifar100", "model.name": "vgg16"},
        {**SMALL, "model.name": "resnet18"},  # VGG16 pools 16 pixels down to 1 and learns nothing
        {**PAPER_OFFLINE, **HEAVY, "eclm.modules": 32, "eclm.shrink": 16, "an.shrink": 16, "eclm.top-k": 16},
    ),
    "speech": _scales(
        {**SKEWED, "model.name": "resnet34", "pretrain.augment": False},  # augmentation would mirror spectrograms
        {**SMALL, **HEAVY, "data.name": "speech-commands-test", "data.image-size": 20, "model.width": 8},
        {**PAPER_OFFLINE, **HEAVY, "data.name": "speech-commands", "eclm.modules": 32, "eclm.shrink": 16,
        "an.shrink": 16, "eclm.top-k": 16},
    ),
}  # fmt: skip
PARTS: Mapping[str, tuple[str, ...]] = {
    scale: (
        "har subject", *(() if scale == "paper" else ("har m=2",)), "cifar10 m=2", "cifar10 m=5",
        "cifar100 m=10", "cifar100 m=20",
        *(("speech m=5", "speech m=10") if scale == "paper" else ("speech m=2", "speech m=5")),
    )
    for scale in SCALES
}  # fmt: skip
"""The settings of Table 1. Scale 'paper' has the paper's partitions. The other scales use a speech subset of 12 classes
with 2 and 5 classes per device, and add HAR with label skew, which the paper does not have."""


def setting(name: str, scale: str) -> Overrides:
    """Return the run-config of one of `PARTS`, or of a task without partition ('cifar10')."""
    task, _, partition = name.partition(" ")
    if not partition.startswith("m="):
        return TASKS[task][scale]
    classes = int(partition.removeprefix("m="))
    return {**TASKS[task][scale], **SKEWED, "eclm.subtasks": "class", "m-classes.m": classes}


def parts(
    names: Mapping[str, Sequence[str]] | Sequence[str], changes: Mapping[str, Overrides] = {}
) -> dict[str, dict[str, Overrides]]:
    """Return the `setting` of several parts at every scale.

    Args:
        names: of the parts, by scale or the same at all of them.
        changes: run-config keys that a scale changes in all its settings.
    """
    by_scale = names if isinstance(names, Mapping) else dict.fromkeys(SCALES, names)
    return {
        scale: {name: {**setting(name, scale), **changes.get(scale, {})} for name in of_scale}
        for scale, of_scale in by_scale.items()
    }
