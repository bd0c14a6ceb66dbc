"""The command `attack`: attacks on this framework, and one table of what came of them."""

import csv
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from experiments.attacks import ATTACKS, SCALES, find
from experiments.cli.options import Folder
from partitions.errors import UserError, lookup
from partitions.root import absolute

console = Console()
COLUMNS = ("attack", "what", "unit", "tries", "survived", "faults", "seconds", "seen")


class AttackFailed(UserError):
    """An attack found faults; the message names them."""


def attack(
    names: Annotated[list[str] | None, typer.Argument(help="Attacks; without any, all of them.")] = None,
    scale: Annotated[str, typer.Option(help="smoke: a few tries each; full: hours.")] = "smoke",
    size: Annotated[int, typer.Option(help="Size of each attack; 0: that of the scale.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Another seed tries something else.")] = 1,
    out: Annotated[Path, Folder(help="Folder for attacks.csv and attacks.md; the rows of other attacks stay.")] = Path(
        "runs"
    )
    / "attack",
) -> None:
    """Attack a run: kill it, damage its files, send it wrong replies. Show what it survived; exit 1 if not all.

    Example: [bold]python -m experiments attack replies kill-main --scale smoke[/bold]
    """
    from fl.results.files import as_results_error, atomic_write, csv_text

    lookup("scale", scale, dict.fromkeys(SCALES))
    chosen = {name: find(name) for name in names or ATTACKS}
    path, faults = absolute(out) / "attacks.csv", []
    rows = _rows(path)
    table = Table("attack", "tries", "survived", "faults found", "seconds", "seen", box=None)
    for name, one in chosen.items():
        started = time.perf_counter()
        with console.status(name) as status, tempfile.TemporaryDirectory(prefix="driftfed-attack-") as folder:
            found = one.run(size or one.sizes[scale], seed, Path(folder), partial(_show, status, name))
        seconds = time.perf_counter() - started
        faults += [f"{name}: {fault}" for fault in found.faults]
        seen = ", ".join(f"{what} {count}" for what, count in found.seen.items())
        counts = [str(found.tries), str(found.survived), str(len(found.faults)), f"{seconds:.0f}"]
        table.add_row(name, *counts, seen)
        rows[name] = [name, one.about, one.unit, *counts, seen]
        with as_results_error(f"write '{path}'"):
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [COLUMNS, *(tuple(rows[known]) for known in ATTACKS if known in rows)]
            atomic_write(path, csv_text(lines))
            atomic_write(path.with_suffix(".md"), _markdown(lines))
    console.print(table)
    if faults:
        raise AttackFailed("\n".join(faults))


def _show(status: Status, name: str, text: str) -> None:
    status.update(f"{name}: {text}")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """Return the table of docs/faults.md, without what an attack does and without seconds."""
    head, *rows = ([*line[:1], *line[2:6], *line[7:]] for line in lines)
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, ["---"] * len(head), *rows))


def _rows(path: Path) -> dict[str, list[str]]:
    """Return the rows that a file has, by attack."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row[0]: row for row in csv.reader(file) if row and row[0] in ATTACKS}
