"""CIFAR-10 at a size that two cores bear: ResNet18 of a quarter of the width, images of 16 x 16."""

from experiments.catalog.experiment import Experiment, at_every_scale

CIFAR10_SMALL = Experiment(
    name="cifar10-small",
    reference="",
    summary="all methods on CIFAR-10 at 16 x 16, ResNet18 of width 16, 60 devices with 2 or 5 of 10 classes",
    common={
        "dataset": "cifar10",
        "image-size": 16,
        "model": "resnet18",
        "width": 16,
        "partition": "m-classes",
        "drift": "class-swap",
        "devices": 60,
        "cohort": 10,
        "rounds": 20,
        "rounds-per-step": 10,
        "eval-every": 10,
        "adapt-epochs": 5,
        "dense-epochs": 24,
        "modular-epochs": 2,
        "ability-epochs": 8,
        "modules": 8,
        "shrink": 8,
        "top-k": 7,
        "weight-decay": 5e-4,
        "limit-low": 0.35,  # below, not even one module per stage fits the memory: at this size activations dominate
        "limit-high": 0.7,
    },
    settings=at_every_scale(
        {"m=2": {"classes-per-device": 2}, "m=5": {"classes-per-device": 5}},
        smoke={
            "devices": 8,
            "cohort": 2,
            "rounds": 2,
            "rounds-per-step": 1,
            "eval-every": 1,
            "dense-epochs": 1,
            "modular-epochs": 1,
            "ability-epochs": 1,
        },
    ),
    cost={"smoke": "2 min", "cpu": "30 min", "paper": "30 min"},
    paper={
        ("m=2", "na"): {"accuracy_mean": 0.7355},
        ("m=2", "la"): {"accuracy_mean": 0.8419},
        ("m=2", "fedavg"): {"accuracy_mean": 0.7368},
        ("m=2", "heterofl"): {"accuracy_mean": 0.7019},
        ("m=2", "eclm"): {"accuracy_mean": 0.9086},
        ("m=5", "na"): {"accuracy_mean": 0.7355},
        ("m=5", "la"): {"accuracy_mean": 0.7356},
        ("m=5", "fedavg"): {"accuracy_mean": 0.7612},
        ("m=5", "heterofl"): {"accuracy_mean": 0.7732},
        ("m=5", "eclm"): {"accuracy_mean": 0.8576},
    },
)
