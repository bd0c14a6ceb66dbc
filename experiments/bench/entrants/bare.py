"""The bare loop: torch and nothing else. One model per process, data in memory, batches by slices, ``torch.optim.SGD``.

Process k of n trains every n-th device of the cohort, from the k-th on, and adds the results up in shared memory.
"""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.multiprocessing as processes
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.entrants.work import Stop, Turns, Work


class Share:
    """The part of a round that one process does."""

    def __init__(self, work: Work, rank: int, size: int):
        torch.set_num_threads(1)
        self.work, self.rank, self.size = work, rank, size
        self.network = work.network()
        self.parameters = list(self.network.parameters())
        self.data: dict[int, tuple[Tensor, Tensor]] = {}  # of devices that trained before

    def train(self, round_: int, weights: list[Tensor], total: list[Tensor]) -> None:
        """Overwrite ``total`` with the sum of the weights that the devices of this share end with."""
        work = self.work
        for value in total:
            value.zero_()
        for slot in range(self.rank, work.cohorts.shape[1], self.size):
            device = int(work.cohorts[round_, slot])
            if device not in self.data:
                self.data[device] = work.samples(device)
            x, y = self.data[device]
            with torch.no_grad():
                for parameter, value in zip(self.parameters, weights, strict=True):
                    parameter.copy_(value)
            optimizer = torch.optim.SGD(self.parameters, lr=work.lr)
            for rows in (rows for epoch in work.batches(round_, slot) for rows in epoch):
                optimizer.zero_grad()
                F.cross_entropy(self.network(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                for value, parameter in zip(total, self.parameters, strict=True):
                    value += parameter


def helper(folder: str, rank: int, size: int, weights: list[Tensor], total: list[Tensor], gate) -> None:  # type: ignore[no-untyped-def]  # a Barrier
    share, round_ = Share(Work(folder), rank, size), 0
    while True:
        gate.wait()
        share.train(round_, weights, total)
        gate.wait()
        round_ += 1


def main(folder: str, to: str, size: int) -> None:
    turns, work = Turns(), Work(folder)
    weights = [value.clone().share_memory_() for value in work.start]
    totals = [[torch.zeros_like(value).share_memory_() for value in weights] for _ in range(size)]
    context = processes.get_context("spawn")
    gate = context.Barrier(size)
    for rank in range(1, size):
        context.Process(target=helper, args=(folder, rank, size, weights, totals[rank], gate), daemon=True).start()
    share = Share(work, 0, size)
    try:
        for round_ in range(len(work.cohorts)):
            turns.next()
            gate.wait()
            share.train(round_, weights, totals[0])
            gate.wait()
            for parts in zip(weights, *totals, strict=True):
                parts[0].copy_(sum(parts[1:]) / work.cohorts.shape[1])
        turns.next()
    except Stop:
        turns.finish(weights, to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
