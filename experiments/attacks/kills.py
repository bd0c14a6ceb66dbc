"""SIGKILL at random moments, to the command or to one of its processes; then the same command again.

The tables must be those of a run that was not killed, the command must name what went wrong in one sentence if it
cannot go on, and no process may outlive a killed command.
"""

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.attacks import Attack, Figures, Show
from experiments.attacks.commands import Command, Process, difference, run_arguments, sentence

KILLS = 3  # at most so many in a try
Victims = Callable[[Command, list[Process]], list[Process]]


@dataclass(frozen=True)
class Target:
    """What is killed.

    Args:
        engine: of the run; workers: its worker processes; victims: those processes of a command that may be killed.
        misses: so many runs of a try may end before something is killed; then the attack has failed.
    """

    engine: str
    victims: Victims
    workers: int = 2
    misses: int = 4


def main(command: Command, processes: list[Process]) -> list[Process]:
    """The command itself."""
    return [process for process in processes if process.pid == command.main.pid]


def workers(command: Command, processes: list[Process]) -> list[Process]:
    """The worker processes: children of the process from which they are forked."""
    forked = {process.pid for process in processes if "forkserver" in process.line}
    return [process for process in processes if process.parent in forked]


def actors(command: Command, processes: list[Process]) -> list[Process]:
    """The Ray actors."""
    return [process for process in processes if process.line.startswith("ray::_Actor")]


def any_of_flower(command: Command, processes: list[Process]) -> list[Process]:
    """The command, and each of Flower's processes and of their children."""
    return [process for process in processes if "/bin/sh" not in process.line]  # the guard that ends all others


TARGETS = {
    "kill-main": Target("local", main),
    "kill-worker": Target("local", workers),
    "kill-ray": Target("ray", main),
    "kill-actor": Target("ray", actors),
    "kill-flower": Target("flower", any_of_flower, 1),
}


def attack(target: Target, size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Kill a run up to `KILLS` times at each try: at one kill of four while it starts, else during its rounds."""
    figures, whole = Figures(), folder / "whole"
    show("a run that is not killed")
    command = _start(target, whole)
    start = _first_row(command, whole)
    lifetime = _lifetime(target, command)
    code, text, _ = command.wait()
    if code:
        figures.add({}, f"the run fails without an attack: {text[-300:]}")
        return figures
    for at in range(size):
        dice = random.Random(f"{seed} {target.engine} {at}")
        show(f"try {at + 1} of {size}, {figures.seen['kills']} kills")
        fault = _try(target, dice, folder / "killed", whole, (start, lifetime), figures)
        figures.add({}, fault and f"try {at} of seed {seed}: {fault}")
        shutil.rmtree(folder / "killed", ignore_errors=True)
    return figures


def _start(target: Target, folder: Path) -> Command:
    keys = {"devices.state-root": folder / "clients"}
    return Command(run_arguments(folder / "out", target.engine, target.workers, keys), folder)


def _first_row(command: Command, folder: Path) -> float:
    """Wait until a round is on the disk or the command has ended; return the seconds since its start."""
    rounds = folder / "out" / "rounds.csv"
    while command.main.poll() is None and not (rounds.is_file() and rounds.read_bytes().count(b"\n") > 1):
        time.sleep(0.02)
    return time.monotonic() - command.started


def _lifetime(target: Target, command: Command) -> float:
    """Return for how many seconds from now on a command has something to kill: figures are drawn without workers."""
    begun = time.monotonic()
    while target.victims(command, command.processes()):
        time.sleep(0.05)
    return time.monotonic() - begun


def _try(
    target: Target, dice: random.Random, folder: Path, whole: Path, spans: tuple[float, float], figures: Figures
) -> str:  # fmt: skip
    """Kill, start again, and so on; then let the command end. Return what is wrong.

    Args:
        spans: seconds until the first row, and from then on with something to kill.
    """
    killed: list[Command] = []
    wanted, kills, misses = dice.randint(1, KILLS), 0, 0
    while kills < wanted and misses < target.misses:
        command = _start(target, folder)
        begun = target.victims in (workers, actors) or dice.random() < 0.75
        if begun:
            _first_row(command, folder)
        time.sleep(dice.random() * spans[begun])
        choice = target.victims(command, command.processes())
        if choice:
            victim = dice.choice(sorted(choice, key=lambda process: process.pid))
            command.kill(victim.pid)
            kills += 1
            if victim.pid == command.main.pid:
                killed.append(command)
                continue
        code, text, _ = command.wait()
        if code and (wrong := sentence(text)):
            return wrong
        figures.seen.update(["errors of one sentence"] if code else [])
        if not choice and kills:
            break  # the run is complete
        if not choice:
            misses += 1
            shutil.rmtree(folder)
    figures.seen["kills"] += kills
    if not kills:
        return "nothing could be killed"
    command = _start(target, folder)
    code, text, _ = command.wait()
    left = [process for one in [*killed, command] for process in one.left()]
    if code:
        return f"it does not continue, exit status {code}: {text[-300:]}"
    if left:
        return f"{len(left)} processes are left: {'; '.join(process.line[:60] for process in left)}"
    return difference(folder / "out", whole / "out", folder / "clients")


def _sizes(full: int) -> dict[str, int]:
    return {"smoke": 1, "full": full}


ATTACKS = {
    name: Attack(about, partial(attack, TARGETS[name]), _sizes(full))
    for name, about, full in (
        ("kill-main", "SIGKILL to the command, workers as processes", 20),
        ("kill-worker", "SIGKILL to a worker process", 20),
        ("kill-ray", "SIGKILL to the command, workers as Ray actors", 10),
        ("kill-actor", "SIGKILL to a Ray actor", 10),
        ("kill-flower", "SIGKILL to the command or a process of `flwr run`", 10),
    )
}
