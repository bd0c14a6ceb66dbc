"""Extend the ``config.toml`` of a results folder by the config of a new run, or refuse the new run."""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from fl.results.files import ResultsError
from fl.results.reader import read_config

DIGESTS = "digests"
"""Key in section ``data`` of a setting: hashes of the data. Folders of earlier versions do not have it."""


def merge_configs(
    out: Path, new: dict[str, Any], defaults: Mapping[str, object] = {}, general: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the config of a folder that holds rows, extended by the config of a new run.

    Args:
        out: the results folder.
        new: the new run's config, with the keys of ``config.toml``.
        defaults: dotted key of a setting -> its default. A key that is newer than the folder was not recorded there;
            the old rows were made with its default.
        general: sections of a setting that every run has. Any other section belongs to a component; it is compared only
            if both runs used the component. By default all sections are general.

    Raises:
        ResultsError: the folder holds another experiment, or the same setting with other values.
    """
    old = read_config(out)
    if missing := [key for key in new if key not in old]:
        raise ResultsError(f"'{out / 'config.toml'}' has no '{missing[0]}'; overwrite it or choose another folder")
    usual = flatten(plain(defaults))
    was, now = ({"experiment": repr(config["experiment"])} for config in (old, new))
    for name, setting in new["settings"].items():
        if name in old["settings"]:
            after, before = _comparable(plain(setting), old["settings"][name], general)
            before = {key: usual[key] for key in after if key in usual} | before
            _refuse_other_data(out, name, after, before)
            was |= {f"settings.{name}.{key}": value for key, value in before.items()}
            now |= {f"settings.{name}.{key}": value for key, value in after.items()}
    for key in [*was, *now]:
        if was.get(key) != now.get(key):
            change = f"{key} was {was.get(key, 'not set')}, is {now.get(key, 'not set')}"
            raise ResultsError(
                f"'{out}' holds results of another config ({change}); give this config its own name (--set "
                "setting=NAME), start anew (--overwrite) or choose another folder"
            )
    lists = {key: old[key] + [v for v in new[key] if v not in old[key]] for key in ("seeds", "methods", "versions")}
    together = {name: {**old["settings"].get(name, {}), **setting} for name, setting in new["settings"].items()}
    return {**old, **lists, "settings": {**old["settings"], **together}}


def _refuse_other_data(out: Path, setting: str, after: dict[str, str], before: dict[str, str]) -> None:
    """Raise ResultsError if the data of a setting changed; take their hashes out of both configs."""
    now, was = (config.pop(f"data.{DIGESTS}", "") for config in (after, before))
    if now and was and now != was:
        data = after.get("data.name", "data")
        raise ResultsError(
            f"'{out}' holds results of setting '{setting}' on other data ({data} or a file of its config has changed "
            "since); start anew (--overwrite) or choose another folder"
        )


def _comparable(
    new: Mapping[str, Any], old: Mapping[str, Any], general: Collection[str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Flatten two configs of a setting, without the components that only one of them has."""

    def compared(name: str, value: Any, other: Mapping[str, Any]) -> bool:
        return not isinstance(value, Mapping) or general is None or name in general or name in other

    both = [(new, old), (old, new)]
    after, before = ({k: v for k, v in one.items() if compared(k, v, other)} for one, other in both)
    return flatten(after), flatten(before)


def plain(value: object) -> Any:
    """Convert a value to the types of TOML. TOML has no null, so keys with the value None are left out."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    raise ResultsError(f"config.toml cannot hold {value!r}")


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested tables to dotted keys. Values become text, so that NaN equals NaN."""
    flat: dict[str, str] = {}
    for name, value in table.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": repr(value)}
    return flat
