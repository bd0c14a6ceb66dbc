"""Which SuperNode answers for which client, and what that machine is.

In simulation any SuperNode can simulate any client, so their number (2 by Flower's default) never changes a result. In
deployment a SuperNode is the client whose number its node-config gives as ``partition-id``, and reports its hardware.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.config import SettingsError
from fl.config.sections import Devices
from fl.devices.hardware import Hardware
from fl.messages import records

TRIES = 3  # of asking a machine what it is
HELLO_S = 300.0  # longest wait for that, and for the goodbye at the end of a run


@dataclass(frozen=True)
class Fleet:
    """Node ids, assigned to clients in turn; in deployment one for each client.

    Args:
        hardware: by client, if machines reported it.
    """

    nodes: Sequence[int]
    hardware: Mapping[int, Hardware] = field(default_factory=dict)

    def node(self, client: int) -> int:
        """Return the node that answers for a client."""
        return self.nodes[client % len(self.nodes)]

    @classmethod
    def find(
        cls, grid: Grid, devices: Devices, timeout_s: float, wait_s: float = 60.0, poll_s: float = 0.25
    ) -> "Fleet":
        """Wait, within bounds, until there are nodes, and until no more come.

        Raises:
            SettingsError: there are none, or (placement 'own') some clients have none; the message says what to do.
        """
        end = time.monotonic() + wait_s
        ids: list[int] = []
        while time.monotonic() < end:
            before, ids = ids, sorted(grid.get_node_ids())
            enough = len(ids) >= devices.count if devices.placement == "own" else ids and ids == before
            if enough or (ids and len(ids) >= devices.count):
                break
            time.sleep(poll_s)
        if not ids:
            raise SettingsError(
                f"no SuperNode connected within {wait_s:.0f} s; start some, or give num-supernodes in "
                "--federation-config"
            )
        if devices.placement == "shared":
            return cls(ids)
        found: dict[int, tuple[int, Hardware]] = {}
        for _ in range(TRIES):  # a busy machine or SuperLink may lose a message
            heard = {node for node, _ in found.values()}
            silent = [node for node in ids if node not in heard]
            if not silent or found.keys() >= set(range(devices.count)):
                break
            for node, device, hardware in _introductions(grid, silent, min(timeout_s, HELLO_S)):
                if device in found:
                    raise SettingsError(
                        f"two SuperNodes have the partition-id {device}: every client needs a different one"
                    )
                found[device] = node, hardware
        missing = [device for device in range(devices.count) if device not in found]
        if missing:
            fewer = f"set devices.count = {missing[0]}, " if missing[0] else ""  # all before it are there
            raise SettingsError(
                f"devices.placement = 'own' needs a SuperNode for each of the {devices.count} clients; none has the "
                f"partition-id {', '.join(map(str, missing[:8]))}{' ...' if len(missing) > 8 else ''}: start them, "
                f"{fewer}or use devices.placement = 'shared' in simulation"
            )
        own = [found[device] for device in range(devices.count)]
        return cls([node for node, _ in own], {device: hardware for device, (_, hardware) in enumerate(own)})

    def dismiss(self, grid: Grid, run: str, timeout_s: float) -> None:
        """Ask the machines to remove what they kept of a complete run. One that does not answer keeps it."""
        goodbye = ConfigRecord({"what": "goodbye", "run": run})
        messages = [Message(RecordDict({records.TASK: goodbye}), node, "query") for node in self.nodes]
        heard = [m for m in grid.send_and_receive(messages, timeout=min(timeout_s, HELLO_S)) if not m.has_error()]
        if len(heard) < len(messages):
            log(WARNING, "%d SuperNodes keep their files of run %s", len(messages) - len(heard), run)


def _introductions(grid: Grid, nodes: Sequence[int], timeout_s: float) -> Iterator[tuple[int, int, Hardware]]:
    """Yield (node, client, hardware) of the machines that answer; the log says why others did not."""
    hello = [Message(RecordDict({records.TASK: ConfigRecord({"what": "hello"})}), node, "query") for node in nodes]
    for reply in grid.send_and_receive(hello, timeout=timeout_s):
        try:
            if reply.has_error():
                raise ValueError(records.last_words(reply.error))
            yield reply.metadata.src_node_id, *records.introduced(reply.content)
        except Exception as error:  # one bad machine must not stop the others
            log(WARNING, "a SuperNode does not say what it is: %s", records.short(str(error)))
