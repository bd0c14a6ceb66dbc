"""Find the axes of a module: which channels of which layers belong together, and what cannot be cut.

torch-pruning follows one forward pass; each group of channels that it finds is an axis. Sub-models with random weights
are then compared with the whole module, with zeros in the other channels: an axis that fails stays whole.
"""

import copy
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.nn.any_body import CHANNEL_NORMS, LAYER_NORMS, PLAIN, TRANSPOSED, AnyBody, Found, resize
from models.nn.attention import attentions
from models.nn.blocks import channel_groups
from models.nn.body import Shape, hidden_axis
from models.submodel import Coverage, Dimension, Joined, State, axis_names, covered_sizes, entry_index, extract
from partitions.errors import one_line

T = TypeVar("T")
NARROW = 32  # layers with fewer channels, such as those of squeeze and excitation, are not cut into modules
MIXED = "with some of its channels, the model does not compute what it computes with zeros in the others"
UNGATED = "switching its channels off does not equal cutting them"
RECURRENT = "recurrent layers keep their width"
UNFOLLOWED = "its channels could not be followed"
WRAPPERS = (torch.jit.ScriptModule, nn.DataParallel, nn.parallel.DistributedDataParallel)
Label = tuple[str, int] | None  # of one entry of a dimension: its axis and its channel
Labels = dict[tuple[str, int], list[Label]]  # by parameter and dimension


@dataclass
class Group:
    """Channels that are cut together.

    Args:
        size: how many.
        members: layers or bare parameters that have them: name, side ('out', 'in' or 'bare'), and for each entry its
            position there and its channel.
        heads: it has those of an attention written by hand.
    """

    size: int
    members: list[tuple[str, str, list[int], list[int]]] = field(default_factory=list)
    heads: bool = False

    def names(self, side: str) -> list[str]:
        """Return the members on one side."""
        return [name for name, own, _, _ in self.members if own == side]


def find_axes(net: nn.Module, input_shape: Shape, classes: int, layers: int = 0, names: str = "") -> Found:
    """Find the axes of a module; arguments and errors as in `from_module`."""
    _refuse_wrapped(net)
    x = torch.randint(0, 2, (2, *input_shape), generator=torch.Generator().manual_seed(0)).float()
    with evaluation(net), torch.random.fork_rng(devices=[]):
        order, whole, traced = _execution(net, x, classes), dict[str, str](), list[Group]()
        _refuse_state(net)
        try:
            traced = _traced(net, x)
            whole = _unfollowed(net, traced)
        except ModuleNotFoundError:  # torch-pruning
            raise
        except Exception as error:  # a graph that the library cannot follow: only the whole module is trained
            whole = {"the model": f"its layers could not be followed ({_said(error)})"}
        if not torch.equal(logits(net, x, classes), logits(net, x, classes)):
            traced, whole = [], {"the model": "its logits are random in evaluation: dropout needs self.training"}
        weights = _random(net)
        _copy(net, weights, x, classes)
        groups = _named(_with_heads(net, traced), order, classes)
        labels, refused = _checked(net, groups, weights, x, classes)
        if any(groups[axis].heads for axis in refused):  # what is around the heads may be cut without them
            groups = _named(traced, order, classes)
            labels, refused = _checked(net, groups, weights, x, classes)
        whole |= refused
        readers = _readers(net, groups, whole, order)
        found = _found(net, groups, labels, whole, readers, classes)
        whole |= _ungated(net, found, weights, x)
        readers = {layer: reader for layer, reader in readers.items() if layer not in whole}
        readers = {layer: readers[layer] for layer in _chosen(list(readers), names, whole)}
        if layers > len(readers):
            raise ValueError(f"model.module-layers = {layers}: the model has {len(readers)} such layers")
        whole |= {name: RECURRENT for name, module in net.named_modules() if isinstance(module, nn.RNNBase)}
        return _found(net, groups, labels, whole, dict(list(readers.items())[-layers:]), classes)


def _refuse_wrapped(net: nn.Module) -> None:
    """Raise ValueError for a module that cannot be copied with other sizes."""
    for name, module in net.named_modules():
        if isinstance(module, WRAPPERS) or hasattr(module, "_orig_mod"):
            kind = type(module).__name__
            raise ValueError(f"{name or 'the model'} is a {kind}: give the nn.Module that it was made of")


