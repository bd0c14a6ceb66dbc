"""Files of tensors that notice a changed bit: safetensors with a checksum of names, types, shapes and values."""

import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fl.results.files import replacing
from models.submodel import State

CHECKSUM = "checksum"


def write_state(path: Path, state: State) -> None:
    """Write a state, whole or not at all.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in state.items()}
    with replacing(path) as temporary:
        save_file(state, temporary, {CHECKSUM: _checksum(state)})


def read_state(path: Path) -> State:
    """Read a state. Files of earlier versions have no checksum; they are read as they are.

    Raises:
        ValueError: a bit has changed since the file was written.
        OSError, SafetensorError: the file cannot be read.
    """
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        checksum = (file.metadata() or {}).get(CHECKSUM)
    if checksum not in (None, _checksum(state)):
        raise ValueError("its bytes changed")
    return state


def _checksum(state: State) -> str:
    found = 0
    for name in sorted(state):
        value = state[name]
        found = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), found)
        found = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
