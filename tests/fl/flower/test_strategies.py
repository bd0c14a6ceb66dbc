"""Strategies obey Flower's contract, merge as they say, and no client ends a run or reaches the model with nonsense."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from torch import nn

from fl.config.sections import Pretrain
from fl.flower import ECLM, FedAvg, FedRolex, FjORD, HeteroFL, load_submodel, profile, reply
from tests.fl.flower.apps import (
    SHAPE,
    Net,
    accuracy,
    arrays,
    client_app,
    data,
    flower_app,
    grid,
)

QUIET = {"fraction_evaluate": 0.0}
MIXED = {0: {"capacity": 1.0}, 1: {"capacity": 0.5}, 2: {"capacity": 0.25}, 3: {"capacity": 0.5}}


class Tiny(nn.Module):
    """Four hidden units, no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


def constants(values: Mapping[int, float], examples: Mapping[int, int], net: Any = Tiny) -> ClientApp:
    """Clients that set all parameters to a number of their own."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, node = load_submodel(net, message), int(context.node_config["partition-id"])
        for parameter in model.parameters():
            parameter.data.fill_(values[node])
        return reply(message, model, examples[node])

    app.query()(profile)
    return app


@pytest.mark.parametrize("make", [FedAvg, HeteroFL, FedRolex])
def test_with_whole_models_a_run_is_flowers_own_fedavg(make: Any) -> None:
    """Three rounds of a network with batch norm, clients of different weights, and the user's own loop."""
    ours, theirs = make(Net, SHAPE, **QUIET), flower.FedAvg(**QUIET)
    with grid(client_app()) as mine, grid(flower_app()) as other:
        got, expected = ours.start(mine, arrays(), 3), theirs.start(other, arrays(), 3)
    assert got.arrays.keys() == expected.arrays.keys()
    for name, array in got.arrays.items():
        np.testing.assert_allclose(array.numpy(), expected.arrays[name].numpy(), rtol=0, atol=2e-6, err_msg=name)
        assert array.dtype == arrays()[name].dtype  # Flower makes a float of a counter
    for server_round, metrics in expected.train_metrics_clientapp.items():
        assert dict(got.train_metrics_clientapp[server_round]) == pytest.approx(dict(metrics), abs=1e-5)


@pytest.mark.parametrize("make", [FedAvg, HeteroFL, FjORD, FedRolex, ECLM])
def test_a_result_has_what_flowers_has(make: Any) -> None:
    strategy, seen = make(Net, SHAPE, fraction_train=0.5, fraction_evaluate=0.75), list[int]()
    x, y = data(9)

    def evaluate(server_round: int, now: ArrayRecord) -> MetricRecord:
        seen.append(server_round)
        return MetricRecord({"accuracy": accuracy(strategy.load(now), x, y)})

    with grid(client_app(), configs=MIXED) as engine:
        result = strategy.start(grid=engine, initial_arrays=arrays(), num_rounds=3, evaluate_fn=evaluate)
    assert seen == [0, 1, 2, 3] == list(result.evaluate_metrics_serverapp)
    assert list(result.train_metrics_clientapp) == list(result.evaluate_metrics_clientapp) == [1, 2, 3]
    assert result.train_metrics_clientapp[1].keys() == {"loss"}
    assert result.evaluate_metrics_clientapp[1].keys() == {"accuracy"}
    state = Net().state_dict()
    assert {name: (array.dtype, tuple(array.shape)) for name, array in result.arrays.items()} == {
        name: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for name, value in state.items()
    }
    Net().load_state_dict(result.arrays.to_torch_state_dict())
    moved = [name for name, a in result.arrays.items() if not np.array_equal(a.numpy(), arrays()[name].numpy())]
    assert "head.3.weight" in moved and "stem.weight" in moved


@pytest.mark.parametrize("make", [HeteroFL, FjORD, FedRolex, ECLM])
def test_clients_of_mixed_capacities_learn_together(make: Any) -> None:
    strategy = make(Net, SHAPE, proxy=(data(7) if make is ECLM else data(7)[0]), **QUIET)
    with grid(client_app(), configs=MIXED) as engine:
        result = strategy.start(engine, arrays(), 8)
    assert accuracy(strategy.load(result.arrays), *data(9, 200)) > 0.8


def test_sampling_configs_and_record_names_are_those_of_flower() -> None:
    app, seen = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append((int(context.node_config["partition-id"]), dict(message.content["settings"])))
        assert set(message.content) == {"weights", "settings", "submodel"}
        return reply(message, load_submodel(Tiny, message), 1, {"size": 2})

    names = {"arrayrecord_key": "weights", "configrecord_key": "settings", "weighted_by_key": "size"}
    strategy = HeteroFL(Tiny, (2,), lambda node: 0.5, fraction_train=0.5, min_train_nodes=1, **names, **QUIET)
    with grid(app) as engine:
        result = strategy.start(engine, arrays(Tiny), 2, train_config=ConfigRecord({"lr": 0.1}))
    assert [config for _, config in seen] == [{"lr": 0.1, "server-round": n} for n in (1, 1, 2, 2)]
    assert len({node for node, _ in seen[:2]}) == 2
    assert dict(result.train_metrics_clientapp[1]) == {"num-examples": 1.0}


