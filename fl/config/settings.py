"""The run-config: general keys, general sections, and the sections of the components that a run names.

Flower's run-config is flat and unchecked (a wrong type passes silently), so ServerApp and ClientApp both read it
through `Settings.parse`. It checks the general keys. `fl.workloads.resolve` then checks the options of components.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from fl.config.moved import MOVED
from fl.config.sections import (  # fmt: skip
    SECTIONS,
    Client,
    Data,
    Devices,
    Drift,
    Eval,
    Model,
    Poison,
    Pretrain,
    Server,
)
from partitions.components import Section, hyphens
from partitions.errors import UserError

Value = str | int | float | bool
# Keys that say where things lie or how a run is watched. They do not change a number, so config.toml leaves them out.
NOT_COMPUTED = frozenset(
    """
    experiment setting strategies seeds out overwrite save callbacks engine workers accelerator data.root
    devices.state-root devices.placement eval.per-device server.timeout-s server.at-once
    """.split()
)


class SettingsError(UserError, ValueError):
    """A run cannot start as configured; the message is one sentence for the user."""


NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,100}")


class Settings(Section):
    """The run-config. Keys are written with hyphens and dots (``drift.fraction``), fields with underscores.

    Args:
        options: values of component sections as they were given, ``{"eclm": {"kappa2": 2}}``.
    """

    experiment: str = Field("main", description="name in the CSVs")
    setting: str = Field("default", description="name of this setting in the CSVs")
    strategies: str = Field("na,la,fedavg,heterofl,eclm", description="methods, run one after the other")
    seeds: str = Field("1", description="seeds; every method runs once per seed")
    out: str = Field("", description="absolute folder for results; empty: ~/driftfed-results/<experiment>-<run id>")
    overwrite: bool = Field(False, description="start the folder anew if it holds results of another configuration")
    save: bool = Field(False, description="keep the final models in the folder for results, with a card for each")
    callbacks: str = Field(
        "", description="what follows the run: tensorboard, mlflow, wandb, trackio or 'package.module:Class', 'a,b'"
    )
    engine: Literal["flower", "local"] = Field(
        "flower",
        description="who simulates clients: flower: SuperNodes; local: worker processes of the ServerApp, far faster",
    )
    workers: int = Field(0, ge=0, le=1024, description="worker processes of engine local; 0: one per core")
    accelerator: Literal["cpu", "cuda"] = Field(
        "cpu", description="where networks compute: cpu, or cuda: a GPU that the cloud and simulated clients share"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of training: float32 or, faster on some GPUs, bfloat16; scores are float32"
    )
    workload: str = Field("classify", description="what clients learn")
    rounds: int = Field(20, ge=1, le=10**9, description="communication rounds")
    rounds_per_step: int = Field(5, ge=1, description="rounds between two steps of the world")
    cohort: int = Field(10, ge=1, description="clients that take part in a round")
    split: Literal["simulated", "messages"] = Field(
        "simulated",
        description="split models: simulated: clients train both halves; messages: the ServerApp trains the cloud half",
    )
    data: Data = Data()
    drift: Drift = Drift()
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
    client: Client = Client()
    server: Server = Server()
    eval: Eval = Eval()
    poison: Poison = Poison()
    devices: Devices = Devices()
    options: Mapping[str, Mapping[str, Any]] = Field({}, exclude=True)

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        data, devices, server, client = self.data, self.devices, self.server, self.client
        for key, name in (("experiment", self.experiment), ("setting", self.setting)):
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{key} = {name!r} becomes part of a file name: use 1 to 100 characters without / and \\, which do "
                    "not begin with a dot"
                )
        if not self.methods:
            raise ValueError("strategies names no method, e.g. strategies = 'fedavg,eclm'")
        if not self.seed_list:
            raise ValueError("seeds names no seed; give integers, e.g. seeds = '1,2,3'")
        if data.samples_min > data.samples_max:
            raise ValueError(f"data.samples-min = {data.samples_min} is above data.samples-max = {data.samples_max}")
        if self.cohort > devices.count:
            raise ValueError(f"cohort = {self.cohort} is more than there are clients (devices.count = {devices.count})")
        if self.eval.devices > devices.count:
            raise ValueError(
                f"eval.devices = {self.eval.devices} is more than there are clients (devices.count = {devices.count})"
            )
        if server.aggregation == "buffered" and server.buffer > self.cohort:
            raise ValueError(
                f"server.buffer = {server.buffer} can never fill: only {self.cohort} clients train at a time (cohort)"
            )
        if devices.limit_low > devices.limit_high:
            raise ValueError(
                f"devices.limit-low = {devices.limit_low} is above devices.limit-high = {devices.limit_high}"
            )
        if client.update_noise and not client.update_clip:
            raise ValueError("client.update-noise needs updates of bounded norm; set client.update-clip, e.g. 1.0")
        if client.update_noise and client.upload_change:
            raise ValueError(
                "client.upload-change reveals how much an update changed, client.update-noise hides it; use one of them"
            )
        if self.engine == "local" and devices.placement == "own":
            raise ValueError(
                "engine = 'local' simulates clients, devices.placement = 'own' uses real devices: set engine = 'flower'"
            )
        return self

    @property
    def methods(self) -> list[str]:
        """The methods as they were named."""
        return [name.strip() for name in self.strategies.split(",") if name.strip()]

    @property
    def seed_list(self) -> list[int]:
        """The seeds.

        Raises:
            ValueError: an entry is not an integer from 0 to 2**63 - 1, or occurs twice.
        """
        try:
            seeds = [int(part) for part in self.seeds.split(",")] if self.seeds.strip() else []
        except ValueError:
            raise ValueError(f"seeds = {self.seeds!r} is not a list of integers, e.g. '1,2,3'") from None
        if min(seeds, default=0) < 0:
            raise ValueError(f"seeds = {self.seeds!r} holds a negative number")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds = {self.seeds!r} holds a number twice")
        if max(seeds, default=0) >= 2**63:
            raise ValueError(f"seeds = {self.seeds!r} holds a number above {2**63 - 1}")
        return seeds

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Settings":
        """Read settings from flat dotted keys, from nested tables, or from a mixture; other keys keep their defaults.

        Raises:
            SettingsError: says in one sentence what is wrong and what is allowed.
        """
        general: dict[str, Any] = {}
        options: dict[str, dict[str, Any]] = {}
        for key, value in flatten(values).items():
            section, dot, name = key.partition(".")
            if not dot:
                _known(key, [*cls.model_fields.keys() - SECTIONS.keys() - {"options"}], "")
                refuse_flag(key, value, cls.model_fields[key.replace("-", "_")])
                general[key] = value
            elif section in SECTIONS:
                _known(name, SECTIONS[section].model_fields, f"{section}.")
                refuse_flag(key, value, SECTIONS[section].model_fields[name.replace("-", "_")])
                general.setdefault(section, {})[name] = value
            else:
                options.setdefault(section, {})[name] = value
        try:
            return cls(**general, options=options)
        except ValidationError as error:
            raise SettingsError(sentence(error, cls)) from None

    def changed(self, changes: Mapping[str, Any]) -> "Settings":
        """These settings with other values for some dotted keys."""
        return Settings.parse({**self.flat(), **changes})

    def nested(self) -> dict[str, Any]:
        """Return the keys that were given as nested tables; all others have their defaults."""
        given = self.model_dump(by_alias=True, exclude_unset=True)
        return given | {name: dict(own) for name, own in self.options.items()}

    def complete(self) -> dict[str, Any]:
        """Return all general keys as nested tables, defaults too."""
        return self.model_dump(by_alias=True)

    def flat(self) -> dict[str, Value]:
        """The run-config as Flower carries it: flat, with dotted keys, without defaults. `parse` reads it back."""
        return flatten(self.nested())


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one mapping with dotted, hyphenated keys."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        key = f"{prefix}{hyphens(name)}"
        flat |= flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables."""
    tables: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        table = tables
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return tables


