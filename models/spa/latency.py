"""What generation takes in time: T_base + T_side + T_net (the paper's eqs. (4) to (6)).

The paper's eq. (6), T_net = M * T_tcp, has no bandwidth. Its Table 2 does: it is 50 M (t0 + bytes / B) with float16
payloads, t0 = 3.83 ms and B = 1.03 Gb/s (`fit_link`; a test repeats it). An unbounded bandwidth gives eq. (6) again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """A network.

    Args:
        call_s: of one exchange without payload; down, up: bits per second.
    """

    call_s: float
    down: float = math.inf
    up: float = math.inf

    def seconds(self, calls: float, down: float, up: float) -> float:
        """T_net of so many exchanges and payload bytes each way."""
        return calls * self.call_s + 8 * down / self.down + 8 * up / self.up


LINES = {
    "lan": Line(3.83e-3, 1.03e9, 1.03e9),  # the paper's
    "wifi": Line(20e-3, 50e6, 50e6),
    "4g": Line(50e-3, 10e6, 10e6),
}


def fit_link(calls: Sequence[float], bytes_: Sequence[float], seconds: Sequence[float]) -> Line:
    """The line that explains measured seconds best, by relative error: least squares in t0 and 1 / B."""
    measured = np.asarray(seconds, float)
    terms = np.stack([np.asarray(calls, float), 8 * np.asarray(bytes_, float)], axis=1)
    t0, per_bit = np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)), rcond=None)[0]
    return Line(float(t0), float(1 / per_bit), float(1 / per_bit))
