"""The trace of a chat: a CSV file with one line per token, and a figure of the last answer."""

import csv
import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from experiments.plots.style import save
from experiments.plots.text.trace import trace
from experiments.serving.messages import Piece


@dataclass(frozen=True)
class TraceRow:
    """A token of a sentence, as in `experiments.serving.messages.Piece`; score: NaN without a gate."""

    sentence: int
    text: str
    asked: bool
    degraded: bool
    score: float
    down: int
    up: int
    base_ms: float
    call_ms: float
    side_ms: float
    base_guesses: str
    guesses: str


def trace_row(sentence: int, piece: Piece) -> TraceRow:
    """Return the line of a token."""
    values = piece.model_dump()
    guesses = {name: " | ".join(values[name]) for name in ("base_guesses", "guesses")}
    score = math.nan if piece.score is None else piece.score
    return TraceRow(sentence, **{**values, **guesses, "score": score})


def write_trace(path: Path, rows: list[TraceRow]) -> None:
    """Write the trace as a CSV file, and draw the last sentence."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(TraceRow)])
        writer.writerows(astuple(row) for row in rows)
    save(trace([row for row in rows if row.sentence == rows[-1].sentence]), path.parent, path.stem)
