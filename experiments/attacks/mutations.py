"""Changes of honest replies, and replies that nobody would send. A `random.Random` draws all of it."""

import math
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fl.messages import records

EXTREME = (0.0, 1.0, -1.0, 0.5, -0.1, 1e-300, 1e30, 1e300, math.nan, math.inf, -math.inf)
HONEST = (np.zeros(3, np.float32), np.full((2, 2), np.nan), np.array("text"), np.zeros((0, 4)), np.array(7))
REPORT_KEYS = ("device", "num-examples", "loss", "classes", "active.block.modules", "trained.x", "lost")
TENSORS = ("tensors.variate", "tensors.other", "other")


def real(dice: random.Random) -> float:
    """A float: an extreme one, one of a share's size, or any bits."""
    bits = dice.getrandbits(64).to_bytes(8, "little")
    return dice.choice([dice.choice(EXTREME), dice.random(), float(struct.unpack("d", bits)[0])])


def whole(dice: random.Random) -> int:
    """A small integer, or one of 64 bits."""
    return dice.choice([dice.randint(-9, 9), dice.randint(-(2**63), 2**63 - 1)])


def word(dice: random.Random) -> str:
    """Up to 8 characters of any script, with control characters."""
    return "".join(
        chr(dice.choice([dice.randint(0, 127), dice.randint(160, 0xD7FF)])) for _ in range(dice.randint(0, 8))
    )


def figure(dice: random.Random) -> Any:
    """A value of a report."""
    length = range(dice.randint(0, 4))
    return dice.choice([real, whole, lambda d: [real(d) for _ in length], lambda d: [whole(d) for _ in length]])(dice)


def report(dice: random.Random) -> MetricRecord:
    """A report with keys and values that may exist."""
    keys = [dice.choice([dice.choice(REPORT_KEYS), word(dice)]) for _ in range(dice.randint(0, 6))]
    return MetricRecord({key: figure(dice) for key in keys})


def blob(dice: random.Random) -> Array:
    """An array whose type, shape and bytes hardly belong together."""
    head = dice.choice([b"", b"\x93NUMPY\x01\x00", b"\x80\x04"])
    return Array(
        dice.choice(["float32", "int64", "object", "<U9", "nonsense", ""]),
        tuple(dice.choice([dice.randint(-1, 4), 2**40]) for _ in range(dice.randint(0, 3))),
        dice.choice(["numpy.ndarray", "pickle", ""]),
        head + bytes(dice.getrandbits(8) for _ in range(dice.randint(0, 64))),
    )


def array(dice: random.Random) -> Array:
    """A `blob`, or a whole array that nobody asked for."""
    return blob(dice) if dice.random() < 0.5 else Array(dice.choice(HONEST))


def model(dice: random.Random) -> ArrayRecord:
    return ArrayRecord({word(dice): array(dice) for _ in range(dice.randint(0, 3))})


def config(dice: random.Random) -> ConfigRecord:
    words: dict[str, Any] = {word(dice): dice.choice([word(dice), True]) for _ in range(dice.randint(0, 3))}
    return ConfigRecord(words)


def record(dice: random.Random) -> Any:
    """A record of any kind."""
    return dice.choice([report, model, config])(dice)


def content(dice: random.Random) -> RecordDict:
    """A reply that has nothing to do with an honest one."""
    names = [dice.choice([records.REPORT, records.MODEL, records.TASK, "other"]) for _ in range(dice.randint(0, 3))]
    return RecordDict({name: record(dice) for name in names})


Mutation = Callable[[random.Random, RecordDict], None]
"""Changes an honest reply in one place."""


def mutate_report(dice: random.Random, reply: RecordDict) -> None:
    """Another value of a key, another key, or one key less."""
    values = dict(reply[records.REPORT])
    key = dice.choice([*values, "lost", "trained.x", "other"])
    if dice.random() < 0.2:
        values.pop(key, None)
    else:
        values[key] = figure(dice)
    reply[records.REPORT] = MetricRecord(values)  # type: ignore[arg-type]


def mutate_array(dice: random.Random, reply: RecordDict) -> None:
    """Other values, another type, another shape, another name, or nonsense."""
    name = dice.choice([name for name, of in reply.items() if isinstance(of, ArrayRecord)])
    arrays = dict(reply[name])
    key = dice.choice(list(arrays))
    value = arrays.pop(key).numpy()  # type: ignore[union-attr]
    how = dice.choice(["values", "some value", "type", "shape", "name", "nonsense", "none"])
    if how in ("values", "some value"):
        value = value.copy()
        entries = slice(None) if how == "values" else dice.randrange(value.size)
        value.reshape(-1)[entries] = dice.choice([math.nan, math.inf, -1.0, 1e30, -1e4, 0.5])
    elif how == "type":
        value = value.astype(dice.choice(["float64", "float16", "int64", "bool", "complex64"]))
    elif how == "shape":
        value = dice.choice([value[None], value.reshape(-1), value[:1], value[..., :0], value.T])
    if how != "none":
        arrays["other" if how == "name" else key] = blob(dice) if how == "nonsense" else Array(value.copy())
    reply[name] = ArrayRecord(arrays)


def mutate_records(dice: random.Random, reply: RecordDict) -> None:
    """A record is lost, comes under another name, or is of another kind."""
    name = dice.choice(list(reply))
    own = reply.pop(name)
    if dice.random() < 0.5:
        other = dice.choice([name, records.MODEL, records.REPORT, *TENSORS])
        reply[other] = own if dice.random() < 0.5 else record(dice)


MUTATIONS: tuple[Mutation, ...] = (mutate_report, mutate_array, mutate_records)
"""In the order in which they are possible."""


def mutate(dice: random.Random, reply: RecordDict) -> None:
    """Change an honest reply in up to two places."""
    chosen = dice.sample(range(len(MUTATIONS)), dice.randint(0, 2))
    for at in sorted(chosen):
        MUTATIONS[at](dice, reply)
