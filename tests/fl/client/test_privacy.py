"""Noise is as large as the settings say, and the guarantee is that of Renyi accounting."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.client.privacy import epsilon, private_update
from fl.config import Settings, SettingsError
from fl.config.sections import Client
from fl.devices.machine import Machine
from fl.results.reader import read_rounds
from fl.workloads.classify import Classify
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from strategies.core.client import ClientTask
from strategies.eclm import ECLM
from tests.fl.conftest import SMALL, resolved

CONTEXT = ClientContext(3, 1, 2, 0, ClientStateStore(Path()))
REAL = replace(CONTEXT, machine=Machine.parse({"partition-id": 3}))
SENT = {"w": torch.zeros(20_000), "b": torch.zeros(1), "n": torch.tensor(3)}
TRAINED = {"w": torch.zeros(20_000), "b": torch.full((1,), 8.0), "n": torch.tensor(5)}


def private(section: Client, context: ClientContext = CONTEXT) -> dict[str, torch.Tensor]:
    return private_update(section, context.noise(0), SENT, TRAINED)


def test_a_change_is_shortened_to_the_clip() -> None:
    got = private(Client(update_clip=2.0))
    assert got["b"] == 2.0 and got["n"] == 5 and (got["w"] == 0).all()
    got = private(Client(update_clip=9.0))
    assert got["b"] == 8.0 and got["b"].dtype == torch.float32


def test_noise_on_an_update_is_twice_the_clip_times_the_multiplier() -> None:
    """0.5 * 2 * 3 = 3 on every entry; another round, another noise; the same round, the same."""
    noisy = Client(update_clip=3.0, update_noise=0.5)
    got = private(noisy)["w"]
    assert abs(got.std() - 3) < 0.1 and abs(got.mean()) < 0.1
    assert torch.equal(got, private(noisy)["w"])
    for other in (replace(CONTEXT, round=3), replace(CONTEXT, client=4), replace(CONTEXT, seed=2)):
        assert not torch.equal(got, private(noisy, other)["w"])


def test_a_real_device_draws_noise_that_the_server_cannot_repeat() -> None:
    noisy = Client(update_clip=3.0, update_noise=0.5)
    first, second = (private(noisy, REAL)["w"] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("context", [CONTEXT, REAL], ids=["simulated", "real"])
def test_noisy_importance_is_a_distribution(tmp_path: Path, monkeypatch, context: ClientContext) -> None:
    """Two layers, of three modules and two, with the noise that the option says on what the client reports."""
    exact = {"a": [0.7, 0.1, 0.2], "b": [0.5, 0.5]}
    monkeypatch.setattr("strategies.eclm.importance", lambda logits: [torch.tensor(v) for v in exact.values()])
    monkeypatch.setattr("fl.workloads.classify.LocalClient.module_layers", tuple(exact))
    run = resolved({"strategies": "eclm"})
    assert isinstance(run.workload, Classify)
    store = ClientStateStore.of(tmp_path, "1", "eclm", 1, 3, 4)
    store.save("selector", run.workload.prepare(1).modular().selector.state_dict())

    def reported(multiplier: float) -> dict[str, list[float]]:
        options = run.options["eclm"].model_copy(update={"importance_noise": multiplier})
        return run.workload.profile(replace(context, store=store), partial(ECLM.Client, options, ClientTask()))

    for multiplier in (0.01, 1.0, 100.0):
        report = reported(multiplier)
        assert report.keys() == {"importance.a", "importance.b"}
        for layer, values in exact.items():
            noisy = report[f"importance.{layer}"]
            assert len(noisy) == len(values) and min(noisy) >= 0 and sum(noisy) == pytest.approx(1)
        assert report["importance.a"] != exact["a"]
    np.testing.assert_allclose(reported(1e-6)["importance.a"], exact["a"], atol=1e-4)
    assert (reported(1.0) == reported(1.0)) == (context is CONTEXT)


def test_noise_on_importance_is_as_large_as_a_replacement_of_all_data_times_the_multiplier(
    tmp_path: Path, monkeypatch
) -> None:
    """Two layers: 0.1 * sqrt(2 * 2) = 0.2 on each of 4,000 modules of a layer, before the sum becomes 1 again.

    Values of 1 are far enough from 0 that nothing is cut off.
    """
    monkeypatch.setattr("strategies.eclm.importance", lambda logits: [torch.ones(4000), torch.ones(4000)])
    monkeypatch.setattr("fl.workloads.classify.LocalClient.module_layers", ("a", "b"))
    run = resolved({"strategies": "eclm", "eclm.importance-noise": 0.1})
    assert isinstance(run.workload, Classify)
    store = ClientStateStore.of(tmp_path, "1", "eclm", 1, 3, 4)
    store.save("selector", run.workload.prepare(1).modular().selector.state_dict())
    half = partial(ECLM.Client, run.options["eclm"], ClientTask())
    report = run.workload.profile(replace(CONTEXT, store=store), half)
    for layer in ("a", "b"):
        values = np.array(report[f"importance.{layer}"])
        assert (values / values.mean()).std() == pytest.approx(0.2, rel=0.05)


def test_a_private_run(play, tmp_path: Path) -> None:
    """Nothing is refused; a clip that no update reaches and no noise change nothing but rounding."""
    how = {"strategies": "eclm", "rounds": 2}
    noise = {"client.update-clip": 1.0, "client.update-noise": 0.01, "eclm.importance-noise": 0.1}
    play(tmp_path / "noisy", {**how, **noise})
    noisy = read_rounds(tmp_path / "noisy")
    assert (noisy.refused == 0).all() and (noisy.failures == 0).all() and (noisy.devices == 3).all()
    play(tmp_path / "clipped", {**how, "client.update-clip": 1e6})
    play(tmp_path / "plain", how)
    clipped, plain = (read_rounds(tmp_path / name).accuracy_mean.dropna() for name in ("clipped", "plain"))
    np.testing.assert_allclose(clipped, plain, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"client.update-noise": 1.0}, r"set client\.update-clip"),
        (
            {"client.update-noise": 1.0, "client.update-clip": 1.0, "client.upload-change": 0.1},
            "use one of them",
        ),
    ],
)
def test_noise_that_hides_nothing_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings.parse({**SMALL, **changes})


def test_what_a_client_spends() -> None:
    """Renyi divergence of a Gaussian: alpha / (2 sigma^2) a release, and they add up (Mironov 2017, arXiv:1702.07476);
    converted as in Balle et al. 2020 (arXiv:1905.09982, theorem 21), over many orders.
    """
    pytest.importorskip("opacus")
    delta, releases = 1e-5, [(2.0, 10), (5.0, 4)]
    orders = np.concatenate([np.arange(1.1, 11, 0.1), np.arange(11, 64)])
    renyi = sum(count * orders / (2 * sigma**2) for sigma, count in releases)
    expected = (renyi + np.log((orders - 1) / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)).min()
    assert epsilon(releases, delta) == pytest.approx(expected, rel=1e-3)
    assert epsilon([(0.0, 1), (5.0, 4)], delta) == math.inf and epsilon([(0.0, 0), (5.0, 4)], delta) < math.inf
    assert epsilon([], delta) == 0
