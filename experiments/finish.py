"""Summary, tables and figures of a results folder, from its CSV files alone."""

from pathlib import Path

from rich.console import Console

from experiments.catalog import EXPERIMENTS, OTHER, VIEWS, Experiment, View
from experiments.plots import PLOTS
from experiments.plots.style import save
from experiments.report import markdown, show
from experiments.rounds_to_target import with_shifts
from experiments.studies import STUDIES
from experiments.studies.study import FILE, read_study, summarize_study
from experiments.summary import gaps, in_order, summarize, write_summary
from fl.results.files import as_results_error, atomic_write
from fl.results.reader import read_config, read_rounds
from partitions import lookup


def finish(folder: Path, console: Console, asked: str = "", svg: bool = False) -> None:
    """Write summary, tables and figures of a results folder, and show a table.

    Args:
        asked: the view or experiment whose table is shown; by default the experiment of the folder.
        svg: also write each figure as SVG.
    """
    if (folder / FILE).exists():
        config = read_config(folder)
        studies = {name: experiment for name, experiment in EXPERIMENTS.items() if experiment.study}
        experiment = lookup("study", config.get("experiment", ""), studies)
        study = STUDIES[experiment.study]
        rows = read_study(folder, study)
        summary = summarize_study(rows, study, experiment.paper)
    else:
        rows = read_rounds(folder)
        experiment = EXPERIMENTS.get(str(rows["experiment"].iloc[0]) if len(rows) else "", OTHER)
        if (folder / "config.toml").exists():
            config = read_config(folder)
            rows = in_order(rows, experiment.order(rows["setting"].unique()), config.get("methods", []))
            rows = with_shifts(rows, config.get("settings", {}))
        summary = summarize(rows, experiment.paper, experiment.sweep)
    with as_results_error(f"write to '{folder}'"):
        write_summary(folder, summary)
    written = [FILE if experiment.study else "rounds.csv", "summary.csv"]
    views: dict[str, Experiment | View] = {"figure": experiment} | {
        view.name: view for view in VIEWS.values() if view.of == experiment.name
    }
    for stem, view in views.items():
        page = "table.md" if stem == "figure" else f"{stem}.md"
        with as_results_error(f"write to '{folder}'"):
            atomic_write(folder / page, markdown(summary, view.table, view.name, view.note))
            save(PLOTS[view.plot](rows, summary), folder, stem, svg)
        written += [page, f"{stem}.png", *([f"{stem}.svg"] if svg else [])]
        if view.name == (asked or experiment.name):
            show(summary, view.table, view.note, console)
    if experiment.tested:
        from experiments.significance import write_tests  # its statistics load slowly

        with as_results_error(f"write to '{folder}'"):
            write_tests(folder, rows, experiment.tested)
        written += ["tests.csv", "tests.md"]
    for gap in [] if experiment.study else gaps(rows):
        console.print(gap, style="yellow", highlight=False)
    console.print("\n".join(str(folder / name) for name in written), style="dim", highlight=False, soft_wrap=True)
