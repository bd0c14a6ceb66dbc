"""Hardware, what clients can spare, and the virtual clock."""

import numpy as np
import pytest

from fl.config.sections import Devices
from fl.devices.clock import link_seconds, train_seconds
from fl.devices.hardware import KINDS, Hardware, HardwareMap, Table, shares

BOARD = Hardware("board", 4.0, 2e9, 10.0)


def test_the_clock_by_hand() -> None:
    """3 x 1e6 MACs x 100 samples x 2 epochs at 2e9 MAC/s is 0.3 s; 1.25 MB at 10 Mbit/s is 1 s."""
    assert train_seconds(BOARD, 1e6, 100, 2) == pytest.approx(0.3)
    assert link_seconds(BOARD, 1.25e6) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_has_the_same_hardware_whenever_it_is_drawn(kind: str) -> None:
    table = Table.of(kind)
    assert table.draw(1, 5) == table.draw(1, 5)
    assert len({table.draw(1, d) for d in range(50)}) > 40


def test_every_kind_is_a_value_of_the_run_config() -> None:
    for kind in KINDS:
        assert Devices(hardware=kind).hardware == kind  # type: ignore[arg-type]


def test_boards_are_the_two_of_the_paper() -> None:
    assert {name for name, _, _ in Table.of("boards").classes} == {"Jetson Nano", "Raspberry Pi 4B"}


def test_reported_hardware_takes_precedence_over_drawn_hardware() -> None:
    table = Table.of("phones")
    known = HardwareMap(table, 1, {3: BOARD})
    assert known[3] == BOARD and known[4] == table.draw(1, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_lie_between_the_limits_and_spread(kind: str) -> None:
    table = Table.of(kind)
    got = np.array([list(vars(shares(table, table.draw(1, d), 1, d, 0, 0.2, 0.6, 0.0)).values()) for d in range(300)])
    assert (got >= 0.2).all() and (got <= 0.6).all()
    assert np.abs(got.mean(0) - 0.4).max() < 0.03


def test_background_load_takes_from_compute_and_memory_anew_at_each_step() -> None:
    table = Table.of("phones")
    hardware = table.draw(1, 0)
    idle = shares(table, hardware, 1, 0, 0, 0.2, 0.6, 0.0)
    busy = [shares(table, hardware, 1, 0, step, 0.2, 0.6, 0.5) for step in range(20)]
    assert all(b.link == idle.link and 0.5 * idle.compute <= b.compute <= idle.compute for b in busy)
    assert len({b.compute for b in busy}) == 20
    assert busy[3] == shares(table, hardware, 1, 0, 3, 0.2, 0.6, 0.5)


def test_ties_share_their_rank() -> None:
    """Three devices of 2, 4, 4 GB: 4 GB has 1/3 below and all at most, so 2/3."""
    table = Table((("a", 2.0, 1e9), ("b", 4.0, 2e9), ("c", 4.0, 3e9)), (1.0, 100.0))
    rank = table.rank(Hardware("b", 4.0, 2e9, 10.0))
    assert rank.memory == pytest.approx(2 / 3)
    assert rank.compute == pytest.approx(0.5)
    assert rank.link == pytest.approx(0.5)
