"""What is measured of a plugin: under teacher forcing token by token and on the texts that it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.spa.activations import Batch, Known
from models.spa.bases import Base
from models.spa.modes import mode
from models.spa.train import Plugin, Policy, outputs
from models.training.loop import hits_and_losses
from partitions.errors import DataError


@dataclass(frozen=True)
class Judged:
    """The N answer tokens of some examples under teacher forcing; all (N,).

    Args:
        example: which example a token is of.
        base_loss, side_loss: nats, without and with the side; base_right, side_right: whether its best guess is right.
        same: whether base and side guess the same.
        score: a, what the gate thinks.
    """

    example: np.ndarray
    base_loss: np.ndarray
    side_loss: np.ndarray
    base_right: np.ndarray
    side_right: np.ndarray
    same: np.ndarray
    score: np.ndarray


@torch.inference_mode()
def judge(
    base: Base, plugin: Plugin, mode_: str, known: Sequence[Known], policy: Policy = "catch_up", size: int = 16
) -> Judged:
    """Base and side on every answer token; an attentive side under 'sparse' sees what the gate lets by at its tau."""
    merged, parts = mode(mode_).merged, []
    for at in range(0, len(known), size):
        batch = Batch.of(known[at : at + size])
        b = batch.b[batch.scored]
        called = plugin.gate.opens(batch.b) if mode(mode_).gated else batch.scored
        h = merged(b, outputs(plugin.side, batch, policy, called))
        parts.append((at + batch.scored.nonzero()[:, 0], *_both(base, b, h, batch.targets), plugin.gate.score(b)))
    return Judged(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


@torch.inference_mode()
def compare(base: Base, known: Sequence[Known], other: Sequence[Known]) -> Judged:
    """`Judged` of the same answers after another pass, of a tuned base or a longer prompt, in the place of the side."""
    parts = []
    for at, (plain, changed) in enumerate(zip(known, other, strict=True)):
        n = len(plain.targets)
        parts.append((torch.full((n,), at), *_both(base, plain.b, changed.b, plain.targets), torch.zeros(n)))
    return Judged(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


def _both(base: Base, b: Tensor, h: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Losses, whether right, and whether they guess the same, of the head on b and on h (N, d); all (N,)."""
    logits = [base.head(b), base.head(h)]
    right, nats = zip(*(hits_and_losses(each, targets) for each in logits), strict=True)
    return *nats, *right, logits[0].argmax(-1) == logits[1].argmax(-1)


def rates(judged: Judged, asked: np.ndarray) -> dict[str, float]:
    """The numbers of the paper's tables for tokens ``asked`` (N,) bool about.

    ``M``: share of tokens whose side is asked; ``ce`` and ``token_accuracy`` of what comes out, ``exact`` the share of
    examples without a wrong token. ``diff``: base and side guess differently; ``diff_pick``: they do and the side is
    asked, over *all* tokens; ``recall`` = diff_pick / diff; ``waste``: asked though the same, over the same ones.
    """
    right = np.where(asked, judged.side_right, judged.base_right)
    wrong = np.unique(judged.example[~right])
    differ = ~judged.same
    return {
        "M": float(asked.mean()),
        "ce": float(np.where(asked, judged.side_loss, judged.base_loss).mean()),
        "token_accuracy": float(right.mean()),
        "exact": 1 - len(wrong) / len(np.unique(judged.example)),
        "diff": float(differ.mean()),
        "diff_pick": float((differ & asked).mean()),
        "recall": float(asked[differ].mean()) if differ.any() else float("nan"),
        "waste": float(asked[judged.same].mean()) if judged.same.any() else float("nan"),
    }


def curve(judged: Judged, points: int = 21) -> list[dict[str, float]]:
    """Quality against M: the threshold falls from above all scores to below all; ``tau`` and `rates` of each point."""
    taus = np.append(np.quantile(judged.score, np.linspace(1, 0, points)), -np.inf)
    return [{"tau": float(tau), **rates(judged, judged.score > tau)} for tau in dict.fromkeys(taus.tolist())]


def oracle(judged: Judged, price: float) -> dict[str, float]:
    """`rates` of a gate that knows both losses and asks where it gains more than the price."""
    return rates(judged, judged.base_loss - judged.side_loss > price)


def text_scores(written: Sequence[str], wanted: Sequence[str]) -> Mapping[str, float]:
    """Mean ROUGE-1, 2 and L (F measure, stemmed) and the share of texts that are exactly as wanted.

    Raises:
        DataError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise DataError("ROUGE needs one more package; run: python -m pip install rouge-score==0.1.2") from error
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(names), use_stemmer=True)
    scored = [scorer.score(want, write) for want, write in zip(wanted, written, strict=True)]
    found = {name: float(np.mean([score[name].fmeasure for score in scored])) for name in names}
    return found | {
        "exact_text": float(np.mean([a.strip() == b.strip() for a, b in zip(written, wanted, strict=True)]))
    }
