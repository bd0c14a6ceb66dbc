"""LoRA and adapters: they start as the base, share and preserve its weights, learn, and count their traffic."""

import pytest
import torch

from models.spa.activations import Activations
from models.spa.bases import Base
from models.spa.metrics import compare
from models.spa.rivals import BASELINES, Tuned, answers_loss, tune
from partitions.datasets.text.personas import Personas
from partitions.errors import DataError
from partitions.rng import rng

pytest.importorskip("peft")
EXAMPLES = Personas(1, facts=2, questions=1).examples(0, 0, "train")
# width 96, 4 layers, queries 96 wide, values 48: LoRA of rank r has 4 r (2 * 96 + 96 + 48) = 1344 r parameters,
# adapters of inner width n have 8 (2 * 96 n + n + 96) = 1544 n + 768
HAND = {"LoRA": (3 * 1344, 4, 4 * 2 * 96, 4 * 2 * 144), "adapter": (2 * 1544 + 768, 8, 8 * 2 * 96, 8 * 2 * 96)}


@pytest.fixture(params=BASELINES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tuned(base: Base, name: str) -> Tuned:
    return BASELINES[name](base, 5000, 1)


def test_sizes_and_traffic_by_hand(tuned: Tuned, name: str) -> None:
    assert (tuned.parameters, tuned.sites, tuned.down, tuned.up) == HAND[name]
    assert tuned.traffic(prompt=10, answer=3) == (3 * tuned.sites, 12 * tuned.down, 12 * tuned.up)


def test_a_baseline_starts_as_the_base_and_trains_only_its_parts(base: Base, tuned: Tuned) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    states = Activations(base, (base.layers,), whole=False)
    tuned_states = [Activations(tuned.base, (base.layers,), whole=False) for _ in range(2)]
    start = compare(base, states(EXAMPLES), tuned_states[0](EXAMPLES))
    assert start.same.all() and (start.base_loss == start.side_loss).all()
    assert tune(tuned, EXAMPLES, 15, 1e-2, 4, rng(0, 7)) < start.base_loss.mean()
    scores = compare(base, states(EXAMPLES), tuned_states[1](EXAMPLES))
    assert scores.side_loss.mean() < 0.95 * scores.base_loss.mean()
    batched_loss = answers_loss(tuned.base, EXAMPLES).item()  # batched and padded, against one by one
    assert batched_loss == pytest.approx(scores.side_loss.mean(), rel=1e-4)
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    assert not any(weight.requires_grad for weight in base.model.parameters())
    shared = {weight.data_ptr() for weight in base.model.parameters()}
    assert shared <= {weight.data_ptr() for weight in tuned.base.model.parameters()}


def test_the_stopwatch_runs_only_within_the_parts(base: Base, tuned: Tuned) -> None:
    base.stack(torch.arange(4)[None])
    assert tuned.watch.ms == 0
    tuned.base.stack(torch.arange(4)[None])
    assert tuned.watch.ms > 0


def test_a_base_that_is_no_llama_is_refused(base: Base) -> None:
    other = Base("odd", "", torch.nn.Module(), None)
    other.model.base_model = torch.nn.Module()
    with pytest.raises(DataError, match="is not built like LLaMA"):
        BASELINES["LoRA"](other, 100, 0)
