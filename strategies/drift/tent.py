"""Tent: before a client uses the global model, it trains the norms to make predictions on its inputs certain.

Wang et al., "Tent: Fully Test-time Adaptation by Entropy Minimization", ICLR 2021, arXiv:2006.10726, section 3.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.costs import BACKWARD
from models.nn.blocks import is_norm, torch_batch_norms
from models.nn.body import Body, device_of
from models.training.loop import batches, to_float32
from partitions import Purpose, rng
from strategies.drift.adabn import AdaBN, AdaptedToInputs
from strategies.fedavg import Prior


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of predictions with logits (B, classes), nats (section 3.1)."""
    log_p = to_float32(logits).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


class CertainNorms(AdaptedToInputs):
    """Minimises the entropy over scales and shifts of all norms, then sets the statistics of batch norms (AdaBN)."""

    @staticmethod
    def passes(options: Any) -> float:
        return 1.0 + BACKWARD * options.epochs

    def adapt(self, network: Body, x: Tensor) -> None:
        client, device = self.client, device_of(network)
        affine = [p for module in network.modules() if is_norm(module) for p in module.parameters(recurse=False)]
        if affine:
            optimizer, norms = torch.optim.Adam(affine, lr=self.options.lr), torch_batch_norms(network)
            generator = rng(client.seed, Purpose.SEARCH, client.step, client.number, 1)
            network.train()
            for _ in range(self.options.epochs):
                for rows in batches(len(x), self.options.batch_size, generator):
                    for norm in norms:
                        norm.train(len(rows) > 1)
                    gradients = torch.autograd.grad(mean_entropy(network(x[rows].to(device))), affine)
                    for parameter, gradient in zip(affine, gradients, strict=True):
                        parameter.grad = gradient
                    optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        super().adapt(network, x)


class Tent(AdaBN):
    """FedAvg in rounds. With ``epochs`` = 0 it is AdaBN, without norms FedAvg.

    The original adapts to the stream of test inputs while it predicts them; this adapts to other inputs, before.
    Statistics are those of all inputs, not of each batch.
    """

    reports = {"tent": "delivered", "tent+ft": "adapted"}
    section = "tent"
    Client = CertainNorms

    class Options(Prior):
        epochs: int = Field(1, ge=0, le=100, description="passes over a client's inputs; 0: AdaBN")
        lr: float = Field(0.001, gt=0, description="learning rate of Adam")
        batch_size: int = Field(64, ge=2, description="inputs per step")
