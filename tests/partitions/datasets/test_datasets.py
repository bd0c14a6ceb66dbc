"""Load and import data sets from tiny files that the tests write in the original layouts."""

import csv
import gzip
import io
import os
import pickle
import struct
import tarfile
import wave
import zipfile

import numpy as np
import pytest
from PIL import Image

from partitions import DRIFTS, PARTITIONS, DataError, Dataset, World, import_, load, where
from partitions.datasets import store
from partitions.datasets.audio import spectrograms as audio
from partitions.datasets.images import arrays as images
from partitions.rng import rng
from partitions.root import cache_folder

SETS = {"cifar10": ("cifar-10-batches-py", 10), "cifar100": ("cifar-100-python", 100)}


def random_images(n: int, *shape: int) -> np.ndarray:
    return rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture
def trusting(monkeypatch):
    """Accept the tiny files, which do not have the checksums that torchvision expects."""
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)


def write_cifar(target, name):
    """Write 20 training and 6 test images as published, in pickled batches; returns x (26, 3, 32, 32) and y (26,)."""
    folder, classes = target / SETS[name][0], SETS[name][1]
    folder.mkdir(parents=True)
    x, y = random_images(26, 3, 32, 32), np.arange(26) % classes
    if name == "cifar10":
        parts = {f"data_batch_{i + 1}": slice(4 * i, 4 * i + 4) for i in range(5)} | {"test_batch": slice(20, 26)}
        files = {part: {"data": x[s].reshape(-1, 3072), "labels": y[s].tolist()} for part, s in parts.items()}
        files["batches.meta"] = {"label_names": [f"c{i}" for i in range(10)]}
    else:
        parts = {"train": slice(20), "test": slice(20, 26)}
        files = {part: {"data": x[s].reshape(-1, 3072), "fine_labels": y[s].tolist()} for part, s in parts.items()}
        files["meta"] = {"fine_label_names": [f"c{i}" for i in range(100)]}
    for file, content in files.items():
        (folder / file).write_bytes(pickle.dumps(content))
    return x, y


REAL_CACHE = cache_folder()  # tests get a cache folder of their own


@pytest.mark.skipif(where("cifar10")[0][1] is None, reason="CIFAR-10 is not on this machine")
def test_the_real_cifar10(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(REAL_CACHE.parent))
    data = load("cifar10")
    assert np.bincount(data.y_train).tolist() == [5000] * 10 and np.bincount(data.y_test).tolist() == [1000] * 10
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4)  # as published
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_cifar_in_its_original_layout(data_root, trusting, name):
    x, y = write_cifar(data_root, name)
    data = load(name, data_root)
    assert np.array_equal(data.x_train, x[:20]) and np.array_equal(data.x_test, x[20:])
    assert np.array_equal(data.y_train, y[:20]) and np.array_equal(data.labels("test", [5, 0]), y[[25, 20]])
    assert data.input_shape == (3, 32, 32) and data.num_classes == SETS[name][1] and data.classes[3] == "c3"
    assert isinstance(data.x_train, np.memmap)
    inputs = data.inputs("train")
    assert inputs.dtype == np.float32
    assert inputs.mean(axis=(0, 2, 3)) == pytest.approx([0, 0, 0], abs=1e-5)
    assert inputs.std(axis=(0, 2, 3)) == pytest.approx([1, 1, 1], abs=1e-5)
    assert np.allclose(data.inputs("test", [2])[0, 1], (x[22, 1] / 255 - data.mean[1]) / data.std[1], atol=1e-5)


def test_cifar_from_a_tar(data_root, tmp_path, trusting):
    x, _ = write_cifar(tmp_path / "src", "cifar10")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "src" / "cifar-10-batches-py", "cifar-10-batches-py")
    assert import_("cifar10", [tmp_path / "cifar-10-python.tar.gz"], data_root) == data_root / "cifar-10-batches-py"
    assert np.array_equal(load("cifar10", data_root).x_train, x[:20])
    with pytest.raises(DataError, match="is already at .*: remove it first"):
        import_("cifar10", [tmp_path / "cifar-10-python.tar.gz"], data_root)


