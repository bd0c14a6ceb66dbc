"""What each column of a CSV file means, as a page in Markdown."""

import csv
from pathlib import Path

from experiments.analysis.metrics import metric_of
from fl.results.reader import whole_lines
from fl.results.rows import COLUMNS, DEVICE_COLUMNS, MEASURE_COLUMNS

ROWS = {
    "rounds.csv": ("One row for each method, seed and round.", COLUMNS),
    "devices.csv": ("One row for each device and evaluation.", DEVICE_COLUMNS),
    "measures.csv": ("One row for each measure of the workload and round.", MEASURE_COLUMNS),
}
SUMMARY = {
    **{name: COLUMNS[name] for name in ("experiment", "setting", "method")},
    "metric": "name of the metric, see below",
    "value": "mean over seeds",
    "std": "standard deviation over seeds; empty: one seed",
    "ci95": "half the width of the 95 % t-interval of the mean; empty: one seed",
    "seeds": "number of seeds with this metric",
    "paper_value": "value in the ECLM paper; empty: none",
}
PAIRS = "Rows `x` and `x+ft` of a method are the same training runs, so their bytes are the same: do not add them up."


def columns_page(folder: Path) -> str:
    """Describe the columns of the CSV files of a results folder, and the metrics of its ``summary.csv``."""
    parts = ["# Columns of the CSV files\n"]
    if (folder / "rounds.csv").exists():
        parts += [f"{PAIRS}\n"]
    for name, (about, columns) in ROWS.items():
        if (folder / name).exists():
            parts += [f"## {name}\n\n{about}\n\n{table('column', columns)}"]
    if (folder / "summary.csv").exists():
        rows = csv.DictReader(whole_lines(folder / "summary.csv"))
        metrics = {row["metric"]: metric_of(row["metric"]).meaning for row in rows}
        parts += [f"## summary.csv\n\n{table('column', SUMMARY)}", f"Metrics:\n\n{table('metric', metrics)}"]
    return "\n".join(parts)


def table(head: str, meanings: dict[str, str]) -> str:
    """Return a table in Markdown of names and meanings."""
    lines = [f"| `{name}` | {meaning} |".replace("  ", " ") for name, meaning in meanings.items()]
    return "\n".join([f"| {head} | meaning |", "|:--|:--|", *lines, ""])
