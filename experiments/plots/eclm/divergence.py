"""Fig. 14: divergence of the devices' updates over the rounds, a panel per degree of skew, with one y-axis for all.

The divergence is that of the blocks that can be divided into modules, which the dense and the modular model both have.
All devices share the stem and the head.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plots.panels import grid
from experiments.plots.style import line_styles, styled
from experiments.summary import complete


def divergence(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a line per method, mean over seeds; a '+ft' row has the same rounds as the plain method and is left out."""
    rows = complete(rounds).dropna(subset="module_divergence")
    methods: dict[str, None] = {}
    for method in dict.fromkeys(rows["method"]):  # 'x-derive' and 'x' have equal rows: keep the last
        twin = next((m for m in methods if m in (method.partition("+")[0], f"{method}-derive")), None)
        if twin is None or twin.endswith("-derive"):
            methods = {m: None for m in methods if m != twin} | {method: None}
    styles = line_styles(methods)
    settings = list(dict.fromkeys(rounds["setting"]))
    with styled():
        figure, panels = grid(settings, styles, 3, (4.2, 3.2))
        for axes, setting in zip(panels, settings, strict=True):
            for method, style in styles.items():
                chosen = rows[(rows["setting"] == setting) & (rows["method"] == method)]
                mean = chosen.groupby("round")["module_divergence"].mean()
                axes.plot(mean.index, mean, style.line, color=style.color, label=method)
            axes.set_xlabel("round")
            axes.set_ylabel("divergence of the blocks' updates")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        top = max((axes.get_ylim()[1] for axes in panels), default=1.0)
        for axes in panels:
            axes.set_ylim(0, top)
    return figure
