"""Attention layers, of torch and written by hand: which layers hold the channels of their heads.

An attention is cut by whole heads together with the channels that it reads, so that what its heads return is as wide as
its input. `models.nn.find_axes` checks that each such cut computes what it should.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

COUNTS = ("num_heads", "n_heads", "num_attention_heads", "n_head", "nhead", "heads")  # attributes with how many heads
WIDTHS = ("embed_dim", "kdim", "vdim", "hidden_dim", "hidden_size", "d_model", "dim", "num_features")


@dataclass(frozen=True)
class Attention:
    """Where an attention has its heads.

    Args:
        count: attribute with the number of heads.
        makers: the linear layers that make queries, keys and values; none in `nn.MultiheadAttention`.
        reader: the linear layer that reads what the heads return.
        head: width of one head.
    """

    count: str
    makers: tuple[str, ...]
    reader: str
    head: int


def attention(module: nn.Module) -> Attention | None:
    """Return where the heads of a module are: it knows their number and has layers of matching widths."""
    count = next((name for name in COUNTS if type(vars(module).get(name)) is int), None)
    if count is None:
        return None
    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    if not linear:
        return None
    (*makers, reader), heads = linear, vars(module)[count]
    width = linear[reader].in_features
    of_torch = isinstance(module, nn.MultiheadAttention)
    by_hand = bool(makers) and sum(linear[name].out_features for name in makers) == 3 * width
    if heads < 1 or width % heads or not (of_torch or by_hand):
        return None
    return Attention(count, tuple(makers), reader, width // heads)


def attentions(network: nn.Module) -> Iterator[tuple[str, Attention]]:
    """Yield each attention of a network and its name."""
    for name, module in network.named_modules():
        if found := attention(module):
            yield name, found


def count_heads(network: nn.Module, template: nn.Module) -> None:
    """Set heads and widths of attentions whose layers were cut, and of the modules around them.

    Args:
        network: a copy of ``template`` with smaller layers, changed in place.
        template: the whole network.
    """
    for name, found in attentions(template):
        whole = template.get_submodule(name).get_submodule(found.reader).in_features
        width = network.get_submodule(name).get_submodule(found.reader).in_features
        if width == whole:
            continue
        setattr(network.get_submodule(name), found.count, int(width) // found.head)  # type: ignore[arg-type]
        path = name.split(".") if name else []
        for around in (".".join(path[:n]) for n in range(len(path) + 1)):
            known = vars(template.get_submodule(around))
            for attribute in WIDTHS:
                if type(known.get(attribute)) is int and known[attribute] == whole:
                    setattr(network.get_submodule(around), attribute, width)
