"""Named experiments: settings of the run-config by name, at three scales."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl.config.settings import Settings, SettingsError

Overrides = Mapping[str, str | int | float | bool]
SCALES = ("smoke", "cpu", "paper")
OVERVIEW = (
    "accuracy_mean", "accuracy_std", "accuracy_p10", "up_mb_per_round", "down_mb_per_round", "virtual_min", "memory_mb",
)  # fmt: skip
SPLIT_OVERVIEW = (
    "accuracy_mean", "accuracy_p10", "infer_up", "infer_down", "train_up", "train_down", "up_mb_per_round", "memory_mb",
)  # fmt: skip


def columns(table: Sequence[str], metrics: Collection[str]) -> Sequence[str]:
    """Return the columns of a table; without a choice of its own, a split model is shown by what crosses its cut.

    Args:
        metrics: those that the summary has.
    """
    return SPLIT_OVERVIEW if table == OVERVIEW and {"train_up", "infer_up"} & {*metrics} else table


@dataclass(frozen=True)
class Margins:
    """Average margins of some methods over rivals.

    Args:
        methods: whose margins; rivals: metric -> the methods whose mean accuracy is subtracted.
        beyond: settings that the paper does not have; the mean over settings leaves them out.
        paper: metric -> the paper's mean over its rows.
    """

    methods: Sequence[str]
    rivals: Mapping[str, Sequence[str]]
    beyond: Sequence[str] = ()
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A named experiment: methods that train in rounds, or a study of pretrained models without rounds.

    Args:
        name: name on the command line, in the CSVs and of the results folder.
        reference: table or figure of the paper that the experiment repeats; empty if there is none.
        summary: one line for `list`.
        settings: {scale: {setting: run-config keys}}. Scale 'smoke' only checks that everything runs, 'cpu' is for two
            cores, 'paper' has the sizes of the paper.
        cost: rough duration of each scale with all seeds, in words.
        common: run-config keys that all settings share.
        seeds: default seeds.
        study: name in `experiments.studies.STUDIES`; empty: the methods train in rounds.
        engine: default engine.
        plot: name of the figure in `experiments.plots.PLOTS`.
        shown: the methods in figure.png; figure-all.png then has all of them. Empty: figure.png has all.
        table: metrics of `summary.csv` to show as columns of the table.
        sweep: whether the settings are points of a sweep, 'group key=value'; the points of a group share their target.
        paper: values in the paper, {(setting, method): {metric: value}}.
        margins: over means of rivals, in the summary and below the table; None: none.
        note: text below the table, e.g. what the paper reports in words.
        tested: methods that are ranked (`experiments.analysis.significance`); the first is tested against each of the
            others.
    """

    name: str
    summary: str
    settings: Mapping[str, Mapping[str, Overrides]]
    cost: Mapping[str, str]
    reference: str = ""
    common: Overrides = field(default_factory=dict)
    seeds: Sequence[int] = (1, 2, 3)
    study: str = ""
    engine: str = "local"
    plot: str = "overview"
    shown: Sequence[str] = ()
    table: Sequence[str] = OVERVIEW
    sweep: bool = False
    paper: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    margins: Margins | None = None
    note: str = ""
    tested: Sequence[str] = ()

    def resolve(
        self, scale: str, seeds: Sequence[int], changes: Mapping[str, Any], only: Sequence[str] = ()
    ) -> list[Settings]:
        """Return one validated `Settings` for each setting.

        Args:
            changes: run-config keys from the command line; they override those of the experiment.
            only: select the settings whose name contains one of these texts as whole words ('cifar10' does not match
                'cifar100 m=10'); empty: all.

        Raises:
            fl.config.settings.SettingsError: a change is invalid, a text of ``only`` matches no setting, or the changes
                give several settings the same name.
        """
        settings = self.settings[scale]

        def matches(name: str, text: str) -> bool:
            return f" {text} " in f" {name} "

        for text in only:
            if not any(matches(name, text) for name in settings):
                raise SettingsError(f"no setting of '{self.name}' is called '{text}'; known: {', '.join(settings)}")
        chosen = [name for name in settings if not only or any(matches(name, text) for text in only)]
        if "setting" in changes and len(chosen) > 1:
            raise SettingsError(
                f"setting = {changes['setting']!r} would be the name of {len(chosen)} settings ({', '.join(chosen)}); "
                "choose one of them with --settings"
            )
        from fl.workloads.resolve import without_unused  # loads torch, which drawing a CSV does not need

        own = {"experiment": self.name, "seeds": ",".join(map(str, seeds))}
        merged = [{**self.common, **settings[name], **own, "setting": name, **changes} for name in chosen]
        return [without_unused(Settings.parse(values), changes) for values in merged]

    def order(self, present: Iterable[str]) -> list[str]:
        """Return all settings, in order, of the scale that shares most settings with ``present``."""
        names = set(present)
        scales = [list(of_scale) for of_scale in self.settings.values()]
        return max(scales, key=lambda of_scale: len(names.intersection(of_scale)), default=[])


@dataclass(frozen=True)
class View:
    """Another figure and table from the runs of an experiment, in its results folder: e.g. Fig. 7 from table1.

    Args:
        of: name of the experiment.
        shown: the methods in the figure; empty: all.

    The other fields mean the same as in `Experiment`.
    """

    name: str
    reference: str
    summary: str
    of: str
    plot: str
    table: Sequence[str]
    note: str = ""
    shown: Sequence[str] = ()


def at_every_scale(settings: Mapping[str, Overrides], **scales: Overrides) -> dict[str, dict[str, Overrides]]:
    """Repeat the settings at every scale; ``scales`` gives what a scale changes in all of them."""
    return {scale: {name: {**keys, **scales.get(scale, {})} for name, keys in settings.items()} for scale in SCALES}