def test_entries_are_averaged_by_examples_over_the_clients_that_have_them() -> None:
    """Two of the four hidden units are trained by both: (1 * 1 + 3 * 5) / 4 = 4; the others by the first client."""
    strategy = HeteroFL(Tiny, (2,), {0: 1.0, 1: 0.5}, **QUIET)
    with grid(constants({0: 1.0, 1: 5.0}, {0: 1, 1: 3}), 2) as engine:
        got = strategy.start(engine, arrays(Tiny), 1).arrays.to_torch_state_dict()
    assert got["first.weight"].tolist() == [[4, 4], [4, 4], [1, 1], [1, 1]]
    assert got["first.bias"].tolist() == [4, 4, 1, 1] and got["last.bias"].tolist() == [4, 4]
    assert got["last.weight"].tolist() == [[4, 4, 1, 1]] * 2


def test_entries_that_no_client_has_keep_their_value_and_windows_roll() -> None:
    for make, rounds, trained in ((HeteroFL, 2, {0, 1}), (FedRolex, 2, {0, 1, 2}), (FedRolex, 4, {0, 1, 2, 3})):
        with grid(constants({0: 7.0, 1: 7.0}, {0: 1, 1: 1}), 2) as engine:
            got = make(Tiny, (2,), lambda node: 0.5, **QUIET).start(engine, arrays(Tiny), rounds).arrays
        bias, before = got["first.bias"].numpy(), arrays(Tiny)["first.bias"].numpy()
        assert {i for i in range(4) if bias[i] == 7} == trained
        assert all(bias[i] == before[i] for i in range(4) if i not in trained)


def test_eclm_weights_modules_by_importance_and_the_rest_by_examples() -> None:
    """Without proxy data all modules are alike. Half of them are one half of the channels, that all clients have."""
    strategy = ECLM(Net, SHAPE, capacities={0: 1.0, 1: 0.5}, **QUIET)
    app, sent = client_app(), dict[int, tuple[int, ...]]()

    def answer(message: Message, context: Context) -> Message:
        if message.metadata.message_type != "train":
            return app(message, context)
        model, node = load_submodel(Net, message), int(context.node_config["partition-id"])
        sent[node] = tuple(model.wide.weight.shape)
        for parameter in model.parameters():
            parameter.data.fill_((1.0, 5.0)[node])
        return reply(message, model, (1, 3)[node])

    with grid(answer, 2) as engine:
        got = strategy.start(engine, arrays(), 1).arrays.to_torch_state_dict()
    assert sent[0] == (32, 16, 3, 3) and sent[1][0] in range(4, 32)
    few = sent[1][0]
    assert got["wide.bias"][:few].tolist() == [3.0] * few and got["wide.bias"][few:].tolist() == [1.0] * (32 - few)
    assert got["stem.weight"].unique().tolist() == [4.0]


def arrays_of(message: Message, change: Callable[[dict[str, np.ndarray]], Any] = lambda values: None) -> ArrayRecord:
    values = {name: np.ones_like(array.numpy()) for name, array in message.content["arrays"].items()}
    change(values)
    return ArrayRecord({name: Array(value) for name, value in values.items()})


def metrics(**values: Any) -> MetricRecord:
    return MetricRecord({"num-examples": 1, "loss": 0.5} | {k.replace("_", "-"): v for k, v in values.items()})


def garbage(message: Message) -> ArrayRecord:
    record = arrays_of(message)
    record["norm.weight"] = Array("float32", (16,), "numpy.ndarray", b"nonsense")
    return record


def fill(name: str, value: Any) -> Callable[[Message], RecordDict]:
    return lambda message: RecordDict({"arrays": arrays_of(message, lambda v: v.update({name: value})), "m": metrics()})


