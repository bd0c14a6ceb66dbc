"""Metrics of a plugin: per token under teacher forcing, and on generated texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.spa.activations import Batch, Examples
from models.spa.bases import Base
from models.spa.modes import mode
from models.spa.train import Plugin, Policy, outputs
from models.training.loop import hits_and_losses
from partitions.errors import DataError


@dataclass(frozen=True)
class TokenScores:
    """The N answer tokens of some examples under teacher forcing; all fields are (N,).

    Args:
        example: index of the token's example.
        base_loss, side_loss: nats, without and with the side.
        base_right, side_right: whether the most likely token is correct.
        same: whether base and side predict the same token.
        score: a, the gate's score.
    """

    example: np.ndarray
    base_loss: np.ndarray
    side_loss: np.ndarray
    base_right: np.ndarray
    side_right: np.ndarray
    same: np.ndarray
    score: np.ndarray


@torch.inference_mode()
def evaluate_tokens(
    base: Base, plugin: Plugin, mode_: str, examples: Examples, policy: Policy = "catch_up", size: int = 16
) -> TokenScores:
    """Evaluate base and side on every answer token.

    Under policy 'sparse', an attentive side sees the tokens for which the gate opens at its tau.
    """
    merged, parts = mode(mode_).merged, []
    for start in range(0, len(examples), size):
        batch = Batch.of(examples[start : start + size])
        b = batch.b[batch.scored]
        called = plugin.gate.opens(batch.b) if mode(mode_).gated else batch.scored
        h = merged(b, outputs(plugin.side, batch, policy, called))
        parts.append((start + batch.scored.nonzero()[:, 0], *_compare(base, b, h, batch.targets), plugin.gate.score(b)))
    return TokenScores(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


@torch.inference_mode()
def compare(base: Base, examples: Examples, other: Examples) -> TokenScores:
    """Compute `TokenScores` with another pass in place of the side, e.g. a tuned base or a longer prompt."""
    parts = []
    for example, (first, second) in enumerate(zip(examples, other, strict=True)):
        n = len(first.targets)
        parts.append((torch.full((n,), example), *_compare(base, first.b, second.b, first.targets), torch.zeros(n)))
    return TokenScores(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


def _compare(base: Base, b: Tensor, h: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Return losses, hits and equality of the predictions from b and h (N, d); all (N,)."""
    logits = [base.head(b), base.head(h)]
    hits, losses = zip(*(hits_and_losses(each, targets) for each in logits), strict=True)
    return *losses, *hits, logits[0].argmax(-1) == logits[1].argmax(-1)


def rates(scores: TokenScores, called: np.ndarray) -> dict[str, float]:
    """Compute the paper's table metrics if the tokens ``called`` (N,) bool call the side.

    ``M``: share of tokens that call the side. ``ce`` and ``token_accuracy`` are of the final output; ``exact`` is the
    share of examples without a wrong token. ``diff``: base and side predict different tokens. ``diff_pick``: they
    differ and the side is called, as a share of *all* tokens. ``recall`` = diff_pick / diff. ``waste``: share of calls
    among the tokens with the same prediction.
    """
    hits = np.where(called, scores.side_right, scores.base_right)
    wrong_examples = np.unique(scores.example[~hits])
    differ = ~scores.same
    return {
        "M": float(called.mean()),
        "ce": float(np.where(called, scores.side_loss, scores.base_loss).mean()),
        "token_accuracy": float(hits.mean()),
        "exact": 1 - len(wrong_examples) / len(np.unique(scores.example)),
        "diff": float(differ.mean()),
        "diff_pick": float((differ & called).mean()),
        "recall": float(called[differ].mean()) if differ.any() else float("nan"),
        "waste": float(called[scores.same].mean()) if scores.same.any() else float("nan"),
    }


def curve(scores: TokenScores, points: int = 21) -> list[dict[str, float]]:
    """Compute `rates` at thresholds from above all scores to below all, each with its ``tau``."""
    taus = np.append(np.quantile(scores.score, np.linspace(1, 0, points)), -np.inf)
    return [{"tau": float(tau), **rates(scores, scores.score > tau)} for tau in dict.fromkeys(taus.tolist())]


def oracle(scores: TokenScores, price: float) -> dict[str, float]:
    """Compute `rates` of a gate that knows both losses and calls if the gain exceeds the price."""
    return rates(scores, scores.base_loss - scores.side_loss > price)


def text_scores(generated: Sequence[str], references: Sequence[str]) -> Mapping[str, float]:
    """Compute mean ROUGE-1, 2 and L (F measure, stemmed) and the share of exact texts.

    Raises:
        DataError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise DataError("ROUGE needs one more package; run: python -m pip install rouge-score==0.1.2") from error
    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(list(names), use_stemmer=True)
    results = [scorer.score(reference, text) for reference, text in zip(references, generated, strict=True)]
    means = {name: float(np.mean([score[name].fmeasure for score in results])) for name in names}
    return means | {
        "exact_text": float(np.mean([a.strip() == b.strip() for a, b in zip(generated, references, strict=True)]))
    }
