"""The client half: load the sub-model of a message, answer with the trained one, say what the client can afford."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from fl.flower.network import Net, Plan, build
from fl.messages import records
from models.modular.selector import importance

SELECTOR, METRICS, EXAMPLES = "selector", "metrics", "num-examples"
NEEDS_SAMPLES = "`return profile(message, context, x)` with samples x"
CAPACITY, IMPORTANCE = "capacity", "importance."  # of the answer to a query; the latter is followed by a layer


def load_submodel(net: Net | Callable[[], Net], message: Message) -> Net:
    """Return the sub-model of a message, as a module of the user's own class with smaller layers.

    Args:
        net: the class of the network, a function without arguments that makes it, or a module, which stays as it is.
        message: of training or evaluation.

    Raises:
        ValueError: the message has another network.
    """
    _, arrays = _model(message.content)
    selector = message.content.get(SELECTOR)
    routing = records.unpack(selector) if isinstance(selector, ArrayRecord) else None
    return build(net, records.unpack(arrays), Plan.of(message.content), routing, message.metadata.dst_node_id)


def reply(
    message: Message, model: nn.Module | None, num_examples: int, metrics: Mapping[str, Any] | None = None
) -> Message:
    """Return the answer to a message: metrics, and after training the parameters.

    Args:
        message: of training or evaluation.
        model: what `load_submodel` returned, trained; not read after evaluation.
        num_examples: how many samples the client trained on, or was scored on: its weight in means.
        metrics: numbers, or lists of numbers, by name.

    Raises:
        ValueError: the model has other parameters than the message; a metric is not a number.
    """
    content = RecordDict({METRICS: MetricRecord({EXAMPLES: int(num_examples), **_plain(metrics or {})})})
    if message.metadata.message_type.partition(".")[0] == "train":
        if not isinstance(model, nn.Module):
            raise ValueError(f"the model is {type(model).__name__}: reply to training with the trained torch.nn.Module")
        key, sent = _model(message.content)
        state = model.state_dict()
        if odd := sorted(state.keys() ^ sent.keys()):
            who = "the message" if odd[0] in state else "the model"
            raise ValueError(f"{who} has no {odd[0]}: reply with the model that load_submodel returned")
        content[key] = records.pack({name: state[name].to(getattr(torch, sent[name].dtype)) for name in sent})
    return Message(content, reply_to=message)


@torch.no_grad()
def profile(message: Message, context: Context, x: Tensor | None = None, capacity: float | None = None) -> Message:
    """Return the answer to a query: what the client can afford, and for ECLM which modules its data need.

    Args:
        x: (n, ...) samples of the client, as its network takes them. Only ECLM reads them.
        capacity: share of the model that the client can afford, in (0, 1]. By default that of the node-config
            (``capacity = 0.5``), and 1 if it has none.

    Raises:
        ValueError: ECLM asks for the importance of modules, and there are no samples.
    """
    values: dict[str, Any] = {CAPACITY: context.node_config.get("capacity", 1.0) if capacity is None else capacity}
    selector, routes = message.content.get(SELECTOR), Plan.of(message.content).routes
    if isinstance(selector, ArrayRecord) and routes:
        if x is None or not len(x):
            raise ValueError(f"ECLM asks which modules the client's data need: {NEEDS_SAMPLES}")
        logits = routes.selector(records.unpack(selector)).logits(x.float())
        values |= {
            f"{IMPORTANCE}{layer}": scores.tolist()
            for layer, scores in zip(routes.layers, importance(logits), strict=True)
        }
    return Message(RecordDict({METRICS: MetricRecord(_plain(values))}), reply_to=message)


def _model(content: RecordDict) -> tuple[str, ArrayRecord]:
    """Return the parameters of a message and the name of their record, which the server chooses."""
    found = [(key, record) for key, record in content.array_records.items() if key != SELECTOR]
    if len(found) != 1:
        raise ValueError(f"the message has {len(found)} records of parameters instead of one: {sorted(content)}")
    return found[0]


def _plain(metrics: Mapping[str, Any]) -> dict[str, int | float | list[int] | list[float]]:
    """Return metrics as Python's numbers: tensors and numbers of numpy are welcome."""
    plain: dict[str, Any] = {}
    for name, value in metrics.items():
        value = [_number(v) for v in value] if isinstance(value, list) else _number(value)
        if not all(isinstance(v, int | float) for v in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{name} = {value!r:.80} is not a number")
        plain[name] = int(value) if isinstance(value, bool) else value
    return plain


def _number(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value
