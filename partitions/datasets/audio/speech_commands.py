"""Google Speech Commands v0.02 (Warden, arXiv:1804.03209): 35 words by 2,618 speakers, clips of 1 s at 16 kHz."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from partitions.datasets import archives, store
from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.download import download_with
from partitions.datasets.images.arrays import Images
from partitions.errors import DataError

RATE = 16_000
VERSION = "speech_commands_v0.02"  # the folder that torchaudio creates in ``subfolder``
LIST = "testing_list.txt"


class SpeechCommands(Images):
    """Read spoken words as spectrograms; a domain is a speaker.

    The published lists give the parts. ``testing_list.txt`` is the test part (11,005 clips). The clips of
    ``validation_list.txt`` (9,981) are not used. All other clips are for training (84,843). No speaker is in two parts.
    """

    def fetch(self, folder: Path) -> Path:
        from torchaudio.datasets import SPEECHCOMMANDS

        return download_with(lambda root: SPEECHCOMMANDS(root, download=True), self.name, self.subfolder, folder)

    def import_files(self, files: list[Path], folder: Path) -> Path:
        """Import the published tar.gz, or a folder with the same content."""
        if len(files) != 1:
            raise DataError(f"{self.name} comes from one .tar.gz or folder, not {len(files)} files; name one")
        with store.atomic_folder(folder / self.subfolder) as new:
            if archives.unpack(files[0], new / VERSION):
                found = (new / VERSION / LIST).is_file()
            elif found := bool(lists := sorted(files[0].rglob(LIST))):
                shutil.copytree(lists[0].parent, new / VERSION)
            if not found:
                raise DataError(f"{files[0]} holds no folder of {VERSION}: {LIST} is not in it")
        return folder / self.subfolder

    def read_original(self, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        from torchaudio.datasets import SPEECHCOMMANDS

        clips, original = [], folder / self.subfolder
        for subset in ("training", "testing"):
            try:
                part = SPEECHCOMMANDS(folder, subset=subset)
            except (OSError, RuntimeError) as error:
                raise DataError(f"{original} is damaged ({error}): remove it and {self.how_to_obtain()}") from error
            for file, _, word, speaker, _ in map(part.get_metadata, range(len(part))):
                clips.append(audio.Clip(str(original / file), word, speaker, subset == "testing"))
        return audio.assemble(clips, lambda file: audio.read_wav(file, RATE), RATE)
