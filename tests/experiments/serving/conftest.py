"""The base and the plugins of the tests of models, and a machine that is server and device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from experiments.deploy.identity import admit_key, certificates, node_key
from experiments.serving.secure import Server
from tests.models.spa.conftest import base, plugin_of, prompt

__all__ = ["base", "listening", "machine", "plugin_of", "prompt"]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Folder of a server on this machine, and of its registered device 'pi0'."""
    certificates(tmp_path, ["localhost", "127.0.0.1"])
    node_key(tmp_path, "pi0")
    admit_key(tmp_path, tmp_path / "keys" / "pi0.pub")
    return tmp_path


@contextmanager
def listening(folder: Path, serve, port: int = 0) -> Iterator[Server]:
    """A server that runs."""
    server = Server(("127.0.0.1", port), folder, serve)
    thread = Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(20)
        assert not thread.is_alive()
