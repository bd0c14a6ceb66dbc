"""UCI HAR: 30 people with a phone on the waist, 561 features of 2.56 s windows, 6 activities."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.archives import extract_folder
from partitions.datasets.download import download
from partitions.datasets.source import Source
from partitions.errors import DataError
from partitions.root import Root

URL = "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
FOLDER = "UCI HAR Dataset"
TRAIN_FRACTION = 0.7
GROUP = 8  # successive windows that count as one recording


class HarUci(Source):
    """Read the published text files; a domain is a person.

    The official split has 21 people for training and 9 for the test. Here a device is a person and is tested on later
    windows of the same person. Both parts are therefore joined, and the windows of each person and activity are split
    again: the first 70 % in time are for training, the rest for the test. Windows overlap by half, so the window
    between the two parts is dropped.
    """

    name = "har-uci"

    def find(self, folder: Path) -> Path | None:
        return store.find(folder, self.name) or (folder / FOLDER if (folder / FOLDER).is_dir() else None)

    def fetch(self, folder: Path) -> Path:
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / "har.zip"
            download(URL, archive)
            return extract_folder(archive, FOLDER, folder)

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import the published zip, or the folder that it contains."""
        if len(files) != 1:
            raise DataError(f"{self.name} comes from one zip or one folder, not {len(files)} files; name one")
        return extract_folder(files[0], FOLDER, folder)

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """Load features float32 (N, 561), standardised by the training part."""
        self.reject_image_size(image_size)
        found = self.require(root)
        if found.name == FOLDER:  # parse the 60 MB of text only once
            found = store.find(root.target, self.name) or store.write(root.target, self.name, *read_text(found))
        arrays, names = store.read(found)
        fields: dict[str, Any] = {**arrays, **{key: tuple(value) for key, value in names.items()}}
        return Dataset(self.name, **fields)


def read_text(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Join both official parts and split them again; DataError if a file is missing or does not match the others."""
    try:
        x = column(folder, "X", np.float32, 2)
        y, subject = (column(folder, stem, np.int64, 1) for stem in ("y", "subject"))
        names = (folder / "activity_labels.txt").read_text().split()[1::2]  # "1 WALKING", "2 WALKING_UPSTAIRS", ...
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not the UCI HAR data set ({error}); delete it and fetch it again") from error
    if not len(x) == len(y) == len(subject):
        raise DataError(
            f"{folder} is damaged: {len(x)} windows, {len(y)} labels, {len(subject)} subjects; fetch it again"
        )
    people, domain = np.unique(subject, return_inverse=True)
    train, test, group = split(domain, y)
    x = (x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-6)
    y = y - 1  # the files count from 1
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    arrays |= {"domain_train": domain[train], "domain_test": domain[test], "group_train": group[train]}
    classes = [name.lower().replace("_", "-") for name in names]
    return arrays, {"classes": classes, "domains": [f"person-{person:02d}" for person in people]}


def column(folder: Path, stem: str, dtype: type, dimensions: Literal[1, 2]) -> np.ndarray:
    """Read the files called ``stem`` of both official parts, one after the other."""
    parts = ("train", "test")
    return np.concatenate([np.loadtxt(folder / p / f"{stem}_{p}.txt", dtype, ndmin=dimensions) for p in parts])


def split(domain: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split windows by time within each person and activity.

    Returns:
        Indices of training windows and of test windows, and the number of every window's recording (N,).
    """
    train, test, group, groups = [], [], np.zeros(len(y), np.int64), 0
    for person, activity in np.unique(np.stack([domain, y], axis=1), axis=0):
        rows = np.flatnonzero((domain == person) & (y == activity))
        group[rows] = groups + np.arange(len(rows)) // GROUP
        groups = int(group[rows[-1]]) + 1
        count = round(TRAIN_FRACTION * len(rows))
        train.append(rows[:count])
        test.append(rows[count + 1 :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test)), group
