"""The base class of availability models."""

from abc import ABC, abstractmethod

import numpy as np

from partitions.components import Section


class Availability(Section, ABC):
    """Say which devices are online in a round; the fields of a subclass are its options."""

    @property
    def digests(self) -> list[str]:
        """Return hashes of the files that it reads, for config.toml."""
        return []

    def check(self, devices: int) -> None:
        """Raise ValueError or DataError if it is impossible with so many devices."""

    @abstractmethod
    def online(self, seed: int, server_round: int, devices: np.ndarray) -> np.ndarray:
        """Return whether devices are online, a pure function of (seed, device, round).

        Args:
            seed: seed of all random choices.
            server_round: the round, from 1 on.
            devices: their numbers (n,).

        Returns:
            bool (n,).
        """
