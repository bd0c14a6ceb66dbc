"""All commands of `python -m experiments`, and how errors are shown."""

import signal
import sys
import sysconfig
import traceback

import click
import typer
from rich.console import Console

from experiments.cli.attack import attack
from experiments.cli.data import data_app
from experiments.cli.inspect import doctor, drift, inspect, privacy, settings
from experiments.cli.measure import bench, soak
from experiments.cli.new import new
from experiments.cli.run import claims, list_, merge, plot, report, run, watch
from experiments.cli.spa import chat, spa_app
from experiments.cli.tune import tune
from experiments.cli.vq import vq_app
from experiments.deploy.commands import app as deploy_app
from partitions.errors import UserError, missing_package

INTERRUPTED = 130  # exit status after Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Federated learning on devices whose data drift: named experiments, their tables and figures.

    Start with: [bold]python -m experiments run quickstart[/bold]

    If something does not work: [bold]python -m experiments doctor[/bold]

    Your own method and data: [bold]python -m experiments new my-app[/bold]""",
)
for command in (
    run, tune, plot, report, watch, claims, merge, new, drift, inspect,
    settings, privacy, bench, attack, soak, chat,
):  # fmt: skip
    app.command()(command)
app.command("list")(list_)
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(doctor)
app.add_typer(data_app, name="data")
app.add_typer(deploy_app, name="deploy")
app.add_typer(spa_app, name="spa")
app.add_typer(vq_app, name="vq")


def main() -> None:
    """Run the command line. Every error is one sentence and exit status 1; Ctrl-C is 130.

    ``python -X dev -m experiments ...`` shows the traceback of an error that is none of the user's input.
    """
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops in the same way as Ctrl-C
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:  # unknown or missing options: click's words
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        foreseen, advice = isinstance(error, UserError), missing_package(error)
        if sys.flags.dev_mode and not foreseen:
            raise
        said = str(error) if foreseen else f"this {advice}" if advice else unexpected(error)
        errors.print("error:", style="red", end=" ")
        errors.print(said, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    if code == INTERRUPTED:  # typer returns it after a KeyboardInterrupt
        errors.print("interrupted; the same command continues where it stopped", style="yellow")
    sys.exit(code)


def unexpected(error: Exception) -> str:
    """Say in one sentence where code failed, maybe the user's own: the last place that is in no installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    packages = (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), "<")
    own = [frame for frame in frames if not frame.filename.startswith(packages)] or frames
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"{own[-1].name} failed in {own[-1].filename}, line {own[-1].lineno}: {what}; correct it and repeat the same "
        "command to continue, or see the traceback with: python -X dev -m experiments ..."
    )
