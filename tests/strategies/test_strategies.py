"""Every method keeps the same promises (a new one is one more row of `STRATEGIES`); what reduces to what, exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.nn.body import gate_columns
from models.submodel import extract
from strategies import STRATEGIES
from strategies.adaptivenet import AdaptiveNet
from strategies.base import Averaging, Limits, Plan, Profile, Strategy, Task, Update
from strategies.eclm import ECLM, ECLMLocal
from strategies.eclm_plus import ECLMBlended, ECLMPlus, ECLMPrior, ECLMTailored
from strategies.fedavg import FedAvg, FedAvgPrior
from strategies.fedrolex import FedRolex
from strategies.fjord import FjORD, FjORDPrior
from strategies.heterofl import HeteroFL
from strategies.local import LocalAdaptation


def profiles(method: Strategy, share: float = 0.5, devices: int | None = None) -> list[Profile]:
    """What every device would tell: the same share of the large model, and importance that differs by device."""
    whole = method.cloud.dense_costs.whole
    limits = Limits(*(share * np.array(whole.vector[1:])))
    out = []
    modules = len(gate_columns(method.cloud.modular.sizes, "block.modules"))
    for device in range(devices or method.plan.devices):
        scores = np.random.default_rng(device).dirichlet(np.ones(modules))
        out.append(Profile(device, limits, {"block.modules": scores}))
    return out


def trained(task: Task, device: int) -> dict[str, torch.Tensor]:
    """Stands in for local training: moves every parameter by an amount of the device's own."""
    assert task.state is not None
    return {name: value + 0.1 * (device + 1) for name, value in task.state.items()}


def one_round(method: Strategy, share: float, examples: int | None = None) -> None:
    cohort = method.cohort(1)
    asked = [p for p in profiles(method, share) if p.device in cohort]
    tasks = method.tasks(1, asked)
    updates = [Update(d, trained(t, d), examples or 10 + d) for d, t in tasks.items() if t.upload]
    method.absorb(1, tasks, updates, asked)


@pytest.fixture(params=[*STRATEGIES, "eclm with residual modules"])
def method(request, cloud_maker, plan) -> Strategy:
    name, _, residual = request.param.partition(" ")
    return STRATEGIES[name](cloud_maker(residual=bool(residual)), plan, seed=3)


def test_cohorts_come_from_the_seed_and_the_round_alone(method: Strategy, cloud_maker, plan) -> None:
    again = type(method)(cloud_maker(), plan, seed=3)
    again.cohort(9)
    for round_ in (1, 2, 3, 4):
        cohort = method.cohort(round_)
        assert cohort == again.cohort(round_) == sorted(set(cohort))
        assert all(0 <= device < plan.devices for device in cohort)


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0, 5.0])
def test_every_device_is_delivered_a_model_that_builds(method: Strategy, plan: Plan, share: float) -> None:
    tasks = method.deliver(profiles(method, share))
    assert sorted(tasks) == list(range(plan.devices))
    for task in tasks.values():
        if task.state is not None:
            method.cloud.architectures[task.architecture].part(task.coverage).load_state_dict(task.state)


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_what_is_trained_fits_the_limits_where_the_method_asks_for_them(method: Strategy, share: float) -> None:
    if method.asks == "nothing":
        return
    asked = profiles(method, share)
    tasks = method.tasks(1, asked)
    assert tasks or not method.cohort(1)  # nothing is trained: there is nothing to fit
    for profile in asked:
        if profile.device in tasks:
            assert profile.limits is not None
            assert (np.array(tasks[profile.device].cost.vector[1:]) <= profile.limits.vector + 1e-6).all()


def test_a_round_moves_the_model_and_forgets_nothing(method: Strategy) -> None:
    before = {name: value.clone() for name, value in method.model.items()}
    one_round(method, 0.5)
    trains = method.cohort(1) and any(t.upload for t in method.tasks(1, profiles(method)).values())
    assert method.model.keys() == before.keys()
    moved = any(not torch.equal(method.model[name], before[name]) for name in before)
    assert moved == bool(trains)
    for value in method.model.values():
        assert torch.isfinite(value).all()