def test_damaged_batches(data_root):
    (data_root / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="cifar-10-batches-py is damaged"):
        load("cifar10", data_root)


def write_mosaics(folder, splits=("train", "test")):
    """Write one zip per split with a sheet of 1000 images; the first has both tables. Returns x and y by split."""
    truth = {}
    for part, split in enumerate(splits):
        x, y = random_images(1000 + part, 32, 32, 3)[:1000], np.arange(1000) % 10
        truth[split] = x.transpose(0, 3, 1, 2), y
        sheet = io.BytesIO()
        Image.fromarray(x.reshape(25, 40, 32, 32, 3).swapaxes(1, 2).reshape(800, 1280, 3)).save(sheet, "png")
        with zipfile.ZipFile(folder / f"part{part}.zip", "w") as archive:
            archive.writestr(f"{split}/000.png", sheet.getvalue())
    with zipfile.ZipFile(folder / "part0.zip", "a") as archive:
        for split in splits:
            text = io.StringIO()
            rows = [{"index": i, "label": i % 10, "class": f"c{i % 10}"} for i in range(1000)]
            writer = csv.DictWriter(text, ["index", "label", "class"])
            writer.writeheader()
            writer.writerows(rows)
            archive.writestr(f"{split}.csv", text.getvalue())
    return truth


def test_cifar_from_mosaics(data_root, tmp_path):
    truth = write_mosaics(tmp_path)
    import_("cifar10", [tmp_path / "part1.zip", tmp_path / "part0.zip"], data_root)
    data = load("cifar10", data_root)
    for split in ("train", "test"):
        assert np.array_equal(getattr(data, f"x_{split}"), truth[split][0])
        assert np.array_equal(data.labels(split), truth[split][1])
    assert data.classes == tuple(f"c{i}" for i in range(10))


def test_an_incomplete_import_of_mosaics_leaves_nothing(data_root, tmp_path):
    write_mosaics(tmp_path)
    with pytest.raises(DataError, match="the zips hold 0 of 1000 test images: name all zips of the data set"):
        import_("cifar10", [tmp_path / "part0.zip"], data_root)
    (tmp_path / "part1.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="cannot read"):
        import_("cifar10", [tmp_path / "part0.zip", tmp_path / "part1.zip"], data_root)
    assert list(data_root.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"), [("train.csv", "index,label,class\n" + "0,cat,c\n" * 1000), ("train/000.png", b"\x89PNG\r\n")]
)
def test_mosaics_with_a_wrong_label_or_sheet(data_root, tmp_path, name, content):
    write_mosaics(tmp_path)
    with zipfile.ZipFile(tmp_path / "part0.zip") as archive:
        members = {other: archive.read(other) for other in archive.namelist()} | {name: content}
    with zipfile.ZipFile(tmp_path / "part0.zip", "w") as archive:
        for other, data in members.items():
            archive.writestr(other, data)
    with pytest.raises(DataError, match=r"cannot read .*part0.zip.*; download them again"):
        import_("cifar10", [tmp_path / "part0.zip", tmp_path / "part1.zip"], data_root)


def test_an_interrupted_import_leaves_nothing(data_root, tmp_path, monkeypatch):
    write_mosaics(tmp_path)
    saved = []

    def interrupted(path, array):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_("cifar10", [tmp_path / "part0.zip", tmp_path / "part1.zip"], data_root)
    assert len(saved) == 2 and [path for path in data_root.rglob("*") if path.name != "arrays"] == []
    with pytest.raises(DataError, match="is not on this machine"):
        load("cifar10", data_root)


def test_small_images_are_averages_and_are_stored(data_root, trusting, monkeypatch):
    x, _ = write_cifar(data_root, "cifar10")
    data = load("cifar10", data_root, 16)
    blocks = x[:20].reshape(20, 3, 16, 2, 16, 2).astype(float).mean(axis=(3, 5))
    assert np.array_equal(data.x_train, np.round(blocks)) and data.input_shape == (3, 16, 16)
    assert np.std(data.inputs("train")) == pytest.approx(1, abs=0.01)  # normalised by the moments of the small images

    monkeypatch.setattr(images, "shrink", None)
    from partitions import DATASETS
    from partitions.root import Root

    again = DATASETS["cifar10"].load(Root.at(data_root), 16)
    assert np.array_equal(again.x_train, data.x_train)


@pytest.mark.parametrize("size", [5, 64, -16])
def test_an_image_size_that_is_no_divisor(data_root, size):
    with pytest.raises(
        ValueError,
        match=f"data.image-size = {size} must divide the 32 rows of pixels of cifar10: use 1, 2, 4, 8, 16, or 0",
    ):
        load("cifar10", data_root, size)


def test_shrink_by_hand():
    x = np.array([[0, 2, 10, 10], [4, 6, 10, 11], [255, 255, 0, 0], [255, 255, 0, 1]], np.uint8)
    assert images.shrink(x[None, None], 2).tolist() == [[[[3, 10], [255, 0]]]]


@pytest.mark.parametrize(("file", "content"), [("x.npy", b"junk"), ("x.npy", b""), ("about.json", b"{")])
def test_the_message_about_a_damaged_file_names_it(tmp_path, file, content):
    folder = store.write(tmp_path, "toy", {"x": np.zeros(3)}, {})
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"{file} cannot be read .*: delete .*toy, and fetch or import"):
        store.read(folder)


