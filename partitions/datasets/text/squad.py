"""SQuAD (arXiv:1606.05250): a question, a passage of an article, and where in the passage the answer is.

A passage is a part of a paragraph that fits a short input: sentences that follow each other, cut without a look at the
answers, so that where an answer is in its passage tells nothing. Of several answers the first is taken. Questions
without one (version 2), or whose answer is in two passages, are left out.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import Source
from partitions.datasets.text.texts import members, packed, unpacked
from partitions.errors import DataError
from partitions.root import Root

WORDS = 50  # of a passage, unless a sentence has more
SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s+[A-Z0-9\"'(\[])|\Z)", re.DOTALL)
ASKED = ("who", "what", "when", "where", "which", "why", "how", "other")

Example = tuple[list[str], int, str, tuple[int, int], int]
"""Question and passage, class, article, the answer's characters in the passage, and number of the paragraph."""


class Squad(Source):
    """A class is the first question word, a domain an article, a group the questions about one paragraph."""

    name = "squad"

    def find(self, place: Path) -> Path | None:
        return store.folder(place, self.name) if store.holds(place, self.name) else None

    def fetch(self, place: Path) -> Path:
        raise DataError(f"{self.name} is not downloaded: {self.remedy()}")

    def remedy(self) -> str:
        return f"run `python -m experiments data import {self.name} FILES`, where FILES are train-v1.1.json or a zip"

    def unpack(self, files: list[Path], place: Path) -> Path:
        """``files``: train and dev part, or one of them, of which every fifth article is for test then."""
        parts: dict[str, list[Any]] = {"train": [], "test": []}
        for path, read in members(files).items():
            if path.endswith(".json"):
                parts["test" if Path(path).name.startswith(("dev", "test")) else "train"] += _articles(path, read())
        if not all(parts.values()):
            every = parts["train"] + parts["test"]
            parts = {"train": [article for i, article in enumerate(every) if i % 5], "test": every[::5]}
        try:
            found = {part: list(_examples(articles)) for part, articles in parts.items()}
        except (KeyError, TypeError) as error:
            raise DataError(f"these files are not SQuAD's: an entry has no {error}") from error
        if not all(found.values()):
            raise DataError(f"these files do not hold two articles of {self.name}: name train-v1.1.json or a zip")
        titles = sorted({title for examples in found.values() for _, _, title, _, _ in examples})
        number = {title: i for i, title in enumerate(titles)}
        arrays: dict[str, np.ndarray] = {}
        for part, examples in found.items():
            texts, asked, articles, spans, paragraphs = zip(*examples, strict=True)
            arrays |= {f"{key}_{part}": array for key, array in packed(texts).items()}
            arrays[f"y_{part}"] = np.array(asked, np.int64)
            arrays[f"domain_{part}"] = np.array([number[title] for title in articles], np.int64)
            arrays[f"span_{part}"] = np.array(spans, np.int64)
            arrays[f"group_{part}"] = np.array(paragraphs, np.int64)
        del arrays["group_test"]
        return store.write(place, self.name, arrays, {"domains": titles})

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.refuse_size(image_size)
        arrays, about = store.read(self.need(root))
        rest: dict[str, Any] = dict(arrays)
        for part in ("train", "test"):
            rest[f"x_{part}"] = unpacked(rest.pop(f"bytes_{part}"), rest.pop(f"ends_{part}"))
        return Dataset(self.name, classes=ASKED, domains=tuple(about["domains"]), **rest)


def passages(paragraph: str) -> list[tuple[int, int]]:
    """Characters from and up to of each: as many sentences as make up to `WORDS` words, and at least one."""
    found: list[tuple[int, int]] = []
    for sentence in SENTENCE.finditer(paragraph):
        begin, end = sentence.span()
        if found and len(paragraph[found[-1][0] : end].split()) <= WORDS:
            found[-1] = found[-1][0], end
        else:
            found.append((begin, end))
    return found


def _articles(path: str, text: str) -> list[Any]:
    try:
        return list(json.loads(text)["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not SQuAD's JSON: {error}") from error


def _examples(articles: list[Any]) -> Iterator[Example]:
    paragraphs = [(article["title"], own) for article in articles for own in article["paragraphs"]]
    for number, (title, paragraph) in enumerate(paragraphs):
        context = paragraph["context"]
        cuts = passages(context)
        for asked in paragraph["qas"]:
            for answer in asked["answers"][:1]:
                at, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                for begin, stop in cuts:
                    if begin <= at < end <= stop and context[at:end] == answer["text"]:
                        question = asked["question"].strip()
                        pair = [question, context[begin:stop]]
                        yield pair, ASKED.index(_word(question)), title, (at - begin, end - begin), number


def _word(question: str) -> str:
    words = re.findall(r"\w+", question.lower())
    return next((word for word in words if word in ASKED[:-1]), ASKED[-1])
