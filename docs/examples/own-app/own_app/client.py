"""The ClientApp."""

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fl.flower import load_submodel, profile, reply
from own_app.net import Net, accuracy, pictures

app = ClientApp()


def samples(context: Context, seed: int) -> tuple[Tensor, Tensor]:
    """A client lacks one of the four classes."""
    client = int(context.node_config["partition-id"])
    return pictures([c for c in range(4) if c != client % 4], 96, 2 * client + seed)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Machines name their `capacity` in the node-config; a simulation has no such key."""
    simulated = (1.0, 0.5)[int(context.node_config["partition-id"]) % 2]
    x, _ = samples(context, 0)
    return profile(message, context, x, float(context.node_config.get("capacity", simulated)))


@app.train()
def train(message: Message, context: Context) -> Message:
    model = load_submodel(Net, message)
    x, y = samples(context, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for rows in torch.randperm(len(x)).repeat(3).split(16):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    return reply(message, model, len(x), {"loss": loss.item()})


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model = load_submodel(Net, message)
    x, y = samples(context, 1)
    return reply(message, model, len(x), {"accuracy": accuracy(model, x, y)})
