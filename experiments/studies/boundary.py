"""Accuracy of a split transformer against the bytes that cross its cut, compared with activations and with the text.

One setting is one training on the cloud's texts, without rounds or clients. Its rows are the ways to use the trained
model. Codes cross the cut, or activations (``vq.codes = 0``) of 32, 16 or 8 bits per number. Activations that are
neither pooled nor projected equal those of a plain encoder in the cloud, to which a device sends the text, as UTF-8 or
as packed token ids. With ``vq.late`` codes are also added to the model that was trained with activations, first without
further training; then the cloud's half learns to answer them as it answered activations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, cast

import pandas as pd
import torch
from torch import Tensor

from experiments.studies.spans import scores
from experiments.studies.study import Measured, Study, Tick
from fl.config import SettingsError
from fl.workloads.options import VQOptions
from fl.workloads.resolve import Run
from fl.workloads.world import Worlds
from partitions.tokens import MASK, SPECIAL

if TYPE_CHECKING:  # transformers takes seconds to load; only a measurement needs it
    from fl.workloads.vq import VQ
    from models.vq.network.tokens import Tokens
    from models.vq.training.train import Quantiser, Split, StemCache

Scorer = Callable[[Tensor], tuple[float, float]]
"""``accuracy`` and ``score`` of the logits of all test texts."""
CORRELATED = ("cola",)  # data sets of two classes that are scored by Matthews' correlation, which is Pearson's of both


@dataclass(frozen=True)
class Row:
    """One way to use a trained model.

    Args:
        boundary: what crosses: 'codes' that training used, 'float32', 'float16', 'int8', 'tokens', 'text', or codes
            that were fitted after training: 'late' minimises the error weighted by the gradients of answers,
            'late-plain' the squared error, and 'late-taught' is 'late' with the cloud's half distilled afterwards.
        pool: tokens per position; codes: K; groups: m; 0 without codes.
        accuracy: on the test texts, 0 to 1, grades rounded, spans matched exactly; loss: of the last epoch.
        score: accuracy, unless the task is scored otherwise: Pearson's correlation of grades, Matthews' of cola, mean
            F1 of the words of spans.
        up, down: payload bytes of a test text, in inference.
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


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Train on the cloud's texts, then answer all test texts through the boundary."""
    from models.vq.quantiser.boundary import LENGTH
    from models.vq.quantiser.codec import CODINGS, Codes
    from models.vq.training.train import Split, StemCache

    workload = vq(run)
    options, (train, labels, test, answers, letters) = workload.options, read(run.worlds, seed)
    split, scorer = model(workload, run.worlds, seed), scorer_of(run.worlds, seed, test, answers)
    if options.pretrain != "none":
        tick("pretraining", 0, 1)
        _pretrain(workload, split, train, seed)
    losses = split.fit(train, labels, seed, lambda step, steps: tick("step", step, steps))
    stems, n, passed = StemCache(split.device, test), len(test), len(train) * run.settings.pretrain.dense_epochs
    device, *cloud = (
        sum(p.numel() for p in part.parameters() if p.requires_grad) for part in (split.device, split.cloud, split.head)
    )
    row = Row(
        "", options.pool, options.codes, options.groups if options.codes else 0, 0.0, 0.0, losses[-1], 0.0, 0.0,
        split.traffic.total(direction="up") / passed, split.traffic.total(direction="down") / passed, 1.0, 0.0, 0.0,
        device, sum(cloud),
    )  # fmt: skip
    for boundary in ("codes",) if options.codes else CODINGS:
        plan = split.plan if options.codes else replace(split.plan, up=boundary)
        copy = Split(split.device, split.cloud, split.head, plan, split.codebook_ema)  # with traffic of its own
        found = _used(row, boundary, copy, stems, scorer)
        yield found
        if boundary == "float32" and not options.width and options.pool == 1:
            packed = Codes(split.device.shape.vocabulary).size(test.lengths.tolist(), 1) / n + LENGTH.size
            whole = replace(found, train_up=0.0, train_down=0.0, probed=1.0)
            yield replace(whole, boundary="tokens", up=packed)
            yield replace(whole, boundary="text", up=letters / n)
    before = split.predict(train) if options.late and options.late_epochs else torch.empty(0)
    for late in split.quantised(train, _late(options), seed) if options.late else ():
        quantiser = late.plan.quantiser
        assert quantiser is not None
        tick("late codes", 0, 1)
        own = replace(row, codes=quantiser.size, groups=quantiser.groups)
        yield _used(own, "late" if quantiser.weigh else "late-plain", late, stems, scorer)
        if quantiser.weigh and options.late_epochs:
            tick("late codes, distillation", 0, 1)
            taught = late.distil_cloud(train, before, options.late_epochs, seed)
            yield _used(own, "late-taught", taught, stems, scorer)


