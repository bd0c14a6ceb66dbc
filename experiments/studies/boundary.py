"""Accuracy of a split transformer against the bytes on its wire, beside activations at the cut and the text itself.

One setting is one training on the cloud's texts, without rounds or devices; its rows are the ways to use what was
trained. Codes cross, or activations (``vq-codes = 0``) of 32, 16 or 8 bits a number. Unpooled and unprojected, the
latter are the plain encoder that a cloud would run on the text, which a device sends as UTF-8 or as packed token ids.
With ``vq-late`` codes are also put into the model that was trained with activations, without training it further, and
then the cloud's half learns to answer them as it answered activations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from experiments.studies.spans import scores
from experiments.studies.study import Measured, Study, Tick
from fl.config.settings import Settings, SettingsError
from fl.workloads.world import TOKENIZERS, dataset, world
from partitions.tokens import MASK, SPECIAL

if TYPE_CHECKING:  # transformers takes seconds to load: only who measures does
    from models.vq.network.tokens import Tokens
    from models.vq.training.train import Quantiser, Split, Stems

Judge = Callable[[Tensor], tuple[float, float]]
"""``accuracy`` and ``score`` of the logits of all test texts."""
CORRELATED = ("cola",)  # data sets of two classes that are scored by Matthews' correlation, which is Pearson's of both


@dataclass(frozen=True)
class Row:
    """One way to use a trained model.

    Args:
        boundary: what crosses: 'codes' that training knew, 'float32', 'float16', 'int8', 'tokens', 'text', or codes
            that came after training: 'late' weighed by the gradients of answers, 'late-plain' by squared error, and
            'late-taught' as 'late', and the cloud's half distilled from what it was.
        pool: tokens per position; codes: K; groups: m; 0 without codes.
        accuracy: on the test texts, 0 to 1, grades rounded, spans matched exactly; loss: of the last epoch.
        score: accuracy, unless the task is scored otherwise: Pearson's correlation of grades, Matthews' of cola, mean
            F1 of the words of spans.
        up, down: payload bytes of a test text, in use.
        train_up, train_down: of a training text and epoch; 0 where training crosses no cut. Late codes: activations'.
        probed: share of the tokens of test texts that a linear probe reads from what crosses; 1 where the text does.
        perplexity: vectors of a codebook that the test texts use, 1 to K; entropy: bytes of a test text if codes took
            their entropy instead of whole bits; both 0 without codes.
        device, cloud: trained parameters on each side.
    """

    boundary: str
    pool: int
    codes: int
    groups: int
    accuracy: float
    score: float
    loss: float
    up: float
    down: float
    train_up: float
    train_down: float
    probed: float
    perplexity: float
    entropy: float
    device: int
    cloud: int


def measure(settings: Settings, seed: int, tick: Tick) -> Iterator[Row]:
    """Train on the cloud's texts, then answer all test texts through the boundary."""
    from models.vq.quantiser.boundary import LENGTH
    from models.vq.quantiser.codec import CODINGS, Codes
    from models.vq.training.train import Split, Stems

    train, labels, test, answers, letters = read(settings, seed)
    split, judge = model(settings, seed), judge_of(settings, seed, test, answers)
    if settings.vq_pretrain != "none":
        tick("pretraining", 0, 1)
        _pretrain(settings, split, train, seed)
    losses = split.fit(train, labels, seed, lambda step, steps: tick("step", step, steps))
    stems = Stems(split.device, test)
    n, passed = len(test), len(train) * settings.dense_epochs
    device, *cloud = (
        sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (split.device, split.cloud, split.head)
    )
    row = Row(
        "", settings.vq_pool, settings.vq_codes, settings.vq_groups if settings.vq_codes else 0, 0.0, 0.0,
        losses[-1], 0.0, 0.0, split.ledger.total(direction="up") / passed,
        split.ledger.total(direction="down") / passed, 1.0, 0.0, 0.0, device, sum(cloud),
    )  # fmt: skip
    for boundary in ("codes",) if settings.vq_codes else CODINGS:
        plan = split.plan if settings.vq_codes else replace(split.plan, up=boundary)
        used = Split(split.device, split.cloud, split.head, plan, split.keeper)
        found = _used(row, boundary, used, stems, judge)
        yield found
        if boundary == "float32" and not settings.vq_width and settings.vq_pool == 1:
            packed = Codes(split.device.shape.vocabulary).size(test.lengths.tolist(), 1) / n + LENGTH.size
            whole = replace(found, train_up=0.0, train_down=0.0, probed=1.0)
            yield replace(whole, boundary="tokens", up=packed)
            yield replace(whole, boundary="text", up=letters / n)
    said = split.predict(train) if settings.vq_late and settings.vq_late_epochs else torch.empty(0)
    for late in split.quantised(train, _late(settings), seed) if settings.vq_late else ():
        of = late.plan.quantiser
        assert of is not None
        tick("late codes", 0, 1)
        own = replace(row, codes=of.size, groups=of.groups)
        yield _used(own, "late" if of.weigh else "late-plain", late, stems, judge)
        if of.weigh and settings.vq_late_epochs:
            tick("late codes, taught", 0, 1)
            taught = late.taught(train, said, settings.vq_late_epochs, seed)
            yield _used(own, "late-taught", taught, stems, judge)


