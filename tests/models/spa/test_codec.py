"""Bytes of frames against the paper's sizes, and frames on a connection."""

import socket
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.serving.link import Stream
from experiments.serving.wire import Wire
from models.spa.codec import MAX_FRAME_BYTES, PREFIX, Frame, FrameError, TrafficLog, narrow, widen
from models.spa.side import every_nth_state


@pytest.mark.parametrize(
    "width,states,precision,expected",
    [
        (576, every_nth_state(30, 1), "fp16", 35_712),  # SmolLM2-135M, all 31 states
        (576, every_nth_state(30, 5), "fp16", 8_064),  # 7 of them
        (576, every_nth_state(30, 5), "int8", 4_046),  # plus a float16 scale per state
        (576, (30,), "fp16", 1_152),  # o, sent by the device
        (4096, every_nth_state(32, 1), "fp16", 270_336),  # LLaMA-7B
    ],
)
def test_payload_of_a_call(width: int, states: tuple[int, ...], precision: str, expected: int) -> None:
    frame = Frame("side", {}, narrow("stack", torch.randn(1, len(states), width), precision))  # type: ignore[arg-type]
    assert frame.payload == expected
    traffic = TrafficLog()
    traffic.count("down", frame, wire=len(frame.to_bytes()))
    assert traffic.bytes("down") == expected and traffic.bytes("up") == 0
    assert traffic.framing["down"] == len(frame.to_bytes()) - expected


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 9), st.floats(1e-3, 1e6))
def test_narrowing_is_accurate_and_idempotent(seed: int, rows: int, width: int, scale: float) -> None:
    x = scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    largest = x.abs().amax(-1, keepdim=True)
    assert torch.equal(widen("x", narrow("x", x, "fp32")), x)
    half = widen("x", narrow("x", x, "fp16"))
    assert ((half - x.clamp(-65504, 65504)).abs() <= 1e-3 * largest + 1e-7).all()
    eighth = widen("x", narrow("x", x, "int8"))
    assert ((eighth - x).abs() <= (largest / 127 + 2**-14) * 0.51 + 1e-3 * largest).all()
    assert torch.equal(widen("x", narrow("x", half, "fp16")), half)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Stream]]:
    """Two ends of a connection, one of them as a stream."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as near:
        far = Stream(Wire(listener.accept()[0]))
        yield near, far
        far.close()


def test_frames_arrive_unchanged_in_any_pieces(ends: tuple[socket.socket, Stream]) -> None:
    near, stream = ends
    frames = [Frame("tokens", {"ids": [1, 2]}), Frame("side", {"seq": 3}, narrow("stack", torch.randn(2, 3), "int8"))]
    data = b"".join(frame.to_bytes() for frame in frames)
    near.sendall(data[:9])
    with pytest.raises(TimeoutError):
        stream.receive(0.01)
    near.sendall(data[9:])
    for frame in frames:  # the bytes before the timeout were kept
        received, wire = stream.receive(1.0)
        assert (received.kind, received.head) == (frame.kind, frame.head)
        assert {k: v.tolist() for k, v in received.tensors.items()} == {k: v.tolist() for k, v in frame.tensors.items()}
        assert wire == len(frame.to_bytes())
    near.close()
    with pytest.raises(EOFError):
        stream.receive(1.0)


@pytest.mark.parametrize("data", [PREFIX.pack(MAX_FRAME_BYTES + 1), PREFIX.pack(5) + b"hello", PREFIX.pack(0)])
def test_invalid_frames_are_refused(data: bytes, ends: tuple[socket.socket, Stream]) -> None:
    near, stream = ends
    near.sendall(data)
    with pytest.raises(FrameError):
        stream.receive(1.0)
