"""FedProx, SCAFFOLD, FedBN, FedRep and Ditto: golden numbers worked by hand, and what each reduces to, exactly."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from models.nn.cnn import cnn
from models.nn.resnet import resnet18
from models.training.loop import Recipe
from strategies.core.client import ClientTask
from strategies.core.strategy import Budget, Profile, Strategy
from strategies.ditto import Ditto
from strategies.fedavg import FedAvg
from strategies.fedbn import FedBN
from strategies.fedprox import FedProx
from strategies.fedrep import FedRep
from strategies.local import LocalAdaptation
from strategies.scaffold import Scaffold
from tests.strategies.conftest import Client, round_of, same


class Line(nn.Module):
    """One parameter w, whose loss gradient a test sets."""

    def __init__(self, w: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w]))


# FedProx


def test_fedprox_adds_mu_times_the_distance_to_the_gradient() -> None:
    """w = 3, sent 1, mu = 0.5, gradient 2: 2 + 0.5 * (3 - 1) = 3."""
    task = ClientTask(state={"w": torch.tensor([1.0])})
    half, line = FedProx.Client(FedProx.Options(mu=0.5), task, None, training=True), Line(3.0)
    line.w.grad = torch.tensor([2.0])
    half.correct_gradients({"w": line.w}, 0)
    assert line.w.grad.item() == 3.0
    assert not half.batchable
    adapting = FedProx.Client(FedProx.Options(mu=0.5), task, None)
    adapting.correct_gradients({"w": line.w}, 0)
    assert line.w.grad.item() == 3.0 and adapting.batchable  # local adaptation is not held back


def test_fedprox_with_mu_zero_is_fedavg(make: Callable) -> None:
    (prox, clients), (average, others) = make(FedProx, mu=0.0), make(FedAvg)
    round_of(prox, clients), round_of(average, others)
    same(prox.model, average.model)


def test_fedprox_moves_less_the_larger_mu_is(make: Callable) -> None:
    moved = []
    for mu in (0.0, 1.0, 5.0):
        method, clients = make(FedProx, mu=mu)
        before = method.model
        round_of(method, clients)
        moved.append(sum(float((method.model[name] - before[name]).square().sum()) for name in before))
    assert moved[0] > moved[1] > moved[2]


# SCAFFOLD


def test_scaffold_corrects_gradients_and_variates_by_hand() -> None:
    """c = 0.5, c_k = 0.2, gradient 1: 1 + 0.3 = 1.3. 2 to 1 in 2 steps of 0.1: c_k' = 0.2 - 0.5 + 1 / 0.2 = 4.7."""
    client = Client(Line(2.0), torch.zeros(8, 1), torch.zeros(8), Recipe(lr=0.1, batch_size=4, momentum=0.0))
    client.store.save("variate", {"w": torch.tensor([0.2])})
    task = ClientTask(epochs=1, state={"w": torch.tensor([2.0])}, tensors={"variate": {"w": torch.tensor([0.5])}})
    half, line = Scaffold.Client(Scaffold.Options(), task, client, training=True), Line(2.0)
    half.begin()
    line.w.grad = torch.tensor([1.0])
    half.correct_gradients({"w": line.w}, 0)
    assert line.w.grad.item() == pytest.approx(1.3)
    half.upload({"w": torch.tensor([2.0])}, {"w": torch.tensor([1.0])})
    assert client.store.load("variate")["w"].item() == pytest.approx(4.7)
    assert half.upload_tensors()["variate"]["w"].item() == pytest.approx(4.5)


def test_scaffold_server_adds_the_mean_change_of_all_clients(make: Callable) -> None:
    """Of 10 clients two answer: c moves by the sum of their changes over 10."""
    method, clients = make(Scaffold)
    round_of(method, clients)
    changes = [clients[n].store.load("variate") for n in clients]  # from zero
    for name, value in method.variate.items():
        torch.testing.assert_close(value, (changes[0][name] + changes[1][name]) / 10)


def test_scaffold_with_zero_variates_and_one_step_is_fedavg(make: Callable) -> None:
    """One epoch of one batch; both halves of the correction are still zero."""
    (scaffold, clients), (average, others) = make(Scaffold, samples=4), make(FedAvg, samples=4)
    round_of(scaffold, clients), round_of(average, others)
    same(scaffold.model, average.model)


def test_scaffold_variate_after_one_step_is_the_clients_gradient(make: Callable) -> None:
    """Option II with one step: c_k' = (x - y) / lr, the gradient that was used."""
    method, clients = make(Scaffold, samples=4)
    before = method.model
    models = round_of(method, clients)
    for number, client in clients.items():
        for name, value in client.store.load("variate").items():
            torch.testing.assert_close(value, (before[name] - models[number].state[name]) / 0.1)


# FedBN


