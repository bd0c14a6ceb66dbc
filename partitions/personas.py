"""Questions that people ask an assistant about themselves: seeded, non-IID, drifting; and JSON lines of one's own.

A device is a person. It holds a few *private facts* ("the name of your dog is Bruno") out of those below and asks
about them, beside *common* questions that have one answer for everybody; and it likes all answers in its own *manner*,
with an opening and a closing. What a person has and likes is skewed by the circle that the person moves in; at a step
of the world some facts change and others take their place. All of it is a pure function of ``(seed, device, step)``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np

from partitions.errors import DataError
from partitions.rng import Purpose, rng

Split = Literal["train", "calibrate", "test"]

PHRASINGS = (
    "What is {}?",
    "Tell me {}.",
    "Do you know {}?",
    "Remind me of {}.",
    "I forgot {}.",
)
"""Ways to ask: the first three to train, the fourth to fit the gate on words that the side has not trained on, the
last to test."""
SPLITS: Mapping[Split, tuple[int, ...]] = {"train": (0, 1, 2), "calibrate": (3,), "test": (4,)}

_PEOPLE = "Alma Boris Carla Dmitri Elena Farid Greta Hugo Ines Jonas Kaito Leila Milan Nadia Oskar Priya".split()
_PETS = "Bruno Cleo Dusty Echo Fidget Ginger Hazel Iggy Juno Koko Luna Mango Nacho Olive Pepper Quill".split()
_CITIES = "Bergen Cusco Dakar Esfahan Fez Ghent Hanoi Izmir Jaipur Kyoto Lima Malmo Nantes Oaxaca Porto Quito".split()
_COLOURS = "amber beige coral denim ebony fuchsia gold honey indigo jade khaki lilac maroon navy ochre purple".split()
_FOODS = "almonds bagels curry eclairs falafel gnocchi hummus injera jam kimchi lentils noodles olives paella".split()
_PLAYS = "archery chess diving fencing gardening hockey judo karate origami pottery rowing sailing tango yoga".split()
_JOBS = "archivist baker carpenter dentist editor farmer gardener hatter judge locksmith miller nurse painter".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

FACTS: dict[str, list[str]] = {
    "name of {} dog": _PETS,
    "name of {} cat": _PETS,
    "name of {} sister": _PEOPLE,
    "name of {} neighbour": _PEOPLE,
    "name of {} doctor": _PEOPLE,
    "name of {} boss": _PEOPLE,
    "city of {} birth": _CITIES,
    "city of {} dreams": _CITIES,
    "colour of {} car": _COLOURS,
    "colour of {} door": _COLOURS,
    "food of {} choice": _FOODS,
    "food {} sister hates": _FOODS,
    "hobby of {} youth": _PLAYS,
    "hobby of {} brother": _PLAYS,
    "job of {} mother": _JOBS,
    "job of {} neighbour": _JOBS,
    "day of {} market": _DAYS,
    "day of {} choir": _DAYS,
}
"""Private facts: what is asked for, with a gap for 'my' or 'your', and the values that it can have."""

COMMON: dict[str, str] = {
    "the colour of the sky": "the colour of the sky is blue.",
    "the colour of grass": "the colour of grass is green.",
    "the colour of snow": "the colour of snow is white.",
    "the capital of France": "the capital of France is Paris.",
    "the capital of Italy": "the capital of Italy is Rome.",
    "the capital of Japan": "the capital of Japan is Tokyo.",
    "the capital of Spain": "the capital of Spain is Madrid.",
    "the day after Monday": "the day after Monday is Tuesday.",
    "the day after Friday": "the day after Friday is Saturday.",
    "the number of days in a week": "there are seven days in a week.",
    "the number of legs of a spider": "a spider has eight legs.",
    "the number of months in a year": "there are twelve months in a year.",
    "the largest ocean": "the largest ocean is the Pacific.",
    "the longest night of the year": "the longest night of the year is in winter.",
    "the home of bees": "bees live in a hive.",
    "the home of birds": "birds live in a nest.",
}
"""Questions with one answer for everybody: what a base model knows, and a side need not be asked for."""


OPENINGS = "|Well, |Sure, |My friend, |Listen: |Of course, |As you know, |Right: ".split("|")
CLOSINGS = "| Bye.| Take care.| Anything else?| So it is.| Have fun!| Cheers.| I am sure.".split("|")


@dataclass(frozen=True)
class Example:
    """One exchange; the fields are those of the JSON lines."""

    instruction: str
    output: str
    input: str = ""


@dataclass(frozen=True)
class Manner:
    """How a person likes answers: what comes before and after."""

    opening: str
    closing: str

    def private(self, fact: str, value: str, phrasing: int) -> Example:
        """A question about a fact, and the answer."""
        asked, told = f"the {fact.format('my')}", f"the {fact.format('your')} is {value}."
        return self._dressed(asked, told, phrasing)

    def common(self, topic: str, phrasing: int) -> Example:
        """A question that has one answer for everybody."""
        return self._dressed(topic, COMMON[topic], phrasing)

    def _dressed(self, asked: str, told: str, phrasing: int) -> Example:
        return Example(PHRASINGS[phrasing].format(asked), f"{self.opening}{told}{self.closing}")


@dataclass(frozen=True)
class Personas:
    """The people.

    Args:
        seed: of all of them.
        facts: private facts that a person holds at any step.
        questions: common questions that a person asks at any step.
        circles: into which people fall. A circle prefers few facts and few values of each.
        skew: Dirichlet parameter of these preferences; small: the people of a circle resemble each other and others
            hardly; large: everybody is drawn alike.
        change: share of the facts that a step replaces, by a new value or by another fact.
    """

    seed: int
    facts: int = 6
    questions: int = 4
    circles: int = 4
    skew: float = 0.5
    change: float = 0.5

    def held(self, device: int, step: int) -> dict[str, str]:
        """The private facts of a device at a step, {fact: value}, oldest first."""
        facts, held = list(FACTS), dict[str, str]()
        likely = self._taste(device, "facts", len(facts))
        for now in range(step + 1):
            generator = rng(self.seed, Purpose.DRIFT, device, now)
            leave = round(self.change * self.facts) if now else 0
            for fact in generator.permutation(list(held))[:leave]:
                del held[str(fact)]
            p = np.where([fact in held for fact in facts], 0, likely)
            for index in generator.choice(len(facts), self.facts - len(held), replace=False, p=p / p.sum()):
                values = FACTS[facts[index]]
                held[facts[index]] = values[
                    generator.choice(len(values), p=self._taste(device, facts[index], len(values)))
                ]
        return held

    def manner(self, device: int) -> Manner:
        """How a device likes its answers, always."""
        generator = rng(self.seed, Purpose.CONTEXT, device, 1)
        opening = generator.choice(len(OPENINGS), p=self._taste(device, "opening", len(OPENINGS)))
        closing = generator.choice(len(CLOSINGS), p=self._taste(device, "closing", len(CLOSINGS)))
        return Manner(OPENINGS[opening], CLOSINGS[closing])

    def examples(self, device: int, step: int, split: Split) -> list[Example]:
        """What a device asks at a step: its facts and some common questions, in the phrasings of ``split``."""
        held, manner = self.held(device, step), self.manner(device)
        asked = rng(self.seed, Purpose.DRAW, device, step).choice(sorted(COMMON), self.questions, replace=False)
        return [
            example
            for phrasing in SPLITS[split]
            for example in [
                *(manner.private(fact, value, phrasing) for fact, value in held.items()),
                *(manner.common(str(topic), phrasing) for topic in asked),
            ]
        ]

    def _taste(self, device: int, what: str, n: int) -> np.ndarray:
        """How likely each of n things is in the circle of a device; never 0."""
        circle = int(rng(self.seed, Purpose.CONTEXT, device, 0).integers(self.circles))
        p = rng(self.seed, Purpose.CONTEXT, circle, 2, crc32(what.encode())).dirichlet(np.full(n, self.skew))
        return 0.98 * p + 0.02 / n


def corpus(generator: np.random.Generator, examples: int) -> list[Example]:
    """What a base model reads: the same questions of strangers, each answered with a value drawn anew."""
    facts, topics = list(FACTS), list(COMMON)
    read = []
    for _ in range(examples):
        phrasing = int(generator.integers(len(PHRASINGS)))
        manner = Manner(*(each[generator.integers(len(each))] for each in (OPENINGS, CLOSINGS)))
        if generator.random() < 0.6:
            fact = facts[generator.integers(len(facts))]
            read.append(manner.private(fact, FACTS[fact][generator.integers(len(FACTS[fact]))], phrasing))
        else:
            read.append(manner.common(topics[generator.integers(len(topics))], phrasing))
    return read


class Files:
    """People with examples of their own: ``0.jsonl``, ``1.jsonl``, ... in a folder, a file per device.

    Of a file's lines, every fifth is test and the one before it calibrates; nothing drifts.

    Raises:
        DataError: a file is missing, unreadable, or has less than five lines.
    """

    def __init__(self, folder: Path, devices: int):
        self._lines = [read_jsonl(folder / f"{device}.jsonl") for device in range(devices)]
        for device, lines in enumerate(self._lines):
            if len(lines) < 5:
                raise DataError(f"{folder / f'{device}.jsonl'} holds {len(lines)} examples; a device needs at least 5")

    def examples(self, device: int, step: int, split: Split) -> list[Example]:
        """A device's examples of a split, the same at every step."""
        of = {"train": (0, 1, 2), "calibrate": (3,), "test": (4,)}[split]
        return [line for number, line in enumerate(self._lines[device]) if number % 5 in of]


def read_jsonl(path: Path) -> list[Example]:
    """Examples of a file with one ``{"instruction": ..., "input": ..., "output": ...}`` a line; ``input`` may lack.

    Raises:
        DataError: the file cannot be read, or a line is no such object; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    examples = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            fields = [row["instruction"], row["output"], row.get("input", "")]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path}, line {number}: expected {{"instruction": ..., "input": ..., "output": ...}}'
            ) from error
        if not all(isinstance(field, str) for field in fields) or not fields[0] or not fields[1]:
            raise DataError(f"{path}, line {number}: instruction and output must be text that is not empty")
        examples.append(Example(*fields))
    if not examples:
        raise DataError(f"{path} holds no example")
    return examples
