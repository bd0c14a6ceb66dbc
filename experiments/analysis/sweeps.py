"""Sweeps: a setting at several values of some keys. Its name ends in them: 'subject dirichlet.alpha=0.1'."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any

from fl.config import SettingsError, flatten

if TYPE_CHECKING:
    import pandas as pd  # takes a third of a second, and `--help` does not need it


def points_of(sweeps: Iterable[str], changes: Mapping[str, str] = {}) -> list[dict[str, str]]:
    """Return all combinations of the values of ``KEY=V1,V2,...`` arguments; one empty combination without arguments.

    Raises:
        SettingsError: an argument has no values, or its key is given twice, also among ``changes``.
    """
    values: dict[str, list[str]] = {}
    for text in sweeps:
        key, _, several = (part.strip() for part in text.partition("="))
        found = [value.strip() for value in several.split(",") if value.strip()]
        if not key or not found:
            raise SettingsError(f"--sweep {text}: write KEY=V1,V2,..., e.g. --sweep dirichlet.alpha=0.1,0.5,5")
        if key in ("seeds", "strategies", "setting", "experiment"):
            raise SettingsError(f"--sweep {key}: rows are kept apart by it anyway, so use --set {key}= or --seeds")
        if key in values or key in changes:
            raise SettingsError(f"--sweep {key}: the key is given twice; leave one of them out")
        values[key] = found
    return [dict(zip(values, point, strict=True)) for point in product(*values.values())]


def label(point: Mapping[str, str]) -> str:
    """Return the end of a setting's name: ' dirichlet.alpha=0.1'."""
    return "".join(f" {key}={value}" for key, value in point.items())


def point_of(setting: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the swept keys of a setting, those at the end of its name, with their values in ``values`` (nested)."""
    flat, found = flatten(values), {}
    for word in reversed(setting.split(" ")):
        key, equals, text = word.partition("=")
        if not equals or key not in flat or not _equal(text, flat[key]):
            break
        found[key] = flat[key]
    return dict(reversed(found.items()))


def swept_keys(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the keys of a sweep, given all settings of a folder; none if not every setting is a point of it."""
    points = [[*point_of(name, values)] for name, values in settings.items()]
    return points[0] if points and all(keys == points[0] for keys in points) else []


def tidy(summary: "pd.DataFrame", settings: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> "pd.DataFrame":
    """Return the summary with a column for each swept key, and without these keys in the name of the setting."""
    points = {name: point_of(name, values) for name, values in settings.items()}
    columns = {key: [points[setting][key] for setting in summary["setting"]] for key in keys}
    plain = [" ".join(setting.split(" ")[: -len(keys)]) for setting in summary["setting"]]
    own = summary.assign(setting=plain, **columns)
    first = ["experiment", "setting", *keys]
    return own[[*first, *(name for name in own.columns if name not in first)]]


def _equal(text: str, value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(ValueError):
            return float(text) == value
    return text.lower() == str(value).lower()
