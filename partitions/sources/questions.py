"""Questions about 48 encyclopaedia articles, shipped with the project (``data/questions/README.md``): which topic?"""

import json
from pathlib import Path

import numpy as np

from partitions.dataset import Dataset
from partitions.errors import DataError
from partitions.root import Root
from partitions.sources.source import Source
from partitions.sources.texts import strings


class Questions(Source):
    """A class is a topic, a domain an article, a group the questions about one paragraph."""

    name = "questions"

    def find(self, place: Path) -> Path | None:
        path = place / "questions" / "questions.jsonl"
        return path if path.is_file() else None

    def remedy(self) -> str:
        return "it ships with the project, so reinstall it with `pip install .`"

    def fetch(self, place: Path) -> Path:
        raise DataError(f"{self.name} is not downloaded: {self.remedy()}")

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.refuse_size(image_size)
        lines = [json.loads(line) for line in self.need(root).read_text(encoding="utf-8").splitlines()]
        topics, articles = (sorted({line[key] for line in lines}) for key in ("topic", "article"))
        asked = np.array([len(line["questions"]) for line in lines])
        x = strings([[question] for line in lines for question in line["questions"]])
        y, domain = (
            np.repeat([names.index(line[key]) for line in lines], asked)
            for key, names in (("topic", topics), ("article", articles))
        )
        group, test = np.repeat(np.arange(len(lines)), asked), np.repeat([line["test"] for line in lines], asked)
        return Dataset(
            self.name,
            x[~test],
            y[~test],
            x[test],
            y[test],
            classes=tuple(topics),
            domain_train=domain[~test],
            domain_test=domain[test],
            domains=tuple(articles),
            group_train=group[~test],
        )
