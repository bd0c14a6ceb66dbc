"""Which SuperNode answers for which device, and what that machine is.

In simulation SuperNodes are hosts: any of them can stand in for any device, so their number (2 by Flower's default)
never changes a result. In deployment a SuperNode is the device whose number its node-config gives as
``partition-id``, and says what hardware it is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.config.settings import Settings, SettingsError
from fl.devices.hardware import Hardware
from fl.messages import records as wire

TRIES = 3  # to get to know a machine
HELLO_S = 300.0  # patience with each of them, then and when the run is over


@dataclass(frozen=True)
class Fleet:
    """Node ids, shared out among the devices in turn; as many as there are devices where each has its own.

    Args:
        hardware: by device, where machines tell it.
    """

    nodes: Sequence[int]
    hardware: Mapping[int, Hardware] = field(default_factory=dict)

    def node(self, device: int) -> int:
        """The node that answers for a device."""
        return self.nodes[device % len(self.nodes)]

    @classmethod
    def find(cls, grid: Grid, settings: Settings, wait_s: float = 60.0, poll_s: float = 0.25) -> "Fleet":
        """Wait, within bounds, until there are nodes, and until no more come.

        Raises:
            SettingsError: there are none, or (placement 'own') some devices have none, with what to do.
        """
        end = time.monotonic() + wait_s
        ids: list[int] = []
        while time.monotonic() < end:
            before, ids = ids, sorted(grid.get_node_ids())
            enough = len(ids) >= settings.devices if settings.placement == "own" else ids and ids == before
            if enough or (ids and len(ids) >= settings.devices):
                break
            time.sleep(poll_s)
        if not ids:
            raise SettingsError(
                f"no SuperNode showed up within {wait_s:.0f} s; start some, or give num-supernodes in "
                "--federation-config"
            )
        if settings.placement == "shared":
            return cls(ids)
        found: dict[int, tuple[int, Hardware]] = {}
        for _ in range(TRIES):  # a message may get lost where a machine or the SuperLink is busy
            heard = {node for node, _ in found.values()}
            silent = [node for node in ids if node not in heard]
            if not silent or found.keys() >= set(range(settings.devices)):
                break
            for node, device, hardware in _introductions(grid, silent, min(settings.timeout_s, HELLO_S)):
                if device in found:
                    raise SettingsError(f"two SuperNodes have the partition-id {device}: every device needs its own")
                found[device] = node, hardware
        missing = [device for device in range(settings.devices) if device not in found]
        if missing:
            fewer = f"set devices = {missing[0]}, " if missing[0] else ""  # all those before it are there
            raise SettingsError(
                f"placement = 'own' needs a SuperNode for each of the {settings.devices} devices; none has the "
                f"partition-id {', '.join(map(str, missing[:8]))}{' ...' if len(missing) > 8 else ''}: start them, "
                f"{fewer}or use placement = 'shared' in simulation"
            )
        own = [found[device] for device in range(settings.devices)]
        return cls([node for node, _ in own], {device: hardware for device, (_, hardware) in enumerate(own)})

    def dismiss(self, grid: Grid, run: str, timeout_s: float) -> None:
        """A run is complete: machines remove what they kept of it. One that does not hear of it keeps it."""
        goodbye = wire.task_record({"what": "goodbye", "run": run})
        messages = [Message(RecordDict({wire.TASK: goodbye}), node, "query") for node in self.nodes]
        heard = [m for m in grid.send_and_receive(messages, timeout=min(timeout_s, HELLO_S)) if not m.has_error()]
        if len(heard) < len(messages):
            log(WARNING, "%d SuperNodes keep what they held of run %s", len(messages) - len(heard), run)


def _introductions(grid: Grid, nodes: Sequence[int], timeout_s: float) -> Iterator[tuple[int, int, Hardware]]:
    """(node, device, hardware) of the machines that answer; the others' reasons go to the log."""
    hello = [Message(RecordDict({wire.TASK: wire.task_record({"what": "hello"})}), node, "query") for node in nodes]
    for reply in grid.send_and_receive(hello, timeout=timeout_s):
        try:
            if reply.has_error():
                raise ValueError(wire.last_words(reply.error))
            yield reply.metadata.src_node_id, *wire.introduced(reply.content)
        except Exception as error:  # one machine that cannot say what it is must not keep the others from working
            log(WARNING, "a SuperNode does not say what it is: %s", error)
