"""Flower's own FedAvg, and two clients: a client with the least overhead, and the one of Flower's templates."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterable
from functools import cache, lru_cache
from multiprocessing.connection import Client

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from work import Work

server = ServerApp()
client = ClientApp()


class SameCohorts(FedAvg):
    """FedAvg whose messages also name a device, so that all entrants train the same devices."""

    def __init__(self, work: Work):
        super().__init__(
            fraction_train=work.cohorts.shape[1] / 1e6, fraction_evaluate=0.0, min_train_nodes=work.cohorts.shape[1]
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for slot, message in enumerate(super().configure_train(server_round, arrays, config, grid)):
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({"round": server_round - 1, "slot": slot})})
            yield Message(content, message.metadata.dst_node_id, message.metadata.message_type)


@server.main()
def main(grid: Grid, context: Context) -> None:
    work = Work(str(context.run_config["folder"]))
    strategy, model = SameCohorts(work), work.network()
    arrays = ArrayRecord(model.state_dict())
    with Client(("127.0.0.1", int(context.run_config["port"]))) as line:
        for round_ in range(1, len(work.cohorts) + 1):
            if line.recv() != "round":
                break
            messages = strategy.configure_train(round_, arrays, ConfigRecord(), grid)
            mean, _ = strategy.aggregate_train(round_, grid.send_and_receive(messages, timeout=3600))
            if mean is None:
                raise RuntimeError("no client trained")
            arrays = mean
            line.send("done")
    final = arrays.to_torch_state_dict().values()
    np.savez(str(context.run_config["to"]), **{f"{i:03d}": v.numpy() for i, v in enumerate(final)})  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def work_of(folder: str) -> Work:
    torch.set_num_threads(1)
    return Work(folder)


@lru_cache(maxsize=1)
def network_of(folder: str) -> nn.Module:
    return work_of(folder).network()


@cache
def samples_of(folder: str, device: int) -> tuple[Tensor, Tensor]:
    return work_of(folder).samples(device)


@client.train()
def train(message: Message, context: Context) -> Message:
    folder, config = str(context.run_config["folder"]), message.content["config"]
    work, round_, slot = work_of(folder), int(config["round"]), int(config["slot"])  # type: ignore[arg-type]
    device = int(work.cohorts[round_, slot])
    state = message.content.array_records["arrays"].to_torch_state_dict()
    if context.run_config["client"] == "cheap":
        model, (x, y) = network_of(folder), samples_of(folder, device)
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=work.lr)
        for rows in (rows for epoch in work.batches(round_, slot) for rows in epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    else:
        model = work.network()
        model.load_state_dict(state)
        x, y = work.samples(device)
        optimizer, criterion = torch.optim.SGD(model.parameters(), lr=work.lr), nn.CrossEntropyLoss()
        model.train()
        for epoch in work.batches(round_, slot):
            samples = TensorDataset(x[torch.cat(epoch)], y[torch.cat(epoch)])
            for inputs, labels in DataLoader(samples, batch_size=work.batch_size):
                optimizer.zero_grad()
                loss = criterion(model(inputs), labels)
                loss.backward()
                optimizer.step()
    metrics = MetricRecord({"num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)