BAD: dict[str, Callable[[Message], RecordDict]] = {
    "not finite": fill("norm.weight", np.full(16, np.nan, np.float32)),
    "is not finite": fill("norm.weight", np.full(16, np.inf, np.float32)),
    "has shape (8,) instead of (16,)": fill("norm.weight", np.ones(8, np.float32)),
    "is torch.float64": fill("norm.weight", np.ones(16)),
    "moved by": fill("norm.weight", np.full(16, 1e9, np.float32)),
    "has negative values": fill("norm.running_var", np.full(16, -1, np.float32)),
    "holds unknown other": fill("other", np.ones(1, np.float32)),
    "lacks norm.weight": lambda m: RecordDict({"arrays": arrays_of(m, lambda v: v.pop("norm.weight")), "m": metrics()}),
    "bytes instead of": fill("norm.weight", np.ones(1 << 20, np.float32)),
    "pickled (object) data": lambda m: RecordDict({"arrays": garbage(m), "m": metrics()}),
    "0 array records": lambda m: RecordDict({"m": metrics()}),
    "2 array records": lambda m: RecordDict({"a": arrays_of(m), "b": arrays_of(m), "m": metrics()}),
    "0 metric records": lambda m: RecordDict({"arrays": arrays_of(m)}),
    "2 metric records": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(), "n": metrics()}),
    "lack 'num-examples'": lambda m: RecordDict({"arrays": arrays_of(m), "m": MetricRecord({"loss": 1.0})}),
    "'num-examples' is 0": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(num_examples=0)}),
    "'num-examples' is -5": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(num_examples=-5)}),
    "'num-examples' is [1, 2]": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(num_examples=[1, 2])}),
    "'num-examples' is 1000000": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(num_examples=10**6)}),
    "'loss' is not finite": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(loss=math.nan)}),
    "its metrics are": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(more=1)}),
    "those of others": lambda m: RecordDict({"arrays": arrays_of(m), "m": metrics(loss=[1.0, 2.0])}),
}


