"""Several tasks with one cloud half: parts along an axis, averaged within a task or over all clients."""

import pytest
import torch

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL, extract
from models.vq.network.task_body import TaskBody, apply_gradnorm, parts, stack_tasks, task_body
from models.vq.training.gradnorm import reweigh


def three_tasks(small, codes=(6, 2)):
    return task_body(3, small(), 4, codes)


def part(whole, seed) -> TaskBody:
    body = whole.build({**whole.sizes, "tasks": 1}, torch.Generator().manual_seed(seed))
    assert isinstance(body, TaskBody)
    return body


def test_stacked_parts_are_cut_out_unchanged(small) -> None:
    whole = three_tasks(small)
    states, axes = [part(whole, seed).state() for seed in range(3)], whole.part(FULL).axes()
    whole_state = stack_tasks(states, axes)
    assert {name: value.shape for name, value in whole_state.items()} == {
        name: value.shape for name, value in whole.whole(0).state().items()
    }
    for coverage, state in zip(parts(3), states, strict=True):
        part_state = extract(whole_state, axes, coverage)
        for name, value in part_state.items():
            assert torch.equal(value, states[0][name] if name.startswith("cloud.") else state[name])
        body = part(whole, 9)
        body.load_state_dict(part_state)
        assert all(torch.equal(value, part_state[name]) for name, value in body.state().items())
    with pytest.raises(ValueError, match="a whole of 3 tasks is no network"):
        whole.part(FULL).load_state_dict(whole_state)


def test_a_mean_is_within_a_task_or_over_all(small) -> None:
    """Clients of 3 and 5 examples have task 0, one of 2 has task 2, and no client has task 1."""
    whole = three_tasks(small)
    start, axes = whole.whole(7).state(), whole.part(FULL).axes()
    first, second, third = (part(whole, seed).state() for seed in range(3))
    mean_ = WeightedSum(axes, start)
    for state, task, examples in ((first, 0, 3), (second, 0, 5), (third, 2, 2)):
        mean_.add(state, parts(3)[task], examples)
    after = mean_.finish(start)
    for name in after:
        if name.startswith("cloud."):
            expected = (3 * first[name] + 5 * second[name] + 2 * third[name]) / 10
        else:
            expected = torch.cat([(3 * first[name] + 5 * second[name]) / 8, start[name][1:2], third[name]])
        torch.testing.assert_close(after[name], expected)


def test_gradnorm_waits_until_all_tasks_have_reported(small) -> None:
    state = three_tasks(small).whole(0).state()
    assert torch.equal(state["pace"], torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1))

    def reported(*rows: tuple[float, float, float, float]) -> dict[str, torch.Tensor]:
        return state | {"pace": torch.tensor(rows)}

    incomplete = apply_gradnorm(state, reported((1, 2, 0.5, 0), (1, 1, 0.8, 0), (1, 0, 0, 0)))
    assert incomplete["pace"].tolist() == reported((1, 2, 0.5, 0), (1, 1, 0.8, 0), (1, 0, 0, 0))["pace"].tolist()
    # All tasks are at their first losses, so the target norm is the mean, 4/3. The first task is above it, the others
    # below. Weights and first losses that a client reports are ignored.
    started = apply_gradnorm(incomplete, reported((9, 2, 0.5, 9), (1, 1, 0.8, 0), (1, 1, 0.9, 0)))
    torch.testing.assert_close(
        started["pace"], torch.tensor([[0.95, 2, 0.5, 0.5], [1.025, 1, 0.8, 0.8], [1.025, 1, 0.9, 0.9]])
    )
    later = apply_gradnorm(started, reported((1, 2, 0.25, 0), (1, 1, 0.8, 0), (1, 1, 0.9, 0)))["pace"]
    expected = reweigh(started["pace"][:, 0], later[:, 1], later[:, 2], started["pace"][:, 3])
    torch.testing.assert_close(later[:, 0], expected)
    assert torch.equal(later[:, 3], started["pace"][:, 3])


def test_device_entries_and_weight(small) -> None:
    body = part(three_tasks(small), 0)
    assert {"pace", "counts", "sums"} < body.device_entries() and "head.read.weight" not in body.device_entries()
    assert body.weight == 1.0
    body.pace[0] = 1.5
    assert body.weight == 1.5
