"""A data set in memory (or mapped into it): arrays, names, and nothing that trains."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with a class and, where people or devices recorded them, a domain.

    ``x_*`` is float32 (N, ...) ready for a network, or uint8 (N, C, H, W), scaled by ``inputs``; ``y_*`` is int64 (N,).
    ``domain_*`` int64 (N,) numbers ``domains``. ``group_train`` int64 (N,) marks examples cut from one recording: they
    resemble each other, so a held-out part takes a group whole or not at all.
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
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch axis."""
        return tuple(self.x_train.shape[1:])

    def inputs(self, split: Split, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """float32 (len(indices), *input_shape); pixels become ``(x / 255 - mean) / std`` per channel."""
        x = np.asarray((self.x_train if split == "train" else self.x_test)[indices])
        if x.dtype != np.uint8:
            return x.astype(np.float32)  # a copy: the caller may write to it
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (x.astype(np.float32) / 255 - mean) / std

    def labels(self, split: Split, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """int64 (len(indices),)."""
        return np.asarray((self.y_train if split == "train" else self.y_test)[indices])
