"""Duration of generation: T_base + T_side + T_net (the paper's eqs. (4) to (6)).

The paper's eq. (6), T_net = M * T_tcp, has no bandwidth, but its Table 2 implies one: 50 M (t0 + bytes / B) with
float16 payloads, t0 = 3.83 ms and B = 1.03 Gb/s (a test repeats the fit). An unbounded bandwidth gives eq.
(6) again.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A network link.

    Args:
        call_s: seconds of one exchange without payload.
        down, up: bits per second.
    """

    call_s: float
    down: float = math.inf
    up: float = math.inf

    def seconds(self, calls: float, down: float, up: float) -> float:
        """Compute T_net of ``calls`` exchanges with payload bytes ``down`` and ``up``."""
        return calls * self.call_s + 8 * down / self.down + 8 * up / self.up


LINKS = {
    "lan": Link(3.83e-3, 1.03e9, 1.03e9),  # fitted to the paper
    "wifi": Link(20e-3, 50e6, 50e6),
    "4g": Link(50e-3, 10e6, 10e6),
}
