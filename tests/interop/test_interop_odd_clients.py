"""Our server against clients that are wrong, hostile, or merely unusual."""
import resource
import struct
import subprocess
import time

import pytest

from conftest import Server, program, read_line
from h2raw import Raw
from wire import (CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, NO_ERROR, PADDED, PING, PRIORITY, RST,
                  SETTINGS, WINDOW, frame, framed)

UNARY = "/grpc.testing.TestService/UnaryCall"
INPUT = "/grpc.testing.TestService/StreamingInputCall"
DUPLEX = "/grpc.testing.TestService/FullDuplexCall"
EMPTY = "/grpc.testing.TestService/EmptyCall"


@pytest.fixture(name="server", scope="module")
def fixture_server():
    with Server() as server:
        yield server


@pytest.fixture(name="raw")
def fixture_raw(server):
    with Raw(server.port) as raw:
        yield raw


def assert_serves(server):
    with Raw(server.port) as raw:
        raw.request(1)
        assert raw.answer(1)["headers"]["grpc-status"] == "0"


def status(got):
    return got["headers"].get("grpc-status")


# ---- requests ------------------------------------------------------------------------------------

def test_a_plain_request(raw):
    raw.request(1)
    got = raw.answer(1)
    assert (got["headers"][":status"], got["headers"]["content-type"]) == ("200", "application/grpc")
    assert (status(got), got["data"]) == ("0", framed(b""))


@pytest.mark.parametrize("head, http, grpc_status", [
    ({"_method": "GET"}, "405", None),
    ({"content_type": "application/json"}, "415", None),
    ({"content_type": "application/grpcx"}, "415", None),
    ({"content_type": None}, "415", None),
    ({"content_type": "application/grpc+json"}, "200", "12"),
    ({"content_type": "application/grpc+proto"}, "200", "0"),
    ({"content_type": "application/grpc;charset=x"}, "200", "0"),
    ({"te": None}, "200", "2"),
    ({"path": "/grpc.testing.TestService/emptycall"}, "200", "12"),
    ({"grpc_encoding": "gzip"}, "200", "12"),
    ({"grpc_encoding": "identity"}, "200", "0"),
    ({"grpc_timeout": "1s"}, "200", "13"),
    ({"grpc_timeout": "123456789S"}, "200", "13"),
    ({"grpc_timeout": "10S"}, "200", "0"),
    ({"more": [("k-bin", "%%")]}, "200", "13"),
    ({"more": [("k-bin", "AAE"), ("k-bin", "AAE=,AA")]}, "200", "0"),
    ({"more": [("k", "v")] * 20}, "200", "0"),
], ids=str)
def test_heads(raw, head, http, grpc_status):
    raw.request(1, **head)
    got = raw.answer(1)
    assert (got["headers"][":status"], status(got)) == (http, grpc_status)
    if http == "200" and grpc_status == "12":
        assert got["headers"]["grpc-accept-encoding"] == "identity"
    raw.request(3)  # and the connection lives
    assert status(raw.answer(3)) == "0"


@pytest.mark.parametrize("body, path, grpc_status", [
    (b"", UNARY, "12"),                                  # no message
    (framed(b"") * 2, UNARY, "12"),                      # two
    (framed(b"")[:3], UNARY, "13"),                      # cut in the prefix
    (framed(b"ab")[:6], UNARY, "13"),                    # cut in the message
    (framed(b"", 1), UNARY, "13"),                       # compressed
    (framed(b"", 7), UNARY, "13"),                       # bad flag
    (b"\0\xff\xff\xff\xff", UNARY, "8"),                 # 4 GiB announced
    (framed(b"\x0a\xff"), UNARY, "13"),                  # no protobuf
    (b"", INPUT, "0"),                                   # a stream of nothing
    (framed(b"") * 3, INPUT, "0"),
    (framed(b"") * 3 + b"\0", INPUT, "13"),
], ids=range(11))
def test_bodies(raw, body, path, grpc_status):
    raw.request(1, body=body, path=path)
    assert status(raw.answer(1)) == grpc_status


