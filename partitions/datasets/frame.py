"""Data sets that are objects in the user's code: a pandas table, a Hugging Face data set, or a `Source`."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from partitions.components import Section, is_a
from partitions.dataset import Dataset
from partitions.datasets.columns import Columns, assemble, read_table
from partitions.datasets.source import GeneratedSource, Source
from partitions.errors import DataError, UnknownName, one_line
from partitions.root import Root

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("pandas:DataFrame", "datasets:Dataset")


class FrameColumns(Columns):
    """How a table of the user's is read."""

    device: str = Field("", description="column that says whose sample it is; empty: nobody knows")


class Frame(GeneratedSource):
    """Read a table, or tables for training and for the test.

    Args:
        name: the path that leads to them, for error messages.
        make: returns a ``pandas.DataFrame``, a ``datasets.Dataset``, or a mapping of 'train' and 'test' to one of them.
    """

    Options: ClassVar[type[Section]] = FrameColumns

    def __init__(self, name: str, make: Callable[[], Any]):
        self.name, self.make = name, make

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """Load the table.

        Raises:
            DataError: it has another form; names the row, if one is wrong.
        """
        options: FrameColumns = self.options
        try:
            made = self.make()
        except Exception as error:  # the user's code may raise anything
            raise DataError(f"{self.name}: {type(error).__name__}: {one_line(error)}") from error
        tables = dict(made) if isinstance(made, Mapping) else {"train": made}
        if set(tables) not in ({"train"}, {"train", "test"}):
            raise DataError(
                f"{self.name} has the parts {', '.join(map(str, tables))}: give 'train', and 'test' if you have it"
            )
        parts, owners = [], []
        classes: tuple[str, ...] = ()
        for part, table in sorted(tables.items(), reverse=True):  # train first
            where = self.name if len(tables) == 1 else f"{self.name}, part {part}"
            frame, names = _frame(table, where, options.label)
            classes = classes or names
            if options.device:
                owners.append(_owners(frame, options.device, where))
                frame = frame.drop(columns=options.device)
            parts.append(read_table(frame, options, where, image_size))
        if image_size and parts[0].x.dtype != np.uint8:
            self.reject_image_size(image_size)
        domains, domain = np.unique(np.concatenate(owners), return_inverse=True) if owners else ((), None)
        held = np.repeat([False, True], [len(part.y) for part in parts]) if len(parts) > 1 else None
        return assemble(self.name, parts, options, classes, tuple(map(str, domains)), domain, held)


def _frame(table: Any, where: str, label: str) -> tuple["pd.DataFrame", tuple[str, ...]]:
    """Return a table of pandas, and the names of its classes if it knows them.

    Raises:
        DataError: it is no table.
    """
    if is_a(table, "pandas:DataFrame"):
        return table, ()
    if not is_a(table, "datasets:Dataset"):
        raise DataError(f"{where} is {table!r:.80}; give a pandas.DataFrame or a datasets.Dataset")
    frame, names = table.to_pandas(), getattr(table.features.get(label), "names", None)
    if not names:
        return frame, ()
    frame[label] = [names[number] if number >= 0 else None for number in frame[label]]  # -1: nobody knows
    return frame, tuple(names)


def _owners(frame: "pd.DataFrame", column: str, where: str) -> np.ndarray:
    """Return whose samples the rows are (n,)."""
    if column not in frame.columns:
        raise DataError(f"{where} has no column '{column}' for the devices: it has {', '.join(map(str, frame))[:400]}")
    if (missing := frame[column].isna().to_numpy()).any():
        raise DataError(
            f"{where}, row {int(missing.argmax()) + 1}: column '{column}' has no value; say whose row it is"
        )
    owners = frame[column].to_numpy()
    return owners if owners.dtype.kind in "iu" else owners.astype(str)


def adapted(found: Any, name: str) -> Source:
    """Return the data set that a path of the user's leads to, as a source.

    Args:
        found: a `Source` or a subclass of it, a pandas or Hugging Face table, a mapping of 'train' and 'test' to
            tables, or a function without parameters that returns one of these.

    Raises:
        UnknownName: it is something else.
    """
    if isinstance(found, type) and issubclass(found, Source):
        return found()
    if isinstance(found, Source):
        return found
    if isinstance(found, Mapping) or any(is_a(found, kind) for kind in TABLES):
        return Frame(name, lambda: found)
    if inspect.isfunction(found):
        return Frame(name, found)
    raise UnknownName(
        f"data set '{name}' is {found!r:.80}; it must be a subclass or an instance of "
        "partitions.datasets.source.Source, a pandas.DataFrame, a datasets.Dataset, or a function that returns one of "
        "these tables"
    )
