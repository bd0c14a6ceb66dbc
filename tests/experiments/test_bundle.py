"""The bundle (FAB) that Flower sends to every server and device is complete, and has nothing else."""

import io
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from experiments.hermetic import copy_app

ROOT = Path(__file__).parents[2]
ALONE = ("pyproject.toml", "LICENSE", "README.md", ".info/CONTENT", "fl/devices/devices.toml")


@pytest.fixture
def bundle(tmp_path: Path) -> bytes:
    app = tmp_path / "app"
    copy_app(ROOT, app)  # Flower looks at every file, which takes seconds with a .venv
    return build_fab_from_disk(app)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # flwr uses it
def test_the_bundle_has_code_data_and_licence_and_nothing_else(bundle: bytes) -> None:
    packages = ("fl", "strategies", "models", "partitions", "experiments")
    code = {str(path.relative_to(ROOT)) for package in packages for path in (ROOT / package).rglob("*.py")}
    data = {
        f"data/{name}" for name in ("har/har.json", "har/README.md", "questions/questions.jsonl", "questions/README.md")
    }
    with zipfile.ZipFile(io.BytesIO(bundle)) as file:
        assert set(file.namelist()) == code | data | {*ALONE}
        assert tomllib.loads(file.read("pyproject.toml").decode())["tool"]["flwr"]["app"]["fab-format-version"] == 1
    assert len(bundle) < 8 * 2**20  # Flower's limit is 10 MiB


def test_devices_get_the_packages_that_the_app_needs() -> None:
    """Flower installs what `[project] dependencies` names; settings of uv must not take packages out."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "uv" not in config["tool"]
    pins = dict(line.split(" ")[0].split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    target = config["tool"]["flwr"]["app"]["flwr-version-target"]
    assert pins["flwr"] == target
