"""E4 of the VQ workload, federated: devices of two tasks share the cloud's half, or each task has a whole model."""

from experiments.catalog.experiment import Experiment, Overrides
from experiments.catalog.vq_e3 import COMMON

TOGETHER: Overrides = {"vq-tasks": "questions,agnews", "devices": 8, "cohort": 8}
SMOKE: Overrides = {
    "rounds": 1, "rounds-per-step": 1, "eval-every": 1, "samples-min": 20, "samples-max": 24, "test-samples": 20,
    "proxy-fraction": 0.1, "dense-epochs": 1, "vocabulary": 500, "tokens": 24, "vq-hidden": 32,
}  # fmt: skip
OF_TWO: Overrides = {"vq-tasks": "questions,question-articles", "devices": 4, "cohort": 4}
CPU: Overrides = {"proxy-fraction": 0.1, "samples-min": 150, "samples-max": 150, "tokens": 48}
WHOLE: dict[str, Overrides] = {
    "questions alone": {**CPU, "dataset": "questions"},
    "agnews alone": {**CPU, "dataset": "agnews"},
    "together": {**CPU, **TOGETHER},
    "together, GradNorm": {**CPU, **TOGETHER, "vq-gradnorm": True},
}

VQ_E4_ROUNDS = Experiment(
    name="vq-e4-rounds",
    reference="",
    summary="devices of two tasks that average one cloud half, with and without GradNorm, beside each task by itself",
    common={
        **COMMON, "partition": "iid", "devices": 4, "cohort": 4, "vq-codes": 0, "vq-width": 0, "vq-up": "float16",
        "strategies": "na,la,fedavg",
    },
    settings={
        "smoke": {
            "questions alone": {**SMOKE, "dataset": "questions", "devices": 2, "cohort": 2},
            "together": {**SMOKE, **OF_TWO},
            "together, GradNorm": {**SMOKE, **OF_TWO, "vq-gradnorm": True},
        },
        "cpu": WHOLE,
        "paper": WHOLE,
    },
    cost={"smoke": "1 min", "cpu": "15 min", "paper": "15 min"},
    seeds=(1, 2),
    plot="accuracy",
    note="Where tasks are together the score is the mean over devices of both; measures.csv tells them apart (task_0, "
    "task_1, in the order of vq-tasks).",
)  # fmt: skip
