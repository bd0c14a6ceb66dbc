"""Drift on each device: the share of each class or subject in its data, step by step."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import percent, styled
from partitions import World

MOST = 24  # largest number of cells with a colour and a legend entry; the others are grey
GREYS = ("#7f7f7f", "#c7c7c7", "#b3b3b3")  # colours of the palettes that look like the grey of the others


def shares(world: World, devices: int, steps: int) -> pd.DataFrame:
    """Compute rows of (device, step, cell, share, severity) from the partition, without data and without training."""
    history, severity = world.history(range(devices), steps)
    return pd.DataFrame(
        [
            (device, step, cell, share, float(severity[device, step]))
            for device in range(devices)
            for step in range(steps)
            for cell, share in zip(world.cell_names, history[device, step].tolist(), strict=True)
        ],
        columns=["device", "step", "cell", "share", "severity"],
    )


def drift(rows: pd.DataFrame) -> Figure:
    """Draw a panel of stacked shares for each device.

    Args:
        rows: result of `shares`.
    """
    devices, cells = list(dict.fromkeys(rows["device"])), list(dict.fromkeys(rows["cell"]))
    largest = rows.groupby("cell")["share"].sum().sort_values(ascending=False).index[:MOST]
    palette = [*colormaps["tab20"].colors, *colormaps["Set2"].colors]  # type: ignore[attr-defined]
    palette = [color for color in map(to_hex, palette) if color not in GREYS]
    colors = dict(zip((cell for cell in cells if cell in largest), palette, strict=False)) | {"others": "#dddddd"}
    with styled():
        figure, panels = grid([f"device {device}" for device in devices], {}, 2, (5.2, 2.4))
        for axes, device in zip(panels, devices, strict=True):
            of_device = rows[rows["device"] == device]
            bottom = np.zeros(of_device["step"].nunique())
            for cell, steps in of_device.groupby("cell", sort=False):
                label = cell if cell in colors else "others"
                axes.bar(
                    steps["step"], steps["share"], bottom=bottom, width=0.92, color=colors[str(label)], label=label
                )
                bottom += steps["share"].to_numpy()
            severity = of_device.groupby("step")["severity"].first()
            if severity.any():
                axes.plot(severity.index, severity, "o-", color="#222222", markersize=4, label="severity")
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(percent)
            axes.set_xlabel("step")
            axes.set_ylabel("share of the data")
            axes.grid(False)
        shown: dict[str, Artist] = {}
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        names = [name for name in [*colors, "severity"] if name in shown]
        figure.legend([shown[name] for name in names], names, loc="outside right center", fontsize=8)
    return figure
