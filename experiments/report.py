"""Tables of ``summary.csv``, one per setting: for the terminal (rich, 80 columns are enough) and as markdown.

Bold is the best accuracy and whatever cannot be told from it: methods whose 95 % interval over seeds meets the best
one's. A single seed has no interval, so there only equal numbers share the bold, and the caption says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.milestones import TARGET

Metrics = dict[str, pd.Series]  # metric -> its line of summary.csv, for one method


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits < 6 else "<0.001" if value > 0 else ">-0.001"


@dataclass(frozen=True)
class Kind:
    """How a metric is shown.

    Args:
        head, unit: two short header lines for the terminal.
        full: its name in markdown.
        scale: factor from the unit of ``summary.csv``.
        digits: after the point; None: three significant digits.
    """

    head: str
    unit: str
    full: str
    scale: float = 1.0
    digits: int | None = None


KINDS: dict[str, Kind] = {
    "accuracy_mean": Kind("accuracy", "%", "accuracy, %", 100, 1),
    "accuracy_std": Kind("std", "%", "std over devices, %", 100, 1),
    "accuracy_p10": Kind("p10", "%", "10th percentile device, %", 100, 1),
    "final_accuracy_mean": Kind("final", "%", "final accuracy, %", 100, 1),
    "global_accuracy": Kind("global", "%", "global accuracy, %", 100, 1),
    "up_mb_per_round": Kind("up", "MB", "up, MB per round"),
    "down_mb_per_round": Kind("down", "MB", "down, MB per round"),
    "mb_per_device_round": Kind("traffic", "MB", "traffic, MB per device and round"),
    "virtual_min": Kind("time", "min", "virtual time, min"),
    "memory_mb": Kind("memory", "MB", "training memory, MB"),
    "gmac_per_device_round": Kind("compute", "GMAC", "training, GMAC per device and round"),
    "adapt_s": Kind("adapt", "s", "adaptation time, virtual s"),
    "divergence": Kind("diverg.", "", "gradient divergence"),
    "module_divergence": Kind("modules", "", "gradient divergence of the blocks"),
    "forgetting": Kind("forgot", "%", "forgetting, %", 100, 1),
    "load_cv": Kind("load", "CV", "module load, CV"),
    "shift_drop": Kind("drop", "%", "drop at a shift, %", 100, 1),
    "recovery_rounds": Kind("recov.", "rounds", "recovery, rounds"),
    "recovery_s": Kind("recov.", "s", "recovery, virtual s"),
    "recovered": Kind("recov.", "share", "shifts recovered from"),
    "rounds_to_target": Kind("target", "rounds", "rounds to target"),
    "min_to_target": Kind("target", "min", "virtual min to target"),
    "mb_to_target": Kind("target", "MB", "MB to target"),
    "accuracy": Kind("accuracy", "%", "accuracy, %", 100, 1),
    "change": Kind("change", "points", "change, points", 100, 1),
    "weight": Kind("weight", "at end", "weight at the end", 1, 2),
    "mean_weight": Kind("weight", "mean", "mean weight", 1, 2),
    "gap": Kind("gap", "points", "gap, points", 100, 1),
    "probed": Kind("probed", "%", "tokens that a probe reads, %", 100, 0),
    "score": Kind("score", "%", "score, %", 100, 1),
    "ability_gain": Kind("gain 1/5", "points", "ability gain at a fifth of the modules, points", 100, 1),
    "ability_gain_all": Kind("gain", "points", "ability gain, points", 100, 1),
    "train_ms": Kind("train", "ms", "training step, ms"),
    "train_ratio": Kind("train", "ratio", "training step, estimate / measured", 1, 2),
    "inference_ms": Kind("infer", "ms", "inference, ms"),
    "inference_ratio": Kind("infer", "ratio", "inference, estimate / measured", 1, 2),
    "peak_mb": Kind("peak", "MB", "peak memory, MB"),
    "memory_ratio": Kind("peak", "ratio", "memory, estimate / measured", 1, 2),
    "overlap": Kind("overlap", "", "overlap", 1, 2),
    "token_accuracy": Kind("tokens", "right", "token accuracy"),
    "exact_text": Kind("texts", "exact", "exact texts"),
    "rouge_1": Kind("ROUGE", "1", "ROUGE-1"),
    "rouge_2": Kind("ROUGE", "2", "ROUGE-2"),
    "rouge_l": Kind("ROUGE", "L", "ROUGE-L"),
    "diff_pick": Kind("diff", "pick", "diff pick"),
    "device": Kind("device", "", "device, parameters trained"),
    "cloud": Kind("cloud", "", "cloud, parameters trained"),
    "parameters": Kind("parts", "", "parameters trained"),
    "train_kb": Kind("train", "kB", "training memory, kB"),
    "down": Kind("down", "B", "down, B"),
    "up": Kind("up", "B", "up, B"),
    "infer_s": Kind("infer", "s", "base and device, s"),
    "wifi_s": Kind("Wi-Fi", "s", "network, Wi-Fi, s"),
    "wire_s": Kind("20 ms", "s", "network, measured with 20 ms, s"),
    "lan_s": Kind("LAN", "s", "network, LAN, s"),
    "total_lan_s": Kind("total", "LAN, s", "total, LAN, s"),
    "total_mobile_s": Kind("total", "4G, s", "total, 4G, s"),
}
BOLD = ("accuracy_mean",)  # as a table's first column: the best are bold
WITH_INTERVAL = (
    *BOLD,
    "accuracy",
    "score",
    "gap",
    "change",
    "ability_gain",
    "ability_gain_all",
    "overlap",
    "divergence",
    "module_divergence",
)


def kind_of(metric: str) -> Kind:
    """How a metric is shown; one without an entry under its own name."""
    return KINDS.get(metric) or Kind(metric, "", metric.replace("_", " "))


def text_of(metric: str, line: pd.Series | None, cell: str = "value", runs: int = 0) -> str:
    """A metric as text, '-' where there is none: '81.0', with its interval where the metric is shown with one.

    Args:
        runs: how many seeds the method was run with; fewer that have the metric are told.
    """
    kind = kind_of(metric)
    if line is None or math.isnan(line[cell]):
        return "-"

    def shown(value: float) -> str:
        value *= kind.scale
        return _short(value) if kind.digits is None else f"{value:.{kind.digits}f}"

    wide = cell == "value" and metric in WITH_INTERVAL and not math.isnan(line["ci95"])
    text = f"{shown(line[cell])} ± {shown(line['ci95'])}" if wide else shown(line[cell])
    some = cell == "value" and line["seeds"] < runs
    return f"{text} ({line['seeds']:g} of {runs:g})" if some else text


def show(summary: pd.DataFrame, metrics: Sequence[str], note: str = "", console: Console | None = None) -> None:
    """Print the tables, with ``metrics`` as columns and the note below."""
    (console or Console()).print(terminal(summary, metrics, note))


def terminal(summary: pd.DataFrame, metrics: Sequence[str], note: str = "") -> Group:
    """The tables for a terminal."""
    parts: list[RenderableType] = [] if len(summary) else ["No run is complete yet."]
    for setting, of in _by_setting(summary).items():
        best = _best(of, metrics[0])
        title = Text(f"{summary['experiment'].iloc[0]}, {setting}", style="bold")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.padding = (0, 1, 0, 0)
        table.add_column("\nmethod", no_wrap=True)
        columns = _columns(of, metrics)
        for metric, cell in columns:
            head = "paper" if cell == "paper_value" else kind_of(metric).head
            table.add_column(f"{head}\n{kind_of(metric).unit}", justify="right", no_wrap=True)
        for method, own in of.items():
            bold = "bold" if method in best else ""
            texts = [text_of(metric, own.get(metric), cell, _runs(own)) for metric, cell in columns]
            cells = [Text(text, style="" if i else bold) for i, text in enumerate(texts)]
            table.add_row(Text(method, style=bold), *cells)
        parts += ["", table, Text(_caption(of, metrics), style="dim")]
    parts += ["", Text(note, style="dim")] if note else []
    return Group(*parts)


def markdown(summary: pd.DataFrame, metrics: Sequence[str], title: str = "", note: str = "") -> str:
    """The tables as markdown, with ``metrics`` as columns; the title is by default the experiment's name."""
    parts = [f"# {title or summary['experiment'].iloc[0]}\n"] if len(summary) else ["No run is complete yet.\n"]
    parts += [f"{note}\n"] if note else []
    for setting, of in _by_setting(summary).items():
        best = _best(of, metrics[0])
        columns = _columns(of, metrics)
        heads = [("paper's " if cell == "paper_value" else "") + kind_of(metric).full for metric, cell in columns]
        lines = [
            "| method | " + " | ".join(heads) + " |",
            "|:--|" + "--:|" * len(columns),
        ]
        for method, own in of.items():
            cells = [text_of(metric, own.get(metric), cell, _runs(own)) for metric, cell in columns]
            if method in best:
                method, cells[0] = f"**{method}**", f"**{cells[0]}**"
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        parts.append(f"## {setting}\n\n" + "\n".join(lines) + f"\n\n{_caption(of, metrics)}\n")
    return "\n".join(parts)


