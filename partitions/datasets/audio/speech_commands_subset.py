"""The test set of Google Speech Commands v0.02 alone: 10 words, unknown words and silence, 4,890 clips of 1 s."""

import hashlib
import io
import re
from pathlib import Path

import numpy as np

from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.images.arrays import Images, save
from partitions.errors import DataError

RATE = 16_000
SILENCE = "_silence_"
NAME = re.compile(r"([a-z_]+)/([^/]+)\.[a-z0-9]+$")
SPEAKER = re.compile(r"([0-9a-f]+)_nohash_")


class SpeechCommandsTest(Images):
    """Read spoken words as spectrograms; a domain is a speaker.

    There is no training part, so the SHA-1 of a speaker's name decides: 7 of 10 speakers are for training, the rest for
    the test. Silence has no speaker. Its clips are split one by one and share the domain ``_silence_``.
    """

    def how_to_obtain(self) -> str:
        return f"run `python -m experiments data import {self.name} FILE` with a zip of it"

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import a zip of ``<word>/<speaker>_nohash_<n>`` files that libsndfile decodes (wav, flac, Opus)."""
        import soundfile

        with audio.opened_zip(self.name, files) as archive:
            clips = [clip(match) for name in sorted(archive.namelist()) if (match := NAME.search(name))]
            if len({clip.test for clip in clips}) < 2:
                raise DataError(f"{files[0]} does not hold {self.name}: it needs files like yes/0a2b400e_nohash_0.opus")

            def read(file: str) -> np.ndarray:
                try:
                    samples, rate = soundfile.read(io.BytesIO(archive.read(file)), dtype="float32")
                except soundfile.SoundFileError as error:
                    raise DataError(f"cannot decode {file} of {files[0]} ({error}); download it again") from error
                if rate != RATE or samples.ndim != 1:
                    raise DataError(f"{file} is not mono at {RATE} samples per second; convert it")
                return samples

            arrays, names = audio.assemble(clips, read, RATE)
        return save(folder, self.name, arrays, **names)


def clip(name: re.Match[str]) -> audio.Clip:
    """Return the clip of a file name, and choose its part."""
    known = SPEAKER.search(name[2])
    unit, speaker = (known[1], known[1]) if known else (name[2], SILENCE)
    digest = int(hashlib.sha1(unit.encode()).hexdigest(), 16)
    return audio.Clip(name.string, name[1], speaker, test=digest % 10 >= 7)
