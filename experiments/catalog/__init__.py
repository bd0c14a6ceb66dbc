"""Named experiments. To add one, define it in a file of this folder and add it to ``EXPERIMENTS``."""

from experiments.catalog import drift, eclm, scale, spa, vq
from experiments.catalog.experiment import SCALES, Experiment, View

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        *(eclm.MAIN, eclm.QUICKSTART, eclm.TABLE1, eclm.HELD_OUT, eclm.ABLATION, eclm.KAPPA2, eclm.FEATURE_DRIFT),
        *(eclm.FIG1, eclm.FIG10, eclm.FIG12, eclm.FIG13, eclm.FIG14, eclm.FIG15A, eclm.FIG15B, eclm.FIG15C, eclm.NORM),
        eclm.SPECIALISATION,
        eclm.RECIPE,
        *(drift.DRIFT_SUITE, drift.DETECTION, scale.LATENCY, scale.LOOPBACK, eclm.POISON),
        *(vq.TEXT, spa.SPA_MODES, spa.SPA_GATE, spa.SPA_SIZE, spa.SPA_FEDERATED),
        *(vq.VQ_TABLE2, vq.VQ_TABLE3, vq.VQ_TABLE6, vq.VQ_TABLE7),
        *(vq.VQ_E1, vq.VQ_E2, vq.VQ_E2_MERGE, vq.VQ_E3, vq.VQ_ROUNDS, vq.VQ_E4, vq.VQ_E4_ROUNDS),
    )
}
VIEWS: dict[str, View] = {
    v.name: v for v in (eclm.MAIN_TRAFFIC, eclm.FIG7, eclm.FIG8, eclm.FIG9, eclm.FIG11, spa.SPA_COSTS, spa.SPA_EFFECT)
}

OTHER = Experiment(name="", summary="rounds of an experiment that is not in the catalog", settings={}, cost={})

__all__ = ["EXPERIMENTS", "OTHER", "SCALES", "VIEWS", "Experiment", "View"]
