"""When the server aggregates which update, by hand; buffered rounds are synchronous ones if no client is late."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.attacks.round import Round
from fl.config import Settings, SettingsError
from fl.messages import records
from fl.results.reader import read_rounds
from fl.server.arrivals import Arrivals, discount, rebase
from models.costs import Cost
from models.submodel import FULL, State
from strategies.core.strategy import Budget, SubModel, TrainTask, Update
from strategies.fedavg import FedAvg

TASK = TrainTask(SubModel("dense", FULL, {}), 1, Cost(1, 1, 1, 1))


def send(arrivals: Arrivals, **seconds: float) -> None:
    """``c3=1.5``: client 3 will have answered in 1.5 seconds."""
    for name, needed in seconds.items():
        arrivals.under_way.append(arrivals.expect(needed, Update(int(name[1:]), {}, 10), TASK))


def step(arrivals: Arrivals, *others: float) -> tuple[list[int], int, float]:
    merged, late, seconds = arrivals.merge(others)
    arrivals.version += bool(merged)
    return [a.update.client for a in merged], late, seconds


def test_a_synchronous_server_waits_for_all() -> None:
    arrivals = Arrivals()
    send(arrivals, c1=3.0, c2=1.0)
    assert step(arrivals) == ([2, 1], 0, 3.0)
    send(arrivals, c1=1.0)
    assert step(arrivals, 2.5) == ([1], 0, 2.5)  # a failed client's query took longer
    assert step(arrivals) == ([], 0, 0.0) and arrivals.now == 5.5


def test_a_synchronous_server_drops_updates_after_the_deadline() -> None:
    arrivals = Arrivals(deadline=2.0)
    send(arrivals, c1=3.0, c2=1.0, c3=2.0)
    assert step(arrivals) == ([2, 3], 1, 2.0)
    assert step(arrivals) == ([], 0, 0.0) and arrivals.under_way == []


def test_a_buffer_aggregates_in_the_order_of_arrival() -> None:
    """Two updates fill the buffer. Client 1 needs 10 s and so comes third, two versions old."""
    arrivals = Arrivals(buffer=2)
    send(arrivals, c1=10.0, c2=1.0, c3=2.0)
    assert step(arrivals) == ([2, 3], 0, 2.0)
    send(arrivals, c4=3.0, c2=3.0)  # at 5: the tie goes by number
    assert step(arrivals) == ([2, 4], 0, 3.0)
    send(arrivals, c5=7.0, c6=1.0)  # at 12 and 6
    assert step(arrivals) == ([6, 1], 1, 5.0)
    assert step(arrivals) == ([5], 1, 2.0)  # fewer are under way than the buffer holds: there is no other to wait for
    assert arrivals.now == 12 and arrivals.version == 4


def test_a_buffered_server_stops_waiting_at_the_deadline_and_aggregates_the_rest_later() -> None:
    arrivals = Arrivals(buffer=2, deadline=2.0)
    send(arrivals, c1=5.0, c2=1.0)
    assert step(arrivals) == ([2], 0, 2.0)
    assert step(arrivals) == ([], 0, 2.0)
    assert step(arrivals) == ([1], 1, 1.0)
    send(arrivals, c3=2.0, c4=1.0)  # at the deadline is in time
    assert step(arrivals) == ([4, 3], 0, 2.0)


@given(
    st.lists(st.lists(st.floats(0, 50), max_size=4), max_size=8), st.integers(1, 4), st.floats(1, 60) | st.just(np.inf)
)
def test_a_buffer_loses_nothing_and_never_goes_back_in_time(rounds, buffer: int, deadline: float) -> None:
    arrivals, merged, sent = Arrivals(buffer=buffer, deadline=deadline), [], 0
    for seconds in rounds:
        send(arrivals, **{f"c{sent + i}": s for i, s in enumerate(seconds)})
        sent += len(seconds)
        before = arrivals.now
        now, _, passed = arrivals.merge()
        assert len(now) <= buffer and 0 <= passed <= deadline + 1e-9 and arrivals.now >= before
        assert all(a.at <= arrivals.now for a in now)
        merged += now
    assert [a.at for a in merged] == sorted(a.at for a in merged)
    assert sorted(a.update.client for a in [*merged, *arrivals.under_way]) == list(range(sent))


def test_no_more_clients_train_than_a_cohort_has() -> None:
    arrivals = Arrivals(buffer=1)
    send(arrivals, c1=5.0, c2=1.0, c3=4.0)
    step(arrivals)
    assert arrivals.free([3, 4, 5], np.random.default_rng(0)) in ([4], [5])
    assert arrivals.free([1, 3, 5], np.random.default_rng(0)) == [5]
    assert Arrivals().free([1, 3, 5], np.random.default_rng(0)) == [1, 3, 5]


def test_a_late_update_moves_the_present_model_by_its_discounted_change(models_maker, budget: Budget) -> None:
    """Three aggregations late: s = 1 / sqrt(4) = 1/2. Sent 0, trained 2, now 10: 11. In time: 2, unchanged."""
    assert [discount(t) for t in (0, 3)] == [1, 0.5]
    method = FedAvg(models_maker(), budget, 3)
    sent, trained, now = ({n: torch.full_like(v, x) for n, v in method.model.items()} for x in (0.0, 2.0, 10.0))
    method.model = now
    task, update = TrainTask(SubModel("dense", FULL, sent), 1, TASK.cost), Update(0, trained, 10)
    assert rebase(method, task, update, 0) is update
    assert all((value == 11).all() for value in rebase(method, task, update, 3).state.values())
    far = replace(task, model=replace(task.model, state={name: value + 100 for name, value in sent.items()}))
    name, *others = method.model
    late = rebase(method, far, update, 3, {name}).state  # 10 + (2 - 100) / 2 would be negative: half-way to 2
    assert (late[name] == 6).all() and all((late[other] == -39).all() for other in others)


@pytest.mark.parametrize("strategy", ["fedavg", "heterofl", "eclm", "eclm-local"])
def test_a_buffer_of_a_cohort_is_synchronous(play: Callable, tmp_path: Path, strategy: str) -> None:
    synchronous = play(tmp_path / "synchronous", {"strategies": strategy})
    buffered = {"server.aggregation": "buffered", "server.buffer": 3}
    assert play(tmp_path / "buffered", {"strategies": strategy, **buffered}) == synchronous


def test_a_buffered_run(play: Callable, tmp_path: Path) -> None:
    """Same on any number of workers; aggregations come sooner than synchronous ones, and some updates late."""
    how = {"strategies": "fedavg,eclm", "server.aggregation": "buffered", "server.buffer": 1, "rounds": 6}
    assert play(tmp_path / "one", how) == play(tmp_path / "two", how, workers=2)
    play(tmp_path / "synchronous", {"strategies": "fedavg,eclm", "rounds": 6})
    buffered, synchronous = read_rounds(tmp_path / "one"), read_rounds(tmp_path / "synchronous")
    assert buffered.virtual_s.max() < synchronous.virtual_s.max()
    assert buffered.late.sum() > 0 and (synchronous.late == 0).all()
    assert buffered.query("evaluated > 0").accuracy_mean.between(0.2, 1).all()


@pytest.mark.parametrize("how", ["deadline", "buffer", "both"])
def test_only_what_has_arrived_is_in_the_model(how: str, tmp_path: Path) -> None:
    """After a round of four clients the model is the mean of the two fastest ones, and of all if the server waits."""

    def played(**settings: object) -> tuple[Round, State]:
        round_ = Round("fedavg", tmp_path, **settings)
        return round_, round_.train()[1]

    def mean(round_: Round, clients: list[int]) -> State:
        shares = torch.tensor([round_.rounds.examples[client] for client in clients]).double()
        states = [records.unpack(round_.content("train", client)[records.MODEL]) for client in clients]  # type: ignore[arg-type]
        return {
            k: torch.stack([shares[i] * s[k] for i, s in enumerate(states)]).sum(0) / shares.sum() for k in states[0]
        }

    whole, model = played()
    seconds = whole.rounds.clocks.round
    order = sorted(seconds, key=seconds.__getitem__)
    deadline = {"server.deadline-s": (seconds[order[1]] + seconds[order[2]]) / 2}
    buffer = {"server.aggregation": "buffered", "server.buffer": 2}
    settings = {"deadline": deadline, "buffer": buffer, "both": {**buffer, **deadline}}
    for round_, got, clients in ((whole, model, order), (*played(**settings[how]), order[:2])):
        torch.testing.assert_close(got, mean(round_, clients), check_dtype=False)


def test_a_deadline_that_no_client_meets_leaves_the_model_as_it_was(play: Callable, tmp_path: Path) -> None:
    play(tmp_path, {"strategies": "na,fedavg", "server.deadline-s": 1e-6})
    rounds = read_rounds(tmp_path)
    na, fed = (rounds[rounds.method == name] for name in ("na", "fedavg"))
    assert fed.accuracy_mean.dropna().tolist() == na.accuracy_mean.dropna().tolist()
    assert (fed.late == 3).all() and (fed.failures == 0).all()
    assert fed.virtual_s.tolist() == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6])


def test_a_buffer_that_never_fills_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"server\.buffer = 5 can never fill: only 3 clients train at a time"):
        Settings.parse({"server.aggregation": "buffered", "server.buffer": 5, "cohort": 3})
