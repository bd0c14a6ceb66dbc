"""Mutated replies of most clients of a round, through both ways of aggregation.

Both must judge every reply alike and give the same model, and refused replies must leave no trace in it.
"""

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.app import Error, Message

from experiments.attacks import Attack, Figures, Show, quiet
from experiments.attacks.mutations import content, mutate
from experiments.attacks.round import OTHER, Lie, Round, sends
from models.submodel import State

METHODS = ("fedavg", "heterofl", "eclm", "scaffold")
CLIENTS, HONEST = 28, 3  # in a round
NOT_ASKED = (("_src_node_id", OTHER), ("_src_node_id", 77), ("_reply_to_message_id", "another"))


def fails(message: Message) -> list[Message]:
    """The liar answers with an error."""
    return [Message(Error(1, ""), reply_to=message)]


def lie(dice: random.Random, round_: Round, client: int) -> Lie:
    """Draw a reply of a client to a training task: nonsense, or its honest reply with changes, maybe out of place."""
    reply = round_.content("train", client)
    if dice.random() < 0.1:
        reply = content(dice)
    else:
        mutate(dice, reply)
    metadata = dict([dice.choice(NOT_ASKED)]) if dice.random() < 0.1 else {}

    def answer(message: Message) -> list[Message]:
        (answer,) = sends(reply)(message)
        answer.metadata.__dict__.update(metadata)
        return [answer]

    return answer


def judge(round_: Round, lies: Mapping[int, Lie], again_in_parts: bool) -> tuple[Counter[str], str]:
    """Run a round in both ways, and again without the replies that it refused.

    Args:
        lies: the reply of each liar.
        again_in_parts: in which way the round is run again.

    Returns:
        How many replies were accepted, refused or failures, and what is wrong with that, empty if nothing is.
    """
    counts, accepted, models = [], [], []
    for parts in (False, True):
        costs, model = round_.train(by_client(lies), parts)
        counts.append((costs.clients, costs.refused, costs.refused_answers, costs.failures))
        accepted.append(set(round_.rounds.examples))
        models.append(model)
    clients, refused, _, failures = counts[0]
    seen = Counter(accepted=len(accepted[0] & lies.keys()), refused=refused, failure=failures)
    if counts[0] != counts[1] or accepted[0] != accepted[1]:
        return seen, f"one by one (clients, refused, refused answers, failures) is {counts[0]}, in workers {counts[1]}"
    if clients + refused + failures != round_.rounds.cohort or round_.honest - accepted[0]:
        return seen, f"clients are lost: (clients, refused, refused answers, failures) = {counts[0]}"
    if not all(torch.allclose(models[1][name], value, 1e-4, 1e-5) for name, value in models[0].items()):
        return seen, "the ways of aggregation give other models"
    if not all(value.isfinite().all() for value in models[0].values()):
        return seen, "the model is not finite"
    believed = {client: lies[client] if client in accepted[0] else fails for client in lies}
    if not same(models[again_in_parts], round_.train(by_client(believed), again_in_parts)[1]):
        return seen, "a reply that was not accepted changed the model"
    return seen, ""


def by_client(lies: Mapping[int, Lie]) -> Lie:
    """Each liar sends its own reply."""
    return lambda message: lies[message.metadata.dst_node_id](message)


def same(a: State, b: State) -> bool:
    """Return whether two models are equal in every bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], value) for name, value in b.items())


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Send mutated replies in rounds of each of the `METHODS`."""
    figures = Figures()
    liars = range(HONEST, CLIENTS)
    with quiet():
        for method in METHODS:
            round_ = Round(method, folder / method, CLIENTS, liars)
            for at in range(-(-size // len(METHODS) // len(liars))):
                show(f"{method}, {figures.tries} replies")
                dice = random.Random(f"{seed} {method} {at}")
                lies = {client: lie(dice, round_, client) for client in liars}
                try:
                    seen, fault = judge(round_, lies, at % 2 == 1)
                except Exception as error:
                    seen, fault = Counter(), f"{type(error).__name__}: {error}"
                figures.add(seen, fault and f"{method}, round {at} of seed {seed}: {fault}", len(lies))
    return figures


ATTACKS = {
    "replies": Attack("mutated replies, aggregated in both ways", attack, {"smoke": 400, "full": 100_000}, "replies")
}
