"""A generated task: find the person, place or time (two words) that a question asks for, in a passage of filler."""

from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets.source import GeneratedSource
from partitions.datasets.text.texts import strings
from partitions.rng import Purpose, rng
from partitions.root import Root

THINGS = {
    "who": ("anna boris clara david".split(), "adler brandt costa dupont".split()),
    "where": ("north south old new".split(), "oslo porto quito riga".split()),
    "when": ("early mid late about".split(), "april may june july".split()),
}
FILLER = "a all and by had it of one saw some that the then was with".split()
MORE = 0.25  # probability that a passage contains a thing that is not asked for, for each kind
COUNTS = {"train": 1500, "test": 300}


class FindTheSpan(GeneratedSource):
    """Generate the task; the class is the question word.

    A model that finds things but ignores the question is right in 77 % of the texts.
    """

    name = "find-the-span"

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.reject_image_size(image_size)
        arrays: dict[str, Any] = {}
        for part, (name, count) in enumerate(COUNTS.items()):
            generator = rng(0, Purpose.STUDY, part)
            texts, asked, spans = zip(*(_example(generator) for _ in range(count)), strict=True)
            arrays |= {f"x_{name}": strings(texts), f"y_{name}": np.array(asked), f"span_{name}": np.array(spans)}
        return Dataset(self.name, **arrays, classes=tuple(THINGS))


def _example(generator: np.random.Generator) -> tuple[list[str], int, tuple[int, int]]:
    """Draw question and passage, class, and the answer's first character and the one after its last."""
    things = [" ".join(words[generator.integers(len(words))] for words in parts) for parts in THINGS.values()]
    asked = int(generator.integers(len(things)))
    present = [thing for i, thing in enumerate(things) if generator.random() < MORE or i == asked]
    words = [*present, *(FILLER[i] for i in generator.integers(len(FILLER), size=generator.integers(6, 13)))]
    passage = " ".join(words[i] for i in generator.permutation(len(words)))
    begin = passage.index(things[asked])
    return [f"{list(THINGS)[asked]} ?", passage], asked, (begin, begin + len(things[asked]))
