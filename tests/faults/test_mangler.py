"""The mangler does as configured, or the network rows of the fault table would mean nothing."""

import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from mangler import Frames, Mangler, PREFACE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from wire import DATA, HEADERS, frame  # noqa: E402

SLOW = float(os.environ.get("DROVER_TEST_SLOW", "1"))


class Echo:
    """Sends back what comes."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    @staticmethod
    def serve(sock):
        try:
            while data := sock.recv(65536):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass


@pytest.fixture
def wire():
    echo = Echo()
    with Mangler(echo.address) as made:
        yield made
    echo.listener.close()


@pytest.fixture
def caller(wire):
    with socket.create_connection(wire.address, timeout=5) as sock:
        yield sock


def receive(sock, size):
    data = b""
    while len(data) < size and (piece := sock.recv(65536)):
        data += piece
    return data


def test_bytes_pass_unharmed_and_so_does_the_end(caller):
    sent = bytes(range(256)) * 4096
    threading.Thread(target=lambda: (caller.sendall(sent), caller.shutdown(socket.SHUT_WR)),
                     daemon=True).start()
    assert receive(caller, len(sent) + 1) == sent


def test_a_delay_is_added_in_one_direction(wire, caller):
    wire.down.delay_s = 0.3
    begun = time.monotonic()
    caller.sendall(b"x")
    assert caller.recv(1) == b"x"
    assert 0.3 <= time.monotonic() - begun < 2 * SLOW


def test_a_stalled_wire_gives_nothing_and_loses_nothing(wire, caller):
    wire.stall()
    caller.sendall(b"abc")
    caller.settimeout(0.2)
    with pytest.raises(TimeoutError):
        caller.recv(1)
    wire.heal()
    caller.settimeout(5)
    assert receive(caller, 3) == b"abc"


def test_a_half_open_wire_takes_all_and_gives_nothing_even_to_newcomers(wire, caller):
    wire.half_open()
    caller.sendall(b"abc")
    caller.settimeout(0.2)
    with pytest.raises(TimeoutError):
        caller.recv(1)
    with socket.create_connection(wire.address, timeout=0.2) as late:
        late.sendall(b"abc")
        with pytest.raises(TimeoutError):
            late.recv(1)
    wire.heal()
    caller.settimeout(5)
    caller.sendall(b"d")
    assert receive(caller, 1) == b"d", "what was swallowed is lost"


@pytest.mark.parametrize("limit, end", [("reset_after", ConnectionResetError),
                                        ("truncate_after", b""), ("swallow_after", TimeoutError)])
def test_so_many_bytes_pass_and_then_no_more(wire, caller, limit, end):
    setattr(wire.down, limit, 1000)
    caller.sendall(b"y" * 3000)
    caller.settimeout(0.5)
    got = b""
    try:
        while piece := caller.recv(100):
            got += piece
        assert end == b""
    except OSError as failure:
        assert isinstance(end, type) and isinstance(failure, end), failure
    # A reset may overtake what was sent before it.
    assert len(got) == 1000 or (limit == "reset_after" and len(got) <= 1000)


def test_a_limited_wire_is_as_slow_as_it_should_be(wire, caller):
    wire.down.rate = 100_000
    begun = time.monotonic()
    caller.sendall(b"z" * 50_000)
    assert len(receive(caller, 50_000)) == 50_000
    assert 0.45 <= time.monotonic() - begun < 3 * SLOW


def test_a_reset_ends_every_connection(wire, caller):
    caller.sendall(b"x")
    assert caller.recv(1) == b"x"
    wire.reset()
    with pytest.raises(ConnectionResetError):
        caller.sendall(b"x")
        caller.recv(1)
        caller.recv(1)


def test_a_refusing_wire_resets_newcomers(wire):
    wire.refuse()
    with pytest.raises(ConnectionResetError):
        with socket.create_connection(wire.address, timeout=5) as late:
            late.recv(1)
            late.sendall(b"x")
            late.recv(1)


def test_frames_of_different_streams_overtake_each_other_and_those_of_one_do_not():
    one, two, three = frame(DATA, 0, 1, b"a"), frame(DATA, 0, 3, b"b"), frame(DATA, 0, 1, b"c")
    headers = frame(HEADERS, 0, 5, b"h")
    frames = Frames(has_preface=True)
    assert frames.feed(PREFACE[:10]) == b""
    assert frames.feed(PREFACE[10:] + headers) == PREFACE + headers
    assert frames.feed(one[:5]) == b""
    assert frames.feed(one[5:] + two) == two + one
    assert frames.feed(one + three) == one + three, "the order within a stream is kept"
    assert frames.feed(two + headers) == two + headers, "only DATA may be overtaken"
    assert frames.feed(one) == b"" and frames.flush() == one
