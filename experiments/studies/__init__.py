"""Studies: experiments without rounds. A new one is a file here and a line in ``STUDIES``."""

from experiments.studies.boundary import BOUNDARY
from experiments.studies.latency import LATENCY
from experiments.studies.routing import ROUTING
from experiments.studies.spa import SPA_GATE, SPA_MODES
from experiments.studies.spa_size import SPA_SIZE
from experiments.studies.study import FILE, Study, StudyResults, read_study, summarize_study
from experiments.studies.submodels import SUBMODELS
from experiments.studies.tasks import TASKS

STUDIES: dict[str, Study] = {
    "routing": ROUTING,
    "submodels": SUBMODELS,
    "latency": LATENCY,
    "spa-modes": SPA_MODES,
    "spa-gate": SPA_GATE,
    "spa-size": SPA_SIZE,
    "boundary": BOUNDARY,
    "tasks": TASKS,
}

__all__ = ["FILE", "STUDIES", "Study", "StudyResults", "read_study", "summarize_study"]