def test_a_truncated_file_is_noticed(tmp_path):
    folder = store.write(tmp_path, "toy", {"x": np.zeros(300)}, {})
    os.truncate(folder / "x.npy", 1000)
    with pytest.raises(DataError, match=r"x.npy cannot be read"):
        store.read(folder)


def test_the_first_of_two_writers_wins(data_root):
    with store.atomic_folder(data_root / "set") as slow:
        (slow / "who").write_text("slow")
        with store.atomic_folder(data_root / "set") as fast:
            (fast / "who").write_text("fast")
    assert (data_root / "set" / "who").read_text() == "fast" and [p.name for p in data_root.iterdir()] == ["set"]


def write_idx(path, array, magic):
    path.write_bytes(gzip.compress(struct.pack(f">{1 + array.ndim}i", magic, *array.shape) + array.tobytes()))


def test_fashion_mnist_from_idx_files(data_root, tmp_path):
    x, y = random_images(9, 28, 28), (np.arange(9) % 10).astype(np.uint8)
    for part, s in (("train", slice(6)), ("t10k", slice(6, 9))):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", x[s], 2051)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", y[s], 2049)
    files = sorted(tmp_path.glob("*.gz"))
    with pytest.raises(DataError, match="fashion-mnist also needs t10k-images-idx3-ubyte.gz"):
        import_("fashion-mnist", files[1:], data_root)
    right = files[0].read_bytes()
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(
        DataError, match="t10k-images-idx3-ubyte.gz is not t10k-images-idx3-ubyte, which begins with 00 00 08 03"
    ):
        import_("fashion-mnist", files, data_root)
    files[0].write_bytes(right)
    import_("fashion-mnist", files, data_root)
    data = load("fashion-mnist", data_root, 14)
    assert data.input_shape == (1, 14, 14) and data.classes[9] == "Ankle boot"
    data = load("fashion-mnist", data_root)
    assert np.array_equal(data.x_train[:, 0], x[:6]) and np.array_equal(data.x_test[:, 0], x[6:])
    assert np.array_equal(data.y_test, y[6:])


