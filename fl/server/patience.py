"""Early stopping: when a method has trained enough."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fl.results.rows import Row


@dataclass
class Patience:
    """Count evaluations without a better mean accuracy.

    Args:
        limit: evaluations in a row after which training stops; 0: never.
        best: best mean accuracy of each row of the method.
        since: evaluations since one of them improved.
    """

    limit: int
    best: dict[str, float] = field(default_factory=dict)
    since: int = 0

    @property
    def over(self) -> bool:
        """Whether training stops."""
        return 0 < self.limit <= self.since

    def see(self, rows: Mapping[str, Row]) -> None:
        """Count an evaluation; rows of a round without scores do not count."""
        scores = {report: row.accuracy_mean for report, row in rows.items() if row.evaluated}
        better = {report: score for report, score in scores.items() if score > self.best.get(report, -1.0)}
        self.best |= better
        self.since = 0 if better else self.since + bool(scores)
