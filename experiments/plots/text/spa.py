"""SPA: quality and cost of each variant, which tokens the device is asked about, and quality against exchanges."""

from itertools import product

import pandas as pd
from matplotlib.figure import Figure

from experiments.plots.panels import grid
from experiments.plots.style import styled

MODES = {
    "zero-shot": ("#7f7f7f", "x"),
    "one-shot": ("#7f7f7f", "+"),
    "LoRA": ("#0072b2", "s"),
    "adapter": ("#56b4e9", "s"),
    "S1": ("#e69f00", "^"),
    "S2": ("#cc79a7", "v"),
    "S3": ("#009e73", "v"),
    "LST": ("#000000", "v"),
    "SPA": ("#d55e00", "o"),
    "SPA, own gate": ("#d55e00", "D"),
    "SPA attentive": ("#882255", "o"),
    "SPA sparse": ("#882255", "D"),
}
FITS = {
    "two-stage": ("#d55e00", "o"),
    "mixture": ("#0072b2", "s"),
    "expectation": ("#009e73", "^"),
    "straight-through": ("#cc79a7", "v"),
    "oracle": ("#000000", "x"),
}


def spa_modes(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw token accuracy against exchanges and bytes per token: a point per seed, a line for the base without any."""
    panels = {"M": "exchanges per token", "bytes": "payload, bytes per token"}
    settings = rows["setting"].unique()
    with styled():
        figure, drawn = grid(
            [f"{setting}: accuracy and {x}" for setting in settings for x in panels], {}, 2, (4.6, 3.6)
        )
        means = rows.assign(bytes=rows["down"] + rows["up"]).groupby(["setting", "variant", "seed"], sort=False)
        points = means[[*panels, "token_accuracy"]].mean().reset_index()
        for axes, (setting, x) in zip(drawn, product(settings, panels), strict=True):
            for variant, seeds in points[points["setting"] == setting].groupby("variant", sort=False):
                color, marker = MODES[str(variant)]
                if variant in ("zero-shot", "one-shot"):
                    line = "--" if variant == "zero-shot" else ":"
                    axes.axhline(seeds["token_accuracy"].mean(), color=color, linestyle=line, label=variant)
                else:
                    axes.plot(
                        seeds[x], seeds["token_accuracy"], marker, color=color, label=variant, markerfacecolor="none"
                    )
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(panels[x])
            axes.set_ylabel("token accuracy")
        drawn[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def spa_costs(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw seconds for 50 tokens, mean over seeds: base and device measured, network (LAN and 4G) modelled."""
    networks = {"lan_s": "LAN, 3.8 ms, 1 Gb/s", "mobile_s": "4G, 50 ms, 10 Mb/s"}
    settings = rows["setting"].unique()
    with styled():
        figure, drawn = grid(
            [f"{setting}: {text}" for setting in settings for text in networks.values()], {}, 2, (4.4, 3.6)
        )
        for axes, (setting, network) in zip(drawn, product(settings, networks), strict=True):
            means = summary[summary["setting"] == setting].pivot_table(
                index="method", columns="metric", values="value", sort=False
            )
            axes.barh(means.index, means["infer_s"], color="#7f7f7f", label="base and device")
            axes.barh(means.index, means[network], left=means["infer_s"], color="#0072b2", label="network")
            axes.invert_yaxis()
            axes.set_xlabel("seconds for 50 tokens")
        for axes in drawn[1::2]:
            axes.set_yticklabels([])
        drawn[0].legend(fontsize=7)
    return figure


def spa_effect(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw recall against waste for variants with a gate, a point per seed."""
    settings = rows["setting"].unique()
    with styled():
        figure, drawn = grid([f"{setting}: tokens asked about" for setting in settings], {}, 2, (5.0, 3.8))
        means = rows.groupby(["setting", "variant", "seed"], sort=False)[["recall", "waste"]].mean().reset_index()
        for axes, setting in zip(drawn, settings, strict=True):
            gated = means[(means["setting"] == setting) & (means["waste"] < 1)]
            for variant, seeds in gated.groupby("variant", sort=False):
                color, marker = MODES[str(variant)]
                axes.plot(seeds["waste"], seeds["recall"], marker, color=color, label=variant, markerfacecolor="none")
            axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":", label="random tokens")
            axes.plot(0.24, 0.73, "*", color="#000000", markersize=9, label="paper")
            axes.set_xlabel("waste: asked about, predictions agree")
            axes.set_ylabel("recall: asked about, predictions differ")
        drawn[0].legend(fontsize=7)
    return figure


def spa_gate(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw the curve over thresholds, mean over devices and seeds, and points for every fit and price."""
    names = list(dict.fromkeys(rows["setting"]))
    with styled():
        figure, drawn = grid(names, {}, len(names), (5.0, 3.8))
        for axes, setting in zip(drawn, names, strict=True):
            points = rows[rows["setting"] == setting]
            line = points[points["by"] == "threshold"]
            number = line.groupby(["seed", "device"]).cumcount()
            curve = line.groupby(number)[["M", "token_accuracy"]].mean()
            axes.plot(curve["M"], curve["token_accuracy"], color="#d55e00", label="two-stage, by threshold")
            for fit, (color, marker) in FITS.items():
                prices = points[points["by"] == fit].groupby("at")[["M", "token_accuracy"]].mean()
                axes.plot(prices["M"], prices["token_accuracy"], marker, color=color, label=f"{fit}, by price")
            axes.axvline(0.62, color="#999999", linewidth=1, linestyle=":", label="M of the paper")
            axes.set_xlim(0, 1)
            axes.set_xlabel("M, share of tokens asked about")
            axes.set_ylabel("token accuracy")
        drawn[0].legend(fontsize=7)
    return figure


def spa_size(rows: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw token accuracy by each size, and M for variants with a gate; a row of panels per base."""
    panels = {"width": "d / r", "states": "states read", "data": "training examples", "epochs": "epochs"}
    lines = {"S1": ("#e69f00", "^"), "S3": ("#009e73", "v")}
    settings = rows["setting"].unique()
    with styled():
        names = [f"{setting}: {by}" for setting in settings for by in panels]
        figure, drawn = grid(names, {}, len(panels), (3.2, 3.4))
        means = rows.groupby(["setting", "by", "at"])[["token_accuracy", "M"]].mean()
        for axes, (setting, by) in zip(drawn, product(settings, panels), strict=True):
            if by == "epochs":
                for name, (color, marker) in lines.items():
                    sizes = means.loc[setting, name]
                    axes.plot(
                        sizes.index, sizes["token_accuracy"], marker=marker, color=color, label=f"{name}, accuracy"
                    )
            else:
                sizes = means.loc[setting, by]
                axes.plot(sizes.index, sizes["token_accuracy"], marker="o", color="#d55e00", label="SPA, accuracy")
                axes.plot(sizes.index, sizes["M"], marker="s", color="#0072b2", linestyle="--", label="SPA, M")
            axes.set_ylim(0, 1.02)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(panels[by])
            axes.legend(fontsize=7)
    return figure
