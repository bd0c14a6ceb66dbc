"""Data sets by name; `partitions.components.Registry` explains how to add one."""

from functools import lru_cache
from pathlib import Path

from partitions.components import Registry, Section
from partitions.dataset import Dataset
from partitions.datasets.activity.har_embedded import HarEmbedded
from partitions.datasets.activity.har_uci import HarUci
from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.audio.fsdd import Fsdd
from partitions.datasets.audio.speech_commands import SpeechCommands
from partitions.datasets.audio.speech_commands_subset import SpeechCommandsTest
from partitions.datasets.folder import Folder
from partitions.datasets.frame import adapted
from partitions.datasets.images.cifar import Cifar
from partitions.datasets.images.fashion_mnist import FashionMnist
from partitions.datasets.source import Source
from partitions.datasets.text.find_the_span import FindTheSpan
from partitions.datasets.text.layouts import TEXTS
from partitions.datasets.text.questions import Questions
from partitions.datasets.text.squad import Squad
from partitions.errors import DataError
from partitions.root import Root, absolute

DATASETS: Registry[Source] = Registry("data set", "driftfed.datasets", {
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
}, adapted)  # fmt: skip


def source_of(name: str) -> Source:
    """Return the source of a data set, given a built-in name or the path of one (`partitions.datasets.frame.adapted`).

    Raises:
        UnknownName: there is no such data set, or the path leads to something else.
    """
    return DATASETS[name]


def load(
    name: str, root: str | Path | Root | None = None, image_size: int = 0, options: Section | None = None
) -> Dataset:
    """Load a data set, once per process.

    Args:
        name: built-in name, or the path of a data set.
        root: folder to search first; `Root.at` lists the others.
        image_size: rows of pixels to which images are shrunk; 0: full size.
        options: of the data set; None: its defaults.

    Raises:
        UnknownName: there is no such data set.
        DataError: its files are missing or damaged.
        ValueError: the images cannot have this size.
    """
    return _load(name, Root.at(root), image_size, options)


@lru_cache(maxsize=8)
def _load(name: str, root: Root, image_size: int, options: Section | None) -> Dataset:
    source = source_of(name)
    return (source.with_options(options) if options else source).load(root, image_size)


def fetch(name: str, root: str | Path | Root | None = None) -> Path:
    """Download a data set unless it is already on this machine.

    Returns:
        The folder or file of the data set.

    Raises:
        UnknownName, DataError: there is no such data set; it cannot be downloaded.
    """
    source, folders = source_of(name), Root.at(root, create=True)
    return source.search(folders) or source.fetch(folders.target)


def import_(name: str, files: list[Path], root: str | Path | Root | None = None) -> Path:
    """Import a data set from local archives or folders.

    Returns:
        The folder or file of the imported data set.

    Raises:
        UnknownName, DataError: there is no such data set; it is already there, or the files do not contain it.
    """
    source, folders = source_of(name), Root.at(root, create=True)
    if present := source.find(folders.target):
        raise DataError(f"{name} is already at {present}: remove it first to import it again")
    if not files:
        raise DataError(f"name the files to import {name} from: `python -m experiments data import {name} FILES`")
    for file in files:
        if not absolute(file).exists():
            raise DataError(f"{file} does not exist; correct the path to import {name}")
    return source.import_files([Path(file) for file in files], folders.target)


def where(name: str | None = None, root: str | Path | Root | None = None) -> list[tuple[str, Path | None, int]]:
    """Return (name, path, bytes) of one data set or of all; the path is None if it is not on this machine."""
    names = list(DATASETS) if name is None else [name]
    found = [(each, source_of(each).search(Root.at(root))) for each in names]
    return [(each, path, size_of(path) if path else 0) for each, path in found]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
