"""Text as tokens: a reproducible vocabulary from the proxy data set, token ids, and spans of tokens."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from partitions import DRIFTS, PARTITIONS, Dataset, World, load, tokens
from partitions.datasets.text.texts import strings

TEXTS = ["The dog barks.", "A dog sleeps; the cat barks?", "dogs and cats", "Café, cafés and dogs!"]


def test_the_same_texts_give_the_same_vocabulary_in_every_process() -> None:
    """The library's trainer alone does not: it numbers letters in the order of a hash table."""
    here = json.loads(tokens.train(TEXTS * 3, 60).to_str())
    code = f"from partitions import tokens; print(tokens.train({TEXTS * 3!r}, 60).to_str())"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
        assert json.loads(done.stdout) == here
    vocabulary = here["model"]["vocab"]
    assert len(vocabulary) == 60 and [vocabulary[name] for name in tokens.SPECIAL] == [0, 1, 2, 3, 4]


def test_one_sentence_and_two() -> None:
    learned = tokens.train(TEXTS, 200)
    dog, barks, cat = (learned.token_to_id(word) for word in ("dog", "barks", "cat"))
    one = tokens.encode(learned, strings([["dog barks"], ["zebra dog"], ["[CLS]"]]), 6)
    assert one.dtype == np.int32 and one[0].tolist() == [tokens.CLS, dog, barks, tokens.SEP, 0, 0]
    assert one[1].tolist()[:2] == [tokens.CLS, tokens.UNK] and one[1, 2] == dog  # no text contains a z
    assert tokens.CLS not in one[2, 1:]  # special tokens in a text are ordinary characters
    pair = tokens.encode(learned, strings([["dog barks dog barks", "cat"]]), 6)
    assert pair.tolist() == [[tokens.CLS, dog, barks, tokens.SEP, cat, tokens.SEP]]  # the longer one is truncated


def toy() -> Dataset:
    rng = np.random.default_rng(0)
    words = np.array(["ant", "bee", "cow", "dog", "eel", "fox"])
    y = np.arange(60) % 3
    texts = strings([[" ".join(words[[2 * k, 2 * k + 1]][rng.integers(0, 2, 4)])] for k in y])
    return Dataset("toy-text", texts[:45], y[:45], texts[45:], y[45:], classes=("a", "b", "c"))


def test_the_vocabulary_comes_from_the_proxy_only(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = toy()
    first = np.flatnonzero(data.y_train == 0)  # ant and bee
    seen = tokens.tokenised(data, first, 100, 8)
    assert (seen.x_train[data.y_train == 0] != tokens.UNK).all() and seen.input_shape == (8,)
    assert (seen.x_train[data.y_train == 1][:, 1] == tokens.UNK).all()  # no text of the proxy contains the c of cow
    assert seen.inputs("train", [0]).dtype == np.int32 and not seen.text and data.text
    changed = replace(data, x_train=np.where(data.y_train[:, None] == 1, strings([["emu"]]), data.x_train))
    assert np.array_equal(tokens.tokenised(changed, first, 100, 8).x_train[first], seen.x_train[first])


def test_tokens_are_cached_and_mapped(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = tokens.tokenised(toy(), np.arange(20), 100, 8)
    monkeypatch.setattr(tokens, "train", lambda *_: pytest.fail("trained again"))
    again = tokens.tokenised(toy(), np.arange(20), 100, 8)
    assert isinstance(again.x_train, np.memmap) and np.array_equal(again.x_train, made.x_train)
    with pytest.raises(pytest.fail.Exception):
        tokens.tokenised(toy(), np.arange(21), 100, 8)


@pytest.mark.parametrize(
    ("partition", "drift"), [("m-classes", "class-swap"), ("dirichlet", "label-shift"), ("subject", "subject")]
)
def test_devices_with_text_drift_like_others(partition: str, drift: str) -> None:
    """A device has the topics or articles of its distribution, and others after a shift."""
    data = load("questions")
    here = World(data, PARTITIONS[partition](), DRIFTS[drift](), seed=1, samples=(20, 30), drift_fraction=1.0)
    for device in range(3):
        for step in (0, 1):
            draw, p = here.draw(device, step), here.distribution(device, step)
            cells = here.cell[draw.train]
            assert (p[cells] > 0).all()
        assert not np.array_equal(here.distribution(device, 0), here.distribution(device, 1))


def test_a_span_of_characters_is_a_span_of_tokens() -> None:
    """Word pieces, a part of a word, accents, characters beyond 16 bits, and truncated texts."""
    vocabulary = [*tokens.SPECIAL, "who", "el", "##eph", "##ant", "cafe", "the"]
    learned = tokens._wordpiece({word: i for i, word in enumerate(vocabulary)})
    question, passage = (
        "the the who",
        "the 🐘 elephant Café",
    )  # [CLS] the the who [SEP], the 🐘 el ##eph ##ant cafe [SEP]
    wanted = {(0, 3): [5, 5], (4, 5): [6, 6], (6, 14): [7, 9], (8, 10): [8, 8], (4, 19): [6, 10], (15, 19): [10, 10]}
    rows, characters = strings([[question, passage]] * len(wanted)), np.array(list(wanted))
    for length, cut in ((14, 11), (11, 10), (10, 9)):  # nothing; cafe; ##ant too
        offsets = tokens._offsets(tokens._encodings(learned, rows, length), length)
        found = tokens.spans(offsets, characters)
        assert found.tolist() == [span if span[1] < cut else [-1, -1] for span in wanted.values()]
    assert [passage[a:b] for a, b in offsets[0, 5:9]] == ["the", "🐘", "el", "eph"] and not offsets[0, :5].any()


def test_spans_are_cached_with_their_tokens(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of an answer spell it; the same texts with other answers are another entry of the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = load("find-the-span")
    assert whole.span_train is not None and whole.span_test is not None
    train = {"x_train": whole.x_train[:99], "y_train": whole.y_train[:99], "span_train": whole.span_train[:99]}
    data = replace(whole, **train, x_test=whole.x_test[:9], y_test=whole.y_test[:9], span_test=whole.span_test[:9])
    made = tokens.tokenised(data, np.arange(99), 120, 64)  # a small vocabulary: a name has several tokens
    assert made.span_train is not None and made.span_test is not None and (made.span_train >= 0).all()
    assert made.offsets_test is not None and data.span_test is not None
    assert (made.span_test[:, 1] - made.span_test[:, 0]).max() > 2
    rows = zip(data.x_test, made.offsets_test, made.span_test, data.span_test, strict=True)
    for (_, passage), offsets, span, answer in rows:
        assert (offsets[span[0], 0], offsets[span[1], 1]) == tuple(answer) and passage[slice(*answer)].count(" ") == 1
    other = tokens.tokenised(replace(data, span_test=data.span_test[::-1]), np.arange(99), 120, 64)
    assert not np.array_equal(other.span_test, made.span_test) and np.array_equal(other.x_test, made.x_test)
