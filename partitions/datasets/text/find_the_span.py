"""A made-up task: find the person, place or time of two words, whichever is asked for, in a passage of filler."""

from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets.source import MadeUp
from partitions.datasets.text.texts import strings
from partitions.rng import Purpose, rng
from partitions.root import Root

THINGS = {
    "who": ("anna boris clara david".split(), "adler brandt costa dupont".split()),
    "where": ("north south old new".split(), "oslo porto quito riga".split()),
    "when": ("early mid late about".split(), "april may june july".split()),
}
FILLER = "a all and by had it of one saw some that the then was with".split()
MORE = 0.25  # share of passages with a thing that is not asked for, each kind by itself
COUNTS = {"train": 1500, "test": 300}


class FindTheSpan(MadeUp):
    """A class is what is asked for. Who finds things but does not read the question is right in 77 % of the texts."""

    name = "find-the-span"

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.refuse_size(image_size)
        arrays: dict[str, Any] = {}
        for part, (name, count) in enumerate(COUNTS.items()):
            generator = rng(0, Purpose.STUDY, part)
            texts, asked, spans = zip(*(_example(generator) for _ in range(count)), strict=True)
            arrays |= {f"x_{name}": strings(texts), f"y_{name}": np.array(asked), f"span_{name}": np.array(spans)}
        return Dataset(self.name, **arrays, classes=tuple(THINGS))


def _example(generator: np.random.Generator) -> tuple[list[str], int, tuple[int, int]]:
    """Question and passage, class, and the answer's characters from and up to."""
    things = [" ".join(words[generator.integers(len(words))] for words in own) for own in THINGS.values()]
    asked = int(generator.integers(len(things)))
    there = [thing for i, thing in enumerate(things) if generator.random() < MORE or i == asked]
    words = [*there, *(FILLER[i] for i in generator.integers(len(FILLER), size=generator.integers(6, 13)))]
    passage = " ".join(words[i] for i in generator.permutation(len(words)))
    begin = passage.index(things[asked])
    return [f"{list(THINGS)[asked]} ?", passage], asked, (begin, begin + len(things[asked]))
