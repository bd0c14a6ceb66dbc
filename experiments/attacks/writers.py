"""Two commands that write to one results folder: one is refused in one sentence, or finds its runs complete."""

import random
import shutil
import time
from pathlib import Path

from experiments.attacks import Attack, Figures, Show
from experiments.attacks.commands import Command, difference, run_arguments, sentence


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Start the same run twice, the second one up to the duration of a run later."""
    figures, whole = Figures(), folder / "whole"
    show("a run alone")
    code, text, duration = _start(whole, "log").wait()
    if code:
        figures.add({}, f"the run fails without an attack: {text[-300:]}")
        return figures
    for at in range(size):
        show(f"try {at + 1} of {size}")
        dice, both = random.Random(f"{seed} {at}"), folder / "both"
        first = _start(both, "first")
        time.sleep(dice.choice([0.0, dice.random() * duration]))
        ends = [command.wait() for command in (first, _start(both, "second"))]
        faults = [wrong for code, text, _ in ends if code and (wrong := sentence(text))]
        refused = sum(code != 0 for code, _, _ in ends)
        if refused == 2:
            faults.append("both were refused")
        fault = "; ".join(faults) or difference(both / "out", whole / "out", both / "clients")
        figures.add({"one was refused": int(refused == 1)}, fault and f"try {at} of seed {seed}: {fault}")
        shutil.rmtree(both)
    return figures


def _start(folder: Path, log: str) -> Command:
    keys = {"devices.state-root": folder / "clients"}
    return Command(run_arguments(folder / "out", "local", 1, keys), folder, log)


ATTACKS = {"writers": Attack("two commands in one results folder", attack, {"smoke": 1, "full": 10})}
