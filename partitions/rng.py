"""Randomness is addressed, never consumed: the same address gives the same numbers on every engine, in any order."""

from enum import IntEnum, unique

import numpy as np


@unique  # two purposes with one number would be one stream
class Purpose(IntEnum):
    """What a stream of random numbers is for; the first part of its address. Never renumber."""

    PROXY = 1  # which samples the cloud holds
    CONTEXT = 2  # a device's first distribution
    DRIFT = 3  # how a distribution moves, which samples are replaced
    DRAW = 4  # which samples a device holds
    TEST = 5  # which test samples score it
    COHORT = 6  # who takes part in a round
    TRAIN = 7  # order of samples in local training
    INIT = 8  # initial weights
    OFFLINE = 9  # the cloud's own training
    PROFILE = 10  # which hardware a device is
    LOAD = 11  # background load at a step
    LOOK = 12  # noise of a device's sensor
    SEARCH = 13  # which paths a device tries
    NOISE = 14  # that hides a device's update or importance
    POISON = 15  # which devices are poisoned, and with what
    STUDY = 20  # what a study of the cloud models draws


def rng(seed: int, *where: int) -> np.random.Generator:
    """A generator for the address ``(seed, *where)``, e.g. ``rng(seed, Purpose.TRAIN, round, device)``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(int(w) for w in where)))
