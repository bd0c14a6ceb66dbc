"""Any `torch.nn.Module` as an architecture: the axes of its parameters are found from one forward pass.

torch-pruning finds which channels of which layers belong together; each such group is an axis. A sub-model is a copy of
the module with smaller layers. What cannot be cut stays whole, and `Found.whole` says why.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from models.nn.blocks import channel_groups
from models.nn.body import Architecture, Body, Shape, hidden_axis
from models.submodel import (
    Axes,
    Coverage,
    Dimension,
    Joined,
    Sizes,
    State,
    axis_names,
    covered_sizes,
    entry_index,
    extract,
)
from partitions.errors import one_line

T = TypeVar("T")
Make = Callable[[], nn.Module]
Inputs = tuple[tuple[Any, ...], dict[str, Any]]
PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
NARROW = 32  # layers with fewer channels, such as those of squeeze and excitation, are not cut into modules
LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
NORMS = (*CHANNEL_NORMS, nn.GroupNorm, *LAYER_NORMS)
MIXED = "with some of its channels, the model does not compute what it computes with zeros in the others"
UNGATED = "switching its channels off does not equal cutting them"
LEAVE_WHOLE = {
    nn.MultiheadAttention: "attention keeps the width of its heads",
    nn.RNNBase: "recurrent layers keep their width",
}


@dataclass(frozen=True)
class Found:
    """What is known of a module.

    Args:
        axes: of each entry of its ``state_dict()``.
        sizes: whole length of each axis.
        readers: for each layer that ECLM can cut into modules, by its module axis and in order of execution, the layer
            of the network that reads its channels.
        head: the layer that returns the logits; empty if unknown.
        whole: what is never cut, and why.
    """

    axes: Axes
    sizes: Mapping[str, int]
    readers: Mapping[str, str] = field(default_factory=dict)
    head: str = ""
    whole: Mapping[str, str] = field(default_factory=dict)


class AnyBody(Body):
    """A module of the user, whole or cut, (B, ...) -> (B, classes).

    Args:
        net: the module, already cut to ``sizes``.
        found: what is known of the whole module.
        sizes: of the axes.
    """

    def __init__(self, net: nn.Module, found: Found, sizes: Sizes):
        super().__init__(sizes)
        self.net, self.found, self.layers = net, found, tuple(found.readers)
        self.gates: dict[str, Tensor] = {}
        for layer, reader in found.readers.items():
            net.get_submodule(reader).register_forward_pre_hook(Gate(self, layer), with_kwargs=True)
        if found.head and not any(isinstance(module, NORMS) for module in net.modules()):
            net.get_submodule(found.head).register_forward_pre_hook(Scaler(self), with_kwargs=True)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        with self.gating(gates):
            return self.net(x)

    @contextmanager
    def gating(self, gates: Sequence[Tensor] | None) -> Iterator[None]:
        """Gate the modules of the net while it runs."""
        self.gates = {} if gates is None else dict(zip(self.layers, gates, strict=True))
        try:
            yield
        finally:
            self.gates = {}

    def axes(self) -> Axes:
        return {f"net.{name}": tuple(_resized(d, self.sizes) for d in ds) for name, ds in self.found.axes.items()}


@dataclass
class Gate:
    """Multiplies the channels that a layer reads, M * H of them, by the gates (B, M) of their modules."""

    body: AnyBody
    layer: str

    def __call__(self, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs | None:
        if self.layer not in self.body.gates:
            return None
        (x,) = *args, *kwargs.values()
        gates = self.body.gates[self.layer].repeat_interleave(self.body.sizes[hidden_axis(self.layer)], dim=1)
        channels = x.dim() - 1 if isinstance(reader, nn.Linear) else 1
        return (x * gates.reshape([n if d in (0, channels) else 1 for d, n in enumerate(x.shape)]),), {}


@dataclass
class Scaler:
    """Divides what the head reads by the rate of the sub-model (HeteroFL's scaler), in networks without norms."""

    body: AnyBody

    def __call__(self, head: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        (x,) = *args, *kwargs.values()
        return (x / self.body.rate,), {}


def from_module(make: nn.Module | Make, input_shape: Shape, classes: int, layers: int = 0) -> Architecture:
    """Return the architecture of a module that was not written for this project.

    Args:
        make: the module, or a function without arguments that makes it. The function is called with torch's random
            numbers seeded, so that each seed has its own initial weights.
        input_shape: shape of one sample; the module takes a float32 batch (B, *input_shape).
        classes: the module returns logits (B, classes).
        layers: ECLM cuts only the last so many of the layers that it can cut into modules; 0: all.

    Raises:
        ValueError: the module does not accept such a batch or does not return such logits, or has fewer layers.
    """

    def initialised(seed: int) -> nn.Module:
        return (
            copy.deepcopy(make) if isinstance(make, nn.Module) else _seeded(partial(_filled, make, input_shape), seed)
        )

    template = make if isinstance(make, nn.Module) else initialised(0)
    found = find_axes(template, input_shape, classes, layers)

    def build(sizes: Sizes, generator: torch.Generator | None) -> AnyBody:
        if unknown := [axis for axis in sizes if axis not in found.sizes]:
            raise ValueError(f"a module of your own has no residual modules: {unknown[0]}")
        body = AnyBody(resize(template, found, sizes), found, sizes)
        if generator is not None:
            counts = {axis: n for axis, n in sizes.items() if axis not in found.readers}
            counts |= {
                hidden: sizes[layer] * sizes[hidden] for layer in found.readers for hidden in [hidden_axis(layer)]
            }
            repeated = {axis: torch.arange(n) % found.sizes[axis] for axis, n in counts.items()}
            body.net.load_state_dict(extract(initialised(generator.initial_seed()).state_dict(), found.axes, repeated))
        return body

    return Architecture(build, found.sizes, input_shape)


def architecture_of(
    family: Callable[..., Any], input_shape: Shape, classes: int, layers: int = 0, **options: Any
) -> Architecture:
    """Call a model's function, or a class of modules.

    Args:
        family: ``family(input_shape, classes, **options)``, or with the number of classes as ``num_classes`` alone. It
            returns an `Architecture`, or an `nn.Module` whose axes are to be found.
        layers: as in `from_module`.

    Raises:
        ValueError: the model has no such layers, or does not work as `from_module` needs it.
    """
    takes = inspect.signature(family).parameters.values()
    names = {p.name for p in takes}
    if sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in takes) >= 2:
        make = partial(family, input_shape, classes, **options)
    elif "num_classes" in names or any(p.kind is p.VAR_KEYWORD for p in takes):
        make = partial(family, num_classes=classes, **options)
    else:
        make = partial(family, **options)
    if layers and "layers" in names:
        make = partial(make, layers=layers)
    made = _seeded(make, 0)
    if not isinstance(made, Architecture):
        return from_module(make, input_shape, classes, layers)
    if layers and "layers" not in names:
        raise ValueError(f"model.module-layers = {layers} is not an option of this model: leave it out")
    return made


def count_classes(net: nn.Module, input_shape: Shape) -> int:
    """Return how many logits a module returns for a sample.

    Raises:
        ValueError: the module does not run on one batch, or does not return logits.
    """
    with _evaluation(net), torch.random.fork_rng(devices=[]):
        return _logits(net, torch.zeros(2, *input_shape), None).shape[1]


def _seeded(make: Callable[[], T], seed: int) -> T:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _filled(make: Make, input_shape: Shape) -> nn.Module:
    """Make a module, and let its lazy parameters take their shapes from one sample."""
    net = make()
    if any(is_lazy(value) for value in (*net.parameters(), *net.buffers())):
        with _evaluation(net), torch.no_grad():
            net(torch.zeros(1, *input_shape))
    return net


def resize(template: nn.Module, found: Found, sizes: Sizes) -> nn.Module:
    """Return a copy of a module whose layers have other sizes; parameters and buffers are zeros."""
    shapes = {
        name: [_length(d, n, sizes) for d, n in zip(found.axes[name], value.shape, strict=True)]
        for name, value in template.state_dict().items()
    }
    return reshape(template, shapes)


def reshape(template: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy of a module with other shapes of the entries of its state; they are zeros."""
    place = torch.get_default_device()
    memo: dict[int, Any] = {id(buffer): buffer.detach().to(place, copy=True) for buffer in template.buffers()}
    for name, value in template.state_dict(keep_vars=True).items():
        zeros = torch.zeros(tuple(shapes[name]), dtype=value.dtype)
        memo[id(value)] = nn.Parameter(zeros, value.requires_grad) if isinstance(value, nn.Parameter) else zeros
    net = copy.deepcopy(template, memo)
    for module, old in zip(net.modules(), template.modules(), strict=True):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, PLAIN):
            assert isinstance(old, PLAIN)
            module.out_channels = len(weight)
            module.groups = old.groups if old.groups == 1 else old.groups * len(weight) // old.out_channels
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, TRANSPOSED):
            module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, CHANNEL_NORMS):
            module.num_features = len(weight)
        elif isinstance(module, nn.GroupNorm):
            assert isinstance(old, nn.GroupNorm)
            module.num_groups = old.num_groups * len(weight) // old.num_channels
            module.num_channels = len(weight)
        elif isinstance(module, LAYER_NORMS):
            module.normalized_shape = tuple(weight.shape)
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = weight.shape[1]
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(weight)
    return net


def _resized(dimension: Dimension, sizes: Sizes) -> Dimension:
    """Return a dimension of the whole module in a module of other sizes."""
    if not isinstance(dimension, Joined):
        return dimension
    return Joined(tuple(tuple((axis, sizes[axis] if axis else n) for axis, n in part) for part in dimension.parts))


def _length(dimension: Dimension, length: int, sizes: Sizes) -> int:
    """Return the length of a dimension of the whole module in a module of other sizes."""
    if isinstance(dimension, str):
        return sizes[dimension]
    resized = _resized(dimension, sizes)
    return length if resized is None else len(resized)


# finding axes

Label = tuple[str, int] | None  # of one entry of a dimension: its axis and its channel
Labels = dict[tuple[str, int], list[Label]]  # by parameter and dimension


@dataclass
class Group:
    """Channels that are cut together.

    Args:
        size: how many.
        members: layers or bare parameters that have them: name, side ('out', 'in' or 'bare'), and for each entry its
            position there and its channel.
    """

    size: int
    members: list[tuple[str, str, list[int], list[int]]] = field(default_factory=list)

    def names(self, side: str) -> list[str]:
        """Return the members on one side."""
        return [name for name, own, _, _ in self.members if own == side]


def find_axes(net: nn.Module, input_shape: Shape, classes: int, layers: int = 0) -> Found:
    """Find the axes of a module; arguments and errors as in `from_module`."""
    x = torch.randint(0, 2, (2, *input_shape), generator=torch.Generator().manual_seed(0)).float()
    with _evaluation(net), torch.random.fork_rng(devices=[]):
        order, whole = _execution(net, x, classes), dict[str, str]()
        for name, value in net.state_dict().items():
            if not isinstance(value, Tensor) or value.dtype == torch.bool or not value.isfinite().all():
                raise ValueError(
                    f"{name} in the model's state is not a tensor of finite numbers: "
                    "use register_buffer with persistent=False, and no get_extra_state"
                )
        try:
            groups = _groups(net, x, order, classes)
        except ModuleNotFoundError:  # torch-pruning
            raise
        except Exception as error:  # a graph that the library cannot follow: only the whole module is trained
            groups, whole = {}, {"the model": f"its layers could not be followed ({_said(error)})"}
        if not torch.equal(_logits(net, x, classes), _logits(net, x, classes)):
            groups, whole = {}, {"the model": "its logits are random in evaluation: dropout needs self.training"}
        _copy(net, x, classes)
        whole |= {axis: why for axis, group in groups.items() if (why := _uncuttable(net, group))}
        labels, shared = _labels(net, {axis: group for axis, group in groups.items() if axis not in whole})
        whole |= shared
        while True:
            found = _found(net, groups, labels, whole, {}, classes)
            refused = {axis: why for axis, why in found.whole.items() if axis not in whole}
            if not (refused := refused or _failing(net, found, x, classes)):
                break
            whole |= refused
        readers = _readers(net, groups, whole, order)
        found = _found(net, groups, labels, whole, readers, classes)
        whole |= {layer: why for layer in readers if (why := _ungated(net, found, layer, x))}
        readers = {layer: reader for layer, reader in readers.items() if layer not in whole}
        if layers > len(readers):
            raise ValueError(f"model.module-layers = {layers}: the model has {len(readers)} such layers")
        return _found(net, groups, labels, whole, dict(list(readers.items())[-layers:]), classes)


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


@contextmanager
def _evaluation(net: nn.Module) -> Iterator[None]:
    """Put a module into evaluation, and then back."""
    training = [module.training for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in zip(net.modules(), training, strict=True):
            module.training = mode


def _execution(net: nn.Module, x: Tensor, classes: int) -> list[str]:
    """Run a module as `_logits` does, and return the names of its layers in order of execution."""
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda module, args, out, name=name: order.append(name))
        for name, module in net.named_modules()
    ]
    try:
        _logits(net, x, classes)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _logits(net: nn.Module, x: Tensor, classes: int | None) -> Tensor:
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


def _copy(net: nn.Module, x: Tensor, classes: int) -> None:
    """Copy a module and run the copy, also in training and without numbers.

    Raises:
        ValueError: one of these fails, or the copy computes something else than the module.
    """
    try:
        other = copy.deepcopy(net)
    except Exception as error:
        raise ValueError(f"the model cannot be copied ({_said(error)}): copy.deepcopy must work") from error
    other.load_state_dict(_random(net))
    with torch.no_grad():
        own = _seeded(
            partial(functional_call, net, {**dict(other.named_parameters()), **dict(other.named_buffers())}, x), 0
        )
    if not _close(_seeded(partial(_logits, other, x, classes), 0), own):
        raise ValueError(
            "a copy of the model does not compute what the model computes: "
            "use methods instead of lambdas or functions that refer to the model, also as hooks"
        )
    _logits(other.train(), x, classes)
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


def _groups(net: nn.Module, x: Tensor, order: list[str], classes: int) -> dict[str, Group]:
    """Return the groups of channels by axis; an axis has the name of the first layer that makes its channels."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    with torch.enable_grad():
        graph.build_dependency(net, x, verbose=False)
    names = {id(module): name for name, module in net.named_modules()}
    bare = {id(parameter): name for name, parameter in net.named_parameters()}
    groups: dict[str, Group] = {}
    for items in graph.get_all_groups():
        group = Group(len(items[0].idxs))
        for member in items:
            target = member.dep.target.module
            side = "out" if graph.is_out_channel_pruning_fn(member.dep.handler) else "in"
            if id(target) in names:
                group.members.append((names[id(target)], side, list(member.idxs), list(member.root_idxs)))
            elif id(target) in bare:
                group.members.append((bare[id(target)], "bare", list(member.idxs), list(member.root_idxs)))
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
                yield first[key], dim, positions, channels


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
        for kind, why in LEAVE_WHOLE.items():
            if isinstance(module, kind):
                return f"{name}: {why}"
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


def _failing(net: nn.Module, found: Found, x: Tensor, classes: int) -> dict[str, str]:
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
        return _mixed(net, found, {axis: coverage[axis] for axis in axes}, x, classes)

    if not coverage or not (reason := why(coverage)):
        return {}
    return {axis: one for axis in coverage if (one := why([axis]))} or dict.fromkeys(coverage, reason)


def _mixed(net: nn.Module, found: Found, coverage: Coverage, x: Tensor, classes: int) -> str:
    """Return why a sub-model does not compute what the whole does with zeros in all other channels; else nothing."""
    values = _random(net)
    part, zeroed = extract(values, found.axes, coverage), dict(values)
    for name, value in values.items():
        if axis_names(found.axes[name]):
            zeroed[name] = torch.zeros_like(value)
            zeroed[name][entry_index(found.axes[name], coverage, value.shape)] = part[name]
    try:
        out, expected = (
            _logits(_without_layer_norms(resize(net, found, sizes), state), x, classes)
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


def _ungated(net: nn.Module, found: Found, layer: str, x: Tensor) -> str:
    """Return why gates cannot switch the channels of a layer, here of one module each; else nothing."""
    hidden = hidden_axis(layer)
    count, alone = found.sizes[hidden], replace(found, readers={layer: found.readers[layer]}, head="")
    kept = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: count // 2]
    whole, part = (
        AnyBody(resize(net, found, sizes), alone, sizes).eval()
        for n in (count, len(kept))
        for sizes in [{**found.sizes, layer: n, hidden: 1}]
    )
    whole.net.load_state_dict(_random(net))
    part.load_state_dict(extract(whole.state(), whole.axes(), {layer: kept}))
    gates = torch.ones(len(x), count)
    gates[0] = torch.zeros(count).index_fill(0, kept, 1.0)
    try:
        with torch.no_grad():
            out, expected = whole(x, [gates]), torch.cat([part(x)[:1], whole(x)[1:]])
    except Exception as error:
        return _said(error)
    return "" if _close(out, expected) else UNGATED
