"""How clients fare with the model that they use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl.devices.clock import link_seconds, train_seconds
from fl.messages import records
from fl.server.costs import Clocks, weighted
from fl.server.profiles import claimed_macs
from models.training.loop import MAX_LOSS
from strategies.core.strategy import Measure, Strategy, TrainTask

MEASURES: tuple[Measure, ...] = ("delivered", "adapted")


@dataclass(frozen=True)
class Score:
    """Accuracy, balanced accuracy and mean loss of a model on one client's test draw."""

    accuracy: float
    balanced_accuracy: float
    loss: float

    def check(self) -> None:
        """Raise ValueError if the values are impossible."""
        most = MAX_LOSS * (1 + 1e-6)  # a mean of single-precision losses, each at most `MAX_LOSS`
        if not (0 <= self.accuracy <= 1 and 0 <= self.balanced_accuracy <= 1 and 0 <= self.loss <= most):
            raise ValueError(f"accuracy {self.accuracy}, balanced accuracy {self.balanced_accuracy}, loss {self.loss}")


@dataclass(frozen=True)
class ClientScore:
    """How one client fares.

    Args:
        samples: in its test draw.
        scores: of the model as delivered and after adaptation.
        deliver_bytes: bytes that brought the model.
        share: of the cloud model's parameters; macs: of one forward pass of one sample.
        memory_bytes: training memory of adaptation.
        seconds: virtual, from the client's query to the model that is scored.
        former: accuracy on the test draw of the step before, if that was asked.
        measures: of the workload.
    """

    client: int
    samples: int
    scores: Mapping[Measure, Score]
    deliver_bytes: int
    share: float
    macs: float
    memory_bytes: float
    seconds: Mapping[Measure, float]
    former: Mapping[Measure, float] | None
    measures: Mapping[Measure, Mapping[str, float]]


def means(scores: Sequence[ClientScore], which: Measure) -> dict[str, float]:
    """Return the mean over clients of what the workload measures of the models scored."""
    return weighted((1, score.measures[which]) for score in scores)


def read_score(
    method: Strategy,
    client: int,
    task: TrainTask,
    report: Mapping[str, Any],
    deliver_bytes: int,
    clocks: Clocks,
    most_examples: int,
    known_measures: frozenset[str],
) -> tuple[ClientScore, int]:
    """Read a client's score, and how many training samples it has.

    Raises:
        ValueError, KeyError, TypeError: a value is impossible.
    """
    costs = method.models.costs["modular" if task.model.architecture == "modular" else "dense"]
    scores = {which: Score(*map(float, report[which])) for which in MEASURES}
    for score in scores.values():
        score.check()
    cost, hardware = method.cost(task, report), clocks.hardware[client]
    samples, examples = int(report["num-examples"]), int(report["examples"])
    if samples < 0 or not 0 <= examples <= most_examples:
        raise ValueError(f"{samples} and {examples} examples, a client has at most {most_examples}")
    former = None
    if "former" in report:
        former = dict(zip(MEASURES, np.array(report["former"], dtype=float).tolist(), strict=True))
        if not all(0 <= accuracy <= 1 for accuracy in former.values()):
            raise ValueError(f"former accuracy {former}")
    most = method.trial_macs(task)
    trial_macs = claimed_macs(report, most * most_examples) if most else 0.0
    deliver_bytes = deliver_bytes if task.model.state is not None else 0
    ready = clocks.step.get(client, 0.0) + link_seconds(hardware, deliver_bytes) + trial_macs / hardware.mac_per_s
    seconds = {"delivered": ready, "adapted": ready + train_seconds(hardware, cost.macs, examples, task.epochs)}
    whole = costs.whole
    return ClientScore(
        client, samples, scores, deliver_bytes, cost.params / whole.params, cost.macs, cost.memory, seconds,  # type: ignore[arg-type]
        former, {which: records.measures(report, which, known_measures) for which in MEASURES},  # type: ignore[arg-type]
    ), examples  # fmt: skip
