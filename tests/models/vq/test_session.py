"""A round of split training: the same from one side to the other, and from any step on."""

import copy

import pytest
import torch
import torch.nn.functional as F

from models.vq.ends import CloudEnd, DeviceEnd, Recipe
from models.vq.network.halves import build
from models.vq.network.heads import head_for
from models.vq.quantiser.boundary import Boundary, lines
from models.vq.quantiser.codebook import Codebook
from models.vq.session import CloudSide, DeviceSide, Where, infer, train

WHERE = Where(seed=3, round=2, device=7)


@pytest.fixture
def sides(small, texts):
    """Both sides of a round of 2 epochs over 10 texts, in batches of 4, with dropout; each with its own boundary."""

    def make():
        shape = small(width=8, pool=2, dropout=0.1)
        book = Codebook(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), version=9)
        device, cloud = build(shape, 0)
        head = head_for("classify", shape, 3, 0)
        one, two = (Boundary(lines(8, 3, "example", (6, 2)), 2) for _ in range(2))
        recipe = Recipe(lr=0.01, fresh=0.01)
        tokens, labels = texts(*range(3, 13)), torch.arange(10) % 3
        side = DeviceSide(DeviceEnd(device, one, recipe, book), tokens, labels, F.cross_entropy, 2, 4, WHERE)
        return side, CloudSide(CloudEnd(cloud, head, two, recipe, book), WHERE)

    return make


def test_a_round_passes_every_text_in_every_epoch(sides) -> None:
    device, cloud = sides()
    train(device, cloud)
    assert device.steps == device.learned == cloud.step == 6
    for epoch in range(2):
        seen = torch.cat([rows for own, rows in device.rows if own == epoch])
        assert sorted(seen.tolist()) == list(range(10))
    assert device.losses[1] < device.losses[0]


@pytest.mark.parametrize("every", [1, 2])
def test_a_device_that_is_rebuilt_goes_on_as_if_nothing_had_happened(sides, every: int) -> None:
    """Killed between codes and logits, and before the gradient, at every step or at every second one."""
    straight, other = sides()
    train(straight, other)
    device, cloud = sides()
    kept = device.state()
    while device.learned < device.steps:
        logits = cloud.answer(device.send())
        if device.learned % every == 0:
            device, _ = sides()
            device.restore(copy.deepcopy(kept))
            device.send()
        gradient = cloud.learn(device.answer(logits))
        tally = device.tally()
        if device.learned % every == 0:
            device, _ = sides()
            device.restore(copy.deepcopy(kept))
            device.send()
            device.recount(tally)
        device.learn(gradient)
        kept = device.state()
    after = straight.state()
    assert kept.keys() == after.keys()
    for name, value in after.items():
        assert torch.equal(kept[name], value), name


def test_the_ledger_of_a_round_by_hand(sides) -> None:
    """6 values take 3 bits, 2 codes a position; 8 numbers a position and 3 logits a text come back at 2 bytes each."""
    device, cloud = sides()
    train(device, cloud)
    positions = [1 + -(-(n - 1) // 2) for n in range(3, 13)]
    up = device.end.boundary.ledger.total(direction="up", tensor="codes")
    assert up == 2 * sum(-(-2 * 3 * n // 8) + 2 for n in positions)  # two epochs; 2 bytes tell a length
    down = cloud.end.boundary.ledger.total(tensor="gradient")
    assert down == 2 * sum(8 * 2 * n for n in positions) + 6 * 4  # a scale leads each of 6 messages
    assert cloud.end.boundary.ledger.total(tensor="logits") == 2 * 10 * 3 * 2 + 6 * 4


def test_answers_come_in_the_order_of_the_texts(sides) -> None:
    device, cloud = sides()
    together = infer(device.end, cloud.end, device.tokens, batch=4)
    apart = [infer(device.end, cloud.end, device.tokens[torch.tensor([i])]) for i in range(10)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-3, atol=1e-3)
