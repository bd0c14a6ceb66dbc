"""Components from outside the project, their names, and their options."""

import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from partitions import DRIFTS, PARTITIONS, DataError, UnknownName, World, fetch, import_, load, where
from partitions.components import Registry, Section, options_of, section_name

MODULE = '''
"""A data set, a partition and a drift of a user."""
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from partitions import Dataset
from partitions.datasets.source import Source
from partitions.drifts.drift import Drift
from partitions.partitioners.partitioner import Cells, Partition


class Rings(Source):
    name = "rings"

    def find(self, folder):
        return path if (path := folder / "rings.csv").is_file() else None

    def load(self, root, image_size=0):
        self.reject_image_size(image_size)
        rows = np.loadtxt(self.require(root), np.float32, delimiter=",")
        x, y, test = rows[:, :2], rows[:, 2].astype(np.int64), np.arange(len(rows)) % 5 == 0
        return Dataset(self.name, x[~test], y[~test], x[test], y[test], ("inner", "middle", "outer"))

    def import_files(self, files, folder):
        return Path((folder / "rings.csv").write_bytes(files[0].read_bytes()) and folder / "rings.csv")


RINGS = Rings()


class Neighbours(Partition):
    """Give each device some successive classes."""

    classes: int = Field(2, ge=1, description="number of classes of each device")

    def initial(self, generator, device, frequencies):
        p = np.zeros(len(frequencies))
        p[(generator.integers(len(p)) + np.arange(self.classes)) % len(p)] = 1 / self.classes
        return p


class Rotate(Drift):
    cells: ClassVar[Cells] = "label"

    def walk(self, p, shift):
        return np.roll(p, 1)


def method(plan, mu: float = 0.1, local_epochs: int = 3, hidden: int = 5):
    """A function with options."""


NOTHING = 3
'''


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Put a user's module on the import path, and return its name."""
    name = f"outside_{abs(hash(request.node.name))}"  # another name for each test: Python and `load` cache modules
    (tmp_path / f"{name}.py").write_text(dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_components_by_path_make_a_world(outside: str, data_root: Path, tmp_path: Path) -> None:
    rings = f"{outside}:Rings"
    with pytest.raises(DataError, match="rings is not on this machine"):
        load(rings, data_root)
    rows = [f"{i},{i},{i % 3}" for i in range(600)]
    (tmp_path / "in.csv").write_text("\n".join(rows))
    path = import_(rings, [tmp_path / "in.csv"], data_root)
    assert where(rings, data_root) == [(rings, path, path.stat().st_size)]
    assert path == fetch(rings, data_root) == data_root / "rings.csv"
    data = load(rings, data_root)
    assert data.classes == ("inner", "middle", "outer") and load(f"{outside}:RINGS", data_root).name == "rings"
    partition, drift = PARTITIONS[f"{outside}:Neighbours"], DRIFTS[f"{outside}:Rotate"]
    world = World(data, partition(classes=1), drift(), 1, samples=(20, 30))
    before, after = (world.distribution(3, step).argmax() for step in (0, 1))
    assert after == (before + 1) % 3 and len(world.draw(3, 1).train) == world.size(3)
    with pytest.raises(ValueError, match="classes\n.*greater than or equal to 1"):
        partition(classes=0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Rings", r"data set 'no_such_module:Rings' cannot be imported \(No module named"),
        ("partitions.datasets.folder:Nothing", "cannot be imported .*; write 'package.module:Class', and start"),
        ("partitions.dataset:Dataset", "is <class .*Dataset'>; it must be a subclass"),
        ("{}:NOTHING", "is 3; it must be a subclass or an instance of partitions.datasets.source.Source"),
        ("har_embedded", r"unknown data set 'har_embedded'; known: .* \(did you mean 'har-embedded'\?\)"),
    ],
)
def test_an_unknown_path_is_one_sentence(outside: str, path: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message) as error:
        load(path.format(outside))
    assert "\n" not in str(error.value)


def test_whether_a_name_is_known() -> None:
    assert "iid" in PARTITIONS and "nothing" not in PARTITIONS
    assert "some.module:Class" in PARTITIONS  # a path; it is imported on first use


def test_builtin_text_is_imported_on_first_use() -> None:
    registry: Registry[type] = Registry("partition", "driftfed.none", {"iid": "partitions.partitioners.iid:Iid"})
    assert registry["iid"] is PARTITIONS["iid"] and len(registry) == 1


def test_options_of_a_section(outside: str) -> None:
    assert options_of(PARTITIONS["m-classes"]) is PARTITIONS["m-classes"]
    assert {name: set(options_of(DRIFTS[name]).model_fields) for name in DRIFTS} == {
        "none": set(),
        "resample": set(),
        "class-swap": set(),
        "label-shift": {"alpha"},
        "subject": set(),
        "recurring": {"contexts"},
        "feature": {"corruption", "severity_step"},
        "concept": {"swaps", "contexts", "transition", "count", "recurring"},
        "concept-matrix": {"swaps", "contexts", "transition", "file"},
        "unseen": {"share"},
        "window": {"samples", "stride"},
    }
    feature = DRIFTS["feature"].model_validate({"severity-step": 0.2})  # a run-config key
    assert feature == DRIFTS["feature"](severity_step=0.2) != DRIFTS["feature"]()
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        options_of(PARTITIONS[f"{outside}:Neighbours"])(alpha=1)
    with pytest.raises(ValueError, match="frozen"):
        feature.severity_step = 0.3


def test_options_of_a_class_and_of_a_function(outside: str) -> None:
    class Method:
        class Options(Section):
            mu: float = 0.1

    assert options_of(Method) is Method.Options
    function = Registry("method", "driftfed.none", {})[f"{outside}:method"]
    options = options_of(function, leave_out=("hidden",))
    assert options.model_validate({"local-epochs": 5}).model_dump() == {"mu": 0.1, "local_epochs": 5}
    with pytest.raises(ValueError, match="valid integer"):
        options(local_epochs="many")
    assert options_of(np.ndarray) is Section
    untyped = options_of(lambda width=8, act=print, name=None: None, leave_out=("name",))
    assert untyped(width=9).model_dump() == {"width": 9, "act": print}
    with pytest.raises(ValueError, match="valid integer"):
        untyped(width="many")


def test_section_names() -> None:
    assert section_name("m-classes") == "m-classes"
    assert section_name("my_app.method:FedHello") == "fed-hello" == section_name("my_app:Outer.FedHello")
