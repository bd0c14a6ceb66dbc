"""Every workload keeps the interface, and a run imports only its own workload."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from fl.config import Settings, SettingsError
from fl.workloads import WORKLOADS
from fl.workloads.options import WORKLOAD_OPTIONS
from fl.workloads.resolve import resolve
from fl.workloads.workload import SplitWorkload, Workload

ROOT = Path(__file__).resolve().parents[3]
METHODS = [name for name, value in vars(Workload).items() if inspect.isfunction(value) and not name.startswith("_")]
SPLIT_METHODS = [name for name in ("replica", "turn") if inspect.isfunction(vars(SplitWorkload)[name])]
RESOLVE = """
import sys
from fl.config import Settings, flatten
from fl.workloads.resolve import default_tables, from_flower, resolve
from fl.workloads.tables import toml_tables

run = resolve(Settings.parse({"workload": "classify"}))
run.workload.architectures
resolve(from_flower(flatten(default_tables())))
toml_tables()
heavy = "transformers", "models.vq", "models.spa", "fl.workloads.vq", "fl.workloads.spa"
print(sorted(name for name in sys.modules if name.startswith(heavy)))
"""


def test_the_interface() -> None:
    assert METHODS == [
        "check", "prepare", "global_accuracy", "saved", "limits", "profile", "measure", "train", "evaluate",
    ]  # fmt: skip
    assert SPLIT_METHODS == ["replica", "turn"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_the_methods_of_the_interface(name: str) -> None:
    workload = WORKLOADS[name]
    assert issubclass(workload, Workload) and not inspect.isabstract(workload)
    kind = SplitWorkload if issubclass(workload, SplitWorkload) else Workload
    for method in METHODS + (SPLIT_METHODS if kind is SplitWorkload else []):
        wanted, found = inspect.signature(getattr(kind, method)), inspect.signature(getattr(workload, method))
        assert list(found.parameters) == list(wanted.parameters), method
        if method != "replica":  # it returns the workload's own `Replica`
            assert found.return_annotation == wanted.return_annotation, method


@pytest.mark.parametrize("name", WORKLOADS)
def test_options_declared_apart_are_those_of_the_class(name: str) -> None:
    """They stand in a module of their own, so that the settings can be listed without importing every workload."""
    assert WORKLOADS[name].Options is WORKLOAD_OPTIONS[name]
    assert set(WORKLOAD_OPTIONS) == set(WORKLOADS.builtin)


def test_measures_and_what_a_workload_provides_are_declared() -> None:
    for name in WORKLOADS:
        workload = WORKLOADS[name]
        assert "dense" in workload.provides
        assert all(key and meaning for key, meaning in workload.measures.items())


def test_an_unknown_workload_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="unknown workload 'clasify'; known: classify"):
        resolve(Settings.parse({"workload": "clasify"}))


def test_classification_imports_no_language_model() -> None:
    """Libraries of the text workloads take seconds to import, in every worker process."""
    done = subprocess.run([sys.executable, "-c", RESOLVE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