def write_uci(folder):
    """Write 3 people x 2 activities x 20 windows of 561 features; person 3 is the official test part."""
    x = rng(5).normal(size=(120, 561))
    subject, y = np.repeat([1, 2, 3], 40), np.tile(np.repeat([1, 2], 20), 3)
    (folder / "activity_labels.txt").parent.mkdir(parents=True)
    (folder / "activity_labels.txt").write_text("1 WALKING\n2 WALKING_UPSTAIRS\n")
    for part, s in (("train", slice(80)), ("test", slice(80, 120))):
        (folder / part).mkdir()
        np.savetxt(folder / part / f"X_{part}.txt", x[s], fmt="%.6e")
        np.savetxt(folder / part / f"y_{part}.txt", y[s], fmt="%d")
        np.savetxt(folder / part / f"subject_{part}.txt", subject[s], fmt="%d")
    return x


def test_uci_har_is_split_again_within_every_person(data_root, tmp_path):
    x = write_uci(tmp_path / "UCI HAR Dataset")
    inner, outer = tmp_path / "UCI HAR Dataset.zip", tmp_path / "download.zip"  # the archive is packed twice
    with zipfile.ZipFile(inner, "w") as archive:
        for file in (tmp_path / "UCI HAR Dataset").rglob("*.txt"):
            archive.write(file, file.relative_to(tmp_path))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.write(inner, inner.name)
    import_("har-uci", [outer], data_root)
    data = load("har-uci", data_root)
    assert data.classes == ("walking", "walking-upstairs") and data.domains == ("person-01", "person-02", "person-03")
    assert np.bincount(data.domain_train).tolist() == [
        28,
        28,
        28,
    ]  # of 20 windows 14 are for training, 1 is dropped, 5 are for the test
    assert np.bincount(data.domain_test).tolist() == [10, 10, 10] and np.bincount(data.y_test).tolist() == [15, 15]
    training = np.concatenate([np.arange(start, start + 14) for start in range(0, 120, 20)])
    expected = (x[training] - x[training].mean(axis=0)) / x[training].std(axis=0)
    assert np.allclose(data.x_train, expected, atol=1e-3)
    assert len(set(data.group_train)) == 12  # blocks of 8 and 6 windows
    with pytest.raises(ValueError, match="har-uci holds no images, so data.image-size must be 0, not 16"):
        load("har-uci", data_root, 16)


def test_uci_har_with_lines_missing(data_root):
    write_uci(data_root / "UCI HAR Dataset")
    (data_root / "UCI HAR Dataset" / "train" / "y_train.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="is damaged: 120 windows, 42 labels, 120 subjects"):
        load("har-uci", data_root)


def tone(hertz: float, rate: int, seconds: float = 1.0, loud: float = 0.5) -> np.ndarray:
    return loud * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.round(samples * 2**15).astype("<i2").tobytes())
    return file.getvalue()


