"""A round of split training: both sides agree, and a side continues from any step."""

import copy

import pytest
import torch
import torch.nn.functional as F

from models.vq.ends import CloudEnd, DeviceEnd, LearningRates
from models.vq.network.halves import build
from models.vq.network.heads import head_for
from models.vq.quantiser.boundary import Boundary, channels
from models.vq.quantiser.codebook import Codebook
from models.vq.session import CloudSide, DeviceSide, RoundAddress, infer, train

ADDRESS = RoundAddress(seed=3, round=2, device=7)


@pytest.fixture
def sides(small, texts):
    """Build both sides of a round: 2 epochs over 10 texts, batches of 4, dropout, and two boundaries."""

    def make():
        shape = small(width=8, pool=2, dropout=0.1)
        book = Codebook(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)), version=9)
        device, cloud = build(shape, 0)
        head = head_for("classify", shape, 3, 0)
        device_boundary, cloud_boundary = (Boundary(channels(8, 3, "example", (6, 2)), 2) for _ in range(2))
        rates = LearningRates(lr=0.01, fresh=0.01)
        tokens, labels = texts(*range(3, 13)), torch.arange(10) % 3
        device_side = DeviceSide(
            DeviceEnd(device, device_boundary, rates, book), tokens, labels, F.cross_entropy, 2, 4, ADDRESS
        )
        return device_side, CloudSide(CloudEnd(cloud, head, cloud_boundary, rates, book), ADDRESS)

    return make


def test_every_epoch_contains_every_text_once(sides) -> None:
    device, cloud = sides()
    train(device, cloud)
    assert device.steps == device.steps_done == cloud.step == 6
    for epoch in range(2):
        rows_of_epoch = torch.cat([rows for number, rows in device.rows if number == epoch])
        assert sorted(rows_of_epoch.tolist()) == list(range(10))
    assert device.losses[1] < device.losses[0]


@pytest.mark.parametrize("every", [1, 2])
def test_a_rebuilt_device_continues_exactly(sides, every: int) -> None:
    """The device restarts between codes and logits, and before the gradient, at every step or every second one."""
    uninterrupted, other = sides()
    train(uninterrupted, other)
    device, cloud = sides()
    state = device.state()
    while device.steps_done < device.steps:
        logits = cloud.send_logits(device.send())
        if device.steps_done % every == 0:
            device, _ = sides()
            device.restore(copy.deepcopy(state))
            device.send()
        gradient = cloud.update(device.loss_gradient(logits))
        counters = device.counters()
        if device.steps_done % every == 0:
            device, _ = sides()
            device.restore(copy.deepcopy(state))
            device.send()
            device.restore_counters(counters)
        device.update(gradient)
        state = device.state()
    after = uninterrupted.state()
    assert state.keys() == after.keys()
    for name, value in after.items():
        assert torch.equal(state[name], value), name


def test_the_traffic_of_a_round_by_hand(sides) -> None:
    """6 values take 3 bits, with 2 codes per position.

    8 numbers per position and 3 logits per text return with 2 bytes each.
    """
    device, cloud = sides()
    train(device, cloud)
    positions = [1 + -(-(n - 1) // 2) for n in range(3, 13)]
    up = device.end.boundary.traffic.total(direction="up", tensor="codes")
    assert up == 2 * sum(-(-2 * 3 * n // 8) + 2 for n in positions)  # two epochs; 2 bytes per length
    down = cloud.end.boundary.traffic.total(tensor="gradient")
    assert down == 2 * sum(8 * 2 * n for n in positions) + 6 * 4  # a scale starts each of 6 messages
    assert cloud.end.boundary.traffic.total(tensor="logits") == 2 * 10 * 3 * 2 + 6 * 4


def test_logits_have_the_order_of_the_texts(sides) -> None:
    device, cloud = sides()
    batched = infer(device.end, cloud.end, device.tokens, batch=4)
    single = [infer(device.end, cloud.end, device.tokens[torch.tensor([i])]) for i in range(10)]
    torch.testing.assert_close(batched, torch.cat(single), rtol=1e-3, atol=1e-3)
