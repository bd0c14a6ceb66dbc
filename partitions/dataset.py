"""A data set in memory (or mapped into it): arrays, names, and nothing that trains."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from partitions.errors import DataError

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with a class and, where people or devices recorded them, a domain.

    ``x_*`` is float32 (N, ...) ready for a network; uint8 (N, C, H, W), scaled by ``inputs``; or text: strings
    (N, sentences), of which `partitions.tokens` makes int32 (N, T). ``y_*`` is int64 (N,).
    ``domain_*`` int64 (N,) numbers ``domains``. ``group_train`` int64 (N,) marks examples cut from one recording: they
    resemble each other, so a held-out part takes a group whole or not at all. ``target_*`` float32 (N,) is to
    be learned where that is a number; the class is its grade. ``span_*`` int64 (N, 2) is to be found in the second
    sentence: the characters from and up to, once tokenised the first and the last token, or -1 where it was cut off;
    then ``places_test`` int32 (N, T, 2) are the characters of the second sentence that are a token, 0 and 0 if none.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    domain_train: np.ndarray | None = None
    domain_test: np.ndarray | None = None
    domains: tuple[str, ...] = ()
    group_train: np.ndarray | None = None
    target_train: np.ndarray | None = None
    target_test: np.ndarray | None = None
    span_train: np.ndarray | None = None
    span_test: np.ndarray | None = None
    places_test: np.ndarray | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """DataError if examples and classes do not belong together."""
        parts = (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test))
        for part, x, y in parts:
            if len(x) != len(y):
                raise DataError(f"the {part} part of {self.name} has {len(x)} examples and {len(y)} labels")
            if len(y) and not 0 <= y.min() <= y.max() < len(self.classes):
                raise DataError(
                    f"the {part} part of {self.name} has labels {y.min()} to {y.max()}, and its {len(self.classes)} "
                    f"classes are 0 to {len(self.classes) - 1}"
                )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def text(self) -> bool:
        """Whether the examples are strings, to be made tokens of."""
        return self.x_train.dtype.kind == "T"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch axis."""
        return tuple(self.x_train.shape[1:])

    def inputs(self, split: Split, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(len(indices), *input_shape): int32 tokens, else float32; pixels become ``(x / 255 - mean) / std``."""
        x = np.asarray((self.x_train if split == "train" else self.x_test)[indices])
        if x.dtype != np.uint8:
            return x.astype(np.int32 if x.dtype.kind == "i" else np.float32)  # a copy: the caller may write to it
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (x.astype(np.float32) / 255 - mean) / std

    def labels(self, split: Split, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """int64 (len(indices),)."""
        return np.asarray((self.y_train if split == "train" else self.y_test)[indices])
