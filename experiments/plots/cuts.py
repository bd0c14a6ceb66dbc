"""What can be cut in a model: the parameters of each layer, in order of execution."""

from textwrap import shorten
from typing import Literal

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.plots.style import FAMILIES, styled
from models.nn.any_body import AnyBody
from models.nn.body import Architecture, Body, hidden_axis
from models.submodel import axis_names

Kind = Literal["cut", "modules", "whole"]
COLORS: dict[Kind, str] = {"cut": FAMILIES["fedavg"], "modules": FAMILIES["eclm"], "whole": FAMILIES["na"]}
LABELS: dict[Kind, str] = {
    "cut": "width can be cut (HeteroFL, FjORD, FedRolex)",
    "modules": "width can be cut, also into modules (ECLM)",
    "whole": "stays whole",
}
ROW = 0.19  # inches


def layers(architecture: Architecture) -> pd.DataFrame:
    """Return rows of (layer, parameters, kind, axes, why) in order of execution; ``why`` says what stays whole."""
    body = architecture.whole().eval()
    prefix, whole = ("net.", body.found.whole) if isinstance(body, AnyBody) else ("", {})
    modular = {axis for layer in body.layers for axis in (layer, hidden_axis(layer))}
    rows: dict[str, tuple[int, set[str]]] = {}
    for name, parameter in body.named_parameters():
        layer = name.rpartition(".")[0]
        count, axes = rows.get(layer, (0, set()))
        rows[layer] = count + parameter.numel(), axes | axis_names(body.axes()[name])
    order, table = _order(body, architecture.input_shape), []
    for name in sorted(rows, key=lambda layer: order[layer]):
        count, axes = rows[name]
        kind: Kind = "modules" if axes & modular else "cut" if axes - {"classes"} else "whole"
        shown = name.removeprefix(prefix) or "(the model)"
        why = whole.get(shown, whole.get(f"{shown}.modules", ""))
        short = sorted({axis.removesuffix(".modules").removesuffix(".hidden") for axis in axes})
        table.append((shown, count, kind, ", ".join(short), why))
    return pd.DataFrame(table, columns=["layer", "parameters", "kind", "axes", "why"])


def _order(body: Body, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the place of each module in the execution; modules that are not called have that of what is around."""
    called: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: called.append(name))
        for name, module in body.named_modules()
    ]
    with torch.no_grad():
        body(torch.zeros(2, *shape))
    for hook in hooks:
        hook.remove()
    order = {name: place for place, name in reversed(list(enumerate(called)))}
    for name, _ in body.named_modules():  # from the outside in
        order.setdefault(name, order[name.rpartition(".")[0]])
    return order


def cuts(rows: pd.DataFrame, model: str) -> Figure:
    """Draw a bar for each layer that has more than 0.1 % of the parameters, or a reason to stay whole.

    Args:
        rows: result of `layers`; model: its name.
    """
    total, longest = int(rows["parameters"].sum()), int(rows["parameters"].max())
    drawn = rows[(rows["parameters"] > total / 1000) | (rows["why"] != "")]
    with styled():
        figure = Figure(figsize=(11, 1.3 + ROW * len(drawn)), layout="constrained")
        axes = figure.subplots()
        table = zip(*(drawn[name].tolist() for name in ("parameters", "kind", "axes", "why")), strict=True)
        for place, (count, kind, names, why) in enumerate(table):
            axes.barh(place, count, height=0.75, color=COLORS[kind])
            reason = f"whole: {why}" if kind == "whole" else f"no modules: {why}"
            said = [f"{count:,} ({count / total:.1%})", f"axes: {names}" if names else "", reason if why else ""]
            text = shorten("; ".join(filter(None, said)), 120, placeholder=" ...")
            axes.text(count + longest / 100, place, text, va="center", fontsize=7.5)
        axes.set_yticks(range(len(drawn)), drawn["layer"].tolist(), fontsize=7.5)
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(0, 2.2 * longest)
        axes.set_xticks([])
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        small = total - int(drawn["parameters"].sum())
        axes.set_title(
            f"{model}: {total:,} parameters" + (f", {small:,} of them in layers too small to draw" if small else "")
        )
        handles = [Patch(color=COLORS[kind]) for kind in LABELS]
        figure.legend(handles, list(LABELS.values()), loc="outside lower left", ncols=3, fontsize=9)
    return figure
