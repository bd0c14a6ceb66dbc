"""Data sets by name. A new one is a file here and a line in ``DATASETS``."""

from functools import lru_cache
from pathlib import Path

from partitions.dataset import Dataset
from partitions.datasets.activity.har_embedded import HarEmbedded
from partitions.datasets.activity.har_uci import HarUci
from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.audio.fsdd import Fsdd
from partitions.datasets.audio.speech_commands import SpeechCommands
from partitions.datasets.audio.speech_commands_subset import SpeechCommandsTest
from partitions.datasets.folder import Folder
from partitions.datasets.images.cifar import Cifar
from partitions.datasets.images.fashion_mnist import FashionMnist
from partitions.datasets.source import Source
from partitions.datasets.text.find_the_span import FindTheSpan
from partitions.datasets.text.questions import Questions
from partitions.datasets.text.squad import Squad
from partitions.datasets.text.texts import TEXTS
from partitions.errors import DataError, lookup
from partitions.root import Root

DATASETS: dict[str, Source] = {
    "har-embedded": HarEmbedded(),
    "har-uci": HarUci(),
    "cifar10": Cifar("cifar10", "cifar-10-batches-py", 32, "CIFAR10"),
    "cifar100": Cifar("cifar100", "cifar-100-python", 32, "CIFAR100"),
    "fashion-mnist": FashionMnist("fashion-mnist", "FashionMNIST", 28, "FashionMNIST"),
    "speech-commands": SpeechCommands("speech-commands", "SpeechCommands", audio.BANDS),
    "speech-commands-test": SpeechCommandsTest("speech-commands-test", "", audio.BANDS),
    "folder": Folder(),
    "fsdd": Fsdd("fsdd", "", audio.BANDS),
    "questions": Questions("questions"),
    "question-articles": Questions("question-articles", "article", "topic"),
    "squad": Squad(),
    "find-the-span": FindTheSpan(),
    **TEXTS,
}


def load(name: str, root: str | Path | Root | None = None, image_size: int = 0) -> Dataset:
    """The data set, read once per process. UnknownName, DataError if missing, ValueError for an impossible size."""
    lookup("data set", name, DATASETS)
    return _load(name, Root.at(root), image_size)


@lru_cache(maxsize=8)
def _load(name: str, root: Root, image_size: int) -> Dataset:
    return DATASETS[name].load(root, image_size)


def fetch(name: str, root: str | Path | Root | None = None) -> Path:
    """Downloads a data set unless it is there already; returns where it lies. DataError without a network."""
    source, where_to = lookup("data set", name, DATASETS), Root.at(root, create=True)
    return source.seek(where_to) or source.fetch(where_to.target)


def import_(name: str, files: list[Path], root: str | Path | Root | None = None) -> Path:
    """Takes a data set from local archives or folders; returns where it lies. DataError if they are not it."""
    source, where_to = lookup("data set", name, DATASETS), Root.at(root, create=True)
    if present := source.find(where_to.target):
        raise DataError(f"{name} is already at {present}: remove it first to import it again")
    if not files:
        raise DataError(f"name the files that hold {name}")
    for file in files:
        if not Path(file).exists():
            raise DataError(f"{file} does not exist")
    return source.unpack([Path(file) for file in files], where_to.target)


def where(name: str | None = None, root: str | Path | Root | None = None) -> list[tuple[str, Path | None, int]]:
    """Rows (name, path or None, bytes) for one data set or for all."""
    names = list(DATASETS) if name is None else [name]
    found = [(each, lookup("data set", each, DATASETS).seek(Root.at(root))) for each in names]
    return [(each, path, size_of(path) if path else 0) for each, path in found]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
