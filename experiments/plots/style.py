"""How figures look: one restrained style, one fixed colour per family of methods, the same bytes every time."""

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib import style
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from fl.results.files import atomic_write

GREY = "#555555"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "hatch.linewidth": 0.9,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "svg.hashsalt": "driftfed",  # ids in the SVG do not change from run to run
    "svg.fonttype": "path",
}

# Okabe and Ito's palette, which colour-blind readers can tell apart.
FAMILIES: dict[str, str] = {
    "na": "#7f7f7f",
    "la": "#56b4e9",
    "fedavg": "#0072b2",
    "heterofl": "#e69f00",
    "eclm": "#d55e00",
    "eclm-plus": "#882255",
    "eclm-static": "#999933",
    "fjord": "#009e73",
    "fedrolex": "#cc79a7",
    "an": "#000000",
}
SPARE = ("#117733", "#aa4499", "#332288")  # for families without a colour of their own, in order


Stroke = Literal["-", "--", ":", "-."]
ABLATED: dict[str, tuple[Stroke, str]] = {"local": ("-.", "xxxx")}  # line and hatch of '-x' variants
OTHERWISE: tuple[Stroke, str] = (":", "....")


@dataclass(frozen=True)
class Look:
    """How a method is drawn: '+ft' variants dashed, hatched and hollow; '-x' variants dotted and paler."""

    color: str
    line: Stroke
    hatch: str
    hollow: bool


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for each method; the same name always has the same one."""
    strangers: dict[str, str] = {}
    found = {}
    for method in methods:
        plain, tuned, _ = method.partition("+")
        own = [family for family in FAMILIES if plain == family or plain.startswith(f"{family}-")]
        family = max(own, key=len, default=plain.partition("-")[0])
        ablation = plain.removeprefix(family).removeprefix("-")
        if family not in FAMILIES and family not in strangers:
            strangers[family] = SPARE[len(strangers) % len(SPARE)]
        color = FAMILIES.get(family) or strangers[family]
        line, hatch = ABLATED.get(ablation, OTHERWISE) if ablation else ("-", "")
        if tuned:
            line, hatch = "--", "////"
        found[method] = Look(_paler(color) if ablation else color, line, hatch, bool(tuned))
    return found


def styled() -> AbstractContextManager[None]:
    """Draw and save within this: the style on top of matplotlib's own, whatever the user's matplotlibrc says."""
    return style.context(["default", STYLE])


def percent(share: float, _: float | None = None) -> str:
    """Tick labels of an axis of shares."""
    return f"{100 * share:g}%"


def key(name: str, look: Look) -> Line2D:
    """A method's entry in a legend."""
    face = "white" if look.hollow else look.color
    return Line2D([], [], color=look.color, linestyle=look.line, marker="o", markerfacecolor=face, label=name)


def save(figure: Figure, out: Path, stem: str = "figure") -> None:
    """Write ``<stem>.png`` and ``<stem>.svg``: same figure, same bytes."""
    png, svg, small = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with styled():
        figure.savefig(png, format="png", metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None})
    # 256 colours are all that such a figure needs, at a third of the bytes.
    Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, "png", optimize=True, dpi=(150, 150)
    )
    atomic_write(out / f"{stem}.png", small.getvalue())
    atomic_write(out / f"{stem}.svg", svg.getvalue())


def _paler(color: str, share: float = 0.4) -> str:
    red, green, blue = (c + (1 - c) * share for c in to_rgb(color))
    return to_hex((red, green, blue))
