"""The user's samples as inputs and labels: what one file or table holds, and how several become a data set.

Every error names the file and the row. Rows count from 1, without a header.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from pydantic import Field

from partitions.components import Section, is_a
from partitions.dataset import Dataset
from partitions.datasets.images.arrays import moments
from partitions.datasets.text.texts import strings
from partitions.errors import DataError, one_line

if TYPE_CHECKING:  # importing pandas takes long, and most data sets do not need it
    import pandas as pd

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly
SHOWN = 40  # characters of a wrong value in an error
WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")


class Columns(Section):
    """How the user's samples are read."""

    label: str = Field("label", description="tables: column with the class")
    features: str = Field("", description="tables: columns with the inputs, 'a,b,c'; empty: all others")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of each device's samples that is for the test")

    @property
    def inputs(self) -> list[str]:
        """The names in ``features``."""
        return [name.strip() for name in self.features.split(",") if name.strip()]


@dataclass(frozen=True)
class Part:
    """The samples of one file or table.

    Args:
        where: its name in error messages.
        x: inputs as in a `Dataset` (n, ...); y: labels (n,), integers or objects that are text.
        names: of the columns, for tables.
    """

    where: str
    x: np.ndarray
    y: np.ndarray
    names: Sequence[str] = ()


# One table


def read_table(frame: "pd.DataFrame", options: Columns, where: str, image_size: int = 0) -> Part:
    """Return the samples of a table.

    Inputs are numbers, text, or one column of pictures or of arrays of one shape.

    Raises:
        DataError: a column is missing, or a cell is.
    """
    if not len(frame):
        raise DataError(f"{where} has no rows: each device needs samples")
    columns = [str(name) for name in frame.columns]
    wanted = options.inputs or [name for name in columns if name != options.label]
    for name in (options.label, *wanted):
        if columns.count(name) != 1:
            how = "no column" if name not in columns else "two columns"
            raise DataError(f"{where} has {how} '{name}': its columns are {', '.join(columns)[:400]}")
    if twice := next((name for name in wanted if wanted.count(name) > 1), None):
        raise DataError(f"option 'features' names the column '{twice}' twice: name each column once")
    if options.label in wanted or not wanted:
        raise DataError(f"{where} needs columns of inputs beside the label '{options.label}'")
    series = dict(zip(columns, (column for _, column in frame.items()), strict=True))
    y = _labels(series[options.label], options.label, where)
    return Part(where, _inputs({name: series[name] for name in wanted}, where, image_size), y, tuple(wanted))


def _refuse_missing(column: "pd.Series", name: str, where: str) -> None:
    """Raise DataError if a cell of a column has no value."""
    if (missing := column.isna().to_numpy()).any():
        raise DataError(f"{where}, row {int(missing.argmax()) + 1}: column '{name}' has no value; fill it")


def _labels(column: "pd.Series", name: str, where: str) -> np.ndarray:
    """Return labels (n,) as int64, or as objects that are text."""
    _refuse_missing(column, name, where)
    labels = []
    for row, value in enumerate(column.tolist()):
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
        label = str(value).strip() if isinstance(value, str | bool) else int(value) if whole else value
        if label == "" or not isinstance(label, str | int) or (isinstance(label, int) and abs(label) >= 2**63):
            raise DataError(
                f"{where}, row {row + 1}: the label is {value!r:.{SHOWN}}; give a whole number or the name of a class"
            )
        labels.append(label)
    if len({isinstance(label, str) for label in labels}) > 1:
        raise DataError(f"{where}: column '{name}' holds numbers and text: write labels in one way")
    return np.array(labels, object if isinstance(labels[0], str) else np.int64)


def _inputs(series: "Mapping[str, pd.Series]", where: str, image_size: int) -> np.ndarray:
    """Return the inputs of a table (n, ...), given its columns by name."""
    kinds = {}
    for name, column in series.items():
        if getattr(column.dtype, "kind", "O") in "iufb":
            kinds[name] = "number"
            continue
        _refuse_missing(column, name, where)
        kinds[name] = _kind(column)
    if set(kinds.values()) == {"number"}:
        numbers = [column.to_numpy(np.float64, na_value=np.nan) for column in series.values()]
        return finite(np.stack(numbers, axis=1), where, list(series))
    if set(kinds.values()) == {"text"}:
        return strings([list(row) for row in zip(*(column.tolist() for column in series.values()), strict=True)])
    if list(kinds.values()) == ["cells"]:
        return _cells(next(iter(series.values())), where, image_size)
    name = next(name for name, kind in kinds.items() if kind != "number")
    for row, value in enumerate(series[name]):
        if not _is_number(value):
            raise DataError(
                f"{where}, row {row + 1}: column '{name}' holds {value!r:.{SHOWN}}, not a number; remove the column, "
                "or choose the columns of the inputs (option 'features')"
            )
    raise DataError(f"{where}: column '{name}' is of type {series[name].dtype}; give float32")


