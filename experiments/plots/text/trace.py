"""Case study of the SPA paper: the tokens of a sentence that the device took part in, and the time of each."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import styled

PARTS = {"base": "#9aa5b1", "side": "#e69f00", "network": "#0072b2"}


def trace(rows: Sequence[Any]) -> Figure:
    """Draw a bar of milliseconds per token; bold: the device took part, red: its answer was late or missing."""
    heights = {
        "base": [row.base_ms for row in rows],
        "side": [row.side_ms for row in rows],
        "network": [row.call_ms - row.side_ms for row in rows],
    }
    with styled():
        figure, (axes,) = grid(
            ["bold: the device took part; red: its answer was late or missing"], {}, 1, (0.42 * len(rows), 3.0)
        )
        below = [0.0] * len(rows)
        for part, values in heights.items():
            axes.bar(range(len(rows)), values, bottom=below, color=PARTS[part], label=part)
            below = [b + v for b, v in zip(below, values, strict=True)]
        axes.set_xticks(range(len(rows)), [row.text.strip() or "_" for row in rows], rotation=60, ha="right")
        for label, row in zip(axes.get_xticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row.asked else "normal")
            label.set_color("#c0392b" if row.degraded else "#111111" if row.asked else "#777777")
        axes.set_ylabel("ms")
        axes.legend(fontsize=7)
    return figure