def test_the_cloud_model_that_others_share_is_never_written_to(method: Strategy) -> None:
    cloud = method.cloud
    dense = {n: v.clone() for n, v in cloud.dense_state.items()}
    modular = cloud.modular_model.body.state()
    one_round(method, 0.5)
    assert all(torch.equal(dense[n], v) for n, v in cloud.dense_state.items())
    assert all(torch.equal(modular[n], v) for n, v in cloud.modular_model.body.state_dict().items())


# reductions


def test_heterofl_at_rate_one_is_fedavg(cloud_maker, plan: Plan) -> None:
    """With the same number of examples everywhere, for HeteroFL counts devices and FedAvg examples."""
    hetero, average = HeteroFL(cloud_maker(), plan, 3), FedAvg(cloud_maker(), plan, 3)
    for method in (hetero, average):
        one_round(method, share=2.0, examples=50)
    for name, value in average.model.items():
        torch.testing.assert_close(hetero.model[name], value, rtol=0, atol=0, msg=name)


def test_eclm_with_one_module_and_equal_importance_is_fedavg(cloud_maker, plan: Plan) -> None:
    cloud = cloud_maker(modules=1, shrink=1, top_k=1)
    eclm, average = ECLM(cloud, plan, 3), FedAvg(cloud, plan, 3)
    for method in (eclm, average):
        one_round(method, share=2.0, examples=50)
    for name, value in average.model.items():
        torch.testing.assert_close(eclm.model[name], value, rtol=0, atol=0, msg=name)


# methods by hand


def test_heterofl_entries_are_averaged_over_those_who_cover_them(cloud_maker, plan: Plan) -> None:
    """Device 0 at full width moves by 0.1, device 1 at half width by 0.2: the shared half by 0.15, the rest by 0.1."""
    method = HeteroFL(cloud_maker(), plan, 3)
    whole = np.array(method.cloud.dense_costs.whole.vector[1:])
    half = np.array(method.prices[1].vector[1:])
    asked = [Profile(0, Limits(*whole)), Profile(1, Limits(*half))]
    tasks = method.tasks(1, asked)
    assert [tasks[d].rate for d in (0, 1)] == [1.0, 0.5]
    before = method.model["block.first"].clone()
    method.absorb(1, tasks, [Update(d, trained(t, d), 50) for d, t in tasks.items()], asked)
    moved = method.model["block.first"] - before  # (1, hidden 16, 6)
    torch.testing.assert_close(moved[:, :8], torch.full((1, 8, 6), 0.15))
    torch.testing.assert_close(moved[:, 8:], torch.full((1, 8, 6), 0.10))


def test_heterofl_averages_a_row_of_the_classifier_over_the_devices_that_hold_the_class(cloud_maker, plan) -> None:
    """Device 0 holds classes 0 and 1 and moves by 0.1, device 1 holds 1 and moves by 0.2; nobody holds class 2."""
    method = HeteroFL(cloud_maker(), plan, 3)
    asked = profiles(method, 2.0, devices=2)
    tasks = method.tasks(1, asked)
    before = {name: value.clone() for name, value in method.model.items()}
    held = {0: (0, 1), 1: (1,)}
    updates = [Update(d, trained(t, d), 50, held[d]) for d, t in tasks.items()]
    method.absorb(1, tasks, updates, asked)
    moved = {name: value - before[name] for name, value in method.model.items()}
    torch.testing.assert_close(moved["head.bias"], torch.tensor([0.1, 0.15, 0.0]))
    torch.testing.assert_close(moved["head.weight"], torch.tensor([0.1, 0.15, 0.0])[:, None].expand(3, 8))
    torch.testing.assert_close(moved["block.bias"], torch.full((8,), 0.15))


def two_widths(method: HeteroFL) -> list[Profile]:
    """Device 0 bears the whole model, device 1 half of its width."""
    return [Profile(device, Limits(*method.prices[device].vector[1:])) for device in (0, 1)]


