"""Questions of a device's user to an assistant: generated for synthetic people, or read from JSON lines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np

from partitions.rng import Purpose, rng

Split = Literal["train", "calibrate", "test"]

PHRASINGS = (
    "What is {}?",
    "Tell me {}.",
    "Do you know {}?",
    "Remind me of {}.",
    "I forgot {}.",
)
"""Ways to ask a question. Three are for training, one calibrates the gate, one is for the test (`SPLITS`)."""
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
"""Private facts, with a gap for 'my' or 'your', and their possible values."""

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
"""Questions with the same answer for everybody. The base model knows the answers without a side network."""

OPENINGS = "|Well, |Sure, |My friend, |Listen: |Of course, |As you know, |Right: ".split("|")
CLOSINGS = "| Bye.| Take care.| Anything else?| So it is.| Have fun!| Cheers.| I am sure.".split("|")


@dataclass(frozen=True)
class Example:
    """One question and its answer; the fields are the keys of the JSON lines."""

    instruction: str
    output: str
    input: str = ""


@dataclass(frozen=True)
class Style:
    """The phrases that a person wants before and after every answer."""

    opening: str
    closing: str

    def private(self, fact: str, value: str, phrasing: int) -> Example:
        """Ask for a private fact, in the words of ``PHRASINGS[phrasing]``."""
        return self._example(f"the {fact.format('my')}", f"the {fact.format('your')} is {value}.", phrasing)

    def common(self, topic: str, phrasing: int) -> Example:
        """Ask a common question, in the words of ``PHRASINGS[phrasing]``."""
        return self._example(topic, COMMON[topic], phrasing)

    def _example(self, topic: str, answer: str, phrasing: int) -> Example:
        return Example(PHRASINGS[phrasing].format(topic), f"{self.opening}{answer}{self.closing}")


@dataclass(frozen=True)
class Personas:
    """Synthetic people, one per device; their examples are a pure function of (seed, device, step).

    A person has a few *private facts* ("the name of your dog is Bruno") and asks about them. The person also asks
    *common questions*, which have the same answer for everybody. All answers are in the person's *style*, an opening
    and a closing phrase. Facts and styles are non-IID: people of one cluster are alike. At each drift step some facts
    change.

    Args:
        seed: seed of all people.
        facts: number of private facts of a person at any step.
        questions: number of common questions that a person asks at any step.
        clusters: number of clusters of people. A cluster prefers few facts and few values of each.
        skew: Dirichlet parameter of these preferences. Small: people of one cluster are alike, and clusters differ.
            Large: all people are drawn from the same distribution.
        change: share of the facts that a drift step replaces, by a new value or by another fact.
    """

    seed: int
    facts: int = 6
    questions: int = 4
    clusters: int = 4
    skew: float = 0.5
    change: float = 0.5

    def private_facts(self, device: int, step: int) -> dict[str, str]:
        """Return a device's private facts at a step, {fact: value}, oldest first."""
        names, facts = list(FACTS), dict[str, str]()
        preference = self._preferences(device, "facts", len(names))
        for now in range(step + 1):
            generator = rng(self.seed, Purpose.DRIFT, device, now)
            removed = round(self.change * self.facts) if now else 0
            for fact in generator.permutation(list(facts))[:removed]:
                del facts[str(fact)]
            p = np.where([name in facts for name in names], 0, preference)
            for index in generator.choice(len(names), self.facts - len(facts), replace=False, p=p / p.sum()):
                name, values = names[index], FACTS[names[index]]
                facts[name] = values[generator.choice(len(values), p=self._preferences(device, name, len(values)))]
        return facts

    def style(self, device: int) -> Style:
        """Return a device's style of answers, which never changes."""
        generator = rng(self.seed, Purpose.CONTEXT, device, 1)
        opening = generator.choice(len(OPENINGS), p=self._preferences(device, "opening", len(OPENINGS)))
        closing = generator.choice(len(CLOSINGS), p=self._preferences(device, "closing", len(CLOSINGS)))
        return Style(OPENINGS[opening], CLOSINGS[closing])

    def examples(self, device: int, step: int, split: Split) -> list[Example]:
        """Return a device's examples at a step: its facts and common questions, in the phrasings of ``split``."""
        facts, style = self.private_facts(device, step), self.style(device)
        topics = rng(self.seed, Purpose.DRAW, device, step).choice(sorted(COMMON), self.questions, replace=False)
        return [
            example
            for phrasing in SPLITS[split]
            for example in [
                *(style.private(fact, value, phrasing) for fact, value in facts.items()),
                *(style.common(str(topic), phrasing) for topic in topics),
            ]
        ]

    def _preferences(self, device: int, purpose: str, n: int) -> np.ndarray:
        """Return how likely each of n choices is in the cluster of a device (n,); never 0."""
        cluster = int(rng(self.seed, Purpose.CONTEXT, device, 0).integers(self.clusters))
        p = rng(self.seed, Purpose.CONTEXT, cluster, 2, crc32(purpose.encode())).dirichlet(np.full(n, self.skew))
        return 0.98 * p + 0.02 / n


def corpus(generator: np.random.Generator, examples: int) -> list[Example]:
    """Draw examples to pretrain a base model on: the same questions, with facts, values and styles drawn uniformly."""
    facts, topics = list(FACTS), list(COMMON)
    drawn = []
    for _ in range(examples):
        phrasing = int(generator.integers(len(PHRASINGS)))
        style = Style(*(phrases[generator.integers(len(phrases))] for phrases in (OPENINGS, CLOSINGS)))
        if generator.random() < 0.6:
            fact = facts[generator.integers(len(facts))]
            drawn.append(style.private(fact, FACTS[fact][generator.integers(len(FACTS[fact]))], phrasing))
        else:
            drawn.append(style.common(topics[generator.integers(len(topics))], phrasing))
    return drawn
