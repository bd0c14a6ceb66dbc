"""Summary, tables, figures and report of a results folder, from its CSV files alone."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from experiments.analysis.paired import margins_markdown
from experiments.analysis.recorded import Recorded
from experiments.analysis.summary import gaps, write_summary
from experiments.analysis.sweeps import swept_keys, tidy
from experiments.catalog import VIEWS, Experiment, View
from experiments.catalog.experiment import columns
from experiments.page import write_page
from experiments.page.columns import columns_page
from experiments.plots import PLOTS
from experiments.plots.style import save
from experiments.report import markdown, show
from experiments.studies.study import FILE
from fl.results.files import as_results_error, atomic_write, csv_text


def finish(folder: Path, console: Console, asked: str = "", svg: bool = False) -> None:
    """Write summary, tables, figures and report of a results folder, and show a table.

    Args:
        asked: the view or experiment whose table is shown; by default the experiment of the folder.
        svg: also write each figure as SVG.
    """
    found = Recorded.read(folder)
    experiment, rows, summary, margins = found.experiment, found.rows, found.summary, found.margins
    with as_results_error(f"write to '{folder}'"):
        write_summary(folder, pd.concat([summary, margins]) if len(margins) else summary)
    settings = found.config.get("settings", {})
    if keys := swept_keys(settings):
        points = tidy(summary, settings, keys)
        with as_results_error(f"write to '{folder}'"):
            atomic_write(folder / "sweep.csv", csv_text([points.columns, *points.itertuples(index=False, name=None)]))
    written = [FILE if experiment.study else "rounds.csv", "summary.csv", *(["sweep.csv"] if keys else [])]
    views: dict[str, Experiment | View] = {"figure": experiment} | {
        view.name: view for view in VIEWS.values() if view.of == experiment.name
    }
    for stem, view in views.items():
        page, table = "table.md" if stem == "figure" else f"{stem}.md", columns(view.table, summary["metric"])
        text = markdown(summary, table, view.name, view.note)
        if view is experiment and experiment.margins and len(margins):
            text += "\n" + margins_markdown(margins, experiment.margins.beyond)
        drawn = figures(stem, view, rows, summary)
        with as_results_error(f"write to '{folder}'"):
            atomic_write(folder / page, text)
            for name, figure in drawn.items():
                save(figure, folder, name, svg)
        written += [page, *(f"{name}.{kind}" for name in drawn for kind in ("png", "svg")[: 1 + svg])]
        if view.name == (asked or experiment.name):
            show(summary, table, view.note, console)
    if experiment.tested:
        from experiments.analysis.significance import write_tests  # its statistics load slowly

        with as_results_error(f"write to '{folder}'"):
            write_tests(folder, rows, experiment.tested)
        written += ["tests.csv", "tests.md"]
    with as_results_error(f"write to '{folder}'"):
        atomic_write(folder / "columns.md", columns_page(folder))
        write_page([found], folder / "report.html")
    written += ["columns.md", "report.html"]
    for gap in [] if experiment.study else gaps(rows):
        console.print(gap, style="yellow", highlight=False)
    console.print("\n".join(str(folder / name) for name in written), style="dim", highlight=False, soft_wrap=True)


def figures(stem: str, view: Experiment | View, rows: pd.DataFrame, summary: pd.DataFrame) -> dict[str, Figure]:
    """Draw the figure of a view, by file name; if an experiment shows some methods first, another one has all."""
    plot = PLOTS[view.plot]
    if not set(view.shown) & set(summary["method"]):
        return {stem: plot(rows, summary)}
    first = plot(*(table[table["method"].isin(view.shown)] for table in (rows, summary)))
    return {stem: first} if isinstance(view, View) else {stem: first, f"{stem}-all": plot(rows, summary)}
