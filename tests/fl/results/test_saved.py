"""Final models are kept with a card, and can be read again."""

from pathlib import Path

import pytest
import torch

from fl.config import Settings
from fl.results.saved import read_model
from fl.workloads.resolve import resolve
from models.spa.train import load_plugin
from models.submodel import State
from partitions.errors import DataError
from tests.fl.conftest import SMALL
from tests.fl.workloads.running import play
from tests.fl.workloads.test_spa import SMALL as SPA


def test_a_classifier_is_kept_with_its_card_and_scores_as_before(tmp_path: Path) -> None:
    values = {**SMALL, "strategies": "la,fedavg", "save": True, "rounds": 2, "rounds-per-step": 1, "eval.every": 1}
    lines = play(tmp_path / "out", values)
    files = sorted(path.name for path in (tmp_path / "out" / "final-models").iterdir())
    assert files == ["fedavg-default-seed1.md", "fedavg-default-seed1.safetensors"]  # la has none for all
    assert play(tmp_path / "plain", values | {"save": False}) == lines
    assert not (tmp_path / "plain" / "final-models").exists()
    saved = read_model(tmp_path / "out" / "final-models" / "fedavg-default-seed1.safetensors")
    run = resolve(Settings.parse(values))
    method = run.strategy("fedavg", 1)
    assert saved.state.keys() == method.model.keys()
    method.model = dict(saved.state)
    accuracy = run.workload.global_accuracy(method)
    assert accuracy == pytest.approx(saved.about["metrics"]["fedavg"]["global_accuracy"], abs=1e-6)
    card = (tmp_path / "out" / "final-models" / "fedavg-default-seed1.md").read_text()
    for part in (run.workload.digests[0], "client.lr = ", "Apache-2.0", f"| {accuracy:.6g} |", "after 2 rounds"):
        assert part.lower() in card.lower()
    with pytest.raises(DataError, match="is no saved model"):
        read_model(tmp_path / "out" / "rounds.csv")


def test_a_federated_plugin_is_one_that_a_device_can_use(tmp_path: Path) -> None:
    play(tmp_path, {**SPA, "strategies": "fedavg", "rounds": 1, "save": True, "spa.personal": "gate"})
    path = tmp_path / "final-models" / "fedavg-default-seed1.safetensors"
    plugin, about = load_plugin(path)
    run = resolve(Settings.parse({**SPA, "spa.personal": "gate"}))
    base = run.workload.base()  # type: ignore[attr-defined]
    assert about == {"checksum": base.checksum, "mode": "spa", "policy": "catch_up"}
    assert plugin.gate.opens(torch.randn(5, base.width)).all()  # each person's gate stayed there
    assert plugin.side.out.weight.abs().sum() > 0  # trained
    state: State = dict(read_model(path).state)
    assert state.keys() == plugin.state().keys()
