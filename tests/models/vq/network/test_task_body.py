"""Several tasks on one stack: parts along an axis, merged within a task or over all devices."""

import pytest
import torch

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL, extract
from models.vq.network.task_body import TaskBody, paced, parts, side_by_side, task_body
from models.vq.training.gradnorm import reweigh


def three_tasks(small, codes=(6, 2)):
    return task_body(3, small(), 4, codes)


def part(whole, seed) -> TaskBody:
    body = whole.build({**whole.sizes, "tasks": 1}, torch.Generator().manual_seed(seed))
    assert isinstance(body, TaskBody)
    return body


def test_parts_side_by_side_are_cut_out_again(small) -> None:
    whole = three_tasks(small)
    states, axes = [part(whole, seed).state() for seed in range(3)], whole.part(FULL).axes()
    together = side_by_side(states, axes)
    assert {name: value.shape for name, value in together.items()} == {
        name: value.shape for name, value in whole.whole(0).state().items()
    }
    for coverage, state in zip(parts(3), states, strict=True):
        own = extract(together, axes, coverage)
        for name, value in own.items():
            assert torch.equal(value, states[0][name] if name.startswith("cloud.") else state[name])
        body = part(whole, 9)
        body.load_state_dict(own)
        assert all(torch.equal(value, own[name]) for name, value in body.state().items())
    with pytest.raises(ValueError, match="a whole of 3 tasks is no network"):
        whole.part(FULL).load_state_dict(together)


def test_a_mean_is_within_a_task_or_over_all(small) -> None:
    """Devices of 3 and 5 examples have task 0, one of 2 has task 2, nobody has task 1."""
    whole = three_tasks(small)
    start, axes = whole.whole(7).state(), whole.part(FULL).axes()
    one, two, three = (part(whole, seed).state() for seed in range(3))
    merged = WeightedSum(axes, start)
    for state, task, examples in ((one, 0, 3), (two, 0, 5), (three, 2, 2)):
        merged.add(state, parts(3)[task], examples)
    after = merged.finish(start)
    for name in after:
        if name.startswith("cloud."):
            wanted = (3 * one[name] + 5 * two[name] + 2 * three[name]) / 10
        else:
            wanted = torch.cat([(3 * one[name] + 5 * two[name]) / 8, start[name][1:2], three[name]])
        torch.testing.assert_close(after[name], wanted)


def test_gradnorm_waits_until_all_were_heard(small) -> None:
    state = three_tasks(small).whole(0).state()
    assert torch.equal(state["pace"], torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1))

    def told(*rows: tuple[float, float, float, float]) -> dict[str, torch.Tensor]:
        return state | {"pace": torch.tensor(rows)}

    waiting = paced(state, told((1, 2, 0.5, 0), (1, 1, 0.8, 0), (1, 0, 0, 0)))
    assert waiting["pace"].tolist() == told((1, 2, 0.5, 0), (1, 1, 0.8, 0), (1, 0, 0, 0))["pace"].tolist()
    # all at their first losses: the wanted norm is the mean, 4/3; the first task is above it, the others are below.
    # The weight and the first loss that a device claims are not asked for.
    begun = paced(waiting, told((9, 2, 0.5, 9), (1, 1, 0.8, 0), (1, 1, 0.9, 0)))
    torch.testing.assert_close(
        begun["pace"], torch.tensor([[0.95, 2, 0.5, 0.5], [1.025, 1, 0.8, 0.8], [1.025, 1, 0.9, 0.9]])
    )
    later = paced(begun, told((1, 2, 0.25, 0), (1, 1, 0.8, 0), (1, 1, 0.9, 0)))["pace"]
    wanted = reweigh(begun["pace"][:, 0], later[:, 1], later[:, 2], begun["pace"][:, 3])
    torch.testing.assert_close(later[:, 0], wanted)
    assert torch.equal(later[:, 3], begun["pace"][:, 3])


def test_what_stays_and_what_is_counted(small) -> None:
    body = part(three_tasks(small), 0)
    assert {"pace", "counts", "sums"} < body.on_device() and "head.read.weight" not in body.on_device()
    assert body.weight == 1.0
    body.pace[0] = 1.5
    assert body.weight == 1.5
