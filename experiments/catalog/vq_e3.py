"""E3 of the VQ workload: devices that are more or less alike, through codes or through halves of precision."""

from experiments.catalog.experiment import Experiment, Overrides

COMMON: Overrides = {
    "workload": "vq",
    "dataset": "questions",
    "proxy-fraction": 0.1,
    "drift": "none",
    "devices": 10,
    "cohort": 10,
    "rounds": 6,
    "rounds-per-step": 6,
    "eval-every": 2,
    "local-epochs": 1,
    "adapt-epochs": 1,
    "dense-epochs": 6,
    "vocabulary": 4000,
    "strategies": "na,fedavg",
}
SKEWS: dict[str, Overrides] = {
    "alpha=0.1": {"partition": "dirichlet", "alpha": 0.1},
    "alpha=1": {"partition": "dirichlet", "alpha": 1.0},
    "iid": {"partition": "iid"},
}
EDGES: dict[str, Overrides] = {"codes": {}, "float16": {"vq-codes": 0, "vq-up": "float16"}}
SMOKE: Overrides = {
    "devices": 3, "cohort": 2, "rounds": 1, "rounds-per-step": 1, "eval-every": 1, "samples-min": 20,
    "samples-max": 24, "test-samples": 20, "dense-epochs": 1, "vocabulary": 500, "tokens": 24, "vq-hidden": 32,
    "vq-width": 16, "vq-groups": 4, "vq-codes": 16,
}  # fmt: skip
WHOLE: Overrides = {"rounds": 30, "rounds-per-step": 30, "eval-every": 5, "dense-epochs": 20}
SCALE: dict[str, Overrides] = {"smoke": SMOKE, "cpu": {}, "paper": WHOLE}


def _settings(scale: Overrides) -> dict[str, Overrides]:
    return {
        f"{skew} {edge}": {**scale, **own, **through} for skew, own in SKEWS.items() for edge, through in EDGES.items()
    }


VQ_E3 = Experiment(
    name="vq-e3",
    reference="",
    summary="the split transformer federated over ten devices of skewed, less skewed and like topics",
    common=COMMON,
    settings={scale: _settings(own) for scale, own in SCALE.items()},
    cost={"smoke": "1 min", "cpu": "10 min", "paper": "2 h"},
    seeds=(1, 2),
)
