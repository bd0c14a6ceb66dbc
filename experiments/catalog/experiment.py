"""What a named experiment is: a few settings of the run-config, at several scales."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl.config.settings import Settings, SettingsError

Overrides = Mapping[str, str | int | float | bool]
SCALES = ("smoke", "cpu", "paper")
OVERVIEW = (
    "accuracy_mean", "accuracy_std", "accuracy_p10", "up_mb_per_round", "down_mb_per_round", "virtual_min", "memory_mb",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """A named experiment: methods that run for rounds, or a study of the cloud models that needs none.

    Args:
        name: on the command line, in the CSVs, of the results folder.
        reference: the table or figure of the ECLM paper that it repeats; empty if there is none.
        summary: one line for `list`.
        settings: at each scale, 'smoke' (does it run), 'cpu' (two cores), 'paper' (as in the paper), the
            settings by name, each with the run-config keys that it sets.
        cost: about how long each scale takes with all seeds, in words.
        common: run-config keys that all its settings share.
        seeds: unless the command line says otherwise.
        study: which of `experiments.studies` runs; empty: the rounds of the methods.
        engine: on which it runs unless the command line says otherwise.
        plot: which figure, of `experiments.plots`.
        table: metrics of `summary.csv` in the table, one column each.
        sweep: settings are points of a sweep, 'group key=value': targets are shared by a group.
        paper: values that the paper reports, {(setting, method): {metric: value}}.
        note: what the paper says in words, put under the table.
    """

    name: str
    reference: str
    summary: str
    settings: Mapping[str, Mapping[str, Overrides]]
    cost: Mapping[str, str]
    common: Overrides = field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)
    study: str = ""
    engine: str = "local"
    plot: str = "overview"
    table: Sequence[str] = OVERVIEW
    sweep: bool = False
    paper: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    note: str = ""

    def resolve(
        self, scale: str, seeds: Sequence[int], changes: Mapping[str, Any], only: Sequence[str] = ()
    ) -> list[Settings]:
        """One validated `Settings` for each setting.

        Args:
            changes: run-config keys of the command line, which win over everything.
            only: settings whose name holds one of these texts, in whole words: 'cifar10' is not in 'cifar100 m=10';
                empty: all.

        Raises:
            fl.config.settings.SettingsError: the changes make no sense, a text of ``only`` is in no setting's name, or several
                settings would get one name.
        """
        settings = self.settings[scale]

        def holds(name: str, text: str) -> bool:
            return f" {text} " in f" {name} "

        for text in only:
            if not any(holds(name, text) for name in settings):
                raise SettingsError(f"no setting of '{self.name}' is called '{text}'; known: {', '.join(settings)}")
        chosen = [name for name in settings if not only or any(holds(name, text) for text in only)]
        if "setting" in changes and len(chosen) > 1:
            raise SettingsError(
                f"setting = {changes['setting']!r} would be the name of {len(chosen)} settings ({', '.join(chosen)}); "
                "choose one of them with --settings"
            )
        return [
            Settings.parse(
                {
                    **self.common,
                    **settings[setting],
                    "experiment": self.name,
                    "setting": setting,
                    "seeds": ",".join(map(str, seeds)),
                    **changes,
                }
            )
            for setting in chosen
        ]

    def order(self, present: Iterable[str]) -> list[str]:
        """All settings of the scale that has most of those that are present."""
        names = set(present)
        scales = [list(of_scale) for of_scale in self.settings.values()]
        return max(scales, key=lambda of_scale: len(names.intersection(of_scale)), default=[])


@dataclass(frozen=True)
class View:
    """Another figure and table of an experiment's runs, in its results folder: Fig. 7 of table1.

    Args:
        of: the experiment that runs.
        others: as in `Experiment`.
    """

    name: str
    reference: str
    summary: str
    of: str
    plot: str
    table: Sequence[str]
    note: str = ""


def at_every_scale(settings: Mapping[str, Overrides], **scales: Overrides) -> dict[str, dict[str, Overrides]]:
    """The same settings at every scale, each with what the scale changes."""
    return {scale: {name: {**own, **scales.get(scale, {})} for name, own in settings.items()} for scale in SCALES}