def _by_setting(summary: pd.DataFrame) -> dict[str, dict[str, Metrics]]:
    """setting -> method -> metric -> line, in the order of the file, which is that of rounds.csv."""
    tables: dict[str, dict[str, Metrics]] = {}
    for _, line in summary.iterrows():
        tables.setdefault(line["setting"], {}).setdefault(line["method"], {})[line["metric"]] = line
    return tables


def _runs(own: Metrics) -> int:
    """The number of seeds that a method was run with."""
    return max(int(line["seeds"]) for line in own.values())


def _columns(of: dict[str, Metrics], metrics: Sequence[str]) -> list[tuple[str, str]]:
    """(metric, cell): a column for each metric that some method has, then one for each that the paper reports."""
    ours = [(m, "value") for m in metrics if any(m in own for own in of.values())]
    told = [m for m in metrics if any(m in own and not math.isnan(own[m]["paper_value"]) for own in of.values())]
    return [*ours, *((metric, "paper_value") for metric in told)]


def _best(of: dict[str, Metrics], metric: str) -> set[str]:
    """The methods with the best accuracy: the highest mean, and those whose interval meets its interval."""
    reach = {}
    for method, metrics in of.items():
        if metric in metrics and metric in BOLD:
            line = metrics[metric]
            half = 0.0 if math.isnan(line["ci95"]) else line["ci95"]
            reach[method] = (line["value"] - half, line["value"], line["value"] + half)
    lowest = max(reach.values(), key=lambda r: r[1])[0] if reach else 0.0
    return {method for method, (_, _, high) in reach.items() if high >= lowest}


