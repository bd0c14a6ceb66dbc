"""A split step against autograd in one graph, bytes against formulas, and errors of an end."""

from functools import partial
from math import ceil, log2

import pytest
import torch

from models.vq.ends import CloudEnd, DeviceEnd, LearningRates
from models.vq.network.composite import states
from models.vq.network.halves import build
from models.vq.network.heads import Classify, Span
from models.vq.quantiser.boundary import Boundary, StaleCodebook, channels
from models.vq.quantiser.codebook import ESTIMATORS, Codebook
from models.vq.quantiser.codec import CODINGS, ErrorFeedback

RATES = LearningRates(lr=0.01, fresh=0.01)
BETA = 0.25


def model(shape, head=Classify, width=3, seed=0):
    device, cloud = build(shape, seed)
    return device, cloud, head(shape, width)


def codebook(shape, K=6, m=2, version=4):
    return Codebook(torch.randn(m, K, shape.width // m, generator=torch.Generator().manual_seed(0)), version=version)


def ends(parts, book=None, up="float32", down="float32", answer="float32", estimator="straight-through", feedback=None):
    device, cloud, head = parts
    codes = (book.size, book.groups) if book else None
    boundary = Boundary(channels(device.shape.wire, head.width, head.per, codes, up, down, answer), device.shape.pool)
    device = DeviceEnd(device, boundary, RATES, book, BETA, ESTIMATORS[estimator])
    return device, CloudEnd(cloud, head, boundary, RATES, book, feedback)


def split_step(device, cloud, tokens, labels, keys=None, seed=5):
    logits = cloud.send_logits(device.send(tokens, "train", seed), "train", seed + 1)
    loss, gradient = device.loss_gradient(logits, partial(cloud.head.loss, labels=labels, lengths=tokens.lengths))
    device.update(cloud.update(gradient, keys))
    return loss


def gradients(parts):
    return {(i, name): p.grad for i, part in enumerate(parts) for name, p in part.named_parameters()}


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
@pytest.mark.parametrize(("head", "labels"), [(Classify, [0, 2]), (Span, [[1, 3], [0, 2]])])
@pytest.mark.parametrize("quantised", [True, False])
def test_a_split_step_is_the_composite_step(small, texts, quantised, head, labels, estimator):
    """With float32 messages, and with dropout, because both halves have dropout seeds."""
    shape, tokens, labels = small(width=8, pool=2, dropout=0.1), texts(7, 5), torch.tensor(labels)
    book = codebook(shape) if quantised else None
    parts, again = model(shape, head), model(shape, head)
    for one, other in zip(parts, again, strict=True):
        other.load_state_dict(one.state_dict())
    device, cloud = ends(parts, book, estimator=estimator)
    loss = split_step(device, cloud, tokens, labels)

    def reseed(*_):  # the cloud half has the other dropout seed
        torch.manual_seed(6)

    one, two, three = (part.train() for part in again)
    two.register_forward_pre_hook(reseed)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        h, positions, commitment = states(one, two, tokens, book, ESTIMATORS[estimator])
        loss_of_task = head.loss(three(h, positions, tokens.lengths), labels, tokens.lengths)
    (loss_of_task + BETA * commitment).backward()
    assert loss == pytest.approx(float(loss_of_task.detach()), abs=1e-6)
    composite = gradients(again)
    for name, gradient in gradients(parts).items():
        torch.testing.assert_close(gradient, composite[name], rtol=1e-5, atol=1e-6, msg=str(name))


def test_label_sharing_gives_the_same_step(small, texts):
    shape, tokens, labels = small(width=8), texts(7, 5), torch.tensor([1, 0])
    parts, again = model(shape), model(shape)
    for one, other in zip(parts, again, strict=True):
        other.load_state_dict(one.state_dict())
    (device, cloud), (sharing_device, sharing_cloud) = ends(parts, codebook(shape)), ends(again, codebook(shape))
    loss = split_step(device, cloud, tokens, labels)
    shared, gradient = sharing_cloud.update_from_labels(sharing_device.send(tokens, "train", 5), labels, 6)
    sharing_device.update(gradient)
    assert shared == pytest.approx(loss)
    for one, other in zip(parts, again, strict=True):
        for name, value in one.state().items():
            torch.testing.assert_close(value, other.state()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("down", list(CODINGS))
def test_bytes_of_a_step(small, texts, down):
    shape, K, m = small(width=8, pool=2), 6, 2
    device, cloud = ends(model(shape), codebook(shape, K, m), down=down, answer="float16")
    split_step(device, cloud, texts(7, 5), torch.tensor([1, 0]))
    traffic, positions = device.boundary.traffic, [1 + ceil(6 / 2), 1 + ceil(4 / 2)]
    assert traffic.total(tensor="codes") == sum(ceil(n * m * ceil(log2(K)) / 8) + 2 for n in positions)
    assert traffic.total(tensor="logits") == traffic.total(tensor="logit-gradient") == 4 + 2 * 3 * 2
    row = {"float32": 4 * 8, "float16": 2 * 8, "int8": 8 + 2}[down]
    assert traffic.total(tensor="gradient") == sum(positions) * row + (0 if down == "float32" else 4)
    assert traffic.total(phase="infer", kind="") == 0


def test_devices_collect_statistics_in_training_only(small, texts):
    shape, tokens = small(width=8), texts(7, 5)
    device, cloud = ends(model(shape), codebook(shape))
    device.send(tokens, "infer")
    assert float(device.statistics.counts.sum()) == 0
    z = device.half.eval()(tokens)
    split_step(device, cloud, tokens, torch.tensor([1, 0]))
    torch.testing.assert_close(device.statistics.sums.sum(1).flatten(), z.double().sum(0))
    assert device.statistics.counts.sum(1).tolist() == [12, 12]
    device.set_codebook(codebook(shape, version=9))
    assert float(device.statistics.counts.sum()) == 0


def test_codes_of_another_codebook_are_refused(small, texts):
    shape = small(width=8)
    device, cloud = ends(model(shape), codebook(shape, version=3))
    cloud.codebook = codebook(shape, version=4)
    with pytest.raises(StaleCodebook, match="version 3, this side has 4"):
        cloud.send_logits(device.send(texts(5), "infer"), "infer")


@pytest.mark.parametrize(("up", "within"), [("float32", 0.0), ("float16", 2e-3), ("int8", 3e-2)])
def test_all_codings_give_nearly_the_same_logits(small, texts, up, within):
    shape, tokens = small(width=8), texts(7, 5)
    parts = [part.eval() for part in model(shape)]
    device, cloud = ends(parts, up=up)
    logits = device.read_logits(cloud.send_logits(device.send(tokens, "infer"), "infer"))
    h, positions, _ = states(parts[0], parts[1], tokens)
    torch.testing.assert_close(logits, parts[2](h, positions, tokens.lengths), rtol=within, atol=max(within, 1e-6))


def test_feedback_stores_the_errors_of_int8(small, texts):
    shape, tokens, labels = small(width=8), texts(7, 5), torch.tensor([1, 0])
    feedback = ErrorFeedback(CODINGS["int8"])
    device, cloud = ends(model(shape), codebook(shape), down="int8", feedback=feedback)
    split_step(device, cloud, tokens, labels, keys=[11, 12])
    assert {key: tuple(value.shape) for key, value in feedback.residuals.items()} == {11: (7, 8), 12: (5, 8)}


def test_learning_rate_rises_then_falls():
    factors = [LearningRates(steps=20, warmup=0.1).factor(step) for step in range(21)]
    assert factors[:3] == [0.5, 1.0, 1.0] and factors[11] == pytest.approx(0.5) and factors[20] == 0
    assert LearningRates().factor(10**6) == 1
