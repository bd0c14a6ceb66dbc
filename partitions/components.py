"""Components by name (data sets, partitions, drifts, models, methods, workloads), and their options.

A name is a built-in name (``dirichlet``), a path to the user's class or object (``my_app.partition:Neighbours``), or an
entry point of an installed package.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from importlib import metadata
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, create_model, field_validator

from partitions.errors import UnknownName, lookup, missing_package

T = TypeVar("T")
MOST = 10**12  # of any whole number in a run-config: numpy and torch count in 64 bits


def hyphens(name: str) -> str:
    """Convert a Python name to a run-config key: ``severity_step`` to ``severity-step``."""
    return name.replace("_", "-")


class Section(BaseModel):
    """Options of one component. A field ``severity_step`` is the run-config key ``<component>.severity-step``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=hyphens, populate_by_name=True
    )

    @field_validator("*")
    @classmethod
    def _not_huge(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) > MOST:
            raise ValueError(f"input should be a whole number from -{MOST} to {MOST}")
        return value


class Registry(Mapping[str, T], Generic[T]):
    """Components of one kind by name.

    To add a component to the project, add a line to ``builtin``. From outside, write its path ``my_app.module:Class``,
    or let an installed package declare it as an entry point of ``group``.

    Args:
        kind: what the components are, for error messages: ``data set``.
        group: entry-point group by which installed packages add components: ``driftfed.datasets``.
        builtin: this project's components by name; a string ``module:name`` is imported on first use.
        adapt: converts what a name outside of this project leads to, given that and the name, e.g. a pandas table to a
            data set.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: Mapping[str, T | str],
        adapt: Callable[[Any, str], Any] = lambda found, name: found,
    ):
        self.kind, self.group, self.builtin, self.adapt = kind, group, dict(builtin), adapt

    def __getitem__(self, name: str) -> T:
        """Return the component of that name or path.

        Raises:
            UnknownName: there is none; the message lists the known names, or says why the import failed.
        """
        if name in self.builtin:
            found = self.builtin[name]
            return cast(T, resolve_name(found)) if isinstance(found, str) else found
        if name in self._installed:
            return cast(T, self.adapt(self._installed[name].load(), name))
        if ":" in name:
            try:
                found = resolve_name(name)
            except (ImportError, AttributeError, ValueError) as error:
                if advice := missing_package(error):
                    raise UnknownName(f"{self.kind} '{name}' {advice}") from error
                raise UnknownName(
                    f"{self.kind} '{name}' cannot be imported ({error}); write 'package.module:Class', and start the "
                    "command in the folder that holds the package, or install it"
                ) from error
            return cast(T, self.adapt(found, name))
        return cast(T, lookup(self.kind, name, dict.fromkeys(self)))

    def __contains__(self, name: object) -> bool:
        """Return whether the name is known, or is a path; this imports nothing."""
        return name in self.builtin or name in self._installed or ":" in str(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.builtin, *(name for name in self._installed if name not in self.builtin)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def _installed(self) -> dict[str, metadata.EntryPoint]:
        return {point.name: point for point in metadata.entry_points(group=self.group)}


def section_name(name: str) -> str:
    """Return the run-config section of a component: its name, or ``fed-hello`` for ``my_app.method:FedHello``."""
    last = name.rpartition(":")[2].rpartition(".")[2]
    return name if ":" not in name else hyphens(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", last).lower())


def is_a(thing: object, path: str) -> bool:
    """Return whether something is an instance or a subclass of the class at ``module:Class``. This imports nothing."""
    module, _, name = path.partition(":")
    kind = getattr(sys.modules.get(module), name, None)  # nothing is of a class whose module nobody imported
    return kind is not None and (issubclass(thing, kind) if isinstance(thing, type) else isinstance(thing, kind))


def options_of(component: object, leave_out: tuple[str, ...] = ()) -> type[Section]:
    """Return the options of a component as a pydantic model.

    A component declares its options in one of three ways: it is a subclass of `Section`, it has a class ``Options``, or
    it is a function with keyword parameters.

    Args:
        leave_out: keyword parameters that are not options.
    """
    if isinstance(component, type) and issubclass(component, Section):
        return component
    if (options := getattr(component, "Options", None)) is not None:
        return cast(type[Section], options)
    if inspect.isfunction(component):
        return _options_of_function(component, leave_out)
    return Section


@lru_cache(maxsize=64)
def _options_of_function(function: Callable[..., Any], leave_out: tuple[str, ...]) -> type[Section]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields: dict[str, Any] = {}
    for p in parameters:
        if p.default is not p.empty and p.name not in leave_out:
            guessed = type(p.default) if isinstance(p.default, bool | int | float | str) else Any
            fields[p.name] = guessed if p.annotation is p.empty else p.annotation, p.default
    return create_model(f"{function.__name__} options", __base__=Section, **fields)
