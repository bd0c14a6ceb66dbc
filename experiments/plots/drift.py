"""Drift on each device, step by step: shares of classes or subjects, concepts, availability, images."""

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments.plots.panels import grid
from experiments.plots.style import percent, styled
from partitions import World, corrupt
from partitions.availability import Availability
from partitions.drifts.concepts import Concepts

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


def label_shares(world: World, devices: int, steps: int) -> pd.DataFrame:
    """Count the labels of each device's training samples: rows of (device, step, cell, share, severity)."""
    rows = []
    for device, step in np.ndindex(devices, steps):
        labels = world.draw(device, step).train_labels
        counts = np.bincount(labels[labels >= 0], minlength=world.data.num_classes)
        of = zip(world.data.classes, (counts / counts.sum()).tolist(), strict=True)
        rows += [(device, step, name, share, 0.0) for name, share in of]
    return pd.DataFrame(rows, columns=["device", "step", "cell", "share", "severity"])


def concepts(drift: Concepts, world: World, devices: int, steps: int) -> pd.DataFrame:
    """Compute rows of (device, step, concept, first); first: 1 where none of the devices had the concept before."""
    seen: dict[int, int] = {}
    rows = []
    for step, device in np.ndindex(steps, devices):
        concept = drift.concept(device, step, world.frame)
        rows.append((device, step, concept, int(seen.setdefault(concept, step) == step)))
    return pd.DataFrame(sorted(rows), columns=["device", "step", "concept", "first"])


def online(model: Availability, seed: int, devices: int, rounds: int) -> pd.DataFrame:
    """Compute rows of (device, round, online)."""
    numbers = np.arange(devices)
    table = np.array([model.online(seed, r, numbers) for r in range(1, rounds + 1)])
    rows = [(device, r + 1, int(table[r, device])) for device, r in np.ndindex(devices, rounds)]
    return pd.DataFrame(rows, columns=["device", "round", "online"])


def matrix(rows: pd.DataFrame) -> Figure:
    """Draw a line for each device, a column for each step or round, and a colour for each value.

    Args:
        rows: result of `concepts` or `online`. Dots mark rows with ``first``.
    """
    device, time, value = rows.columns[:3]
    table = rows.pivot(index=device, columns=time, values=value)
    known = sorted(set(rows[value]))
    palette = colormaps["tab20" if max(known) > 7 else "Set2"].colors  # type: ignore[attr-defined]
    colors = {one: to_hex(palette[(one - 1) % len(palette)]) if one else "#dddddd" for one in known}
    names = {one: f"{value} {one}" for one in known} if value != "online" else {0: "offline", 1: "online"}
    begin, end = table.columns.min() - 0.5, table.columns.max() + 0.5
    with styled():
        size = 2.0 + 0.3 * table.shape[1], 1.4 + min(0.25 * len(table), 8.0)
        figure, (axes,) = grid([""], {}, 1, (max(5.2, size[0]), size[1]))
        image = np.array([[to_rgb(colors[one]) for one in line] for line in table.to_numpy().tolist()])
        axes.imshow(image, aspect="auto", interpolation="nearest", extent=(begin, end, len(table) - 0.5, -0.5))
        if "first" in rows:
            first = rows[(rows["first"] == 1) & (rows[value] > 0)]
            axes.plot(first[time], first[device], "o", color="#222222", markersize=4)
        axes.set_xlabel(time)
        axes.set_ylabel(device)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(False)
        handles: list[Artist] = [Patch(color=colors[one], label=names[one]) for one in known]
        if "first" in rows:
            handles.append(Line2D([], [], linestyle="", marker="o", color="#222222", label="first device in it"))
        figure.legend(handles=handles, loc="outside right center", fontsize=8)
    return figure


def strips(world: World, devices: int, steps: int) -> Figure:
    """Draw the first training image of each device and step, with its corruption, under its label."""
    from torch import from_numpy

    data = world.data
    with styled():
        figure, panels = grid([""] * (devices * steps), {}, steps, (0.9, 1.05))
        for axes, (device, step) in zip(panels, np.ndindex(devices, steps), strict=True):
            draw = world.draw(device, step)
            clean = data.inputs("train", draw.train)
            image = corrupt(from_numpy(clean), draw.train_corruptions)[0].numpy()
            pixels = ((image - clean.min()) / max(1e-6, clean.max() - clean.min())).clip(0, 1)
            axes.imshow(pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0], cmap="gray", vmin=0, vmax=1)
            label = draw.train_labels[0]
            axes.set_title(data.classes[label] if label >= 0 else "no label", fontsize=7, fontweight="normal")
            axes.set(xticks=[], yticks=[])
            if not step:
                axes.set_ylabel(f"device {device}", fontsize=8)
            if device == devices - 1:
                axes.set_xlabel(f"step {step}", fontsize=8)
    return figure


def drift(rows: pd.DataFrame) -> Figure:
    """Draw a panel of stacked shares for each device.

    Args:
        rows: result of `shares` or `label_shares`.
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
