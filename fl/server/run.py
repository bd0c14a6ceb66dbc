"""The round loop: the same on every engine, for every method."""

import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from logging import INFO, WARNING
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.callbacks import CALLBACKS, Callbacks
from fl.client.handlers import state_root
from fl.config import SettingsError, flatten
from fl.config.sections import SECTIONS
from fl.engines.accelerator import gpu_name
from fl.engines.engine import Engine, as_engine
from fl.engines.proxy import ThrottledGrid
from fl.results.rows import CUT, DeviceRow, MeasureRow, Row
from fl.results.saved import save_model
from fl.results.versions import versions
from fl.results.writer import ResultsWriter
from fl.server.checkpoint import Checkpoints, dumps
from fl.server.fleet import Fleet
from fl.server.measures import NAN, forgetting
from fl.server.patience import Patience
from fl.server.rounds import Rounds
from fl.server.scores import ClientScore, means
from fl.server.split import SplitGrid
from fl.workloads.resolve import Run, default_tables
from fl.workloads.state_store import forget
from models.submodel import State
from partitions.errors import UnknownName, UserError, missing_package
from partitions.root import probe
from strategies.core.strategy import Measure, Strategy


class NobodyAnswered(UserError):
    """No client of a round could be scored; the message is one sentence for the user."""


class Abandoned(Exception):
    """An observer raises it if a run is not worth its remaining rounds. The rows so far stay, and nothing else."""


@dataclass(frozen=True)
class Event:
    """Something that a progress display may show.

    Args:
        kind: 'offline' (the cloud trains), 'round' (a round is over), 'skipped' (finished in an earlier run), 'resumed'
            (continues after a round of an earlier run).
        what: the cloud model or the method; at, of: epochs or rounds done and in all; rows: of the round.
    """

    kind: Literal["offline", "round", "skipped", "resumed"]
    seed: int
    what: str
    at: int
    of: int
    rows: tuple[Row, ...] = ()


Observer = Callable[[Event], None]


def open_results(runs: Sequence[Run], out: Path, overwrite: bool) -> ResultsWriter:
    """Open the one folder of all settings of an experiment.

    Raises:
        SettingsError, partitions.DataError, ResultsError: a setting is impossible, or does not fit the folder.
    """
    first = runs[0]
    for run in runs:
        for seed in run.settings.seed_list:
            run.workload.prepare(seed)  # finds everything that can be wrong before the first epoch
    tables = {run.settings.setting: run.record() for run in runs}
    made = [versions(gpu_name(first.settings.accelerator))]
    return ResultsWriter(
        out, first.settings.experiment, tables, first.settings.seed_list, first.reports, overwrite=overwrite, made=made,
        defaults=flatten(default_tables()), general=SECTIONS,
    )  # fmt: skip


def complete(run: Run, results: ResultsWriter, method: str, seed: int) -> bool:
    """Return whether ``results`` holds every row of a method and seed."""
    reports = run.methods[method].strategy.reports
    return all((run.settings.setting, report, seed) in results.done() for report in reports)


def execute(run: Run, grid: Grid, results: ResultsWriter, observe: Observer = lambda event: None) -> None:
    """Run every method and seed, one after the other.

    Runs that ``results`` holds complete are skipped; one that was cut short continues from its last checkpoint.

    Raises:
        SettingsError, partitions.DataError, ResultsError: before any client is asked for anything.
        NobodyAnswered: of simulated clients; the rounds before it are on disk, and the run can continue from them.
    """
    torch.set_num_threads(1)  # as clients do: the same arithmetic on every engine
    settings = run.settings
    if settings.devices.placement == "shared":
        why = "simulated clients keep their models there: name another folder by devices.state-root"
        probe(state_root(settings), why)
    engine = as_engine(grid)
    if settings.server.at_once:
        engine = ThrottledGrid(engine, settings.server.at_once)
    if settings.split == "messages":
        most = max(map(run.worlds.most_samples, settings.seed_list))
        engine = SplitGrid(engine, run.workload, settings.workload, most, settings.server.at_once)
    observe = _with_callbacks(run, results.out, observe)
    fleet = Fleet.find(engine, settings.devices, settings.server.timeout_s)

    def clear(checkpoints: Checkpoints) -> None:
        if settings.devices.placement == "shared":  # what clients kept is on this machine
            forget(state_root(settings), checkpoints.run)
        else:
            fleet.dismiss(engine, checkpoints.run, settings.server.timeout_s)
        checkpoints.clear()

    for seed in settings.seed_list:
        for name, method in run.methods.items():
            rows = partial(results.digest, settings.setting, tuple(method.strategy.reports), seed)
            checkpoints = Checkpoints(results.out, settings.setting, name, seed, grid.run.run_id, rows)
            if complete(run, results, name, seed):
                observe(Event("skipped", seed, name, settings.rounds, settings.rounds))
                if settings.save:
                    log(WARNING, "save: '%s' was complete before, so its model is not there unless it was saved", name)
            else:
                loop = _Loop(run, name, seed, fleet, checkpoints, observe)
                try:
                    loop.run(engine, results)
                except Abandoned:
                    clear(checkpoints)
                    raise
                if settings.save:
                    _save_models(run, loop.method, name, seed, results.out)
                for report in method.strategy.reports:
                    results.finish(settings.setting, report, seed)
            if checkpoints.begun:  # by this process, or by one that ended just before it noted so
                clear(checkpoints)


