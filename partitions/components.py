"""Components: data sets, partitions, drifts, models, methods and workloads that a run names, and their options.

A run names a component in one of three ways: a built-in name (``dirichlet``), a path to a class or object of the
user's own (``my_app.partition:Neighbours``), or the name of an entry point of an installed package.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from importlib import metadata
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, create_model

from partitions.errors import UnknownName, lookup

T = TypeVar("T")


def hyphens(name: str) -> str:
    """A Python name as a run-config key: ``severity_step`` is ``severity-step``."""
    return name.replace("_", "-")


class Section(BaseModel):
    """Options of one component. A field ``severity_step`` is the run-config key ``<component>.severity-step``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=hyphens, populate_by_name=True
    )


class Registry(Mapping[str, T], Generic[T]):
    """Components of one kind by name.

    Args:
        kind: what they are, for error messages: ``data set``.
        group: the entry points of installed packages that add to it: ``driftfed.datasets``.
        builtin: the components that this project has; a text ``module:name`` is imported when it is first asked for.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, T | str]):
        self.kind, self.group, self.builtin = kind, group, dict(builtin)

    def __getitem__(self, name: str) -> T:
        """The component of that name or path.

        Raises:
            UnknownName: there is none; the message lists the known names, or says what failed to import.
        """
        if name in self.builtin:
            found = self.builtin[name]
            return cast(T, resolve_name(found)) if isinstance(found, str) else found
        if name in self._installed:
            return cast(T, self._installed[name].load())
        if ":" in name:
            try:
                return cast(T, resolve_name(name))
            except (ImportError, AttributeError, ValueError) as error:
                raise UnknownName(
                    f"{self.kind} '{name}' cannot be imported ({error}); write 'package.module:Class', and start the "
                    "command in the folder that holds the package, or install it"
                ) from error
        return cast(T, lookup(self.kind, name, dict.fromkeys(self)))

    def __iter__(self) -> Iterator[str]:
        return iter([*self.builtin, *(name for name in self._installed if name not in self.builtin)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def _installed(self) -> dict[str, metadata.EntryPoint]:
        return {point.name: point for point in metadata.entry_points(group=self.group)}

    def name_of(self, component: object) -> str:
        """How a run-config names a component that Python code holds.

        Raises:
            UnknownName: it was defined in a script or inside a function, where workers could not import it.
        """
        if isinstance(component, str):
            return component
        for name, known in self.builtin.items():
            if known is component:
                return name
        path = f"{getattr(component, '__module__', '')}:{getattr(component, '__qualname__', '')}"
        if path.startswith("__main__:") or "<" in path or path.endswith(":"):
            raise UnknownName(
                f"{self.kind} {component!r} cannot be imported by worker processes; define it at the top of a module"
            )
        return path


def section_name(name: str) -> str:
    """The run-config section of a component: its name, or of ``my_app.method:FedHello`` its class, ``fed-hello``."""
    last = name.rpartition(":")[2].rpartition(".")[2]
    return name if ":" not in name else hyphens(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", last).lower())


def options_of(component: object, leave_out: tuple[str, ...] = ()) -> type[Section]:
    """The options of a component, as a pydantic model.

    A component declares them as a class ``Options`` of its own, by being a `Section` itself, or, if it is a function,
    as its keyword parameters.

    Args:
        leave_out: keyword parameters that are no options.
    """
    if isinstance(component, type) and issubclass(component, Section):
        return component
    own = getattr(component, "Options", None)
    if own is not None:
        return cast(type[Section], own)
    if inspect.isfunction(component):
        return _options_of_function(component, leave_out)
    return Section


@lru_cache(maxsize=64)
def _options_of_function(function: Callable[..., Any], leave_out: tuple[str, ...]) -> type[Section]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    fields: dict[str, Any] = {
        p.name: (p.annotation, p.default) for p in parameters if p.default is not p.empty and p.name not in leave_out
    }
    return create_model(f"{function.__name__} options", __base__=Section, **fields)
