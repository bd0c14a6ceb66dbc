"""Questions about 48 encyclopaedia articles, shipped (``data/questions/README.md``): which topic, or article?"""

import json

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets.source import Shipped
from partitions.datasets.text.texts import strings
from partitions.root import Root


class Questions(Shipped):
    """A group is the questions about one paragraph.

    Args:
        label: what a class is, 'topic' or 'article'; domain: the other of the two.
    """

    file = "questions/questions.jsonl"

    def __init__(self, name: str, label: str = "topic", domain: str = "article"):
        self.name, self.keys = name, (label, domain)

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.refuse_size(image_size)
        lines = [json.loads(line) for line in self.need(root).read_text(encoding="utf-8").splitlines()]
        classes, domains = (sorted({line[key] for line in lines}) for key in self.keys)
        asked = np.array([len(line["questions"]) for line in lines])
        x = strings([[question] for line in lines for question in line["questions"]])
        y, domain = (
            np.repeat([names.index(line[key]) for line in lines], asked)
            for key, names in zip(self.keys, (classes, domains), strict=True)
        )
        group, test = np.repeat(np.arange(len(lines)), asked), np.repeat([line["test"] for line in lines], asked)
        return Dataset(
            self.name,
            x[~test],
            y[~test],
            x[test],
            y[test],
            classes=tuple(classes),
            domain_train=domain[~test],
            domain_test=domain[test],
            domains=tuple(domains),
            group_train=group[~test],
        )
