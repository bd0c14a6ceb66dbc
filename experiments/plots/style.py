"""Style of all figures: one layout, one fixed colour per family of methods, the same bytes in every run."""

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
    "font.family": "DejaVu Sans",  # part of matplotlib, so figures are the same on every machine
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
    "svg.hashsalt": "driftfed",  # the same ids in the SVG in every run
    "svg.fonttype": "path",
}

# Palette of Okabe and Ito, made for colour-blind readers.
FAMILIES: dict[str, str] = {
    "na": "#7f7f7f",
    "la": "#56b4e9",
    "fedavg": "#0072b2",
    "heterofl": "#e69f00",
    "eclm": "#d55e00",
    "eclm-plus": "#882255",
    "eclm-smooth": "#117733",
    "eclm-adam": "#44aa99",
    "eclm-static": "#999933",
    "fjord": "#009e73",
    "fedrolex": "#cc79a7",
    "an": "#000000",
}
SPARE = ("#aa4499", "#332288", "#88ccee")  # for other families, in order

# Methods in words, and what follows a '-' in their names.
NAMES = {
    "na": "cloud model", "la": "local adaptation", "an": "AdaptiveNet", "fedavg": "FedAvg", "heterofl": "HeteroFL",
    "fjord": "FjORD", "fedrolex": "FedRolex", "eclm": "ECLM", "eclm-plus": "ECLM+", "eclm-smooth": "ECLM smooth",
    "fedadam": "FedAdam", "eclm-adam": "ECLM smooth + server Adam",
}  # fmt: skip
VARIANTS = {
    "": "", "prior": " + class prior", "derive": ", not adapted", "local": " without cloud",
    "static": ", never updated", "tailored": " + tailoring", "blend": " + blend",
    "adam": " + server Adam",
}  # fmt: skip

Dash = Literal["-", "--", ":", "-."]
ABLATIONS: dict[str, tuple[Dash, str]] = {"local": ("-.", "xxxx")}  # dash and hatch of '-x' variants
OTHER_ABLATION: tuple[Dash, str] = (":", "....")


@dataclass(frozen=True)
class LineStyle:
    """Style of a method: '+ft' variants are dashed, hatched and hollow; '-x' variants are dotted and pale."""

    color: str
    line: Dash
    hatch: str
    hollow: bool


def line_styles(methods: Iterable[str]) -> dict[str, LineStyle]:
    """Return a style for each method; in all figures a method has the same one."""
    spare: dict[str, str] = {}
    styles = {}
    for method in methods:
        plain, tuned, _ = method.partition("+")
        families = [family for family in FAMILIES if plain == family or plain.startswith(f"{family}-")]
        family = max(families, key=len, default=plain.partition("-")[0])
        ablation = plain.removeprefix(family).removeprefix("-")
        if family not in FAMILIES and family not in spare:
            spare[family] = SPARE[len(spare) % len(SPARE)]
        color = FAMILIES.get(family) or spare[family]
        line, hatch = ABLATIONS.get(ablation, OTHER_ABLATION) if ablation else ("-", "")
        if tuned:
            line, hatch = "--", "////"
        styles[method] = LineStyle(_paler(color) if ablation else color, line, hatch, bool(tuned))
    return styles


def in_words(method: str) -> str:
    """Return a method in words: 'fedavg+ft' is 'FedAvg + fine-tuning'. Other names stay as they are."""
    plain, tuned, _ = method.partition("+ft")
    family = max((name for name in NAMES if f"{plain}-".startswith(f"{name}-")), key=len, default="")
    variant = [VARIANTS.get(part) for part in plain.removeprefix(family).removeprefix("-").split("-")]
    if not family or None in variant:
        return method
    return NAMES[family] + "".join(map(str, variant)) + (" + fine-tuning" if tuned else "")


def styled() -> AbstractContextManager[None]:
    """Apply the style on top of matplotlib's defaults, ignoring the user's matplotlibrc, to draw and to save."""
    return style.context(["default", STYLE])


def percent(share: float, _: float | None = None) -> str:
    """Format a tick of an axis of shares."""
    return f"{100 * share:g}%"


def legend_entry(name: str, of: LineStyle) -> Line2D:
    """Return the legend handle of a method."""
    face = "white" if of.hollow else of.color
    return Line2D([], [], color=of.color, linestyle=of.line, marker="o", markerfacecolor=face, label=name)


def save(figure: Figure, out: Path, stem: str = "figure", svg: bool = False) -> None:
    """Write ``<stem>.png`` and, if asked, ``<stem>.svg``; the same figure gives the same bytes."""
    image, small, vector = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with styled():
        figure.savefig(image, format="png", metadata={"Software": None})
        if svg:
            figure.savefig(vector, format="svg", metadata={"Date": None})
            atomic_write(out / f"{stem}.svg", vector.getvalue())
    # 256 colours suffice for these figures and save two thirds of the bytes.
    Image.open(image).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        small, "png", optimize=True, dpi=(150, 150)
    )
    atomic_write(out / f"{stem}.png", small.getvalue())


def _paler(color: str, share: float = 0.4) -> str:
    red, green, blue = (c + (1 - c) * share for c in to_rgb(color))
    return to_hex((red, green, blue))