def test_end_stream_on_the_headers_is_no_message(raw):
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.head(UNARY)))
    assert status(raw.answer(1)) == "12"


def test_one_byte_a_frame_padded_and_empty_frames_between(raw):
    message = framed(b"\x0a\x02\x12\x00") * 2
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.head(INPUT)))
    for byte in message:
        raw.send(frame(DATA, PADDED, 1, b"\x03" + bytes([byte]) + bytes(3)) + frame(DATA, 0, 1))
    raw.send(frame(DATA, END_STREAM, 1))
    assert status(raw.answer(1)) == "0"


def test_an_early_answer_stops_the_upload(raw):
    raw.request(1, body=framed(b"", 7), end=False)
    raw.until(lambda: 1 in raw.streams and raw.streams[1]["reset"] is not None)
    assert (status(raw.streams[1]), raw.streams[1]["reset"]) == ("13", NO_ERROR)


@pytest.mark.parametrize("window", [65535, 0], ids=["open", "shut"])
@pytest.mark.parametrize("half_closed", [False, True], ids=["sending", "waiting"])
def test_a_deadline_ends_a_call_that_has_begun_to_answer(raw, window, half_closed):
    # A reset would say CANCELLED, and could come before the client has seen its own deadline pass.
    plan = b"\x12\x02\x08\x01\x12\x06\x08\x01\x10\x80\x89\x7a\x12\x02\x08\x01"  # 1 B, 1 B then 2 s, 1 B
    raw.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.head(DUPLEX, grpc_timeout="100m"))
             + frame(DATA, END_STREAM if half_closed else 0, 1, framed(plan)))
    raw.until(lambda: raw.streams.get(1, {}).get("end"))
    got = raw.streams[1]
    assert (status(got), got["headers"]["grpc-message"]) == ("4", "deadline exceeded")
    assert (got["data"] != b"") == (window != 0)
    if not half_closed:
        raw.until(lambda: raw.streams[1]["reset"] is not None)
        assert got["reset"] == NO_ERROR
    raw.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)))
    raw.request(3)  # and the connection lives
    assert status(raw.answer(3)) == "0"


@pytest.mark.parametrize("more", [[("x-big", "v" * 9000)], [("x-many", "v")] * 80], ids=["bytes", "fields"])
def test_headers_over_the_limit_cost_the_stream_and_not_the_connection(raw, more):
    block = raw.head(more=more)
    raw.send(frame(HEADERS, END_STREAM, 1, block[:1000])
             + frame(CONTINUATION, END_HEADERS, 1, block[1000:]) if len(block) > 1000
             else frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    assert raw.answer(1)["reset"] == 2
    raw.request(3)
    assert status(raw.answer(3)) == "0"


def test_the_stream_limit_refuses_the_surplus():
    with Server("--max-streams", "2") as server, Raw(server.port) as raw:
        for stream in (1, 3, 5):
            raw.send(frame(HEADERS, END_HEADERS, stream, raw.head(DUPLEX)))
        assert raw.answer(5)["reset"] == 7
        for stream in (1, 3):
            raw.send(frame(DATA, END_STREAM, stream))
            assert status(raw.answer(stream)) == "0"


# ---- floods ------------------------------------------------------------------------------------

def calm(raw, server):
    """The server ended the connection and said why; and it is well."""
    raw.drain()
    assert_serves(server)
    return [code for _, code, _ in raw.goaways]


def test_ping_flood(raw, server):
    raw.flood(frame(PING, 0, 0, bytes(8)), 17 * 200)
    assert CALM in calm(raw, server)


def test_few_pings_are_answered(raw):
    for _ in range(3):
        raw.send(frame(PING, 0, 0, bytes(8)))
    raw.until(lambda: raw.pings == 3)


def test_pings_that_come_too_often(raw, server):
    raw.send(frame(PING, 0, 0, bytes(8)) * 6)
    assert CALM in calm(raw, server)


def test_settings_flood(raw, server):
    raw.flood(frame(SETTINGS), 9 * 100)
    assert CALM in calm(raw, server)


def test_rapid_reset(raw, server):
    head = raw.head(DUPLEX)
    try:
        for stream in range(1, 2001, 2):
            raw.send(frame(HEADERS, END_HEADERS, stream, raw.head(DUPLEX)) + frame(RST, 0, stream, struct.pack(">I", 8)))
    except OSError:
        pass
    assert head
    assert calm(raw, server)


def test_resets_that_the_client_makes_us_send(raw, server):
    try:
        for stream in range(1, 401, 2):  # a window that overflows is a stream error
            raw.send(frame(HEADERS, END_HEADERS, stream, raw.head(DUPLEX))
                     + frame(WINDOW, 0, stream, struct.pack(">I", 0x7fffffff)))
    except OSError:
        pass
    assert CALM in calm(raw, server)


@pytest.mark.parametrize("piece", [
    frame(DATA, 0, 1) * 4096, frame(PRIORITY, 0, 1, bytes(5)) * 4096,
    frame(WINDOW, 0, 0, struct.pack(">I", 1)) * 4096, frame(99, 0, 0, b"") * 4096,
], ids=["data", "priority", "window", "unknown"])
def test_frames_that_carry_nothing(raw, server, piece):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.head(DUPLEX)))
    assert raw.flood(piece) < 64 << 20
    assert_serves(server)