def _refuse_state(net: nn.Module) -> None:
    """Raise ValueError if an entry of a module's state cannot be sent and averaged, or if none can be trained."""
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError("the model has no parameters to train")
    for name, value in net.state_dict().items():
        strided = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
        if not strided or value.is_complex() or value.dtype == torch.bool or not value.isfinite().all():
            raise ValueError(
                f"{name} in the model's state is not a tensor of finite real numbers: "
                "use register_buffer with persistent=False, and no get_extra_state"
            )


def _unfollowed(net: nn.Module, groups: list[Group]) -> dict[str, str]:
    """Return the layers and bare parameters that are in no group of channels."""
    known, found = {name for group in groups for name, *_ in group.members}, {}
    for name, value in net.named_parameters():
        path = name.split(".")
        if value.numel() > 1 and not known & {".".join(path[:n]) for n in range(len(path) + 1)}:
            owner = ".".join(path[:-1])
            leaf = bool(owner) and not list(net.get_submodule(owner).children())
            found[owner if leaf else name] = UNFOLLOWED
    return found


def _chosen(layers: list[str], names: str, whole: Mapping[str, str]) -> list[str]:
    """Return the module layers whose names match one of the patterns, all if there is no pattern."""
    patterns = [name.strip().removesuffix(".modules") for name in names.split(",") if name.strip()]
    short = {layer: layer.removesuffix(".modules") for layer in layers}
    for pattern in patterns:
        if not fnmatch.filter(short.values(), pattern):
            why = whole.get(f"{pattern}.modules", whole.get(pattern))
            raise ValueError(
                f"model.module-names = '{names}': ECLM cannot cut '{pattern}' into modules"
                + (f", because {why}" if why else "")
                + f"; choose from {', '.join(short.values()) or 'nothing: leave it out'}"
            )
    return [layer for layer in layers if not patterns or any(fnmatch.fnmatchcase(short[layer], p) for p in patterns)]


def _checked(
    net: nn.Module, groups: Mapping[str, Group], weights: State, x: Tensor, classes: int
) -> tuple[Labels, dict[str, str]]:
    """Return the labels of the groups that can be cut, and why others cannot."""
    whole = {axis: why for axis, group in groups.items() if (why := _uncuttable(net, group))}
    labels, shared = _labels(net, {axis: group for axis, group in groups.items() if axis not in whole})
    whole |= shared
    while True:
        found = _found(net, groups, labels, whole, {}, classes)
        refused = {axis: why for axis, why in found.whole.items() if axis not in whole}
        if not (refused := refused or _failing(net, found, weights, x, classes)):
            return labels, whole
        whole |= refused


def _found(
    net: nn.Module,
    groups: Mapping[str, Group],
    labels: Labels,
    whole: Mapping[str, str],
    readers: Mapping[str, str],
    classes: int,
) -> Found:
    """Return the axes without those in ``whole``, to which channels are added that `Joined` cannot describe."""
    factors: dict[str, tuple[tuple[str, int], ...]] = {}
    for axis, group in groups.items():
        if axis not in whole:
            modular = f"{axis}.modules" in readers
            factors[axis] = (
                ((f"{axis}.modules", 1), (f"{axis}.hidden", group.size)) if modular else ((axis, group.size),)
            )
    first = _first_names(net)
    axes: dict[str, tuple[Dimension, ...]] = {}
    mixed: dict[str, str] = {}
    for name, value in net.state_dict().items():
        dimensions: list[Dimension] = []
        for dim, length in enumerate(value.shape):
            parts: list[tuple[tuple[str | None, int], ...]] = []
            entries = labels.get((first[name], dim), [None] * length)
            for axis, run in groupby(entries, key=lambda label: label[0] if label else ""):
                channels = [label[1] if label else 0 for label in run]
                part = (
                    _part(factors[axis], groups[axis].size, channels) if axis in factors else ((None, len(channels)),)
                )
                if part is None:
                    mixed[axis] = f"its channels are mixed in dimension {dim} of {name}"
                parts.append(part or ())
            simple = len(parts) == 1 and len(parts[0]) == 1
            dimensions.append(parts[0][0][0] if simple else Joined(tuple(parts)))
        axes[name] = tuple(dimensions)
    heads = groups["classes"].names("out") if "classes" in factors else []
    head = heads[0] if len(heads) == 1 and isinstance(net.get_submodule(heads[0]), (*PLAIN, nn.Linear)) else ""
    sizes = {axis: size for own in factors.values() for axis, size in own}
    return Found(axes, {**sizes, "classes": classes}, readers, head, {**whole, **mixed})


