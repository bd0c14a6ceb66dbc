"""Train a plugin for one person."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast, get_args

import torch
from rich.console import Console
from rich.progress import Progress as ProgressBar

from fl.config import Settings, SettingsError
from fl.workloads.resolve import resolve
from fl.workloads.spa import SPA
from models.modular.model import Progress
from models.spa import bases
from models.spa.gate import threshold
from models.spa.metrics import evaluate_tokens, rates
from models.spa.modes import mode
from models.spa.session import train
from models.spa.train import Plugin
from partitions import Purpose, rng
from partitions.datasets.text.personas import Split

EPOCHS = 15
BASE_KEYS = frozenset({"spa.tiny-steps", "spa.base-checksum"})

console = Console(highlight=False)


def plugin_workload(base: str, device: int, seed: int, changes: Mapping[str, str]) -> SPA:
    """Return the workload of one person; ``changes``: run-config keys."""
    few = {"devices.count": device + 1, "cohort": 1, "client.lr": 3e-3, "client.batch-size": 8, "strategies": "la"}
    own = {"workload": "spa", "spa.base": base, "spa.every": 1 if base == bases.TINY else 5, "seeds": str(seed)}
    return cast(SPA, resolve(Settings.parse({**few, **own, **changes})).workload)


def refuse_all_but_base(changes: Mapping[str, str]) -> None:
    """Raise SettingsError if there are keys that do not decide the base, where nothing is trained."""
    if odd := sorted(changes.keys() - BASE_KEYS):
        raise SettingsError(
            f"{odd[0]} is for training a plugin, and none is trained here: leave it out (--set takes "
            f"{' and '.join(sorted(BASE_KEYS))})"
        )


def make_plugin(workload: SPA, device: int, seed: int, epochs: int = EPOCHS, ask: float = 0.0) -> Plugin:
    """Train a plugin, print its accuracy on rephrased questions, and return it.

    Args:
        ask: share of tokens that the gate may ask about; 0: decided by ``spa.price``.
    """
    with progress_bar() as progress:
        base = workload.base(progress)
    options, people = workload.options, workload.people(seed)
    learn, calibrate, test = (workload.activations(people.examples(device, 0, split)) for split in get_args(Split))
    shuffling = rng(seed, Purpose.TRAIN, 0, device)
    plugin, _ = train(base, workload.fresh(seed), workload.training, learn, calibrate, epochs, shuffling)
    if ask and mode(options.mode).gated:
        scores = evaluate_tokens(base, plugin, options.mode, calibrate, options.policy).score
        plugin = replace(plugin, gate=replace(plugin.gate, tau=threshold(torch.from_numpy(scores), ask)))
    scored = evaluate_tokens(base, plugin, options.mode, test, options.policy)
    asked = scored.score > plugin.gate.tau if mode(options.mode).gated else scored.score == scored.score
    got = rates(scored, asked)
    console.print(
        f"token accuracy on rephrased questions: base {scored.base_right.mean():.3f}, side always "
        f"{scored.side_right.mean():.3f}, {options.mode} {got['token_accuracy']:.3f} asking about {got['M']:.0%} of "
        "tokens",
        style="dim", soft_wrap=True,
    )  # fmt: skip
    return plugin


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar while the tiny base is trained; it stays hidden if nothing is trained."""
    with ProgressBar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1, visible=False)
        yield lambda what, at, of: bar.update(task, description=what, completed=at + 1, total=of, visible=True)
