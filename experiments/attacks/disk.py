"""A disk that takes only files of a certain size, or fails at a certain write; then there is room again.

The run must say so in one sentence and go on later to the same tables.
"""

import logging
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from experiments.attacks import Attack, Figures, Show, quiet
from experiments.attacks.lives import Lives

TURNS = 3  # times that the disk is full in a try, at most
WRITES = 40  # about so many times a run waits for the disk
NO_SPACE = OSError(28, "No space left on device")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process can grow beyond a size. Python ignores the signal and raises an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def failing_write(number: int) -> Iterator[None]:
    """The disk is full when that many writes were waited for."""
    real, left = os.fsync, number

    def fsync(file: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise NO_SPACE
        real(file)

    with patch("os.fsync", fsync):
        yield


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Fill the disk a few times at each try, then let the run end."""
    figures = Figures()
    with quiet(logging.CRITICAL):
        lives = Lives(folder / "run")
        largest = max(path.stat().st_size for path in lives.whole.rglob("*") if path.is_file())
        empty = folder / "run.empty"
        empty.mkdir()
        for at in range(size):
            show(f"try {at + 1} of {size}")
            dice = random.Random(f"{seed} {at}")
            lives.restore(empty)
            fault = ""
            for _ in range(dice.randint(1, TURNS)):
                limit = int(largest ** dice.random())
                full = largest_file(limit) if dice.random() < 0.5 else failing_write(dice.randint(1, WRITES))
                with full:
                    seen, wrong = lives.go_on()
                figures.seen[f"disk full: {seen}"] += 1
                fault = fault or wrong
            seen, wrong = lives.go_on()
            fault = fault or wrong or ("it is refused with room again" if seen == "refused" else "")
            figures.add({seen: 1}, fault and f"try {at} of seed {seed}: {fault}")
    return figures


ATTACKS = {"full-disk": Attack("no room on the disk", attack, {"smoke": 5, "full": 500})}
