"""Fig. 12: routing of classes to modules."""

from experiments.catalog.experiment import SCALES, Experiment
from experiments.catalog.tasks import setting

FIG12 = Experiment(
    name="fig12",
    reference="Fig. 12",
    summary="which modules four CIFAR-10 classes activate, and along which paths",
    settings={
        scale: {task: setting(task, scale) for task in (("har",) if scale == "smoke" else ("cifar10",))}
        for scale in SCALES
    },
    cost={"smoke": "5 s", "cpu": "8 min", "paper": "GPU hours"},
    study="routing",
    plot="routing",
    table=("overlap",),
    note="Paper: similar classes share modules, different ones do not; it reports no number. The overlap "
    "of two classes is sum_n min(H[a, n], H[b, n]), 1 if they use the same modules alike.",
)
