"""SQuAD (arXiv:1606.05250): a question, a passage of an article, and the position of the answer in the passage."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import Source
from partitions.datasets.text.reading import text_files
from partitions.datasets.text.texts import pack, split_test, unpack
from partitions.errors import DataError
from partitions.root import Root

WORDS = 50  # most words of a passage, unless a single sentence has more
SENTENCE = re.compile(r"\S.*?(?:[.!?][\"')\]]*(?=\s+[A-Z0-9\"'(\[])|\Z)", re.DOTALL)
QUESTION_WORDS = ("who", "what", "when", "where", "which", "why", "how", "other")

Example = tuple[list[str], int, str, tuple[int, int], int]
"""Question and passage, class, article, first character of the answer and the one after its last, paragraph number."""


class Squad(Source):
    """Read questions; the class is the first question word, a domain an article, a group a paragraph.

    A passage is a part of a paragraph that fits a short input. It consists of successive sentences and is cut without
    regard to answers, so the position of an answer in its passage reveals nothing. Of several answers the first is
    used. Questions without an answer (version 2), or with an answer in two passages, are left out.
    """

    name = "squad"

    def find(self, folder: Path) -> Path | None:
        return store.find(folder, self.name)

    def how_to_obtain(self) -> str:
        return f"run `python -m experiments data import {self.name} FILES`, where FILES are train-v1.1.json or a zip"

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import the train and the dev part, or one of them; then every fifth article is for the test."""
        parts: dict[str, list[Any]] = {"train": [], "test": []}
        for path, file in text_files(files).items():
            if path.endswith(".json"):
                part = "test" if Path(path).name.startswith(("dev", "test")) else "train"
                parts[part] += _articles(path, file.text())
        if not all(parts.values()):
            parts = split_test(parts["train"] + parts["test"])
        try:
            found = {part: list(_examples(articles)) for part, articles in parts.items()}
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"an entry of these files has no {error}: name SQuAD's train-v1.1.json or a zip") from error
        if not all(found.values()):
            raise DataError(f"these files do not hold two articles of {self.name}: name train-v1.1.json or a zip")
        titles = sorted({title for examples in found.values() for _, _, title, _, _ in examples})
        number = {title: i for i, title in enumerate(titles)}
        arrays: dict[str, np.ndarray] = {}
        for part, examples in found.items():
            texts, classes, articles, spans, paragraphs = zip(*examples, strict=True)
            arrays |= {f"{key}_{part}": array for key, array in pack(texts).items()}
            arrays[f"y_{part}"] = np.array(classes, np.int64)
            arrays[f"domain_{part}"] = np.array([number[title] for title in articles], np.int64)
            arrays[f"span_{part}"] = np.array(spans, np.int64)
            arrays[f"group_{part}"] = np.array(paragraphs, np.int64)
        del arrays["group_test"]
        return store.write(folder, self.name, arrays, {"domains": titles})

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.reject_image_size(image_size)
        arrays, names = store.read(self.require(root))
        rest: dict[str, Any] = dict(arrays)
        for part in ("train", "test"):
            rest[f"x_{part}"] = unpack(rest.pop(f"bytes_{part}"), rest.pop(f"ends_{part}"))
        return Dataset(self.name, classes=QUESTION_WORDS, domains=tuple(names["domains"]), **rest)


def passages(paragraph: str) -> list[tuple[int, int]]:
    """Cut a paragraph into passages of whole sentences, up to `WORDS` words but at least one sentence.

    Returns:
        For each passage its first character and the one after its last.
    """
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
        raise DataError(f"{path} is not SQuAD's JSON ({error}); name train-v1.1.json or a zip") from error


def _examples(articles: list[Any]) -> Iterator[Example]:
    paragraphs = [(article["title"], each) for article in articles for each in article["paragraphs"]]
    for number, (title, paragraph) in enumerate(paragraphs):
        context = paragraph["context"]
        cuts = passages(context)
        for entry in paragraph["qas"]:
            for answer in entry["answers"][:1]:
                at, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                for begin, stop in cuts:
                    if begin <= at < end <= stop and context[at:end] == answer["text"]:
                        question = entry["question"].strip()
                        pair = [question, context[begin:stop]]
                        yield pair, QUESTION_WORDS.index(_word(question)), title, (at - begin, end - begin), number


def _word(question: str) -> str:
    words = re.findall(r"\w+", question.lower())
    return next((word for word in words if word in QUESTION_WORDS[:-1]), QUESTION_WORDS[-1])