def _is_number(value: object) -> bool:
    """Return whether a cell holds a number, maybe as text: a column of CSV is text if one of its cells is."""
    try:
        return math.isfinite(float(value)) and "_" not in str(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _kind(column: "pd.Series") -> str:
    """Return what a column of Python's objects holds: text, number, cells (arrays or pictures) or other."""
    if all(isinstance(value, str) for value in column):
        return "text"
    first = column.iloc[0]
    if isinstance(first, list | tuple | np.ndarray) or is_a(first, "PIL.Image:Image"):
        return "cells"
    if isinstance(first, dict):
        return "cells" if {"bytes", "path"} & first.keys() else "other"
    return "number" if all(_is_number(value) and not isinstance(value, str | bytes) for value in column) else "other"


def _cells(column: "pd.Series", where: str, image_size: int) -> np.ndarray:
    """Return inputs (n, ...) of a column whose cells are pictures or nested arrays."""
    cells: list[np.ndarray] = []
    for row, value in enumerate(column, 1):
        place = f"{where}, row {row}"
        if isinstance(value, dict) or is_a(value, "PIL.Image:Image"):
            cell = picture(value, place, image_size)
        else:
            try:
                cell = np.asarray(_nested(value), np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"{place}: column '{column.name}' holds {value!r:.{SHOWN}}, not numbers") from error
        if not cell.size:
            raise DataError(f"{place}: column '{column.name}' holds no numbers")
        if row > 1 and (cell.shape, cell.dtype) != (cells[0].shape, cells[0].dtype):
            raise DataError(f"{place}: the shape is {cell.shape}, that of row 1 is {cells[0].shape}: make them equal")
        cells.append(cell)
    x = np.stack(cells)
    return x if x.dtype == np.uint8 else finite(x, where, [str(column.name)])


def _nested(value: Any) -> Any:
    """Return an array of arrays, as pyarrow gives it, as nested lists."""
    return [_nested(one) for one in value] if isinstance(value, np.ndarray) and value.dtype == object else value


def picture(source: Any, where: str, image_size: int = 0) -> np.ndarray:
    """Return a picture uint8 (C, H, W), grey or RGB.

    Args:
        source: a path, a picture of PIL, or a cell ``{"bytes": ...}`` of a Hugging Face data set.
        image_size: rows to which it is shrunk; 0: as it is.

    Raises:
        DataError: it is no picture, or is smaller.
    """
    from PIL import Image

    try:
        if isinstance(source, dict):
            source = io.BytesIO(source["bytes"]) if source.get("bytes") else source["path"]
        image = source if isinstance(source, Image.Image) else Image.open(source)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"mode {image.mode}; save it with 8 bits per channel")
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    except Exception as error:  # PIL and its decoders share no error for wrong bytes
        raise DataError(f"{where} is no picture that can be read ({one_line(error)})") from error
    if image_size > image.height:
        raise DataError(f"{where} has {image.height} rows of pixels, fewer than data.image-size = {image_size}")
    if image_size:
        width = max(1, round(image.width * image_size / image.height))
        image = image.resize((width, image_size), Image.Resampling.BOX)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def finite(x: np.ndarray, where: str, names: Sequence[str] = ()) -> np.ndarray:
    """Return numbers (n, ...) as float32; DataError if one is not finite or too large."""
    with np.errstate(over="ignore"):
        converted = x.astype(np.float32)
    if not (fine := np.isfinite(converted)).all():
        row, *rest = (int(place[0]) for place in np.nonzero(~fine))
        value, named = x[(row, *rest)], f"column '{names[rest[0] if len(names) > 1 else 0]}'" if names else "x"
        said = "has no value; fill it" if names and np.isnan(value) else f"holds {value:g}, too large for float32"
        said = f"holds {value:g}: every number must be finite" if not names or np.isinf(value) else said
        raise DataError(f"{where}, row {row + 1}: {named} {said}")
    return converted


# All parts


def assemble(
    name: str,
    parts: Sequence[Part],
    options: Columns,
    classes: Sequence[str] = (),
    domains: Sequence[str] = (),
    domain: np.ndarray | None = None,
    held: np.ndarray | None = None,
    server: str = "",
) -> Dataset:
    """Make a data set of the samples in one or several parts (N).

    Args:
        classes: in the order of their numbers; empty: those that occur.
        domains: names of the devices; domain: which one each sample is of (N,), None: nobody knows.
        held: which samples are for the test (N,); None: a share of each class of each device is taken out for it. The
            choice is always the same, and does not change for earlier rows when rows are added.
        server: the domain whose samples are the cloud's.

    Raises:
        DataError: parts do not fit together; names the file and, if one is wrong, the row.
    """
    parts = _aligned(parts)
    y, known = _encode(parts, tuple(classes))
    owner = np.zeros(len(y), np.int64) if domain is None else domain
    if held is None:
        names = np.array([crc32(one.encode()) for one in domains or [""]])  # a device splits as in simulation
        held = held_out(owner * len(known) + y, names[owner] + y, options.test_fraction)
        _leave_both(held, owner, domains or [name])
    x = np.concatenate([part.x for part in parts])
    found: dict[str, Any] = {"x_train": x[~held], "x_test": x[held], "y_train": y[~held], "y_test": y[held]}
    if domain is not None:
        found |= {"domain_train": domain[~held], "domain_test": domain[held], "domains": tuple(domains)}
    if server:
        found["proxy"] = np.flatnonzero(found["domain_train"] == list(domains).index(server))
    if x.dtype == np.uint8 and len(domains) != 1:  # in deployment a machine is one domain, and all must scale alike
        mean, std = moments(found["x_train"])
        found |= {"mean": tuple(mean), "std": tuple(max(one, 1e-6) for one in std)}
    return Dataset(name, classes=known, **found)


