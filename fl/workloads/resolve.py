"""Build what a run-config names: methods, partition, drift, model and workload, with their options, once.

This is the one place where names become objects. `Settings` below it is plain data; functions above it take what they
need of the objects.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from fl.config import NOT_COMPUTED, Settings, SettingsError, flatten, nest, refuse_flag, sentence, unknown
from fl.config.sections import SECTIONS
from fl.results.merge import DIGESTS
from fl.workloads import WORKLOADS
from fl.workloads.options import WORKLOAD_OPTIONS
from fl.workloads.workload import Method, SplitWorkload, Workload
from fl.workloads.world import Worlds
from models.nn.registry import MODELS
from partitions import DATASETS, DRIFTS, PARTITIONS, DataError, Schedule, UnknownName, source_of
from partitions.availability import AVAILABILITY, Availability
from partitions.components import Registry, Section, options_of, section_name
from partitions.datasets.source import Source
from partitions.drifts.drift import Drift
from partitions.partitioners.partitioner import Partition
from strategies import STRATEGIES
from strategies.adaptivenet import AdaptiveNet
from strategies.core.strategy import Budget, Strategy
from strategies.eclm import ECLM, ModularOptions

# parameters of a model that the section ``model`` and the data set
GENERAL_MODEL_OPTIONS = ("width", "norm", "layers", "num_classes")
REGISTRIES: dict[str, tuple[str, Registry[Any]]] = {
    "data.name": ("data set", DATASETS),
    "data.partition": ("partition", PARTITIONS),
    "drift.kind": ("drift", DRIFTS),
    "devices.availability": ("availability", AVAILABILITY),
    "model.name": ("model", MODELS),
    "strategies": ("strategy", STRATEGIES),
    "workload": ("workload", WORKLOADS),
}
"""Registries whose components have options, by the key that names one of them."""

BASES: dict[str, type] = {
    "data.name": Source,
    "data.partition": Partition,
    "drift.kind": Drift,
    "devices.availability": Availability,
    "strategies": Strategy,
    "workload": Workload,
}
"""What a component must be a subclass of, by the same keys. A model is a function."""

S = TypeVar("S", bound=Section)

NEEDS = {
    "nested": "a model with nested widths",
    "rolling": "a model with rolling windows",
    "supernet": "a supernet",
    "modular": "a modular model",
    "tailored": "a modular model",
    "limits": "models that are cut to a client's limits",
    "class-shares": "clients that know their class shares",
    "batch-statistics": "batch norm that trains on each batch (client.frozen-statistics = false)",
    "sgd": "local training by SGD (client.optimizer = 'sgd')",
    "upload": "clients that keep parts of the model",
}
"""What a method may need of a workload, in words; the first one that the workload lacks is named in the error."""


@dataclass(frozen=True)
class Run:
    """A resolved run-config.

    Args:
        settings: as given; methods: by name, in the order in which they run; options: sections of components in use.
        availability: which clients are online in a round.
    """

    settings: Settings
    methods: Mapping[str, Method]
    workload: Workload
    options: Mapping[str, Section]
    availability: Availability

    @property
    def budget(self) -> Budget:
        """What a run allows, the same for every method."""
        return budget(self.settings, self.availability)

    @property
    def worlds(self) -> Worlds:
        """The data of every client at every step, by seed."""
        return self.workload.worlds

    def strategy(self, name: str, seed: int, progress: Any = None) -> Strategy:
        """Return the server half of a method; its cloud models are trained when it first uses them."""
        method = self.methods[name]
        return method.strategy(self.workload.prepare(seed, progress), self.budget, seed, method.options)

    @property
    def reports(self) -> list[str]:
        """Names of all rows in the CSVs."""
        return [report for method in self.methods.values() for report in method.strategy.reports]

    def config(self) -> dict[str, Any]:
        """Return everything in the run-config that decides the numbers, as nested tables."""
        return nest({key: value for key, value in self._flat().items() if key not in NOT_COMPUTED})

    def record(self) -> dict[str, Any]:
        """Return `config` with hashes of the data, for config.toml.

        Raises:
            partitions.DataError: data are missing.
        """
        tables, digests = self.config(), [*self.workload.digests, *self.availability.digests]
        return tables | {"data": tables.get("data", {}) | {DIGESTS: digests}} if digests else tables

    def _flat(self) -> dict[str, Any]:
        own = {name: options.model_dump(by_alias=True, exclude_none=True) for name, options in self.options.items()}
        ignores = {*self.workload.ignores, *getattr(self.worlds.kind, "ignores", ())}
        if not self.worlds.own:  # a real device reads what the partition does not
            ignores |= {*getattr(self.worlds.partition, "ignores", ())}
        general = {name: value for name, value in self.settings.complete().items() if name not in ignores}
        return {k: v for k, v in flatten({**general, **own}).items() if k not in ignores}


def budget(s: Settings, availability: Availability) -> Budget:
    """Return what a run allows."""
    return Budget(
        s.devices.count, s.cohort, s.client.local_epochs, s.client.adapt_epochs, s.rounds_per_step, s.server.robust,
        s.server.trim, availability,
    )  # fmt: skip


def resolve(settings: Settings, check: bool = True, study: bool = False) -> Run:
    """Build everything that a run-config names.

    Args:
        check: refuse options that the run does not use. A ClientApp leaves that to the ServerApp.
        study: resolve for a study, which has no rounds: a workload does not check that its options fit rounds.

    Raises:
        SettingsError: a name, an option or a combination is impossible; says in one sentence what is allowed.
    """
    try:
        return _resolve(settings, check, study)
    except (UnknownName, DataError) as error:
        raise SettingsError(str(error)) from None


def _resolve(settings: Settings, check: bool, study: bool) -> Run:
    used: dict[str, Section] = {}

    def options(component: object, section: str, preset: Mapping[str, Any] = {}, general: tuple[str, ...] = ()) -> Any:
        own = read_options(options_of(component, general), section, settings.options.get(section, {}), preset)
        if not preset and type(own).model_fields:
            if section in SECTIONS:
                raise SettingsError(f"the options of {component} would be the section '{section}', which is taken")
            used[section] = own
        return own

    workload_class = _component("workload", settings.workload)
    if check:
        _refuse_unread(settings, f"workload '{settings.workload}'", workload_class.ignores)
    methods: dict[str, Method] = {}
    for path in settings.methods:
        strategy = _component("strategies", path)
        section, name = strategy.section or section_name(path), section_name(path)
        if name in methods:
            raise SettingsError(f"strategies = '{settings.strategies}' names '{name}' twice: leave one out")
        options(strategy, section)
        methods[name] = Method(name, strategy, options(strategy, section, strategy.preset))
    name = settings.devices.availability
    availability = options(_component("devices.availability", name), section_name(name))
    try:
        availability.check(settings.devices.count)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    for method in methods.values():
        try:
            method.strategy.check(method.options, budget(settings, availability))
        except ValueError as error:
            raise SettingsError(str(error)) from None
    _refuse_same_rows(methods)
    if check:
        _refuse_fixed(settings, methods)
    drift = settings.drift
    try:
        Schedule(drift.schedule, drift.groups, drift.stagger).of(settings.devices.count - 1)  # a table has this column
    except ValueError as error:
        raise SettingsError(f"drift.schedule: {error}") from None
    if settings.split == "messages" and not issubclass(workload_class, SplitWorkload):
        raise SettingsError(f"workload = '{settings.workload}' has no cut: use split = 'simulated'")
    workload_options = options(workload_class, section_name(settings.workload))
    own = settings.devices.placement == "own"
    source: Any = None
    partition: Any = None
    kind: Any = None
    if "data" not in workload_class.ignores:
        name = settings.data.name
        source = options(_component("data.name", name), section_name(name))
        name = settings.data.partition
        partition = options(_component("data.partition", name), section_name(name))
        if check and not own:
            _refuse_unread(settings, f"partition '{name}'", partition.ignores)
    if "drift.kind" not in workload_class.ignores:
        name = settings.drift.kind
        kind = options(_component("drift.kind", name), section_name(name))
        if check:
            _refuse_unread(settings, f"drift '{name}'", getattr(kind, "ignores", ()))
    if drift.groups > 1 and not drift.stagger and not getattr(kind, "grouped", False):
        raise SettingsError(
            f"drift.groups = {drift.groups} needs groups that drift at different steps: set drift.stagger to 1 or more"
        )
    size = settings.devices.count, -(-settings.rounds // settings.rounds_per_step)
    worlds = Worlds(settings.data, settings.drift, partition, kind, source, own, size)
    if "model" in workload_class.ignores:
        workload = workload_class(settings, workload_options, worlds)
    else:
        name = settings.model.name
        family = _component("model.name", name)
        family_options = options(family, section_name(name), general=GENERAL_MODEL_OPTIONS)
        modular = _agreed(used, ModularOptions, ECLM.Options())
        slices = _agreed(used, AdaptiveNet.Options, AdaptiveNet.Options()).shrink
        workload = workload_class(settings, workload_options, worlds, family, family_options, modular, slices)
    if check:
        _refuse_unused(settings, used)
    for method in methods.values():
        if lacks := _needs(method.strategy, method.options) - workload.provides:
            first = next((name for name in NEEDS if name in lacks), min(lacks))
            every = {name: (s, read_options(s.Options, name, {}, s.preset)) for name, s in STRATEGIES.items()}
            fit = [name for name, pair in every.items() if _needs(*pair) <= workload.provides]
            what = NEEDS.get(first) or f"the hook '{first}' on clients"
            raise SettingsError(
                f"strategy '{method.name}' needs {what}, which workload '{settings.workload}' "
                f"does not offer: use {', '.join(sorted(fit))}"
            )
    if not study:
        workload.check(methods)
    return Run(settings, methods, workload, used, availability)


def used_sections(settings: Settings) -> set[str]:
    """Return the sections of the components that a run-config names."""
    data = settings.data
    names = (data.name, data.partition, settings.drift.kind, settings.devices.availability, settings.model.name)
    sections = {section_name(name) for name in names}
    strategies = (getattr(STRATEGIES[path], "section", "") or section_name(path) for path in settings.methods)
    return sections | set(strategies) | {section_name(settings.workload)}


def without_unused(settings: Settings, keep: Iterable[str]) -> Settings:
    """Drop keys that the run does not use, e.g. defaults of an experiment that a user changed.

    These are options of other components, general keys that the partition or the drift does not read, and the share of
    a public data set that the cloud has, if the data are a folder of the user's.

    Args:
        keep: dotted keys that the user gave; they stay, and are refused later if the run does not use them.
    """
    given = {key.partition(".")[0] for key in keep}
    try:
        used = used_sections(settings) | given
        chosen = PARTITIONS[settings.data.partition], DRIFTS[settings.drift.kind]
        ignores = {key for component in chosen for key in getattr(component, "ignores", ())}
        ignores |= {"data.proxy-fraction"} if source_of(settings.data.name).of_machine else set()
    except UnknownName:
        return settings
    changed = settings.model_copy(update={"options": {k: v for k, v in settings.options.items() if k in used}})
    flat = changed.flat()
    unused = ignores & {*flat} - {*keep}
    return Settings.parse({k: v for k, v in flat.items() if k not in unused}) if unused else changed


def _component(where: str, name: str) -> Any:
    """Return the component that a run-config names.

    Args:
        where: the key that names it, such as ``data.partition``.

    Raises:
        UnknownName: there is none, or it cannot be imported.
        SettingsError: the name leads to something else.
    """
    kind, registry = REGISTRIES[where]
    found, base = registry[name], BASES.get(where)
    if base is Source:
        return found  # the registry returns nothing else
    if base is None:
        fits, wanted = callable(found), "a function (input_shape, classes, **options) -> Architecture"
    else:
        fits = isinstance(found, type) and issubclass(found, base) and not inspect.isabstract(found)
        wanted = f"a subclass of {base.__module__}.{base.__name__}, without abstract methods"
    if not fits:
        raise SettingsError(f"{where} = '{name}' is no {kind}: give {wanted}")
    return found


def read_options(model: type[Section], section: str, values: Mapping[str, Any], preset: Mapping[str, Any] = {}) -> Any:
    """Return the options of a component from the values of its section.

    Raises:
        SettingsError: a key is unknown, or a value impossible.
    """
    fields = {str(info.alias): info for info in model.model_fields.values()}
    if values and not fields:
        raise SettingsError(f"'{section}' has no options, so '{section}.{next(iter(values))}' cannot be set")
    given = {key.replace("_", "-"): value for key, value in values.items()}
    for key, value in given.items():
        if key not in fields:
            raise unknown(f"{section}.{key}", fields, f"{section}.")
        refuse_flag(f"{section}.{key}", value, fields[key])
    fixed = {str(model.model_fields[field].alias): value for field, value in preset.items()}
    try:
        return model(**{**given, **fixed})
    except ValidationError as error:
        raise SettingsError(sentence(error, model, f"{section}.")) from None


def _needs(strategy: type[Strategy], options: Any) -> set[str]:
    """Return what a workload must offer to a method."""
    return strategy.needs(options) | (set() if strategy.asks == "nothing" else {"limits"})


def _refuse_same_rows(methods: Mapping[str, Method]) -> None:
    by: dict[str, str] = {}
    for name, method in methods.items():
        for report in method.strategy.reports:
            if by.setdefault(report, name) != name:
                raise SettingsError(f"strategies '{by[report]}' and '{name}' both report '{report}'; run them apart")


def _refuse_fixed(settings: Settings, methods: Mapping[str, Method]) -> None:
    """Raise SettingsError for an option that was set, and that every method which has it fixes at another value."""
    for section, values in settings.options.items():
        sharing = [m for name, m in methods.items() if (m.strategy.section or name) == section]
        for key in values:
            field = key.replace("-", "_")
            fixed = [m for m in sharing if m.strategy.preset.get(field, values[key]) != values[key]]
            if fixed and len(fixed) == len(sharing):
                raise SettingsError(
                    f"{section}.{key} = {values[key]!r}: strategy '{fixed[0].name}' fixes it at "
                    f"{fixed[0].strategy.preset[field]!r}; leave it out or choose another strategy"
                )


def _agreed(used: Mapping[str, Section], kind: type[S], default: S) -> S:
    """Return the options of a cloud model that several methods may share.

    Raises:
        SettingsError: two methods want different ones.
    """
    found = [(section, options) for section, options in used.items() if isinstance(options, kind)]
    for field, info in kind.model_fields.items():
        for section, options in found[1:]:
            if getattr(options, field) != getattr(found[0][1], field):
                raise SettingsError(
                    f"{section}.{info.alias} differs from {found[0][0]}.{info.alias}: methods of one run share the "
                    "cloud model; set both alike, or run them apart"
                )
    return found[0][1] if found else default


def _refuse_unread(settings: Settings, component: str, ignores: Iterable[str]) -> None:
    """Raise SettingsError for a general key that was set and that a component does not read."""
    for key in flatten(settings.model_dump(by_alias=True, exclude_unset=True)):
        if {key, key.partition(".")[0]} & {*ignores}:
            raise SettingsError(f"{key} is not read by {component}: leave it out")


def _refuse_unused(settings: Settings, used: Mapping[str, Section]) -> None:
    """Raise SettingsError for an option of a component that the run does not use."""
    for section, values in settings.options.items():
        if section in used:
            continue
        key = f"{section}.{next(iter(values))}"
        owners = [(where, kind, name) for where, kind, name, own in component_sections() if own == section]
        if not owners:
            _refuse_section(section, key)
            known = sorted({*SECTIONS, *(own for *_, own in component_sections())})
            raise SettingsError(f"unknown run-config section '{section}' in '{key}'; known: {', '.join(known)}")
        where, kind, name = owners[0]
        given = flatten(settings.complete())[where]
        raise SettingsError(f"{key} is an option of {kind} '{name}', which this run does not use ({where} = '{given}')")


def _refuse_section(section: str, key: str) -> None:
    """Raise SettingsError if a section has the name of a component that has no section of this name."""
    for kind, registry in REGISTRIES.values():
        if section in list(registry):
            if own := getattr(registry[section], "section", ""):
                raise SettingsError(f"the options of {kind} '{section}' are in section '{own}': write {own}.<option>")
            raise SettingsError(f"{kind} '{section}' has no options, so '{key}' cannot be set")


def component_sections() -> Iterator[tuple[str, str, str, str]]:
    """Yield (key that names it, kind, name, section) of every known component that has options."""
    for where, (kind, registry) in REGISTRIES.items():
        for name in registry:
            if section_options(registry, name).model_fields:
                component = registry[name] if kind == "strategy" else None
                yield where, kind, name, getattr(component, "section", "") or name


def section_options(registry: Registry[Any], name: str) -> type[Section]:
    """Return the options of a registered component. Built-in workloads are not imported for it."""
    if registry is WORKLOADS and name in WORKLOAD_OPTIONS:
        return WORKLOAD_OPTIONS[name]
    return options_of(registry[name], GENERAL_MODEL_OPTIONS if registry is MODELS else ())


def ignored_keys(workload: str) -> tuple[str, ...]:
    """Return the general keys and sections that a workload does not read. Built-in ones are not imported for it."""
    if workload in WORKLOAD_OPTIONS:
        return getattr(WORKLOAD_OPTIONS[workload], "ignores", ())
    return WORKLOADS[workload].ignores


def default_tables() -> dict[str, Any]:
    """Return every key of general sections and of built-in components with its default, as nested tables."""
    tables: dict[str, Any] = Settings().complete()
    for where, _, name, section in component_sections():
        registry = REGISTRIES[where][1]
        if name in registry.builtin:
            tables.setdefault(section, {}).update(section_options(registry, name)().model_dump(by_alias=True))
    return tables


def from_flower(run_config: Mapping[str, Any]) -> Settings:
    """Read the run-config that Flower hands over: all keys of pyproject.toml. A key with its default counts as not set.

    Raises:
        SettingsError: as `Settings.parse` does.
    """
    defaults = flatten(default_tables())
    return Settings.parse({key: value for key, value in run_config.items() if defaults.get(key) != value})
