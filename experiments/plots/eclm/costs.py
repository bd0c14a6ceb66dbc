"""Figs. 7 to 9: costs of each method, a panel of bars per setting."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import fl.devices.hardware
from experiments.analysis.metrics import METRICS
from experiments.plots.panels import WHISKERS, bars, grid, table
from experiments.plots.style import line_styles, styled


def _costs(summary: pd.DataFrame, metric: str, positive: str, missing: str = "") -> Figure:
    """Draw ``metric``, per setting, of the methods that ran there and have ``positive`` above 0 in any setting."""
    chosen = (summary["metric"] == positive) & (summary["value"] > 0)
    styles = line_styles(dict.fromkeys(summary[chosen]["method"]))
    settings = list(dict.fromkeys(summary["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 3, (4.3, 0.8 + 0.22 * max(4, len(styles))), WHISKERS)
        for axes, setting in zip(panels, settings, strict=True):
            ran = set(summary[summary["setting"] == setting]["method"])
            present = {method: style for method, style in styles.items() if method in ran}
            bars(axes, table(summary, setting, metric), present, METRICS[metric], missing)
    return figure


def traffic(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 7: draw the megabytes until the target accuracy, of the methods with traffic."""
    return _costs(summary, "mb_to_target", "mb_per_device_round", "not reached")


def memory(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 8: draw the largest training memory of any device."""
    return _costs(summary, "memory_mb", "memory_mb")


def latency(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 9: draw the virtual seconds of one device's local training in a round, on both boards."""
    gmac = METRICS["gmac_per_device_round"]
    lines = summary[(summary["metric"] == gmac.name) & (summary["value"] > 0)]
    styles = line_styles(dict.fromkeys(lines["method"]))
    names = [(setting, board) for setting in dict.fromkeys(lines["setting"]) for board in boards()]
    with styled():
        height = 0.8 + 0.22 * max(4, len(styles))
        figure, panels = grid([f"{setting}\n{board}" for setting, board in names], {}, 4, (3.7, height), WHISKERS)
        for axes, (setting, board) in zip(panels, names, strict=True):
            seconds = replace(gmac, label="virtual s per round", scale=1e9 / boards()[board])
            bars(axes, table(lines, setting, gmac.name), styles, seconds)
    return figure


def boards() -> dict[str, float]:
    """Return the multiply-accumulates per second of each board in fl/devices/devices.toml."""
    path = Path(fl.devices.hardware.__file__).with_name("devices.toml")
    return {b["name"]: b["mac_per_s"] for b in tomllib.loads(path.read_text(encoding="utf-8"))["board"]}
