"""A client that chose one of several models: what the server and the client's privacy measure its update against."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import MetricRecord

from experiments.attacks.round import LIAR, Round, sends
from fl.messages import records
from fl.server.arrivals import rebase
from fl.server.checkpoint import loads
from models.submodel import State
from strategies.core.strategy import Profile, Update

CHOICE = {"ifca.spread": 0.05}  # first models so alike that clients choose different ones


def starts(round_: Round) -> dict[int, int]:
    """The model that each client chose."""
    return {c: int(round_.content("train", c)[records.REPORT]["start"]) for c in range(4)}  # type: ignore[arg-type]


def clusters(round_: Round, tree: bytes) -> dict[int, State]:
    return loads(tree)["method"]["clusters"]


def test_a_clipped_update_changes_the_model_that_the_client_chose(tmp_path: Path) -> None:
    round_ = Round("ifca", tmp_path, **CHOICE, **{"client.update-clip": 1e-6})
    assert set(starts(round_).values()) == {0, 1}
    before, after = clusters(round_, round_.before), clusters(round_, round_.after)
    for cluster, state in before.items():
        for name, value in state.items():
            torch.testing.assert_close(after[cluster][name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("start", [2, -1, 1.5, [1], [0, 1], float("nan")])
def test_a_client_that_chose_a_model_that_it_was_not_sent_is_refused(tmp_path: Path, start: object) -> None:
    round_ = Round("ifca", tmp_path, **CHOICE)
    content = round_.content("train")
    content[records.REPORT] = MetricRecord({**content[records.REPORT], "start": start})  # type: ignore[dict-item]
    for parts in (False, True):
        costs, _ = round_.train(sends(content), parts)
        assert (costs.clients, costs.refused) == (3, 1)


def test_tensors_that_are_only_sent_down_may_not_come_up(tmp_path: Path) -> None:
    round_ = Round("ifca", tmp_path, **CHOICE)
    content = round_.content("train")
    content["tensors.1"] = content[records.MODEL]
    costs, _ = round_.train(sends(content))
    assert (costs.clients, costs.refused) == (3, 1)
    assert LIAR in starts(round_)


def test_a_late_update_is_rebased_on_the_present_model_of_its_cluster(tmp_path: Path) -> None:
    """Sent 1 to cluster 1, trained to 3; the present model is at 5: 5 + s(3) (3 - 1) = 6."""
    method = Round("ifca", tmp_path).rounds.method
    task = method.configure_train(1, [Profile(0)])[0]

    def full(value: float) -> State:
        return {name: torch.full_like(v, value) for name, v in method.model.items()}

    task = replace(task, tensors={"1": full(1.0)})
    method.clusters[1] = full(5.0)  # type: ignore[attr-defined]
    late = rebase(method, task, Update(0, full(3.0), 10, {"start": 1}), 3)
    assert all((value == 6).all() for value in late.state.values())
