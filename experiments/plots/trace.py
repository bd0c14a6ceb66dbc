"""The paper's case study: which tokens of a sentence the device had a say in, and what each took."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

PARTS = {"base": "#9aa5b1", "side": "#e08e45", "network": "#4c78a8"}


def trace(rows: Sequence[Any]) -> Figure:
    """A bar per token, milliseconds stacked by where they went; the text of a token with the device's say is bold."""
    figure, axes = plt.subplots(figsize=(max(4.0, 0.42 * len(rows)), 2.8), layout="constrained")
    heights = {
        "base": [row.base_ms for row in rows],
        "side": [row.side_ms for row in rows],
        "network": [row.call_ms - row.side_ms for row in rows],
    }
    below = [0.0] * len(rows)
    for part, values in heights.items():
        axes.bar(range(len(rows)), values, bottom=below, color=PARTS[part], label=part)
        below = [b + v for b, v in zip(below, values, strict=True)]
    axes.set_xticks(range(len(rows)), [row.text.strip() or "·" for row in rows], rotation=60, ha="right")
    for label, row in zip(axes.get_xticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.asked else "normal")
        label.set_color("#c0392b" if row.degraded else "#111111" if row.asked else "#777777")
    axes.set_ylabel("ms")
    axes.set_title("bold: the device had a say; red: it should have had", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    return figure