def _save_models(run: Run, method: Strategy, name: str, seed: int, out: Path) -> None:
    """Keep the final models of a method whose rows are complete. A method may have none, one or several."""
    settings = run.settings
    if not (models := method.final_models()):
        log(INFO, "save: the models of '%s' are those of the clients, and stay there", name)
    for part, model in models.items():
        state, extra = run.workload.saved(seed, model)
        about = {
            "workload": settings.workload, "method": name, "model": part, "setting": settings.setting, "seed": seed,
            "rounds": settings.rounds, "reports": list(method.reports), "digests": run.workload.digests,
            "settings": flatten(run.config()),
        }  # fmt: skip
        stem = "-".join(filter(None, (name, part, settings.setting, f"seed{seed}")))
        save_model(out, stem, state, about, extra)


def _with_callbacks(run: Run, out: Path, observe: Observer) -> Observer:
    """Return an observer that also calls the callbacks of a setting."""
    found = {}
    for name in filter(None, map(str.strip, run.settings.callbacks.split(","))):
        try:
            found[name] = CALLBACKS[name](out, flatten(run.config()))
        except (UnknownName, ModuleNotFoundError) as error:
            raise SettingsError(f"callbacks = '{run.settings.callbacks}': {missing_package(error) or error}") from error
    callbacks = Callbacks(found)

    def both(event: Event) -> None:
        observe(event)
        if event.kind == "round":
            callbacks.round_end(event.rows, last=event.at == event.of)

    return both


