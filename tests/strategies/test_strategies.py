"""Every method keeps the same promises (a new one is one more row of `STRATEGIES`); what reduces to what, exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.nn.body import gate_columns
from models.submodel import State, extract
from strategies import STRATEGIES
from strategies.adaptivenet import AdaptiveNet
from strategies.core.averaging import Averaging
from strategies.core.strategy import Budget, Limits, Profile, Strategy, TrainTask, Update
from strategies.eclm import ECLM, ECLMBlended, ECLMPlus, ECLMPrior, ECLMTailored
from strategies.eclm_ablations import ECLMLocal
from strategies.fedavg import FedAvg, FedAvgPrior
from strategies.fedrolex import FedRolex
from strategies.fjord import FjORD, FjORDPrior
from strategies.heterofl import HeteroFL
from strategies.local import LocalAdaptation


def profiles(method: Strategy, share: float = 0.5, clients: int | None = None) -> list[Profile]:
    """Answers of all clients: the same share of the large model, importance that differs by client, and losses."""
    whole = method.models.costs["dense"].whole
    limits = Limits(*(share * np.array(whole.vector[1:])))
    out = []
    modules = len(gate_columns(method.models.architectures["modular"].sizes, "block.modules"))
    for client in range(clients or method.budget.clients):
        scores = np.random.default_rng(client).dirichlet(np.ones(modules))
        out.append(important(client, scores, limits))
    return out


def important(client: int, scores: object, limits: Limits | None = None) -> Profile:
    """A client's answer with the importance of its modules."""
    losses = {"now": np.ones(1), "models": np.zeros(1)}
    return Profile(client, limits, {"importance": {"block.modules": np.array(scores, dtype=float)}, "losses": losses})


def trained(task: TrainTask, client: int) -> State:
    """Replaces local training: moves every parameter by an amount that differs by client."""
    assert task.model.state is not None
    return {name: value + 0.1 * (client + 1) for name, value in task.model.state.items()}


def update(client: int, task: TrainTask, examples: int, classes: tuple[int, ...] | None = None) -> Update:
    """A client's update after `trained`, with zero change of further tensors."""
    up = task.tensors if task.tensors_up else {}
    own = {name: {k: torch.zeros_like(v) for k, v in state.items()} for name, state in up.items()}
    report = {} if classes is None else {"classes": list(classes)}
    return Update(client, trained(task, client) if task.upload else {}, examples, report, own)


def aggregate(method: Strategy, server_round: int, tasks: dict[int, TrainTask], updates: list[Update]) -> None:
    """Let the server aggregate updates in two parts, as two worker processes would."""
    parts = [method.aggregator(), method.aggregator()]
    for i, one in enumerate(updates):
        parts[i % 2].add(tasks[one.client], one)
    parts[0].merge(parts[1])
    method.server_update(server_round, parts[0])


def one_round(method: Strategy, share: float, examples: int | None = None) -> None:
    cohort = method.sample_clients(1)
    asked = [p for p in profiles(method, share) if p.client in cohort]
    tasks = method.configure_train(1, asked)
    updates = [update(c, t, examples or 10 + c) for c, t in tasks.items() if t.upload]
    if updates:
        aggregate(method, 1, tasks, updates)


@pytest.fixture(params=[*STRATEGIES, "eclm with residual modules"])
def method(request, models_maker, budget) -> Strategy:
    name, _, residual = request.param.partition(" ")
    return STRATEGIES[name](models_maker(residual=bool(residual)), budget, seed=3)


def test_cohorts_come_from_the_seed_and_the_server_roundalone(method: Strategy, models_maker, budget) -> None:
    again = type(method)(models_maker(), budget, seed=3)
    again.sample_clients(9)
    for server_round in (1, 2, 3, 4):
        cohort = method.sample_clients(server_round)
        assert cohort == again.sample_clients(server_round) == sorted(set(cohort))
        assert all(0 <= client < budget.clients for client in cohort)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0, 5.0])
