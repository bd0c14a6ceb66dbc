"""Workload vq on the text that ships: what devices ask moves from topic to topic, and codes cross the cut."""

from experiments.catalog.experiment import Experiment, Overrides, at_every_scale

COMMON: Overrides = {
    "workload": "vq",
    "dataset": "questions",
    "partition": "m-classes",
    "classes-per-device": 2,
    "drift": "class-swap",
    "devices": 20,
    "cohort": 5,
    "rounds": 10,
    "rounds-per-step": 5,
    "eval-every": 5,
    "local-epochs": 1,
    "adapt-epochs": 2,
    "dense-epochs": 10,
    "strategies": "na,la,fedavg",
}
SETTINGS: dict[str, Overrides] = {
    "codes": {},
    "pooled": {"vq-pool": 4},
    "float16": {"vq-codes": 0, "vq-up": "float16"},
}
SMOKE: Overrides = {
    "devices": 4,
    "cohort": 2,
    "rounds": 2,
    "rounds-per-step": 1,
    "eval-every": 1,
    "samples-min": 20,
    "samples-max": 24,
    "test-samples": 20,
    "adapt-epochs": 1,
    "dense-epochs": 1,
    "vocabulary": 500,
    "tokens": 24,
    "vq-hidden": 32,
    "vq-width": 16,
    "vq-groups": 4,
    "vq-codes": 16,
}

TEXT = Experiment(
    name="text",
    reference="",
    summary="a split transformer on questions of 2 topics a device: codes, pooled codes or float16 across the cut",
    common=COMMON,
    settings=at_every_scale(SETTINGS, smoke=SMOKE),
    cost={"smoke": "30 s", "cpu": "15 min", "paper": "15 min"},
    seeds=(1,),
)
