"""The ServerApp of `flwr run`: that of `fl`, which writes the rows, and then table, figure and report from them."""

from fl.server_app import run  # isort: skip, it sets environment variables before Flower is imported

from logging import INFO, WARNING

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of `flwr run`."""
    out = run(grid, context)
    from rich.console import Console

    from experiments.finish import finish
    from fl.results import read_config

    config = read_config(out)
    if set(config["settings"]) - set(config["finished"]):
        return  # `python -m experiments run` starts one run for each setting, and draws when all are there
    try:
        finish(out, Console(quiet=True))
    except Exception as error:  # the rows are safe, so the run must not fail
        log(WARNING, "%s has no table and figure (%s): python -m experiments plot %s", out, error, out)
    else:
        log(INFO, "to look at in a browser: %s", out / "report.html")
