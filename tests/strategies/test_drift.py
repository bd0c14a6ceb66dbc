"""IFCA, FedDrift, Adaptive-FedAvg, FLASH, AdaBN, Tent: golden numbers worked by hand, and what each reduces to.

Clients that adopt one of two concepts are told apart by the clustered methods.
"""

from collections.abc import Callable
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.nn.blocks import is_norm
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.submodel import State
from models.training.loop import Recipe, score
from strategies.core.client import LocalModel
from strategies.core.clusters import Clustered
from strategies.core.strategy import Budget, Limits, Profile, Strategy, TrainTask, Update
from strategies.drift.adabn import AdaBN
from strategies.drift.adaptive_fedavg import AdaptiveFedAvg
from strategies.drift.feddrift import FedDrift, FedDriftEager
from strategies.drift.flash import Flash
from strategies.drift.ifca import IFCA
from strategies.drift.tent import Tent, mean_entropy
from strategies.fedavg import FedAvg
from tests.strategies.conftest import Client, asked, received, round_of, same


def moved(state: State, by: float) -> State:
    return {name: value + by for name, value in state.items()}


def answer(task: TrainTask, client: int, examples: int, by: float, **report: Any) -> Update:
    """An update of a client that moved every parameter of the model that it chose."""
    start = task.start(report)
    assert start is not None
    return Update(client, moved(start, by), examples, report)


def aggregate(method: Strategy, tasks: dict[int, TrainTask], updates: list[Update]) -> None:
    aggregator = method.aggregator()
    for one in updates:
        aggregator.check(tasks[one.client], one)
        aggregator.add(tasks[one.client], one)
    method.server_update(1, aggregator)


def one_value(method: Strategy, value: float) -> None:
    """Let the server aggregate the update of one client, all of whose parameters are ``value``."""
    tasks = method.configure_train(1, [Profile(0)])
    state = {name: torch.full_like(v, value) for name, v in method.model.items()}
    aggregate(method, tasks, [Update(0, state, 10)])


# IFCA


def test_ifca_averages_within_each_cluster(make: Callable) -> None:
    """Clients 0 and 1 trained model 1: (10 * 0.1 + 30 * 0.2) / 40 = 0.175. Client 2 trained model 0, none model 2."""
    method, _ = make(IFCA, clusters=3)
    before = dict(method.clusters)
    tasks = method.configure_train(1, [Profile(client) for client in range(3)])
    chosen = {0: (1, 10, 0.1), 1: (1, 30, 0.2), 2: (0, 20, 0.4)}
    aggregate(method, tasks, [answer(tasks[c], c, n, by, start=k) for c, (k, n, by) in chosen.items()])
    for cluster, by in {0: 0.4, 1: 0.175, 2: 0.0}.items():
        same(method.clusters[cluster], moved(before[cluster], by), exact=False)
    assert method.model is method.clusters[0]


def test_ifca_clients_take_the_model_with_the_lowest_loss(make: Callable) -> None:
    """Model k always says class k, so a client whose samples are all of class k takes model k."""
    method, clients = make(IFCA, clusters=3)
    for cluster, state in method.clusters.items():
        state["head.weight"] = torch.zeros_like(state["head.weight"])
        state["head.bias"] = 5.0 * torch.eye(3)[cluster]
    for training in (True, False):
        tasks = method.configure_train(1, asked(method, clients))
        tasks = tasks if training else method.configure_evaluate(asked(method, clients))
        for label in range(3):
            client = clients[0]
            client.y = torch.full_like(client.y, label)
            half = IFCA.Client(method.options, received(tasks[0]), client, training=training)
            model = half.select(tasks[0].model.state)
            same(model.received, method.clusters[label])
            assert half.report(model, ())["start"] == label
            assert model.trial_macs == 3 * 8 * method.models.costs["dense"].whole.macs
            assert model.trial_macs <= 8 * method.trial_macs(tasks[0])


