"""Search for the values of run-config keys with the best accuracy on training seeds. Optuna chooses them.

A trial is a run with one value of each key. All trials share a results folder, in which a trial is a setting: its name
ends in its values. ``study.journal`` is Optuna's record.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import tomli_w
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.table import Table

from experiments.analysis.summary import summarize
from experiments.analysis.sweeps import label
from experiments.launch import ENGINES, PROJECT, Launch, progress_bar
from fl.config import Settings, SettingsError, flatten, nest
from fl.engines.grid import WorkerGrid
from fl.results.files import as_results_error, atomic_write, csv_text
from fl.results.reader import read_rounds
from fl.server.run import Abandoned, Event, NobodyAnswered
from fl.workloads.resolve import resolve

JOURNAL, TRIALS, BEST = "study.journal", "trials.csv", "best.toml"
WIDE = 10  # from this ratio of its ends on, a range above 0 is searched on a logarithmic scale
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
Resolver = Callable[[Mapping[str, str]], list[Settings]]


@dataclass(frozen=True)
class Axis:
    """One key and the values that it may have.

    Args:
        choices: the values, as text; empty: all numbers from ``low`` to ``high``; whole: only whole ones.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Read ``KEY=V1,V2,...`` or ``KEY=LOW..HIGH``.

        Raises:
            SettingsError: it is neither.
        """
        key, _, values = (part.strip() for part in text.partition("="))
        low, dots, high = values.partition("..")
        if key and dots:
            with suppress(ValueError):
                ends, whole = (float(low), float(high)), low.strip().isdigit() and high.strip().isdigit()
                if ends[0] < ends[1] < math.inf:
                    return cls(key, (), *ends, whole)
        found = tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
        if not key or dots or len(found) < 2:
            raise SettingsError(
                f"--over {text}: write at least two values, KEY=V1,V2,..., or a range of numbers, KEY=LOW..HIGH, e.g. "
                "--over eclm.top-k=2,4,6 or --over client.lr=0.001..0.1"
            )
        return cls(key, found)

    @property
    def distribution(self) -> BaseDistribution:
        """Return what Optuna draws from."""
        log = self.low > 0 and self.high >= WIDE * self.low
        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=log)
        return FloatDistribution(self.low, self.high, log=log)

    @property
    def ends(self) -> tuple[str, ...]:
        """Return the values of which all must be possible."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def text(self, value: Any) -> str:
        """Write a value of the distribution for the run-config; numbers of a range get three significant digits."""
        if self.choices:
            return str(value)
        return str(round(value)) if self.whole else repr(min(max(float(f"{value:.3g}"), self.low), self.high))

    def holds(self, value: Any) -> Any:
        """Return a value of the run-config as one of the distribution; None if it is not among them."""
        if self.choices:
            return next((choice for choice in self.choices if _same(choice, value)), None)
        inside = isinstance(value, int | float) and self.low <= value <= self.high
        return (int(value) if self.whole else float(value)) if inside else None


