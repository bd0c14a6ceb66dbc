"""Text as token ids: train a WordPiece vocabulary on the proxy data set and encode all samples with it."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from partitions.dataset import Dataset
from partitions.datasets import store
from partitions.datasets.text.reading import TextFile
from partitions.errors import DataError
from partitions.root import cache_folder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))  # their ids
VOCABULARY = "vocabulary.txt"  # of the user's folder: the pieces that all machines use
CACHE_FORMAT = 2  # a part of the cache key: entries of an older format are not read
LETTERS = 1000  # most different characters; a word with any other character becomes [UNK]


def train(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Train a WordPiece tokenizer of at most ``vocabulary`` ids; the same texts give the same tokenizer.

    The library numbers letters inside words in the order of a hash table and breaks ties by these numbers. All letters
    are therefore numbered beforehand.
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


def save_vocabulary(tokenizer: Tokenizer, path: Path) -> None:
    """Write the pieces of a WordPiece tokenizer, one per line in the order of their ids."""
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    path.write_text("".join(f"{piece}\n" for piece, _ in by_id), encoding="utf-8")


def read_vocabulary(path: Path, most: int) -> Tokenizer:
    """Return the tokenizer of a file of `save_vocabulary`.

    Raises:
        DataError: it cannot be read, is no such file, or has more than ``most`` pieces.
    """
    pieces = [line for _, line in TextFile(path).lines()]
    if tuple(pieces[: len(SPECIAL)]) != SPECIAL or len({*pieces}) < len(pieces):
        raise DataError(f"{path} is no vocabulary: make it with `python -m experiments data vocabulary FOLDER`")
    if len(pieces) > most:
        raise DataError(f"{path} has {len(pieces)} pieces, vq.vocabulary allows {most}: set it to {len(pieces)}")
    return _wordpiece({piece: id_ for id_, piece in enumerate(pieces)})


def _wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[UNK]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SPECIAL[SEP], SEP), (SPECIAL[CLS], CLS))
    return tokenizer


def encode(tokenizer: Tokenizer, texts: np.ndarray, length: int) -> np.ndarray:
    """Encode strings (N, sentences) as int32 ids (N, ``length``); truncate the longer of two sentences first.

    A sample is ``[CLS] first [SEP]`` or ``[CLS] first [SEP] second [SEP]``, padded with ``[PAD]``. Text is converted to
    lower case without accents.
    """
    return _ids(_encodings(tokenizer, texts, length), length)


def _encodings(tokenizer: Tokenizer, texts: np.ndarray, length: int) -> list[Encoding]:
    tokenizer.enable_truncation(length, strategy="longest_first")
    tokenizer.enable_padding(pad_id=PAD, pad_token=SPECIAL[PAD], length=length)
    rows = [tuple(row) if len(row) > 1 else row[0] for row in texts.tolist()]
    return tokenizer.encode_batch(rows)


def _ids(encodings: list[Encoding], length: int) -> np.ndarray:
    return np.array([encoding.ids for encoding in encodings], np.int32).reshape(len(encodings), length)


def _offsets(encodings: list[Encoding], length: int) -> np.ndarray:
    """Return ``offsets_test`` of a `Dataset`, int32 (N, ``length``, 2)."""
    offsets = [
        [offset if sentence == 1 else (0, 0) for offset, sentence in zip(e.offsets, e.sequence_ids, strict=True)]
        for e in encodings
    ]
    return np.array(offsets, np.int32).reshape(len(encodings), length, 2)


def spans(offsets: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """Convert spans of characters to spans of tokens.

    Args:
        offsets: the characters of each token int32 (N, T, 2).
        characters: first character and the one after the last (N, 2).

    Returns:
        First and last token int64 (N, 2), or -1 if a part of the span was truncated.
    """
    begin, end = offsets[..., 0], offsets[..., 1]
    inside = (end > characters[:, :1]) & (begin < characters[:, 1:]) & (end > begin)
    first, last = inside.argmax(1), offsets.shape[1] - 1 - inside[:, ::-1].argmax(1)
    complete = inside.any(1) & (end.max(1) >= characters[:, 1])
    return np.where(complete[:, None], np.stack([first, last], 1), -1)


def tokenised(
    data: Dataset, proxy: np.ndarray, vocabulary: int, length: int, tokenizer: Tokenizer | None = None
) -> Dataset:
    """Replace the strings of a text data set by token ids int32 (N, ``length``).

    The result is cached on disk, and every process of the machine maps it.

    Args:
        proxy: indices of the training samples (P,) that the vocabulary is trained on.
        vocabulary: largest number of token ids.
        length: number of tokens of a sample; longer texts are truncated.
        tokenizer: use this trained tokenizer instead; it has the special tokens of `SPECIAL`, and [PAD] is 0.
    """
    key = hashlib.sha256(repr((CACHE_FORMAT, data.digest, vocabulary, length, tokenizers.__version__)).encode())
    key.update(tokenizer.to_str().encode() if tokenizer else b"")
    key.update(proxy.astype(np.int64).tobytes())
    arrays: dict[str, np.ndarray] = {}
    folder, name = cache_folder(), f"tokens-{key.hexdigest()[:20]}"
    if not (stored := store.find(folder, name)):
        tokenizer = tokenizer or train(data.x_train[proxy].ravel().tolist(), vocabulary)
        for split in ("train", "test"):
            encodings = _encodings(tokenizer, getattr(data, f"x_{split}"), length)
            arrays[split] = _ids(encodings, length)
            if (characters := getattr(data, f"span_{split}")) is not None:
                offsets = _offsets(encodings, length)
                arrays |= {f"span_{split}": spans(offsets, characters), f"offsets_{split}": offsets}
        arrays.pop("offsets_train", None)
        stored = store.write(folder, name, arrays, {"tokenizer": tokenizer.to_str()})
    cached: dict[str, Any] = dict(store.read(stored)[0])
    return replace(data, x_train=cached.pop("train"), x_test=cached.pop("test"), **cached)
