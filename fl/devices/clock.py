"""Virtual time: MACs and bytes turned into seconds. Nothing sleeps."""

from fl.devices.hardware import Hardware

BACKWARD = 3  # a training step costs about three forward passes (one forward, two for the gradients)


def train_seconds(hardware: Hardware, macs: float, samples: int, epochs: int) -> float:
    """Seconds of local training: ``macs`` per sample and forward pass, ``samples`` per epoch."""
    return BACKWARD * macs * samples * epochs / hardware.mac_per_s


def link_seconds(hardware: Hardware, byte_count: float) -> float:
    """Seconds on the link in one direction."""
    return 8 * byte_count / (hardware.link_mbit_s * 1e6)
