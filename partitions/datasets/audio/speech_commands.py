"""Google Speech Commands v0.02 (Warden, arXiv:1804.03209): 35 words by 2,618 speakers, clips of 1 s at 16 kHz.

The published lists decide: what stands in neither is train (84,843 clips), ``testing_list.txt`` is test (11,005).
``validation_list.txt`` (9,981) is left out, so that nothing learned here was chosen on it. No speaker is in two lists.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from partitions.datasets import archives, store
from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.download import through
from partitions.datasets.images.arrays import Images
from partitions.errors import DataError

RATE = 16_000
VERSION = "speech_commands_v0.02"  # torchaudio's name of the folder inside ``folder``
LIST = "testing_list.txt"


class SpeechCommands(Images):
    def fetch(self, place: Path) -> Path:
        from torchaudio.datasets import SPEECHCOMMANDS

        return through(lambda root: SPEECHCOMMANDS(root, download=True), self.name, self.folder, place)

    def unpack(self, files: list[Path], place: Path) -> Path:
        """``files``: the published tar.gz, or a folder that holds what it holds."""
        if len(files) != 1:
            raise DataError(f"{self.name} comes from one .tar.gz or folder")
        with store.arriving(place / self.folder) as new:
            if archives.unpack(files[0], new / VERSION):
                found = (new / VERSION / LIST).is_file()
            elif found := bool(lists := sorted(files[0].rglob(LIST))):
                shutil.copytree(lists[0].parent, new / VERSION)
            if not found:
                raise DataError(f"{files[0]} holds no folder of {VERSION}: {LIST} is not in it")
        return place / self.folder

    def original(self, place: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        from torchaudio.datasets import SPEECHCOMMANDS

        clips = []
        for subset in ("training", "testing"):
            try:
                part = SPEECHCOMMANDS(place, subset=subset)
            except (OSError, RuntimeError) as error:
                raise DataError(f"{place / self.folder} is damaged ({error}): remove it and {self.remedy()}") from error
            for file, _, word, speaker, _ in map(part.get_metadata, range(len(part))):
                clips.append(audio.Clip(str(place / self.folder / file), word, speaker, subset == "testing"))
        return audio.assemble(clips, lambda file: audio.read_wav(file, RATE), RATE)
