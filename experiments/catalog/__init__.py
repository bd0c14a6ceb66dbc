"""Named experiments. A new one is a file here and a line in ``EXPERIMENTS``."""

from experiments.catalog.ablation import ABLATION
from experiments.catalog.experiment import SCALES, Experiment, View
from experiments.catalog.feature_drift import FEATURE_DRIFT
from experiments.catalog.fig1 import FIG1
from experiments.catalog.fig10 import FIG10, FIG11
from experiments.catalog.fig12 import FIG12
from experiments.catalog.fig13 import FIG13
from experiments.catalog.fig14 import FIG14
from experiments.catalog.fig15 import FIG15A, FIG15B, FIG15C
from experiments.catalog.held_out import HELD_OUT
from experiments.catalog.latency import LATENCY
from experiments.catalog.loopback import LOOPBACK
from experiments.catalog.norm import NORM
from experiments.catalog.poison import POISON
from experiments.catalog.quickstart import MAIN, QUICKSTART
from experiments.catalog.spa import SPA_COSTS, SPA_EFFECT, SPA_FEDERATED, SPA_GATE, SPA_MODES, SPA_SIZE
from experiments.catalog.table1 import FIG7, FIG8, FIG9, TABLE1
from experiments.catalog.text import TEXT
from experiments.catalog.vq_e1 import VQ_E1
from experiments.catalog.vq_e2 import VQ_E2
from experiments.catalog.vq_e2_merge import VQ_E2_MERGE
from experiments.catalog.vq_e3 import VQ_E3
from experiments.catalog.vq_e4 import VQ_E4
from experiments.catalog.vq_e4_rounds import VQ_E4_ROUNDS
from experiments.catalog.vq_tables import VQ_TABLE2, VQ_TABLE3, VQ_TABLE6, VQ_TABLE7

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        MAIN,
        QUICKSTART,
        TABLE1,
        HELD_OUT,
        ABLATION,
        FEATURE_DRIFT,
        FIG1,
        FIG10,
        FIG12,
        FIG13,
        FIG14,
        FIG15A,
        FIG15B,
        FIG15C,
        NORM,
        LATENCY,
        LOOPBACK,
        POISON,
        TEXT,
        SPA_MODES,
        SPA_GATE,
        SPA_SIZE,
        SPA_FEDERATED,
        VQ_TABLE2,
        VQ_TABLE3,
        VQ_TABLE6,
        VQ_TABLE7,
        VQ_E1,
        VQ_E2,
        VQ_E2_MERGE,
        VQ_E3,
        VQ_E4,
        VQ_E4_ROUNDS,
    )
}
VIEWS: dict[str, View] = {v.name: v for v in (FIG7, FIG8, FIG9, FIG11, SPA_COSTS, SPA_EFFECT)}

__all__ = ["EXPERIMENTS", "SCALES", "VIEWS", "Experiment", "View"]