class Search:
    """The trials of a folder.

    Args:
        axes: what is varied; row: the row of ``rounds.csv`` whose ``accuracy_mean`` is maximised.
        settings: the settings with some values of the keys.
        out: results folder; about: the rest of the command, which must not change when a search continues.

    Raises:
        SettingsError: the folder holds another search, or results of something else.
    """

    def __init__(
        self, axes: Sequence[Axis], row: str, settings: Resolver, out: Path, about: Mapping[str, Any], overwrite: bool
    ) -> None:
        self.axes, self.row, self.settings, self.out, self.fresh = axes, row, settings, out, overwrite
        if overwrite:
            for name in (JOURNAL, TRIALS, BEST):
                (out / name).unlink(missing_ok=True)
        elif (out / "rounds.csv").exists() and not (out / JOURNAL).exists():
            raise SettingsError(f"'{out}' holds results that are no search: choose another folder by --out")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with as_results_error(f"write to '{out}'"):
            out.mkdir(parents=True, exist_ok=True)
            self.study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(out / JOURNAL))), study_name="tune",
                direction="maximize", load_if_exists=True,
            )  # fmt: skip
        now = {**about, "over": {axis.key: list(axis.ends) for axis in axes}}
        if (then := self.study.user_attrs.get("about", now)) != now:
            changed = ", ".join(sorted(key for key in {*then, *now} if then.get(key) != now.get(key)))
            raise SettingsError(
                f"'{out}' holds a search with other values of {changed}: choose another folder by --out"
            )
        self.study.set_user_attr("about", now)

    @property
    def ended(self) -> list[FrozenTrial]:
        """Return the trials that count, in order."""
        return [t for t in self.study.get_trials(deepcopy=False) if t.state in ENDED or "error" in t.user_attrs]

    @property
    def best(self) -> FrozenTrial | None:
        """Return the complete trial with the best accuracy; of equal ones the first."""
        complete = [trial for trial in self.ended if trial.state == TrialState.COMPLETE]
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    def values(self, trial: FrozenTrial | Trial) -> dict[str, str]:
        """Return the values of a trial for the run-config."""
        return {axis.key: axis.text(trial.params[axis.key]) for axis in self.axes}

    def run(self, trials: int, prune: bool, engine: str, workers: int, address: str, console: Console) -> None:
        """Run trials until ``trials`` of them have ended, or every combination of listed values has.

        Raises:
            SettingsError, DataError, ResultsError, EngineFailed: see `experiments.launch.launch`.
        """
        trials = self._prepare(trials)
        self.study.pruner = optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner()
        with progress_bar(console) as progress:
            bar = progress.add_task("starting", total=trials, completed=len(self.ended), unit="trials")
            while len(self.ended) < trials:
                # seeded by the trial, so that a search that was cut short chooses as one that was not
                self.study.sampler = optuna.samplers.TPESampler(seed=len(self.ended))
                trial = self.study.ask({axis.key: axis.distribution for axis in self.axes})
                said = f"trial {trial.number} {label(self.values(trial))}"

                def tick(what: str, said: str = said) -> None:
                    progress.update(bar, description=f"{said}  {what}")

                self._trial(trial, engine, workers, address, console, tick)
                progress.update(bar, completed=len(self.ended))
                last, best = self.ended[-1], self.best
                note = f"   best {percent(best.value)}" if best else ""
                how = last.user_attrs.get("error") or f"{percent(last.value)} {last.state.name.lower()}"
                console.print(f"{said}  {how}{note}", highlight=False)
                self.write()

    def write(self) -> None:
        """Write ``trials.csv`` and, once a trial is complete, ``best.toml``."""
        head = ("trial", "state", "accuracy_mean", "evaluations", *(axis.key for axis in self.axes))
        rows = [
            (
                trial.number, "failed" if "error" in trial.user_attrs else trial.state.name.lower(),
                math.nan if trial.value is None else trial.value, max(trial.intermediate_values, default=0),
                *self.values(trial).values(),
            )
            for trial in self.ended
        ]  # fmt: skip
        with as_results_error(f"write to '{self.out}'"):
            atomic_write(self.out / TRIALS, csv_text([head, *rows]))
            if self.best:
                found = self._config(self.values(self.best))
                best = {axis.key: found[axis.key] for axis in self.axes}
                atomic_write(self.out / BEST, tomli_w.dumps(nest(best)))

    def table(self, most: int = 10) -> Table:
        """Return the best trials as a table for the terminal."""
        table = Table("trial", "accuracy", "evaluations", *(axis.key for axis in self.axes), box=None)
        complete = [trial for trial in self.ended if trial.state == TrialState.COMPLETE]
        for trial in sorted(complete, key=lambda t: (-(t.value or 0), t.number))[:most]:
            evaluations = str(max(trial.intermediate_values, default=0))
            table.add_row(str(trial.number), percent(trial.value), evaluations, *self.values(trial).values())
        return table

    def _prepare(self, trials: int) -> int:
        """Queue what a killed search was at, the present values, and all of few combinations; return how many end."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
        if not self.study.get_trials(deepcopy=False):
            found = self._config({})
            present = {axis.key: axis.holds(found.get(axis.key)) for axis in self.axes}
            if None not in present.values():
                self.study.enqueue_trial(present)
        if all(axis.choices for axis in self.axes):
            every = list(product(*(axis.choices for axis in self.axes)))
            if len(every) <= trials:
                for point in every:
                    queued = dict(zip((axis.key for axis in self.axes), point, strict=True))
                    self.study.enqueue_trial(queued, skip_if_exists=True)
                return len(every)
        return trials

    def _trial(
        self, trial: Trial, engine: str, workers: int, address: str, console: Console, tick: Callable[[str], None]
    ) -> None:
        """Run a trial and tell the study how it went."""
        point = self.values(trial)
        settings = [one.changed({"setting": one.setting + label(point)}) for one in self.settings(point)]
        runs = [resolve(one) for one in settings]
        before, scores = self._scores(settings), dict[tuple[str, int, int], float]()

        def observe(setting: str, event: Event, of: WorkerGrid | None = None) -> None:
            tick(f"seed {event.seed}  {event.what}  {event.at}/{event.of}")
            if event.kind in ("skipped", "resumed"):  # rounds before an interruption count too
                for key, score in before.items():
                    if key[:2] == (setting, event.seed) and key[2] <= event.at:
                        scores[key] = score
            for row in event.rows:
                if row.method == self.row and row.evaluated:
                    scores[setting, event.seed, event.at] = row.accuracy_mean
                    trial.report(sum(scores.values()) / len(scores), len(scores))
                    if trial.should_prune():
                        raise Abandoned

        order = Launch(runs, workers, address, self.out, self.fresh, console, observe, PROJECT)
        self.fresh = False
        try:
            ENGINES[engine](order)
        except Abandoned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except NobodyAnswered as error:  # e.g. a learning rate with which every client diverges
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, self._accuracy(settings))

    def _config(self, point: Mapping[str, str]) -> dict[str, Any]:
        """Return all keys of the first setting, with defaults."""
        return flatten(resolve(self.settings(point)[0]).config())

    def _scores(self, settings: Sequence[Settings]) -> dict[tuple[str, int, int], float]:
        if not (self.out / "rounds.csv").exists() or self.fresh:
            return {}
        rows = read_rounds(self.out)
        rows = rows[(rows["method"] == self.row) & (rows["evaluated"] > 0)]
        rows = rows[rows["setting"].isin([one.setting for one in settings])]
        keys = zip(rows["setting"], map(int, rows["seed"]), map(int, rows["round"]), strict=True)
        return dict(zip(keys, map(float, rows["accuracy_mean"]), strict=True))

    def _accuracy(self, settings: Sequence[Settings]) -> float:
        """Return ``accuracy_mean`` of the summary, mean over settings and seeds."""
        rows = read_rounds(self.out)
        summary = summarize(rows[rows["setting"].isin([one.setting for one in settings])])
        chosen = (summary["method"] == self.row) & (summary["metric"] == "accuracy_mean")
        return float(summary[chosen]["value"].mean())


def percent(share: float | None) -> str:
    """Write an accuracy."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _same(text: str, value: Any) -> bool:
    try:
        return float(text) == float(value)
    except (TypeError, ValueError):
        return text.lower() == str(value).lower()
