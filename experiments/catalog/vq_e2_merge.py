"""E2 of the VQ workload, federated: one codebook of all devices' statistics, the mean of theirs, or each its own."""

from experiments.catalog.experiment import SCALES, Experiment, Overrides
from experiments.catalog.vq_e3 import COMMON, SCALE, SKEWS

MERGES: dict[str, Overrides] = {
    "statistics": {},
    "vectors": {"vq-merge": "vectors"},
    "its own": {"vq-merge": "nothing"},
}

VQ_E2_MERGE = Experiment(
    name="vq-e2-merge",
    reference="",
    summary="the codebook of ten devices: from the sum of their statistics, the mean of theirs, or each its own",
    common={**COMMON, "strategies": "fedavg"},
    settings={
        scale: {
            f"{skew} {merge}": {**SCALE[scale], **SKEWS[skew], **own}
            for skew in ("alpha=0.1", "iid")
            for merge, own in MERGES.items()
        }
        for scale in SCALES
    },
    cost={"smoke": "1 min", "cpu": "15 min", "paper": "2 h"},
    seeds=(1, 2, 3),
    plot="accuracy",
)
