"""Sides: their sizes, their initial output, and equality of stepwise and parallel computation."""

import pytest
import torch

from models.spa.bases import Base
from models.spa.modes import MODES
from models.spa.side import SIDES, SideSpec, every_nth_state, visibility

KINDS = list(SIDES)


def stack_of(spec: SideSpec, positions: int = 7, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, positions, len(spec.states), spec.width, generator=generator)


def with_random_output(spec: SideSpec):
    """Build a side with a random output projection."""
    side = spec.build(0)
    with torch.no_grad():
        torch.nn.init.normal_(side.out.weight, generator=torch.Generator().manual_seed(1))
    return side


def test_layer_subset() -> None:
    assert every_nth_state(30, 5) == (0, 5, 10, 15, 20, 25, 30)
    assert every_nth_state(4, 3) == (0, 3, 4)
    assert every_nth_state(4, 1) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_initially_s1_equals_the_base_exactly(base: Base, prompt: list[int], kind: str) -> None:
    stack = base.stack(torch.tensor([prompt]))
    o = SideSpec(kind, base.width, every_nth_state(base.layers, 1)).build(0)(stack).o  # type: ignore[arg-type]
    b = stack[:, :, -1]
    assert torch.equal(base.head(MODES["s1"].merged(b, o)), base.head(b))
    assert torch.equal(base.head(b), base.model(torch.tensor([prompt])).logits)


def test_parameters_of_the_position_wise_side_by_hand() -> None:
    # SmolLM2: d = 576, r = 72. Each D has d r parameters, P has r d, alpha 1 per rung, the norm 2 r; a block has 2 r +
    # (r 2r + 2r) + (2r r + r).
    block = 2 * 72 + (72 * 144 + 144) + (144 * 72 + 72)
    for states, rungs in ((every_nth_state(30, 1), 31), (every_nth_state(30, 5), 7)):
        side = SideSpec("position-wise", 576, states).build(0)
        expected = rungs * 576 * 72 + 72 * 576 + (rungs - 1) * (block + 1) + 2 * 72
        assert sum(p.numel() for p in side.parameters()) == expected
    assert expected == 458_502  # 0.46 million, as documented


def test_the_released_layout_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        side = SideSpec("released", 4096, every_nth_state(32, 1), reduction=128).build(0)  # r = 32 on LLaMA-7B
    count = sum(p.numel() for p in side.parameters())
    assert round(count / 1e6, 2) == 12.98
    assert round(100 * count / 6.738e9, 2) == 0.19


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_independent_unless_the_side_attends(kind: str) -> None:
    spec = SideSpec(kind, 32, (0, 2, 3), reduction=4)  # type: ignore[arg-type]
    side, stack = with_random_output(spec), stack_of(spec)
    changed = stack.clone()
    changed[:, 2] = stack[:, 2].flip(-1)
    differs = (side(stack).o - side(changed).o).abs().amax((0, 2)) > 1e-6
    assert differs.tolist() == [at == 2 or (side.attends and at > 2) for at in range(7)]


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 1, 3), (7,)])
def test_catching_up_equals_one_pass_over_all_positions(sizes: tuple[int, ...]) -> None:
    spec = SideSpec("attentive", 32, (0, 2, 3), reduction=4)
    side, stack = with_random_output(spec), stack_of(spec)
    whole, cached, parts = side(stack).o, None, []
    for part in stack.split(list(sizes), dim=1):
        o, cached = side(part, cached=cached)
        parts.append(o)
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_sparse_training_attends_to_the_same_positions_as_generation() -> None:
    spec = SideSpec("attentive", 32, (0, 2, 3), reduction=4)
    side, stack = with_random_output(spec), stack_of(spec, batch=1)
    called = torch.tensor([[True, False, True, False, True, True, False]])
    start = 2  # the prompt's positions are never sent, even if the gate opens
    expected = side(stack, visibility(called, [start])).o
    cached = None
    for at in range(start, 7):
        o, after = side(stack[:, at : at + 1], cached=cached, at=at)
        torch.testing.assert_close(o[:, 0], expected[:, at])
        cached = after if called[0, at] else cached


def test_visibility_by_hand() -> None:
    called = torch.tensor([[False, True, True, False]])
    assert visibility(called).int().tolist() == [[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]]
    assert visibility(called, [1]).int().tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]]
    assert visibility(called, [2]).int().tolist() == [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]]


def test_initial_weights_follow_the_seed_alone() -> None:
    spec = SideSpec("attentive", 32, (0, 3), reduction=4, zero=False)
    torch.manual_seed(5)
    one = spec.build(1).state_dict()
    torch.manual_seed(6)
    before = torch.random.get_rng_state()
    again = spec.build(1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown side 'atentive'.*did you mean 'attentive'"):
        SideSpec("atentive", 32, (0, 3))  # type: ignore[arg-type]
