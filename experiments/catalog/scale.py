"""Experiments on the machine instead of the method: measured latency, and the paper's testbed as a deployment."""

from experiments.catalog.experiment import Experiment, at_every_scale
from experiments.catalog.tasks import parts

LATENCY = Experiment(
    name="latency",
    summary="training step, inference and peak memory of sub-models: measured on this CPU and estimated",
    settings=parts({"smoke": ("har",), "cpu": ("har", "cifar10"), "paper": ("har", "cifar10", "cifar100", "speech")}),
    cost={"smoke": "20 s", "cpu": "2 min", "paper": "30 min"},
    seeds=(1,),
    study="latency",
    plot="estimates",
    table=("train_ms", "train_ratio", "inference_ms", "inference_ratio", "peak_mb", "memory_ratio"),
    note="Ratios are estimate over measurement. The time estimates are calibrated on the dense model, so its ratios "
    "are 1. Measured on one thread.",
)
LOOPBACK = Experiment(
    name="loopback",
    reference="7.1, testbed",
    summary="10 Nano and 10 Pi boards as SuperNodes with TLS and keys, as processes on this machine; --engine local "
    "simulates them and gives the same rows",
    common={
        "data.name": "har-embedded", "data.partition": "subject", "drift.kind": "subject",
        "eclm.subtasks": "domain", "eclm.kappa2": 4, "model.name": "mlp", "strategies": "la,fedavg,eclm",
        "devices.count": 20, "cohort": 10, "rounds": 4, "rounds-per-step": 2, "eval.every": 2,
        "devices.hardware": "testbed",
        "devices.background-load": 0.0,  # other programs load the real machine already
        "server.timeout-s": 1800.0, "eval.per-device": True,
    },
    settings=at_every_scale(
        {"testbed": {}},
        smoke={
            "devices.count": 3, "cohort": 2, "strategies": "eclm", "rounds": 1, "rounds-per-step": 1, "eval.every": 1,
            "pretrain.dense-epochs": 2, "pretrain.modular-epochs": 1, "pretrain.ability-epochs": 1,
        },
        paper={"rounds": 20, "rounds-per-step": 5, "eval.every": 5},
    ),
    cost={"smoke": "1 min", "cpu": "20 min", "paper": "1 h"},
    seeds=(1,),
    engine="loopback",
)  # fmt: skip
