"""What all tests share: one thread, a cache folder of their own, and cloud models small enough to make in a moment."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, settings

from models.costs import CostModel
from models.elastic.supernet import elastic, grow
from models.modular.model import ModularModel
from models.modular.modularize import modularize
from models.modular.selector import Routing, Selector
from models.nn.body import Architecture
from models.nn.mlp import mlp
from models.submodel import State
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Budget

torch.set_num_threads(1)
# A busy machine is no fault: by default hypothesis fails a test of which one example takes more than 0.2 s.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
SLOW = (  # files that take longest, in that order; they start first, so that no worker waits for another at the end
    "experiments/cli/test_engines.py", "experiments/cli/test_split.py", "test_bring_your_own.py",
    "experiments/attacks/test_attacks.py", "fl/engines/test_actors.py", "experiments/test_hermetic.py",
    "fl/workloads/test_vq.py", "experiments/cli/test_run.py", "fl/workloads/test_spa.py",
    "fl/server/test_checkpoint.py", "fl/engines/test_accelerator.py", "fl/server/test_run.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"tests/{file}": at for at, file in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(SLOW)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests never read or fill the user's cache, nor do they see the user's data sets."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("DRIFTFED_DATA", raising=False)
        yield folder


def make_models(
    modules: int = 8, shrink: int = 8, top_k: int = 4, dense: Architecture | None = None, residual: bool = False
) -> PretrainedModels:
    """Untrained cloud models of an MLP with 6 inputs and 3 classes; the selector prefers no module."""
    dense = dense or mlp((6,), 3, width=16)
    state: State = dense.whole(0).state()
    modular, taken = modularize(dense, state, modules, shrink, residual)
    body = modular.part({})
    body.load_state_dict(taken)
    layers = dict.fromkeys(body.layers, modules + residual)
    selector = Selector(dense.input_shape, layers, 4, torch.Generator().manual_seed(0))
    cut = ModularModel(body, selector, Routing(top_k, float(shrink)))
    architectures = {"dense": dense, "modular": modular, "supernet": elastic(dense, shrink)}
    return PretrainedModels(
        architectures,
        {name: CostModel(one, 4) for name, one in architectures.items()},
        {
            "dense": lambda: state,
            "nested": lambda: state,
            "rolling": lambda: state,
            "supernet": lambda: grow(dense, state, shrink),
            "modular": lambda: cut,
            "tailored": lambda: cut,
        },
        class_shares=[0.25, 0.25, 0.5],
    )


@pytest.fixture
def models_maker() -> Callable[..., PretrainedModels]:
    return make_models


@pytest.fixture
def budget() -> Budget:
    return Budget(clients=10, cohort=4, local_epochs=1, adapt_epochs=2, rounds_per_step=3)
