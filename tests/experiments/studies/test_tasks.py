"""The study of tasks that share a stack: equal parts of its trainings, metrics by hand, and refused settings."""

import math

import pandas as pd
import pytest
import torch

from experiments.catalog import EXPERIMENTS
from experiments.studies import STUDIES, boundary
from fl.config import Settings, SettingsError
from fl.workloads.resolve import Run, resolve
from models.vq.training.train import Split
from tests.experiments.test_plots import task_rows

STUDY = STUDIES["tasks"]


def run(**changes) -> Run:
    of = EXPERIMENTS["vq-e4"]
    keys = {**of.common, **of.settings["smoke"]["questions"], "vq.hidden": 16, **changes}
    return resolve(Settings.parse(keys), study=True)


def test_smoke_from_the_texts_to_the_metrics(monkeypatch):
    """A task alone is trained as in the study `boundary`. In shared training it makes as many steps."""
    scored: list[torch.Tensor] = []
    say, read, few = Split.predict, boundary.read, torch.arange(60)

    def short(worlds, seed):
        train, labels, test, answers, letters = read(worlds, seed)
        return train, labels, test[few], answers[few], letters

    monkeypatch.setattr(boundary, "read", short)
    monkeypatch.setattr(Split, "predict", lambda split, of: scored.append(say(split, of)) or scored[-1])
    own = run()
    STUDY.check(own, 1)
    rows = list(STUDY.measure(own, 1, lambda what, at, of: None))
    names = ["questions", "question-articles"]
    assert [(row.scheme, row.task) for row in rows] == [(s, n) for s in ("alone", "equal", "gradnorm") for n in names]
    assert [(row.texts, row.steps) for row in rows] == [(223, 14), (224, 14)] * 3
    assert [out.shape[1] for out in scored] == [8, 48] * 3
    assert not torch.equal(scored[0], scored[2]) and not torch.equal(scored[2], scored[4])
    worlds = own.workload.tasks.worlds[0]
    (train, labels, test, *_), alone = short(worlds, 1), boundary.model(own.workload, worlds, 1)
    assert alone.fit(train, labels, 1)[-1] == rows[0].loss
    assert torch.equal(say(alone, test), scored[0]) and rows[0].accuracy == rows[0].score
    assert [row.weight for row in rows[:4]] == [1.0] * 4 and rows[4].weight != 1.0
    assert rows[4].weight + rows[5].weight == pytest.approx(2)
    frame = pd.DataFrame([{"setting": "s", "seed": 1, **vars(row)} for row in rows])
    found = STUDY.metrics(frame)
    assert found["question-articles, equal", "change"] == pytest.approx(rows[3].score - rows[1].score)


def test_change_by_hand():
    found = STUDY.metrics(task_rows().query("seed == 2"))
    assert list(dict.fromkeys(name for name, _ in found)) == [
        "a, alone", "a, equal", "a, gradnorm", "b, alone", "b, equal", "b, gradnorm",
        "mean, alone", "mean, equal", "mean, gradnorm",
    ]  # fmt: skip
    assert found["a, equal", "change"] == pytest.approx(-0.1) and found["b, gradnorm", "change"] == pytest.approx(0.1)
    assert found["mean, equal", "change"] == pytest.approx(0.05) and found["mean, alone", "score"] == 0.52
    assert math.isnan(found["a, alone", "change"]) and found["a, gradnorm", "weight"] == 1.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vq.tasks": ""}, "vq.tasks = '': name two or more different text sets"),
        ({"vq.tasks": "questions,questions"}, "name two or more different text sets"),
        ({"vq.tasks": "questions,har-embedded"}, "needs text, har-embedded holds none"),
        ({"vq.tasks": "questions,cala"}, r"unknown data set 'cala'; .* \(did you mean 'cola'\?\)"),
        ({"vq.width": 8}, "set vq.width = 0, and leave vq.late and vq.pretrain out"),
    ],
)
def test_refused_before_it_trains(changes, says):
    with pytest.raises(SettingsError, match=says):
        STUDY.check(run(**changes), 1)
