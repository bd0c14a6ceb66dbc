"""Fig. 12: above, a panel per pair of classes with modules as squares and paths as lines; below, mapping matrices H."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from experiments.plots.style import styled

COLORS = ("#0072b2", "#d55e00")  # the two classes of a panel
HALF = 0.36  # half the side of a square
RARE = 0.05  # paths of a smaller share of the samples are not drawn


def routing(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the first setting and seed; maps of several models cannot be averaged."""
    rows = rows[(rows["setting"] == rows["setting"].iloc[0]) & (rows["seed"] == rows["seed"].iloc[0])]
    layers = list(dict.fromkeys(rows["name"]))
    with styled():
        figure = Figure(figsize=(11.0, 8.2), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12))
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.25, 1])[:, 0]
        for pair, axes in enumerate(above.subplots(1, 2)):
            _paths(axes, rows[rows["pair"] == pair], layers)
        for axes, (layer, name) in zip(
            below.subplots(1, len(layers), squeeze=False).flat, enumerate(layers), strict=True
        ):
            _matrix(axes, rows[(rows["layer"] == layer) & (rows["to"] < 0)], name, layer == 0)
    return figure


def _paths(axes: Axes, rows: pd.DataFrame, layers: list[str]) -> None:
    """Draw a column of squares per layer; the left and the right half of a square are the two classes."""
    classes = list(dict.fromkeys(rows["subtask"]))
    apart = max(3.0, rows["module"].max() / 3)  # columns
    for at, (subtask, color) in enumerate(zip(classes, COLORS, strict=False)):
        of_class, side = rows[rows["subtask"] == subtask], HALF * at
        for module in of_class[of_class["to"] < 0].itertuples():
            corner = (apart * module.layer - HALF + side, module.module - HALF)
            axes.add_patch(
                Rectangle(corner, HALF, 2 * HALF, facecolor=color, alpha=module.fires, linewidth=0, zorder=2)
            )
        for path in of_class[(of_class["to"] >= 0) & (of_class["fires"] > RARE)].itertuples():
            ends = [apart * path.layer + HALF, apart * (path.layer + 1) - HALF], [path.module, path.to]
            axes.plot(*ends, color=color, linewidth=2.2 * path.fires, alpha=0.35, solid_capstyle="butt", zorder=1)
        axes.plot([], [], "s", color=color, markersize=9, label=subtask)
    for module in rows[(rows["to"] < 0) & (rows["subtask"] == classes[0])].itertuples():
        corner = (apart * module.layer - HALF, module.module - HALF)
        axes.add_patch(Rectangle(corner, 2 * HALF, 2 * HALF, fill=False, edgecolor="#888888", linewidth=0.7, zorder=3))
    axes.set_xticks([apart * layer for layer in range(len(layers))], [name.removesuffix(".modules") for name in layers])
    axes.set_xlim(-1, apart * (len(layers) - 1) + 1)
    axes.set_ylim(-0.8, rows["module"].max() + 0.8)
    axes.set_aspect("equal")
    axes.set_ylabel("module")
    axes.set_title(" and ".join(classes))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _matrix(axes: Axes, rows: pd.DataFrame, name: str, first: bool) -> None:
    """Draw H of one layer: rows are classes, columns are modules, dark is a high load."""
    loads = rows.pivot_table(index="subtask", columns="module", values="load", sort=False)
    axes.imshow(np.asarray(loads), cmap="Greys", vmin=0, aspect="auto", interpolation="nearest")
    axes.set_title(f"H, {name.removesuffix('.modules')}")
    few = len(loads) <= 20
    axes.set_yticks(range(len(loads)) if few else [], loads.index if few else [], fontsize=8)
    axes.tick_params(length=0, labelleft=first and few)
    axes.set_xlabel("module")
    axes.grid(False)
