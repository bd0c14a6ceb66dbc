"""Classes or domains that the server has never seen appear on devices, one after another."""

import numpy as np
from pydantic import Field

from partitions.drifts.drift import Drift, Frame, Shift


class Unseen(Drift):
    """Begin without the cells that the server has no samples of; at each shift the next of them appears.

    A cell is a class (``data.unseen-classes``) or, with partition 'subject', a domain (``data.proxy-domains``). With
    groups and a stagger in the schedule, it appears on some devices first.
    """

    share: float = Field(0.3, gt=0, le=1, description="share of a client's data that a new class or domain gets")

    def check_frame(self, frame: Frame) -> None:
        if not frame.unseen:
            raise ValueError(
                "drift.kind 'unseen' needs classes or domains that the cloud does not hold: set data.unseen-classes, "
                "or data.proxy-domains with data.partition 'subject'"
            )

    def start(self, frequencies: np.ndarray, frame: Frame) -> np.ndarray:
        seen = frequencies.copy()
        seen[list(frame.unseen)] = 0
        if not seen.any():
            raise ValueError("drift.kind 'unseen' needs classes or domains that the cloud holds: leave it some")
        return seen / seen.sum()

    def walk(self, p: np.ndarray, shift: Shift) -> np.ndarray:
        if shift.number > len(shift.unseen):
            return p
        after = (1 - self.share) * p
        after[shift.unseen[shift.number - 1]] += self.share
        return after