def judge_of(settings: Settings, seed: int, test: Tokens, answers: Tensor) -> Judge:
    """What scores the data set's task."""
    from models.vq.network.heads import Span

    texts = dataset(settings)

    def spans(logits: Tensor) -> tuple[float, float]:
        """By their letters, a cut-off answer against the whole one."""
        places, seconds = world(settings, seed).data.places_test, texts.x_test[:, 1].tolist()
        assert texts.span_test is not None and places is not None
        found = zip(places, Span.best(logits, test).tolist(), seconds, strict=True)
        said = [second[at[first, 0] : at[last, 1]] for at, (first, last), second in found]
        return scores(said, [second[a:b] for second, (a, b) in zip(seconds, texts.span_test.tolist(), strict=True)])

    def labels(logits: Tensor) -> tuple[float, float]:
        said = logits[:, 0] if answers.is_floating_point() else logits.argmax(1)
        right = float((said.round() == answers.round()).float().mean())
        if not answers.is_floating_point() and texts.name not in CORRELATED:
            return right, right
        return right, float(torch.corrcoef(torch.stack([said, answers]).double())[0, 1].nan_to_num())

    return labels if texts.span_test is None else spans


def _used(row: Row, boundary: str, split: Split, test: Stems, judge: Judge) -> Row:
    """The row of a trained model whose boundary has carried nothing yet."""
    from models.vq.training.probe import recovered

    logits, n = split.predict(test.tokens, stems=test), len(test.tokens)
    right, score = judge(logits)
    up, down = (split.ledger.total(direction=way) / n for way in ("up", "down"))
    assert split.arrived is not None
    return replace(
        row, boundary=boundary, accuracy=right, score=score, up=up, down=down,
        probed=recovered(split.arrived, test.tokens, row.pool), perplexity=split.perplexity(),
        entropy=split.entropy() / 8 / n,
    )  # fmt: skip


