"""Flower's FedAvg, with each reply validated before it may touch the model."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from torch import Tensor, nn

from fl.flower.network import Plan, build, made
from fl.messages import records
from models.aggregation.weighted_sum import WeightedSum
from models.nn.blocks import never_negative
from models.nn.body import Shape
from models.submodel import FULL, Axes, Coverage, State

Network = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Part:
    """What a client is sent, and where that belongs in the model.

    Args:
        coverage: the part of the model.
        state: its parameters.
        content: records of the message.
        index_weights: see `models.aggregation.weighted_sum.WeightedSum.add`.
    """

    coverage: Coverage
    state: State
    content: Mapping[str, Any]
    index_weights: Mapping[str, Tensor] = field(default_factory=dict)


class FedAvg(flower.FedAvg):
    """Flower's FedAvg whose run no client can end, and whose model no impossible update can reach.

    Integers, such as the counters of batch norms, stay integers.

    Args:
        net: the network, its class, or a function without arguments that makes it. Only `load` needs it here.
        input_shape: shape of one sample; not needed here.
        max_examples: most examples that a client may report, since they are its weight; None: any number.
        flower: the arguments of Flower's FedAvg, e.g. ``fraction_train``.
    """

    axes: Axes | None = None  # of the model; None: nothing is cut

    def __init__(
        self,
        net: Network | None = None,
        input_shape: Shape = (),
        max_examples: int | None = None,
        **flower: Any,
    ):
        super().__init__(**flower)
        self.net = None if net is None else made(net)
        self.never_negative = frozenset() if self.net is None else never_negative(self.net)
        self.max_examples, self.timeout = max_examples, 3600.0
        self.sent: dict[int, Part] = {}  # by node, in this round
        self.model: State = {}  # from which this round started

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> flower.Result:
        """Run all rounds; arguments and result are those of Flower. Without any valid update, it ends as it began.

        Raises:
            ValueError: the initial arrays are not those of the network.
        """
        self.timeout, initial = timeout, self.prepare(initial_arrays)
        result = super().start(grid, initial, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
        if not result.arrays:
            log(WARNING, "no round had a valid update: the result is the initial model")
            result.arrays = initial
        return result

    def prepare(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the arrays that the first round starts from, given the user's."""
        for name, value in records.unpack(arrays).items():
            if not value.isfinite().all():
                raise ValueError(f"{name} of the initial arrays holds values that are not finite")
        if self.net is None:
            return arrays
        expected, got = self.net.state_dict(), {name: tuple(array.shape) for name, array in arrays.items()}
        if odd := sorted(expected.keys() ^ got.keys()):
            raise ValueError(f"{odd[0]} is not in both the initial arrays and the network: use its state_dict()")
        for name, value in expected.items():
            if got[name] != tuple(value.shape):
                raise ValueError(
                    f"{name} of the initial arrays has shape {got[name]}, the network {tuple(value.shape)}"
                )
        return arrays

    def load(self, arrays: ArrayRecord) -> nn.Module:
        """Return the network with these parameters, for evaluation on the server.

        Raises:
            ValueError: the strategy was made without a network, or the parameters are those of another.
        """
        if self.net is None:
            raise ValueError("the strategy has no network to load: make it with FedAvg(Net)")
        return build(self.net, records.unpack(arrays), Plan())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.model = records.unpack(arrays)
        self.sent = self.parts(server_round, self.model, _nodes(messages), grid)
        return self._filled(messages, self.sent)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        messages = list(super().configure_evaluate(server_round, arrays, config, grid))
        parts = self.parts(server_round, records.unpack(arrays), _nodes(messages), grid, evaluate=True)
        return self._filled(messages, parts)

    def parts(
        self, server_round: int, state: State, nodes: Sequence[int], grid: Grid, evaluate: bool = False
    ) -> dict[int, Part]:
        """Return what each node trains, or is evaluated with; a node without a part skips the round."""
        return dict.fromkeys(nodes, Part(FULL, state, {}))

    def finish(self, state: State) -> State:
        """Return the new model, given the mean."""
        return state

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        axes = self.axes or {name: (None,) * value.dim() for name, value in self.model.items()}
        total, contents = WeightedSum(axes, self.model), list[RecordDict]()
        for node, content in self._valid(replies, "aggregate_train"):
            try:
                part = self.sent[node]  # a node that was not asked has none
                total.add(self._update(content, part), part.coverage, self._weight(content), part.index_weights)
            except Exception as error:  # no reply may end the run; `add` does not fail after `_update`
                refuse("aggregate_train", node, error)
            else:
                contents.append(content)
        if not contents:
            return None, None
        new = self.finish(total.finish(self.model))
        return records.pack(new), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        contents = [content for _, content in self._valid(replies, "aggregate_evaluate")]
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key) if contents else None

    def _filled(self, messages: Iterable[Message], parts: Mapping[int, Part]) -> list[Message]:
        """Return the messages of the nodes that have a part, with that part instead of the whole model."""
        filled = [message for message in messages if message.metadata.dst_node_id in parts]
        for message in filled:
            part = parts[message.metadata.dst_node_id]
            message.content = RecordDict({**message.content, **part.content})
        return filled

    def _valid(self, replies: Iterable[Message], phase: str) -> list[tuple[int, RecordDict]]:
        """Return (node, content) of replies whose metrics can be averaged; all of them have the same metrics."""
        found: dict[int, tuple[RecordDict, Any]] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                if reply.has_error():
                    raise ValueError(records.last_words(reply.error))
                if node in found:
                    raise ValueError("it has answered already")
                found[node] = reply.content, self._metrics(reply.content)
            except Exception as error:  # no reply may end the run
                refuse(phase, node, error)
        usual = Counter(metrics for _, metrics in found.values()).most_common(1)
        valid = []
        for node, (content, metrics) in found.items():
            if metrics == usual[0][0]:
                valid.append((node, content))
            else:
                refuse(phase, node, f"its metrics are {_names(metrics)}, those of others {_names(usual[0][0])}")
        log(INFO, "%s: %d valid replies", phase, len(valid))
        return valid

    def _metrics(self, content: RecordDict) -> tuple[tuple[str, int | None], ...]:
        """Return the names of the metrics of a reply, and the lengths of those that are lists.

        Raises:
            ValueError: they cannot be averaged.
        """
        found = list(content.metric_records.values())
        if len(found) != 1:
            raise ValueError(f"it has {len(found)} metric records instead of one")
        if self.weighted_by_key not in found[0]:
            raise ValueError(f"its metrics lack '{self.weighted_by_key}', which is its weight")
        for name, value in found[0].items():
            if not np.isfinite(np.asarray(value, float)).all():
                raise ValueError(f"its metric '{records.short(name)}' is not finite")
        weight, most = self._weight(content), self.max_examples or np.inf
        if isinstance(weight, list) or not 0 < weight <= most:
            raise ValueError(f"'{self.weighted_by_key}' is {weight!r:.80}: it must be above 0 and at most {most}")
        return tuple(sorted((name, len(v) if isinstance(v, list) else None) for name, v in found[0].items()))

    def _weight(self, content: RecordDict) -> Any:
        (metrics,) = content.metric_records.values()
        return metrics[self.weighted_by_key]

    def _update(self, content: RecordDict, part: Part) -> State:
        """Return the parameters of a reply.

        Raises:
            ValueError: they are no update of ``part``.
        """
        if len(content.array_records) != 1:
            raise ValueError(f"it has {len(content.array_records)} array records instead of one")
        (record,) = content.array_records.values()
        why = records.misfit(record, part.state)
        state = {} if why else records.unpack(record)
        if why := why or records.fault(state, part.state, self.never_negative):
            raise ValueError(why)
        return state


def _nodes(messages: Iterable[Message]) -> list[int]:
    return [message.metadata.dst_node_id for message in messages]


def refuse(phase: str, node: int, why: object) -> None:
    known = not isinstance(why, Exception) or isinstance(why, ValueError)
    said = str(why) if known else f"{type(why).__name__}: {why}"
    log(WARNING, "%s: the reply of node %d is not used: %s", phase, node, records.short(said))


def _names(metrics: Iterable[tuple[str, Any]]) -> list[str]:
    return [records.short(name) for name, _ in metrics]
