"""A continuous run needs no more memory late than early, in the process and on the disk."""

import gc
from pathlib import Path

import pytest
import torch

from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import Event, open_results, run
from tests.fl.conftest import SMALL

EARLY, LATE, DEVICES = 5, 13, 8


def tensor_bytes() -> int:
    """Of all tensors that are alive, each storage counted once."""
    gc.collect()
    storages = [x.untyped_storage() for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return sum({s._cdata: s.nbytes() for s in storages}.values())


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_a_continuous_run_keeps_constant_memory(tmp_path: Path) -> None:
    """Every step is a round; devices keep candidates, the cloud a buffer. One model is about 300 kB, so a leak of one
    a device and step would be 20 MB.

    Of a device and a step a few kB of its data indices may stay (`partitions.World` keeps a bounded number of them).
    """
    how = {"strategies": "eclm", "candidates": 2.0, "aggregation": "buffered", "buffer": 2, "per-device": False}
    length = {"devices": DEVICES, "rounds": LATE, "rounds-per-step": 1, "eval-every": 1, "measure-forgetting": True}
    settings = Settings.parse({**SMALL, **how, **length, "state-root": str(tmp_path / "devices")})
    seen: dict[int, tuple[int, int, int]] = {}

    def observe(event: Event) -> None:
        if event.kind == "round":
            files = sum(path.is_file() for path in (tmp_path / "devices").rglob("*"))
            seen[event.at] = tensor_bytes(), process_bytes(), files

    with open_results([settings], tmp_path / "out", False) as results, LocalGrid(settings.flat(), DEVICES) as grid:
        run(settings, grid, results, observe)
    early, late = seen[EARLY], seen[LATE]
    assert late[0] <= early[0] + 1_000_000, "tensors pile up"
    assert late[1] <= early[1] + 8e3 * DEVICES * (LATE - EARLY) + 5e6, "memory of the process grows"
    # The selector; the model and what is known of it, of this round, the one before, and before that.
    assert max(early[2], late[2]) <= (1 + 2 * 3) * DEVICES, "files pile up"
    assert not any((tmp_path / "devices").rglob("*.safetensors")), "files of the run are left behind"
