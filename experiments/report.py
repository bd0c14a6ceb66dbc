"""Tables of ``summary.csv``, one per setting: for the terminal (rich, 80 columns) and in Markdown.

If the first column is `BEST`, the best method is bold, and so are all methods whose 95 % interval over seeds overlaps
with its interval. With one seed there is no interval, so only the highest value is bold, and the caption says so.
"""

import math
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.analysis.metrics import metric_of
from experiments.analysis.rounds_to_target import TARGET

BEST = "accuracy_mean"
Metrics = dict[str, pd.Series]  # metric -> its line of summary.csv, for one method


def show(summary: pd.DataFrame, metrics: Sequence[str], note: str = "", console: Console | None = None) -> None:
    """Print the tables, with ``metrics`` as columns and the note below."""
    (console or Console()).print(terminal(summary, metrics, note))


def terminal(summary: pd.DataFrame, metrics: Sequence[str], note: str = "") -> Group:
    """Build the tables for a terminal."""
    parts: list[RenderableType] = [] if len(summary) else ["No run is complete yet."]
    for setting, methods in _by_setting(summary).items():
        best = _best(methods, metrics[0])
        title = Text(f"{summary['experiment'].iloc[0]}, {setting}", style="bold")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.padding = (0, 1, 0, 0)
        table.add_column("\nmethod", no_wrap=True)
        columns = _columns(methods, metrics)
        for metric, column in columns:
            name, _, unit = metric_of(metric).head.partition("\n")
            table.add_column(f"{'paper' if column == 'paper_value' else name}\n{unit}", justify="right", no_wrap=True)
        for method, lines in methods.items():
            bold = "bold" if method in best else ""
            texts = [_cell(lines, metric, column) for metric, column in columns]
            table.add_row(Text(method, style=bold), *(Text(text, "" if i else bold) for i, text in enumerate(texts)))
        parts += ["", table, Text(_caption(methods, metrics), style="dim")]
    parts += ["", Text(note, style="dim")] if note else []
    return Group(*parts)


def markdown(summary: pd.DataFrame, metrics: Sequence[str], title: str = "", note: str = "") -> str:
    """Build the tables in Markdown, with ``metrics`` as columns; the default title is the experiment's name."""
    parts = [f"# {title or summary['experiment'].iloc[0]}\n"] if len(summary) else ["No run is complete yet.\n"]
    parts += [f"{note}\n"] if note else []
    for setting, methods in _by_setting(summary).items():
        best = _best(methods, metrics[0])
        columns = _columns(methods, metrics)
        heads = [
            f"paper's {metric_of(metric).label}" if column == "paper_value" else metric_of(metric).label_with_arrow
            for metric, column in columns
        ]
        rows = ["| method | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(columns)]
        for method, lines in methods.items():
            cells = [_cell(lines, metric, column) for metric, column in columns]
            if method in best:
                method, cells[0] = f"**{method}**", f"**{cells[0]}**"
            rows.append(f"| {method} | " + " | ".join(cells) + " |")
        parts.append(f"## {setting}\n\n" + "\n".join(rows) + f"\n\n{_caption(methods, metrics)}\n")
    return "\n".join(parts)


def _by_setting(summary: pd.DataFrame) -> dict[str, dict[str, Metrics]]:
    """Return setting -> method -> metric -> line, in the order of the file."""
    tables: dict[str, dict[str, Metrics]] = {}
    for _, line in summary.iterrows():
        tables.setdefault(line["setting"], {}).setdefault(line["method"], {})[line["metric"]] = line
    return tables


def _columns(methods: dict[str, Metrics], metrics: Sequence[str]) -> list[tuple[str, str]]:
    """Return (metric, column of summary.csv): the metrics that a method has, then those that the paper reports."""
    ours = [(m, "value") for m in metrics if any(m in lines for lines in methods.values())]
    paper = [m for m, _ in ours if any(m in own and not math.isnan(own[m]["paper_value"]) for own in methods.values())]
    return [*ours, *((metric, "paper_value") for metric in paper)]


def _cell(lines: Metrics, name: str, column: str) -> str:
    """Format a cell: '81.0', '81.0 ± 0.3', '81.0 (1 of 2)' if only some seeds have the metric, '-' if none has."""
    metric, line = metric_of(name), lines.get(name)
    if line is None or math.isnan(line[column]):
        return "-"
    text = metric.text(line[column])
    if column == "paper_value":
        return text
    if metric.interval and not math.isnan(line["ci95"]):
        text += f" ± {metric.text(line['ci95'])}"
    seeds = max(int(line["seeds"]) for line in lines.values())
    return f"{text} ({line['seeds']:g} of {seeds:g})" if line["seeds"] < seeds else text


def _best(methods: dict[str, Metrics], metric: str) -> set[str]:
    """Return the methods to print bold: the highest mean, and those whose interval overlaps with its interval."""
    if metric != BEST:
        return set()
    lines = {method: metrics[metric] for method, metrics in methods.items() if metric in metrics}
    half = {method: 0.0 if math.isnan(line["ci95"]) else line["ci95"] for method, line in lines.items()}
    top = max(lines, key=lambda method: lines[method]["value"], default="")
    return {method for method in lines if lines[method]["value"] + half[method] >= lines[top]["value"] - half[top]}


def _caption(methods: dict[str, Metrics], metrics: Sequence[str]) -> str:
    """Explain the numbers and how reliable they are."""
    seeds = sorted({int(lines[m]["seeds"]) for lines in methods.values() for m in metrics if m in lines})
    if not seeds:
        return "No run was scored."
    words = []
    if "accuracy_mean" in metrics:
        words.append("Accuracy: devices on their own current data, mean over the ends of all steps.")
    bold = metrics[0] == BEST
    if seeds == [1]:
        words.append("Only one seed: no confidence interval. Do not interpret small differences.")
        words += ["Bold: highest."] if bold else []
    else:
        words.append(f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds; ±: 95 % t-interval.")
        words += ["Bold: best, and all methods whose interval overlaps with that of the best."] if bold else []
    if "up_mb_per_round" in metrics:
        words.append("Up, down: all devices of a round together.")
    if any("train_up" in lines for lines in methods.values()):
        words.append("Use, train: bytes of one text across the cut; up, down: of whole models.")
    if "memory_mb" in metrics:
        words.append("Memory: largest of any device.")
    if any(metric.endswith("_to_target") for metric in metrics):
        words.append(
            f"Target: {100 * TARGET:g} % of the final accuracy of the best of the paper's six methods; in a sweep, the "
            "lowest final accuracy of the same method. '-': not reached. '(1 of 2)': reached with one of two seeds."
        )
    if any(metric.startswith("recover") for metric in metrics):
        words.append(
            "Recovery: until the accuracy before the shift is reached again. If it is not, all rounds until the next "
            "shift count."
        )
    return " ".join(words)
