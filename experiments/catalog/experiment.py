"""What a named experiment is: a few settings of the run-config, at several scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl.config import Settings

Overrides = Mapping[str, str | int | float | bool]
SCALES = ("smoke", "cpu", "paper")


@dataclass(frozen=True)
class Experiment:
    """A named experiment.

    Args:
        name: on the command line, in the CSVs, of the results folder.
        summary: one line for `list`.
        common: run-config keys that all its settings share.
        settings: what each setting changes, by name.
        scales: what a scale changes: 'smoke' (seconds, does it run), 'cpu' (two cores), 'paper' (a GPU and patience).
        seeds: unless the command line says otherwise.
        plot: which figure, of `experiments.plots`.
        paper: values that the paper reports, {(setting, method): {metric: value}}.
    """

    name: str
    summary: str
    common: Overrides
    settings: Mapping[str, Overrides]
    scales: Mapping[str, Overrides] = field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)
    plot: str = "overview"
    paper: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)

    def resolve(self, scale: str, seeds: Sequence[int], changes: Mapping[str, Any]) -> list[Settings]:
        """One validated `Settings` for each setting.

        Raises:
            fl.config.SettingsError: the changes of the command line make no sense.
        """
        return [
            Settings.parse(
                {
                    **self.common,
                    **overrides,
                    **self.scales.get(scale, {}),
                    "experiment": self.name,
                    "setting": setting,
                    "seeds": ",".join(map(str, seeds)),
                    **changes,
                }
            )
            for setting, overrides in self.settings.items()
        ]