def test_ifca_pays_for_all_models(make: Callable) -> None:
    """Training of one epoch is three passes a sample; trying two models is two more: 5 / 3."""
    method, _ = make(IFCA)
    task, whole = method.configure_train(1, [Profile(0)])[0], method.models.costs["dense"].whole
    assert task.cost.macs == pytest.approx(whole.macs * 5 / 3)
    assert list(task.tensors) == ["1"] and not task.tensors_up
    assert method.configure_evaluate([Profile(0)])[0].cost == whole


def test_ifca_starts_alike_whatever_the_order_of_the_state(models_maker: Callable, budget: Budget) -> None:
    """A trained model has the order of its network, one that is read from the cache that of its names."""
    models = models_maker()
    read = replace(models, train={"dense": lambda: dict(sorted(models.state("dense").items(), reverse=True))})
    first, second = IFCA(models, budget, 3), IFCA(read, budget, 3)
    assert list(first.model) != list(second.model)
    for cluster in (0, 1):
        same(first.clusters[cluster], second.clusters[cluster])
    assert not torch.equal(first.clusters[0]["head.weight"], first.clusters[1]["head.weight"])


@pytest.mark.parametrize("start", [2, -1, 0.5, [1], float("nan")])
def test_ifca_refuses_a_cluster_that_does_not_exist(make: Callable, start: Any) -> None:
    method, _ = make(IFCA)
    tasks = method.configure_train(1, [Profile(0)])
    with pytest.raises((ValueError, KeyError, TypeError)):
        tasks[0].start({"start": start})
        method.aggregator().check(tasks[0], Update(0, {}, 1, {"start": start}))


def test_a_late_update_changes_the_model_of_its_own_cluster(make: Callable) -> None:
    method, _ = make(IFCA)
    tasks = method.configure_train(1, [Profile(0)])
    late = answer(tasks[0], 0, 10, 0.1, start=1)
    assert method.present(tasks[0], late) is method.clusters[1]


# FedDrift


def losses(client: int, now: list[float], before: list[float] | None = None, models: Any = (0,)) -> Profile:
    values = {"now": np.array(now), "models": np.array(models)} | (
        {} if before is None else {"before": np.array(before)}
    )
    return Profile(client, None, {"losses": values})


def three_clusters(method: FedDrift) -> None:
    """Step 0: client 0 is in cluster 0, clients 1 and 2 are in cluster 1, client 3 is in cluster 2."""
    method.configure_train(1, [losses(client, [1.0]) for client in range(4)])
    method.clusters = {k: moved(method.model, 0.3 * k) for k in range(3)}
    method.cluster = {0: 0, 1: 1, 2: 1, 3: 2}


SECOND_STEP = [
    losses(0, [0.2, 0.2, 2.0], [0.2, 0.4, 2.0], range(3)),
    losses(1, [0.3, 0.1, 2.0], [0.5, 0.1, 2.0], range(3)),
    losses(2, [0.9, 0.8, 0.7], [0.7, 0.3, 2.2], range(3)),
    losses(3, [0.9, 0.8, 0.7], [3.0, 3.0, 0.1], range(3)),
]


def test_feddrift_merges_models_that_serve_each_others_clients_and_isolates_clients_that_drift(make: Callable) -> None:
    """L_00 = 0.2, L_01 = (0.5 + 0.7) / 2 = 0.6, L_10 = 0.4, L_11 = (0.1 + 0.3) / 2 = 0.2.

    D(0, 1) = max(0.6 - 0.2, 0.4 - 0.2) = 0.4 < 0.5: merge, by members (w_0 + 2 w_1) / 3 = w_0 + 0.2.
    D(0, 2) = max(3.0 - 0.2, 2.0 - 0.1) = 2.8: do not. Client 3 drifts: 0.7 > 0.1 + 0.5. Client 2 does not: 0.7 <= 0.8.
    """
    method, _ = make(FedDrift, delta=0.5)
    three_clusters(method)
    first, third, start = method.model, method.clusters[2], method.initial_model()
    tasks = method.configure_train(4, SECOND_STEP)
    assert method.cluster == {0: 0, 1: 0, 2: 2, 3: 3} and method.merged == {1: 0}
    assert sorted(method.clusters) == [0, 2, 3] and method.clusters[2] is third
    same(method.clusters[0], moved(first, 0.2), exact=False)
    same(method.clusters[3], start)
    assert [tasks[c].options["cluster"] for c in range(4)] == [0, 0, 2, 3]
    assert tasks[3].model.state is method.clusters[3]
    served = method.configure_evaluate([SECOND_STEP[3], losses(7, [0.3, 0.1, 0.2], None, range(3))])
    assert served[3].options["cluster"] == 3
    assert served[7].options["cluster"] == 2  # the best of those that are left


