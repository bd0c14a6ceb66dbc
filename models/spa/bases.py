"""Base models: frozen causal language models, loaded once per process, identified by the checksum of their weights."""

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from models.spa.tiny import TINY_STEPS, Progress, make_tiny
from partitions.datasets.text.personas import Example
from partitions.errors import DataError

TINY = "tiny"
SMOLLM2 = "smollm2"
Dtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Base:
    """A frozen language model.

    d is the width, L the number of layers, V the vocabulary. The *stack* at a position is h^0 (the embedding) and the
    output of each layer. The last of these L + 1 states is taken after the final norm, as the library returns it. It is
    b: logits = head(b). (The authors' code uses h^L before that norm.)

    Args:
        name: name in the run-config.
        checksum: SHA-256 of the weights.
        model: the transformers model.
        tokenizer: its tokenizer.
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
        """The output layer, b (..., d) -> logits (..., V)."""
        return self.model.get_output_embeddings()

    @property
    def context(self) -> int:
        """The most tokens that a prompt and its answer may have together."""
        return int(self.model.config.max_position_embeddings)

    @property
    def end(self) -> int:
        """The token that ends an answer in training."""
        return int(self.tokenizer.eos_token_id)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer: that of the tokenizer, and those of the model's generation_config.json."""
        config = getattr(self.model, "generation_config", None)
        others = getattr(config, "eos_token_id", None) or []
        return frozenset({self.end, *(others if isinstance(others, list) else [others])})

    @torch.no_grad()
    def stack(self, ids: Tensor, cache: Any = None) -> Tensor:
        """Compute the stack (B, T, L + 1, d) of tokens (B, T) after those in ``cache``, which the call extends.

        It is float32, also of a model that computes in another type.
        """
        out = self.model.base_model(ids, past_key_values=cache, use_cache=cache is not None, output_hidden_states=True)
        return torch.stack(out.hidden_states, dim=2).float()

    def logits(self, h: Tensor) -> Tensor:
        """Compute the head's output (..., V) for float32 h (..., d), in float32."""
        return self.head(h.to(self.head.weight.dtype)).float()

    def prompt(self, instruction: str, input_: str = "") -> list[int]:
        """Encode the prompt with the model's own chat template, if it has one."""
        return self.conversation([{"role": "user", "content": f"{instruction}\n{input_}" if input_ else instruction}])

    @property
    def remembers(self) -> bool:
        """Whether it was trained on conversations: 'tiny' and models without a chat template see single questions."""
        return self.name != TINY and self.tokenizer.chat_template is not None

    def conversation(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Encode messages (``role``, ``content``) up to where the base answers, with the model's chat template."""
        if not self.remembers:
            messages = messages[-1:]
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(f"{messages[-1]['content']}\n").input_ids)
        return list(self.tokenizer.apply_chat_template([*messages], add_generation_prompt=True, return_dict=False))

    def encode(self, example: Example) -> tuple[list[int], list[int]]:
        """Encode the prompt, and the answer with its end token."""
        answer = self.tokenizer(example.output, add_special_tokens=False).input_ids
        return self.prompt(example.instruction, example.input), [*answer, self.end]

    def text(self, ids: list[int]) -> str:
        """Decode tokens to text, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def find(name: str, cache: Path, tiny_steps: int = TINY_STEPS, progress: Progress | None = None) -> Path:
    """Return the folder of a base model; train it or download it if needed.

    Args:
        name: 'tiny', 'smollm2', a folder, or a model of the Hugging Face hub (from its local cache if available).
        cache: parent folder of 'tiny' and 'smollm2'.
        tiny_steps: training steps of 'tiny' if it is missing.
        progress: called during the training.

    Raises:
        DataError: the model is missing; the message says what to do.
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

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    with suppress(Exception):  # not in the local cache: the library has an error for each reason
        if _complete(local := Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))):
            return local
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # no network, an unknown model, an invalid name: the library has an error for each
        raise DataError(
            f"base model '{name}' is no folder and cannot be downloaded from the hub ({type(error).__name__}); "
            f"use '{TINY}', '{SMOLLM2}' or a folder with config.json, tokenizer and *.safetensors"
        ) from error


def _complete(folder: Path) -> bool:
    """Return whether a folder has the configuration and all weights of a model: a download may have ended early."""
    index = folder / "model.safetensors.index.json"
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return all((folder / name).is_file() for name in ("config.json", "tokenizer_config.json", *names))


def require_gguf() -> None:
    """Raise DataError if the packages that read a GGUF file are not installed."""
    if any(importlib.util.find_spec(package) is None for package in ("gguf", "accelerate")):
        raise DataError(
            "reading a GGUF file needs two more packages; run: python -m pip install gguf==0.19.0 accelerate==1.15.0"
        )


def sizes(folder: Path) -> tuple[int, int]:
    """Read width and layers of a base model from its configuration.

    Raises:
        DataError: the configuration is missing.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return int(config.hidden_size), int(config.num_hidden_layers)
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{folder} holds no causal language model: its config.json is missing or incomplete") from error


def checksum(folder: Path) -> str:
    """Return the SHA-256 of the weight files, in the order of their names.

    Raises:
        DataError: there are no files in safetensors format.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} contains no *.safetensors; save the model with save_pretrained")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load(
    name: str, cache: Path, tiny_steps: int = TINY_STEPS, progress: Progress | None = None, dtype: Dtype = "float32"
) -> Base:
    """Load a base model with memory-mapped weights; all callers in a process share one object.

    Args:
        name, cache, tiny_steps, progress: as in `find`.
        dtype: in which it computes. Only float32 can be trained with; the checksum is that of the file.

    Raises:
        DataError: it is missing, or its logits are not the head's output for its last state.
    """
    return _load(name, find(name, cache, tiny_steps, progress), dtype)


@lru_cache(maxsize=2)
def _load(name: str, folder: Path, dtype: Dtype) -> Base:
    disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no causal language model: {error}") from error
    base = Base(name, checksum(folder), model.eval().requires_grad_(False), tokenizer)
    probe = torch.arange(4)[None]
    with torch.inference_mode():
        if not torch.allclose(base.logits(base.stack(probe)[:, :, -1]), model(probe).logits.float(), atol=1e-4):
            raise DataError(f"base model '{name}' changes its logits after the head, which SPA cannot split")
    return base


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Convert a GGUF model with its tokenizer into a folder of float32 safetensors.

    Raises:
        DataError: the required packages are not installed.
    """
    require_gguf()
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = model.config
    # the weights are no longer quantised, but the configuration still says so
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    unquantised = type(model)(config)
    unquantised.load_state_dict(model.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unquantised.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # the context removes this folder
