"""Where data sets are searched for and written to, and what to do if one is missing."""

from pathlib import Path

import pytest

import partitions.root
from partitions import DataError, fetch, load, where
from partitions.datasets.source import Source
from partitions.root import Root


def test_search_order_and_the_folder_that_data_are_written_to(data_root, tmp_path, monkeypatch):
    rest = (tmp_path / "installed", tmp_path / "checkout", tmp_path / "cache" / "driftfed")
    assert Root.at() == Root(rest, rest[-1])
    assert Root.at(data_root) == Root((data_root, *rest), data_root)
    named = tmp_path / "named"
    named.mkdir()
    monkeypatch.setenv("DRIFTFED_DATA", str(named))
    assert Root.at() == Root((named, *rest), named)
    assert Root.at(str(data_root)) == Root((data_root, named, *rest), data_root)


def test_the_first_folder_that_has_the_data_set_is_used(data_root, tmp_path):
    first, later = (folder / "har" / "har.json" for folder in (data_root, tmp_path / "checkout"))
    for file in (later, first):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"1234")
    assert where("har-embedded", data_root) == [("har-embedded", first, 4)]
    first.unlink()
    assert where("har-embedded", data_root) == [("har-embedded", later, 4)]
    later.unlink()
    assert where("har-embedded", data_root) == [("har-embedded", None, 0)]
    assert [name for name, _, _ in where(root=data_root)] == list(partitions.DATASETS)


def test_a_named_folder_must_exist(data_root, tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=f"data.root.* is {tmp_path}/nowhere, which is not an existing folder; create it"
    ):
        load("cifar10", tmp_path / "nowhere")
    monkeypatch.setenv("DRIFTFED_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="DRIFTFED_DATA is .*/gone, which is not"):
        load("cifar10")


def test_the_shipped_data_set_is_found_after_an_explicit_root(tmp_path):
    assert len(load("har-embedded", tmp_path).domains) == 46


def test_the_message_about_a_missing_data_set_says_what_to_run(data_root, tmp_path):
    with pytest.raises(DataError) as error:
        load("cifar10", data_root)
    folders = f"{data_root}, {tmp_path}/installed, {tmp_path}/checkout, {tmp_path}/cache/driftfed"
    assert str(error.value) == (
        f"cifar10 is not on this machine (searched {folders}): run `python -m experiments data fetch cifar10`"
    )
    with pytest.raises(DataError, match="it ships with the project, so reinstall it"):
        load("har-embedded", data_root)


def test_the_message_names_a_command_that_the_source_supports():
    class Placed(Source):
        name = "placed"

        def find(self, folder):
            return None

        def load(self, root, image_size=0):
            raise NotImplementedError

    class Imported(Placed):
        def import_files(self, files, folder):
            return folder

    commands = {
        Placed(): "put its files into the folder that DRIFTFED_DATA or data.root names",
        Imported(): "data import placed FILES`",
    }
    for source, message in commands.items():
        for call in (lambda source=source: source.require(Root.at()), lambda source=source: source.fetch(Path())):
            with pytest.raises(DataError, match=message):
                call()


def test_an_unknown_data_set():
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'; known: .* \(did you mean 'cifar10.?'\?\)"):
        load("cifar")


def test_fetch_without_a_network_leaves_nothing(data_root, monkeypatch):
    import urllib.request

    from torchaudio.datasets import speechcommands

    def no_network(*_, **__):
        raise urllib.request.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(speechcommands, "download_url_to_file", no_network)
    for name in ("har-uci", "cifar10", "fashion-mnist", "speech-commands"):
        with pytest.raises(DataError, match="could not download .* is there a network"):
            fetch(name, data_root)
    assert list(data_root.iterdir()) == []


def test_fetch_creates_the_folder_and_keeps_existing_data(data_root, tmp_path):
    present = tmp_path / "checkout" / "har" / "har.json"
    present.parent.mkdir(parents=True)
    present.write_bytes(b"")
    assert fetch("har-embedded", tmp_path / "new") == present
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize(
    ("name", "message"), [("~nobody-of-this-name/data", "there is no such user"), ("x" * 300, "File name too long")]
)
def test_a_name_that_cannot_be_is_no_folder(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Root.at(name)
