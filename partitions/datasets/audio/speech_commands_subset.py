"""The test set of Google Speech Commands v0.02 by itself: 10 words, unknown words and silence, 4,890 clips of 1 s.

A zip of ``<word>/<speaker>_nohash_<n>`` files in any form that libsndfile decodes (wav, flac, Opus). There is no train
part, so the SHA-1 of the speaker's name decides, as in the whole set a hash does: 7 of 10 speakers are train, the rest
test. No speaker is in both. Silence has no speaker: its clips are split one by one and share the domain ``_silence_``.
"""

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
    def remedy(self) -> str:
        return f"run `python -m experiments data import {self.name} FILE` with a zip of it"

    def unpack(self, files: list[Path], place: Path) -> Path:
        """``files``: the zip."""
        import soundfile

        with audio.opened_zip(self.name, files) as archive:
            clips = [clip(match) for name in sorted(archive.namelist()) if (match := NAME.search(name))]
            if len({clip.test for clip in clips}) < 2:
                raise DataError(f"{files[0]} does not hold {self.name}, files like yes/0a2b400e_nohash_0.opus")

            def read(file: str) -> np.ndarray:
                try:
                    samples, rate = soundfile.read(io.BytesIO(archive.read(file)), dtype="float32")
                except soundfile.SoundFileError as error:
                    raise DataError(f"cannot decode {file} of {files[0]}: {error}") from error
                if rate != RATE or samples.ndim != 1:
                    raise DataError(f"{file} is not mono at {RATE} samples a second")
                return samples

            arrays, names = audio.assemble(clips, read, RATE)
        return save(place, self.name, arrays, **names)


def clip(name: re.Match[str]) -> audio.Clip:
    known = SPEAKER.search(name[2])
    unit, speaker = (known[1], known[1]) if known else (name[2], SILENCE)
    digest = int(hashlib.sha1(unit.encode()).hexdigest(), 16)
    return audio.Clip(name.string, name[1], speaker, test=digest % 10 >= 7)
