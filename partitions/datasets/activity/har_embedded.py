"""Human activity recorded by phone and watch, shipped with the project (``data/har/README.md``): 23 people."""

import base64
import hashlib
import io
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.source import ShippedSource
from partitions.errors import DataError
from partitions.root import Root, cache_folder

WINDOW = 64  # grid points at 50 Hz: 1.28 s, about as long as a turn or a sit-down
HOP = 16  # 0.32 s; windows of one run overlap, but a run is either for training or for the test
BANDS = (1, 2, 3, 4, 6, 9, 14, 33)  # edges in Fourier bins of 0.78 Hz: fine where people move, coarse above
PAIRS = ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5))  # axes of one sensor whose correlation shows the posture
PLACEMENTS = ("phone", "watch")


class HarEmbedded(ShippedSource):
    """Load features of the recordings; a domain is the phone or the watch of one person."""

    name = "har-embedded"
    file = "har/har.json"

    def load(self, root: Root, image_size: int = 0) -> Dataset:
        """Load features of windows float32 (N, 166), standardised by the training part."""
        self.reject_image_size(image_size)
        arrays, names = cached(self.require(root))
        return Dataset(self.name, **arrays, classes=tuple(names["classes"]), domains=tuple(names["domains"]))  # type: ignore[arg-type]


def cached(path: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return what `build` returns, from the cache folder: building takes a second, too long for every message.

    The name in the cache contains a hash of the file and of this module, so a change of either is noticed.
    """
    name = f"har-{hashlib.sha256(path.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:20]}"
    if stored := store.find(cache_folder(), name):
        return store.read(stored)
    arrays, names = build(path)
    with suppress(DataError):  # the cache folder is not writable
        store.write(cache_folder(), name, arrays, names)
    return arrays, names


def recordings(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of the file."""
    with np.load(io.BytesIO(base64.b64decode(json.loads(path.read_bytes())["npz"]))) as file:
        return dict(file)


def build(path: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Compute the arrays and names of a `Dataset` from the recordings."""
    file = recordings(path)
    series, label, runs, classes = file["series"] * file["scale"], file["label"], file["runs"], file["classes"]
    window, y, run = windows(series, label, runs[:, 3].astype(int), len(classes))
    x, test = features(window), runs[run, 4] == 1
    x = (x - x[~test].mean(axis=0)) / (x[~test].std(axis=0) + 1e-6)
    keys, domain_of_run = np.unique(runs[:, :2], axis=0, return_inverse=True)
    domain = domain_of_run.reshape(-1)[run]
    arrays = {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}
    arrays |= {"domain_train": domain[~test], "domain_test": domain[test], "group_train": run[~test]}
    names = {
        "classes": [str(name).lower().replace("_", "-") for name in classes],
        "domains": [f"person-{person:02d}-{PLACEMENTS[placement]}" for person, placement in keys],
    }
    return arrays, names


def windows(
    series: np.ndarray, label: np.ndarray, lengths: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut runs into windows, and drop windows without an activity that fills at least half of them.

    Args:
        series: all runs, one after the other (M, C).
        label: the activity at each point (M,).
        lengths: number of points of each run (R,).
        classes: number of activities.

    Returns:
        Windows (N, WINDOW, C), the activity of each (N,) and the run of each (N,).
    """
    first = np.cumsum(lengths) - lengths
    starts = [np.arange(0, length - WINDOW + 1, HOP) for length in lengths]
    start = np.concatenate([begin + offset for begin, offset in zip(first, starts, strict=True)])
    run = np.repeat(np.arange(len(lengths)), [len(offset) for offset in starts])
    inside = start[:, None] + np.arange(WINDOW)
    share = (label[inside][..., None] == np.arange(classes)).mean(axis=1)
    keep = share.max(axis=1) >= 0.5
    return series[inside[keep]], share.argmax(axis=1)[keep], run[keep]


def features(window: np.ndarray) -> np.ndarray:
    """Compute features float32 (N, 166) of windows (N, WINDOW, 6) of acceleration and rotation rate.

    Per channel, including the magnitude of either sensor: mean, spread, extremes, mean and spread of four quarters,
    jerk and the energy in frequency bands. Then the correlation of pairs of axes.
    """
    size = [np.linalg.norm(window[..., sensor], axis=-1) for sensor in (slice(0, 3), slice(3, 6))]
    z = np.concatenate([window, np.stack(size, axis=-1)], axis=-1).astype(np.float32)
    mean, spread = z.mean(axis=1), z.std(axis=1)
    centred = z - mean[:, None]
    quarter = z.reshape(len(z), 4, WINDOW // 4, z.shape[2])
    power = np.abs(np.fft.rfft(centred, axis=1)) ** 2 / WINDOW
    unit = centred / (spread[:, None] + 1e-3)
    parts = [
        mean,
        np.log(spread + 1e-2),
        z.min(axis=1),
        z.max(axis=1),
        quarter.mean(axis=2),
        np.log(quarter.std(axis=2) + 1e-2),
        np.log(np.abs(np.diff(z, axis=1)).mean(axis=1) + 1e-3),
        *(np.log(power[:, low:high].sum(axis=1) + 1e-2) for low, high in pairwise(BANDS)),
        np.stack([(unit[..., a] * unit[..., b]).mean(axis=1) for a, b in PAIRS], axis=1),
    ]
    return np.concatenate([part.reshape(len(z), -1) for part in parts], axis=1).astype(np.float32)
