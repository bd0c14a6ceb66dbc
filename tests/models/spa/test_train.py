"""Training and metrics on a weak base: properties that hold for any base."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.spa.activations import Activations, Batch
from models.spa.bases import Base
from models.spa.gate import Gate
from models.spa.metrics import TokenScores, curve, evaluate_tokens, oracle, rates, text_scores
from models.spa.modes import MODES
from models.spa.session import train
from models.spa.side import SIDES, SideSpec, every_nth_state
from models.spa.train import GateFit, Plugin, Training, load_plugin
from partitions.datasets.text.personas import Personas
from partitions.errors import DataError
from partitions.rng import rng

PEOPLE = Personas(1, facts=3, questions=1)


def states_of(base: Base, plugin: Plugin, split: str):
    whole = Activations(base, plugin.side.spec.states, plugin.side.attends)
    return whole(PEOPLE.examples(0, 0, split))  # type: ignore[arg-type]


def fresh(base: Base, kind: str = "position-wise", zero: bool = True) -> Plugin:
    spec = SideSpec(kind, base.width, every_nth_state(base.layers, 2), reduction=4, zero=zero)  # type: ignore[arg-type]
    return Plugin(spec.build(1), Gate.constant(base.width, open_=True))


def trained(base: Base, plugin: Plugin, epochs: int = 12, **how: object) -> tuple[Plugin, float]:
    parts = [states_of(base, plugin, split) for split in ("train", "calibrate")]
    return train(base, plugin, Training(**how), *parts, epochs, rng(0, 7))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind,policy", [("position-wise", "catch_up"), ("attentive", "sparse")])
@pytest.mark.parametrize("mode_", MODES)
def test_the_side_learns_the_missing_facts(base: Base, mode_: str, kind: str, policy: str) -> None:
    plugin, loss = trained(
        base, fresh(base, kind, MODES[mode_].plugged), 25, mode=mode_, policy=policy, price=0.1, lr=1e-2
    )
    scores = evaluate_tokens(base, plugin, mode_, states_of(base, plugin, "train"), policy)  # type: ignore[arg-type]
    called = scores.score > 0 if MODES[mode_].gated else np.ones(len(scores.score), bool)
    assert loss < scores.base_loss.mean()
    assert rates(scores, called)["token_accuracy"] > scores.base_right.mean() + 0.1


@pytest.mark.parametrize("gate", ["two-stage", "mixture", "expectation", "straight-through"])
def test_every_gate_calls_less_at_a_higher_price(base: Base, gate: GateFit) -> None:
    called = []
    for price in (0.0, 10.0):
        plugin, _ = trained(base, fresh(base), epochs=20, gate=gate, price=price)
        scores = evaluate_tokens(base, plugin, "spa", states_of(base, plugin, "calibrate"))
        called.append(rates(scores, scores.score > 0)["M"])
    assert called[0] > 0.3 and called[1] < 0.05


def test_training_is_deterministic_and_does_not_change_the_base(base: Base) -> None:
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    states = [trained(base, fresh(base), epochs=2)[0].state() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(torch.equal(before[name], value) for name, value in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_without_epochs_only_the_gate_changes(base: Base) -> None:
    start = fresh(base).state()
    plugin, loss = trained(base, fresh(base), epochs=0)
    assert np.isnan(loss)
    assert all(torch.equal(start[name], value) for name, value in plugin.state().items() if name.startswith("side."))


def test_a_batch_contains_each_answer_once(base: Base) -> None:
    for kind in SIDES:
        plugin = fresh(base, kind)
        states, examples = states_of(base, plugin, "train"), PEOPLE.examples(0, 0, "train")
        batch = Batch.of(states)
        answers = [base.encode(example)[1] for example in examples]
        assert batch.targets.tolist() == [id_ for answer in answers for id_ in answer]
        assert batch.scored.sum(1).tolist() == list(map(len, answers))
        prompt, answer = base.encode(examples[0])
        logits = base.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        torch.testing.assert_close(base.head(batch.b[0][batch.scored[0]]), logits)


def test_the_base_runs_once_per_example(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = PEOPLE.examples(0, 0, "train")
    activations = Activations(base, (0, base.layers), whole=False)
    first = activations(examples)
    monkeypatch.setattr(Base, "stack", lambda *_: pytest.fail("the base ran again"))
    assert [id(k) for k in activations(examples)] == [id(k) for k in first]


def test_activations_stay_below_their_limit(base: Base) -> None:
    examples = PEOPLE.examples(0, 0, "train")
    activations = Activations(base, (0, base.layers), whole=True, limit=60_000)
    activations(examples)
    cached = list(activations._cache.values())
    assert sum(k.stack.nbytes for k in cached) == activations._bytes <= 60_000
    assert 0 < len(cached) < len(examples)


def hand() -> TokenScores:
    """Return scores of five tokens of two examples."""
    return TokenScores(
        example=np.array([0, 0, 0, 1, 1]),
        base_loss=np.array([1.0, 2.0, 0.1, 3.0, 0.2]),
        side_loss=np.array([0.5, 0.1, 0.3, 0.2, 0.2]),
        base_right=np.array([True, False, True, False, True]),
        side_right=np.array([True, True, False, True, True]),
        same=np.array([True, False, False, False, True]),
        score=np.array([0.5, 2.0, -1.0, 1.0, -2.0]),
    )


def test_rates_by_hand() -> None:
    result = rates(hand(), hand().score > 0)
    assert result["M"] == 3 / 5
    assert result["ce"] == pytest.approx((0.5 + 0.1 + 0.1 + 0.2 + 0.2) / 5)
    assert result["token_accuracy"] == 1 and result["exact"] == 1
    assert result["diff"] == 3 / 5 and result["diff_pick"] == 2 / 5
    assert result["recall"] == pytest.approx(2 / 3) and result["waste"] == 1 / 2
    assert rates(hand(), np.zeros(5, bool))["exact"] == 0
    assert rates(hand(), np.array([0, 1, 0, 0, 0], bool))["exact"] == 1 / 2


def test_the_curve_goes_from_never_to_always() -> None:
    points = curve(hand(), 5)
    assert [p["M"] for p in points] == [0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]
    assert points[0]["token_accuracy"] == 3 / 5 and points[-1]["token_accuracy"] == 4 / 5
    assert oracle(hand(), 0.4)["M"] == 3 / 5


def test_the_papers_rates_are_consistent() -> None:
    # 'diff 78.2, diff pick 56.8, M 0.62' of the paper: diff pick must be a share of all tokens
    recall, waste = 0.568 / 0.782, (0.62 - 0.568) / (1 - 0.782)
    assert recall == pytest.approx(0.73, abs=0.005) and waste == pytest.approx(0.24, abs=0.005)


def test_text_scores() -> None:
    pytest.importorskip("rouge_score")
    result = text_scores(["the cat sat", "no"], ["the cat sat", "the dog ran off"])
    assert result["exact_text"] == result["rouge1"] == result["rougeL"] == 0.5
    # two of three words and one of two pairs, in order
    assert text_scores(["a small dog"], ["a big dog"])["rougeL"] == pytest.approx(2 / 3)


def test_a_plugin_is_restored_from_its_file(base: Base, plugin_of: Callable[..., Plugin], tmp_path: Path) -> None:
    for kind in SIDES:
        plugin = plugin_of(kind)
        plugin.save(tmp_path / "p.safetensors", base.checksum, "s2", "sparse")
        loaded, metadata = load_plugin(tmp_path / "p.safetensors")
        assert metadata == {"checksum": base.checksum, "mode": "s2", "policy": "sparse"}
        assert loaded.side.spec == plugin.side.spec and loaded.gate.tau == plugin.gate.tau
        assert all(torch.equal(value, loaded.state()[name]) for name, value in plugin.state().items())
    (tmp_path / "p.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="contains no plugin .*experiments spa train"):
        load_plugin(tmp_path / "p.safetensors")
