"""Partitioners of flwr_datasets: which samples a device has at first. Drift goes on from there."""

import inspect
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import lru_cache, partial
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import create_model

from partitions.components import is_a
from partitions.dataset import Dataset
from partitions.errors import one_line
from partitions.partitioners.partitioner import AssigningPartition, Assignment

ROW = "row"  # column with the numbers of the samples
SCALARS = (bool, int, float, str)


class FlowerPartition(AssigningPartition):
    """Give device d the d-th partition of a partitioner of flwr_datasets; the fields are its arguments.

    The partitioner sees the columns ``label`` (a class's number), ``domain`` and ``target``, if the data set has them,
    of the samples that the cloud does not hold.
    """

    ignores: ClassVar[tuple[str, ...]] = ("data.samples-min", "data.samples-max")
    make: ClassVar[Callable[..., Any]]
    lists: ClassVar[Mapping[str, bool]] = {}  # arguments written as text, '0.1, 0.9', and whether one may be a number

    def assign(self, data: Dataset, pool: np.ndarray, seed: int, devices: int) -> Assignment:
        name = type(self).__name__
        given = {key: self._value(key, value) for key, value in self if value is not None}
        if given.get("num_partitions") == 0:
            given["num_partitions"] = devices
        if "seed" in type(self).model_fields:
            given.setdefault("seed", seed)
        columns = {"label": data.y_train, "target": data.target_train}
        if data.domain_train is not None:
            columns["domain"] = np.array(data.domains)[data.domain_train]
        table = {key: column[pool].tolist() for key, column in columns.items() if column is not None}
        try:
            parts = self._parts({ROW: np.arange(len(pool)), **table}, given)
        except Exception as error:  # the library raises many kinds
            raise ValueError(f"{name}: {one_line(error)} (columns: {', '.join(table)})") from error
        found = Assignment(labels=data.y_train, classes=data.num_classes, train=[pool[part] for part in parts])
        return found.assign(data, pool, seed, devices)

    def _value(self, key: str, value: Any) -> Any:
        """Return an argument; the text of numbers is a list, or a number if there is only one."""
        if key not in self.lists or not isinstance(value, str):
            return value
        try:
            numbers = json.loads(f"[{value}]")
        except ValueError as error:
            name = f"{type(self).__name__}: {key} = '{value}'"
            raise ValueError(f"{name} is no list of numbers like '0.1, 0.9'") from error
        return numbers[0] if self.lists[key] and len(numbers) == 1 else numbers

    def _parts(self, table: dict[str, Any], given: dict[str, Any]) -> list[np.ndarray]:
        """Return the sorted rows of each partition."""
        from datasets import Dataset as Table

        partitioner = type(self).make(**given)
        partitioner.dataset = Table.from_dict(table)
        parts = [partitioner.load_partition(number) for number in range(partitioner.num_partitions)]
        if any(ROW not in part.column_names for part in parts):
            raise ValueError("it splits columns, and devices here have all columns of some samples")
        return [np.sort(np.asarray(part[ROW], np.int64)) for part in parts]


def adapted(found: Any, name: str) -> Any:
    """Return a partitioner of flwr_datasets, a class or an object, as a subclass of `Partition`; others unchanged."""
    if not is_a(found, "flwr_datasets.partitioner:Partitioner"):
        return found
    return _of_class(found) if isinstance(found, type) else _of_object(found)


@lru_cache(maxsize=64)
def _of_object(partitioner: Any) -> type[FlowerPartition]:
    made = create_model(type(partitioner).__name__, __base__=FlowerPartition)
    made.make = staticmethod(partial(deepcopy, partitioner))
    return made


@lru_cache(maxsize=64)
def _of_class(partitioner: type) -> type[FlowerPartition]:
    hints = get_type_hints(partitioner.__init__)  # type: ignore[misc]
    fields: dict[str, Any] = {}
    lists: dict[str, bool] = {}
    for parameter in list(inspect.signature(partitioner).parameters.values()):
        key, kinds = parameter.name, _kinds(hints[parameter.name])
        scalars = [kind for kind in kinds if kind in SCALARS or get_origin(kind) is Literal]
        if len(scalars) < len([kind for kind in kinds if kind is not type(None)]):
            lists[key] = bool(scalars)
            scalars.append(str)
        default: Any = {"num_partitions": 0, "partition_by": "label"}.get(key, ...)
        if parameter.default is not parameter.empty:
            default = None if key == "seed" else parameter.default
        kind: Any = scalars[0]
        for other in scalars[1:]:
            kind |= other
        fields[key] = (kind | None if default is None else kind, default)
    made = create_model(partitioner.__name__, __base__=FlowerPartition, __doc__=partitioner.__doc__, **fields)
    made.make, made.lists = partitioner, lists
    return made


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
