"""The paper's testbed, deployed: a SuperLink and 20 SuperNodes with TLS and keys, as processes of this machine."""

from experiments.catalog.experiment import Experiment, Overrides, at_every_scale

SMOKE: Overrides = {
    "devices": 3,
    "cohort": 2,
    "strategies": "eclm",
    "rounds": 1,
    "rounds-per-step": 1,
    "eval-every": 1,
    "dense-epochs": 2,
    "modular-epochs": 1,
    "ability-epochs": 1,
}

LOOPBACK = Experiment(
    name="loopback",
    reference="7.1, testbed",
    summary="10 Nano and 10 Pi boards as SuperNodes on this machine; --engine local simulates them, to the same rows",
    common={
        "dataset": "har-embedded",
        "partition": "subject",
        "drift": "subject",
        "subtasks": "domain",
        "model": "mlp",
        "strategies": "la,fedavg,eclm",
        "devices": 20,
        "cohort": 10,
        "rounds": 4,
        "rounds-per-step": 2,
        "eval-every": 2,
        "hardware": "testbed",
        "background-load": 0.0,  # the real one counts
        "timeout-s": 1800.0,
        "per-device": True,
    },
    settings=at_every_scale({"testbed": {}}, smoke=SMOKE, paper={"rounds": 20, "rounds-per-step": 5, "eval-every": 5}),
    cost={"smoke": "1 min", "cpu": "20 min", "paper": "1 h"},
    seeds=(1,),
    engine="loopback",
)
