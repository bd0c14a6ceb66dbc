"""Fig. 14: divergence and variance of the devices' updates over the rounds, a panel per degree of skew.

They are those of the blocks that can be divided into modules, which the dense and the modular model both have. All
devices share the stem and the head. The variance grows with the length of the updates; the divergence does not.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.analysis.summary import complete
from experiments.plots.panels import grid
from experiments.plots.style import line_styles, styled

MEASURES = {
    "module_divergence": "divergence of the blocks' updates",
    "module_variance": "variance of the blocks' updates",
}


def divergence(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a row of panels for each measure that the rounds have, with one y-axis: a line per method, mean over seeds.

    A '+ft' row has the same rounds as the plain method and is left out.
    """
    rows = complete(rounds)
    measures = {name: label for name, label in MEASURES.items() if name in rows and rows[name].notna().any()}
    methods: dict[str, None] = {}
    for method in dict.fromkeys(rows.dropna(subset="module_divergence")["method"]):
        # 'x-derive' and 'x' have equal rows: keep the last
        twin = next((m for m in methods if m in (method.partition("+")[0], f"{method}-derive")), None)
        if twin is None or twin.endswith("-derive"):
            methods = {m: None for m in methods if m != twin} | {method: None}
    styles = line_styles(methods)
    settings = list(dict.fromkeys(rounds["setting"]))
    with styled():
        figure, panels = grid(settings * len(measures), styles, len(settings) if len(measures) > 1 else 3, (4.2, 3.2))
        for at, (measure, label) in enumerate(measures.items()):
            row = panels[at * len(settings) : (at + 1) * len(settings)]
            for axes, setting in zip(row, settings, strict=True):
                for method, style in styles.items():
                    chosen = rows[(rows["setting"] == setting) & (rows["method"] == method)]
                    mean = chosen.groupby("round")[measure].mean()
                    axes.plot(mean.index, mean, style.line, color=style.color, label=method)
                axes.set_xlabel("round")
                axes.set_ylabel(label)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            top = max((axes.get_ylim()[1] for axes in row), default=1.0)
            for axes in row:
                axes.set_ylim(0, top)
    return figure