def loudest_band(x: np.ndarray) -> list[int]:
    """Return the loudest band of each spectrogram (N, 1, bands, frames)."""
    return x[:, 0].mean(axis=2).argmax(axis=1).tolist()


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_log_mel_by_hand(rate):
    """A tone of 1 kHz is 1000 mel; the nearest of 40 bands up to half the sampling rate is band 18 or 13."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    band = round(1000 / (top / 41)) - 1
    x = audio.log_mel([audio.second(tone(1000, rate), rate), np.zeros(rate, np.float32)], 2, rate)
    assert x.shape == (2, 1, 40, 80) and x.dtype == np.uint8 and not x[1].any()
    assert loudest_band(x[:1]) == [band] == [18 if rate == 8000 else 13]
    twice = audio.log_mel([audio.second(tone(1000, rate, loud=1.0), rate)], 1, rate)
    gain = twice[0, 0, band, 5:75].astype(int) - x[0, 0, band, 5:75]
    assert np.abs(gain - 12.04).max() < 1  # twice the amplitude: 6.02 dB, in half decibels


def test_a_short_clip_is_padded_and_a_long_one_truncated():
    assert audio.second(np.array([0.5, -2]), 4).tolist() == [0.5, -1, 0, 0]
    assert audio.second(np.arange(6) / 10, 4).tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


def test_fsdd_in_both_layouts(data_root, tmp_path):
    """Each digit is a different tone; recordings 0 to 4 are the test part."""
    with zipfile.ZipFile(tmp_path / "fsdd.zip", "w") as archive:
        for digit, speaker, n in [(d, s, n) for d in (3, 7) for s in ("theo", "jackson") for n in (0, 4, 5, 12)]:
            name = f"recordings/{digit}_{speaker}_{n}.wav" if speaker == "theo" else f"{digit}/{speaker}_nohash_{n}.wav"
            archive.writestr(name, wav_bytes(tone(400 * digit, 8000, 0.3), 8000))
        archive.writestr("README.md", "not a recording")
    import_("fsdd", [tmp_path / "fsdd.zip"], data_root)
    data = load("fsdd", data_root)
    assert data.classes == ("3", "7") and data.domains == ("jackson", "theo")
    assert (
        np.bincount(data.y_train * 2 + data.domain_train).tolist()
        == [2, 2, 2, 2]
        == np.bincount(data.y_test * 2 + data.domain_test).tolist()
    )
    bands = np.array(loudest_band(data.x_train))
    low, high = (set(bands[data.y_train == digit].tolist()) for digit in (0, 1))
    assert len(low) == len(high) == 1 and max(low) < min(high)
    assert not data.x_train[:, 0, :, 30:].any()  # 0.3 s of sound, the rest is silence
    assert load("fsdd", data_root, 20).input_shape == (1, 20, 40)


def test_the_speech_test_set_is_split_by_speaker(data_root, tmp_path):
    import soundfile

    speakers = [f"{n:08x}" for n in range(30)]
    with zipfile.ZipFile(tmp_path / "speech.zip", "w") as archive:
        files = [f"yes/{s}_nohash_{n}.opus" for s in speakers for n in (0, 1)]
        files += [f"_unknown_/bird_{s}_nohash_0.wav.opus" for s in speakers[:9]]
        files += [f"_silence_/{n}.opus" for n in range(20)]
        for file in [*files, "LICENSE"]:
            encoded = io.BytesIO()
            hertz = 1500 if file.startswith("_unknown_") else 500
            soundfile.write(encoded, tone(hertz, 16_000), 16_000, format="OGG", subtype="OPUS")
            archive.writestr(file, encoded.getvalue())
    import_("speech-commands-test", [tmp_path / "speech.zip"], data_root)
    data = load("speech-commands-test", data_root)
    assert data.classes == ("_silence_", "_unknown_", "yes") and data.domains == (*speakers, "_silence_")
    silence = len(speakers)
    assert not (set(data.domain_train) & set(data.domain_test)) - {silence}
    assert 0.5 < len(data.y_train) / len(files) < 0.9 and set(data.y_train) == set(data.y_test) == {0, 1, 2}
    assert np.bincount(data.y_train).sum() + np.bincount(data.y_test).sum() == len(files)
    assert set(data.domain_train[data.y_train == 0]) == {silence} and silence not in data.domain_train[data.y_train > 0]
    bands = np.array(loudest_band(data.x_train))
    assert (
        bands[data.y_train == 1] > bands[data.y_train == 2].max()
    ).all()  # the files were decoded: 1500 Hz is above 500 Hz


def write_speech_commands(folder):
    """Write 3 words x 4 speakers x 2 clips as published; speaker 2 is for validation, speaker 3 for the test."""
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    for number, word in enumerate(("bird", "cat", "zero")):
        (folder / word).mkdir(parents=True)
        for speaker in range(4):
            for n in (0, 1):
                file = f"{word}/{speaker:08x}_nohash_{n}.wav"
                (folder / file).write_bytes(wav_bytes(tone(500 * (number + 1), 16_000, 0.5 + n / 2), 16_000))
                if speaker >= 2:
                    lists["testing_list.txt" if speaker == 3 else "validation_list.txt"].append(file)
    (folder / "_background_noise_").mkdir()
    (folder / "_background_noise_" / "white_noise.wav").write_bytes(wav_bytes(tone(1, 16_000, 3), 16_000))
    for name, files in lists.items():
        (folder / name).write_text("\n".join(files) + "\n")


@pytest.mark.parametrize("packed", [True, False])
def test_speech_commands_as_published(data_root, tmp_path, packed):
    source = tmp_path / "unpacked"
    write_speech_commands(source)
    if packed:
        with tarfile.open(tmp_path / "speech_commands_v0.02.tar.gz", "w:gz") as tar:
            tar.add(source, ".")  # as published, without a top folder
        source = tmp_path / "speech_commands_v0.02.tar.gz"
    assert import_("speech-commands", [source], data_root) == data_root / "SpeechCommands"
    data = load("speech-commands", data_root)
    assert data.classes == ("bird", "cat", "zero") and data.domains == ("00000000", "00000001", "00000003")
    assert data.y_train.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and data.y_test.tolist() == [0, 0, 1, 1, 2, 2]
    assert set(data.domain_train) == {0, 1} and set(data.domain_test) == {2}
    assert np.diff(loudest_band(data.x_train)[::4]).min() > 0 and len(set(loudest_band(data.x_train)[:4])) == 1
    assert load("speech-commands", data_root, 10).input_shape == (1, 10, 20)
    with pytest.raises(
        ValueError, match="needs test samples of every domain, and those of speech-commands come from other domains"
    ):
        World(data, PARTITIONS["subject"](), DRIFTS["none"](), 1)


def test_speech_commands_damaged(data_root, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="holds no folder of speech_commands_v0.02: testing_list.txt is not in it"):
        import_("speech-commands", [tmp_path / "other"], data_root)
    assert list(data_root.iterdir()) == []
    write_speech_commands(data_root / "SpeechCommands" / "speech_commands_v0.02")
    broken = data_root / "SpeechCommands" / "speech_commands_v0.02" / "cat" / "00000000_nohash_0.wav"
    broken.write_bytes(wav_bytes(tone(500, 8000), 8000))
    with pytest.raises(DataError, match=r"has \(channels, bytes, samples per second\) = \(1, 2, 8000\), not"):
        load("speech-commands", data_root)
    broken.write_bytes(b"junk")
    with pytest.raises(DataError, match="is not a readable wav file"):
        load("speech-commands", data_root)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cifar10", b"", "is not a readable zip or tar archive"),
        ("har-uci", b"junk", "is not a readable zip or tar archive"),
        ("har-embedded", b"", "har-embedded cannot be imported"),
        ("speech-commands", b"junk", "is not a readable zip or tar archive"),
        ("speech-commands-test", b"junk", "is not a readable zip archive"),
        ("fsdd", b"junk", "is not a readable zip archive"),
    ],
)
def test_files_of_another_kind(data_root, tmp_path, name, content, message):
    (tmp_path / "file.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_(name, [tmp_path / "file.tar.gz"], data_root)
    with pytest.raises(DataError, match="does not exist"):
        import_(name, [tmp_path / "absent"], data_root)
    with pytest.raises(DataError, match="name the files"):
        import_(name, [], data_root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no folder|cannot be imported|is not a readable zip"):
        import_(name, [tmp_path / "empty"], data_root)
    assert list(data_root.iterdir()) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], "train part of toy has labels 1 to 2; allowed are 0 to 1"),
        ([0], "train part of toy needs 2 labels, .* not 1"),
    ],
)
def test_samples_labels_and_classes_must_match(labels, message):
    y = np.array(labels)
    with pytest.raises(DataError, match=message):
        Dataset("toy", np.zeros((2, 3), np.float32), y, np.zeros((len(y), 3), np.float32), y, classes=("a", "b"))