def _caption(of: dict[str, Metrics], metrics: Sequence[str]) -> str:
    """What the numbers mean, and how far they can be trusted."""
    shown = [own[m] for own in of.values() for m in metrics if m in own]
    seeds = sorted({int(line["seeds"]) for line in shown})
    if not seeds:
        return "No run was scored."
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    bold = metrics[0] in BOLD
    if seeds == [1]:
        trust = "One seed: no interval, small differences mean nothing" + ("; bold: highest." if bold else ".")
    else:
        trust = f"{count} seeds; ± is the 95 % t-interval of the mean"
        trust += "; bold: best, and what cannot be told from it." if bold else "."
    words = [trust]
    if "accuracy_mean" in metrics:
        words.insert(0, "Accuracy of devices on their own current data, mean over the ends of all steps.")
    if "up_mb_per_round" in metrics:
        words.append("Up, down: all devices of a round together.")
    if "memory_mb" in metrics:
        words.append("Memory: the largest of any device.")
    if any(metric.endswith("_to_target") for metric in metrics):
        words.append(
            f"Target: {100 * TARGET:g} % of the best method's final accuracy; in a sweep the method's lowest; "
            "'-': not reached, '(1 of 2)': by one of two seeds."
        )
    if any(metric.startswith("recover") for metric in metrics):
        words.append("Recovery: back to the accuracy before the shift; one that fails counts with the whole step.")
    return " ".join(words)
