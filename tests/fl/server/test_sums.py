"""Updates added up where they are made: the numbers, the ledger and the refusals are those of updates sent home."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.results.reader import read_rounds
from fl.server.run import open_results, run
from fl.workloads import classify
from tests.fl.conftest import SMALL, without_clock


class OneByOne:
    """An engine that knows nothing of sums, as Flower's own."""

    def __init__(self, inner: LocalGrid):
        self.inner, self.sent_home = inner, 0

    @property
    def run(self):
        return self.inner.run

    def get_node_ids(self):
        return self.inner.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        replies = list(self.inner.send_and_receive(messages))
        self.sent_home += sum("model" in reply.content for reply in replies if reply.has_content())
        return replies


def one_by_one(out: Path, **changes) -> tuple[list[str], int]:
    settings = Settings.parse({**SMALL, **changes})
    grid = OneByOne(LocalGrid(settings.flat(), settings.devices))
    with open_results([settings], out, False) as results:
        run(settings, grid, results)  # type: ignore[arg-type]
    return without_clock(out), grid.sent_home


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device 1 sends what is not finite, 2 too many examples, 3 crashes."""
    honest = classify.train

    def train(settings, order, store, state):
        got = honest(settings, order, store, state)
        if order.device == 1:
            return replace(got, state={name: torch.full_like(v, torch.inf) for name, v in got.state.items()})
        if order.device == 3:
            raise RuntimeError("on purpose")
        return replace(got, examples=10**6) if order.device == 2 else got

    monkeypatch.setattr(classify, "train", train)


def test_sums_are_those_of_single_updates(play: Callable, mixed: None, tmp_path: Path) -> None:
    """Every method that averages, among devices of which some are bad and some keep their updates to themselves."""
    names = ["fedavg", "heterofl", "fjord", "eclm"]
    how = {"strategies": ",".join(names), "upload-change": 0.0016, "cohort": 5, "rounds": 3}
    summed = play(tmp_path / "summed", **how)
    single, sent_home = one_by_one(tmp_path / "single", **how)
    assert summed == single
    rounds = read_rounds(tmp_path / "summed").query("method in @names")
    assert rounds.refused.sum() > 0 and rounds.failures.sum() > 0 and rounds.withheld.sum() > 0
    assert sent_home > rounds.devices.sum() - rounds.withheld.sum() > 0  # those refused are among them
