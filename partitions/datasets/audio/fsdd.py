"""Free Spoken Digit Dataset: digits 0 to 9 by 6 speakers, 8 kHz, 3,000 recordings of 0.1 to 2.3 s."""

import re
from pathlib import Path

from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.images.arrays import Images, save
from partitions.errors import DataError

RATE = 8000
TEST = range(5)
NAME = re.compile(r"(\d)[/_]([a-z]+)_(?:nohash_)?(\d+)\.wav$")  # 7_theo_3.wav as published, 7/theo_nohash_3.wav


class Fsdd(Images):
    """Read spoken digits as spectrograms; a domain is a speaker.

    Recordings 0 to 4 of every speaker and digit are the test part, as usual. The source is
    github.com/Jakobovski/free-spoken-digit-dataset.
    """

    def how_to_obtain(self) -> str:
        return f"download its repository as a zip and run `python -m experiments data import {self.name} FILE`"

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import a zip of the recordings, such as a zip of the repository."""
        with audio.opened_zip(self.name, files) as archive:
            found = [match for name in sorted(archive.namelist()) if (match := NAME.search(name))]
            clips = [audio.Clip(m.string, m[1], m[2], int(m[3]) in TEST) for m in found]
            if len({clip.test for clip in clips}) < 2:
                raise DataError(f"{files[0]} does not hold both parts of {self.name}: it needs files like 7_theo_3.wav")
            arrays, names = audio.assemble(clips, lambda file: audio.read_wav(archive.open(file), RATE), RATE)
        return save(folder, self.name, arrays, **names)