def test_late_updates_of_merged_clusters_count_for_the_merged_one(make: Callable) -> None:
    method, _ = make(FedDrift, delta=0.5)
    three_clusters(method)
    old = method._tasks({1: 1}, 1)
    method.configure_train(4, SECOND_STEP)
    late = Update(1, moved(method.clusters[0], 0.5), 10)
    assert method.present(old[1], late) is method.clusters[0]
    before = method.clusters[0]
    aggregate(method, old, [late])
    same(method.clusters[0], moved(before, 0.5), exact=False)
    assert method.model is method.clusters[0]


def test_feddrift_eager_gives_clients_that_drift_together_one_model(make: Callable) -> None:
    method, _ = make(FedDriftEager, delta=0.5)
    three_clusters(method)
    second = [SECOND_STEP[0], losses(2, [2.0, 2.0, 2.0], [0.7, 0.3, 2.2], range(3)), SECOND_STEP[3]]
    method.configure_train(4, second)
    assert method.cluster == {0: 0, 1: 1, 2: 3, 3: 3} and sorted(method.clusters) == [0, 1, 2, 3] and not method.merged


def test_feddrift_has_at_most_so_many_models(make: Callable) -> None:
    method, _ = make(FedDrift, delta=0.1, most_models=3)
    three_clusters(method)
    method.configure_train(4, [SECOND_STEP[0], losses(3, [3.0, 2.0, 4.0], [0.1, 0.1, 0.1], range(3))])
    assert sorted(method.clusters) == [0, 1, 2] and method.cluster[3] == 1


@pytest.mark.parametrize("report", [{}, {"now": [0.1]}, {"now": [0.1, -1]}, {"now": [0.1, float("nan")]}, {"now": "x"},
                                    {"now": [0.1, 0.2], "before": [1.0]}, {"now": [0.1, 1e9]}])  # fmt: skip
def test_feddrift_refuses_impossible_losses(make: Callable, report: dict[str, Any]) -> None:
    method, _ = make(FedDrift)
    method.clusters[1] = method.model
    with pytest.raises((ValueError, KeyError, TypeError)):
        method.read_profile(0, Limits(1, 1, 1), report)


def test_a_client_answers_with_the_losses_of_all_models_at_both_steps(make: Callable) -> None:
    method, clients = make(FedDrift)
    method.clusters[1] = {name: torch.zeros_like(value) for name, value in method.model.items()}
    clients[0].moves_on(clients[1].x, clients[1].y)
    (profile, first) = asked(method, clients)
    found = profile.values["losses"]
    assert found["now"][1] == pytest.approx(np.log(3)) and found["before"][1] == pytest.approx(np.log(3))
    network = clients[0].network
    network.load_state_dict(method.model)
    for when, (x, y) in {"now": (clients[0].x, clients[0].y), "before": clients[0].before}.items():  # type: ignore[dict-item]
        assert found[when][0] == pytest.approx(score(network, x, y, 3).loss_sum / 8)
    assert "before" not in first.values["losses"]


# Adaptive-FedAvg


