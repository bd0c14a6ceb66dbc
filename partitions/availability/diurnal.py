"""Devices are online for a part of each day, such as a phone that charges at night."""

import numpy as np
from pydantic import Field

from partitions.availability.availability import Availability
from partitions.rng import Purpose, rng


class Diurnal(Availability):
    """Keep each device online in the same rounds of every day, one after the other.

    A device's time online begins with the day, or later by up to the share ``spread`` of a day.
    """

    period: int = Field(24, ge=2, description="rounds of a day")
    share: float = Field(0.5, gt=0, le=1, description="share of the day that a client is online")
    spread: float = Field(
        0.5, ge=0, le=1, description="part of the day over which clients come online; 0: all at once; 1: evenly"
    )

    def check(self, devices: int) -> None:
        if round(self.share * self.period) < 1:
            raise ValueError(
                f"diurnal.share = {self.share:g} of diurnal.period = {self.period} rounds is less than one round: make "
                "one of them larger"
            )

    def online(self, seed: int, server_round: int, devices: np.ndarray) -> np.ndarray:
        if not len(devices):
            return np.zeros(0, bool)
        drawn = rng(seed, Purpose.AVAILABILITY).random(int(devices.max()) + 1)[devices]
        begins = np.floor(drawn * self.spread * self.period)
        return np.asarray((server_round - 1 - begins) % self.period < round(self.share * self.period))
