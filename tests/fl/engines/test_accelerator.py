"""Networks that compute elsewhere: the same numbers, and no operation meets tensors of two places."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.config.settings import Settings, SettingsError
from fl.engines import accelerator
from fl.engines import batching as fits
from fl.engines.batching import Fit, make
from fl.results.files import read_config, read_rounds
from models.modular.selector import Selector
from models.nn.mlp import mlp
from models.training import batched
from models.training.batched import ClientBatch
from models.training.loop import Recipe
from tests.elsewhere import ELSEWHERE, elsewhere

METHODS = "an,heterofl,fjord,fedrolex,eclm,eclm-plus"


@pytest.fixture
def second_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerator = 'cuda' is a pretended one, in all threads."""
    turn = fits._Turn.run

    def run(self: fits._Turn) -> None:
        with elsewhere():
            turn(self)

    monkeypatch.setattr(fits._Turn, "run", run)
    monkeypatch.setattr(accelerator, "_gpu", lambda: ELSEWHERE)
    monkeypatch.setattr(accelerator, "name", lambda settings: "pretended")


def test_methods_compute_elsewhere_what_they_compute_here(
    play: Callable, tmp_path: Path, second_place: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between them they use every model of the offline stage and every kind of part."""
    monkeypatch.setattr(batched, "STACKS", {})  # which round otherwise, and are a CPU's alone
    how = {"strategies": METHODS, "devices": 3, "cohort": 2, "rounds": 2, "proxy-fraction": 0.02}
    how |= {"modules": 4, "shrink": 4, "top-k": 2, "residual": True, "candidates": 2.0}
    here = play(tmp_path / "here", **how)
    with elsewhere():
        there = play(tmp_path / "there", accelerator="cuda", **how)
    assert there == here
    assert [one.get("gpu") for one in read_config(tmp_path / "there")["versions"]] == ["pretended"]


def test_a_run_in_bfloat16_learns_as_one_in_float32(play: Callable, tmp_path: Path) -> None:
    """Cloud and devices; what differs is small beside what is learned."""
    for precision in ("float32", "bfloat16"):
        play(tmp_path / precision, strategies="fedavg,eclm,eclm-plus", precision=precision)
    exact, rounded = (read_rounds(tmp_path / name).query("evaluated > 0") for name in ("float32", "bfloat16"))
    assert (exact.loss.to_numpy() != rounded.loss.to_numpy()).all()
    np.testing.assert_allclose(exact.accuracy_mean, rounded.accuracy_mean, atol=0.15)


def test_tensors_of_two_places_do_not_mix() -> None:
    """Of the pretence itself: without it the test above would say nothing."""
    selector = Selector((3,), {"l": 4}, 4, torch.Generator().manual_seed(0))
    with elsewhere() as place:
        selector.to(place)
        with pytest.raises(RuntimeError, match="here and elsewhere"):
            selector(torch.zeros(2, 3))
        assert selector.logits(torch.zeros(2, 3))[0].device.type == "cpu"


def test_a_perceptron_elsewhere_is_not_stacked() -> None:
    """Stacks are written for a CPU; one by one comes to the same."""
    dense, how = mlp((4,), 3, width=8), Recipe(lr=0.1, batch_size=8)
    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3

    def trained(place: torch.device) -> tuple[dict, float]:
        lesson = ClientBatch(
            dense.whole(1).state(), x, y, np.random.default_rng(0), shares=torch.tensor([1.0, 2.0, 0.5])
        )
        return make([Fit(dense.part({}).to(place), 1.0, lesson, how, 3, "prior")])[0]

    state, loss = trained(accelerator.CPU)
    with elsewhere() as place:
        there, loss_there = trained(place)
    assert loss_there == pytest.approx(loss, rel=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(there[name], value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_repeats_itself_and_agrees_with_the_cpu(play: Callable, tmp_path: Path) -> None:
    first, again = (play(tmp_path / name, strategies=METHODS, accelerator="cuda") for name in ("first", "again"))
    assert first == again
    play(tmp_path / "cpu", strategies=METHODS)
    there, here = (read_rounds(tmp_path / name).query("evaluated > 0") for name in ("first", "cpu"))
    np.testing.assert_allclose(there.accuracy_mean, here.accuracy_mean, atol=0.1)
    np.testing.assert_allclose(there.loss, here.loss, atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_machine_without_gpu_says_so(play: Callable, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="finds no NVIDIA GPU here; use accelerator = 'cpu'"):
        play(tmp_path / "out", accelerator="cuda")
    assert not (tmp_path / "out").exists()


def test_machines_of_their_own_compute_on_their_cpu(second_place: None) -> None:
    own = Settings.parse({"accelerator": "cuda", "placement": "own"})
    assert accelerator.of_devices(own) == accelerator.CPU and accelerator.of_cloud(own) == ELSEWHERE


@pytest.mark.parametrize("setting", [{"accelerator": "cuda"}, {"precision": "bfloat16"}])
def test_other_workloads_refuse(setting: dict) -> None:
    with pytest.raises(SettingsError, match="workload = 'spa' computes on the CPU in float32"):
        Settings.parse({"workload": "spa"} | setting)