def test_adaptive_fedavg_rate_by_hand(make: Callable) -> None:
    """All parameters 0, then 1, 3 and 3, every beta = 1 / 2.

    t = 1: sigma = 1 / 2, corrected 1; gamma = 1 / 2, corrected 1; the rate is 1 / 1 of lr.
    t = 2: (3 - 1)^2 = 4, sigma = 2.25, corrected 3; gamma = 1.75, corrected 7 / 3; min(1, 7 / 6) = 1.
    t = 3: (3 - 7 / 3)^2 = 4 / 9, sigma = 97 / 72, corrected 97 / 63, over 3 is 97 / 189;
           gamma = 0.875 + 97 / 378, corrected 1.29327; the third of that.
    """
    method, clients = make(AdaptiveFedAvg)
    method.model = {name: torch.zeros_like(value) for name, value in method.model.items()}
    rates = []
    for value in (1.0, 3.0, 3.0):
        one_value(method, value)
        rates.append(method.lr_share)
    assert rates == pytest.approx([1.0, 1.0, (0.875 + 97 / 378) / 0.875 / 3])
    task = received(method.configure_train(4, [Profile(0)])[0])
    recipe = AdaptiveFedAvg.Client(method.options, task, clients[0], training=True).recipe(Recipe(lr=0.1, momentum=0.5))
    assert recipe == Recipe(lr=0.1 * rates[2], momentum=0.5)
    served = received(method.configure_evaluate([Profile(0)])[0])
    assert AdaptiveFedAvg.Client(method.options, served, clients[0]).recipe(recipe) == recipe


def test_adaptive_fedavg_survives_a_model_that_stands_still(make: Callable) -> None:
    method, _ = make(AdaptiveFedAvg)
    for _ in range(3):
        method.server_update(1, method.aggregator())
    assert method.lr_share == pytest.approx(1 / 3)


# FLASH


def test_flash_steps_by_hand(make: Callable) -> None:
    """beta1 = beta2 = 1 / 2, tau = eta = 1, all parameters move by 2:

    m = 1, v = 0.5 + 2 = 2.5, D^2 - v = 1.5, b = 1 / (1.5 + 1) = 0.4, d = 0.6 * 1.5 = 0.9, 1 / (sqrt(2.5) - 0.9 + 1).
    """
    method, _ = make(Flash, beta1=0.5, beta2=0.5, tau=1.0, server_lr=1.0)
    before = method.model
    tasks = method.configure_train(1, [Profile(0)])
    aggregate(method, tasks, [answer(tasks[0], 0, 10, 2.0)])
    same(method.model, moved(before, 1 / (2.5**0.5 - 0.9 + 1)), exact=False)
    assert method.moments["head.bias"]["d"].tolist() == pytest.approx([0.9] * 3, rel=1e-5)


def test_flash_divides_by_tau_at_least(make: Callable) -> None:
    """D = 10: m = 10, v = 0.5 + 50, d near 0.98 * 49.5 is above sqrt(v): the original would step backwards."""
    method, _ = make(Flash, beta1=0.0, beta2=0.5, tau=1.0, server_lr=0.1)
    before = method.model
    tasks = method.configure_train(1, [Profile(0)])
    aggregate(method, tasks, [answer(tasks[0], 0, 10, 10.0)])
    same(method.model, moved(before, 0.1 * 10 / 1.0), exact=False)


def test_flash_with_beta2_zero_is_fedadam(make: Callable) -> None:
    """Reddi et al. 2021, arXiv:2003.00295, Algorithm 2: x + eta m / (sqrt(v) + tau), with v = D^2."""
    method, _ = make(Flash, beta1=0.5, beta2=0.0, tau=0.5, server_lr=0.1)
    before, m = method.model, 0.0
    for by in (2.0, -0.5, 0.25):
        tasks = method.configure_train(1, [Profile(0)])
        aggregate(method, tasks, [answer(tasks[0], 0, 10, by)])
        m = 0.5 * m + 0.5 * by
        before = moved(before, 0.1 * m / (abs(by) + 0.5))
        same(method.model, before, exact=False)


def test_flash_clients_stop_when_the_loss_hardly_falls(make: Callable) -> None:
    """gamma = 0.6: after epoch 2 it fell by 0.5 >= 0.3, after epoch 3 by 0.1 < 0.2: three of five epochs are paid."""
    method, clients = make(Flash, early_stop=0.6)
    task = method.configure_train(1, [Profile(0)])[0]
    half = Flash.Client(method.options, received(task), clients[0], training=True)
    assert [half.stops(epoch, loss) for epoch, loss in ((1, 2.0), (2, 1.5), (3, 1.4))] == [False, False, True]
    assert half.report(half.select(task.model.state), ()) == {"epochs": 3}
    five = TrainTask(task.model, 5, task.cost)
    assert method.cost(five, {"epochs": 3}).macs == pytest.approx(task.cost.macs * 3 / 5)
    for lie in ({"epochs": 0}, {"epochs": 9}, {"epochs": "x"}, {"epochs": [1]}, {}):
        assert method.cost(five, lie) == task.cost
    adapting = Flash.Client(method.options, received(task), clients[0])
    assert adapting.batchable and not adapting.stops(2, 1.0) and not half.batchable


