"""The commands of chat: a cloud, a device that talks through it, and both in one process."""

import os
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
from experiments.serving.sharing import Turns
from experiments.serving.terminal import Chat, Wishes, lines, say, serve_devices
from experiments.serving.web import run_web
from models.spa import bases
from models.spa.codec import FrameError, Precision
from models.spa.train import load_plugin
from partitions.errors import lookup
from partitions.root import absolute


def run_cloud(
    base: str, changes: Mapping[str, str], listen: str, timeout_s: float, dtype: str, threads: int, folder: Path
) -> None:
    """Serve a base to registered devices until Ctrl-C.

    Args:
        changes: run-config keys that decide the base.
        dtype: in which the base computes.
        threads: cores that a pass of the base uses; as many passes run at a time as there are cores for them.

    Raises:
        SettingsError, DeployError, DataError: the address, the certificate or the base cannot be used.
    """
    refuse_all_but_base(changes)
    address, folder = parse_address(listen), absolute(folder)
    kind = lookup("dtype", dtype, {name: name for name in get_args(bases.Dtype)})
    with progress_bar() as progress:
        model = plugin_workload(base, 0, 1, changes).base(progress, kind)
    torch.set_num_threads(threads)
    turns = Turns(max(1, (os.cpu_count() or 1) // threads))
    server = Server(address, folder, lambda stream, _: serve(model, stream, timeout_s, turns))
    none = "no device is registered: `deploy key NAME` on the device, `deploy register NAME.pub --serving` here"
    serve_devices(server, f"base {model.name} ({kind})", "" if any((folder / "devices").glob("*.pub")) else none)


def talk(
    cloud: str, plugin: Path, key: str, folder: Path, precision: str, gate_site: str, delay_ms: float, wishes: Wishes,
    trace: Path | None, port: int | None,
) -> None:  # fmt: skip
    """Answer each line of input through a cloud, with the plugin of this device. Args: port: of a page; None: none.

    Raises:
        UserError: an option is impossible, or the cloud cannot be used; the message says why.
    """
    torch.set_num_threads(1)
    address, folder, half = parse_address(cloud), absolute(folder), _half(plugin, precision, gate_site, delay_ms)
    _run(Chat(half, lambda: connect(address, folder, key), cloud, wishes, trace), port)


def chat_here(
    base: str, plugin: Path | None, device: int, seed: int, changes: Mapping[str, str], precision: str, gate_site: str,
    delay_ms: float, timeout_s: float, wishes: Wishes, trace: Path | None, port: int | None,
) -> None:  # fmt: skip
    """Answer each line of input with cloud and device in this process, and a stream between them.

    Args:
        plugin: file; None: one is trained for the generated person ``device`` of ``seed``.
        changes: run-config keys of the training.
        port: of a page in the browser; None: lines of input.
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

    _run(Chat(half, here, "the cloud in this process", wishes, trace), port)


def _run(chat: Chat, port: int | None) -> None:
    if port is None:
        chat.run(lines())
    else:
        run_web(chat, port)


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
