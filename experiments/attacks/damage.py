"""Flipped, torn, lost and doubled content in any file of an interrupted or a completed run.

The run must go on to the same tables, or refuse the file in one sentence; then the file as it was must do.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from experiments.attacks import Attack, Figures, Show, quiet
from experiments.attacks.commands import difference
from experiments.attacks.lives import Lives
from fl.results.reader import read_rounds
from partitions.errors import UserError

Damage = Callable[[random.Random, bytes], bytes]


def flip(dice: random.Random, data: bytes) -> bytes:
    """One bit is another."""
    changed = bytearray(data)
    if changed:
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def tear(dice: random.Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: dice.randrange(len(data) + 1)]


def blank(dice: random.Random, data: bytes) -> bytes:
    """A block is zero, as after a crash of the machine."""
    start = dice.randrange(len(data) + 1)
    length = min(dice.choice([1, 16, 512]), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def double(dice: random.Random, data: bytes) -> bytes:
    """A line is there twice."""
    lines = data.splitlines(keepends=True)
    at = dice.randrange(len(lines)) if lines else 0
    return b"".join([*lines[: at + 1], *lines[at:]])


def drop(dice: random.Random, data: bytes) -> bytes:
    """A line is missing."""
    lines = data.splitlines(keepends=True)
    at = dice.randrange(len(lines)) if lines else 0
    return b"".join([*lines[:at], *lines[at + 1 :]])


def grow(dice: random.Random, data: bytes) -> bytes:
    """Something follows."""
    return data + bytes(dice.getrandbits(8) for _ in range(dice.randint(1, 40)))


DAMAGES: tuple[Damage, ...] = (flip, flip, flip, tear, blank, double, drop, grow)
FOREIGN = ("notes-x.safetensors", "000001-notes.safetensors", "999999-00000000.safetensors.bak", "run.txt", "a b.csv")


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Damage one file at each try, or put a foreign file beside the others."""
    figures = Figures()
    with quiet():
        show("the run, stopped at each exchange of messages")
        lives = Lives(folder / "run")
        stops = lives.stops()
        for at in range(size):
            show(f"try {at + 1} of {size}")
            dice = random.Random(f"{seed} {at}")
            stop = dice.choice(stops)
            lives.restore(stop)
            seen, fault = _foreign(dice, lives) if dice.random() < 0.1 else _damaged(dice, lives, stop)
            figures.add({seen: 1}, fault and f"try {at} of seed {seed}: {fault}")
    return figures


def _damaged(dice: random.Random, lives: Lives, stop: Path) -> tuple[str, str]:
    path = dice.choice(sorted(path for path in lives.folder.rglob("*") if path.is_file()))
    honest, how = path.read_bytes(), dice.choice(DAMAGES)
    path.write_bytes(how(dice, honest))
    what = f"{how.__name__} {path.relative_to(lives.folder)} of {stop.name}"
    try:
        read_rounds(lives.out)
    except UserError:
        pass
    except Exception as error:
        return "ended", f"{what}: read_rounds: {type(error).__name__}: {error}"
    seen, wrong = lives.go_on()
    if seen == "refused" and not wrong:
        path.write_bytes(honest)
        again, wrong = lives.go_on()
        wrong = wrong or ("" if again != "refused" else "the file as it was is refused too")
    return seen, wrong and f"{what}: {wrong}"


def _foreign(dice: random.Random, lives: Lives) -> tuple[str, str]:
    folders = [path for path in lives.folder.rglob("*") if path.is_dir() and lives.clients not in path.parents]
    path = dice.choice(sorted(folders)) / dice.choice(FOREIGN)
    path.write_bytes(b"mine")
    seen, wrong = lives.go_on()
    if seen == "same tables":
        deleted = not path.is_file()
        path.unlink(missing_ok=True)
        wrong = "it was deleted" if deleted else difference(lives.out, lives.whole / "out", lives.clients)
    shutil.rmtree(lives.folder)
    return f"foreign file: {seen}", wrong and f"a foreign file {path.relative_to(lives.folder)}: {wrong}"


ATTACKS = {"damage": Attack("damaged and foreign files of a run", attack, {"smoke": 10, "full": 2000})}
