"""Which SuperNode answers for which client, and what that machine is.

In simulation any SuperNode can simulate any client, so their number (2 by Flower's default) never changes a result. In
deployment a SuperNode is the client whose number its node-config gives as ``partition-id``, and reports its hardware.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.config import SettingsError
from fl.config.sections import Devices
from fl.devices.hardware import Hardware
from fl.devices.registered import VARIABLE, Registered, read
from fl.messages import records

TRIES = 3  # of asking a machine what it is
REFUSED = "SuperNode %d says it is device %d, and takes no part: %s; see `deploy register --device`"
HELLO_S = 300.0  # longest wait for that, and for the goodbye at the end of a run


@dataclass(frozen=True)
class Fleet:
    """Node ids, assigned to clients in turn; in deployment one for each client.

    Args:
        nodes: None in the place of a client that has none, and fails in every round.
        hardware: by client, if machines reported it.
    """

    nodes: Sequence[int | None]
    hardware: Mapping[int, Hardware] = field(default_factory=dict)

    def node(self, client: int) -> int | None:
        """Return the node that answers for a client, if there is one."""
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
        found = _found(grid, ids, devices.count, min(timeout_s, HELLO_S))
        missing = [device for device in range(devices.count) if device not in found]
        numbers = f"{', '.join(map(str, missing[:8]))}{' ...' if len(missing) > 8 else ''}"
        if missing and (not found or len(ids) < devices.count):
            fewer = f"set devices.count = {missing[0]}, " if missing[0] else ""  # all before it are there
            raise SettingsError(
                f"devices.placement = 'own' needs a SuperNode for each of the {devices.count} clients; none has the "
                f"partition-id {numbers}: start them, {fewer}or use devices.placement = 'shared' in simulation"
            )
        if missing:  # the SuperNodes that should have the numbers are of no use, and must not end the run
            log(WARNING, "the run goes on without clients: no usable SuperNode has the partition-id %s", numbers)
        nodes = [found[device][0] if device in found else None for device in range(devices.count)]
        return cls(nodes, {device: hardware for device, (_, hardware) in found.items()})

    def dismiss(self, grid: Grid, run: str, timeout_s: float) -> None:
        """Ask the machines to remove what they kept of a complete run. One that does not answer keeps it."""
        goodbye = ConfigRecord({"what": "goodbye", "run": run})
        content, nodes = RecordDict({records.TASK: goodbye}), [node for node in self.nodes if node is not None]
        messages = [Message(content.copy(), node, "query") for node in nodes]
        heard = [m for m in grid.send_and_receive(messages, timeout=min(timeout_s, HELLO_S)) if not m.has_error()]
        if len(heard) < len(messages):
            log(WARNING, "%d SuperNodes keep their files of run %s", len(messages) - len(heard), run)


def _listed() -> dict[int, Registered]:
    try:
        return read(Path(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else {}
    except ValueError as error:  # no reason to end a run
        log(WARNING, "no SuperNode is bound to a number: %s", error)
        return {}


def _found(grid: Grid, ids: Sequence[int], count: int, timeout_s: float) -> dict[int, tuple[int, Hardware]]:
    """Return node and hardware by client. Of nodes that claim the same number one gets it, and the log names both.

    It is the node whose key is bound to the number. If none is, it is the one that was registered first or, without a
    list, the one with the lower id, so that it is the same one when the run continues.
    """
    listed = _listed()
    owners = {about.device: node for node, about in listed.items() if about.device is not None}
    seniority = {node: place for place, node in enumerate([*listed, *(node for node in ids if node not in listed)])}
    found: dict[int, tuple[int, Hardware]] = {}
    heard: set[int] = set()
    for _ in range(TRIES):  # a busy machine or SuperLink may lose a message
        silent = [node for node in ids if node not in heard]
        if not silent or found.keys() >= set(range(count)):
            break
        for node, device, hardware in _introductions(grid, silent, timeout_s):
            heard.add(node)
            bound = listed[node].device if node in listed else None
            rival = owners.get(device, found[device][0] if device in found else node)
            if bound not in (None, device):
                log(WARNING, REFUSED, node, device, f"its key is registered for device {bound}")
            elif device >= count:
                log(WARNING, REFUSED, node, device, f"the run has the devices 0 to {count - 1}")
            elif (device in owners and rival != node) or seniority[rival] < seniority[node]:
                log(WARNING, REFUSED, node, device, f"SuperNode {rival} is that device")
            else:
                if rival != node:
                    log(WARNING, REFUSED, rival, device, f"SuperNode {node} is that device")
                found[device] = node, hardware
    return {device: found[device] for device in sorted(found)}


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
