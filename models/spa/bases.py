"""Base models: frozen causal language models, loaded once per process and named by the checksum of their weights."""

import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from models.spa.tiny import TINY_STEPS, Progress, make_tiny
from partitions.errors import DataError
from partitions.personas import Example

TINY = "tiny"
SMOLLM2 = "smollm2"


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen language model.

    d is the width, L the number of layers, V the vocabulary. Its *stack* at a position is h^0 (the embedding), then
    the output of each layer; the last of the L + 1 is taken after the final norm, as the library gives it, and is b:
    logits = head(b). (The authors' code hands h^L on before that norm.)

    Args:
        name: as asked for; checksum: SHA-256 of its weights.
    """

    name: str
    checksum: str
    model: Any
    tokenizer: Any

    @property
    def width(self) -> int:
        return int(self.head.weight.shape[1])

    @property
    def layers(self) -> int:
        return int(self.model.config.num_hidden_layers)

    @property
    def head(self) -> nn.Linear:
        """b (..., d) -> logits (..., V)."""
        return self.model.get_output_embeddings()

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    @torch.no_grad()
    def stack(self, ids: Tensor, cache: Any = None) -> Tensor:
        """The stack (B, T, L + 1, d) of tokens (B, T) that follow those in ``cache``, which takes them up."""
        out = self.model.base_model(ids, past_key_values=cache, use_cache=cache is not None, output_hidden_states=True)
        return torch.stack(out.hidden_states, dim=2)

    def prompt(self, instruction: str, input_: str = "") -> list[int]:
        """Tokens up to where the answer begins, by the model's own chat template where it has one."""
        text = f"{instruction}\n{input_}" if input_ else instruction
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(f"{text}\n").input_ids)
        said = [{"role": "user", "content": text}]
        return list(self.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False))

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """Tokens of the prompt, and of the answer with its end."""
        answer = self.tokenizer(example.output, add_special_tokens=False).input_ids
        return self.prompt(example.instruction, example.input), [*answer, self.end]

    def text(self, ids: list[int]) -> str:
        """Tokens as text, without special ones."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def find(name: str, cache: Path, tiny_steps: int = TINY_STEPS, progress: Progress | None = None) -> Path:
    """The folder of a base model, which is trained or looked up as its name says.

    Args:
        name: 'tiny', 'smollm2', a folder, or a model of the Hugging Face hub (from its local cache if it is there).
        cache: where 'tiny' and 'smollm2' lie; tiny_steps: how long 'tiny' is trained if it is not there yet.

    Raises:
        DataError: it is nowhere; the message says what to do.
    """
    if name == TINY:
        return make_tiny(cache / "bases", tiny_steps, progress)
    if name == SMOLLM2:
        folder = cache / "bases" / SMOLLM2
        if not (folder / "config.json").is_file():
            raise DataError(f"base model '{SMOLLM2}' is not in {folder}; run: python -m experiments spa fetch")
        return folder
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # no network, no such model, not a name: the library has an error for each
        raise DataError(
            f"base model '{name}' is no folder and cannot be had from the hub ({type(error).__name__}); "
            f"use '{TINY}', '{SMOLLM2}' or a folder with config.json, tokenizer and *.safetensors"
        ) from error


def sizes(folder: Path) -> tuple[int, int]:
    """Width and layers of a base model, read from its configuration.

    Raises:
        DataError: there is none.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return int(config.hidden_size), int(config.num_hidden_layers)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{folder} holds no causal language model: its config.json is missing or no model's") from error


def checksum(folder: Path) -> str:
    """SHA-256 over the weights, file by file in the order of their names.

    Raises:
        DataError: there are none in safetensors format.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no *.safetensors; save the model with save_pretrained")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load(name: str, cache: Path, tiny_steps: int = TINY_STEPS, progress: Progress | None = None) -> Base:
    """A base model in float32, its weights mapped from the file; the same object for everybody in this process.

    Raises:
        DataError: it is missing, or its logits are not those of its head on its last state.
    """
    return _load(name, find(name, cache, tiny_steps, progress))


@lru_cache(maxsize=2)
def _load(name: str, folder: Path) -> Base:
    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no causal language model: {error}") from error
    base = Base(name, checksum(folder), model.eval().requires_grad_(False), tokenizer)
    probe = torch.arange(4)[None]
    with torch.inference_mode():
        if not torch.allclose(base.head(base.stack(probe)[:, :, -1]), model(probe).logits, atol=1e-4):
            raise DataError(f"base model '{name}' changes its logits after the head, which SPA cannot split")
    return base


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a folder of float32 safetensors, with its tokenizer.

    Raises:
        DataError: the packages for it are not installed.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except ImportError as error:
        raise DataError(
            "a GGUF file is read by two more packages; run: python -m pip install gguf==0.19.0 accelerate==1.15.0"
        ) from error
    config = model.config
    if hasattr(config, "quantization_config"):  # the weights are no longer quantised, but the model still thinks so
        del config.quantization_config
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as half:
        plain.save_pretrained(half)
        tokenizer.save_pretrained(half)
        Path(half).rename(folder)
        Path(half).mkdir()  # for the context to remove
