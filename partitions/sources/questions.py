"""Questions about 48 encyclopaedia articles, shipped with the project (``data/questions/README.md``): which topic?"""

import json

import numpy as np

from partitions.dataset import Dataset
from partitions.root import Root
from partitions.sources.source import Shipped
from partitions.sources.texts import strings


class Questions(Shipped):
    """A class is a topic, a domain an article, a group the questions about one paragraph."""

    name = "questions"
    file = "questions/questions.jsonl"

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
