"""Attacks on this framework: ``python -m experiments attack``. A new one is a module here and a line in ``ATTACKS``."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from partitions.errors import lookup

ATTACKS: dict[str, str] = {
    "replies": "experiments.attacks.replies",
    "kill-main": "experiments.attacks.kills",
    "kill-worker": "experiments.attacks.kills",
    "kill-ray": "experiments.attacks.kills",
    "kill-actor": "experiments.attacks.kills",
    "kill-flower": "experiments.attacks.kills",
    "full-disk": "experiments.attacks.disk",
    "damage": "experiments.attacks.damage",
    "servers": "experiments.attacks.servers",
    "writers": "experiments.attacks.writers",
    "soak": "experiments.attacks.soak",
    "crowd": "experiments.attacks.crowd",
}
"""Modules with a dictionary ``ATTACKS`` that holds the attack of that name; imported on first use."""

SCALES = ("smoke", "full")
SMALL: dict[str, Any] = {
    "devices.count": 6, "cohort": 3, "rounds": 4, "rounds-per-step": 2, "eval.every": 2, "data.samples-min": 20,
    "data.samples-max": 30, "data.test-samples": 20, "client.local-epochs": 1, "client.adapt-epochs": 1,
    "pretrain.dense-epochs": 2, "pretrain.modular-epochs": 1, "pretrain.ability-epochs": 1, "eval.per-device": True,
}  # fmt: skip
"""A run of seconds on the embedded data."""


@dataclass
class Figures:
    """The result of an attack.

    Args:
        tries: how often it was tried; survived: tries without a fault.
        seen: what happened, with counts; faults: each in one sentence, which says how to repeat it.
    """

    tries: int = 0
    survived: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, seen: Mapping[str, int], fault: str = "", tries: int = 1) -> None:
        """Count tries; ``fault``: what went wrong, empty if nothing did."""
        self.tries += tries
        self.seen.update(seen)
        if fault:
            self.faults.append(fault)
        else:
            self.survived += tries


@contextmanager
def quiet(level: int = logging.ERROR) -> Iterator[None]:
    """Log only what is of a level; an attack causes hundreds of warnings."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


Show = Callable[[str], None]
"""Shows the progress."""


@dataclass(frozen=True)
class Attack:
    """An attack.

    Args:
        about: what it does, in one phrase.
        run: ``run(size, seed, folder, show)`` attacks; ``folder`` is empty and is removed afterwards.
        sizes: the size at each of the `SCALES`; what it counts is said by ``unit``.
    """

    about: str
    run: Callable[[int, int, Path, Show], Figures]
    sizes: Mapping[str, int]
    unit: str = "tries"


def find(name: str) -> Attack:
    """Import the attack of that name. UnknownName: there is none."""
    return import_module(lookup("attack", name, ATTACKS)).ATTACKS[name]