def _late(settings: Settings) -> list[Quantiser]:
    """Weighed and plain quantisers of ``vq-late``. ValueError: it is not written 'KxM,...'."""
    from models.vq.training.train import Quantiser

    words = [word.strip() for word in settings.vq_late.split(",") if word]
    if not all(re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", word) for word in words):
        raise ValueError(f"vq-late = '{settings.vq_late}': write codes as KxM, e.g. '256x8,1024x12'")
    sizes = [[int(number) for number in word.split("x")] for word in words]
    return [Quantiser(K, m, weigh=weigh) for K, m in sizes for weigh in (True, False)]


def read(settings: Settings, seed: int) -> tuple[Tokens, Tensor, Tokens, Tensor, int]:
    """The cloud's texts and their labels, the test texts and theirs, and the bytes that the latter are in UTF-8.

    A text whose answer was cut off is not trained on.
    """
    from models.vq.network.body import of_ids

    texts, here = dataset(settings), world(settings, seed)
    proxy, spans = here.proxy(), here.data.span_train
    if spans is not None:
        proxy = proxy[spans[proxy, 0] >= 0]
    train, test = (of_ids(torch.from_numpy(here.data.inputs(*of))) for of in (("train", proxy), ("test", slice(None))))
    y_train, y_test = (
        next(y for y in of if y is not None)
        for of in (
            (spans, texts.target_train, texts.y_train),
            (here.data.span_test, texts.target_test, texts.y_test),
        )
    )
    labels, answers = torch.tensor(y_train[proxy]), torch.tensor(y_test[:])
    return train, labels, test, answers, sum(len(sentence.encode()) for sentence in texts.x_test.ravel().tolist())


def model(settings: Settings, seed: int) -> Split:
    """The untrained model.

    Raises:
        SettingsError: the data set holds no text, or the model cannot be built as asked.
    """
    from fl.workloads.vq import learning_rates, shape_of
    from models.vq.network.heads import head_for
    from models.vq.network.presets import PRESETS
    from models.vq.training.train import Plan, Quantiser, Split

    texts, groups = dataset(settings), settings.vq_groups
    if not texts.text:
        raise SettingsError(f"this study needs text, {texts.name} holds none: choose e.g. dataset = 'questions'")
    try:
        shape = shape_of(settings)
        if settings.vq_codes and not settings.vq_residual and shape.wire % groups:
            raise ValueError(
                f"vq-groups = {groups} do not divide a code space of {shape.wire} numbers; choose a divisor"
            )
        for late in _late(settings):
            if settings.vq_codes or shape.wire % late.groups:
                needs = f"vq-codes = 0 and groups that divide {shape.wire}"
                raise ValueError(f"vq-late = '{settings.vq_late}' needs {needs}")
        device, cloud = PRESETS[settings.vq_preset](shape, seed)
    except (ValueError, ModuleNotFoundError) as error:
        raise SettingsError(str(error)) from error
    quantiser = Quantiser(
        settings.vq_codes, groups, settings.vq_residual, settings.vq_beta, settings.vq_estimator,
        decay=settings.vq_decay, learn="mean" if settings.vq_learn == "revived" else settings.vq_learn,
        revive=settings.vq_learn == "revived",
    )  # fmt: skip
    plan = Plan(
        settings.dense_epochs, settings.offline_batch, *learning_rates(settings),
        down=settings.vq_down, quantiser=quantiser if settings.vq_codes else None,
    )  # fmt: skip
    task, outputs = ("classify", texts.num_classes) if texts.target_train is None else ("regress", 1)
    if texts.span_train is not None:
        task, outputs = "span", 2
    return Split(device, cloud, head_for(task, shape, outputs, seed), plan)


def _pretrain(settings: Settings, split: Split, texts: Tokens, seed: int) -> None:
    from models.vq.training.pretrain import pretrain

    own = TOKENIZERS[settings.vq_preset]()
    marks = [own.get_vocab()[mark] for mark in SPECIAL] if own else range(len(SPECIAL))
    pretrain(
        split.device, split.cloud, settings.vq_pretrain, texts, marks, marks[MASK], settings.vq_pretrain_epochs,
        settings.offline_batch, split.plan.lr, seed,
    )  # fmt: skip


def check(settings: Settings, seed: int) -> None:
    """Find what is wrong before anything is trained. SettingsError, DataError."""
    model(settings, seed)
    read(settings, seed)


def metrics(rows: pd.DataFrame) -> Measured:
    """Accuracy, bytes and use of the codebook, by what crosses; ``gap``: by how much float32 scores better.

    Late codes are told apart by K and m, and their gap is within one trained model.
    """
    names = [field.name for field in fields(Row) if field.name not in ("boundary", "pool", "codes", "groups", "loss")]
    float32 = rows[rows.boundary == "float32"].score
    found: dict[tuple[str, str], float] = {}
    for row in rows.itertuples():
        what = f"{row.boundary} {row.codes}x{row.groups}" if row.boundary.startswith("late") else row.boundary
        found |= {(what, name): float(getattr(row, name)) for name in names}
        if len(float32) and row.boundary != "float32":
            found[what, "gap"] = float(float32.iloc[0] - row.score)
    return found


BOUNDARY = Study(Row, measure, metrics, check)
