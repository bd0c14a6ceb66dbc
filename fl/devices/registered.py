"""The list of SuperNodes that `deploy register` keeps on the server: Flower itself lists neither names nor numbers."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

VARIABLE = "DRIFTFED_REGISTERED"  # names the list to the ServerApp; `deploy superlink` sets it


@dataclass(frozen=True)
class Registered:
    """A registered SuperNode. Args: device: the number that its key is bound to; None: it may claim any free one."""

    name: str
    device: int | None = None


def read(path: Path) -> dict[int, Registered]:
    """Return the registered SuperNodes by node id, in the order in which they were registered.

    Raises:
        ValueError: it is not such a list.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8")).items()
        return {
            int(node): Registered(**about) if isinstance(about, dict) else Registered(about) for node, about in listed
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or remove it and register again") from error


def dumps(nodes: dict[int, Registered]) -> str:
    """Return the content of the list."""
    return json.dumps({str(node): asdict(about) for node, about in nodes.items()}, indent=1)
