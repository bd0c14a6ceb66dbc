"""The base class of concept drifts: P(y|x) changes, because devices disagree about labels and change their minds.

A device has a concept at each step, by its number. Concept 0 has the labels and inputs of the data set. Each other
concept swaps pairs of classes, corrupts images, or both. All devices with a concept share its swaps and its corruption.
"""

import math
from abc import abstractmethod
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from partitions.components import section_name
from partitions.corruptions import CORRUPTIONS, Corruption
from partitions.drifts.drift import Drift, Frame, Held
from partitions.errors import lookup
from partitions.rng import Purpose, rng

SWAPS, DELAYS = range(2)  # second part of the address of random numbers


class Concepts(Drift):
    """Give every sample that a device holds the label of the device's concept, training and test samples alike.

    If a drift is spread over W steps, a part of the samples (gradual) or of the classes (incremental) takes the label
    of the new concept at each of them. Until then a sample has the label of the concept up to W - 1 steps before.
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    swaps: str = Field(
        "1", description="pairs that concepts 1, 2, ... swap, '0-1;2-3,4-5', or how many random pairs each swaps"
    )
    contexts: str = Field(
        "", description="corruptions of images in concepts 1, 2, ... with severities 0 to 1, e.g. 'noise:0.6;blur:0.4'"
    )
    transition: Literal["gradual", "incremental"] = Field(
        "gradual", description="over drift.steps: labels change sample by sample, or class by class"
    )

    @field_validator("swaps")
    @classmethod
    def _readable(cls, text: str) -> str:
        if text.isdecimal():
            return str(int(text))
        given(text)
        return text

    @field_validator("contexts")
    @classmethod
    def _known(cls, text: str) -> str:
        corruptions(text)
        return text

    @property
    def relabels(self) -> bool:
        return self.swaps != "0"

    @abstractmethod
    def concept(self, device: int, step: int, frame: Frame) -> int:
        """Return the number of a device's concept at a step, a pure function."""

    @abstractmethod
    def number(self) -> int:
        """Return how many concepts there are, concept 0 included."""

    def check_frame(self, frame: Frame) -> None:
        section = section_name(f":{type(self).__name__}")
        if self.transition == "incremental" and frame.drift_steps == 1:
            raise ValueError(f"{section}.transition = 'incremental' needs several steps: set drift.steps to 2 or more")
        if not (self.relabels or self.contexts):
            raise ValueError(f"{section}.swaps = 0: concepts do not differ; set {section}.contexts, or swap classes")
        if self.contexts and len(frame.data.input_shape) != 3:
            raise ValueError(
                f"{section}.contexts are of images, and samples of {frame.data.name} have shape "
                f"{frame.data.input_shape}: leave it out, or use another data.name"
            )
        if self.contexts and len(corruptions(self.contexts)) != self.number() - 1:
            raise ValueError(
                f"{section}.contexts = '{self.contexts}' describes concepts 1 to {len(corruptions(self.contexts))}, "
                f"and devices have concepts 0 to {self.number() - 1}: separate {self.number() - 1} corruptions by ';'"
            )
        try:
            self.labels(frame)
        except ValueError as error:
            raise ValueError(f"{section}.{error}") from None

    def labels(self, frame: Frame) -> np.ndarray:
        """Return the label (concepts, classes) that each concept gives to each class; ValueError: impossible."""
        return table(self.swaps, self.number(), frame.data.num_classes, frame.seed)

    def relabel(self, held: Held, frame: Frame) -> np.ndarray:
        return self.labels(frame)[self.of_samples(held, frame), held.labels]

    def looks(self, held: Held, frame: Frame) -> list[tuple[np.ndarray, Corruption, int]]:
        if not self.contexts:
            return []
        of, known = self.of_samples(held, frame), corruptions(self.contexts)
        return [(np.flatnonzero(of == k), look, k) for k, look in enumerate(known, 1) if look and (of == k).any()]

    def of_samples(self, held: Held, frame: Frame) -> np.ndarray:
        """Return the concept of each sample (n,)."""
        over = frame.drift_steps
        concepts = [self.concept(held.device, max(0, held.step - back), frame) for back in range(over)]
        if len(set(concepts)) == 1:
            return np.full(len(held.labels), concepts[0])
        if self.transition == "gradual":
            address = (Purpose.CONCEPT, DELAYS, held.device, held.split == "test")
            delay = [rng(frame.seed, *address, index).integers(over) for index in held.indices.tolist()]
        else:
            order = rng(frame.seed, Purpose.CONCEPT, DELAYS).permutation(frame.data.num_classes)
            delay = (order * over // len(order))[held.labels]
        return np.array(concepts)[delay]


@lru_cache(maxsize=64)
def corruptions(text: str) -> tuple[Corruption | None, ...]:
    """Read the corruptions of concepts 1, 2, ...; ValueError if ``text`` is not like 'noise:0.6;;blur:0.4'."""
    found: list[Corruption | None] = []
    for part in text.split(";") if text else ():
        kind, _, severity = part.strip().partition(":")
        if not kind:
            found.append(None)
            continue
        lookup("corruption", kind, CORRUPTIONS)
        try:
            found.append(Corruption(kind, float(severity)))
        except ValueError:
            found.append(Corruption(kind, -1.0))
        if not 0 < found[-1].severity <= 1:  # type: ignore[union-attr]
            raise ValueError(f"give '{kind}' a severity above 0 and at most 1, like '{kind}:0.5', not '{part.strip()}'")
    return tuple(found)


def given(text: str) -> list[list[tuple[int, int]]]:
    """Read the pairs that concepts 1, 2, ... swap; ValueError if ``text`` is not like '0-1;2-3,4-5'."""
    try:
        found = []
        for concept in text.split(";"):
            pairs = [pair.split("-") for pair in concept.split(",")]
            found.append([(int(a), int(b)) for a, b in pairs])
            if len({label for pair in found[-1] for label in pair}) < 2 * len(found[-1]):
                raise ValueError
    except ValueError:
        raise ValueError(
            "give a number of random pairs, or pairs of class numbers, each class once in a concept, like '0-1;2-3,4-5'"
        ) from None
    return found


@lru_cache(maxsize=64)  # of each run and seed
def table(swaps: str, concepts: int, classes: int, seed: int) -> np.ndarray:
    """Return the label (concepts, classes) that each concept gives to each class.

    Raises:
        ValueError: the swaps are impossible with so many classes, or describe another number of concepts.
    """
    if swaps == "0":
        pairs: list[list[tuple[int, int]]] = [[]] * (concepts - 1)
    else:
        pairs = draw(int(swaps), concepts, classes, seed) if swaps.isdecimal() else given(swaps)
    if len(pairs) != concepts - 1:
        raise ValueError(
            f"swaps = '{swaps}' describes concepts 1 to {len(pairs)}, and devices have concepts 0 to {concepts - 1}: "
            f"separate the pairs of {concepts - 1} concepts by ';', or give a number of random pairs"
        )
    labels = np.tile(np.arange(classes), (concepts, 1))
    for row, swapped in zip(labels[1:], pairs, strict=True):
        for a, b in swapped:
            if max(a, b) >= classes:
                raise ValueError(
                    f"swaps = '{swaps}' names class {max(a, b)}, and the classes are 0 to {classes - 1}: name these"
                )
            row[[a, b]] = b, a
    labels.flags.writeable = False
    return labels


def draw(count: int, concepts: int, classes: int, seed: int) -> list[list[tuple[int, int]]]:
    """Draw ``count`` random pairs of classes for each concept from 1 on, so that no two concepts are equal."""
    ways = math.perm(classes, 2 * count) // (2**count * math.factorial(count))
    if ways < concepts - 1:
        raise ValueError(
            f"swaps = {count}: {classes} classes have {ways} different ways to swap {count} pairs, and "
            f"{concepts - 1} concepts need one each: choose another number of pairs or fewer concepts"
        )
    found: list[list[tuple[int, int]]] = []
    for concept in range(1, concepts):
        generator = rng(seed, Purpose.CONCEPT, SWAPS, concept)
        while (pairs := _matching(generator, count, classes)) in found:
            pass
        found.append(pairs)
    return found


def _matching(generator: np.random.Generator, count: int, classes: int) -> list[tuple[int, int]]:
    chosen = generator.permutation(classes)[: 2 * count].reshape(count, 2)
    return sorted((int(min(pair)), int(max(pair))) for pair in chosen)
