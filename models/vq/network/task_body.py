"""One split model for several tasks: each has a device half, a head and a codebook; all share the cloud half.

Entries that belong to a task lie along an axis ``tasks``. A client has the part of its task. The usual average over
coverages therefore averages device halves and heads within a task, and the cloud half over all clients.
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

TASK_ENTRIES = ("device.", "head.", *CODEBOOK, "pace")


class TaskBody(SplitBody):
    """One task's part. The whole of several tasks cannot run; it has axes and an initial state.

    ``pace`` (4,) is GradNorm's state of the task: the weight of its loss; the norm of the loss's gradient over the last
    shared layer and the loss, both as means over a round and without the weight; the first loss. 0: not yet known.

    Args:
        sizes: ``classes`` of the task with the most classes, and ``tasks``, which is 1 in a part.
        shape, codes, seed, build: as in `SplitBody`.
    """

    never_negative = ("counts", "pace")
    pace: Tensor

    def __init__(self, sizes: Sizes, shape: Shape, codes: tuple[int, int] | None, seed: int = 0, build: Build = build):
        super().__init__(sizes, shape, codes, seed, build)
        self.register_buffer("pace", torch.tensor([1.0, 0.0, 0.0, 0.0]))

    def state(self) -> State:
        tasks = self.sizes["tasks"]
        return {
            name: value.expand(tasks, *value.shape).clone() if name.startswith(TASK_ENTRIES) else value
            for name, value in super().state().items()
        }

    def axes(self) -> Axes:
        return {
            name: ("tasks" if name.startswith(TASK_ENTRIES) else None, *(None,) * (value.ndim - 1))
            for name, value in self.state().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a task's part. ValueError: this is a whole of several tasks."""
        if self.sizes["tasks"] != 1:
            raise ValueError(f"a whole of {self.sizes['tasks']} tasks is no network; load the part of one task")
        state = {name: value[0] if name.startswith(TASK_ENTRIES) else value for name, value in state_dict.items()}
        return super().load_state_dict(state, strict, assign)

    def device_entries(self) -> set[str]:
        return super().device_entries() | {"pace"}

    @property
    def weight(self) -> float:
        """Weight of the task's loss."""
        return float(self.pace[0])


def task_body(
    tasks: int, shape: Shape, classes: int, codes: tuple[int, int] | None, tokens: int = 0, build: Build = build
) -> Architecture:
    """Return the architecture of the whole; its parts are those of the tasks, see `parts`.

    Args, Raises: as `split_body`.
    """
    one = split_body(shape, classes, codes, tokens, build)

    def make(sizes: Sizes, generator: torch.Generator | None) -> TaskBody:
        return TaskBody(sizes, shape, codes, generator.initial_seed() if generator else 0, build)

    return Architecture(make, {**one.sizes, "tasks": tasks}, one.input_shape)


def parts(tasks: int) -> list[Coverage]:
    """Return the coverage of each task."""
    return [{"tasks": torch.tensor([task])} for task in range(tasks)]


def stack_tasks(states: Sequence[State], axes: Axes) -> State:
    """Build the whole from the parts of all tasks; shared entries are those of the first part."""
    return {
        name: torch.cat([state[name] for state in states]) if axes[name][:1] == ("tasks",) else value
        for name, value in states[0].items()
    }


def apply_gradnorm(before: State, after: State) -> State:
    """Update the loss weights of an aggregated whole by GradNorm.

    The weights do not change until every task has reported. Clients report only norms and losses; weights and first
    losses are the server's.
    """
    weights, _, _, first = before["pace"].T
    _, norms, losses, _ = after["pace"].T
    if bool((losses > 0).all()):
        first = torch.where(first > 0, first, losses)
        weights = reweigh(weights, norms, losses, first)
    return after | {"pace": torch.stack([weights, norms, losses, first], 1)}