def test_every_client_is_delivered_a_model_that_builds(method: Strategy, budget: Budget, share: float) -> None:
    """Nothing fits a hundredth of the large model: methods with limits then deliver nothing."""
    tasks = method.configure_evaluate(profiles(method, share))
    nothing_fits = share == 0.01 and method.asks in ("limits", "importance")
    assert sorted(tasks) == ([] if nothing_fits else list(range(budget.clients)))
    for task in tasks.values():
        if task.model.state is not None:
            method.models.architectures[task.model.architecture].part(task.model.coverage).load_state_dict(
                task.model.state
            )


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_what_is_trained_fits_the_limits_where_the_method_asks_for_them(method: Strategy, share: float) -> None:
    if method.asks in ("nothing", "losses"):
        return
    asked = profiles(method, share)
    tasks = method.configure_train(1, asked)
    assert tasks or not method.sample_clients(1)  # nothing is trained: there is nothing to fit
    for profile in asked:
        if profile.client in tasks:
            assert profile.limits is not None
            assert (np.array(tasks[profile.client].cost.vector[1:]) <= profile.limits.vector + 1e-6).all()


def test_a_round_moves_the_model_and_forgets_nothing(method: Strategy) -> None:
    before = {name: value.clone() for name, value in method.model.items()}
    one_round(method, 0.5)
    trains = method.sample_clients(1) and any(t.upload for t in method.configure_train(1, profiles(method)).values())
    assert method.model.keys() == before.keys()
    moved = any(not torch.equal(method.model[name], before[name]) for name in before)
    assert moved == bool(trains)
    for value in method.model.values():
        assert torch.isfinite(value).all()


def test_the_cloud_model_that_others_share_is_never_written_to(method: Strategy) -> None:
    models = method.models
    dense = {n: v.clone() for n, v in models.state("dense").items()}
    modular = models.modular().body.state()
    one_round(method, 0.5)
    assert all(torch.equal(dense[n], v) for n, v in models.state("dense").items())
    assert all(torch.equal(modular[n], v) for n, v in models.modular().body.state_dict().items())


# reductions


def test_heterofl_at_rate_one_is_fedavg(models_maker, budget: Budget) -> None:
    """With the same number of examples everywhere, for HeteroFL counts clients and FedAvg examples."""
    hetero, average = HeteroFL(models_maker(), budget, 3), FedAvg(models_maker(), budget, 3)
    for method in (hetero, average):
        one_round(method, share=2.0, examples=50)
    for name, value in average.model.items():
        torch.testing.assert_close(hetero.model[name], value, rtol=0, atol=0, msg=name)