def test_fedbn_without_norms_is_fedavg(make: Callable) -> None:
    (fedbn, clients), (average, others) = make(FedBN), make(FedAvg)
    round_of(fedbn, clients), round_of(average, others)
    same(fedbn.model, average.model)
    assert not clients[0].store.holds("local")


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_fedbn_keeps_norms_on_the_client_and_averages_the_rest(make: Callable, norm: str) -> None:
    dense = resnet18((3, 8, 8), 3, width=8, norm=norm)
    (fedbn, clients), (average, others) = make(FedBN, dense), make(FedAvg, dense)
    before = {name: value.clone() for name, value in fedbn.model.items()}
    models, _ = round_of(fedbn, clients), round_of(average, others)
    local = set(clients[0].store.load("local"))
    assert local and all(torch.equal(fedbn.model[name], before[name]) for name in local)
    for name in before.keys() - local:
        torch.testing.assert_close(fedbn.model[name], average.model[name], rtol=0, atol=0)
    kept = clients[0].store.load("local")
    assert all(torch.equal(kept[name], models[0].state[name]) for name in local)
    half = FedBN.Client(fedbn.options, ClientTask(state=fedbn.model), clients[0])
    assert all(torch.equal(half.select(fedbn.model).state[name], kept[name]) for name in local)


# FedRep


def test_fedrep_trains_the_head_first_and_then_the_representation(make: Callable) -> None:
    method, clients = make(FedRep, head_epochs=1)
    half = FedRep.Client(method.options, ClientTask(state=method.model), clients[0], training=True)
    network = half.select(method.model).loaded()
    head = half.local_entries(network)
    assert head == {"head.weight", "head.bias"}
    for epoch, trained in ((0, head), (1, {n for n, _ in network.named_parameters()} - head)):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        half.correct_gradients(dict(network.named_parameters()), epoch)
        assert {name for name, p in network.named_parameters() if p.grad is not None} == trained


def test_fedrep_without_head_epochs_and_head_is_fedavg_of_the_representation(make: Callable) -> None:
    """With head epochs 0 the head is never trained; with all classes in common it stays that of the server."""
    method, clients = make(FedRep, head_epochs=0)
    before = method.model
    round_of(method, clients)
    assert torch.equal(method.model["head.weight"], before["head.weight"])
    assert not torch.equal(method.model["block.first"], before["block.first"])


def test_fedrep_refuses_rounds_that_never_train_the_representation(budget: Budget) -> None:
    with pytest.raises(ValueError, match=r"fedrep.head-epochs = 2 leaves none of client.local-epochs = 1"):
        FedRep.check(FedRep.Options(head_epochs=2), budget)


# Ditto


def test_ditto_trains_the_global_model_as_fedavg(make: Callable) -> None:
    (ditto, clients), (average, others) = make(Ditto), make(FedAvg)
    round_of(ditto, clients), round_of(average, others)
    same(ditto.model, average.model)
    assert ditto.personal == {0, 1}


def test_ditto_with_lambda_zero_is_local_adaptation(make: Callable, budget: Budget) -> None:
    """Personal models of two rounds are those of a client that trains alone from the first model on."""
    (ditto, clients), (alone, others) = make(Ditto, **{"lambda": 0.0}), make(LocalAdaptation)
    alone.budget = Budget(10, 4, 1, budget.local_epochs, 1)  # as many epochs at every step as Ditto has in a round
    for _ in range(2):
        round_of(ditto, clients), round_of(alone, others)
    for number in clients:
        same(clients[number].store.load("model"), others[number].store.load("model"))


def test_ditto_holds_the_personal_model_near_the_global_one(make: Callable) -> None:
    distances = []
    for weight in (0.0, 1.0, 5.0):
        method, clients = make(Ditto, **{"lambda": weight})
        sent = method.model
        round_of(method, clients)
        personal = clients[0].store.load("model")
        distances.append(sum(float((personal[name] - sent[name]).square().sum()) for name in sent))
    assert distances[0] > distances[1] > distances[2]


def test_clients_with_a_personal_model_use_it(make: Callable) -> None:
    method, clients = make(Ditto)
    round_of(method, clients)
    tasks = method.configure_evaluate([Profile(client) for client in (0, 1, 2)])
    assert [task.model.state is None for task in tasks.values()] == [True, True, False]
    method.on_state_lost(1)
    assert method.configure_evaluate([Profile(1)])[1].model.state is not None


@pytest.mark.parametrize("kind", [FedProx, Scaffold, FedRep])
def test_convolutional_networks_train_with_these_hooks(make: Callable, kind: type[Strategy]) -> None:
    options = {"head_epochs": 0} if kind is FedRep else {}
    method, clients = make(kind, cnn((1, 8, 8), 3, width=4), **options)
    before = {name: value.clone() for name, value in method.model.items()}
    round_of(method, clients)
    assert any(not torch.equal(method.model[name], value) for name, value in before.items())