def test_fjord_with_one_width_is_heterofl(cloud_maker, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """On devices that tell no classes and hold equally many examples."""
    monkeypatch.setattr(HeteroFL, "rates", (0.5,))
    methods = [HeteroFL(cloud_maker(), plan, 3), FjORD(cloud_maker(), plan, 3)]
    for method in methods:
        one_round(method, share=1.0, examples=50)
    for name, value in methods[0].model.items():
        assert torch.equal(methods[1].model[name], value), name


def test_fjord_devices_train_every_width_up_to_their_own_and_count_by_examples(cloud_maker, plan: Plan) -> None:
    """Both cover the first half: (10 * 0.1 + 30 * 0.2) / 40 = 0.175; device 0 alone the second: 0.1."""
    method = FjORD(cloud_maker(), plan, 3)
    asked = two_widths(method)
    tasks = method.tasks(1, asked)
    assert [tasks[d].rates for d in (0, 1)] == [(1.0, 0.5, 0.25, 0.125, 0.0625), (0.5, 0.25, 0.125, 0.0625)]
    assert tasks[1].cost.macs == pytest.approx(np.mean([p.macs for p in method.prices[1:]]))
    assert all(not task.rates for task in method.deliver(asked).values())
    before = method.model["block.first"].clone()
    method.absorb(1, tasks, [Update(0, trained(tasks[0], 0), 10), Update(1, trained(tasks[1], 1), 30)], asked)
    moved = method.model["block.first"] - before
    torch.testing.assert_close(moved[:, :8], torch.full((1, 8, 6), 0.175))
    torch.testing.assert_close(moved[:, 8:], torch.full((1, 8, 6), 0.10))


def test_fedrolex_starts_as_heterofl(cloud_maker, plan: Plan) -> None:
    methods = [HeteroFL(cloud_maker(), plan, 3), FedRolex(cloud_maker(), plan, 3)]
    for method in methods:
        one_round(method, share=0.4)
    for name, value in methods[0].model.items():
        assert torch.equal(methods[1].model[name], value), name


def test_fedrolex_windows_roll_by_one_channel_a_round_and_wrap_around(cloud_maker, plan: Plan) -> None:
    """16 hidden channels, half of them: round 10 trains 9 .. 15 and 0; a full cycle trains each eight times."""
    method = FedRolex(cloud_maker(), plan, 3)
    asked = two_widths(method)[1:]
    assert method.tasks(10, asked)[1].coverage["block.hidden"].tolist() == [9, 10, 11, 12, 13, 14, 15, 0]
    counts = np.zeros(16, int)
    for round_ in range(1, 17):
        counts[method.tasks(round_, asked)[1].coverage["block.hidden"]] += 1
    assert (counts == 8).all()


def test_fedrolex_trains_and_then_serves_the_window_of_the_round(cloud_maker, plan: Plan) -> None:
    method = FedRolex(cloud_maker(), plan, 3)
    asked = two_widths(method)[1:]
    tasks = method.tasks(3, asked)
    before = method.model["block.first"].clone()
    method.absorb(3, tasks, [Update(1, trained(tasks[1], 1), 10)], asked)
    moved = (method.model["block.first"] - before)[0, :, 0]
    torch.testing.assert_close(moved, torch.tensor([0.0] * 2 + [0.2] * 8 + [0.0] * 6))
    served = method.deliver(asked)[1]
    assert served.coverage["block.hidden"].tolist() == list(range(2, 10))
    assert served.state is not None and tasks[1].state is not None
    torch.testing.assert_close(served.state["block.first"], tasks[1].state["block.first"] + 0.2)


def test_eclm_merges_modules_by_importance_and_the_rest_by_examples(cloud_maker, plan: Plan) -> None:
    """Devices 0 and 1 share module 2 with importance 0.6 and 0.2; they move it by 0.1 and 0.2: (0.06 + 0.04) / 0.8 =
    0.125.

    The head, which both hold, moves by (10 * 0.1 + 30 * 0.2) / 40 = 0.175. A module that nobody held stays.
    """
    method = ECLM(cloud_maker(), plan, 3)
    scores = {0: [0.1, 0.1, 0.6, 0.2, 0, 0, 0, 0], 1: [0, 0, 0.2, 0, 0, 0.8, 0, 0]}
    asked = [Profile(d, None, {"block.modules": np.array(s)}) for d, s in scores.items()]
    held = {0: np.array([2, 3]), 1: np.array([2, 5])}
    tasks = {d: method.lesson(asked[d], {"block.modules": kept}) for d, kept in held.items()}
    before = {name: value.clone() for name, value in method.model.items()}
    updates = [Update(0, trained(tasks[0], 0), 10), Update(1, trained(tasks[1], 1), 30)]
    method.absorb(1, tasks, updates, asked)
    moved = {name: value - before[name] for name, value in method.model.items()}
    by_module = [moved["block.first"][m].mean().item() for m in range(8)]
    assert by_module == pytest.approx([0, 0, 0.125, 0.1, 0, 0.2, 0, 0], abs=1e-6)
    torch.testing.assert_close(moved["head.bias"], torch.full((3,), 0.175))


def test_eclm_merges_residual_modules_by_importance(cloud_maker, plan: Plan) -> None:
    """Number 8, on all devices: importance 0.3, 0.6, 0.1, moves 0.1, 0.2, 0.3: 0.03 + 0.12 + 0.03 = 0.18.

    Device 2 holds nothing else; modules 2 and 5 are held, and moved, by device 0 and 1 alone.
    """
    method = ECLM(cloud_maker(residual=True), plan, 3)
    scores = {0: [0.1, 0, 0.6, 0, 0, 0, 0, 0, 0.3], 1: [0, 0, 0, 0, 0, 0.4, 0, 0, 0.6], 2: [0.9, *[0] * 7, 0.1]}
    asked = [Profile(d, None, {"block.modules": np.array(s)}) for d, s in scores.items()]
    held = {0: np.array([2, 8]), 1: np.array([5, 8]), 2: np.array([8])}
    tasks = {d: method.lesson(asked[d], {"block.modules": kept}) for d, kept in held.items()}
    before = {name: value.clone() for name, value in method.model.items()}
    method.absorb(1, tasks, [Update(d, trained(tasks[d], d), 10) for d in tasks], asked)
    moved = {name: value - before[name] for name, value in method.model.items()}
    torch.testing.assert_close(moved["block.bypass.map"], torch.full((1, 8, 6), 0.18))
    by_module = [moved["block.first"][m].mean().item() for m in range(8)]
    assert by_module == pytest.approx([0, 0, 0.1, 0, 0, 0.2, 0, 0], abs=1e-6)
    torch.testing.assert_close(moved["head.bias"], torch.full((3,), 0.2))


def test_eclm_derives_the_most_important_modules(cloud_maker, plan: Plan) -> None:
    method = ECLM(cloud_maker(), plan, 3)
    costs = method.cloud.modular_costs
    three = np.array(costs.of({"block.modules": 3}).vector[1:]) + 1
    scores = np.array([0.05, 0.3, 0.02, 0.03, 0.25, 0.05, 0.1, 0.2])
    assert method.derive(Profile(0, Limits(*three), {"block.modules": scores}))["block.modules"].tolist() == [1, 4, 7]


def test_la_asks_a_device_to_go_on_from_its_own_model(cloud_maker, plan: Plan) -> None:
    method = LocalAdaptation(cloud_maker(), plan, 3)
    everyone = profiles(method)
    assert method.cohort(1) == list(range(10)) and method.cohort(2) == [] and method.cohort(4) == list(range(10))
    first = method.tasks(1, everyone)
    assert all(task.state is not None and task.keep and not task.upload for task in first.values())
    method.absorb(1, first, [Update(d, {}, 10) for d in range(9)], everyone)  # device 9 failed
    later = method.tasks(4, everyone)
    assert [d for d, task in later.items() if task.state is not None] == [9]


def test_adaptivenet_downloads_the_supernet_once_and_searches_it_at_every_step(cloud_maker, plan: Plan) -> None:
    method = AdaptiveNet(cloud_maker(), plan, 3)
    everyone = profiles(method)
    assert method.cohort(1) == list(range(10)) and method.cohort(2) == []
    first = method.tasks(1, everyone)
    assert all(t.state is not None and t.keep and not t.upload and t.epochs == 0 for t in first.values())
    method.absorb(1, first, [Update(d, {}, 10) for d in range(9)], everyone)  # device 9 failed
    assert method.cohort(4) == [9]
    served = method.deliver(everyone)
    assert all(task.search and task.epochs == plan.adapt_epochs for task in served.values())
    assert [d for d, task in served.items() if task.state is not None] == [9]


def test_eclm_without_cloud_goes_on_from_the_sub_model_of_its_first_query(cloud_maker, plan: Plan) -> None:
    method = ECLMLocal(cloud_maker(), plan, 3)
    everyone = profiles(method)
    assert method.cohort(1) == list(range(10)) and method.cohort(2) == [] and method.cohort(4) == list(range(10))
    first = method.tasks(1, everyone)
    assert all(task.state is not None and task.keep and not task.upload and task.epochs == 2 for task in first.values())
    method.absorb(1, first, [Update(d, {}, 10) for d in range(9)], everyone)  # device 9 failed
    moved_on = [replace(p, importance={"block.modules": np.eye(8)[p.device % 8]}) for p in everyone]
    later = method.tasks(4, moved_on)
    assert [d for d, task in later.items() if task.state is not None] == [9]
    for device in range(9):  # whatever its data say now, it has the modules that it has
        assert later[device].coverage is first[device].coverage
        assert method.deliver(moved_on)[device] == replace(later[device], epochs=0)


def test_eclm_plus_is_three_changes_and_each_variant_one_of_them(cloud_maker, plan: Plan) -> None:
    cloud = cloud_maker()
    paper = cloud.make_modular(False)
    tailored = replace(paper, body=cloud.modular.whole(7))
    cloud.make_modular = {False: paper, True: tailored}.__getitem__
    changes = {
        ECLM: (False, "none", 1.0),
        ECLMPrior: (False, "prior", 1.0),
        ECLMTailored: (True, "none", 1.0),
        ECLMBlended: (False, "none", 0.5),
        ECLMPlus: (True, "prior", 0.5),
    }
    for kind, (starts_tailored, masked, blend) in changes.items():
        method = kind(cloud, plan, 3)
        start = (tailored if starts_tailored else paper).body.state()
        assert method.modular_model is (tailored if starts_tailored else paper)
        assert all(torch.equal(method.model[name], value) for name, value in start.items())
        everyone = profiles(method)
        for task in (*method.tasks(1, everyone).values(), *method.deliver(everyone).values()):
            assert (task.masked, task.blend) == (masked, blend)


@pytest.mark.parametrize("kind", [FedAvgPrior, FjORDPrior])
def test_a_rival_with_class_prior_differs_in_the_mask_alone(cloud_maker, plan: Plan, kind: type[Averaging]) -> None:
    with_prior, without = kind(cloud_maker(), plan, 3), kind.__mro__[1](cloud_maker(), plan, 3)
    asked = profiles(with_prior)
    for told, usual in (
        (with_prior.tasks(1, asked), without.tasks(1, asked)),
        (with_prior.deliver(asked), without.deliver(asked)),
    ):
        assert all(task.masked == "none" for task in usual.values())
        masks = {device: replace(task, masked="prior") for device, task in usual.items()}
        assert str(told) == str(masks)


def test_sub_models_of_eclm_are_cut_from_the_current_cloud_model(cloud_maker, plan: Plan) -> None:
    method = ECLM(cloud_maker(), plan, 3)
    one_round(method, 0.5)
    task = method.deliver(profiles(method))[0]
    expected = extract(method.model, method.axes, task.coverage)
    assert task.state is not None and all(torch.equal(task.state[n], v) for n, v in expected.items())
