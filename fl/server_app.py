"""The ServerApp. What it does takes seconds to load; our own workers load the same meanwhile."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its absence is a FutureWarning of Ray

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl.engines.processes import warm

app = ServerApp()


def run(grid: Grid, context: Context) -> Path:
    """Run a whole experiment and return its results folder."""
    if context.run_config.get("engine") == "local":
        warm()
    from fl.server.serve import serve

    return serve(grid, context)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of `flwr run`."""
    run(grid, context)
