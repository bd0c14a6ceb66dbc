"""A drift schedule as it falls on devices: the share of each class or subject in a device's data, step by step."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import percent, styled
from partitions import World

MOST = 24  # cells with a colour and a legend entry of their own; the others are grey
GREYS = ("#7f7f7f", "#c7c7c7", "#b3b3b3")  # of the palettes, not to be taken for the others


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
    palette = [color for color in map(to_hex, palette) if color not in GREYS]
    colors = dict(zip((cell for cell in cells if cell in largest), palette, strict=False)) | {"others": "#dddddd"}
    with styled():
        figure, panels = grid([f"device {device}" for device in devices], {}, 2, (5.2, 2.4))
        for axes, device in zip(panels, devices, strict=True):
            own = rows[rows["device"] == device]
            bottom = np.zeros(own["step"].nunique())
            for cell, of in own.groupby("cell", sort=False):
                label = cell if cell in colors else "others"
                axes.bar(of["step"], of["share"], bottom=bottom, width=0.92, color=colors[str(label)], label=label)
                bottom += of["share"].to_numpy()
            severity = own.groupby("step")["severity"].first()
            if severity.any():
                axes.plot(severity.index, severity, "o-", color="#222222", markersize=4, label="severity")
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(percent)
            axes.set_xlabel("step")
            axes.set_ylabel("share of the distribution")
            axes.grid(False)
        shown: dict[str, Artist] = {}
        for axes in panels:
            handles, labels = axes.get_legend_handles_labels()
            shown |= dict(zip(labels, handles, strict=True))
        names = [name for name in [*colors, "severity"] if name in shown]
        figure.legend([shown[name] for name in names], names, loc="outside right center", fontsize=8)
    return figure