def vq(run: Run) -> VQ:
    """Return the workload of a study of split models."""
    return cast("VQ", run.workload)


def scorer_of(worlds: Worlds, seed: int, test: Tokens, answers: Tensor) -> Scorer:
    """Return the function that scores the data set's task."""
    from models.vq.network.heads import Span

    texts = worlds.dataset

    def spans(logits: Tensor) -> tuple[float, float]:
        """Compare letters. A truncated answer is compared with the whole one."""
        offsets, seconds = worlds(seed).data.offsets_test, texts.x_test[:, 1].tolist()
        assert texts.span_test is not None and offsets is not None
        found = zip(offsets, Span.best(logits, test).tolist(), seconds, strict=True)
        given = [second[at[first, 0] : at[last, 1]] for at, (first, last), second in found]
        return scores(given, [second[a:b] for second, (a, b) in zip(seconds, texts.span_test.tolist(), strict=True)])

    def labels(logits: Tensor) -> tuple[float, float]:
        given = logits[:, 0] if answers.is_floating_point() else logits.argmax(1)
        right = float((given.round() == answers.round()).float().mean())
        if not answers.is_floating_point() and texts.name not in CORRELATED:
            return right, right
        return right, float(torch.corrcoef(torch.stack([given, answers]).double())[0, 1].nan_to_num())

    return labels if texts.span_test is None else spans


def _used(row: Row, boundary: str, split: Split, test: StemCache, scorer: Scorer) -> Row:
    """Return the row of a trained model whose boundary has carried nothing yet."""
    from models.vq.training.probe import token_recovery

    logits, n = split.predict(test.tokens, stems=test), len(test.tokens)
    right, score = scorer(logits)
    up, down = (split.traffic.total(direction=way) / n for way in ("up", "down"))
    assert split.received is not None
    return replace(
        row, boundary=boundary, accuracy=right, score=score, up=up, down=down,
        probed=token_recovery(split.received, test.tokens, row.pool), perplexity=split.perplexity(),
        entropy=split.entropy() / 8 / n,
    )  # fmt: skip


