"""A simulated second device on a machine without a GPU. Its tensors hold real numbers on the device ``ELSEWHERE``.

As on a GPU, an operation on tensors of both devices is an error (except for tensors without dimensions), and nothing
moves back by itself: numpy cannot read a tensor that is there. The CPU does all arithmetic, so results are bit for bit
those of the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

ELSEWHERE = torch.device("lazy")  # a device that autograd can walk through without hardware
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class There(Tensor):
    """A tensor on the second device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> "There":
        there = Tensor._make_wrapper_subclass(
            cls, real.size(), real.stride(), real.storage_offset(), dtype=real.dtype, device=ELSEWHERE
        )
        there.inner = real
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    there = any(isinstance(t, There) for t in tensors)
    if func not in MOVES and there and (here := [t for t in tensors if not isinstance(t, There) and t.dim()]):
        raise RuntimeError(f"{func} on tensors here and elsewhere: {[tuple(t.shape) for t in here]} are here")
    asked = kwargs.get("device")
    if asked is not None:
        there = torch.device(asked) == ELSEWHERE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    real_args, real_kwargs = tree_map(lambda t: t.inner if isinstance(t, There) else t, (args, kwargs))
    out = func(*real_args, **real_kwargs)
    if func is torch.ops.aten.copy_.default:
        return args[0]
    if not there:
        return out
    out = tree_map(lambda t: There(t) if isinstance(t, Tensor) else t, out)
    return return_and_correct_aliasing(func, args, kwargs, out)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Provide the second device within a ``with`` block, and yield it."""
    with _Mode():
        yield ELSEWHERE
