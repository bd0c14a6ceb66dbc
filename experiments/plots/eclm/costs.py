"""Figs. 7 to 9: what a method costs, a panel of bars per setting."""

import tomllib
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import fl.devices.hardware
from experiments.plots.panels import bars, grid, table
from experiments.plots.style import looks, styled


def _costs(summary: pd.DataFrame, metric: str, label: str, of: str, absent: str = "") -> Figure:
    """Bars of ``metric``, in each setting of the methods that ran there and whose ``of`` is above 0 somewhere."""
    drawn = looks(dict.fromkeys(summary[(summary["metric"] == of) & (summary["value"] > 0)]["method"]))
    settings = list(dict.fromkeys(summary["setting"]))
    with styled():
        figure, panels = grid(settings, {}, 3, (4.3, 0.8 + 0.22 * max(4, len(drawn))))
        for axes, setting in zip(panels, settings, strict=True):
            ran = set(summary[summary["setting"] == setting]["method"])
            here = {method: look for method, look in drawn.items() if method in ran}
            bars(axes, table(summary, setting, metric), here, "{:.3g}", 1.0, label, absent)
    return figure


def traffic(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 7: megabytes until the target, of the methods that send anything."""
    label = "MB until the target accuracy, all devices"
    return _costs(summary, "mb_to_target", label, of="mb_per_device_round", absent="not reached")


def memory(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 8: the largest training memory of any device."""
    return _costs(summary, "memory_mb", "training memory, MB", of="memory_mb")


def latency(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Fig. 9: virtual seconds of a device's local training in a round, on both boards."""
    of = summary[(summary["metric"] == "gmac_per_device_round") & (summary["value"] > 0)]
    drawn = looks(dict.fromkeys(of["method"]))
    names = [(setting, board) for setting in dict.fromkeys(of["setting"]) for board in boards()]
    with styled():
        height = 0.8 + 0.22 * max(4, len(drawn))
        figure, panels = grid([setting for setting, _ in names], {}, 4, (3.7, height))
        for axes, (setting, board) in zip(panels, names, strict=True):
            lines = table(of, setting, "gmac_per_device_round")
            bars(axes, lines, drawn, "{:.3g}", 1e9 / boards()[board], f"{board}, virtual s a round")
    return figure


def boards() -> dict[str, float]:
    """Multiply-accumulates a second of each board of fl/devices/devices.toml."""
    path = Path(fl.devices.hardware.__file__).with_name("devices.toml")
    return {b["name"]: b["mac_per_s"] for b in tomllib.loads(path.read_text(encoding="utf-8"))["board"]}
