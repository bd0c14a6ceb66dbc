"""A split transformer in two processes' roles: codes on an authenticated wire, and every byte is reported."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.serving.link import Stream, pair
from experiments.serving.secure import CloudRefuses, connect
from experiments.serving.sharing import Batches
from experiments.serving.vq import Bytes, Device, Model, Received, Served, serve
from fl.config import Settings
from fl.results.saved import read_model
from fl.workloads.resolve import resolve
from fl.workloads.vq import VQ
from models.spa.codec import FrameError
from models.vq.network.body import SplitBody
from models.vq.network.halves import Shape
from models.vq.network.tokens import encode
from models.vq.quantiser.boundary import HEADER
from models.vq.session import infer
from partitions.errors import DataError
from partitions.tokens import train
from tests.experiments.serving.conftest import listening
from tests.fl.workloads.running import play
from tests.fl.workloads.test_vq import TEXT

TEXTS = ["where is the river", "Zoë, who wrote the book?", "when did the war end " * 9]


@pytest.fixture(scope="module")
def model() -> Served:
    """A model that was never trained; its classes are arbitrary."""
    shape = Shape(60, hidden=16, inner=32, width=8, pool=2, tokens=24)
    body = SplitBody({"classes": 3}, shape, (16, 4), 1)
    generator = torch.Generator().manual_seed(1)
    body.counts.copy_(torch.rand(body.counts.shape, generator=generator) + 0.5)
    body.sums.copy_(torch.randn(body.sums.shape, generator=generator))
    return Served(body, ("a", "b", "c"), train(TEXTS, 60), 24, ("float32", "float16"), "0" * 64)


def serving(model: Served) -> Callable[[Stream, str], None]:
    """What a server does for each device."""
    batches = model.batches()
    return lambda stream, _: serve(model, batches, stream)


def expected(model: Served, text: str) -> str:
    tokens = encode(model.tokenizer, [text], limit=model.tokens)
    return model.classes[int(infer(model.device_end(), model.cloud_end(), tokens)[0].argmax())]


@contextmanager
def tapped(address: tuple[str, int]) -> Iterator[tuple[tuple[str, int], list[int]]]:
    """A relay to an address that counts the bytes on one connection, up and down."""
    counted = [0, 0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, target: socket.socket, way: int) -> None:
            while data := source.recv(1 << 16):
                counted[way] += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

        def relay() -> None:
            with listener.accept()[0] as near, socket.create_connection(address) as far:
                back = threading.Thread(target=pump, args=(far, near, 1))
                back.start()
                pump(near, far, 0)
                back.join()

        thread = threading.Thread(target=relay)
        thread.start()
        yield listener.getsockname(), counted
        thread.join(20)
        assert not thread.is_alive()


def test_the_bytes_on_the_socket_are_those_that_are_reported(model: Served, machine: Path) -> None:
    with (
        listening(machine, serving(model)) as server,
        tapped(server.address) as (near, counted),
    ):
        stream = connect(near, machine)
        device = Device(model, stream)
        found = [device.classify(text) for text in TEXTS]
        stream.close()
    assert [name for name, *_ in found] == [expected(model, text) for text in TEXTS]
    assert counted == [device.total.socket_up, device.total.socket_down]
    boundary = model.boundary()
    for text, (_, _, spent) in zip(TEXTS, found, strict=True):
        lengths = encode(model.tokenizer, [text], limit=model.tokens).lengths.tolist()
        assert (spent.up, spent.down) == (boundary.payload("codes", lengths), boundary.payload("logits", lengths))
        # 4 bytes of length, a header, and a record of TLS around them: 5 + 1 + 16
        assert (spent.socket_up, spent.socket_down) == (spent.up + HEADER.size + 26, spent.down + HEADER.size + 26)
    assert device.total.up == sum(spent.up for *_, spent in found)
    assert str(Bytes(1, 2, 30, 40)) == "up 1 B, 30 on the socket; down 2 B, 40 on the socket"


def test_twenty_devices_share_a_cloud_and_one_that_dies_costs_its_own_answers(model: Served, machine: Path) -> None:
    """Texts that wait together go through the model together, each with the answer that it has alone."""
    sizes, arrived, go = list[int](), threading.Semaphore(0), threading.Event()
    alone = {text: expected(model, text) for text in TEXTS}

    def logits(texts: Sequence[Received]) -> list[torch.Tensor]:
        go.wait(60)
        sizes.append(len(texts))
        return model.logits(texts)

    batches = Batches(logits, lambda text: text.length)
    found: dict[int, list[str]] = {}

    def device(number: int) -> None:
        stream = connect(server.address, machine)
        client = Device(model, stream)
        arrived.release()
        if number == 7:  # it dies in the middle of a message
            stream.wire.write(b"\x40\x00\x00\x00\x01")
        else:
            found[number] = [client.classify(text)[0] for text in TEXTS]
        stream.close()

    with listening(machine, lambda stream, _: serve(model, batches, stream)) as server:
        threads = [threading.Thread(target=device, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        assert all(arrived.acquire(timeout=60) for _ in threads)
        go.set()
        for thread in threads:
            thread.join(60)
    assert found == {number: [alone[text] for text in TEXTS] for number in range(20) if number != 7}
    assert sum(sizes) == 19 * len(TEXTS) and max(sizes) > 1


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "a message has one text, not 0 bytes"),
        (HEADER.pack(0, 2, 0) + bytes(4), "a message has one text"),
        (HEADER.pack(0, 1, 0) + bytes(4), "a text has 1 to 24 tokens, not 0"),
        (HEADER.pack(0, 1, 0) + b"\xff\xff", "a text has 1 to 24 tokens, not 65535"),
        (HEADER.pack(3, 1, 0) + b"\x05\x00" + bytes(6), "expected 'codes', got a message of channel 3"),
        (HEADER.pack(0, 1, 7) + b"\x05\x00" + bytes(6), "codebook version 7"),
        (bytes(10_000), "a frame has 10000 bytes, the limit is"),
    ],
)
def test_what_is_no_code_of_a_text_is_refused_by_name(model: Served, message: bytes, why: str) -> None:
    near, far = pair()
    raised: list[Exception] = []

    def cloud(stream: Stream) -> None:
        try:
            serve(model, model.batches(), stream)
        except (FrameError, EOFError, OSError) as error:
            raised.append(error)
        stream.close()

    thread = threading.Thread(target=cloud, args=(near,))
    thread.start()
    far.send(Model(digest=model.digest).frame())
    far.receive()
    far.send_bytes(message)
    with pytest.raises((EOFError, OSError)):
        far.receive()
    thread.join(20)
    far.close()
    with pytest.raises(FrameError, match=why):
        raise raised[0]


def test_a_device_with_another_model_is_refused(model: Served, machine: Path) -> None:
    other = replace(model, digest="1" * 64)
    with listening(machine, serving(model)) as server:
        stream = connect(server.address, machine)
        with pytest.raises(CloudRefuses, match="the device has another model than this cloud"):
            Device(other, stream)
        stream.close()


def test_a_saved_model_answers_as_in_its_run(tmp_path: Path, machine: Path) -> None:
    values = {**TEXT, "rounds": 1, "eval.every": 1, "save": True, "data.proxy-fraction": 0.03}
    play(tmp_path / "out", values)
    path = tmp_path / "out" / "final-models" / "fedavg-default-seed1.safetensors"
    model, workload = Served.read(path), resolve(Settings.parse(values)).workload
    assert isinstance(workload, VQ)
    body = workload.architecture.whole(0)
    body.load_state_dict(read_model(path).state)
    assert isinstance(body, SplitBody)
    one, two, _ = workload.ends(body)
    texts = workload.worlds.dataset.x_test[:20, 0].tolist()
    logits = infer(one, two, encode(model.tokenizer, texts, limit=24))
    with listening(machine, serving(model)) as server:
        stream = connect(server.address, machine)
        device = Device(model, stream)
        names = [device.classify(text)[0] for text in texts]
        stream.close()
    assert names == [workload.worlds.dataset.classes[k] for k in logits.argmax(1).tolist()]
    with pytest.raises(DataError, match="is no saved model"):
        Served.read(tmp_path / "out" / "config.toml")