def _part(
    factors: tuple[tuple[str, int], ...], size: int, channels: list[int]
) -> tuple[tuple[str | None, int], ...] | None:
    """Return a product of axes whose entries are these channels; None if there is none."""
    copies = len(channels) // size
    for outer in range(1, copies + 1):
        inner = copies // outer
        if channels == [c for _ in range(outer) for c in range(size) for _ in range(inner)]:
            before, after = [(None, outer)] * (outer > 1), [(None, inner)] * (inner > 1)
            return (*before, *factors, *after)
    return None


def seeded(make: Callable[[], T], seed: int) -> T:
    """Call a function with torch's random numbers seeded, and leave them as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


@contextmanager
def evaluation(net: nn.Module) -> Iterator[None]:
    """Put a module into evaluation, and then back."""
    training = [module.training for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in zip(net.modules(), training, strict=True):
            module.training = mode


def _execution(net: nn.Module, x: Tensor, classes: int) -> list[str]:
    """Run a module as `logits` does, and return the names of its layers in order of execution."""
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda module, args, out, name=name: order.append(name))
        for name, module in net.named_modules()
    ]
    try:
        logits(net, x, classes)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def logits(net: nn.Module, x: Tensor, classes: int | None) -> Tensor:
    """Run a module that has so many classes, or any number.

    Raises:
        ValueError: it does not run on ``x``, or does not return logits.
    """
    model = "the model in training" if net.training else "the model"
    try:
        with torch.no_grad():
            out = net(x)
    except Exception as error:
        raise ValueError(
            f"{model} does not run on one batch of shape {tuple(x.shape)} ({_said(error)}); "
            "its forward must take one float32 tensor"
        ) from error
    wanted = len(x), "classes" if classes is None else classes
    if not isinstance(out, Tensor) or out.dim() != 2 or out.shape != (len(x), classes or out.shape[1]):
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"{model} returns {got} for a batch of {len(x)}; it must return logits {wanted}")
    return out


def _copy(net: nn.Module, weights: State, x: Tensor, classes: int) -> None:
    """Copy a module and run the copy, also in training and without numbers.

    Raises:
        ValueError: one of these fails, or the copy computes something else than the module.
    """
    try:
        other = copy.deepcopy(net)
    except Exception as error:
        raise ValueError(f"the model cannot be copied ({_said(error)}): copy.deepcopy must work") from error
    other.load_state_dict(weights)
    with torch.no_grad():
        own = seeded(
            partial(functional_call, net, {**dict(other.named_parameters()), **dict(other.named_buffers())}, x), 0
        )
    if not _close(seeded(partial(logits, other, x, classes), 0), own):
        raise ValueError(
            "a copy of the model does not compute what the model computes: "
            "use methods instead of lambdas or functions that refer to the model, also as hooks"
        )
    logits(other.train(), x, classes)
    state = net.state_dict()
    with torch.device("meta"):
        shapes = resize(net, Found({name: (None,) * value.dim() for name, value in state.items()}, {}), {}).eval()
    try:
        shapes(x.to("meta"))
    except Exception as error:
        raise ValueError(
            f"the model does not run on shapes without numbers, which count its costs ({_said(error)}): "
            "its tensors must be parameters or buffers, and forward must not read their values"
        ) from error


def _random(net: nn.Module) -> State:
    """Return a state with random parameters and running statistics, so that each channel has its own effect."""
    trained, state = {name for name, _ in net.named_parameters(remove_duplicate=False)}, State()
    generator = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if name not in trained and not name.endswith(("running_mean", "running_var")):
            state[name] = value.clone()
        elif value.dim() > 1:
            state[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = torch.rand(value.shape, generator=generator) + 0.5
    return state


def _close(out: Tensor, expected: Tensor) -> bool:
    return torch.allclose(out, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _traced(net: nn.Module, x: Tensor) -> list[Group]:
    """Return the groups of channels that torch-pruning finds."""
    import torch_pruning

    graph, frozen = torch_pruning.DependencyGraph(), [p for p in net.parameters() if not p.requires_grad]
    try:
        for parameter in frozen:  # the library follows gradients
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            graph.build_dependency(net, x, verbose=False)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    names = {id(module): name for name, module in net.named_modules()}
    bare = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = []
    for items in graph.get_all_groups(root_module_types=(*PLAIN, *TRANSPOSED, nn.Linear, nn.Embedding)):
        group = Group(len(items[0].idxs))
        for member in items:
            target = member.dep.target.module
            side = "out" if graph.is_out_channel_pruning_fn(member.dep.handler) else "in"
            if id(target) in names:
                group.members.append((names[id(target)], side, list(member.idxs), list(member.root_idxs)))
            elif id(target) in bare:
                group.members.append((bare[id(target)], "bare", list(member.idxs), list(member.root_idxs)))
        groups.append(group)
    return groups


def _with_heads(net: nn.Module, groups: list[Group]) -> list[Group]:
    """Return the groups with the heads of attentions written by hand in the group of the channels that these read."""
    groups = [replace(group, members=list(group.members)) for group in groups]
    for name, found in attentions(net):
        makers, reader = [f"{name}.{maker}".lstrip(".") for maker in found.makers], f"{name}.{found.reader}".lstrip(".")
        width = _width(net, reader, "in")
        stream = next((group for group in groups if {*makers} & {*group.names("in")} and group.size == width), None)
        if stream is None:
            continue
        groups = [g for g in groups if g is stream or not ({*makers} & {*g.names("out")} or reader in g.names("in"))]
        for layer, side, length in (
            *((maker, "out", _width(net, maker, "out")) for maker in makers), (reader, "in", width),
        ):  # fmt: skip
            stream.members.append((layer, side, list(range(length)), [n % width for n in range(length)]))
        stream.heads = True
    return groups


def _named(traced: list[Group], order: list[str], classes: int) -> dict[str, Group]:
    """Return groups by axis; an axis has the name of the first layer that makes its channels."""
    groups: dict[str, Group] = {}
    for group in traced:
        first = min((name for name in group.names("out") if name in order), key=order.index, default=None)
        if first is not None:
            groups[first] = group
    last = next((name for name in reversed(order) if name in groups), None)
    if last is not None and groups[last].size == classes and not groups[last].names("in"):
        groups["classes"] = groups.pop(last)
    return groups


def _dimensions(net: nn.Module, name: str, side: str) -> list[tuple[str, int]]:
    """Return the parameters and dimensions with the channels of one side of a layer."""
    module = net.get_submodule(name)
    prefix = f"{name}." if name else ""
    vectors = [(f"{prefix}{key}", 0) for key in ("weight", "bias", "running_mean", "running_var")]
    if isinstance(module, (*PLAIN, nn.Linear)):
        grouped = isinstance(module, PLAIN) and module.groups > 1
        return vectors[:2] if side == "out" else [] if grouped else [(f"{prefix}weight", 1)]
    if isinstance(module, TRANSPOSED):
        return [(f"{prefix}weight", 1), vectors[1]] if side == "out" else vectors[:1]
    if isinstance(module, nn.Embedding):
        return [(f"{prefix}weight", 1)]
    if isinstance(module, nn.MultiheadAttention):
        inner = [("in_proj_weight", 0), ("in_proj_weight", 1), ("in_proj_bias", 0)]
        outer = [("out_proj.weight", 0), ("out_proj.weight", 1), ("out_proj.bias", 0)]
        return [(f"{prefix}{key}", dim) for key, dim in inner + outer]
    return vectors


def _members(net: nn.Module, group: Group) -> Iterator[tuple[str, int, list[int], list[int]]]:
    """Yield each parameter and dimension with channels of a group, their positions there, and the channels."""
    state, first = net.state_dict(), _first_names(net)
    for name, side, positions, channels in group.members:
        if side == "bare":
            own = [(name, max((d for d, n in enumerate(state[name].shape) if n > 1), default=-1))]
        else:
            own = [pair for pair in _dimensions(net, name, side) if pair[0] in state and state[pair[0]].dim()]
        for key, dim in own:
            if state[key].numel() > 1:  # a single number belongs to all channels
                # queries, keys and values of torch's attention are one parameter
                copies = 3 if key.endswith((".in_proj_weight", ".in_proj_bias")) and dim == 0 else 1
                whole = (
                    [n + copy * group.size for copy in range(copies) for n in positions] if copies > 1 else positions
                )
                yield first[key], dim, whole, channels * copies


def _first_names(net: nn.Module) -> dict[str, str]:
    """Return the first name of each entry of the state: tied parameters have several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(value), name) for name, value in net.state_dict(keep_vars=True).items()}


