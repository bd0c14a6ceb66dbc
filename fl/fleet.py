"""Which SuperNode answers for which device.

In simulation SuperNodes are hosts: any of them can stand in for any device, so their number (2 by Flower's default)
never changes a result. In deployment a SuperNode is the device whose number its node-config gives as
``partition-id``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fl import wire
from fl.config import Settings, SettingsError


@dataclass(frozen=True)
class Fleet:
    """Node ids, shared out among the devices in turn; with as many nodes as devices each has its own."""

    nodes: Sequence[int]

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
        hello = [Message(RecordDict({wire.TASK: wire.task_record({"what": "hello"})}), node, "query") for node in ids]
        found: dict[int, int] = {}
        for reply in grid.send_and_receive(hello, timeout=wait_s):
            if not reply.has_error():
                found[int(wire.metrics(reply.content)["partition-id"])] = reply.metadata.src_node_id  # type: ignore[arg-type]
        missing = [device for device in range(settings.devices) if device not in found]
        if missing:
            raise SettingsError(
                f"placement = 'own' needs a SuperNode for each of the {settings.devices} devices; none has the "
                f"partition-id {', '.join(map(str, missing[:8]))}{' ...' if len(missing) > 8 else ''}: start them, "
                f"set devices = {len(found)}, or use placement = 'shared' in simulation"
            )
        return cls([found[device] for device in range(settings.devices)])
