"""E2 of the VQ workload: what each part of the quantiser's training is for."""

from experiments.catalog.experiment import Experiment, Overrides, at_every_scale
from experiments.catalog.vq_e1 import COMMON, SMOKE

SETTINGS: dict[str, Overrides] = {
    "as it is": {},
    "no commitment": {"vq-beta": 0.0},
    "commitment x 16": {"vq-beta": 4.0},
    "rotation trick": {"vq-estimator": "rotation"},
    "codebook of the last steps": {"vq-decay": 0.0},
    "codebook of many steps": {"vq-decay": 0.99},
    "codebook by gradient": {"vq-learn": "gradient"},
    "dead vectors stay": {"vq-learn": "mean"},
    "codebook as it began": {"vq-learn": "frozen"},
}
CPU: Overrides = {"proxy-fraction": 0.2, "tokens": 48, "vocabulary": 4000, "vq-hidden": 128, "dense-epochs": 6}

VQ_E2 = Experiment(
    name="vq-e2",
    reference="",
    summary="training with codes from a fifth of its steps on: commitment, gradient, memory of the codebook",
    common={**COMMON, **SMOKE, "vq-codes": 64, "vq-groups": 8},
    settings=at_every_scale(SETTINGS, cpu=CPU, paper={**CPU, "proxy-fraction": 0.9, "dense-epochs": 20}),
    cost={"smoke": "1 min", "cpu": "8 min", "paper": "1 h"},
    seeds=(1, 2),
    study="boundary",
    plot="boundary",
    table=("accuracy", "perplexity", "entropy", "up", "probed"),
    note="Bytes are payload per text.",
)
