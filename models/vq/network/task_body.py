"""One split model for several tasks: each has a device half, a head and a codebook, all share the stack in the cloud.

What the tasks have of their own lies side by side along an axis ``tasks``. A device holds the part of its task, so that
averaging over coverages, as everywhere, merges device halves and heads within a task and the stack over all devices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from models.nn.body import Architecture
from models.submodel import Axes, Coverage, Sizes, State
from models.vq.network.body import CODEBOOK, Build, SplitBody, split_body
from models.vq.network.halves import Shape, build
from models.vq.training.gradnorm import reweigh

OWN = ("device.", "head.", *CODEBOOK, "pace")


class TaskBody(SplitBody):
    """What a device has. A whole of several tasks is no network: it has axes, and an initial state.

    ``pace`` (4,) is what GradNorm knows of the task: the weight of its loss, the norm of the loss's gradient over the
    last shared layer and the loss, means over a round without the weight, and the first loss; 0: not yet known.

    Args:
        sizes: ``classes`` of the task that has most, and ``tasks``, which is 1 in a part.
    """

    pace: Tensor

    def __init__(self, sizes: Sizes, shape: Shape, codes: tuple[int, int] | None, seed: int = 0, build: Build = build):
        super().__init__(sizes, shape, codes, seed, build)
        self.register_buffer("pace", torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def state(self) -> State:
        tasks = self.sizes["tasks"]
        return {
            name: value.expand(tasks, *value.shape).clone() if name.startswith(OWN) else value
            for name, value in super().state().items()
        }

    def axes(self) -> Axes:
        return {
            name: ("tasks" if name.startswith(OWN) else None, *(None,) * (value.ndim - 1))
            for name, value in self.state().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take a task's part over. ValueError: this is a whole of several."""
        if self.sizes["tasks"] != 1:
            raise ValueError(f"a whole of {self.sizes['tasks']} tasks is no network; load the part of one task")
        own = {name: value[0] if name.startswith(OWN) else value for name, value in state_dict.items()}
        return super().load_state_dict(own, strict, assign)

    def on_device(self) -> set[str]:
        return super().on_device() | {"pace"}

    @property
    def weight(self) -> float:
        """Of the task's loss."""
        return float(self.pace[0])


def task_body(
    tasks: int, shape: Shape, classes: int, codes: tuple[int, int] | None, tokens: int = 0, build: Build = build
) -> Architecture:
    """The whole as an architecture; its parts are those of the tasks, see `parts`.

    Args, Raises: as `split_body`.
    """
    one = split_body(shape, classes, codes, tokens, build)

    def make(sizes: Sizes, generator: torch.Generator | None) -> TaskBody:
        return TaskBody(sizes, shape, codes, generator.initial_seed() if generator else 0, build)

    return Architecture(make, {**one.sizes, "tasks": tasks}, one.input_shape)


def parts(tasks: int) -> list[Coverage]:
    """What of the whole each task has."""
    return [{"tasks": torch.tensor([task])} for task in range(tasks)]


def side_by_side(states: Sequence[State], axes: Axes) -> State:
    """The whole of the parts of all tasks; what they share is the first one's."""
    return {
        name: torch.cat([state[name] for state in states]) if axes[name][:1] == ("tasks",) else value
        for name, value in states[0].items()
    }


def paced(before: State, after: State) -> State:
    """A merged whole with the weights of the next round, by GradNorm; as they are until every task has been heard.

    Of what devices return only norms and losses count; the weights are the server's.
    """
    weights, _, _, first = before["pace"].T
    _, norms, losses, _ = after["pace"].T
    if bool((losses > 0).all()):
        first = torch.where(first > 0, first, losses)
        weights = reweigh(weights, norms, losses, first)
    return after | {"pace": torch.stack([weights, norms, losses, first], 1)}
