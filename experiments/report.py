"""Tables of ``summary.csv``, one per setting: for the terminal (rich, 80 columns are enough) and as markdown.

Bold is the best accuracy and whatever cannot be told from it: methods whose 95 % interval over seeds meets the best
one's. A single seed has no interval, so there only equal numbers share the bold, and the caption says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.summary import read_summary
from fl.results import atomic_write

Metrics = dict[str, pd.Series]  # metric -> its line of summary.csv, for one method


@dataclass(frozen=True)
class Column:
    """A column: two short header lines (name, unit), its full name for markdown, and the text of a method's cell."""

    head: str
    unit: str
    full: str
    text: Callable[[Metrics], str]


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits < 5 else "<0.001"


def _number(metric: str, scale: float = 1.0) -> Callable[[Metrics], str]:
    return lambda of: _short(of[metric]["value"] * scale) if metric in of else "-"


def _percent(metric: str) -> Callable[[Metrics], str]:
    return lambda of: f"{100 * of[metric]['value']:.1f}" if metric in of else "-"


def _accuracy(of: Metrics) -> str:
    if "accuracy_mean" not in of:
        return "-"
    line = of["accuracy_mean"]
    value = f"{100 * line['value']:.1f}"
    return value if math.isnan(line["ci95"]) else f"{value} ± {100 * line['ci95']:.1f}"


def _paper(of: Metrics) -> str:
    value = of["accuracy_mean"]["paper_value"] if "accuracy_mean" in of else math.nan
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


ACCURACY = Column("accuracy", "%", "accuracy, %", _accuracy)
PAPER = Column("paper", "%", "paper's accuracy, %", _paper)
COLUMNS: tuple[Column, ...] = (
    ACCURACY,
    Column("std", "%", "std over devices, %", _percent("accuracy_std")),
    Column("p10", "%", "10th percentile device, %", _percent("accuracy_p10")),
    Column("up", "MB", "up, MB per round", _number("up_mb_per_round")),
    Column("down", "MB", "down, MB per round", _number("down_mb_per_round")),
    Column("time", "min", "virtual time, min", _number("virtual_min")),
    Column("memory", "MB", "training memory, MB", _number("memory_mb")),
)


def show(summary: pd.DataFrame, console: Console | None = None) -> None:
    """Print the tables."""
    (console or Console()).print(terminal(summary))


def terminal(summary: pd.DataFrame) -> Group:
    """The tables for a terminal."""
    parts: list[RenderableType] = [] if len(summary) else ["No run is complete yet."]
    for setting, of in _by_setting(summary).items():
        best = _best(of)
        title = Text(f"{summary['experiment'].iloc[0]}, {setting}", style="bold")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.padding = (0, 1, 0, 0)
        table.add_column("\nmethod", no_wrap=True)
        columns = _columns(of)
        for column in columns:
            table.add_column(f"{column.head}\n{column.unit}", justify="right", no_wrap=True)
        for method, metrics in of.items():
            bold = "bold" if method in best else ""
            cells = [Text(c.text(metrics), style=bold if c is ACCURACY else "") for c in columns]
            table.add_row(Text(method, style=bold), *cells)
        parts += ["", table, Text(_caption(of), style="dim")]
    return Group(*parts)


def markdown(summary: pd.DataFrame) -> str:
    """The tables as markdown."""
    parts = [f"# {summary['experiment'].iloc[0]}\n"] if len(summary) else ["No run is complete yet.\n"]
    for setting, of in _by_setting(summary).items():
        best = _best(of)
        columns = _columns(of)
        lines = [
            "| method | " + " | ".join(column.full for column in columns) + " |",
            "|:--|" + "--:|" * len(columns),
        ]
        for method, metrics in of.items():
            cells = [c.text(metrics) for c in columns]
            if method in best:
                method, cells[0] = f"**{method}**", f"**{cells[0]}**"
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        parts.append(f"## {setting}\n\n" + "\n".join(lines) + f"\n\n{_caption(of)}\n")
    return "\n".join(parts)


def write_table(out: Path) -> Path:
    """Make ``table.md`` of a results folder from its ``summary.csv``."""
    atomic_write(out / "table.md", markdown(read_summary(out)))
    return out / "table.md"


def _by_setting(summary: pd.DataFrame) -> dict[str, dict[str, Metrics]]:
    """setting -> method -> metric -> line, in the order of the file, which is that of rounds.csv."""
    tables: dict[str, dict[str, Metrics]] = {}
    for _, line in summary.iterrows():
        tables.setdefault(line["setting"], {}).setdefault(line["method"], {})[line["metric"]] = line
    return tables


def _columns(of: dict[str, Metrics]) -> tuple[Column, ...]:
    return (*COLUMNS, PAPER) if any(_paper(metrics) != "-" for metrics in of.values()) else COLUMNS


def _best(of: dict[str, Metrics]) -> set[str]:
    """The methods with the best accuracy: the highest mean, and those whose interval meets its interval."""
    reach = {}
    for method, metrics in of.items():
        if "accuracy_mean" in metrics:
            line = metrics["accuracy_mean"]
            half = 0.0 if math.isnan(line["ci95"]) else line["ci95"]
            reach[method] = (line["value"] - half, line["value"], line["value"] + half)
    lowest = max(reach.values(), key=lambda r: r[1])[0] if reach else 0.0
    return {method for method, (_, _, high) in reach.items() if high >= lowest}


def _caption(of: dict[str, Metrics]) -> str:
    """What the numbers mean, and how far they can be trusted."""
    seeds = sorted({int(metrics["accuracy_mean"]["seeds"]) for metrics in of.values() if "accuracy_mean" in metrics})
    if not seeds:
        return "No run was scored."
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    trust = (
        "One seed: no interval, small differences mean nothing; bold: highest."
        if seeds == [1]
        else f"{count} seeds; ± is the 95 % t-interval of the mean; bold: best, and what cannot be told from it."
    )
    return (
        f"Accuracy of devices on their own current data, mean over the ends of all steps. {trust} "
        "Up, down: all devices of a round together. Memory: the largest of any device."
    )
