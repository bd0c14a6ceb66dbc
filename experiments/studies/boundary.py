"""Accuracy of a split transformer against the bytes on its wire, beside activations at the cut and the text itself.

One setting is one training on the cloud's texts, without rounds or devices; its rows are the ways to use what was
trained. Codes cross, or activations (``vq-codes = 0``) of 32, 16 or 8 bits a number. Unpooled and unprojected, the
latter are the plain encoder that a cloud would run on the text, which a device sends as UTF-8 or as packed token ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from experiments.studies.study import Measured, Study, Tick
from fl.config import Settings, SettingsError
from fl.world import dataset, world
from models.vq.body import of_ids
from models.vq.boundary import LENGTH
from models.vq.codec import CODINGS, Codes
from models.vq.halves import Shape, build
from models.vq.heads import head_for
from models.vq.presets import from_minilm, minilm, minilm_tokenizer
from models.vq.tokens import Tokens, encode
from models.vq.train import Plan, Quantiser, Split, accuracy

DEEP = {"tiny": 1.0, "minilm": 0.1}  # learning rate of the layers, as a share of that of projections and head


@dataclass(frozen=True)
class Row:
    """One way to use a trained model.

    Args:
        boundary: what crosses: 'codes', 'float32', 'float16', 'int8', 'tokens' or 'text'.
        pool: tokens per position; codes: K; groups: m; 0 without codes.
        accuracy: on the test texts, 0 to 1; loss: of the last epoch, nats.
        up, down: payload bytes of a test text, in use.
        train_up, train_down: of a training text and epoch; 0 where training crosses no cut.
        perplexity: vectors of a codebook that the test texts use, 1 to K; entropy: bytes of a test text if codes took
            their entropy instead of whole bits; both 0 without codes.
        device, cloud: trained parameters on each side.
    """

    boundary: str
    pool: int
    codes: int
    groups: int
    accuracy: float
    loss: float
    up: float
    down: float
    train_up: float
    train_down: float
    perplexity: float
    entropy: float
    device: int
    cloud: int


def measure(settings: Settings, seed: int, tick: Tick) -> Iterator[Row]:
    """Train on the cloud's texts, then answer all test texts through the boundary.

    Raises:
        SettingsError: the data set holds no text, or the model cannot be built as asked.
    """
    texts = dataset(settings)
    if not texts.text:
        raise SettingsError(f"this study needs text, {texts.name} holds none: choose e.g. dataset = 'questions'")
    here = world(settings, seed)
    proxy = here.proxy()
    labels, answers = (torch.from_numpy(y) for y in (texts.labels("train", proxy), texts.labels("test")))
    if settings.vq_preset == "minilm":
        train, test = (_pieces(x, settings.tokens) for x in (texts.x_train[proxy], texts.x_test))
    else:
        train, test = (of_ids(torch.from_numpy(x)) for x in (here.data.x_train[proxy], here.data.x_test[:]))
    split = model(settings, texts.num_classes, seed)
    losses = split.fit(train, labels, seed, lambda step, steps: tick(f"{settings.setting}: step", step, steps))
    n, passed = len(test), len(train) * settings.dense_epochs
    device, *cloud = (
        sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (split.device, split.cloud, split.head)
    )
    row = Row(
        "", settings.vq_pool, settings.vq_codes, settings.vq_groups if settings.vq_codes else 0, 0.0, losses[-1], 0.0,
        0.0, split.ledger.total(direction="up") / passed, split.ledger.total(direction="down") / passed, 0.0, 0.0,
        device, sum(cloud),
    )  # fmt: skip
    for boundary in ("codes",) if settings.vq_codes else CODINGS:
        plan = split.plan if settings.vq_codes else replace(split.plan, up=boundary)
        used = Split(split.device, split.cloud, split.head, plan, split.keeper)
        right = accuracy(used.predict(test), answers)
        up, down = (used.ledger.total(direction=way) / n for way in ("up", "down"))
        yield replace(
            row, boundary=boundary, accuracy=right, up=up, down=down, perplexity=used.perplexity(),
            entropy=used.entropy() / 8 / n,
        )  # fmt: skip
        if boundary == "float32" and split.device.shape.wire == split.device.shape.hidden and settings.vq_pool == 1:
            packed = Codes(split.device.shape.vocabulary).size(test.lengths.tolist(), 1) / n + LENGTH.size
            letters = sum(len(sentence.encode()) for text in texts.x_test.tolist() for sentence in text) / n
            whole = replace(row, accuracy=right, down=down, train_up=0.0, train_down=0.0)
            yield replace(whole, boundary="tokens", up=packed)
            yield replace(whole, boundary="text", up=letters)


def model(settings: Settings, classes: int, seed: int) -> Split:
    """The untrained model.

    Raises:
        SettingsError: it cannot be built as asked.
    """
    pretrained = settings.vq_preset == "minilm"
    width, pool, hidden = settings.vq_width, settings.vq_pool, settings.vq_hidden
    try:
        if pretrained:
            shape = minilm(width=width, pool=pool)
        else:
            shape = Shape(settings.vocabulary, hidden, inner=4 * hidden, width=width, pool=pool)
        quantiser = Quantiser(
            settings.vq_codes, settings.vq_groups, settings.vq_residual, settings.vq_beta, settings.vq_estimator,
            decay=settings.vq_decay,
        )  # fmt: skip
        if settings.vq_codes and not settings.vq_residual and shape.wire % settings.vq_groups:
            raise ValueError(f"vq-groups = {settings.vq_groups} do not divide a code space of {shape.wire} numbers")
        device, cloud = (from_minilm if pretrained else build)(shape, seed)
    except (ValueError, ModuleNotFoundError) as error:
        raise SettingsError(str(error)) from error
    plan = Plan(
        settings.dense_epochs, settings.offline_batch, settings.vq_lr * DEEP[settings.vq_preset], settings.vq_lr,
        down=settings.vq_down, quantiser=quantiser if settings.vq_codes else None,
    )  # fmt: skip
    return Split(device, cloud, head_for("classify", shape, classes, seed), plan)


def _pieces(texts: np.ndarray, limit: int) -> Tokens:
    """Strings (N, sentences) as MiniLM's tokens."""
    rows = texts.tolist()
    return encode(
        minilm_tokenizer(), [row[0] for row in rows], [row[1] for row in rows] if rows[0][1:] else None, limit
    )


def metrics(rows: pd.DataFrame) -> Measured:
    """Accuracy, bytes and use of the codebook, by what crosses."""
    names = ("accuracy", "up", "down", "train_up", "train_down", "perplexity", "entropy")
    return {(row.boundary, name): float(getattr(row, name)) for row in rows.itertuples() for name in names}


BOUNDARY = Study(Row, measure, metrics)