@pytest.mark.parametrize("why", [*BAD, "on purpose"])
@pytest.mark.parametrize("make", [FedAvg, HeteroFL])
def test_a_bad_reply_is_refused_and_changes_nothing(make: Any, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """Two honest clients answer with ones; whatever the third says, the model is ones."""
    app = ClientApp()
    app.query()(profile)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if int(context.node_config["partition-id"]) == 0:
            if why not in BAD:
                raise RuntimeError("on purpose")
            return Message(BAD[why](message), reply_to=message)
        return Message(RecordDict({"arrays": arrays_of(message), "m": metrics()}), reply_to=message)

    caplog.set_level("WARNING", "flwr")
    with grid(app, 3) as engine:
        result = make(Net, SHAPE, max_examples=1000, **QUIET).start(engine, arrays(), 2)
    assert all((array.numpy() == 1).all() for array in result.arrays.values())
    assert {n: dict(m) for n, m in result.train_metrics_clientapp.items()} == {1: {"loss": 0.5}, 2: {"loss": 0.5}}
    refused = [r.getMessage() for r in caplog.records if "is not used" in r.getMessage()]
    assert len(refused) == 2 and all("node 0" in line and why in line for line in refused), refused


def test_a_run_in_which_all_clients_fail_ends_with_the_initial_model() -> None:
    app = ClientApp()
    with grid(app, 2) as engine:
        result = FedAvg().start(engine, arrays(), 2)
    assert result.train_metrics_clientapp == {} == result.evaluate_metrics_clientapp
    assert all(np.array_equal(array.numpy(), arrays()[name].numpy()) for name, array in result.arrays.items())


def test_a_node_that_says_nonsense_in_a_query_skips_rounds_and_is_asked_again() -> None:
    app, trained, asked = client_app(), [], []

    def answer(message: Message, context: Context) -> Message:
        node = int(context.node_config["partition-id"])
        if message.metadata.message_type == "query":
            asked.append(node)
            if node == 1:
                return Message(RecordDict({"metrics": MetricRecord({"capacity": 2.0})}), reply_to=message)
            if node == 2:
                return Message(RecordDict(), reply_to=message)
            if node == 3:
                raise RuntimeError
        elif message.metadata.message_type == "train":
            trained.append(node)
        return app(message, context)

    for make in (HeteroFL, ECLM):
        trained.clear()
        asked.clear()
        with grid(answer) as engine:
            result = make(Net, SHAPE, **QUIET).start(engine, arrays(), 2)
        assert trained == [0, 0] and sorted(asked) == [0, 1, 1, 2, 2, 3, 3] and len(result.train_metrics_clientapp) == 2


def test_capacities_come_from_the_user_the_node_config_or_the_client() -> None:
    rates = dict[int, float]()
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, node = load_submodel(Net, message), int(context.node_config["partition-id"])
        rates[node] = model.stem.out_channels / 16
        assert message.content["submodel"]["rate"] == rates[node]
        return reply(message, model, 1)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return profile(message, context, capacity=0.25 if context.node_config["partition-id"] == 3 else None)

    with grid(app, configs={1: {"capacity": 0.5}}) as engine:
        HeteroFL(Net, SHAPE, {0: 0.75}, **QUIET).start(engine, arrays(), 1)
    assert rates == {0: 0.75, 1: 0.5, 2: 1.0, 3: 0.25}


class Endless(nn.Module):
    """Needs an argument."""

    def __init__(self, width: int) -> None:
        super().__init__()


class Whole(nn.Module):
    """Has nothing to cut."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: HeteroFL(Endless, (2,)), "the network cannot be made .*width.*: give a module, or a class"),
        (lambda: HeteroFL(lambda: 3, (2,)), "the network is int: it must be a torch.nn.Module"),
        (lambda: HeteroFL(Net, (5,)), "does not run on one batch of shape"),
        (lambda: HeteroFL(nn.Flatten(0), (5,)), r"returns \(10,\) for a batch of 2; it must return logits \(2, 'cl"),
        (lambda: HeteroFL(Whole, (4,)), "no channels of the network can be cut .*use FedAvg"),
        (lambda: ECLM(Tiny, (2,)), "ECLM needs a layer of at least 32 channels .*use HeteroFL"),
        (lambda: ECLM(Net, SHAPE, modules=3), "shrink = 3 does not divide"),
        (lambda: ECLM(Net, SHAPE, modules=0), "^modules = 0: input should be greater than or equal to 1"),
        (lambda: HeteroFL(Net, 5), r"input_shape is of type int: give the shape of one sample as whole numbers"),
        (lambda: HeteroFL(Net, torch.zeros(SHAPE)), "input_shape is of type Tensor: give the shape of one sample"),
        (lambda: HeteroFL(Net, SHAPE, 0.5), "capacities is 0.5: give a dict by node id, or a function of the node id"),
        (lambda: FedAvg().load(arrays()), "no network to load"),
        (lambda: HeteroFL(Net, SHAPE, proxy=data(0)), r"are tuple: give a tensor of floats with shape \(n, 3"),
        (lambda: HeteroFL(Net, SHAPE, proxy=torch.zeros(4, 5)), r"proxy samples are \(4, 5\): give"),
        (lambda: ECLM(Net, SHAPE, proxy=data(0)[0]), r"are a pair: proxy=\(x, y\)"),
        (lambda: ECLM(Net, SHAPE, proxy=(data(0)[0], torch.full((48,), 4))), "48 classes from 0 to 3"),
    ],
)  # fmt: skip
def test_wrong_networks_are_one_sentence(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("initial", "capacities", "sentence"),
    [
        (arrays(), 1.0, "is not in both the initial arrays and the network"),
        (ArrayRecord({k: v[:1] for k, v in Tiny().state_dict().items()}), 1.0, r"has shape .* the network"),
        (arrays(Tiny), 0.0, r"the capacity of node \d is 0.0: it must be a number above 0 and at most 1"),
        (arrays(Tiny), "half", r"the capacity of node \d is 'half'"),
        (arrays(Tiny), None, "does not answer queries: add .*or give `capacities`"),
    ],
)
def test_wrong_arrays_and_capacities_are_one_sentence(initial: ArrayRecord, capacities: Any, sentence: str) -> None:
    with grid(ClientApp(), 2) as engine, pytest.raises(ValueError, match=sentence):
        HeteroFL(Tiny, (2,), dict.fromkeys(range(2), capacities)).start(engine, initial, 1)


def test_capacities_of_other_nodes_and_arrays_that_are_not_finite_are_one_sentence() -> None:
    with grid(client_app(), 2) as engine:
        with pytest.raises(
            ValueError, match="capacities names none of this run's nodes, such as .0.: its keys are node"
        ):
            HeteroFL(Net, SHAPE, {100: 0.5, 101: 1.0}, **QUIET).start(engine, arrays(), 1)
        torn = arrays()
        torn["stem.weight"] = Array(np.full((16, 3, 3, 3), np.nan, np.float32))
        for make in (FedAvg, HeteroFL):
            with pytest.raises(ValueError, match="stem.weight of the initial arrays holds values that are not finite"):
                make(Net, SHAPE, **QUIET).start(engine, torn, 1)


def test_eclm_without_samples_is_one_sentence() -> None:
    with (
        grid(constants({}, {}, Net), 2) as engine,
        pytest.raises(ValueError, match="`return profile.message, context, x.` with"),
    ):
        ECLM(Net, SHAPE, **QUIET).start(engine, arrays(), 1)


class Rows(nn.Sequential):
    """A perceptron with batch norm, which refuses one sample in training."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def test_eclm_trains_on_proxy_data_whose_last_batch_is_one_sample() -> None:
    x, y = torch.randn(65, 6), torch.arange(65) % 3
    pretrain = Pretrain(modular_epochs=1, ability_epochs=1, batch_size=64)
    prepared = ECLM(Rows, (6,), proxy=(x, y), pretrain=pretrain).prepare(arrays(Rows))
    assert int(prepared["1.num_batches_tracked"].numpy()) == 2
