"""Experiments with drift that the cloud's model cannot foresee: the suite by which methods are ranked."""

from experiments.catalog.eclm import EMBEDDED, EMBEDDED_SMOKE, STRANGERS
from experiments.catalog.experiment import Experiment, Overrides
from experiments.catalog.tasks import PAPER, SMOKE

# All methods that run on any of the settings. adabn and tent need batch norm, which these models do not have.
METHODS = (
    "na,na-prior,la,fedavg,fedavg-prior,fedadam,fedprox,scaffold,fedrep,ditto,ifca,feddrift,adaptive-fedavg,flash,"
    "heterofl,fjord,fedrolex,fedrolex-adam,eclm,eclm-plus,eclm-smooth,eclm-adam"
)
# As they are used: fine-tuned on the client where a method allows it.
RANKED = (
    "eclm-adam", "eclm-smooth", "eclm-plus", "eclm", "na-prior", "la", "ditto", *(f"{method}+ft" for method in (
        "fedavg", "fedavg-prior", "fedadam", "fedprox", "scaffold", "fedrep", "ifca", "feddrift", "adaptive-fedavg",
        "flash", "heterofl", "fjord", "fedrolex", "fedrolex-adam",
    )),
)  # fmt: skip

# Watches of people whom the cloud never met; see `main`.
PEOPLE: dict[str, Overrides] = {
    "har strangers": STRANGERS,
    "har few": {**STRANGERS, "data.samples-min": 20, "data.samples-max": 30},
    # Three groups of people agree at first; then group after group swaps two pairs of activities.
    "har concept": {
        **STRANGERS, "drift.kind": "concept", "concept.count": 2, "concept.swaps": 2, "rounds-per-step": 5,
        "drift.schedule": "1", "drift.groups": 3, "drift.stagger": 1,
    },
    # The cloud has no data of an activity, which appears on some watches first.
    "har unseen": {
        **STRANGERS, "data.unseen-classes": "turning", "data.partition": "dirichlet", "dirichlet.alpha": 1.0,
        "drift.kind": "unseen", "unseen.share": 0.3, "rounds-per-step": 5, "drift.schedule": "1",
        "drift.groups": 2, "drift.stagger": 1,
    },
}  # fmt: skip
# Images on two cores: a narrow ResNet18, few clients, and a cloud that has little of what clients have. (No part of the
# small CNN fits such limits: only its perceptron has modules.)
IMAGES: Overrides = {
    "data.image-size": 16, "model.name": "resnet18", "model.width": 8, "devices.count": 20, "cohort": 6, "rounds": 12,
    "rounds-per-step": 6, "eval.every": 6, "client.adapt-epochs": 5, "client.lr": 0.01, "pretrain.dense-epochs": 10,
    "pretrain.modular-epochs": 5, "pretrain.ability-epochs": 5, "eclm.modules": 8, "eclm.shrink": 8, "an.shrink": 8,
    "eclm.top-k": 4, "data.partition": "dirichlet", "dirichlet.alpha": 0.5, "data.proxy-fraction": 0.1,
    "devices.limit-low": 0.5, "devices.limit-high": 0.6, "pretrain.augment": False,
}  # fmt: skip
# Groups of clients enter shared contexts, each group in another order; severities as in CIFAR-C's middle.
CONTEXTS: Overrides = {
    "drift.kind": "concept", "drift.schedule": "every", "drift.groups": 3, "concept.count": 4, "concept.swaps": "0",
    "concept.contexts": "noise:0.6;blur:0.5;contrast:0.7", "drift.fraction": 1.0,
}  # fmt: skip
SWAPS: Overrides = {
    "drift.kind": "concept", "drift.schedule": "1", "concept.count": 2, "concept.swaps": 3, "drift.groups": 2,
    "drift.stagger": 1, "rounds-per-step": 4, "eval.every": 4, "drift.fraction": 1.0,
}  # fmt: skip
PICTURES: dict[str, Overrides] = {
    "cifar10 contexts": {**IMAGES, **CONTEXTS, "data.name": "cifar10"},
    "cifar10 concept": {**IMAGES, **SWAPS, "data.name": "cifar10"},
    "cifar100 contexts": {**IMAGES, **CONTEXTS, "data.name": "cifar100"},
    "fashion contexts": {**IMAGES, **CONTEXTS, "data.name": "fashion-mnist", "data.image-size": 14},
    # The cloud has never heard the clients' speakers.
    "speech strangers": {
        **IMAGES, "data.name": "speech-commands-test", "data.image-size": 20, "data.proxy-fraction": 0.9,
        "data.proxy-domains": "[0-3]*", "data.client-domains": "[4-9a-f]*", "drift.kind": "label-shift",
        "devices.limit-low": 0.6, "devices.limit-high": 0.7,
    },
}  # fmt: skip

