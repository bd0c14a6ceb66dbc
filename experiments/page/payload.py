"""The numbers of the page: curves, summary, devices and settings of results folders, as plain data for JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.analysis.metrics import METRICS, metric_of
from experiments.analysis.recorded import Recorded
from experiments.analysis.rounds_to_target import shift_counts
from experiments.analysis.summary import intervals
from experiments.plots.style import LineStyle, in_words, line_styles
from fl.config import flatten

CURVES = (
    "accuracy_mean", "accuracy_p10", "accuracy_std", "balanced_accuracy_mean", "global_accuracy", "loss", "forgetting",
    "divergence", "load_cv",
)  # fmt: skip
AXES = ("mb_per_device_round", "memory_mb", "gmac_per_device_round", "virtual_min", "up_mb_total", "down_mb_total")
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
MOST = 8  # methods shown at first, if the experiment does not name them


def payload(found: Sequence[Recorded], live: bool = False) -> dict[str, Any]:
    """Collect what the page shows.

    Args:
        live: the page asks for new numbers from time to time.
    """
    names = _names(found)
    groups = [_group(one, name, setting) for one, name in zip(found, names, strict=True) for setting in _settings(one)]
    methods = list(dict.fromkeys(method for group in groups for method in (*group["curves"], *group["summary"])))
    styles = line_styles(methods)
    shown = _shown_at_first(found, styles)
    used = {metric for group in groups for of in group["summary"].values() for metric in of}
    used |= {metric for group in groups for of in group["curves"].values() for metric in of["metrics"]}
    return {
        "title": ", ".join(names) or "no results yet",
        "about": list(dict.fromkeys(one.experiment.summary for one in found if one.experiment.name)),
        "live": live,
        "methods": {
            method: {
                "name": in_words(method), "color": style.color, "dash": DASHES[style.line], "hollow": style.hollow,
                "shown": method in shown,
            }
            for method, style in styles.items()
        },
        "metrics": {name: _metric(name) for name in sorted(used, key=[*METRICS, *sorted(used)].index)},
        "axes": [name for name in AXES if name in used],
        "groups": groups,
        "versions": {name: one.config.get("versions", []) for one, name in zip(found, names, strict=True)},
    }  # fmt: skip


def _shown_at_first(found: Sequence[Recorded], styles: Mapping[str, LineStyle]) -> set[str]:
    """Return the methods that the experiments name, or all of a study, or else at most `MOST`."""
    named = {method for one in found for method in one.experiment.shown} & set(styles)
    if named or any(one.experiment.study for one in found):
        return named or set(styles)
    methods = list(styles)
    for minor in (lambda method: styles[method].line in (":", "-."), lambda method: f"{method}+ft" in styles):
        if len(methods) > MOST:  # without variants, then without models that have a fine-tuned twin
            methods = [method for method in methods if not minor(method)]
    return set(methods[:MOST])


def _names(found: Sequence[Recorded]) -> list[str]:
    """Return a short name of each folder: its last part, or as many parts as tell it from the others."""
    for parts in range(1, 9):
        names = ["/".join(one.folder.parts[-parts:]) for one in found]
        if len(set(names)) == len(names):
            break
    return names


def _metric(name: str) -> dict[str, Any]:
    metric = metric_of(name)
    meaning = metric.meaning if metric.scale == 1 else metric.meaning.replace(", 0 to 1", "")  # here it is in percent
    best = {True: "higher is better", False: "lower is better", None: ""}[metric.higher_is_better]
    return {
        "label": metric.label,
        "scale": metric.scale,
        "digits": metric.digits,
        "meaning": "; ".join(filter(None, (meaning, best))),
    }


def _settings(one: Recorded) -> list[str]:
    return list(dict.fromkeys([*one.rows["setting"], *one.config.get("settings", {})]))


def _group(one: Recorded, name: str, setting: str) -> dict[str, Any]:
    """Return one setting of one folder."""
    rows = one.rows[one.rows["setting"] == setting]
    summary = one.summary[one.summary["setting"] == setting]
    study = bool(one.experiment.study)
    starts = [] if study else rows.groupby(shift_counts(rows))["round"].min().sort_values().iloc[1:].tolist()
    measures, devices = (_of(table, setting) for table in (one.measures, one.devices))
    return {
        "folder": name,
        "setting": setting,
        "drifts": starts,
        "curves": {} if study else {
            str(method): _curves(of, measures[measures["method"] == method] if len(measures) else measures)
            for method, of in rows.groupby("method", sort=False)
        },
        "summary": {
            str(method): {
                line["metric"]: [*_short([line["value"], line["ci95"], line["paper_value"]]), int(line["seeds"])]
                for _, line in of.iterrows()
            }
            for method, of in summary.groupby("method", sort=False)
        },
        "columns": list(one.experiment.table),
        "devices": _devices(devices),
        "settings": flatten(one.config.get("settings", {}).get(setting, {})),
    }  # fmt: skip


def _of(table: pd.DataFrame | None, setting: str) -> pd.DataFrame:
    """Return the rows of a setting; none if there is no such table."""
    return pd.DataFrame() if table is None else table[table["setting"] == setting]


def _curves(rows: pd.DataFrame, measures: pd.DataFrame) -> dict[str, Any]:
    """Return the curves of a method: means over seeds by round, and half of their 95 % intervals."""
    traffic = rows.assign(bytes=rows["bytes_up"] + rows["bytes_down"]).sort_values("round")
    so_far = traffic.assign(mb=traffic.groupby("seed")["bytes"].cumsum() / 1e6).groupby("round")
    scored = [(name, rows[["seed", "round", name]].dropna()) for name in CURVES]
    scored += [(str(name), of.rename(columns={"value": str(name)})) for name, of in _by(measures, "measure")]
    return {
        "round": [int(number) for number in so_far.groups],
        "mb": _short(so_far["mb"].mean()),
        "min": _short(so_far["virtual_s"].mean() / 60),
        "metrics": {name: _curve(of, name) for name, of in scored if len(of)},
    }


def _by(frame: pd.DataFrame, column: str) -> Iterable[tuple[Any, pd.DataFrame]]:
    return frame.groupby(column, sort=False) if len(frame) else ()


def _curve(rows: pd.DataFrame, name: str) -> list[list[Any]]:
    """Return rounds, means over seeds, and half intervals (0 for one seed)."""
    of = rows.groupby("round")[name]
    mean = of.mean()
    return [[int(number) for number in mean.index], _short(mean), _short(intervals(of))]


def _devices(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the accuracy of each device (rows) at the end of each step (columns) by method, mean over seeds."""
    found = {}
    for method, of in _by(rows, "method"):
        ends = of.sort_values("round").groupby(["seed", "step", "device"]).tail(1)
        cells = ends.pivot_table(index="device", columns="step", values="accuracy", aggfunc="mean")
        values = [_short(line) for line in cells.to_numpy()]
        found[str(method)] = {"devices": cells.index.tolist(), "steps": cells.columns.tolist(), "accuracy": values}
    return found


def _short(values: Iterable[float]) -> list[float | None]:
    """Round to five digits; None for NaN, which JSON does not have."""
    return [None if math.isnan(value) else float(f"{value:.5g}") for value in values]
