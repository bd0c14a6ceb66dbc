"""The versions that are written beside the results."""

import tomllib
from importlib import metadata
from pathlib import Path

from fl.results.versions import versions


def test_versions_of_this_process():
    found = versions()
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert found["driftfed"] == project["version"] and found["torch"] == metadata.version("torch")
    assert {"driftfed", "python", "torch", "flwr", "numpy"} <= set(found)
    assert "gpu" not in found and versions("H200") == {**found, "gpu": "H200"}
