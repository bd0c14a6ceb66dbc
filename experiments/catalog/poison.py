"""Devices that lie: what robust merging saves of the accuracy, and what it costs where nobody lies."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides
from experiments.catalog.quickstart import COMMON, SETTINGS, SMOKE
from models.aggregation.robust import RULES

SHARES = {"smoke": (0.0, 0.25), "cpu": (0.0, 0.1, 0.3), "paper": (0.0, 0.1, 0.2, 0.3)}
METHODS: Overrides = {"strategies": "fedavg,eclm", "adapt-epochs": 0}  # what is merged is what is scored
SHORT: Overrides = {"devices": 20, "rounds": 10}
SCALE: dict[str, Overrides] = {"smoke": SMOKE, "cpu": SHORT, "paper": {}}

POISON = Experiment(
    name="poison",
    reference="",
    summary="10 to 30 % of the devices reverse their updates, five times as long: plain and robust merging",
    common={**COMMON, **SETTINGS["subject"], **METHODS},
    settings={
        scale: {
            f"{rule} poisoned={share:g}": {**SCALE[scale], "robust": rule, "poisoned": share, "trim": 0.3}
            for rule in RULES
            for share in SHARES[scale]
        }
        for scale in SCALES
    },
    cost={"smoke": "20 s", "cpu": "3 min", "paper": "10 min"},
    plot="compared",
    table=("accuracy_mean", "final_accuracy_mean", "global_accuracy"),
    sweep=True,
    note="Scores are of all devices, on their own data, and poisoned devices score honestly. Nobody adapts, so that "
    "'eclm' is 'eclm-derive'.",
)
