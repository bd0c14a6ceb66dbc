"""A continuous run needs no more memory late than early, in the process and on the disk."""

import gc
from pathlib import Path

import pytest
import torch

from fl.engines.grid import LocalGrid
from fl.server.run import Event, execute, open_results
from tests.fl.conftest import resolved

EARLY, LATE, CLIENTS = 5, 13, 8


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive, each storage counted once."""
    gc.collect()
    alive = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    storages = [x.untyped_storage() for x in alive if x.layout == torch.strided]  # a sparse one has none
    return sum({s._cdata: s.nbytes() for s in storages}.values())


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_a_continuous_run_keeps_constant_memory(tmp_path: Path) -> None:
    """Every step is a round; clients keep candidates, the server a buffer. One model is about 300 kB, so a leak of one
    model a client and step would be 20 MB.

    A client and a step may leave a few kB of data indices (`partitions.World` keeps a bounded number of them).
    """
    how = {"strategies": "eclm", "eclm.candidates": 2.0, "eval.per-device": False, "eval.forgetting": True}
    how |= {"server.aggregation": "buffered", "server.buffer": 2, "devices.state-root": str(tmp_path / "clients")}
    run = resolved({**how, "devices.count": CLIENTS, "rounds": LATE, "rounds-per-step": 1, "eval.every": 1})
    seen: dict[int, tuple[int, int, int]] = {}

    def observe(event: Event) -> None:
        if event.kind == "round":
            files = sum(path.is_file() for path in (tmp_path / "clients").rglob("*"))
            seen[event.at] = tensor_bytes(), process_bytes(), files

    with open_results([run], tmp_path / "out", False) as results, LocalGrid(run.settings.flat(), CLIENTS) as grid:
        execute(run, grid, results, observe)
    early, late = seen[EARLY], seen[LATE]
    assert late[0] <= early[0] + 1_000_000, "tensors pile up"
    before = max(seen[at][1] for at in range(EARLY - 2, EARLY + 1))  # the allocator moves by some MB
    after = min(seen[at][1] for at in range(LATE - 2, LATE + 1))
    assert after <= before + 8e3 * CLIENTS * (LATE - EARLY) + 10e6, "memory of the process grows"
    # The selector; the model and what is known of it, of this round, the one before, and before that.
    assert max(early[2], late[2]) <= (1 + 2 * 3) * CLIENTS, "files pile up"
    assert not any((tmp_path / "clients").rglob("*.safetensors")), "files of the run are left behind"