def test_flash_clients_train_fewer_epochs_the_larger_the_threshold_is(make: Callable) -> None:
    epochs = []
    for early_stop in (1e-6, 0.2, 100.0):
        method, clients = make(Flash, early_stop=early_stop)
        task = method.full_model([0], 8)[0]
        half = Flash.Client(method.options, received(task), clients[0], training=True)
        clients[0].fit(half, half.select(task.model.state))
        epochs.append(half.epochs)
    assert epochs[0] == 8 > epochs[1] > epochs[2] == 2


# reductions


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (IFCA, {"clusters": 1}),
        (FedDrift, {"delta": 100.0}),
        (FedDriftEager, {"delta": 100.0}),
        (AdaptiveFedAvg, {"adapt": False}),
        (AdaBN, {}),
        (Tent, {}),
        (Flash, {"beta1": 0.0, "beta2": 0.0, "early_stop": 0.0, "tau": 2.0**60, "server_lr": 2.0**60}),
    ],
)
def test_what_is_fedavg_without_its_terms(make: Callable, kind: type[Strategy], options: dict[str, Any]) -> None:
    """Bit for bit, over two steps with other samples."""
    (method, clients), (average, others) = make(kind, **options), make(FedAvg)
    for server_round in range(1, 5):
        if server_round == 4:  # the second step
            for group in (clients, others):
                swapped = [(c.x, c.y) for c in reversed(group.values())]
                for client, samples in zip(group.values(), swapped, strict=True):
                    client.moves_on(*samples)
        round_of(method, clients, server_round), round_of(average, others, server_round)
        same(method.model, average.model)
    assert not isinstance(method, Clustered) or method.has_global_model


# two concepts that clients adopt one after the other