def test_eclm_with_one_module_and_equal_importance_is_fedavg(models_maker, budget: Budget) -> None:
    cloud = models_maker(modules=1, shrink=1, top_k=1)
    eclm, average = ECLM(cloud, budget, 3), FedAvg(cloud, budget, 3)
    for method in (eclm, average):
        one_round(method, share=2.0, examples=50)
    for name, value in average.model.items():
        torch.testing.assert_close(eclm.model[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("least", "change", "said"),
    [
        ({"modules": 6}, {"modules": 5}, "top-k = 6 is more than there are modules per layer"),
        ({"tailored": True, "top_k": 2}, {"top_k": 1}, "2 active modules per layer, one is the core"),
        ({"top_k": 1}, {}, ""),
        ({"candidates": 1.0}, {"candidates": 0.99}, "use 0 or at least 1"),
        ({"candidates": 0.0}, {"candidates": 0.01}, "use 0 or at least 1"),
    ],
)
def test_eclm_refuses_what_no_sub_model_can_be(least: dict, change: dict, said: str, budget: Budget) -> None:
    """``least`` is just allowed."""
    ECLM.check(ECLM.Options(**least), budget)
    if change:
        with pytest.raises(ValueError, match=said):
            ECLM.check(ECLM.Options(**{**least, **change}), budget)


# methods by hand


def test_heterofl_entries_are_averaged_over_those_who_cover_them(models_maker, budget: Budget) -> None:
    """Device 0 at full width moves by 0.1, client 1 at half width by 0.2: the shared half by 0.15, the rest by 0.1."""
    method = HeteroFL(models_maker(), budget, 3)
    whole = np.array(method.models.costs["dense"].whole.vector[1:])
    half = np.array(method.prices[1].vector[1:])
    asked = [Profile(0, Limits(*whole)), Profile(1, Limits(*half))]
    tasks = method.configure_train(1, asked)
    assert [tasks[d].options["rate"] for d in (0, 1)] == [1.0, 0.5]
    before = method.model["block.first"].clone()
    aggregate(method, 1, tasks, [update(d, t, 50) for d, t in tasks.items()])
    moved = method.model["block.first"] - before  # (1, hidden 16, 6)
    torch.testing.assert_close(moved[:, :8], torch.full((1, 8, 6), 0.15))
    torch.testing.assert_close(moved[:, 8:], torch.full((1, 8, 6), 0.10))


def test_heterofl_averages_a_row_of_the_classifier_over_the_clients_that_hold_the_class(models_maker, budget) -> None:
    """Device 0 holds classes 0 and 1 and moves by 0.1, client 1 holds 1 and moves by 0.2; nobody holds class 2."""
    method = HeteroFL(models_maker(), budget, 3)
    asked = profiles(method, 2.0, clients=2)
    tasks = method.configure_train(1, asked)
    before = {name: value.clone() for name, value in method.model.items()}
    held = {0: (0, 1), 1: (1,)}
    updates = [update(d, t, 50, held[d]) for d, t in tasks.items()]
    aggregate(method, 1, tasks, updates)
    moved = {name: value - before[name] for name, value in method.model.items()}
    torch.testing.assert_close(moved["head.bias"], torch.tensor([0.1, 0.15, 0.0]))
    torch.testing.assert_close(moved["head.weight"], torch.tensor([0.1, 0.15, 0.0])[:, None].expand(3, 8))
    torch.testing.assert_close(moved["block.bias"], torch.full((8,), 0.15))


def two_widths(method: HeteroFL) -> list[Profile]:
    """Device 0 bears the whole model, client 1 half of its width."""
    return [Profile(client, Limits(*method.prices[client].vector[1:])) for client in (0, 1)]


def test_fjord_with_one_width_is_heterofl(models_maker, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    """On clients that tell no classes and hold equally many examples."""
    monkeypatch.setattr(HeteroFL, "rates", (0.5,))
    methods = [HeteroFL(models_maker(), budget, 3), FjORD(models_maker(), budget, 3)]
    for method in methods:
        one_round(method, share=1.0, examples=50)
    for name, value in methods[0].model.items():
        assert torch.equal(methods[1].model[name], value), name


def test_fjord_clients_train_every_width_up_to_their_own_and_count_by_examples(models_maker, budget: Budget) -> None:
    """Both cover the first half: (10 * 0.1 + 30 * 0.2) / 40 = 0.175; client 0 alone the second: 0.1."""
    method = FjORD(models_maker(), budget, 3)
    asked = two_widths(method)
    tasks = method.configure_train(1, asked)
    rates = [tasks[d].options["rates"] for d in (0, 1)]
    assert rates == [[1.0, 0.5, 0.25, 0.125, 0.0625], [0.5, 0.25, 0.125, 0.0625]]
    assert tasks[1].cost.macs == pytest.approx(np.mean([p.macs for p in method.prices[1:]]))
    assert all("rates" not in task.options for task in method.configure_evaluate(asked).values())
    before = method.model["block.first"].clone()
    aggregate(method, 1, tasks, [update(0, tasks[0], 10), update(1, tasks[1], 30)])
    moved = method.model["block.first"] - before
    torch.testing.assert_close(moved[:, :8], torch.full((1, 8, 6), 0.175))
    torch.testing.assert_close(moved[:, 8:], torch.full((1, 8, 6), 0.10))


def test_fedrolex_starts_as_heterofl(models_maker, budget: Budget) -> None:
    methods = [HeteroFL(models_maker(), budget, 3), FedRolex(models_maker(), budget, 3)]
    for method in methods:
        one_round(method, share=0.4)
    for name, value in methods[0].model.items():
        assert torch.equal(methods[1].model[name], value), name


def test_fedrolex_windows_roll_by_one_channel_a_round_and_wrap_around(models_maker, budget: Budget) -> None:
    """16 hidden channels, half of them: round 10 trains 9 .. 15 and 0; a full cycle trains each eight times."""
    method = FedRolex(models_maker(), budget, 3)
    asked = two_widths(method)[1:]
    window = method.configure_train(10, asked)[1].model.coverage["block.hidden"]
    assert window.tolist() == [9, 10, 11, 12, 13, 14, 15, 0]
    counts = np.zeros(16, int)
    for server_round in range(1, 17):
        counts[method.configure_train(server_round, asked)[1].model.coverage["block.hidden"]] += 1
    assert (counts == 8).all()


def test_fedrolex_trains_and_then_serves_the_window_of_the_round(models_maker, budget: Budget) -> None:
    method = FedRolex(models_maker(), budget, 3)
    asked = two_widths(method)[1:]
    tasks = method.configure_train(3, asked)
    before = method.model["block.first"].clone()
    aggregate(method, 3, tasks, [update(1, tasks[1], 10)])
    moved = (method.model["block.first"] - before)[0, :, 0]
    torch.testing.assert_close(moved, torch.tensor([0.0] * 2 + [0.2] * 8 + [0.0] * 6))
    served = method.configure_evaluate(asked)[1]
    assert served.model.coverage["block.hidden"].tolist() == list(range(2, 10))
    assert served.model.state is not None and tasks[1].model.state is not None
    torch.testing.assert_close(served.model.state["block.first"], tasks[1].model.state["block.first"] + 0.2)


def test_eclm_merges_modules_by_importance_and_the_rest_by_examples(models_maker, budget: Budget) -> None:
    """Devices 0 and 1 share module 2 with importance 0.6 and 0.2; they move it by 0.1 and 0.2: (0.06 + 0.04) / 0.8 =
    0.125.

    The head, which both hold, moves by (10 * 0.1 + 30 * 0.2) / 40 = 0.175. A module that nobody held stays.
    """
    method = ECLM(models_maker(), budget, 3)
    scores = {0: [0.1, 0.1, 0.6, 0.2, 0, 0, 0, 0], 1: [0, 0, 0.2, 0, 0, 0.8, 0, 0]}
    asked = [important(d, s) for d, s in scores.items()]
    held = {0: np.array([2, 3]), 1: np.array([2, 5])}
    tasks = {d: method.train_task(asked[d], {"block.modules": kept}) for d, kept in held.items()}
    before = {name: value.clone() for name, value in method.model.items()}
    updates = [update(0, tasks[0], 10), update(1, tasks[1], 30)]
    aggregate(method, 1, tasks, updates)
    moved = {name: value - before[name] for name, value in method.model.items()}
    by_module = [moved["block.first"][m].mean().item() for m in range(8)]
    assert by_module == pytest.approx([0, 0, 0.125, 0.1, 0, 0.2, 0, 0], abs=1e-6)
    torch.testing.assert_close(moved["head.bias"], torch.full((3,), 0.175))


def test_eclm_merges_residual_modules_by_importance(models_maker, budget: Budget) -> None:
    """Number 8, on all clients: importance 0.3, 0.6, 0.1, moves 0.1, 0.2, 0.3: 0.03 + 0.12 + 0.03 = 0.18.

    Device 2 holds nothing else; modules 2 and 5 are held, and moved, by client 0 and 1 alone.
    """
    method = ECLM(models_maker(residual=True), budget, 3)
    scores = {0: [0.1, 0, 0.6, 0, 0, 0, 0, 0, 0.3], 1: [0, 0, 0, 0, 0, 0.4, 0, 0, 0.6], 2: [0.9, *[0] * 7, 0.1]}
    asked = [important(d, s) for d, s in scores.items()]
    held = {0: np.array([2, 8]), 1: np.array([5, 8]), 2: np.array([8])}
    tasks = {d: method.train_task(asked[d], {"block.modules": kept}) for d, kept in held.items()}
    before = {name: value.clone() for name, value in method.model.items()}
    aggregate(method, 1, tasks, [update(d, tasks[d], 10) for d in tasks])
    moved = {name: value - before[name] for name, value in method.model.items()}
    torch.testing.assert_close(moved["block.bypass.map"], torch.full((1, 8, 6), 0.18))
    by_module = [moved["block.first"][m].mean().item() for m in range(8)]
    assert by_module == pytest.approx([0, 0, 0.1, 0, 0, 0.2, 0, 0], abs=1e-6)
    torch.testing.assert_close(moved["head.bias"], torch.full((3,), 0.2))


def test_eclm_derives_the_most_important_modules(models_maker, budget: Budget) -> None:
    method = ECLM(models_maker(), budget, 3)
    costs = method.models.costs["modular"]
    three = np.array(costs.of({"block.modules": 3}).vector[1:]) + 1
    scores = np.array([0.05, 0.3, 0.02, 0.03, 0.25, 0.05, 0.1, 0.2])
    (derived,) = method.derive([important(0, scores, Limits(*three))])
    assert derived is not None and derived["block.modules"].tolist() == [1, 4, 7]


def test_la_asks_a_client_to_go_on_from_its_own_model(models_maker, budget: Budget) -> None:
    method = LocalAdaptation(models_maker(), budget, 3)
    everyone = profiles(method)
    assert (
        method.sample_clients(1) == list(range(10))
        and method.sample_clients(2) == []
        and method.sample_clients(4) == list(range(10))
    )
    first = method.configure_train(1, everyone)
    assert all(task.model.state is not None and task.keep and not task.upload for task in first.values())
    aggregate(method, 1, first, [update(d, first[d], 10) for d in range(9)])  # client 9 failed
    later = method.configure_train(4, everyone)
    assert [d for d, task in later.items() if task.model.state is not None] == [9]


def test_adaptivenet_downloads_the_supernet_once_and_searches_it_at_every_step(models_maker, budget: Budget) -> None:
    method = AdaptiveNet(models_maker(), budget, 3)
    everyone = profiles(method)
    assert method.sample_clients(1) == list(range(10)) and method.sample_clients(2) == []
    first = method.configure_train(1, everyone)
    assert all(t.model.state is not None and t.keep and not t.upload and t.epochs == 0 for t in first.values())
    aggregate(method, 1, first, [update(d, first[d], 10) for d in range(9)])  # client 9 failed
    assert method.sample_clients(4) == [9]
    served = method.configure_evaluate(everyone)
    assert all(task.options["search"] and task.epochs == budget.adapt_epochs for task in served.values())
    assert [d for d, task in served.items() if task.model.state is not None] == [9]


def test_eclm_without_cloud_goes_on_from_the_sub_model_of_its_first_query(models_maker, budget: Budget) -> None:
    method = ECLMLocal(models_maker(), budget, 3)
    everyone = profiles(method)
    assert (
        method.sample_clients(1) == list(range(10))
        and method.sample_clients(2) == []
        and method.sample_clients(4) == list(range(10))
    )
    first = method.configure_train(1, everyone)
    assert all(
        task.model.state is not None and task.keep and not task.upload and task.epochs == 2 for task in first.values()
    )
    aggregate(method, 1, first, [update(d, first[d], 10) for d in range(9)])  # client 9 failed
    moved_on = [important(p.client, np.eye(8)[p.client % 8], p.limits) for p in everyone]
    later = method.configure_train(4, moved_on)
    assert [d for d, task in later.items() if task.model.state is not None] == [9]
    for client in range(9):  # whatever its data say now, it has the modules that it has
        assert later[client].model.coverage is first[client].model.coverage
        assert method.configure_evaluate(moved_on)[client] == replace(later[client], epochs=0)


def test_eclm_plus_is_three_changes_and_each_variant_one_of_them(models_maker, budget: Budget) -> None:
    models = models_maker()
    paper = models.modular()
    tailored = replace(paper, body=models.architectures["modular"].whole(7))
    models = replace(models, train={**models.train, "tailored": lambda: tailored})
    changes = {
        ECLM: (False, "none", 1.0),
        ECLMPrior: (False, "prior", 1.0),
        ECLMTailored: (True, "none", 1.0),
        ECLMBlended: (False, "none", 0.5),
        ECLMPlus: (True, "prior", 0.5),
    }
    for kind, (starts_tailored, masked, blend) in changes.items():
        method = kind(models, budget, 3)
        start = (tailored if starts_tailored else paper).body.state()
        assert method.modular_model is (tailored if starts_tailored else paper)
        assert all(torch.equal(method.model[name], value) for name, value in start.items())
        everyone = profiles(method)
        for task in (*method.configure_train(1, everyone).values(), *method.configure_evaluate(everyone).values()):
            assert (task.options["masked"], task.options["blend"]) == (masked, blend)


@pytest.mark.parametrize("kind", [FedAvgPrior, FjORDPrior])
def test_a_rival_with_class_prior_differs_in_the_mask_alone(
    models_maker, budget: Budget, kind: type[Averaging]
) -> None:
    with_prior, without = kind(models_maker(), budget, 3), kind.__mro__[1](models_maker(), budget, 3)
    asked = profiles(with_prior)
    for corrected, usual in (
        (with_prior.configure_train(1, asked), without.configure_train(1, asked)),
        (with_prior.configure_evaluate(asked), without.configure_evaluate(asked)),
    ):
        assert all(task.options["masked"] == "none" for task in usual.values())
        prior = {"masked": "prior", "shares": list(without.models.class_shares)}
        masks = {client: replace(task, options={**task.options, **prior}) for client, task in usual.items()}
        assert str(corrected) == str(masks)


def test_sub_models_of_eclm_are_cut_from_the_current_cloud_model(models_maker, budget: Budget) -> None:
    method = ECLM(models_maker(), budget, 3)
    one_round(method, 0.5)
    task = method.configure_evaluate(profiles(method))[0]
    expected = extract(method.model, method.axes, task.model.coverage)
    assert task.model.state is not None and all(torch.equal(task.model.state[n], v) for n, v in expected.items())
