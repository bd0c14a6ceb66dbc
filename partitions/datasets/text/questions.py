"""Questions about 48 encyclopaedia articles, shipped with the project (``data/questions/README.md``)."""

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets.source import ShippedSource
from partitions.datasets.text.reading import TextFile
from partitions.datasets.text.texts import strings
from partitions.root import Root


class Questions(ShippedSource):
    """Load questions to classify; a group contains the questions about one paragraph.

    Args:
        label: what a class is, 'topic' or 'article'.
        domain: what a domain is, the other of the two.
    """

    file = "questions/questions.jsonl"

    def __init__(self, name: str, label: str = "topic", domain: str = "article"):
        self.name, self.keys = name, (label, domain)

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        self.reject_image_size(image_size)
        lines = [line for _, line in TextFile(self.require(root)).objects("a paragraph with its questions")]
        classes, domains = (sorted({line[key] for line in lines}) for key in self.keys)
        counts = np.array([len(line["questions"]) for line in lines])
        x = strings([[question] for line in lines for question in line["questions"]])
        y, domain = (
            np.repeat([names.index(line[key]) for line in lines], counts)
            for key, names in zip(self.keys, (classes, domains), strict=True)
        )
        group, test = np.repeat(np.arange(len(lines)), counts), np.repeat([line["test"] for line in lines], counts)
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
