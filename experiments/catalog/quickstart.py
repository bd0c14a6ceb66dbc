"""Every method on the embedded activity data, under feature skew and under label skew, while the world drifts."""

from experiments.catalog.experiment import Experiment, Overrides, at_every_scale

COMMON: Overrides = {
    "dataset": "har-embedded",
    "model": "mlp",
    "devices": 46,
    "cohort": 10,
    "rounds": 20,
    "rounds-per-step": 5,
    "eval-every": 5,
    "strategies": "na,la,fedavg,heterofl,eclm,eclm-plus",
}

SETTINGS: dict[str, Overrides] = {
    "subject": {"partition": "subject", "drift": "subject", "subtasks": "domain"},
    "m=2": {"partition": "m-classes", "classes-per-device": 2, "drift": "class-swap"},
}
SMOKE: Overrides = {
    "devices": 12,
    "cohort": 4,
    "rounds": 4,
    "rounds-per-step": 2,
    "dense-epochs": 4,
    "modular-epochs": 2,
    "ability-epochs": 2,
}

QUICKSTART = Experiment(
    name="quickstart",
    reference="",
    summary="all methods on embedded HAR: each device a person (subject), or 2 of 5 activities (m=2), drifting 3 times",
    common=COMMON,
    settings=at_every_scale(SETTINGS, smoke=SMOKE),
    cost={"smoke": "20 s", "cpu": "1 min", "paper": "1 min"},
    seeds=(1,),
)

MAIN = Experiment(
    name="main",
    reference="",
    summary="what `make run` runs: ECLM beside its rivals on embedded HAR, 2 activities a device, drifting 3 times",
    common=COMMON,
    settings=at_every_scale({"m=2": SETTINGS["m=2"]}, smoke=SMOKE),
    cost={"smoke": "10 s", "cpu": "1 min", "paper": "1 min"},
    seeds=(1,),
)
