"""What a client loads: modules of the user's own class that compute what the method says, and answers to messages."""

import copy
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from fl.engines.worker_server import set_task_identity
from fl.flower import ECLM, FedAvg, FedRolex, FjORD, HeteroFL, load_submodel, profile, reply
from fl.messages import records
from models.elastic.nested import width
from models.modular.model import ModularModel
from models.modular.selector import Routing
from models.nn.any_module import from_module
from models.submodel import FULL, extract
from tests.fl.flower.apps import CLASSES, SHAPE, Net, Plain, arrays, client_app, data, fit, grid


@pytest.fixture(autouse=True)
def identity() -> None:
    set_task_identity(1)


def sent(strategy: Any, server_round: int = 1, net: Any = Net, evaluate: bool = False) -> dict[int, Message]:
    """The messages of a round, by node."""
    with grid(client_app(net)) as engine:
        configure = strategy.configure_evaluate if evaluate else strategy.configure_train
        messages = list(configure(server_round, strategy.prepare(arrays(net)), ConfigRecord(), engine))
    return {message.metadata.dst_node_id: message for message in messages}


def context(**node_config: Any) -> Context:
    return Context(1, 1, node_config, RecordDict(), {})


def test_a_sub_model_is_a_smaller_module_of_the_users_class() -> None:
    messages = sent(HeteroFL(Net, SHAPE, {0: 1.0, 1: 0.5, 2: 0.25, 3: 0.3}))
    x = torch.randn(5, *SHAPE)
    for node, channels in {0: 16, 1: 8, 2: 4, 3: 5}.items():
        model = load_submodel(Net, messages[node])
        assert type(model) is Net and model.training
        assert model.stem.out_channels == channels == model.norm.num_features == model.wide.in_channels
        whole = Net()
        whole.load_state_dict(arrays().to_torch_state_dict())
        with torch.no_grad():  # the other channels of the whole model are switched off
            for name, value in whole.state_dict().items():
                axes = from_module(Net, SHAPE, CLASSES).part(FULL).axes()[f"net.{name}"]
                kept = extract({name: torch.arange(value.numel()).reshape(value.shape)}, {name: axes}, coverage(node))
                value.view(-1)[~torch.isin(torch.arange(value.numel()), kept[name].flatten())] = 0
            torch.testing.assert_close(model.eval()(x), whole.eval()(x))


def coverage(node: int) -> Any:
    return width(from_module(Net, SHAPE, CLASSES), {0: 1.0, 1: 0.5, 2: 0.25, 3: 0.3}[node])


def test_a_class_a_function_and_a_module_give_the_same_and_the_module_stays_as_it_is() -> None:
    message, own = sent(HeteroFL(Net, SHAPE, lambda node: 0.5))[0], Net()
    before = copy.deepcopy(own.state_dict())
    loaded = [load_submodel(one, message) for one in (Net, partial(Net), lambda: Net(), own)]
    for model in loaded[1:]:
        assert all(torch.equal(v, loaded[0].state_dict()[k]) for k, v in model.state_dict().items())
    fit(loaded[3], *data(0))
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())


def test_a_network_without_norms_has_heterofls_scaler() -> None:
    x = torch.randn(5, 6)
    for rate in (1.0, 0.5):
        model = load_submodel(Plain, sent(HeteroFL(Plain, (6,), lambda node, rate=rate: rate), net=Plain)[0])
        expected = model.last.weight @ (model.first(x).relu() / rate).T + model.last.bias[:, None]
        torch.testing.assert_close(model(x), expected.T)


def test_a_window_of_fedrolex_rolls() -> None:
    whole = arrays()["stem.weight"].numpy()
    for server_round in (1, 4, 16):
        message = sent(FedRolex(Net, SHAPE, lambda node: 0.5), server_round)[0]
        kept = (server_round - 1 + np.arange(8)) % 16
        assert np.array_equal(load_submodel(Net, message).stem.weight.detach().numpy(), whole[kept])


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_fjord_trains_every_width_up_to_its_own(copied: Any) -> None:
    """A batch changes a prefix of the channels and its running statistics; in evaluation the model is whole."""
    strategy = FjORD(Net, SHAPE, lambda node: 0.5)
    message = sent(strategy)[0]
    model = copied(load_submodel(Net, message))
    before, widths = copy.deepcopy(model.state_dict()), set()
    x, y = data(3, 16)
    for _ in range(40):
        model.load_state_dict(before)
        model.zero_grad()
        model.train()
        nn.functional.cross_entropy(model(x), y).backward()
        touched = model.stem.weight.grad.flatten(1).abs().sum(1) > 0
        widths.add(int(touched.sum()))
        assert touched[: int(touched.sum())].all()
        moved = model.norm.running_mean != before["norm.running_mean"]
        assert torch.equal(moved, touched) and model.norm.num_batches_tracked == 1
    assert widths == {8, 4, 2, 1}
    plain = load_submodel(Net, sent(strategy, evaluate=True)[0])
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_the_modules_of_eclm_are_gated_by_the_selector_of_the_message() -> None:
    strategy = ECLM(Net, SHAPE, {0: 1.0, 1: 0.5}, proxy=data(7, 64), top_k=3)
    messages, x = sent(strategy), torch.randn(6, *SHAPE)
    method = strategy.method
    assert method is not None
    cloud = method.modular_model
    logits = cloud.logits(x)
    assert len({tuple(row.topk(3).indices.tolist()) for row in logits[0]}) > 1  # samples have modules of their own
    own = load_submodel(Net, messages[0]).eval()
    assert cloud.routing == Routing(3, 8.0)
    torch.testing.assert_close(own(x), cloud.body.eval()(x, cloud.gates(logits)))
    torch.testing.assert_close(copy.deepcopy(own)(x), own(x))
    torch.testing.assert_close(strategy.load(records.pack(own.state_dict())).eval()(x), own(x))
    few = load_submodel(Net, messages[1]).eval()
    part = method.derive([strategy.profiles[1]["profile"]])[0]
    assert part is not None and few.wide.out_channels == 4 * len(part["wide.modules"]) < 32
    torch.testing.assert_close(few(x), submodel_by_hand(cloud, part, logits, x))
    answer = profile(Message(RecordDict(dict(messages[0].content)), 0, "query"), context(), x)
    found = answer.content["metrics"]["importance.wide.modules"]
    torch.testing.assert_close(torch.tensor(found), logits[0].softmax(1).mean(0), check_dtype=False)