def _late(options: VQOptions) -> list[Quantiser]:
    """Return the weighted and the plain quantisers of ``vq.late``. ValueError: it is not written 'KxM,...'."""
    from models.vq.training.train import Quantiser

    words = [word.strip() for word in options.late.split(",") if word]
    if not all(re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", word) for word in words):
        raise ValueError(f"vq.late = '{options.late}': write codes as KxM, e.g. '256x8,1024x12'")
    sizes = [[int(number) for number in word.split("x")] for word in words]
    return [Quantiser(K, m, weigh=weigh) for K, m in sizes for weigh in (True, False)]


def read(worlds: Worlds, seed: int) -> tuple[Tokens, Tensor, Tokens, Tensor, int]:
    """Return the cloud's texts, their labels, the test texts, their labels, and the test texts' bytes in UTF-8.

    Training leaves out texts whose answer was truncated.
    """
    from models.vq.network.body import tokens_from_ids

    texts, world = worlds.dataset, worlds(seed)
    proxy, spans = world.proxy(), world.data.span_train
    if spans is not None:
        proxy = proxy[spans[proxy, 0] >= 0]
    train = tokens_from_ids(torch.from_numpy(world.data.inputs("train", proxy)))
    test = tokens_from_ids(torch.from_numpy(world.data.inputs("test")))
    y_train = next(y for y in (spans, texts.target_train, texts.y_train) if y is not None)
    y_test = next(y for y in (world.data.span_test, texts.target_test, texts.y_test) if y is not None)
    letters = sum(len(sentence.encode()) for sentence in texts.x_test.ravel().tolist())
    return train, torch.tensor(y_train[proxy]), test, torch.tensor(y_test[:]), letters


def model(workload: VQ, worlds: Worlds, seed: int) -> Split:
    """Return the untrained model.

    Args:
        worlds: the data of the run, or of one of its tasks.

    Raises:
        SettingsError: the data set holds no text, or the model cannot be built as asked.
    """
    from fl.workloads.vq_pretraining import learning_rates
    from models.vq.network.heads import head_for
    from models.vq.network.presets import PRESETS
    from models.vq.training.train import Quantiser, Split, SplitTrainingPlan

    texts, options, pretrain = worlds.dataset, workload.options, workload.settings.pretrain
    if not texts.text:
        raise SettingsError(f"this study needs text, {texts.name} holds none: choose e.g. data.name = 'questions'")
    try:
        shape = workload.shape
        if options.codes and not options.residual and shape.wire % options.groups:
            raise ValueError(
                f"vq.groups = {options.groups} do not divide a code space of {shape.wire} numbers; choose a divisor"
            )
        for late in _late(options):
            if options.codes or shape.wire % late.groups:
                raise ValueError(f"vq.late = '{options.late}' needs vq.codes = 0 and groups that divide {shape.wire}")
        device, cloud = PRESETS[options.preset](shape, seed)
    except (ValueError, ModuleNotFoundError) as error:
        raise SettingsError(str(error)) from error
    quantiser = Quantiser(
        options.codes, options.groups, options.residual, options.beta, options.estimator, decay=options.decay,
        learn="mean" if options.learn == "revived" else options.learn, revive=options.learn == "revived",
    )  # fmt: skip
    plan = SplitTrainingPlan(
        pretrain.dense_epochs, pretrain.batch_size, *learning_rates(options), down=options.down,
        quantiser=quantiser if options.codes else None,
    )  # fmt: skip
    task, outputs = ("classify", texts.num_classes) if texts.target_train is None else ("regress", 1)
    if texts.span_train is not None:
        task, outputs = "span", 2
    return Split(device, cloud, head_for(task, shape, outputs, seed), plan)


def _pretrain(workload: VQ, split: Split, texts: Tokens, seed: int) -> None:
    from models.vq.network.presets import minilm_tokenizer
    from models.vq.training.pretrain import pretrain

    options, batch_size = workload.options, workload.settings.pretrain.batch_size
    vocabulary = minilm_tokenizer().get_vocab() if options.preset == "minilm" else None
    marks = [vocabulary[mark] for mark in SPECIAL] if vocabulary else range(len(SPECIAL))
    pretrain(
        split.device, split.cloud, options.pretrain, texts, marks, marks[MASK], options.pretrain_epochs, batch_size,
        split.plan.lr, seed,
    )  # fmt: skip


def check(run: Run, seed: int) -> None:
    """Raise SettingsError or DataError for an impossible setting before anything is trained."""
    model(vq(run), run.worlds, seed)
    read(run.worlds, seed)


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute accuracy, bytes and use of the codebook for each boundary; ``gap``: how much better float32 scores.

    The names of late codes contain K and m. Their gap is to float32 in the same trained model.
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
