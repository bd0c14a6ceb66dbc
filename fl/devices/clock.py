"""Virtual time: MACs and bytes as seconds. Nothing sleeps."""

from fl.devices.hardware import Hardware
from models.costs import BACKWARD


def train_seconds(hardware: Hardware, macs: float, samples: int, epochs: int) -> float:
    """Return the seconds of local training: ``macs`` per sample and forward pass, ``samples`` per epoch."""
    return BACKWARD * macs * samples * epochs / hardware.mac_per_s


def link_seconds(hardware: Hardware, byte_count: float) -> float:
    """Return the seconds on the link in one direction."""
    return 8 * byte_count / (hardware.link_mbit_s * 1e6)