class _Loop:
    """All rounds of one method and seed."""

    def __init__(
        self, run: Run, name: str, seed: int, fleet: Fleet, checkpoints: Checkpoints, observe: Observer
    ):  # fmt: skip
        def pretraining(model: str, epoch: int, epochs: int) -> None:
            observe(Event("offline", seed, model, epoch, epochs))

        self.run_, self.settings, self.name, self.seed = run, run.settings, name, seed
        self.checkpoints, self.observe = checkpoints, observe
        self.method = run.strategy(name, seed, pretraining)
        self.rounds = Rounds(run, name, self.method, fleet, checkpoints.run)
        self.global_accuracy = _GlobalAccuracy(run, self.method)
        self.virtual_s = 0.0
        self.patience = Patience(self.settings.server.patience)
        self.before: list[ClientScore] = []  # at the end of the step before
        if self.method.asks == "importance" and self.settings.devices.placement == "shared":
            _warn_if_nothing_fits(self.settings.devices.limit_high, name, self.method)

    def run(self, engine: Engine, results: ResultsWriter) -> None:
        """Run the rounds that are left. What a round gave is written while the next one runs."""
        done = self._resume(results)
        with ThreadPoolExecutor(1, "disk") as disk:
            written: Future[None] = disk.submit(lambda: None)
            for server_round in range(done + 1, self.settings.rounds + 1):
                started = time.perf_counter()
                scores, everywhere = self._round(server_round, engine)
                wall_s = time.perf_counter() - started
                rows = self._rows(server_round, scores, everywhere, wall_s)
                stopped = self.patience.over
                self.patience.see(rows)
                if self.patience.over > stopped:
                    log(INFO, "%s, seed %d: training stops after round %d", self.name, self.seed, server_round)
                devices, measures = self._device_rows(rows, scores), self._measure_rows(rows, scores)
                if self.rounds.schedule.ends_step(server_round):
                    self.before = scores
                state = dumps(self._state_dict())
                written.result()  # raises what went wrong
                try:  # between two writes, so that an observer sees only files that stay
                    event = Event(
                        "round", self.seed, self.name, server_round, self.settings.rounds, tuple(rows.values())
                    )
                    self.observe(event)
                finally:
                    written = disk.submit(self._write, results, list(rows.values()), devices, measures, state)
            written.result()

    def _state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        patience = {"best": self.patience.best, "since": self.patience.since}
        return {"strategy": self.rounds.state_dict(), "virtual_s": self.virtual_s, "then": self.before, **patience}

    def _resume(self, results: ResultsWriter) -> int:
        """Continue from the last checkpoint; return the rounds that are done."""
        setting, reports = self.settings.setting, self.method.reports
        last = min(results.last_round(setting, report, self.seed) for report in reports)
        done, saved = self.checkpoints.resume(last)
        if saved is not None:
            self.rounds.load_state_dict(saved["strategy"])
            self.virtual_s, self.before = saved["virtual_s"], saved["then"]
            self.patience.best, self.patience.since = saved["best"], saved["since"]
            self.observe(Event("resumed", self.seed, self.name, done, self.settings.rounds))
        for report in reports:
            results.rewind(setting, report, self.seed, done)
        return done

    def _round(self, server_round: int, engine: Engine) -> tuple[list[ClientScore], float]:
        """Train, and score if it is time; return the scores, and the accuracy on the global test set."""
        schedule = self.rounds.schedule
        if stopped := self.patience.over:
            self.rounds.rest(server_round)
        else:
            self.rounds.train(server_round, engine)
        shared = self.settings.devices.placement == "shared"
        if shared and self.rounds.all_failed:  # not the fault of one client; real devices may all be away
            raise NobodyAnswered(
                f"{self.name}: every client failed in round {server_round}; the last reason: {self.rounds.complaint}"
            )
        self.virtual_s += self.rounds.costs.seconds
        if not (schedule.ends_step(server_round) if stopped else schedule.evaluates(server_round)):
            return [], NAN
        self.rounds.evaluate(server_round, engine)
        scores = self.rounds.scores
        if not scores and self.rounds.costs.unserved:
            log(
                WARNING, "%s: no client is scored in round %d, no sub-model is within the limits of %d; a higher "
                "devices.limit-low gives them one", self.name, server_round, self.rounds.costs.unserved,
            )  # fmt: skip
            return [], NAN
        if not scores and shared:
            raise NobodyAnswered(
                f"{self.name}: no client could be scored in round {server_round}"
                + (f"; the last reason: {self.rounds.complaint}" if self.rounds.complaint else "")
            )
        measured = self.method.has_global_model and not self.run_.worlds.relabels
        return scores, self.global_accuracy() if measured else NAN

    def _write(
        self, results: ResultsWriter, rows: Sequence[Row], devices: Sequence[DeviceRow],
        measures: Sequence[MeasureRow], state: bytes,
    ) -> None:  # fmt: skip
        """Write the rows of a round, then its checkpoint: a checkpoint without its rows is not used."""
        results.append(rows)
        if devices:
            results.append_devices(devices)
        results.append_measures(measures)
        self.checkpoints.save(rows[0].round, state)

    def _rows(
        self, server_round: int, scores: Sequence[ClientScore], everywhere: float, wall_s: float
    ) -> dict[str, Row]:
        """Return the rows of a round by report."""
        costs, settings = self.rounds.costs, self.settings
        row = Row(
            experiment=settings.experiment,
            setting=settings.setting,
            method="",
            seed=self.seed,
            round=server_round,
            step=self.rounds.schedule.step(server_round),
            devices=costs.clients,
            failures=costs.failures,
            refused=costs.refused + costs.refused_answers,
            withheld=costs.withheld,
            late=costs.late,
            bytes_down=costs.bytes_down,
            bytes_up=costs.bytes_up,
            virtual_s=self.virtual_s,
            train_macs=round(costs.train_macs),
            memory_bytes=round(costs.memory_bytes),
            divergence=costs.divergence,
            module_divergence=costs.module_divergence,
            variance=costs.variance,
            module_variance=costs.module_variance,
            load_cv=costs.load_cv,
            unserved=costs.unserved,
            wall_s=wall_s,
        )
        new = self.run_.worlds.newcomers(self.seed, [score.client for score in scores], row.step)
        return {
            report: _scored(
                replace(row, method=report, **_across_the_cut(self._measured(scores, which))),
                scores, self.before, new, which, everywhere,
            )
            for report, which in self.method.reports.items()
        }  # fmt: skip

    def _measured(self, scores: Sequence[ClientScore], which: Measure) -> dict[str, float]:
        """Return what the workload measured in a round: in training, and of one of the two models scored."""
        return self.rounds.costs.measures | means(scores, which)

    def _device_rows(self, rows: dict[str, Row], scores: Sequence[ClientScore]) -> list[DeviceRow]:
        if not self.settings.eval.per_device:
            return []
        return [
            _device_row(row, score, self.method.reports[report], self.rounds.hardware[score.client].name)
            for report, row in rows.items()
            for score in scores
        ]

    def _measure_rows(self, rows: dict[str, Row], scores: Sequence[ClientScore]) -> list[MeasureRow]:
        return [
            MeasureRow(row.experiment, row.setting, report, row.seed, row.round, row.step, measure, value)
            for report, row in rows.items()
            for measure, value in self._measured(scores, self.method.reports[report]).items()
        ]


