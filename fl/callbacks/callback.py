"""The base class of callbacks, and how a run calls them."""

from collections.abc import Mapping, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.common.logger import log

from fl.results.rows import Row
from partitions.errors import one_line


class Callback:
    """Follow a run. Override what you need, and name the class in ``callbacks = "my_app.module:Class"``.

    A run calls it with rows of ``rounds.csv``; a row belongs to one setting, method and seed. Rows are shown when their
    round is over, just before they are on disk. A callback only looks: it cannot change a number.

    Args:
        out: results folder.
        settings: the run-config of the setting, as flat dotted keys with defaults.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.settings = out, settings

    def round_end(self, row: Row) -> None:
        """A round is over."""

    def evaluation(self, row: Row) -> None:
        """A round is over after which clients were scored; follows `round_end`."""

    def run_end(self, row: Row) -> None:
        """The last round of a method and seed is over."""


class Callbacks:
    """All callbacks of a setting. One that raises an error is reported and left out from then on."""

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        self.callbacks = dict(callbacks)

    def round_end(self, rows: Sequence[Row], last: bool) -> None:
        """Call all of them at the end of a round."""
        for name, callback in [*self.callbacks.items()]:
            try:
                for row in rows:
                    callback.round_end(row)
                    if row.evaluated:
                        callback.evaluation(row)
                    if last:
                        callback.run_end(row)
            except Exception as error:  # a tracker whose server is away must not end a run of days
                said = one_line(error) or type(error).__name__
                log(WARNING, "callback '%s' failed and is left out from now on: %s", name, said)
                del self.callbacks[name]