def submodel_by_hand(cloud: ModularModel, part: Any, logits: Any, x: Tensor) -> Tensor:
    """The whole model with gates that are 0 for all modules that the client lacks."""
    gates = []
    for layer, columns in zip(cloud.body.layers, logits, strict=True):
        one = torch.zeros_like(columns)
        one[:, part[layer]] = cloud.routing.gates(columns[:, part[layer]])
        gates.append(one)
    return cloud.body(x, gates)


class Lazy(nn.Module):
    """Takes its sizes from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu().flatten(1))


def seen() -> Lazy:
    net = Lazy()
    net.eval()(torch.zeros(2, *SHAPE))
    return net.train()


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_lazy_layers_are_loaded(rate: float) -> None:
    messages = sent(HeteroFL(seen, SHAPE, lambda node: rate), net=seen)
    model = load_submodel(Lazy, messages[0])
    expected = load_submodel(seen, messages[0])
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(model(x), expected(x))
    assert reply(messages[0], model, 1).content["arrays"].keys() == expected.state_dict().keys()
    with pytest.raises(ValueError, match="the network has lazy layers: give its class"):
        load_submodel(Lazy(), messages[0])


def test_a_message_of_plain_flower_is_loaded_whole() -> None:
    message = Message(RecordDict({"arrays": arrays(), "config": ConfigRecord({"lr": 0.1})}), 0, "train")
    model = load_submodel(Net, message)
    assert all(np.array_equal(v, arrays()[k].numpy()) for k, v in model.state_dict().items())


def test_an_answer_has_numbers_and_after_training_arrays() -> None:
    message = sent(FedAvg())[0]
    model = load_submodel(Net, message).double()
    numbers = {
        "loss": torch.tensor(0.5),
        "f1": np.float32(0.25),
        "fine": True,
        "each": np.array([1, 2]),
        "list": [np.float32(1)],
    }
    answer = reply(message, model, np.int64(7), numbers)
    assert dict(answer.content["metrics"]) == {
        "num-examples": 7,
        "loss": 0.5,
        "f1": 0.25,
        "fine": 1,
        "each": [1, 2],
        "list": [1.0],
    }
    assert set(answer.content) == {"metrics", "arrays"}
    assert {array.dtype for array in answer.content["arrays"].values()} == {"float32", "int64"}
    message = sent(FedAvg(), evaluate=True)[0]
    assert set(reply(message, None, 7).content) == {"metrics"}


def test_a_profile_is_read_from_the_node_config() -> None:
    query = Message(RecordDict(), 0, "query")
    for node_config, given, expected in (
        ({}, None, 1.0),
        ({"capacity": 0.5}, None, 0.5),
        ({"capacity": 1}, 0.25, 0.25),
    ):
        answer = profile(query, context(**node_config), capacity=given)
        assert answer.content["metrics"] == MetricRecord({"capacity": expected})


class Other(Net):
    """Another network."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(1, 1)


class Shapes(Net):
    """Another network whose parameters have the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(1, 1, bias=False)


def test_what_does_not_fit_is_one_sentence() -> None:
    message = sent(FedAvg())[0]
    model = load_submodel(Net, message)
    for call, sentence in (
        (lambda: load_submodel(Other, message), "the message lacks more.bias: client, server and initial arrays must"),
        (lambda: load_submodel(nn.Identity, message), "the network lacks head.1.bias"),
        (lambda: load_submodel(Shapes, message), "the parameters do not fit the network"),
        (lambda: load_submodel(3, message), "the network cannot be made"),
        (lambda: load_submodel(Net, Message(RecordDict(), 0, "train")), "has 0 records of parameters instead of one"),
        (lambda: reply(message, None, 1), "the model is NoneType: reply to training with"),
        (lambda: reply(message, Other(), 1), "the message has no more.bias: reply with the model that load_submodel"),
        (lambda: reply(message, model, 1, {"loss": "low"}), "loss = 'low' is not a number"),
        (lambda: reply(message, model, 1, {"each": [1, None]}), "each = .* is not a number"),
        (lambda: profile(message, context(capacity="half")), "capacity = 'half' is not a number"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_arrays_of_a_record_are_those_of_flower() -> None:
    ours = records.pack(Net().state_dict())
    assert {(k, a.dtype, a.shape) for k, a in ours.items()} == {
        (k, a.dtype, a.shape) for k, a in ArrayRecord(Net().state_dict()).items()
    }
