"""Random numbers by address: the same address gives the same numbers on every engine and in any order of calls."""

from enum import IntEnum, unique

import numpy as np


@unique  # two purposes with the same number would share one stream
class Purpose(IntEnum):
    """What a stream of random numbers is for; the first part of its address. Never change a number."""

    PROXY = 1  # which samples go to the proxy data set
    CONTEXT = 2  # a device's first distribution
    DRIFT = 3  # how a distribution drifts, which samples are replaced
    DRAW = 4  # which samples a device has
    TEST = 5  # which test samples evaluate it
    COHORT = 6  # which devices take part in a round
    TRAIN = 7  # order of samples in local training
    INIT = 8  # initial weights
    OFFLINE = 9  # training on the server
    PROFILE = 10  # which hardware a device is
    LOAD = 11  # background load at a step
    CORRUPTION = 12  # noise of a device's sensor
    SEARCH = 13  # which paths a device tries
    NOISE = 14  # noise that hides a device's update or importance
    POISON = 15  # which devices are poisoned, and with what
    CONCEPT = 16  # which labels a concept swaps, and when a sample or class takes its new label
    AVAILABILITY = 17  # when a device is online, and which devices drop out of a round
    LABELLED = 18  # which of a device's training samples have a label
    STREAM = 19  # new samples that a device meets at a step
    STUDY = 20  # random choices in studies of the server's models


def rng(seed: int, *address: int) -> np.random.Generator:
    """Return a generator for the address ``(seed, *address)``, e.g. ``rng(seed, Purpose.TRAIN, round, device)``."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(int(part) for part in address)))
