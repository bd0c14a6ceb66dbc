"""The round loop: the same on every engine, for every method."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from logging import WARNING
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.client_app import state_root
from fl.config.settings import Settings
from fl.engines.proxy import Paced
from fl.results.files import DeviceRow, MeasureRow, ResultsWriter, Row, versions
from fl.server.adapter import DeviceScore, FlowerStrategy, means
from fl.server.checkpoint import Checkpoints, dumps
from fl.server.fleet import Fleet
from fl.server.measures import NAN, forgetting
from fl.server.split import SplitGrid
from fl.workloads import find
from fl.workloads.state_store import forget
from models.submodel import State
from strategies import STRATEGIES
from strategies.base import Measure, Plan, Strategy


class NobodyAnswered(RuntimeError):
    """A round gave nothing that could be scored; the message is one sentence for the user."""


@dataclass(frozen=True)
class Event:
    """Something that a progress display may show.

    Args:
        kind: 'offline' (the cloud trains), 'round' (a round is over), 'skipped' (finished in an earlier run), 'resumed'
            (goes on after a round of an earlier run).
        what: the offline stage or the method; at, of: epochs or rounds done and in all; rows: of the round.
    """

    kind: Literal["offline", "round", "skipped", "resumed"]
    seed: int
    what: str
    at: int
    of: int
    rows: tuple[Row, ...] = ()


Observer = Callable[[Event], None]


def open_results(settings: Sequence[Settings], out: Path, overwrite: bool) -> ResultsWriter:
    """The one folder of all settings of an experiment."""
    first = settings[0]
    reports = [report for method in first.methods for report in STRATEGIES[method].reports]
    tables = {s.setting: s.resolved() for s in settings}
    made = [versions(first)]
    return ResultsWriter(out, first.experiment, tables, first.seed_list, reports, overwrite=overwrite, made=made)


def complete(settings: Settings, results: ResultsWriter, method: str, seed: int) -> bool:
    """Whether ``results`` holds every row of a method and seed."""
    return all((settings.setting, report, seed) in results.done() for report in STRATEGIES[method].reports)


def run(settings: Settings, grid: Grid, results: ResultsWriter, observe: Observer = lambda event: None) -> None:
    """Every method and seed of the settings, one after the other.

    Runs that ``results`` holds complete are skipped; one that was cut short goes on from its last checkpoint.

    Raises:
        SettingsError, partitions.DataError, ResultsError: before any device is asked for anything.
        NobodyAnswered: of simulated devices; the rounds before it are on disk, and the run can go on from them.
    """
    torch.set_num_threads(1)  # as devices do: the same arithmetic on every engine
    for seed in settings.seed_list:
        find(settings.workload).prepare(settings, seed)
    if settings.at_once:
        grid = Paced(grid, settings.at_once)
    if settings.split == "messages":
        grid = SplitGrid(grid, settings)
    fleet = Fleet.find(grid, settings)
    for seed in settings.seed_list:
        for name in settings.methods:
            checkpoints = Checkpoints(results.out, settings.setting, name, seed, grid.run.run_id)
            if complete(settings, results, name, seed):
                observe(Event("skipped", seed, name, settings.rounds, settings.rounds))
            else:
                _run_method(settings, name, seed, grid, fleet, results, checkpoints, observe)
                for report in STRATEGIES[name].reports:
                    results.finish(settings.setting, report, seed)
            if checkpoints.begun:  # by us, or by a life that ended just before it said so
                if settings.placement == "shared":  # what the devices kept is on this machine, and nobody needs it now
                    forget(state_root(settings), checkpoints.run)
                else:
                    fleet.dismiss(grid, checkpoints.run, settings.timeout_s)
                checkpoints.clear()


def _run_method(
    settings: Settings,
    name: str,
    seed: int,
    grid: Grid,
    fleet: Fleet,
    results: ResultsWriter,
    checkpoints: Checkpoints,
    observe: Observer,
) -> None:
    def offline(stage: str, epoch: int, epochs: int) -> None:
        observe(Event("offline", seed, stage, epoch, epochs))

    budget = ("devices", "cohort", "local_epochs", "adapt_epochs", "rounds_per_step", "candidates", "robust", "trim")
    plan = Plan(**{key: getattr(settings, key) for key in budget})
    method = STRATEGIES[name](find(settings.workload).prepare(settings, seed, offline), plan, seed)
    strategy = FlowerStrategy(method, name, settings, fleet, checkpoints.run)
    if method.asks == "importance" and settings.placement == "shared":
        _warn_if_nothing_fits(settings, name, method)
    global_accuracy = _GlobalAccuracy(settings, method)
    virtual_s = 0.0
    then: list[DeviceScore] = []  # at the end of the step before
    done, saved = checkpoints.resume(min(results.last_round(settings.setting, r, seed) for r in method.reports))
    if saved is not None:
        strategy.load(saved["strategy"])
        virtual_s, then = saved["virtual_s"], saved["then"]
        observe(Event("resumed", seed, name, done, settings.rounds))
    for report in method.reports:
        results.rewind(settings.setting, report, seed, done)
    with ThreadPoolExecutor(1, "disk") as disk:  # what a round leaves is written while the next one runs
        written = disk.submit(lambda: None)
        for round_ in range(done + 1, settings.rounds + 1):
            started = time.perf_counter()
            strategy.train(round_, grid)
            virtual_s += strategy.ledger.seconds
            scores: list[DeviceScore] = []
            everywhere = NAN
            if strategy.ends_step(round_) or round_ % settings.eval_every == 0:
                strategy.evaluate(round_, grid)
                scores = strategy.scores
                if not scores and settings.placement == "shared":  # machines may all be away, what stands in is not
                    raise NobodyAnswered(
                        f"{name}: no device could be scored in round {round_}"
                        + (f"; the last reason: {strategy.complaint}" if strategy.complaint else "")
                    )
                if method.has_global_model:
                    everywhere = global_accuracy()
            wall_s = time.perf_counter() - started
            rows = {report: _row(strategy, report, round_, virtual_s, wall_s) for report in method.reports}
            rows = {r: _scored(row, scores, then, method.reports[r], everywhere) for r, row in rows.items()}
            if strategy.ends_step(round_):
                then = scores
            device_rows = [
                _device_row(row, score, method.reports[report], strategy.hardware[score.device].name)
                for report, row in rows.items()
                for score in (scores if settings.per_device else ())
            ]
            measures = [
                MeasureRow(settings.experiment, settings.setting, report, seed, round_, row.step, measure, value)
                for report, row in rows.items()
                for measure, value in (strategy.ledger.measures | means(scores, method.reports[report])).items()
            ]
            state = dumps({"strategy": strategy.saved(), "virtual_s": virtual_s, "then": then})
            written.result()  # or what went wrong
            try:  # while nothing is being written: who looks at open files sees none but those that stay
                observe(Event("round", seed, name, round_, settings.rounds, tuple(rows.values())))
            finally:
                written = disk.submit(_write, results, checkpoints, list(rows.values()), device_rows, measures, state)
        written.result()


def _write(
    results: ResultsWriter,
    checkpoints: Checkpoints,
    rows: Sequence[Row],
    device_rows: Sequence[DeviceRow],
    measures: Sequence[MeasureRow],
    state: bytes,
) -> None:
    """The rows of a round go first: a checkpoint of rounds whose rows are not there is passed over."""
    results.append(rows)
    if device_rows:
        results.append_devices(device_rows)
    results.append_measures(measures)
    checkpoints.save(rows[0].round, state)


def _row(strategy: FlowerStrategy, report: str, round_: int, virtual_s: float, wall_s: float) -> Row:
    """The row of a round, before any scores."""
    ledger, settings = strategy.ledger, strategy.settings
    return Row(
        experiment=settings.experiment,
        setting=settings.setting,
        method=report,
        seed=strategy.method.seed,
        round=round_,
        step=strategy.step(round_),
        devices=ledger.devices,
        failures=ledger.failures,
        refused=ledger.refused + ledger.refused_answers,
        withheld=ledger.withheld,
        late=ledger.late,
        bytes_down=ledger.bytes_down,
        bytes_up=ledger.bytes_up,
        virtual_s=virtual_s,
        train_macs=round(ledger.train_macs),
        memory_bytes=round(ledger.memory_bytes),
        divergence=ledger.divergence,
        module_divergence=ledger.module_divergence,
        load_cv=ledger.load_cv,
        wall_s=wall_s,
    )


def _scored(
    row: Row, scores: list[DeviceScore], then: list[DeviceScore], measure: Measure, global_accuracy: float
) -> Row:
    """The row with the devices' scores filled in; ``then``: those at the end of the step before."""
    if not scores:
        return row
    accuracy, balanced, loss = np.array([getattr(s, measure) for s in scores]).T
    adapting = [s.memory_bytes for s in scores if measure == "adapted"]
    return replace(
        row,
        memory_bytes=round(max([row.memory_bytes, *adapting])),
        evaluated=len(scores),
        accuracy_mean=float(accuracy.mean()),
        accuracy_std=float(accuracy.std()),
        accuracy_p10=float(np.percentile(accuracy, 10)),
        balanced_accuracy_mean=float(balanced.mean()),
        loss=float(loss.mean()),
        global_accuracy=global_accuracy,
        deliver_bytes=float(np.mean([s.deliver_bytes for s in scores])),
        asked=sum(s.deliver_bytes > 0 for s in scores),
        adapt_s=float(np.mean([s.seconds[measure] for s in scores])),
        forgetting=forgetting(
            {s.device: getattr(s, measure)[0] for s in then},
            {s.device: s.former[measure] for s in scores if s.former is not None},
        ),
    )


