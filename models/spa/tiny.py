"""A LLaMA small enough to train on a CPU: the offline base of tests, demonstrations and small experiments."""

import shutil
import tempfile
from collections.abc import Callable
from hashlib import sha256
from json import dumps
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from partitions.datasets.text.personas import CLOSINGS, COMMON, FACTS, OPENINGS, PHRASINGS, Example, corpus
from partitions.rng import rng

Progress = Callable[[str, int, int], None]
"""``progress(what, step, steps)``."""
SEED = 0
SIZES = {
    "vocab_size": 512, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
BATCH, RATE = 32, 3e-3
TINY_STEPS = 400
PAD, USER, ASSISTANT, END = "<pad>", "<user>", "<assistant>", "<end>"
TEMPLATE = f"{{% for m in messages %}}{USER}{{{{ m.content }}}}{{% endfor %}}{ASSISTANT}"
VERSION = 1  # increase it when a change of this file changes results


def make_tiny(folder: Path, steps: int, progress: Progress | None = None) -> Path:
    """Return the folder of the tiny base after ``steps`` training steps (about 0.1 s each); train it if it is missing.

    The training text asks questions of other people (`partitions.datasets.text.personas.corpus`). So the base knows
    the form of answers and the common facts, but no private fact of a client.
    """
    text = [FACTS, COMMON, PHRASINGS, OPENINGS, CLOSINGS]
    inputs = [VERSION, text, SIZES, steps, BATCH, RATE, SEED, torch.__version__]
    target = folder / f"tiny-{sha256(dumps(inputs).encode()).hexdigest()[:12]}"
    if (target / "config.json").is_file():
        return target
    disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    examples = corpus(rng(SEED, 0), BATCH * steps)
    tokenizer = train_tokenizer(examples)
    model = train(tokenizer, examples, steps, progress)
    temporary = Path(tempfile.mkdtemp(dir=folder))
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    try:
        temporary.rename(target)
    except OSError:  # another process created the same folder
        shutil.rmtree(temporary)
    return target


def train_tokenizer(examples: list[Example]) -> PreTrainedTokenizerFast:
    """Train byte-pair encoding on the corpus, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, USER, ASSISTANT, END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"], special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for e in examples for text in (e.instruction, e.output)], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.chat_template = TEMPLATE
    return wrapped


def train(
    tokenizer: PreTrainedTokenizerFast, examples: list[Example], steps: int, progress: Progress | None = None
) -> LlamaForCausalLM:
    """Train one pass over the examples with AdamW and a one-cycle schedule; the loss covers all tokens but padding."""
    config = LlamaConfig(**SIZES, tie_word_embeddings=True, bos_token_id=1, eos_token_id=3, pad_token_id=0)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(SEED)  # the library uses the global generator for its initial weights
        model = LlamaForCausalLM(config)
    texts = [f"{USER}{e.instruction}{ASSISTANT}{e.output}{END}" for e in examples]
    rows = [row[: SIZES["max_position_embeddings"]] for row in tokenizer(texts, add_special_tokens=False).input_ids]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        if progress:
            progress("tiny base model", step, steps)
        batch = rows[step * BATCH : (step + 1) * BATCH]
        longest = max(map(len, batch))
        ids = torch.from_numpy(np.array([row + [0] * (longest - len(row)) for row in batch]))
        loss = model(ids, labels=ids.masked_fill(ids == 0, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
