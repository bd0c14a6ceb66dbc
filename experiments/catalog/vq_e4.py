"""E4 of the VQ workload: do tasks that share the cloud's half help or hinder each other?"""

from experiments.catalog import vq_e1
from experiments.catalog.experiment import Experiment, Overrides

CPU: Overrides = {
    "vq-tasks": "cola,mrpc,rte,stsb", "proxy-fraction": 0.25, "vq-preset": "minilm", "dense-epochs": 3, "tokens": 64,
}  # fmt: skip

VQ_E4 = Experiment(
    name="vq-e4",
    reference="",
    summary="several tasks on one cloud stack: each alone, together with equal weights, together with GradNorm",
    common={**vq_e1.COMMON, "vq-codes": 0, "offline-batch": 32},
    settings={
        "smoke": {
            "questions": {
                "vq-tasks": "questions,question-articles", "proxy-fraction": 0.03, "tokens": 24, "vocabulary": 500,
                "vq-hidden": 32, "dense-epochs": 2,
            }
        },
        "cpu": {"glue": CPU},
        "paper": {"glue": {**CPU, "proxy-fraction": 0.9}},
    },
    cost={"smoke": "1 min", "cpu": "90 min", "paper": "days"},
    seeds=(1, 2),
    study="tasks",
    plot="tasks",
    table=("score", "change", "loss", "weight", "mean_weight"),
    note="change: the score less that of the task trained alone, on the same batches. score: Matthews' correlation "
    "(cola), Pearson's (stsb), accuracy (the others). weight: of the task's loss at the end, mean 1.",
)  # fmt: skip