FULL: dict[str, Overrides] = {
    name: {**keys, "strategies": METHODS}
    for name, keys in ({name: {**EMBEDDED, **keys} for name, keys in PEOPLE.items()} | PICTURES).items()
}
LARGE: Overrides = {"data.image-size": 0, "client.optimizer": "sgd", "client.lr": 0.01}  # scaffold needs SGD

DRIFT_SUITE = Experiment(
    name="drift-suite",
    summary="all methods where the world drifts away from what the cloud knows: new people and sensors, few samples, "
    "changed labels, unseen classes, shared contexts; ranks with tests",
    settings={
        "smoke": {name: {**keys, **(EMBEDDED_SMOKE if name in PEOPLE else SMOKE)} for name, keys in FULL.items()},
        "cpu": FULL,
        "paper": {name: {**keys, **PAPER, **LARGE} for name, keys in FULL.items()},
    },
    cost={"smoke": "5 min", "cpu": "8 h", "paper": "GPU days"},
    seeds=(1, 2, 3, 4, 5),
    plot="ranks",
    table=("accuracy_mean", "accuracy_p10", "mb_per_device_round", "gmac_per_device_round", "memory_mb"),
    tested=RANKED,
    note="tests.md compares eclm-adam with the others, each fine-tuned on the client where it allows that.",
)

# Does a client notice its drift? Six kinds, each at steps 4, 8, 12, ... of some clients; in between nothing drifts.

OFTEN: Overrides = {
    **EMBEDDED, "devices.count": 20, "rounds": 40, "rounds-per-step": 1, "drift.schedule": "every:4", "drift.groups": 4,
    "drift.stagger": 1, "drift.fraction": 1.0, "strategies": "na",
}  # fmt: skip
DRIFTS: dict[str, Overrides] = {
    "har persons": {"data.partition": "subject", "drift.kind": "subject"},
    "har classes": {"data.partition": "m-classes", "m-classes.m": 2, "drift.kind": "class-swap"},
    "har shares": {"data.partition": "dirichlet", "drift.kind": "label-shift"},
    "har labels": {
        "data.partition": "subject", "drift.kind": "concept", "concept.count": 2, "concept.swaps": 2,
        "concept.recurring": True,
    },
}  # fmt: skip
DETECTION = Experiment(
    name="detection",
    summary="does a client notice that its data drift: ECLM's shift of importance, ADWIN and Page-Hinkley on losses",
    settings={
        "smoke": {name: {**OFTEN, **EMBEDDED_SMOKE, **keys, "rounds": 8, "rounds-per-step": 1, "devices.count": 4}
                  for name, keys in DRIFTS.items()},
        "cpu": {name: {**OFTEN, **keys} for name, keys in DRIFTS.items()},
        "paper": {name: {**OFTEN, **keys} for name, keys in DRIFTS.items()},
    },
    cost={"smoke": "10 s", "cpu": "5 min", "paper": "5 min"},
    study="detection",
    plot="detection",
    table=("noticed", "false_alarms", "delay_steps"),
    note="'har labels' swaps labels alone, and ECLM's detector reads no labels.",
)  # fmt: skip
