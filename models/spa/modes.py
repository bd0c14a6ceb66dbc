"""Combination of base and side at the head (the paper's S1, S2, S3 and SPA; its eqs. (1) and (2))."""

from dataclasses import dataclass

from torch import Tensor

from partitions.errors import lookup


@dataclass(frozen=True)
class Mode:
    """One way to combine b, the base's last state, and o, the side's output.

    Args:
        name: name in the run-config.
        gated: a gate decides per token whether to call the side; otherwise every token calls it.
        plugged: o is added to b; otherwise it replaces b.
    """

    name: str
    gated: bool
    plugged: bool

    def merged(self, b: Tensor, o: Tensor) -> Tensor:
        """Return the head's input for a token that calls the side; for other tokens it is b."""
        return b + o if self.plugged else o


MODES = {
    mode.name: mode
    for mode in (
        Mode("s1", gated=False, plugged=True),  # head(b + o): full integration
        Mode("s2", gated=True, plugged=False),  # head(o) if g else head(b): choose
        Mode("s3", gated=False, plugged=False),  # head(o): only the side; with the attentive side this is LST
        Mode("spa", gated=True, plugged=True),  # head(b + g o): plug in
    )
}


def mode(name: str) -> Mode:
    """Return the mode of that name. UnknownName: there is none."""
    return lookup("mode", name, MODES)
