"""Text as tokens: a WordPiece vocabulary trained on the cloud's text alone, and examples encoded with it.

An example is ``[CLS] first [SEP]`` or ``[CLS] first [SEP] second [SEP]``, cut to a length and filled up with ``[PAD]``:
its length and its sentences can be told from the ids. Text is put in lower case, without accents.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.root import cache_folder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))  # their ids
LETTERS = 1000  # different characters at most; a word with another one is [UNK]


def train(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """A WordPiece tokenizer of at most ``vocabulary`` ids, the same for the same texts.

    The library numbers letters inside a word in the order of a hash table and breaks ties by these numbers; here all
    letters are numbered beforehand.
    """
    learner = _wordpiece({})
    counts = Counter("".join(learner.normalizer.normalize_str(text) for text in texts))
    letters = sorted(sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))[:LETTERS])
    first = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    learner.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=first, limit_alphabet=0, show_progress=False),
    )
    return _wordpiece(learner.get_vocab())


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[UNK]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SPECIAL[SEP], SEP), (SPECIAL[CLS], CLS))
    return tokenizer


def encode(tokenizer: Tokenizer, texts: np.ndarray, length: int) -> np.ndarray:
    """Strings (N, sentences) as int32 ids (N, ``length``); of two sentences the longer one is cut first."""
    return _ids(_encodings(tokenizer, texts, length), length)


def _encodings(tokenizer: Tokenizer, texts: np.ndarray, length: int) -> list[Encoding]:
    tokenizer.enable_truncation(length, strategy="longest_first")
    tokenizer.enable_padding(pad_id=PAD, pad_token=SPECIAL[PAD], length=length)
    rows = [tuple(row) if len(row) > 1 else row[0] for row in texts.tolist()]
    return tokenizer.encode_batch(rows)


def _ids(found: list[Encoding], length: int) -> np.ndarray:
    return np.array([encoding.ids for encoding in found], np.int32).reshape(len(found), length)


def _places(found: list[Encoding], length: int) -> np.ndarray:
    """``places`` of a `Dataset`, int32 (N, ``length``, 2)."""
    places = [
        [offset if of == 1 else (0, 0) for offset, of in zip(encoding.offsets, encoding.sequence_ids, strict=True)]
        for encoding in found
    ]
    return np.array(places, np.int32).reshape(len(found), length, 2)


def spans(places: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """First and last token int64 (N, 2) of ``characters`` from and up to (N, 2); -1 where not all of them are there.

    Args:
        places: int32 (N, T, 2) of the tokens.
    """
    begin, end = places[..., 0], places[..., 1]
    inside = (end > characters[:, :1]) & (begin < characters[:, 1:]) & (end > begin)
    first, last = inside.argmax(1), places.shape[1] - 1 - inside[:, ::-1].argmax(1)
    whole = inside.any(1) & (end.max(1) >= characters[:, 1])
    return np.where(whole[:, None], np.stack([first, last], 1), -1)


def tokenised(
    data: Dataset, proxy: np.ndarray, vocabulary: int, length: int, tokenizer: Tokenizer | None = None
) -> Dataset:
    """The text set with int32 ids (N, ``length``) for its strings, cached for every process of the machine.

    Args:
        proxy: the train examples (P,) that the vocabulary is trained on.
        tokenizer: one that is there already, with the special tokens of `SPECIAL` and 0 for [PAD].
    """
    said = hashlib.sha256(repr((data.name, vocabulary, length, tokenizers.__version__)).encode())
    said.update(tokenizer.to_str().encode() if tokenizer else b"")
    said.update(proxy.astype(np.int64).tobytes())
    for texts, span in ((data.x_train, data.span_train), (data.x_test, data.span_test)):
        said.update("\0".join(texts.ravel().tolist()).encode())
        said.update(b"" if span is None else np.asarray(span).tobytes())
    arrays: dict[str, np.ndarray] = {}
    place, name = cache_folder(), f"tokens-{said.hexdigest()[:20]}"
    if not store.holds(place, name):
        tokenizer = tokenizer or train(data.x_train[proxy].ravel().tolist(), vocabulary)
        for split in ("train", "test"):
            found = _encodings(tokenizer, getattr(data, f"x_{split}"), length)
            arrays[split] = _ids(found, length)
            if (characters := getattr(data, f"span_{split}")) is not None:
                places = _places(found, length)
                arrays |= {f"span_{split}": spans(places, characters), f"places_{split}": places}
        arrays.pop("places_train", None)
        store.write(place, name, arrays, {"tokenizer": tokenizer.to_str()})
    kept: dict[str, Any] = dict(store.read(store.folder(place, name))[0])
    return replace(data, x_train=kept.pop("train"), x_test=kept.pop("test"), **kept)
