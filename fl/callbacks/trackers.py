"""Experiment trackers. A run of a tracker is one setting, method and seed; its numbers are those of ``rounds.csv``."""

import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl.callbacks.callback import Callback
from fl.results.rows import Row, Run, TableRow, column_types


class Tracker(Callback):
    """Open a run at its first row, log every row, close the run at its last one."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(out, settings)
        self.runs: dict[Run, Any] = {}

    def round_end(self, row: Row) -> None:
        run = row.setting, row.method, row.seed
        if run not in self.runs:
            self.runs[run] = self.start(row)
        self.log(self.runs[run], row.round, numbers(row))

    def run_end(self, row: Row) -> None:
        self.stop(self.runs.pop((row.setting, row.method, row.seed)))

    @abstractmethod
    def start(self, row: Row) -> Any:
        """Open the tracker's run of a row."""

    @abstractmethod
    def log(self, run: Any, round: int, numbers: Mapping[str, float]) -> None:
        """Log the numbers of a round."""

    @abstractmethod
    def stop(self, run: Any) -> None:
        """Close a run."""


def numbers(row: Row) -> dict[str, float]:
    """Return the columns of a row that hold a number."""
    keys = column_types(TableRow).keys() - {"step"}
    return {name: value for name, value in asdict(row).items() if name not in keys and not math.isnan(value)}


def title(row: Row) -> str:
    """Return the name of a tracker's run."""
    return f"{row.setting} {row.method} seed {row.seed}"


class TensorBoard(Tracker):
    """Write event files to ``tensorboard/`` in the results folder. They hold 32-bit numbers."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(out, settings)
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter

    def start(self, row: Row) -> Any:
        return self.writer(str(self.out / "tensorboard" / title(row)))

    def log(self, run: Any, round: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            run.add_scalar(name, value, round)

    def stop(self, run: Any) -> None:
        run.close()


class MLflow(Tracker):
    """Log to $MLFLOW_TRACKING_URI, by default to ``mlflow.db`` in the results folder."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(out, settings)
        import mlflow

        self.client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out}/mlflow.db")

    def start(self, row: Row) -> str:
        found = self.client.get_experiment_by_name(row.experiment)
        experiment = found.experiment_id if found else self.client.create_experiment(row.experiment)
        run: str = self.client.create_run(experiment, run_name=title(row)).info.run_id
        for key, value in self.settings.items():
            self.client.log_param(run, key, value)
        return run

    def log(self, run: str, round: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self.client.log_metric(run, name, value, step=round)

    def stop(self, run: str) -> None:
        self.client.set_terminated(run)


class WandB(Tracker):
    """Log to Weights & Biases as $WANDB_MODE says, by default offline: ``wandb/`` in the results folder."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(out, settings)
        import wandb

        self.module = wandb

    def start(self, row: Row) -> Any:
        mode = os.environ.get("WANDB_MODE", "offline")
        return self.module.init(
            project=row.experiment, name=title(row), dir=str(self.out), config=dict(self.settings), mode=mode,
            reinit="create_new",
        )  # fmt: skip

    def log(self, run: Any, round: int, numbers: Mapping[str, float]) -> None:
        run.log(dict(numbers), step=round)

    def stop(self, run: Any) -> None:
        run.finish()


class Trackio(Tracker):
    """Log to Trackio's database on this machine, or to the Space that $TRACKIO_SPACE_ID names."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(out, settings)
        import trackio

        self.module = trackio

    def start(self, row: Row) -> Any:
        space = os.environ.get("TRACKIO_SPACE_ID")
        config = dict(self.settings)
        return self.module.init(project=row.experiment, name=title(row), config=config, space_id=space, embed=False)

    def log(self, run: Any, round: int, numbers: Mapping[str, float]) -> None:
        run.log(dict(numbers), step=round)

    def stop(self, run: Any) -> None:
        run.finish()