def sentence(error: ValidationError, model: type[Section], section: str = "") -> str:
    """Say in one sentence what pydantic found wrong first.

    Args:
        section: name of the section that was read, with a dot at its end; empty for the general keys.
    """
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return said
    field: Any = None
    for part in first["loc"]:
        field = next((info for name, info in model.model_fields.items() if part in (name, info.alias)), None)
        if field is not None and isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            model = field.annotation
    key = section + ".".join(str(part) for part in first["loc"])
    meaning = f" ({field.description})" if field is not None and field.description else ""
    return f"{key} = {first['input']!r:.80}: {said[0].lower()}{said[1:]}{meaning}"


def unknown(key: str, names: Iterable[str], section: str) -> SettingsError:
    """The error for a key that is not there: where it is now, or which keys are like it."""
    known = sorted(f"{section}{hyphens(name)}" for name in names)
    if key in MOVED:
        return SettingsError(f"`{key}` is now {MOVED[key]}")
    near = get_close_matches(key, known, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    command = f"python -m experiments settings {section.rstrip('.')}".rstrip()
    return SettingsError(f"unknown run-config key '{key}'; known: {', '.join(known)}{hint}; `{command}` explains them")


def refuse_flag(key: str, value: object, field: FieldInfo) -> None:
    """Raise SettingsError for true or false where a number belongs. Python would read them as 1 and 0."""
    if isinstance(value, bool) and field.annotation in (int, float):
        raise SettingsError(f"{key} = {value}: input should be a number, not true or false ({field.description})")


def _known(name: str, fields: Iterable[str], section: str) -> None:
    names = list(fields)
    if name.replace("-", "_") not in names:
        raise unknown(f"{section}{name}", names, section)
