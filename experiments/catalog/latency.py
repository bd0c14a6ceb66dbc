"""Measured latency and peak memory of sub-models beside their estimates."""

from experiments.catalog.experiment import SCALES, Experiment
from experiments.catalog.tasks import setting

TASKS = {"smoke": ("har",), "cpu": ("har", "cifar10"), "paper": ("har", "cifar10", "cifar100", "speech")}

LATENCY = Experiment(
    name="latency",
    reference="",
    summary="training step, inference and peak memory of sub-models on this CPU, beside what the cost model says",
    settings={scale: {task: setting(task, scale) for task in TASKS[scale]} for scale in SCALES},
    cost={"smoke": "20 s", "cpu": "2 min", "paper": "30 min"},
    seeds=(1,),
    study="latency",
    plot="estimates",
    table=("train_ms", "train_ratio", "inference_ms", "inference_ratio", "peak_mb", "memory_ratio"),
    note="Ratios are estimate over measurement; the time estimates are calibrated on the dense model, so theirs is 1. "
    "Measured on one thread of the machine that ran it.",
)