def concept(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples whose class is the largest of three inputs (concept 0), or the class after it (concept 1)."""
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :3].argmax(1) + number) % 3


def rand_index(found: list[int], truth: list[int]) -> float:
    """Return the adjusted Rand index of two partitions (Hubert and Arabie 1985)."""
    table = np.array(
        [[sum((f, t) == (a, b) for f, t in zip(found, truth, strict=True)) for b in set(truth)] for a in set(found)]
    )
    both = sum(comb(int(n), 2) for n in table.flat)
    rows, columns = (sum(comb(int(n), 2) for n in table.sum(axis)) for axis in (1, 0))
    expected = rows * columns / comb(len(truth), 2)
    return (both - expected) / ((rows + columns) / 2 - expected)


STAGGERED = [(), (0, 1, 2), (0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5)]  # clients with concept 1, by step


def play(models_maker: Callable, kind: type[Strategy], seed: int, **options: Any) -> tuple[float, float]:
    """Return accuracy on fresh samples of each client's concept, and the adjusted Rand index of the clusters."""
    dense, rounds_per_step, count = mlp((6,), 3, width=16), 4, 10
    models, budget = models_maker(dense=dense), Budget(count, count, 2, 0, rounds_per_step)
    method: Any = kind(models, budget, seed, kind.Options(**{**kind.preset, **options}))
    recipe, clients = Recipe(lr=0.1, batch_size=16), {}
    for step, drifted in enumerate(STAGGERED):
        for number in range(count):
            samples = concept(number in drifted, 1000 * seed + 100 * step + number)
            if step:
                clients[number].moves_on(*samples)
            else:
                clients[number] = Client(dense.part({}), *samples, recipe, number, prices=models.costs["dense"])
        for server_round in range(rounds_per_step * step + 1, rounds_per_step * (step + 1) + 1):
            round_of(method, clients, server_round)
    tasks = method.configure_evaluate([Profile(n) for n in clients] if kind is FedAvg else asked(method, clients))
    hits, clusters = [], []
    for number, client in clients.items():
        half = kind.Client(method.options, received(tasks[number]), client)
        model = half.select(tasks[number].model.state)
        hits.append(score(model.loaded(), *concept(number in STAGGERED[-1], 9000 + number), 3).accuracy)
        clusters.append(tasks[number].options.get("cluster", getattr(half, "chosen", 0)))
    return float(np.mean(hits)), rand_index(clusters, [number in STAGGERED[-1] for number in clients])


@pytest.mark.parametrize("kind", [IFCA, FedDrift, FedDriftEager])
def test_clusters_are_the_concepts_and_one_model_fails_both(models_maker: Callable, kind: type[Strategy]) -> None:
    accuracy, agreement = play(models_maker, kind, seed=1)
    single, _ = play(models_maker, FedAvg, seed=1)
    print(kind.__name__, accuracy, agreement, single)
    assert agreement > 0.9
    assert accuracy > single + 0.1


# AdaBN and Tent


def in_use(method: Strategy, client: Client) -> LocalModel:
    """Return the model that a client uses."""
    task = received(method.configure_evaluate([Profile(client.number)])[client.number])
    return type(method).Client(method.options, task, client).select(task.state)


def test_adabn_statistics_are_those_of_the_inputs(make: Callable) -> None:
    """The statistics of the first norm are mean and unbiased variance of what the stem makes of the client's inputs."""
    method, clients = make(AdaBN, resnet18((3, 8, 8), 3, width=8, norm="batch"))
    model = in_use(method, clients[0])
    made = nn.functional.conv2d(clients[0].x, method.model["stem"], padding=1)
    state = {name: value.reshape(-1) for name, value in model.state.items()}
    torch.testing.assert_close(state["stem_norm.mean"], made.mean((0, 2, 3)))
    torch.testing.assert_close(state["stem_norm.var"], made.var((0, 2, 3)))
    assert all(torch.equal(model.state[name], method.model[name]) for name, _ in model.network.named_parameters())
    assert model.trial_macs == 8 * method.trial_macs(received(method.configure_evaluate([Profile(0)])[0])) > 0
    task = method.configure_train(1, [Profile(0)])[0]
    training = AdaBN.Client(method.options, received(task), clients[0], training=True)
    same(training.select(task.model.state).state, method.model)  # in a round the model is the server's


def test_entropy_by_hand() -> None:
    """Logits 0 and ln 3: p = 1/4, 3/4, so 2 ln 2 - 3/4 ln 3; equal logits: ln 2."""
    logits = torch.tensor([[0.0, np.log(3.0)], [5.0, 5.0]])
    assert mean_entropy(logits).item() == pytest.approx((2 * np.log(2) - 0.75 * np.log(3) + np.log(2)) / 2)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_tent_makes_predictions_more_certain_and_changes_norms_alone(make: Callable, norm: str) -> None:
    dense = resnet18((3, 8, 8), 3, width=8, norm=norm)
    (tent, clients), (adabn, others) = make(Tent, dense, epochs=20, lr=0.01), make(AdaBN, dense)
    after, before = in_use(tent, clients[0]), in_use(adabn, others[0])
    entropy = [mean_entropy(model.loaded().eval()(clients[0].x)).item() for model in (after, before)]
    assert entropy[0] < entropy[1] - 0.05
    norms = {f"{path}.{n}" for path, m in after.network.named_modules() if is_norm(m) for n in m.state_dict()}
    changed = {name for name, value in after.state.items() if not torch.equal(value, tent.model[name])}
    assert changed and changed <= norms


def test_tent_with_no_epochs_is_adabn_and_without_norms_both_are_fedavg(make: Callable) -> None:
    dense = resnet18((3, 8, 8), 3, width=8, norm="batch")
    (tent, clients), (adabn, others) = make(Tent, dense, epochs=0), make(AdaBN, dense)
    same(in_use(tent, clients[0]).state, in_use(adabn, others[0]).state)
    for kind in (Tent, AdaBN):
        method, clients = make(kind)
        same(in_use(method, clients[0]).state, method.model)
