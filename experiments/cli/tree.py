"""The run-config as a tree: its sections, and of each key the default, the allowed values and who reads it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

from fl.config import Settings, SettingsError
from fl.config.sections import SECTIONS
from fl.workloads import WORKLOADS
from fl.workloads.resolve import GENERAL_MODEL_OPTIONS, REGISTRIES, component_sections, ignored_keys, section_options
from partitions.components import Registry, Section, hyphens, options_of, section_name
from strategies import STRATEGIES

GENERAL = "general"
BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


@dataclass(frozen=True)
class Key:
    """A key of the run-config.

    Args:
        name: with its section; default: as in TOML.
        meaning: one phrase; limits: which values are allowed and which workloads do not read the key, maybe empty.
    """

    name: str
    default: str
    meaning: str
    limits: str


@dataclass(frozen=True)
class Branch:
    """A section of the run-config, or a part of it."""

    title: str
    about: str
    keys: tuple[Key, ...]


def branch(name: str = "") -> list[Branch]:
    """Return a section, the section of a component, or the section with one key; without a name the whole tree.

    Raises:
        SettingsError: nothing has this name; the message lists similar names.
    """
    if ":" in name:
        return [_of_path(name)]
    tree = dict(_tree())
    if not name:
        return list(tree.values())
    if name in tree:
        return [tree[name]]
    for section, of in tree.items():
        if found := tuple(key for key in of.keys if key.name == name):
            return [Branch(of.title, of.about, found)]
        if name in {component for _, _, component, own in component_sections() if own == section}:
            return [of]
    for where, registry in _naming_keys().items():
        if name in list(registry):
            raise SettingsError(f"{registry.kind} '{name}' has no options; name it with {where} = '{name}'")
    known = {*tree, *(name for *_, name, _ in component_sections()), *(k.name for of in tree.values() for k in of.keys)}
    near = get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    hint = f"similar: {', '.join(near)}" if near else f"sections: {', '.join(tree)}"
    raise SettingsError(f"the run-config has no section, component or key '{name}'; {hint}")


def _tree() -> Iterator[tuple[str, Branch]]:
    plain = [name for name in Settings.model_fields if name not in SECTIONS and name != "options"]
    keys = (_key("", hyphens(name), Settings.model_fields[name]) for name in plain)
    yield GENERAL, Branch("general keys", "", tuple(keys))
    for name, model in SECTIONS.items():
        yield name, Branch(f"[{name}]", (model.__doc__ or "").strip(), tuple(_keys(name, model)))
    components = sorted(component_sections(), key=lambda found: (list(REGISTRIES).index(found[0]), found[3]))
    for (where, section), found in groupby(components, key=lambda one: (one[0], one[3])):
        names = [name for _, _, name, _ in found]
        kind, registry = REGISTRIES[where]
        about = f"Options of {kind} {', '.join(names)} (key {where})."
        yield section, Branch(f"[{section}]", about, tuple(_keys(section, section_options(registry, names[0]))))


def _of_path(path: str) -> Branch:
    """Return the options of a class of the user's own, e.g. ``my_app.method:FedHello``."""
    component = STRATEGIES[path]
    section = getattr(component, "section", "") or section_name(path)
    keys = tuple(_keys(section, options_of(component, GENERAL_MODEL_OPTIONS)))
    return Branch(f"[{section}]", f"Options of {path}." if keys else f"{path} has no options.", keys)


def _keys(section: str, model: type[Section]) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        yield _key(section, str(info.alias or hyphens(name)), info)


def _key(section: str, name: str, info: FieldInfo) -> Key:
    full = f"{section}.{name}" if section else name
    default = "(no default)" if info.is_required() else json.dumps(info.get_default(), ensure_ascii=False)
    naming: Mapping[str, Iterable[str]] = _naming_keys()
    allowed = f"{', '.join(naming[full])}, or a path 'package.module:Name'" if full in naming else _allowed(info)
    unread = [workload for workload in WORKLOADS if {section, full} & set(ignored_keys(workload))]
    limits = [f"allowed: {allowed}" if allowed else "", f"not in workload {', '.join(unread)}" if unread else ""]
    return Key(full, default, info.description or "", "; ".join(filter(None, limits)))


def _naming_keys() -> dict[str, Registry[Any]]:
    """Return the keys whose value is the name of a component."""
    return {where: registry for where, (_, registry) in REGISTRIES.items()}


def _allowed(info: FieldInfo) -> str:
    """Say which values a key may have, if its type alone does not tell."""
    if get_origin(info.annotation) is Literal:
        return ", ".join(map(str, get_args(info.annotation)))
    words = [
        f"{said} {getattr(bound, attribute):g}"
        for kind, (attribute, said) in BOUNDS.items()
        for bound in info.metadata
        if isinstance(bound, kind)
    ]
    words += [f"a multiple of {bound.multiple_of}" for bound in info.metadata if isinstance(bound, MultipleOf)]
    return " and ".join(words)
