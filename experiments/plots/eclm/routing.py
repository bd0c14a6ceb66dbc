"""Fig. 12: a panel for each pair of classes, modules as squares, paths as lines; below, the mapping matrices."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from experiments.plots.style import styled

COLORS = ("#0072b2", "#d55e00")  # of the two classes of a panel
SIDE = 0.36  # half the side of a square
FAINT = 0.05  # paths that fewer samples take are not drawn


def routing(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """The first setting and seed: a map is one model's, and means nothing averaged."""
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
    """Squares from bottom to top; the two classes side by side in each, left and right half."""
    classes = list(dict.fromkeys(rows["subtask"]))
    apart = max(3.0, rows["module"].max() / 3)  # columns
    for at, (subtask, color) in enumerate(zip(classes, COLORS, strict=False)):
        own, side = rows[rows["subtask"] == subtask], SIDE * at
        for module in own[own["to"] < 0].itertuples():
            corner = (apart * module.layer - SIDE + side, module.module - SIDE)
            axes.add_patch(
                Rectangle(corner, SIDE, 2 * SIDE, facecolor=color, alpha=module.fires, linewidth=0, zorder=2)
            )
        for path in own[(own["to"] >= 0) & (own["fires"] > FAINT)].itertuples():
            ends = [apart * path.layer + SIDE, apart * (path.layer + 1) - SIDE], [path.module, path.to]
            axes.plot(*ends, color=color, linewidth=2.2 * path.fires, alpha=0.35, solid_capstyle="butt", zorder=1)
        axes.plot([], [], "s", color=color, markersize=9, label=subtask)
    for module in rows[(rows["to"] < 0) & (rows["subtask"] == classes[0])].itertuples():
        corner = (apart * module.layer - SIDE, module.module - SIDE)
        axes.add_patch(Rectangle(corner, 2 * SIDE, 2 * SIDE, fill=False, edgecolor="#888888", linewidth=0.7, zorder=3))
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
    """H of one layer: rows are classes, columns modules; dark is a high load."""
    loads = rows.pivot_table(index="subtask", columns="module", values="load", sort=False)
    axes.imshow(np.asarray(loads), cmap="Greys", vmin=0, aspect="auto", interpolation="nearest")
    axes.set_title(f"H, {name.removesuffix('.modules')}")
    few = len(loads) <= 20
    axes.set_yticks(range(len(loads)) if few else [], loads.index if few else [], fontsize=8)
    axes.tick_params(length=0, labelleft=first and few)
    axes.set_xlabel("module")
    axes.grid(False)
