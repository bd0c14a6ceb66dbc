"""Text as tokens: a WordPiece vocabulary trained on the cloud's text alone, and examples encoded with it.

An example is ``[CLS] first [SEP]`` or ``[CLS] first [SEP] second [SEP]``, cut to a length and filled up with ``[PAD]``:
its length and its sentences can be told from the ids. Text is put in lower case, without accents.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import tokenizers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from partitions.dataset import Dataset
from partitions.root import cache_folder
from partitions.sources import store

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
    tokenizer.enable_truncation(length, strategy="longest_first")
    tokenizer.enable_padding(pad_id=PAD, pad_token=SPECIAL[PAD], length=length)
    rows = [tuple(row) if len(row) > 1 else row[0] for row in texts.tolist()]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(rows)]
    return np.array(ids, np.int32).reshape(len(rows), length)


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
    for texts in (data.x_train, data.x_test):
        said.update("\0".join(texts.ravel().tolist()).encode())
    place, name = cache_folder(), f"tokens-{said.hexdigest()[:20]}"
    if not store.holds(place, name):
        tokenizer = tokenizer or train(data.x_train[proxy].ravel().tolist(), vocabulary)
        arrays = {split: encode(tokenizer, getattr(data, f"x_{split}"), length) for split in ("train", "test")}
        store.write(place, name, arrays, {"tokenizer": tokenizer.to_str()})
    arrays, _ = store.read(store.folder(place, name))
    return replace(data, x_train=arrays["train"], x_test=arrays["test"])