def _scored(
    row: Row,
    scores: Sequence[ClientScore],
    before: Sequence[ClientScore],
    new: Container[int],
    measure: Measure,
    global_accuracy: float,
) -> Row:
    """Fill the clients' scores into a row.

    Args:
        before: scores at the end of the step before; new: clients that have something for the first time.
    """
    if not scores:
        return row
    accuracy = np.array([s.scores[measure].accuracy for s in scores])
    encounters = [s.scores[measure].accuracy for s in scores if s.client in new]
    adapting = [s.memory_bytes for s in scores if measure == "adapted"]
    return replace(
        row,
        memory_bytes=round(max([row.memory_bytes, *adapting])),
        evaluated=len(scores),
        accuracy_mean=float(accuracy.mean()),
        accuracy_std=float(accuracy.std()),
        accuracy_p10=float(np.percentile(accuracy, 10)),
        encounter_accuracy=_mean(encounters) if encounters else NAN,
        balanced_accuracy_mean=_mean(s.scores[measure].balanced_accuracy for s in scores),
        loss=_mean(s.scores[measure].loss for s in scores),
        global_accuracy=global_accuracy,
        deliver_bytes=_mean(s.deliver_bytes for s in scores),
        asked=sum(s.deliver_bytes > 0 for s in scores),
        adapt_s=_mean(s.seconds[measure] for s in scores),
        forgetting=forgetting(
            {s.client: s.scores[measure].accuracy for s in before},
            {s.client: s.former[measure] for s in scores if s.former is not None},
        ),
    )


def _across_the_cut(measured: Mapping[str, float]) -> dict[str, Any]:
    """Return the measures that are also columns of ``rounds.csv``."""
    return {name: measured[name] for name in CUT if name in measured}


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _device_row(row: Row, s: ClientScore, measure: Measure, device_class: str) -> DeviceRow:
    score = s.scores[measure]
    return DeviceRow(
        row.experiment, row.setting, row.method, row.seed, row.round, row.step, s.client, device_class, s.samples,
        score.accuracy, score.balanced_accuracy, float(s.deliver_bytes), s.share, s.macs, s.seconds[measure],
    )  # fmt: skip


def _warn_if_nothing_fits(limit_high: float, name: str, method: Strategy) -> None:
    """Warn of limits too small for any sub-model: they are allowed, but hardly intended."""
    costs, whole = method.models.costs["modular"], method.models.costs["dense"].whole
    least = sum((min(costs.columns(layer), key=lambda cost: cost.params) for layer in costs.layers), costs.base)
    share = max(mine / large for mine, large in zip(least.vector[1:], whole.vector[1:], strict=True))
    if share > limit_high:
        log(
            WARNING, "%s: no client will train. One module per layer costs %.2f of the large model, and "
            "devices.limit-high is %.2f", name, share, limit_high,
        )  # fmt: skip


class _GlobalAccuracy:
    """The accuracy of the cloud model on the whole test set; an unchanged model is not scored again."""

    def __init__(self, run: Run, method: Strategy):
        self.run, self.method = run, method
        self.scored: State | None = None
        self.accuracy = math.nan

    def __call__(self) -> float:
        if self.method.model is not self.scored:
            self.scored, self.accuracy = self.method.model, self.run.workload.global_accuracy(self.method)
        return self.accuracy
