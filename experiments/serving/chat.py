"""The commands of chat: a cloud, a device that talks through it, and both in one process."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import get_args

import torch

from experiments.serving.conversation import serve
from experiments.serving.device import DeviceHalf
from experiments.serving.link import Stream, pair, parse_address
from experiments.serving.messages import GateSite, Refused
from experiments.serving.plugins import make_plugin, plugin_workload, progress_bar, refuse_all_but_base
from experiments.serving.secure import Server, connect
from experiments.serving.terminal import Chat, Wishes, lines, say, serve_devices
from models.spa import bases
from models.spa.codec import FrameError, Precision
from models.spa.train import load_plugin
from partitions.errors import lookup
from partitions.root import absolute


def run_cloud(base: str, changes: Mapping[str, str], listen: str, timeout_s: float, folder: Path) -> None:
    """Serve a base to registered devices until Ctrl-C.

    Args:
        changes: run-config keys that decide the base.

    Raises:
        SettingsError, DeployError, DataError: the address, the certificate or the base cannot be used.
    """
    torch.set_num_threads(1)  # several devices at a time share the cores
    refuse_all_but_base(changes)
    address, folder = parse_address(listen), absolute(folder)
    with progress_bar() as progress:
        model = plugin_workload(base, 0, 1, changes).base(progress)
    server = Server(address, folder, lambda stream, _: serve(model, stream, timeout_s))
    none = "no device is registered: `deploy key NAME` on the device, `deploy register NAME.pub --serving` here"
    serve_devices(server, f"base {model.name}", "" if any((folder / "devices").glob("*.pub")) else none)


def talk(
    cloud: str, plugin: Path, key: str, folder: Path, precision: str, gate_site: str, delay_ms: float, wishes: Wishes,
    trace: Path | None,
) -> None:  # fmt: skip
    """Answer each line of input through a cloud, with the plugin of this device.

    Raises:
        UserError: an option is impossible, or the cloud cannot be used; the message says why.
    """
    torch.set_num_threads(1)
    address, folder, half = parse_address(cloud), absolute(folder), _half(plugin, precision, gate_site, delay_ms)
    Chat(half, lambda: connect(address, folder, key), cloud, wishes, trace).run(lines())


def chat_here(
    base: str, plugin: Path | None, device: int, seed: int, changes: Mapping[str, str], precision: str, gate_site: str,
    delay_ms: float, timeout_s: float, wishes: Wishes, trace: Path | None,
) -> None:  # fmt: skip
    """Answer each line of input with cloud and device in this process, and a stream between them.

    Args:
        plugin: file; None: one is trained for the generated person ``device`` of ``seed``.
        changes: run-config keys of the training.
    """
    torch.set_num_threads(1)
    if plugin is not None:
        refuse_all_but_base(changes)
    workload = plugin_workload(base, device, seed, changes)
    with progress_bar() as progress:
        model = workload.base(progress)
    if plugin is not None:
        half = _half(plugin, precision, gate_site, delay_ms)
    else:
        o = workload.options
        trained = make_plugin(workload, device, seed)
        half = _with_options(DeviceHalf(trained, model.checksum, o.mode, o.policy), precision, gate_site, delay_ms)
        examples = workload.people(seed).examples(device, 0, "test")
        say(f"try: {examples[0].instruction}  {examples[-1].instruction}")

    def here() -> Stream:
        near, far = pair()
        threading.Thread(target=_serve_here, args=(model, near, timeout_s), daemon=True).start()
        return far

    Chat(half, here, "the cloud in this process", wishes, trace).run(lines())


def _serve_here(model: bases.Base, stream: Stream, timeout_s: float) -> None:
    try:
        serve(model, stream, timeout_s)
    except (FrameError, ValueError) as error:
        with suppress(OSError):
            stream.send(Refused(why=str(error)).frame())
    except (EOFError, OSError):
        pass
    finally:
        stream.close()


def _half(plugin: Path, precision: str, gate_site: str, delay_ms: float) -> DeviceHalf:
    loaded, about = load_plugin(plugin)
    return _with_options(DeviceHalf(loaded, **about), precision, gate_site, delay_ms)


def _with_options(half: DeviceHalf, precision: str, gate_site: str, delay_ms: float) -> DeviceHalf:
    half.precision = lookup("precision", precision, {name: name for name in get_args(Precision)})
    half.gate_site = lookup("gate site", gate_site, {name: name for name in get_args(GateSite)})
    half.delay = delay_ms / 1e3
    return half
