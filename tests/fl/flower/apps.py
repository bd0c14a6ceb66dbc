"""Flower apps of a user for tests: a network, data and training loops that know nothing of this project."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fl.engines.grid import LocalGrid
from fl.flower import load_submodel, profile, reply

SHAPE, CLASSES, NODES = (3, 8, 8), 4, 4
Handler = Callable[[Message, Context], Message]


class Net(nn.Module):
    """Convolutions with batch norm, a shortcut, and pixels that are flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.wide, self.wide_norm = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 32), nn.ReLU(), nn.Linear(32, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.stem(x)))
        h = h + self.narrow(F.relu(self.wide_norm(self.wide(h))))
        return self.head(F.max_pool2d(h, 2))


class Plain(nn.Module):
    """A perceptron without norms, whose sub-models therefore have HeteroFL's scaler."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def data(node: int, samples: int = 48) -> tuple[Tensor, Tensor]:
    """Pictures whose class is their brightest corner; node 0 has the first two classes, node 1 the last two."""
    generator = torch.Generator().manual_seed(node)
    own = {0: [0, 1], 1: [2, 3]}.get(node, list(range(CLASSES)))
    y = torch.tensor(own)[torch.randint(len(own), (samples,), generator=generator)]
    x = torch.randn(samples, *SHAPE, generator=generator) / 2
    for row, label in enumerate(y.tolist()):
        x[row, :, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 1
    return x, y


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 2, lr: float = 0.05) -> float:
    """The user's own loop."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for at in range(0, len(x), 16):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[at : at + 16]), y[at : at + 16])
            loss.backward()
            optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == y).float().mean())


def client_app(net: Any = Net) -> ClientApp:
    """A ClientApp that uses this project in three lines."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = load_submodel(net, message)
        x, y = data(int(context.node_config["partition-id"]))
        return reply(message, model, 10 * (1 + int(context.node_config["partition-id"])), {"loss": fit(model, x, y)})

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        x, y = data(int(context.node_config["partition-id"]))
        return reply(message, None, len(x), {"accuracy": accuracy(load_submodel(net, message), x, y)})

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return profile(message, context, data(int(context.node_config["partition-id"]))[0])

    return app


def flower_app(net: Any = Net) -> ClientApp:
    """A ClientApp of the same user without this project."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model, node = net(), int(context.node_config["partition-id"])
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        metrics = MetricRecord({"loss": fit(model, *data(node)), "num-examples": 10 * (1 + node)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content, reply_to=message)

    return app


def grid(app: Handler, nodes: int = NODES, configs: Mapping[int, Mapping[str, Any]] | None = None) -> LocalGrid:
    """Flower's simulation without its start-up time; ``configs`` adds to the node-configs."""
    return LocalGrid(
        {}, nodes, client_app=app, node_config=lambda node: {"partition-id": node, **(configs or {}).get(node, {})}
    )


def arrays(net: Callable[[], nn.Module] = Net) -> ArrayRecord:
    torch.manual_seed(0)
    return ArrayRecord(net().state_dict())