def held_out(stratum: np.ndarray, begin: np.ndarray, fraction: float) -> np.ndarray:
    """Return which samples are for the test (n,): of each ``stratum`` (n,) about every ``1 / fraction``-th.

    Later samples do not change what happens to earlier ones.

    Args:
        begin: integers (n,); strata with different ones begin at different places, so that many small strata together
            give their share, too.
    """
    order = np.argsort(stratum, kind="stable")
    _, first, which = np.unique(stratum[order], return_index=True, return_inverse=True)
    place, start = np.arange(len(stratum)) - first[which], (begin[order] * GOLDEN) % 1 + 1e-9
    chosen = np.zeros(len(stratum), bool)
    chosen[order] = np.floor((place + 1) * fraction + start) > np.floor(place * fraction + start)
    return chosen


def _leave_both(held: np.ndarray, owner: np.ndarray, names: Sequence[str]) -> None:
    """Give every device at least one sample for the test and one for training."""
    rows, tests = np.bincount(owner, minlength=len(names)), np.bincount(owner, held, len(names))
    for device in np.flatnonzero((tests == 0) | (tests == rows)).tolist():
        if rows[device] < 2:
            count = "1 sample" if rows[device] else "no samples"
            raise DataError(f"{names[device]} has {count}: it needs one to train on and one for the test")
        held[np.flatnonzero(owner == device)[-1]] = tests[device] == 0


def _aligned(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with their columns in the same order; DataError if inputs differ in form."""
    first, aligned = parts[0], [parts[0]]
    for part in parts[1:]:
        if part.names != first.names and {*part.names} == {*first.names}:
            order = [part.names.index(name) for name in first.names]
            part = replace(part, x=part.x[:, order], names=first.names)
        if part.names != first.names and part.names and first.names:
            lacks = [f"'{name}'" for name in first.names if name not in part.names]
            adds = [f"'{name}'" for name in part.names if name not in first.names]
            said = f"{'lacks' if lacks else 'adds'} the columns {', '.join(lacks or adds)[:200]}"
            raise DataError(
                f"{part.where} {said}, unlike {first.where}: give all files the same columns, or choose some (option "
                "'features')"
            )
        if part.x.shape[1:] != first.x.shape[1:] or part.x.dtype != first.x.dtype:
            raise DataError(
                f"{part.where} has inputs {part.x.shape[1:]} {part.x.dtype}, and {first.where} has "
                f"{first.x.shape[1:]} {first.x.dtype}: make them equal"
            )
        aligned.append(part)
    return aligned


def _encode(parts: Sequence[Part], classes: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the numbers of all labels (N,), and the classes.

    A label that is a name among ``classes`` is that class. If no label is one, whole numbers are numbers of classes,
    from 0. Without ``classes``, they are all labels that occur, in order.
    """
    found = [np.unique(part.y, return_inverse=True) for part in parts]
    numbers = all(isinstance(v, int | np.integer) or WHOLE.fullmatch(v) for values, _ in found for v in values)
    if not numbers:
        typed = next((part for part in parts if part.y.dtype != object), None)
        text = next(
            (part, v) for part, (values, _) in zip(parts, found, strict=True) for v in values
            if isinstance(v, str) and not WHOLE.fullmatch(v)
        )  # fmt: skip
        if typed is not None:
            raise DataError(
                f"labels of {typed.where} are numbers, and {text[0].where} has '{text[1]:.{SHOWN}}': write them in one "
                "way"
            )
    names = sorted({int(v) if numbers else str(v) for values, _ in found for v in values})
    index = {str(name): number for number, name in enumerate(classes or names)}
    if classes and numbers and not any(str(name) in index for name in names):
        index = {str(number): number for number in range(len(classes))}
    encoded = []
    for part, (values, inverse) in zip(parts, found, strict=True):
        keys = [str(int(v)) if numbers else str(v) for v in values]
        if odd := [place for place, key in enumerate(keys) if key not in index]:
            row, label, allowed = int((inverse == odd[0]).argmax()) + 1, keys[odd[0]], ", ".join(index)
            raise DataError(f"{part.where}, row {row}: no class is '{label:.{SHOWN}}'; known: {allowed[:200]}")
        encoded.append(np.array([index[key] for key in keys], np.int64)[inverse.reshape(-1)])
    return np.concatenate(encoded), tuple(classes) or tuple(map(str, names))
