"""Networks on a second device: they give the same numbers, and no operation mixes tensors of two devices."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.config import Settings, SettingsError
from fl.engines import accelerator, batching
from fl.engines.batching import Fit, make
from fl.results.reader import read_config, read_rounds
from fl.server import run as server_run
from fl.workloads.resolve import resolve
from models.modular.selector import Selector
from models.nn.mlp import mlp
from models.training import batched
from models.training.batched import ClientBatch
from models.training.loop import Recipe
from tests.elsewhere import ELSEWHERE, elsewhere

METHODS = "an,heterofl,fjord,fedrolex,eclm,eclm-plus"


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let accelerator = 'cuda' mean a simulated device, in the threads of all calls too."""
    together = batching.together

    def inside(call: Callable[[], Any]) -> Any:
        with elsewhere():
            return call()

    def together_elsewhere(calls: Sequence[Callable[[], Any]], *spent: Any) -> list[Any]:
        return together([lambda call=call: inside(call) for call in calls], *spent)  # type: ignore[misc]

    monkeypatch.setattr(batching, "together", together_elsewhere)
    monkeypatch.setattr(accelerator, "_gpu", lambda: ELSEWHERE)
    monkeypatch.setattr(server_run, "gpu_name", lambda name: "simulated" if name == "cuda" else "")


def test_methods_compute_the_same_on_both_devices(
    play: Callable, tmp_path: Path, second_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together these methods use every pretrained model and every kind of sub-model."""
    monkeypatch.setattr(batched, "STACKS", {})  # stacks round differently, and exist for the CPU only
    how = {
        "strategies": METHODS, "devices.count": 3, "cohort": 2, "rounds": 2, "data.proxy-fraction": 0.02,
        "eclm.modules": 4, "eclm.shrink": 4, "an.shrink": 4, "eclm.top-k": 2, "eclm.residual": True,
        "eclm.candidates": 2.0,
    }  # fmt: skip
    here = play(tmp_path / "here", how)
    with elsewhere():
        there = play(tmp_path / "there", {"accelerator": "cuda", **how})
    assert there == here
    assert [version.get("gpu") for version in read_config(tmp_path / "there")["versions"]] == ["simulated"]


def test_a_run_in_bfloat16_learns_as_one_in_float32(play: Callable, tmp_path: Path) -> None:
    """In the cloud and on clients. The differences are small beside what is learned."""
    for precision in ("float32", "bfloat16"):
        play(tmp_path / precision, {"strategies": "fedavg,eclm,eclm-plus", "precision": precision})
    exact, rounded = (read_rounds(tmp_path / name).query("evaluated > 0") for name in ("float32", "bfloat16"))
    assert (exact.loss.to_numpy() != rounded.loss.to_numpy()).all()
    np.testing.assert_allclose(exact.accuracy_mean, rounded.accuracy_mean, atol=0.15)


def test_tensors_of_two_devices_do_not_mix() -> None:
    """A test of the simulated device. Without it the test above would prove nothing."""
    selector = Selector((3,), {"l": 4}, 4, torch.Generator().manual_seed(0))
    with elsewhere() as place:
        selector.to(place)
        with pytest.raises(RuntimeError, match="here and elsewhere"):
            selector(torch.zeros(2, 3))
        assert selector.logits(torch.zeros(2, 3))[0].device.type == "cpu"


def test_a_perceptron_on_another_device_is_not_stacked() -> None:
    """Stacks are written for a CPU. Training one by one gives the same result."""
    dense, how = mlp((4,), 3, width=8), Recipe(lr=0.1, batch_size=8)
    x, y = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3

    def trained(place: torch.device) -> tuple[dict, float]:
        shares = torch.tensor([1.0, 2.0, 0.5])
        batch = ClientBatch(dense.whole(1).state(), x, y, np.random.default_rng(0), class_shares=shares)
        return make([Fit(dense.part({}).to(place), 1.0, batch, how, 3, "prior")])[0]

    state, loss = trained(accelerator.CPU)
    with elsewhere() as place:
        there, loss_there = trained(place)
    assert loss_there == pytest.approx(loss, rel=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(there[name], value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_repeats_itself_and_agrees_with_the_cpu(play: Callable, tmp_path: Path) -> None:
    how = {"strategies": METHODS, "accelerator": "cuda"}
    first, again = (play(tmp_path / name, how) for name in ("first", "again"))
    assert first == again
    play(tmp_path / "cpu", {"strategies": METHODS})
    there, here = (read_rounds(tmp_path / name).query("evaluated > 0") for name in ("first", "cpu"))
    np.testing.assert_allclose(there.accuracy_mean, here.accuracy_mean, atol=0.1)
    np.testing.assert_allclose(there.loss, here.loss, atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_machine_without_gpu_says_so(play: Callable, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="finds no NVIDIA GPU here; use accelerator = 'cpu'"):
        play(tmp_path / "out", {"accelerator": "cuda"})
    assert not (tmp_path / "out").exists()


def test_real_devices_compute_on_their_cpu(second_device: None) -> None:
    """The run-config's accelerator is that of the cloud."""
    run = resolve(Settings.parse({"accelerator": "cuda", "devices.placement": "own"}))
    assert accelerator.cloud_place("cuda") == ELSEWHERE
    assert accelerator.client_place("cuda", "own") == accelerator.CPU
    assert run.workload.place == accelerator.CPU  # type: ignore[attr-defined]


@pytest.mark.parametrize("workload", ["vq", "spa"])
@pytest.mark.parametrize("setting", [{"accelerator": "cuda"}, {"precision": "bfloat16"}])
def test_other_workloads_refuse(workload: str, setting: dict) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(setting))} is not read by workload '{workload}'"):
        resolve(Settings.parse({"workload": workload, "strategies": "fedavg"} | setting))
