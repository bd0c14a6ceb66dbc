"""spa: answers of a chat, without a device, and with one whose answers take 0, 20 or 100 ms.

The cloud waits for each answer, or its base goes on meanwhile, always or if it pays. The base is SmolLM2 if it is
there, else the toy. The plugin is of a generated person, who asks the test questions. The tokens are always the same.
"""

import threading
from functools import partial
from statistics import median

import torch

from experiments.bench.table import Options, Table, interleave
from experiments.serving.cloud import GoesOn, Session, Terms
from experiments.serving.device import DeviceHalf, serve
from experiments.serving.link import Remote, pair
from experiments.serving.plugins import make_plugin, plugin_workload
from models.spa import bases
from models.spa.bases import Base
from partitions.root import cache_folder

SEED, QUESTIONS, LIMIT = 1, 6, 24
DELAYS_MS = (0, 20, 100)
ALONE = "no device"
HOW: dict[str, GoesOn] = {"waiting": "never", "going on": "always", "going on if it pays": "if it pays"}


def bench(options: Options) -> Table:
    torch.set_num_threads(1)
    name = bases.SMOLLM2 if (cache_folder() / "bases" / bases.SMOLLM2).is_dir() else bases.TINY
    workload = plugin_workload(name, 0, SEED, {})
    options.progress(f"train a plugin for {name}")
    plugin = make_plugin(workload, 0, SEED)
    base = workload.base()
    asked = [base.prompt(one.instruction) for one in workload.people(SEED).examples(0, 0, "test")[:QUESTIONS]]
    half = DeviceHalf(plugin, base.checksum, workload.options.mode, workload.options.policy)
    said: dict[str, list[list[int]]] = {}
    hidden: dict[str, float] = {}

    def answer(what: str, delay_ms: int, goes_on: GoesOn) -> None:
        half.delay = delay_ms / 1e3
        said[what], hidden[what] = _answers(base, half if what != ALONE else None, asked, goes_on)

    works = {ALONE: partial(answer, ALONE, 0, "never")}
    for delay in DELAYS_MS:
        for how, goes_on in HOW.items():
            what = f"{how}, {delay} ms"
            works[what] = partial(answer, what, delay, goes_on)
    lines = interleave(works, options)
    for line in lines:
        tokens = sum(map(len, said[line.what]))
        line.facts = {"tokens/s": f"{tokens / median(line.wall):.1f}", "ready": f"{hidden[line.what]:.0%}"}
    with_device = [said[line.what] for line in lines if line.what != ALONE]
    same = all(one == with_device[0] for one in with_device)
    checks = [
        f"Base: {base.name}. 'ready': share of the tokens whose pass was ready when the device had answered.",
        f"{'The' if same else 'NOT the'} same tokens with a device, waiting and going on, at every delay.",
    ]
    return Table(f"{__doc__.splitlines()[0]} Seconds for {QUESTIONS} answers.", ALONE, lines, checks)


def _answers(
    base: Base, half: DeviceHalf | None, asked: list[list[int]], goes_on: GoesOn
) -> tuple[list[list[int]], float]:
    """Return the tokens of the answers, and the share of them whose pass was ready."""
    if half is None:
        return [[t.id for t in Session(base, None, None, prompt).greedy(LIMIT)] for prompt in asked], 0.0
    near, far = pair()
    device = threading.Thread(target=serve, args=(half, far), daemon=True)
    device.start()
    link, terms, found, ready = Remote(near, 60.0), Terms.of(half.hello(), base), list[list[int]](), 0
    for prompt in asked:
        session = Session(base, link, terms, prompt, goes_on=goes_on)
        found.append([token.id for token in session.greedy(LIMIT)])
        ready += session.hidden
    near.close()
    device.join()
    return found, ready / sum(map(len, found))