def _device_row(row: Row, s: DeviceScore, measure: Measure, device_class: str) -> DeviceRow:
    accuracy, balanced, _ = getattr(s, measure)
    return DeviceRow(
        row.experiment, row.setting, row.method, row.seed, row.round, row.step,
        s.device, device_class, s.samples, accuracy, balanced, float(s.deliver_bytes), s.share, s.macs,
        s.seconds[measure],
    )  # fmt: skip


def _warn_if_nothing_fits(settings: Settings, name: str, method: Strategy) -> None:
    """Limits too small for any sub-model are allowed, but hardly meant."""
    costs, whole = method.cloud.modular_costs, method.cloud.dense_costs.whole
    least = sum((min(costs.columns(layer), key=lambda cost: cost.params) for layer in costs.layers), costs.base)
    share = max(mine / large for mine, large in zip(least.vector[1:], whole.vector[1:], strict=True))
    if share > settings.limit_high:
        log(
            WARNING, "%s: no device will train. One module per layer takes %.2f of what the large model takes, and "
            "limit-high is %.2f", name, share, settings.limit_high,
        )  # fmt: skip


class _GlobalAccuracy:
    """The accuracy of the cloud model on the whole test set; a model that has not changed since is not scored again."""

    def __init__(self, settings: Settings, method: Strategy):
        self.settings, self.method = settings, method
        self.scored: State | None = None
        self.accuracy = NAN

    def __call__(self) -> float:
        if self.method.model is not self.scored:
            accuracy = find(self.settings.workload).global_accuracy(self.settings, self.method)
            self.scored, self.accuracy = self.method.model, accuracy
        return self.accuracy