def _labels(net: nn.Module, groups: Mapping[str, Group]) -> tuple[Labels, dict[str, str]]:
    """Return which channel each entry of each dimension is, and the axes of entries that are several channels."""
    state, labels, shared = net.state_dict(), Labels(), dict[str, str]()
    for axis, group in groups.items():
        for key, dim, positions, channels in _members(net, group):
            entries = labels.setdefault((key, dim), [None] * state[key].shape[dim])
            for position, channel in zip(positions, channels, strict=True):
                if (other := entries[position]) not in (None, (axis, channel)):
                    shared |= dict.fromkeys((axis, other[0]), f"{key} is used for different channels")
                entries[position] = axis, channel
    return labels, shared


def _uncuttable(net: nn.Module, group: Group) -> str:
    """Return why the channels of a group cannot be cut; empty if nothing speaks against it."""
    for name, side, _, _ in group.members:
        if side == "bare":
            continue
        module = net.get_submodule(name)
        if isinstance(module, nn.RNNBase):
            return f"{name}: {RECURRENT}"
        if isinstance(module, nn.MultiheadAttention) and (not module._qkv_same_embed_dim or module.bias_k is not None):
            return f"{name}: attention with kdim, vdim or add_bias_kv keeps its width"
        grouped = isinstance(module, (*PLAIN, *TRANSPOSED)) and module.groups > 1
        if grouped and not (isinstance(module, PLAIN) and module.groups == module.in_channels == module.out_channels):
            return f"{name}: a grouped convolution keeps its width"
        if isinstance(module, nn.GroupNorm) and not module.affine:
            return f"{name}: a group norm without parameters keeps its width"
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return f"{name}: a layer norm over several dimensions keeps its width"
    state = net.state_dict()
    for key, dim, positions, _ in _members(net, group):
        if max(positions, default=0) >= state[key].shape[dim]:
            return f"its channels could not be found in dimension {dim} of {key}"
    return ""


