"""Spoken words as images: the log-mel spectrogram of one second, 40 bands x 80 frames, one byte each."""

import wave
import zipfile
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from partitions.errors import DataError, one_line

BANDS, FRAMES = 40, 80
FLOOR, STEP = -80.0, 0.5  # dB
FFT = 512  # points, zero-padded so that every band contains a bin at 8 kHz and at 16 kHz
CHUNK = 512  # clips at a time


class Clip(NamedTuple):
    """One audio file: its word is the class, its speaker the domain, and ``test`` is true in the test part."""

    file: str
    word: str
    speaker: str
    test: bool


def assemble(
    clips: Sequence[Clip], read: Callable[[str], np.ndarray], rate: int
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Convert clips to the arrays and names of a `Dataset`.

    Args:
        read: returns the samples (T,) of a file, in -1..1.
        rate: samples per second.

    Returns:
        x_* uint8 (N, 1, BANDS, FRAMES), y_* and domain_* int64 (N,) in the order of ``clips``; and classes and domains.
    """
    words, speakers = sorted({clip.word for clip in clips}), sorted({clip.speaker for clip in clips})
    arrays = {}
    for split in ("train", "test"):
        part = [clip for clip in clips if clip.test == (split == "test")]
        arrays[f"x_{split}"] = log_mel((second(read(clip.file), rate) for clip in part), len(part), rate)
        arrays[f"y_{split}"] = np.searchsorted(words, [clip.word for clip in part])
        arrays[f"domain_{split}"] = np.searchsorted(speakers, [clip.speaker for clip in part])
    return arrays, {"classes": words, "domains": speakers}


def log_mel(seconds: Iterable[np.ndarray], count: int, rate: int) -> np.ndarray:
    """Convert ``count`` clips float32 (rate,) to spectrograms uint8 (count, 1, BANDS, FRAMES), low bands first.

    A byte counts half decibels above -80 dB, which is about the noise of 16-bit audio. So 255 is 47.5 dB, about the
    level of a full-scale tone. Windows of 25 ms start every 12.5 ms, and bands reach up to half the sampling rate.
    """
    import torch  # importing takes seconds, and converted data do not need it
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    power = MelSpectrogram(rate, FFT, win_length=rate // 40, hop_length=rate // FRAMES, n_mels=BANDS)
    decibel = AmplitudeToDB("power")
    images, rest = np.empty((count, 1, BANDS, FRAMES), np.uint8), iter(seconds)
    for start in range(0, count, CHUNK):
        wave_ = torch.from_numpy(np.stack(list(islice(rest, CHUNK))))
        level = (decibel(power(wave_))[..., :FRAMES] - FLOOR) / STEP  # the last frame is centred on the end
        images[start : start + CHUNK, 0] = level.round().clamp(0, 255).numpy()
    return images


def second(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return the first second float32 (rate,), padded with silence and clipped, because decoders may exceed 1."""
    out = np.zeros(rate, np.float32)
    out[: len(samples)] = np.clip(samples[:rate], -1, 1)
    return out


def read_wav(file: str | IO[bytes], rate: int) -> np.ndarray:
    """Read samples float32 (T,) in -1..1; DataError if the file is not 16-bit mono at ``rate`` samples per second."""
    try:
        with wave.open(file) as opened:
            form = opened.getnchannels(), opened.getsampwidth(), opened.getframerate()
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
    except Exception as error:  # `wave` raises errors of many types
        raise DataError(f"{file} is not a readable wav file ({one_line(error)}); download the data again") from error
    if form != (1, 2, rate):
        raise DataError(f"{file} has (channels, bytes, samples per second) = {form}, not {(1, 2, rate)}; convert it")
    return samples / np.float32(2**15)


def opened_zip(name: str, files: list[Path]) -> zipfile.ZipFile:
    """Open the only file of ``files``; DataError if there are more, or if it is not a zip."""
    if len(files) != 1:
        raise DataError(f"{name} comes from one zip, not {len(files)} files; name one")
    try:
        return zipfile.ZipFile(files[0])
    except Exception as error:  # `zipfile` raises errors of many types
        raise DataError(f"{files[0]} is not a readable zip archive ({one_line(error)}); download it again") from error
