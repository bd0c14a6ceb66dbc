"""The run-config as TOML tables, for ``pyproject.toml``: Flower refuses a key that is not declared there.

``python -m experiments settings --toml`` prints them. A test holds ``pyproject.toml`` equal to them.
"""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from fl.config import Settings
from fl.config.sections import SECTIONS
from fl.workloads.resolve import REGISTRIES, component_sections, default_tables, section_options
from partitions.components import Registry, Section

ROOT = "tool.flwr.app.config"


def toml_tables() -> str:
    """Return every key with its default and, as a comment, its meaning: general keys, then a table per section."""
    lines = [f"[{ROOT}]"]
    for name, value in default_tables().items():
        if not isinstance(value, dict):
            lines.append(_line(name, value, _field(Settings, name), name))
    for section, model, title in _sections():
        lines += ["", f"# {title}", f"[{ROOT}.{section}]"]
        defaults = model().model_dump(by_alias=True)
        lines += [_line(key, value, _field(model, key), f"{section}.{key}") for key, value in defaults.items()]
    return "\n".join(lines) + "\n"


def _sections() -> Iterator[tuple[str, type[Section], str]]:
    """Yield name, model and title of each section: the general ones, then those of built-in components."""
    for name, general in SECTIONS.items():
        yield name, general, (general.__doc__ or "").partition("\n")[0].rstrip(".")
    owners: dict[str, list[tuple[str, str]]] = {}
    for where, _, name, section in component_sections():
        if name in REGISTRIES[where][1].builtin:
            owners.setdefault(section, []).append((where, name))
    for section, found in owners.items():
        where, first = found[0]
        kind, registry = REGISTRIES[where]
        title = f"Options of {kind} {', '.join(name for _, name in found)} ({where})"
        yield section, section_options(registry, first), title


def _field(model: type[Section], key: str) -> FieldInfo:
    return next(info for info in model.model_fields.values() if info.alias == key)


def _line(name: str, value: Any, field: FieldInfo, key: str) -> str:
    """Return ``name = value  # meaning``."""
    text = json.dumps(value) if isinstance(value, bool | str) else repr(value)
    meaning = "; ".join(filter(None, (field.description, _choices(field, key))))
    return f"{name} = {text}" + (f"  # {meaning}" if meaning else "")


def _choices(field: FieldInfo, key: str) -> str:
    """Return the allowed words of a key, or the known names of components, unless the description has them all."""
    registry: Registry[Any] | None = REGISTRIES.get(key, ("", None))[1]
    words = [str(word) for word in (registry.builtin if registry is not None else get_args(field.annotation))]
    described = all(word in (field.description or "") for word in words)
    return "" if described else f"one of: {', '.join(words)}"
