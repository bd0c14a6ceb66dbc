"""A drift schedule as it falls on devices: the share of each class or subject in a device's data, step by step."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import percent, styled
from partitions import World

MOST = 24  # cells with a colour and a legend entry of their own; the rest are grey


def shares(world: World, devices: int, steps: int) -> pd.DataFrame:
    """Rows of (device, step, cell, share, severity) from the partition alone: no data are drawn, nothing is trained."""
    of, severity = world.history(range(devices), steps)
    return pd.DataFrame(
        [
            (device, step, cell, share, float(severity[device, step]))
            for device in range(devices)
            for step in range(steps)
            for cell, share in zip(world.cell_names, of[device, step].tolist(), strict=True)
        ],
        columns=["device", "step", "cell", "share", "severity"],
    )


def drift(rows: pd.DataFrame) -> Figure:
    """A panel of stacked shares for each device.

    Args:
        rows: as `shares` gives them.
    """
    devices, cells = list(dict.fromkeys(rows["device"])), list(dict.fromkeys(rows["cell"]))
    largest = rows.groupby("cell")["share"].sum().sort_values(ascending=False).index[:MOST]
    palette = [*colormaps["tab20"].colors, *colormaps["Set2"].colors]  # type: ignore[attr-defined]
    colors = {cell: palette[cells.index(cell) % len(palette)] if cell in largest else "#dddddd" for cell in cells}
    with styled():
        figure, panels = grid([f"device {device}" for device in devices], {}, 2, (5.2, 2.4))
        for axes, device in zip(panels, devices, strict=True):
            own = rows[rows["device"] == device]
            bottom = np.zeros(own["step"].nunique())
            for cell, of in own.groupby("cell", sort=False):
                axes.bar(of["step"], of["share"], bottom=bottom, width=0.92, color=colors[str(cell)], label=cell)
                bottom += of["share"].to_numpy()
            severity = own.groupby("step")["severity"].first()
            if severity.any():
                axes.plot(severity.index, severity, "o-", color="#222222", markersize=4, label="severity")
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(percent)
            axes.set_xlabel("step")
            axes.grid(False)
        shown: dict[str, Artist] = {}
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            shown |= {label: h for h, label in zip(handles, labels, strict=True) if label in [*largest, "severity"]}
        figure.legend(list(shown.values()), list(shown), loc="outside right center", fontsize=8)
    return figure
