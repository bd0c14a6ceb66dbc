"""A data set in memory or mapped from disk: arrays and names."""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import numpy as np

from partitions.errors import DataError

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples, optionally with the person or device that recorded them (their domain).

    Args:
        name: the data set's name, for error messages.
        x_train, x_test: inputs. float32 (N, ...): ready for a network. uint8 (N, C, H, W): pixels, which `inputs`
            normalises. Strings (N, sentences): text, which `partitions.tokens` converts to token ids int32 (N, T).
        y_train, y_test: labels int64 (N,), indices into ``classes``.
        classes: names of the classes.
        domain_train, domain_test: int64 (N,), indices into ``domains``.
        domains: names of the domains.
        group_train: int64 (N,). Samples of one recording have the same number. They resemble each other, so a recording
            goes to the proxy data set as a whole or not at all.
        target_train, target_test: float32 (N,), for regression; the label is then the target rounded to a grade.
        span_train, span_test: int64 (N, 2), the answer in the second sentence. In text: its first character and the
            one after its last. In tokens: its first and its last token, or -1 if the answer was truncated.
        offsets_test: int32 (N, T, 2), only in tokens: the characters of the second sentence that each token covers; 0
            and 0 for other tokens.
        mean, std: per channel, to normalise pixels.
        proxy: sorted indices int64 (P,) of the training samples that the cloud holds, if the data set says it.

    Raises:
        DataError: samples and labels differ in number, or a label is not the index of a class.
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
    offsets_test: np.ndarray | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    proxy: np.ndarray | None = None

    def __post_init__(self) -> None:
        parts = (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test))
        for part, x, y in parts:
            if len(x) != len(y):
                raise DataError(f"the {part} part of {self.name} needs {len(x)} labels, one per sample, not {len(y)}")
            if len(y) and not 0 <= y.min() <= y.max() < len(self.classes):
                raise DataError(
                    f"the {part} part of {self.name} has labels {y.min()} to {y.max()}; allowed are 0 to "
                    f"{len(self.classes) - 1}, one per class"
                )

    @cached_property
    def digest(self) -> str:
        """A hash of everything in it but its name, read once. Two data sets of one name may differ."""
        found = hashlib.blake2b(digest_size=16)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if field.name == "proxy" and value is None:
                continue  # the field came later, and data sets without it keep their hash
            if not isinstance(value, np.ndarray):
                found.update(f"{field.name} {value!r}".encode())
                continue
            found.update(f"{field.name} {value.dtype} {value.shape}".encode())
            text = value.dtype.kind == "T"
            found.update("\0".join(value.ravel().tolist()).encode() if text else np.ascontiguousarray(value).data)
        return found.hexdigest()

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    @property
    def text(self) -> bool:
        """Return whether the inputs are strings, which must be tokenised before training."""
        return self.x_train.dtype.kind == "T"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input, without the batch axis."""
        return tuple(self.x_train.shape[1:])

    def inputs(self, split: Split, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return network inputs, ``(len(indices), *input_shape)``.

        Tokens are int32, all other inputs are float32. Pixels become ``(x / 255 - mean) / std``.
        """
        x = np.asarray((self.x_train if split == "train" else self.x_test)[indices])
        if x.dtype != np.uint8:
            return x.astype(np.int32 if x.dtype.kind == "i" else np.float32)  # a copy: the caller may write to it
        mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
        return (x.astype(np.float32) / 255 - mean) / std

    def labels(self, split: Split, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return labels int64 (len(indices),)."""
        return np.asarray((self.y_train if split == "train" else self.y_test)[indices])
