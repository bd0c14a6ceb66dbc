from pathlib import Path

import pytest

import partitions.root
from partitions import DataError, fetch, load, where
from partitions.datasets.source import Source
from partitions.root import Root


def test_search_order_and_where_writes_go(alone, tmp_path, monkeypatch):
    rest = (tmp_path / "installed", tmp_path / "checkout", tmp_path / "cache" / "driftfed")
    assert Root.at() == Root(rest, rest[-1])
    assert Root.at(alone) == Root((alone, *rest), alone)
    named = tmp_path / "named"
    named.mkdir()
    monkeypatch.setenv("DRIFTFED_DATA", str(named))
    assert Root.at() == Root((named, *rest), named)
    assert Root.at(str(alone)) == Root((alone, named, *rest), alone)


def test_the_first_place_that_has_the_set_wins(alone, tmp_path):
    first, later = (place / "har" / "har.npz" for place in (alone, tmp_path / "checkout"))
    for file in (later, first):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"1234")
    assert where("har-embedded", alone) == [("har-embedded", first, 4)]
    first.unlink()
    assert where("har-embedded", alone) == [("har-embedded", later, 4)]
    later.unlink()
    assert where("har-embedded", alone) == [("har-embedded", None, 0)]
    assert [name for name, _, _ in where(root=alone)] == list(partitions.DATASETS)


def test_a_named_place_must_exist(alone, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f"the data root is {tmp_path}/nowhere, which is not an existing folder"):
        load("cifar10", tmp_path / "nowhere")
    monkeypatch.setenv("DRIFTFED_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="DRIFTFED_DATA is .*/gone, which is not"):
        load("cifar10")


def test_the_embedded_set_is_found_behind_an_explicit_root(tmp_path):
    assert len(load("har-embedded", tmp_path).domains) == 46


def test_a_missing_set_is_one_sentence_that_says_what_to_run(alone, tmp_path):
    with pytest.raises(DataError) as error:
        load("cifar10", alone)
    places = f"{alone}, {tmp_path}/installed, {tmp_path}/checkout, {tmp_path}/cache/driftfed"
    assert str(error.value) == (
        f"cifar10 is not on this machine (searched {places}): run `python -m experiments data fetch cifar10`"
    )
    with pytest.raises(DataError, match="it ships with the project, so reinstall it"):
        load("har-embedded", alone)


def test_a_remedy_names_a_command_that_can_help():
    class Placed(Source):
        name = "placed"

        def find(self, place):
            return None

        def load(self, root, image_size=0):
            raise NotImplementedError

    class Imported(Placed):
        def unpack(self, files, place):
            return place

    remedies = {Placed(): "put its files into the folder that DRIFTFED_DATA", Imported(): "data import placed FILES`"}
    for source, said in remedies.items():
        for asked in (lambda source=source: source.need(Root.at()), lambda source=source: source.fetch(Path())):
            with pytest.raises(DataError, match=said):
                asked()


def test_an_unknown_set():
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'; known: .* \(did you mean 'cifar10.?'\?\)"):
        load("cifar")


def test_fetch_without_a_network_leaves_nothing(alone, monkeypatch):
    import urllib.request

    from torchaudio.datasets import speechcommands

    def dead(*_, **__):
        raise urllib.request.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", dead)
    monkeypatch.setattr(speechcommands, "download_url_to_file", dead)
    for name in ("har-uci", "cifar10", "fashion-mnist", "speech-commands"):
        with pytest.raises(DataError, match="could not download .* is there a network"):
            fetch(name, alone)
    assert list(alone.iterdir()) == []


def test_fetch_makes_the_folder_and_keeps_what_is_there(alone, tmp_path):
    kept = tmp_path / "checkout" / "har" / "har.npz"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    assert fetch("har-embedded", tmp_path / "new") == kept
    assert (tmp_path / "new").is_dir()
