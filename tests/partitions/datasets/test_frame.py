"""Data sets that are objects in the user's code: tables of pandas and of Hugging Face."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from partitions import DataError, Dataset, UnknownName, load, source_of


@pytest.fixture
def read(monkeypatch) -> Callable[..., Dataset]:
    """Return a function that loads an object as a data set, by its path."""

    def of(thing: Any, image_size: int = 0, **options: Any) -> Dataset:
        module = ModuleType("my_app")
        module.people = thing  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "my_app", module)
        load.__globals__["_load"].cache_clear()
        return load("my_app:people", None, image_size, source_of("my_app:people").Options(**options))

    return of


def table(rows: int = 30) -> pd.DataFrame:
    y = np.arange(rows) % 3
    return pd.DataFrame({"a": np.arange(rows) * 1.0, "b": y * 1.0, "who": 10 - np.arange(rows) % 2, "label": y})


def test_a_table_of_pandas_and_a_function(read) -> None:
    for thing in (table(), table, {"train": table()}):
        data = read(thing, device="who")
        assert data.domains == ("9", "10") and data.classes == ("0", "1", "2") and data.input_shape == (2,)
        x, domain = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.domain_train, data.domain_test])
        assert sorted(x[:, 0].tolist()) == list(range(30)) and (domain == 1 - x[:, 0] % 2).all()
    data = read(table(), features="b")
    assert data.domain_train is None and data.input_shape == (1,) and len(data.y_test) == 6


def test_given_test_samples_stay_the_test_samples(read) -> None:
    data = read({"train": table(20), "test": table(9)}, device="who")
    assert len(data.y_train) == 20 and data.x_test[:, 0].tolist() == list(range(9))


def test_hugging_face(read) -> None:
    hub = pytest.importorskip("datasets")
    features = hub.Features({"a": hub.Value("float64"), "label": hub.ClassLabel(names=["walk", "sit", "2"])})
    rows = {"a": [float(i) for i in range(20)], "label": [i % 2 for i in range(20)]}
    data = read(hub.Dataset.from_dict(rows, features))
    assert data.classes == ("walk", "sit", "2") and (data.x_train[:, 0] % 2 == data.y_train).all()
    both = hub.DatasetDict(
        {"train": hub.Dataset.from_dict(rows, features), "test": hub.Dataset.from_dict(rows, features)}
    )
    assert len(read(both).y_test) == len(read(both).y_train) == 20
    unknown = hub.Dataset.from_dict(rows | {"label": [-1] * 20}, features)
    with pytest.raises(DataError, match="my_app:people, row 1: column 'label' has no value"):
        read(unknown)


def test_pictures_of_hugging_face(read) -> None:
    hub = pytest.importorskip("datasets")
    pictures = [Image.new("L", (4, 4), level) for level in (0, 200) * 10]
    data = read(hub.Dataset.from_dict({"image": pictures, "label": [0, 1] * 10}).cast_column("image", hub.Image()))
    assert data.x_train.dtype == np.uint8 and data.input_shape == (1, 4, 4)
    assert ((data.x_train[:, 0, 0, 0] == 200) == data.y_train).all() and data.mean[0] > 0


@pytest.mark.parametrize(
    ("thing", "options", "message"),
    [
        (table().drop(columns="label"), {}, "my_app:people has no column 'label': its columns are a, b, who"),
        (table(), {"device": "x"}, "my_app:people has no column 'x' for the devices: it has a, b, who, label"),
        (table().assign(who=None), {"device": "who"}, "my_app:people, row 1: column 'who' has no value"),
        (table().assign(a=[*range(29), np.nan]), {}, "my_app:people, row 30: column 'a' has no value; fill it"),
        (table().assign(a=[*range(29), np.inf]), {}, "row 30: column 'a' holds inf: every number must be finite"),
        (table().assign(a=pd.Timestamp(0)), {}, "row 1: column 'a' holds Timestamp.*, not a number; remove the column"),
        (table().assign(a=1j), {}, r"row 1: column 'a' holds 1j, not a number"),
        (table()[["label"]], {}, "my_app:people needs columns of inputs beside the label 'label'"),
        (table()[["a", "a", "label"]], {}, "my_app:people has two columns 'a'"),
        (table(0), {}, "my_app:people has no rows"),
        (table(1), {}, "my_app:people has 1 sample: it needs one to train on and one for the test"),
        ({"train": table(), "dev": table()}, {}, "has the parts train, dev: give 'train', and 'test' if you have it"),
        ({"train": [1]}, {}, r"my_app:people is \[1\]; give a pandas.DataFrame or a datasets.Dataset"),
        (lambda: 1 / 0, {}, "my_app:people: ZeroDivisionError: division by zero"),
    ],
)
def test_one_sentence_says_what_is_wrong(read, thing, options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read(thing, **options)
    assert "\n" not in str(error.value)


def test_something_else_is_refused(read) -> None:
    with pytest.raises(UnknownName, match="is 3; it must be a subclass .*, a pandas.DataFrame, a datasets.Dataset, or"):
        read(3)
    with pytest.raises(ValueError, match="holds no images, so data.image-size must be 0, not 8"):
        read(table(), image_size=8)
