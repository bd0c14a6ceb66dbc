"""Every workload keeps the interface, and a run-config chooses one by name."""

import inspect

import pytest

from fl.config.settings import Settings, SettingsError
from fl.workloads import WORKLOADS, find
from fl.workloads.workload import Workload

VERBS = [name for name, value in vars(Workload).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_the_functions_of_the_interface(name: str) -> None:
    assert VERBS == ["prepare", "global_accuracy", "profile", "train", "evaluate"]
    for verb in VERBS:
        wanted = inspect.signature(getattr(Workload, verb))
        asked = inspect.signature(getattr(find(name), verb))
        assert list(asked.parameters) == list(wanted.parameters)[1:], verb
        assert asked.return_annotation == wanted.return_annotation, verb


def test_an_unknown_workload_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="unknown workload 'clasify'; known: classify"):
        Settings.parse({"workload": "clasify"})
