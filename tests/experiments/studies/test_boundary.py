"""The study of accuracy against bytes: bytes computed from the texts alone, and settings refused before training."""

from math import ceil

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.catalog import EXPERIMENTS
from experiments.studies import STUDIES, boundary
from fl.config import Settings, SettingsError
from fl.workloads.resolve import Run, resolve
from models.vq.network.tokens import Tokens

STUDY = STUDIES["boundary"]
LENGTHS = [3, 9, 6, 12]


def run(name: str, **changes) -> Run:
    small = {"pretrain.dense-epochs": 1, "vq.hidden": 16, **changes}
    return smoke("vq-e1", name, **small)


def smoke(experiment: str, setting: str, **changes) -> Run:
    of = EXPERIMENTS[experiment]
    return resolve(Settings.parse({**of.common, **of.settings["smoke"][setting], **changes}), study=True)


def texts(lengths) -> tuple[Tokens, torch.Tensor]:
    there = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Tokens(7 * there, 0 * there, torch.tensor(lengths)), torch.arange(len(lengths)) % 2


@pytest.fixture
def rows(monkeypatch):
    """Rows of a setting by boundary, on 40 training texts and 4 test texts of 123 letters."""
    monkeypatch.setattr(boundary, "read", lambda worlds, seed: (*texts([5] * 40), *texts(LENGTHS), 123))
    return lambda of: {row.boundary: row for row in STUDY.measure(of, 1, lambda what, at, n: None)}


def test_bytes_of_every_boundary_without_codes(rows):
    """T tokens of a text: 16 numbers each, or 10 bits each for a vocabulary of 1000, and two bytes for T."""
    found, T = rows(run("p=1 activations")), np.array(LENGTHS)
    assert list(found) == ["float32", "tokens", "text", "float16", "int8", "late", "late-taught", "late-plain"]
    assert found["float32"].up == (4 * 16 * T + 2).mean()
    assert found["float16"].up == (2 * 16 * T + 2).mean() + 4 / 4  # a scale for the message
    assert found["int8"].up == ((16 + 2) * T + 2).mean() + 4 / 4
    assert found["tokens"].up == (np.ceil(10 * T / 8) + 2).mean()
    assert found["text"].up == 123 / 4
    assert found["text"].probed == found["tokens"].probed == 1.0
    assert found["float32"].probed == 1.0  # all these texts are the same token over and over
    assert found["text"].accuracy == found["tokens"].accuracy == found["float32"].accuracy
    assert (
        found["text"].train_down == 0 and found["float32"].train_down == 5 * 16 * 4 + 8 * 2 + 2 * 4 / 40
    )  # eight topics


def test_bytes_of_codes(rows):
    """m = 4 codes of 4 bits for [CLS] and every four tokens."""
    (codes,) = rows(run("p=4 residual K=16 m=4")).values()
    assert codes.up == np.mean([2 * (1 + ceil((t - 1) / 4)) + 2 for t in LENGTHS])
    assert 1 <= codes.perplexity <= 16 and 0 <= codes.entropy <= codes.up - 2
    assert (codes.codes, codes.groups, codes.pool) == (16, 4, 4)


def test_late_codes_and_their_gap_to_float32(monkeypatch):
    """Weighted and plain codes in one trained model, each compared with the model's answers in float32."""
    monkeypatch.setattr(boundary, "read", lambda worlds, seed: (*texts([5] * 40), *texts(LENGTHS), 123))
    late = list(STUDY.measure(run("p=4 activations", **{"vq.late": "16x4,2x1"}), 1, lambda what, at, n: None))[-6:]
    assert [(row.boundary, row.codes, row.groups) for row in late] == [
        ("late", 16, 4), ("late-taught", 16, 4), ("late-plain", 16, 4),
        ("late", 2, 1), ("late-taught", 2, 1), ("late-plain", 2, 1),
    ]  # fmt: skip
    positions = [1 + ceil((t - 1) / 4) for t in LENGTHS]
    assert (
        [row.up for row in late[::3]]
        == [row.up for row in late[1::3]]
        == [np.mean([2 * n + 2 for n in positions]), np.mean([1 + 2] * 4)]
    )
    frame = pd.DataFrame([{**vars(late[0]), "score": right} for right in (0.875, 0.75)])
    frame.loc[0, "boundary"] = "float32"
    assert STUDY.metrics(frame)["late 16x4", "gap"] == 0.125


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vq.late": "16x5"}, "vq.late = '16x5' needs vq.codes = 0 and groups that divide 16"),
        ({"vq.late": "16x4"}, "vq.late = '16x4' needs vq.codes = 0 and groups that divide 16"),
        ({"vq.late": "many"}, "vq.late = 'many': write codes as KxM, e.g. '256x8,1024x12'"),
        ({"data.name": "har-embedded"}, "needs text, har-embedded holds none"),
        ({"vq.groups": 5}, "vq.groups = 5 do not divide a code space of 16 numbers"),
        ({"vq.pool": 3}, "pool = 3; choose 1, 2 or 4"),
    ],
)
def test_refused_before_it_trains(changes, says):
    with pytest.raises(SettingsError, match=says):
        STUDY.check(run("p=1 product K=16 m=4", **changes), 1)


@pytest.fixture(scope="module")
def spans():
    """Rows of the generated task by boundary."""
    found = smoke("vq-table7", "find-the-span", **{"vq.late-epochs": 1})
    return {row.boundary: row for row in STUDY.measure(found, 1, lambda what, at, n: None)}


def test_spans_are_learnt(spans):
    """One of some 70 spans of a passage is right; late codes answer every token, too."""
    assert spans["float32"].accuracy > 0.5 and spans["late-taught"].accuracy > 0.3
    assert all(row.accuracy <= row.score <= 1 for row in spans.values())
    assert spans["float32"].down > 4 * 15 and spans["late"].up < spans["float32"].up / 32  # two logits of every token


def test_a_truncated_answer_is_not_trained_on_and_cannot_be_found():
    worlds = smoke("vq-table7", "find-the-span", **{"vq.tokens": 12}).worlds
    train, labels, test, answers, _ = boundary.read(worlds, 1)
    gone, n = answers[:, 0] < 0, len(answers)
    assert len(train) == len(labels) < 1350 and (labels >= 0).all() and 0 < gone.sum() < n
    sure = torch.zeros(int(test.lengths.sum()), 2)  # the right token wherever there is one, anything where not
    starts = test.lengths.cumsum(0) - test.lengths
    for column in (0, 1):
        sure[(starts + answers[:, column])[~gone], column] = 9.0
    exact, score = boundary.scorer_of(worlds, 1, test, answers)(sure)
    assert exact == pytest.approx(float((~gone).float().mean())) and exact <= score < 1
