"""Table 1's methods where nothing was chosen: other data, other seeds, and no other change."""

from experiments.catalog.experiment import SCALES, Experiment
from experiments.catalog.table1 import TABLE1
from experiments.catalog.tasks import ALL, setting

PIXELS = {"smoke": 14, "cpu": 14, "paper": 0}  # CIFAR-10's 16 are not a divisor of 28

HELD_OUT = Experiment(
    name="held-out",
    reference="",
    summary="table1's methods on Fashion-MNIST, with other seeds; CIFAR-10's settings, of which none was chosen here",
    settings={
        scale: {
            part: setting(f"cifar10 {part}", scale, strategies=ALL, dataset="fashion-mnist", image_size=PIXELS[scale])
            for part in ("m=2", "m=5")
        }
        for scale in SCALES
    },
    cost={"smoke": "10 min", "cpu": "3 h", "paper": "GPU days"},
    seeds=(11, 12, 13),
    plot="accuracy",
    table=TABLE1.table,
)