def test_continuation_flood(raw, server):
    raw.send(frame(HEADERS, 0, 1, raw.head()))
    assert raw.flood(frame(CONTINUATION, 0, 1) * 64) < 64 << 20
    assert_serves(server)


def test_messages_that_never_end_are_bounded_by_their_limit(raw):
    raw.send(frame(HEADERS, END_HEADERS, 1, raw.head(INPUT)) + frame(DATA, 0, 1, struct.pack(">BI", 0, (4 << 20) + 1)))
    assert status(raw.answer(1)) == "8"


def test_garbage_and_silence(server):
    with Raw(server.port, greet=False) as raw:
        raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.drain()
    begin = time.monotonic()
    with Raw(server.port, greet=False) as raw:
        raw.drain()
    assert 4 < time.monotonic() - begin < 8
    assert_serves(server)


# ---- the end -----------------------------------------------------------------------------------

def test_shutdown_says_goaway_twice_and_lets_calls_finish():
    with Server() as server, Raw(server.port) as raw:
        raw.send(frame(HEADERS, END_HEADERS, 1, raw.head(DUPLEX)))
        raw.request(3)
        assert status(raw.answer(3)) == "0"
        server.process.stdin.close()
        raw.until(lambda: len(raw.goaways) == 2)
        assert [(last, code) for last, code, _ in raw.goaways] == [(0x7fffffff, NO_ERROR), (3, NO_ERROR)]
        raw.send(frame(DATA, END_STREAM, 1))
        assert status(raw.answer(1)) == "0"
        raw.drain()


def comes_to_rest(pid, looks=20, bound_s=20):
    """Is the process asleep whenever one looks, `looks` times in a row?  One that spins is not."""
    rest, end = 0, time.monotonic() + bound_s
    while rest < looks and time.monotonic() < end:
        with open(f"/proc/{pid}/stat", encoding="ascii") as f:
            rest = rest + 1 if f.read().rsplit(")", 1)[1].split()[0] == "S" else 0
        time.sleep(0.02)
    return rest == looks


def test_running_out_of_descriptors_is_survived():
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))

    process = subprocess.Popen([program("interop_server")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True, preexec_fn=few)
    port = int(read_line(process).removeprefix("port="))
    crowd = [Raw(port) for _ in range(40)]
    assert comes_to_rest(process.pid), "the listener spins"
    for raw in crowd:
        raw.sock.close()
    with Raw(port) as raw:
        raw.request(1)
        assert status(raw.answer(1)) == "0"
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()
