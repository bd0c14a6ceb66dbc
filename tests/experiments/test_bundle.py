"""The bundle (FAB) that Flower sends to every server and device is complete, and has nothing else."""

import ast
import io
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from experiments.hermetic import copy_app

ROOT = Path(__file__).parents[2]
PACKAGES = ("fl", "strategies", "models", "partitions", "experiments")
BY_FLOWER = ("ray",)  # of flwr[simulation], which alone decides its version
ALONE = ("pyproject.toml", "LICENSE", "README.md", ".info/CONTENT", "fl/devices/devices.toml")


@pytest.fixture
def bundle(tmp_path: Path) -> bytes:
    app = tmp_path / "app"
    copy_app(ROOT, app)  # Flower looks at every file, which takes seconds with a .venv
    return build_fab_from_disk(app)


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # flwr uses it
def test_the_bundle_has_code_data_and_licence_and_nothing_else(bundle: bytes) -> None:
    code = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
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


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the packages that a file imports, but not ours, and whether it does so when it is loaded."""

    def visit(node: ast.AST, loading: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            names = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
            if isinstance(child, ast.ImportFrom) and not child.level:
                names = [str(child.module)]
            for name in names:
                package = name.partition(".")[0]
                ours = package in PACKAGES or any((folder / f"{package}.py").exists() for folder in path.parents[:2])
                if not ours and package not in sys.stdlib_module_names:
                    yield package, loading
            yield from visit(child, loading and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(ast.parse(path.read_text()), True)


def test_every_package_that_the_app_imports_is_declared() -> None:
    """A machine that has only Flower installs what `[project]` names, and not by luck what these packages need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sections = {"": project["dependencies"], **project["optional-dependencies"]}
    named = {
        section: {re.split(r"[\s\[<>=!~;]", line)[0].lower() for line in lines} for section, lines in sections.items()
    }
    optional = {name for section, names in named.items() if section not in ("dev", "docs") for name in names}
    sold_as = packages_distributions()

    def missing(package: str, names: set[str]) -> bool:
        found = {name.lower().replace("_", "-") for name in sold_as.get(package, [package])}
        return package not in BY_FLOWER and not found & names

    code = "import sys, fl.client_app, experiments.server_app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package, loading in imports(path):
            assert not missing(package, optional), f"{module} imports {package}, which pyproject.toml does not name"
            if loading and (module in loaded or not module.startswith("experiments.")):
                assert not missing(package, named[""]), f"{module} cannot be loaded without {package}, an extra"
