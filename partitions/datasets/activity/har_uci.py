"""UCI HAR: 30 people with a phone on the waist, 561 features of 2.56 s windows, 6 activities.

The official split puts 21 people into train and 9 into test. A device here *is* a person and is tested on what that
person does next, so both parts are joined and each person's windows of each activity are split again: the first 70 % in
time train, the rest test. Windows overlap by half, so the one window at the seam is dropped.
"""

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.archives import place_folder
from partitions.datasets.download import download
from partitions.datasets.source import Source
from partitions.errors import DataError
from partitions.root import Root

URL = "https://archive.ics.uci.edu/static/public/240/human+activity+recognition+using+smartphones.zip"
FOLDER = "UCI HAR Dataset"
TRAIN_FRACTION = 0.7
GROUP = 8  # windows in a row that count as one recording


class HarUci(Source):
    name = "har-uci"

    def find(self, place: Path) -> Path | None:
        if store.holds(place, self.name):
            return store.folder(place, self.name)
        return place / FOLDER if (place / FOLDER).is_dir() else None

    def fetch(self, place: Path) -> Path:
        with tempfile.TemporaryDirectory() as scratch:
            archive = Path(scratch) / "har.zip"
            download(URL, archive)
            return place_folder(archive, FOLDER, place)

    def unpack(self, files: list[Path], place: Path) -> Path:
        """``files``: the published zip, or the unpacked folder."""
        if len(files) != 1:
            raise DataError(f"{self.name} comes from one zip or one folder")
        return place_folder(files[0], FOLDER, place)

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """float32 (N, 561), standardised by the train part; a domain is a person."""
        self.refuse_size(image_size)
        found = self.need(root)
        if found.name == FOLDER:  # 60 MB of text: parsed once
            if not store.holds(root.target, self.name):
                store.write(root.target, self.name, *read_text(found))
            found = store.folder(root.target, self.name)
        arrays, about = store.read(found)
        fields: dict[str, Any] = {**arrays, **{key: tuple(value) for key, value in about.items()}}
        return Dataset(self.name, **fields)


def read_text(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Both official parts joined and split again. DataError if a file is missing or does not match the others."""
    try:
        x = column(folder, "X", np.float32, 2)
        y, subject = (column(folder, stem, np.int64, 1) for stem in ("y", "subject"))
        names = (folder / "activity_labels.txt").read_text().split()[1::2]  # "1 WALKING", "2 WALKING_UPSTAIRS", ...
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not the UCI HAR data set: {error}") from error
    if not len(x) == len(y) == len(subject):
        raise DataError(f"{folder} is damaged: {len(x)} windows, {len(y)} labels, {len(subject)} subjects")
    people, domain = np.unique(subject, return_inverse=True)
    train, test, group = split(domain, y)
    x = (x - x[train].mean(axis=0)) / (x[train].std(axis=0) + 1e-6)
    y = y - 1  # the files count from 1
    arrays = {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}
    arrays |= {"domain_train": domain[train], "domain_test": domain[test], "group_train": group[train]}
    classes = [name.lower().replace("_", "-") for name in names]
    return arrays, {"classes": classes, "domains": [f"person-{person:02d}" for person in people]}


def column(folder: Path, stem: str, dtype: type, dimensions: Literal[1, 2]) -> np.ndarray:
    parts = ("train", "test")
    return np.concatenate([np.loadtxt(folder / p / f"{stem}_{p}.txt", dtype, ndmin=dimensions) for p in parts])


def split(domain: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of train and of test, and for every window the number of its recording (N,)."""
    train, test, group, groups = [], [], np.zeros(len(y), np.int64), 0
    for person, activity in np.unique(np.stack([domain, y], axis=1), axis=0):
        rows = np.flatnonzero((domain == person) & (y == activity))
        group[rows] = groups + np.arange(len(rows)) // GROUP
        groups = int(group[rows[-1]]) + 1
        seam = round(TRAIN_FRACTION * len(rows))
        train.append(rows[:seam])
        test.append(rows[seam + 1 :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test)), group
