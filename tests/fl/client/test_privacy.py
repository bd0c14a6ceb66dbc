"""Noise is as large as it is said to be, and the guarantee is Renyi accounting's."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.client.privacy import epsilon, private_importance, private_update
from fl.config.settings import Settings, SettingsError
from fl.results.reader import read_rounds
from fl.workloads.workload import Order
from tests.fl.conftest import SMALL

ORDER = Order(3, 1, 2, 0)
SENT = {"w": torch.zeros(20_000), "b": torch.zeros(1), "n": torch.tensor(3)}
TRAINED = {"w": torch.zeros(20_000), "b": torch.full((1,), 8.0), "n": torch.tensor(5)}


def settings(**changes: object) -> Settings:
    return Settings.parse({**SMALL, **changes})


def test_a_change_is_shortened_to_the_clip() -> None:
    got = private_update(settings(**{"update-clip": 2.0}), ORDER, SENT, TRAINED)
    assert got["b"] == 2.0 and got["n"] == 5 and (got["w"] == 0).all()
    got = private_update(settings(**{"update-clip": 9.0}), ORDER, SENT, TRAINED)
    assert got["b"] == 8.0 and got["b"].dtype == torch.float32


def test_noise_on_an_update_is_twice_the_clip_times_the_multiplier() -> None:
    """0.5 * 2 * 3 = 3 on every entry; another round, another noise; the same round, the same."""
    noisy = settings(**{"update-clip": 3.0, "update-noise": 0.5})
    got = private_update(noisy, ORDER, SENT, TRAINED)["w"]
    assert abs(got.std() - 3) < 0.1 and abs(got.mean()) < 0.1
    assert torch.equal(got, private_update(noisy, ORDER, SENT, TRAINED)["w"])
    assert not torch.equal(got, private_update(noisy, Order(3, 1, 3, 0), SENT, TRAINED)["w"])


def test_a_device_of_its_own_draws_noise_that_nobody_can_repeat() -> None:
    noisy = settings(**{"update-clip": 3.0, "update-noise": 0.5, "placement": "own"})
    first, second = (private_update(noisy, ORDER, SENT, TRAINED)["w"] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_noisy_importance_is_a_distribution() -> None:
    exact = {"importance.a": [0.7, 0.1, 0.2], "importance.b": [0.5, 0.5]}
    for multiplier in (0.01, 1.0, 100.0):
        told = private_importance(settings(**{"importance-noise": multiplier}), ORDER, exact)
        for layer, values in told.items():
            assert len(values) == len(exact[layer]) and min(values) >= 0 and sum(values) == pytest.approx(1)
    close = private_importance(settings(**{"importance-noise": 1e-6}), ORDER, exact)
    np.testing.assert_allclose(close["importance.a"], exact["importance.a"], atol=1e-4)


def test_a_private_run(play, tmp_path: Path) -> None:
    """Nothing is refused; a clip that nobody reaches and no noise change nothing but rounding."""
    how = {"strategies": "eclm", "rounds": 2}
    play(tmp_path / "noisy", **how, **{"update-clip": 1.0, "update-noise": 0.01, "importance-noise": 0.1})
    noisy = read_rounds(tmp_path / "noisy")
    assert (noisy.refused == 0).all() and (noisy.failures == 0).all() and (noisy.devices == 3).all()
    play(tmp_path / "clipped", **how, **{"update-clip": 1e6})
    play(tmp_path / "plain", **how)
    clipped, plain = (read_rounds(tmp_path / name).accuracy_mean.dropna() for name in ("clipped", "plain"))
    np.testing.assert_allclose(clipped, plain, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"update-noise": 1.0}, "set update-clip"),
        ({"update-noise": 1.0, "update-clip": 1.0, "upload-change": 0.1}, "use one of them"),
    ],
)
def test_noise_that_hides_nothing_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings(**changes)


def test_what_a_device_spends() -> None:
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
