"""Fig. 14: divergence of the devices' updates over the rounds, a panel per degree of skew, one scale for all.

Of the blocks that can be cut into modules, which both kinds of model have: stem and head are shared by all.
"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.plots.panels import grid
from experiments.plots.style import looks, styled
from experiments.summary import complete


def divergence(rounds: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """A line per method, mean over seeds; a fine-tuned row shares its rounds with the plain one and is left out."""
    of = complete(rounds).dropna(subset="module_divergence")
    methods: dict[str, None] = {}
    for method in dict.fromkeys(of["method"]):  # rows of one run are equal: the last name stands for it
        twin = next((m for m in methods if m in (method.partition("+")[0], f"{method}-derive")), None)
        if twin is None or twin.endswith("-derive"):
            methods = {m: None for m in methods if m != twin} | {method: None}
    drawn = looks(methods)
    settings = list(dict.fromkeys(rounds["setting"]))
    with styled():
        figure, panels = grid(settings, drawn, 3, (4.2, 3.2))
        for axes, setting in zip(panels, settings, strict=True):
            for method, look in drawn.items():
                mean = (
                    of[(of["setting"] == setting) & (of["method"] == method)]
                    .groupby("round")["module_divergence"]
                    .mean()
                )
                axes.plot(mean.index, mean, look.line, color=look.color, label=method)
            axes.set_xlabel("round")
            axes.set_ylabel("divergence of the blocks' updates")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        top = max((axes.get_ylim()[1] for axes in panels), default=1.0)
        for axes in panels:
            axes.set_ylim(0, top)
    return figure
