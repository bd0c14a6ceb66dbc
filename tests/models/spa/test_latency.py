"""A fit of the paper's Table 2."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from models.spa.latency import LINKS, Link

STATE = 4096 * 2  # LLaMA-7B, float16
TABLE2 = {  # exchanges per token, payload bytes of each, seconds of network for 50 tokens
    "LoRA": (32, 2 * STATE, 6.37),
    "adapter": (64, 2 * STATE, 12.56),
    "LST": (1, 34 * STATE, 0.31),
    "SPA": (0.62, 34 * STATE, 0.18),
}


def fit_link(calls: Sequence[float], bytes_: Sequence[float], seconds: Sequence[float]) -> Link:
    """Fit a link to measured seconds by relative error: least squares in t0 and 1 / B."""
    measured = np.asarray(seconds, float)
    terms = np.stack([np.asarray(calls, float), 8 * np.asarray(bytes_, float)], axis=1)
    t0, per_bit = np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)), rcond=None)[0]
    return Link(float(t0), float(1 / per_bit), float(1 / per_bit))


def test_the_papers_network_times_fit_a_lan() -> None:
    calls = [50 * m for m, _, _ in TABLE2.values()]
    payload = [50 * m * each for m, each, _ in TABLE2.values()]
    link = fit_link(calls, payload, [seconds for *_, seconds in TABLE2.values()])
    assert link.call_s == pytest.approx(3.83e-3, abs=5e-6)
    assert link.down == pytest.approx(1.03e9, rel=2e-3)
    predicted = [link.seconds(c, b, 0) for c, b in zip(calls, payload, strict=True)]
    assert predicted == pytest.approx([6.32, 12.65, 0.30, 0.186], abs=5e-3)


def test_equation_6_alone_misses_by_a_quarter() -> None:
    rates = [seconds / (50 * m) for m, _, seconds in TABLE2.values()]
    t_tcp = len(rates) / sum(1 / r for r in rates)
    assert max(abs(1 - t_tcp / r) for r in rates) > 0.2
    assert Link(t_tcp).seconds(50, 1e9, 1e9) == pytest.approx(50 * t_tcp)  # bandwidth = inf is eq. (6)


def test_seconds_by_hand() -> None:
    assert LINKS["4g"].seconds(31, 31 * 8064, 31 * 1152) == pytest.approx(31 * 0.05 + 31 * 9216 * 8 / 10e6)
    assert Link(0.01, math.inf, 1e6).seconds(2, 1e9, 1e3) == pytest.approx(0.02 + 8e-3)
