"""Convert weights in torchvision's layout, e.g. pretrained on ImageNet, into a state of our dense models.

Every block of resnet18, resnet34 and vgg16_bn converts exactly, including the running statistics of its batch norms.
VGG's convolutions have biases and a norm after each; the conversion folds these biases into the norm's means.

Stem and head can differ. Torchvision's ResNets start with a 7 x 7 convolution of stride 2 and a max pooling; ours start
with a 3 x 3 convolution of stride 1, for small images. Torchvision's VGG ends in three linear layers, ours in one. The
number of classes is seldom ImageNet's. Stem and head are converted if their shapes agree: the stem of a VGG, a ResNet
with the CIFAR stem, the head of a ResNet with the same number of classes. Otherwise they get initial weights: train the
model before use.
"""

from collections.abc import Iterator, Mapping

from torch import Tensor

from models.nn.body import Architecture
from models.nn.resnet import Residual, ResNet
from models.nn.vgg import VGG
from models.submodel import State

Pairs = Iterator[tuple[str, str]]  # (our name, torchvision's name)


def _norm(ours: str, theirs: str) -> Pairs:
    for part, their_part in (("weight", "weight"), ("bias", "bias"), ("mean", "running_mean"), ("var", "running_var")):
        yield f"{ours}.{part}", f"{theirs}.{their_part}"


def _resnet_blocks(body: ResNet) -> Pairs:
    for s, stage in enumerate(body.stages):
        for b, block in enumerate(stage.children()):
            assert isinstance(block, Residual)
            ours, theirs = f"stages.{s}.{b}", f"layer{s + 1}.{b}"
            yield f"{ours}.block.first", f"{theirs}.conv1.weight"
            yield from _norm(f"{ours}.block.norm", f"{theirs}.bn1")
            yield f"{ours}.block.second", f"{theirs}.conv2.weight"
            yield from _norm(f"{ours}.norm", f"{theirs}.bn2")
            if block.project is not None:
                yield f"{ours}.project", f"{theirs}.downsample.0.weight"
                yield from _norm(f"{ours}.project_norm", f"{theirs}.downsample.1")


def _vgg_blocks(body: VGG, convs: list[int]) -> Pairs:
    """Pair our names with torchvision's.

    Args:
        body: our model.
        convs: indices of torchvision's convolutions in ``features``, each followed by its norm.
    """
    for b in range(len(body.blocks)):
        first, second = convs[1 + 2 * b : 3 + 2 * b]
        yield f"blocks.{b}.block.first", f"features.{first}.weight"
        yield from _norm(f"blocks.{b}.block.norm", f"features.{first + 1}")
        yield f"blocks.{b}.block.second", f"features.{second}.weight"
        yield from _norm(f"blocks.{b}.norm", f"features.{second + 1}")


def _fold_biases(theirs: Mapping[str, Tensor], convs: list[int]) -> State:
    """Remove the convolutions' biases: norm(conv + b) equals norm(conv) with the running mean lowered by b."""
    state = dict(theirs)
    for index in convs:
        bias = state.pop(f"features.{index}.bias")
        state[f"features.{index + 1}.running_mean"] = state[f"features.{index + 1}.running_mean"] - bias
    return state


def from_torchvision(dense: Architecture, theirs: Mapping[str, Tensor], seed: int = 0) -> tuple[State, list[str]]:
    """Convert the ``state_dict()`` of a torchvision model into a state of ``dense``.

    Args:
        dense: a ResNet or VGG with norm 'batch', e.g. ``resnet18((3, 32, 32), 10, norm="batch")``.
        theirs: state of torchvision's resnet18, resnet34 or vgg16_bn, of the same widths (64 in the first stage).
        seed: seed of the initial weights of entries without a counterpart.

    Returns:
        The state, e.g. as input to ``modularize``, and the names of the entries with initial weights.

    Raises:
        ValueError: the model's norm, blocks or widths differ from those of the weights.
    """
    body = dense.whole(seed)
    if not isinstance(body, ResNet | VGG):
        raise ValueError(f"torchvision has no counterpart of {type(body).__name__}; known: ResNet, VGG")
    if body.stem_norm.kind != "batch":
        raise ValueError(
            f"torchvision's weights contain batch norms and the model has norm {body.stem_norm.kind!r}; "
            "build it with norm='batch'"
        )
    if isinstance(body, VGG):
        convs = [int(n.split(".")[1]) for n, v in theirs.items() if n.startswith("features.") and v.dim() == 4]
        if len(convs) != 1 + 2 * len(body.blocks) or f"features.{convs[0] + 1}.running_mean" not in theirs:
            raise ValueError(
                f"the weights are not those of a VGG with norms and {1 + 2 * len(body.blocks)} convolutions"
            )
        theirs = _fold_biases(theirs, convs)
        stem = [("stem", f"features.{convs[0]}.weight"), *_norm("stem_norm", f"features.{convs[0] + 1}")]
        pairs, head = [*_vgg_blocks(body, convs)], []
    else:
        stem = [("stem", "conv1.weight"), *_norm("stem_norm", "bn1")]
        pairs, head = [*_resnet_blocks(body)], [("head.weight", "fc.weight"), ("head.bias", "fc.bias")]
    state = body.state()
    for part in (stem, head):  # all or nothing: a norm belongs to its convolution
        if all(name in theirs and theirs[name].squeeze().shape == state[ours].squeeze().shape for ours, name in part):
            pairs += part
    blocks = {n for n in theirs if n.split(".")[0].startswith(("layer", "features")) and "num_batches" not in n}
    unmatched = blocks - {name for _, name in (*pairs, *stem)} | {name for _, name in pairs} - theirs.keys()
    if unmatched:
        raise ValueError(f"the weights are of another model: {min(unmatched)!r} is in only one of the two")
    for ours, name in pairs:
        value = theirs[name]
        if value.squeeze().shape != state[ours].squeeze().shape:
            raise ValueError(
                f"{name!r} has shape {tuple(value.shape)} where the model has {tuple(state[ours].squeeze().shape)}; "
                "build it with the width of the weights (torchvision's is 64)"
            )
        state[ours] = value.detach().clone().reshape(state[ours].shape)
    return state, sorted(state.keys() - {ours for ours, _ in pairs})
