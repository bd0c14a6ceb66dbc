"""The software and hardware that produced the numbers of a results folder."""

import platform
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]


def versions(gpu: str = "") -> dict[str, str]:
    """Return the versions of driftfed and of its main libraries, the GPU, and the commit of a checkout.

    Args:
        gpu: name of the GPU that the run uses; empty if it uses none.
    """
    found = {"driftfed": _driftfed_version(), "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in ("torch", "flwr", "numpy")}
    if gpu:
        found["gpu"] = gpu
    commit = _commit()
    return found | ({"commit": commit} if commit else {})


def _driftfed_version() -> str:
    """``flwr run`` runs a copy of the code that pip does not know, so the copy's pyproject.toml has precedence."""
    project = ROOT / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return metadata.version("driftfed")


def _commit() -> str | None:
    """Return the commit of this checkout, with '-dirty' if the code differs from it; None outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "fl/results/__init__.py")  # not a copy installed below another checkout
        # Results are left out: an experiment that rewrites them must not make the next one look modified.
        dirty = git("status", "--porcelain", "--", ".", ":!results", ":!docs", ":!tests")
        return git("rev-parse", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return None
