"""Make ``har.json`` from the published recordings: ``python make_har.py har_phone_watch_23subjects.npz [har.json]``.

The input has samples at about 100 Hz with jitter: ``x`` (N, 6) acceleration and rotation rate, ``label``, ``subject``,
``device`` (0 phone, 1 watch), ``execution`` and ``time_ms``. The output is an ``.npz`` in base64 with these arrays:

=========  ==============  =====================================================================================
series     int16 (M, 6)    every run on an even 50 Hz grid, one after the other; physical value = series * scale
scale      float32 (6,)    per channel
label      int8 (M,)       activity at each grid point
runs       int16 (R, 5)    subject, placement (0 phone, 1 watch), execution, samples, is_test
classes    str (5,)        names of the activities
=========  ==============  =====================================================================================
"""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np

RATE_HZ = 50
TEST_FRACTION = 0.3


def resample(time_s: np.ndarray, x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample one run to an even grid.

    Samples with equal times (the sensor sends in bursts) are averaged first. The run is then interpolated at twice the
    rate, and pairs are averaged, which reduces aliasing cheaply.

    Args:
        time_s: times (T,) from 0 in seconds, ascending.
        x: values (T, C).
        label: activities (T,).

    Returns:
        Values (G, C) and the activity nearest in time (G,) at each grid point.
    """
    known, first, slot = np.unique(time_s, return_index=True, return_inverse=True)
    weight = np.bincount(slot)
    fine = np.arange(0, known[-1], 0.5 / RATE_HZ)
    fine = fine[: len(fine) // 2 * 2]
    x = np.stack([np.interp(fine, known, np.bincount(slot, channel) / weight) for channel in x.T], axis=1)
    nearest = np.searchsorted((known[1:] + known[:-1]) / 2, fine.reshape(-1, 2).mean(axis=1))
    return x.reshape(-1, 2, x.shape[1]).mean(axis=1), label[first[nearest]]


def choose_test_executions(subject: int, executions: np.ndarray) -> set[int]:
    """Choose a person's test executions; phone and watch recorded an execution together, so both are in one part."""
    order = np.random.default_rng([subject, 0]).permutation(executions)
    return {int(execution) for execution in order[: round(TEST_FRACTION * len(executions))]}


def main(source: str, target: str) -> None:
    """Convert the file ``source`` to the file ``target``."""
    d = dict(np.load(source))  # an npz unpacks an array at every access, so read all arrays once
    key = np.stack([d["subject"], d["device"], d["execution"]], axis=1).astype(int)
    starts = np.flatnonzero(np.any(np.diff(key, axis=0, prepend=-1), axis=1))
    series, labels, runs = [], [], []
    for start, stop in zip(starts, [*starts[1:], len(key)], strict=True):
        subject, placement, execution = key[start]
        time_s = (d["time_ms"][start:stop] - d["time_ms"][start]) / 1000
        x, y = resample(time_s, d["x"][start:stop], d["label"][start:stop])
        test = execution in choose_test_executions(int(subject), np.unique(key[key[:, 0] == subject, 2]))
        series.append(x), labels.append(y), runs.append((subject, placement, execution, len(y), test))
    x = np.concatenate(series)
    scale = (np.abs(x).max(axis=0) / np.iinfo(np.int16).max).astype(np.float32)
    np.savez_compressed(
        packed := io.BytesIO(),
        series=np.round(x / scale).clip(-32767, 32767).astype(np.int16),
        scale=scale,
        label=np.concatenate(labels).astype(np.int8),
        runs=np.array(runs, np.int16),
        classes=d["label_names"],
    )
    # Flower's bundle of an app may hold JSON, but no .npz.
    Path(target).write_text(json.dumps({"npz": base64.b64encode(packed.getvalue()).decode()}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "har.json")