def _readers(net: nn.Module, groups: Mapping[str, Group], whole: Mapping[str, str], order: list[str]) -> dict[str, str]:
    """Return the layers that ECLM can cut into modules: channels that one layer makes and one other layer reads.

    Between the two may be norms of single channels and depthwise convolutions. Residual streams have several makers.
    """
    maps, found = (*PLAIN, nn.Linear), dict[str, str]()
    for axis, group in groups.items():
        depthwise = {n for n in group.names("out") if isinstance(m := net.get_submodule(n), PLAIN) and m.groups > 1}
        makers = {n for n in group.names("out") if isinstance(net.get_submodule(n), maps)} - depthwise
        readers = [n for n in group.names("in") if n not in depthwise]
        others = [net.get_submodule(n) for n in {*group.names("out")} - makers - depthwise]
        if (
            axis not in {*whole, "classes"} and len(makers) == len(readers) == 1 and not group.names("bare")
            and isinstance(net.get_submodule(readers[0]), maps) and not makers & {*readers}
            and all(isinstance(module, CHANNEL_NORMS) or not list(module.parameters()) for module in others)
            and all(_width(net, name, side) == group.size for name, side, _, _ in group.members)
            and group.size >= NARROW and group.size % 8 == 0
        ):  # fmt: skip
            found[f"{axis}.modules"] = readers[0]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[1])))


def _width(net: nn.Module, name: str, side: str) -> int:
    """Return how many channels a layer has on one side, those of other groups included."""
    module, state = net.get_submodule(name), net.state_dict()
    if isinstance(module, PLAIN):
        return module.out_channels if side == "out" else module.in_channels
    return next((state[key].shape[dim] for key, dim in _dimensions(net, name, side) if key in state), 0)


def _failing(net: nn.Module, found: Found, weights: State, x: Tensor, classes: int) -> dict[str, str]:
    """Return the axes that cannot be cut, and why: half of the channels must compute what zeros in the others do."""
    together, coverage = channel_groups(found.sizes, found.axes, net), dict[str, Tensor]()
    generator = torch.Generator().manual_seed(0)
    for axis in sorted(axis_names(d for dimensions in found.axes.values() for d in dimensions)):
        size, group = found.sizes[axis], together[axis]
        order = torch.randperm(-(-size // group), generator=generator)
        kept = (order[: -(-len(order) // 2), None] * group + torch.arange(group)).flatten()
        coverage[axis] = kept[kept < size]
    if "classes" in coverage:  # never cut, but in any order
        coverage["classes"] = torch.arange(classes).roll(1)

    def why(axes: Iterable[str]) -> str:
        return _mixed(net, found, weights, {axis: coverage[axis] for axis in axes}, x, classes)

    if not coverage or not (reason := why(coverage)):
        return {}
    return {axis: one for axis in coverage if (one := why([axis]))} or dict.fromkeys(coverage, reason)


def _mixed(net: nn.Module, found: Found, weights: State, coverage: Coverage, x: Tensor, classes: int) -> str:
    """Return why a sub-model does not compute what the whole does with zeros in all other channels; else nothing."""
    part, zeroed = extract(weights, found.axes, coverage), dict(weights)
    for name, value in weights.items():
        if axis_names(found.axes[name]):
            zeroed[name] = torch.zeros_like(value)
            zeroed[name][entry_index(found.axes[name], coverage, value.shape)] = part[name]
    try:
        out, expected = (
            logits(_without_layer_norms(resize(net, found, sizes), state), x, classes)
            for sizes, state in ((covered_sizes(found.sizes, coverage), part), (found.sizes, zeroed))
        )
    except Exception as error:
        return _said(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    order = coverage.get("classes", torch.arange(classes))
    return "" if _close(out, expected[:, order]) else MIXED


def _without_layer_norms(net: nn.Module, state: State) -> nn.Module:
    """Load a state, and let layer norms, which mix channels, only scale and shift each channel."""
    net.load_state_dict(state)
    for module in net.modules():
        if isinstance(module, LAYER_NORMS) and module.weight is not None:
            module.register_forward_hook(_scale_and_shift)
    return net.eval()


def _scale_and_shift(norm: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    x, weight, bias = args[0], norm.weight, getattr(norm, "bias", None)
    assert isinstance(weight, Tensor)
    first = x.shape[-weight.dim() :] != weight.shape  # channels come first, as in torchvision's LayerNorm2d
    shape = [1, -1, *[1] * (x.dim() - 2)] if first else list(weight.shape)
    return x * weight.reshape(shape) + (0 if bias is None else bias.reshape(shape))


def _ungated(net: nn.Module, found: Found, weights: State, x: Tensor) -> dict[str, str]:
    """Return the layers whose channels gates cannot switch, here of one module each, and why."""
    generator = torch.Generator().manual_seed(0)
    counts = {layer: found.sizes[hidden_axis(layer)] for layer in found.readers}
    kept = {layer: torch.randperm(count, generator=generator)[: count // 2] for layer, count in counts.items()}
    of_one = {**found.sizes, **counts, **{hidden_axis(layer): 1 for layer in counts}}
    whole = AnyBody(resize(net, found, of_one), replace(found, head=""), of_one).eval()
    whole.net.load_state_dict(weights)

    def why(*layers: str) -> str:
        coverage = {layer: kept[layer] for layer in layers}
        sizes = covered_sizes(of_one, coverage)
        part = AnyBody(resize(net, found, sizes), replace(found, readers={}, head=""), sizes).eval()
        part.load_state_dict(extract(whole.state_dict(), whole.axes(), coverage))
        gates = [torch.ones(len(x), counts[layer]) for layer in layers]
        for layer, gate in zip(layers, gates, strict=True):
            gate[0] = torch.zeros(counts[layer]).index_fill(0, kept[layer], 1.0)
        whole.layers = layers  # the others have no gates
        try:
            with torch.no_grad():
                out, expected = whole(x, gates), torch.cat([part(x)[:1], whole(x)[1:]])
        except Exception as error:
            return _said(error)
        return "" if _close(out, expected) else UNGATED

    if not counts or not why(*counts):
        return {}
    return {layer: one for layer in counts if (one := why(layer))}
