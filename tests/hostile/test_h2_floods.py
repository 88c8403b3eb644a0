"""HTTP/2 floods against our own gRPC servers: the registry in the health process, and drover-node.

Each is bounded in CPU, memory and log lines, and others are served meanwhile.
"""
import struct
import time

import pytest

from h2raw import Raw
from harness import SLOW, until
from watch import Watch
from wire import (CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITY, RST, SETTINGS,
                  WINDOW, frame, framed)

WATCH, CHECK = "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/Check"
LIMIT = 48 << 20


class Target:
    def __init__(self, name, cluster):
        self.name, self.cluster = name, cluster
        self.port = cluster.address("registry")[1] if name == "registry" else int(
            cluster.nodes[0].address().rsplit(":", 1)[1])
        self.pid = cluster.health_pid() if name == "registry" else cluster.nodes[0].pid
        self.log = cluster.master.log if name == "registry" else cluster.nodes[0].process.log

    def check(self):
        with Raw(self.port) as raw:
            raw.request(1, path=CHECK)
            return raw.answer(1)["headers"].get("grpc-status") == "0"

    def watch(self):
        return Watch(self.cluster, self.pid, self.log, self.check)


@pytest.fixture(name="target", params=["registry", "node"])
def fixture_target(request, cluster):
    return Target(request.param, cluster)


def u32(n):
    return struct.pack(">I", n)


def open_stream(raw, stream=1, path=WATCH, **more):
    raw.send(frame(HEADERS, END_HEADERS, stream, raw.head(path, **more)))


def repeat(piece, first=lambda raw: None, unit=4096):
    """The same bytes, until the server has had enough."""
    def attack(raw):
        first(raw)
        raw.flood(piece * max(1, unit // len(piece)), LIMIT)
    return attack


def streams(piece, limit=20000):
    """Bytes for one stream after the other."""
    def attack(raw):
        try:
            for stream in range(1, 2 * limit, 2):
                raw.send(piece(raw, stream))
        except OSError:
            pass
    return attack


def bomb(raw, stream):
    """A big field once into the table, and then by one byte each."""
    if stream == 1:
        block = raw.head(WATCH, more=[("x-bomb", "b" * 3900)])
        raw.bomb = raw.encoder.encode([("x-bomb", "b" * 3900)])
        return frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, raw.head(WATCH) + raw.bomb * 12000)


def endless_head(raw):
    try:
        raw.send(frame(HEADERS, 0, 1, raw.head(WATCH)))
        for n in range(4000):
            raw.send(frame(CONTINUATION, 0, 1, raw.encoder.encode([(f"x-{n}", "v" * 1000)])))
    except OSError:
        pass


ATTACKS = {
    "rapid reset": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH)) + frame(RST, 0, s, u32(8))),
    "reset by overflow": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH))
                                 + frame(WINDOW, 0, s, u32(0x7fffffff))),
    "reset by no window": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH))
                                  + frame(WINDOW, 0, s, u32(0))),
    "reset by own parent": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH))
                                   + frame(PRIORITY, 0, s, u32(s) + b"\0")),
    "reset by late data": streams(lambda raw, s: frame(HEADERS, END_HEADERS | END_STREAM, s, raw.head(WATCH))
                                  + frame(DATA, 0, s, framed(b""))),
    "reset by length": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH, content_length="3"))
                               + frame(DATA, END_STREAM, s, framed(b""))),
    "reset by head": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH, more=[("X-Upper", "v")]))),
    "fields": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH, more=[("x-many", "v")] * 80))),
    "streams over the limit": streams(lambda raw, s: frame(HEADERS, END_HEADERS, s, raw.head(WATCH))),
    "hpack bomb": streams(bomb, 1000),
    "endless head": endless_head,
    "empty continuation": repeat(frame(CONTINUATION, 0, 1), lambda raw: raw.send(frame(HEADERS, 0, 1, raw.head(WATCH)))),
    "empty data": repeat(frame(DATA, 0, 1), open_stream),
    "padding only": repeat(frame(DATA, PADDED, 1, b"\0"), open_stream),
    "settings": repeat(frame(SETTINGS)),
    "settings full": repeat(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1) * 30)),
    "ping": repeat(frame(PING, 0, 0, bytes(8))),
    "priority": repeat(frame(PRIORITY, 0, 1, bytes(5)), open_stream),
    "priority of nobody": repeat(frame(PRIORITY, 0, 99999, bytes(5))),
    "window by ones": repeat(frame(WINDOW, 0, 0, u32(1))),
    "window by nothing": repeat(frame(WINDOW, 0, 0, u32(0))),
    "window over": repeat(frame(WINDOW, 0, 0, u32(0x7fffffff))),
    "unknown frames": repeat(frame(99, 0, 0)),
    "unknown big frames": repeat(frame(99, 0, 0, bytes(16000)), unit=65536),
    "reset of nobody": repeat(frame(RST, 0, 2000001, u32(8))),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_flood_ends_and_no_other_client_notices(target, name):
    with target.watch() as watch:
        with Raw(target.port) as raw:
            raw.sock.settimeout(5 * SLOW)
            ATTACKS[name](raw)
            raw.drain()  # until the server hangs up: it must
    watch.expect()


def test_a_flood_that_comes_again_and_again_is_a_line_a_second(target):
    def flood():
        with Raw(target.port) as raw:
            raw.flood(frame(SETTINGS) * 100, 900)
            raw.drain()
            assert CALM in [code for _, code, _ in raw.goaways]

    def is_logged():  # not in the second in which another cause was
        flood()
        return any("event=peer_sent_away" in line and 'peer="127.0.0.1"' in line
                   and 'why="too_many_settings"' in line for line in target.log().splitlines())
    with target.watch() as watch:
        for _ in range(40):
            flood()
    watch.expect(lines=4 + watch.seconds)
    until(is_logged, 5, "the cause is in the log")


def test_readers_with_a_shut_window_cost_little(target):
    """Every stream has an answer that cannot be sent."""
    crowd = []
    with target.watch() as watch:
        for _ in range(20):
            raw = Raw(target.port)
            crowd.append(raw)
            raw.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
            for stream in range(1, 33, 2):
                raw.request(stream, path=WATCH)
    watch.expect()
    for raw in crowd:
        raw.sock.close()


def test_streams_that_never_say_anything_cost_little(target):
    """10,000 of them, on a hundred connections."""
    crowd = []
    with target.watch() as watch:
        for _ in range(100):
            raw = Raw(target.port)
            crowd.append(raw)
            raw.send(b"".join(frame(HEADERS, END_HEADERS, stream, raw.head(WATCH)) for stream in range(1, 201, 2)))
    watch.expect(memory=100, cpu=4)
    for raw in crowd:
        raw.sock.close()


def test_bytes_in_drops_keep_no_other_peer_out(target):
    crowd = [Raw(target.port, greet=False) for _ in range(50)]
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS)
    with target.watch() as watch:
        for n in range(20):
            for raw in crowd:
                raw.send(hello[n:n + 1])
            time.sleep(0.05)  # the drip itself, not a wait for anything
    watch.expect()
    # A peer without a whole hello within five seconds is disconnected.
    begin = time.monotonic()
    for raw in crowd:
        raw.drain()
    assert time.monotonic() - begin < 6 + SLOW


def test_more_connections_than_there_are_places_keep_no_other_peer_out(cluster):
    """The registry's; unit.proto.grpc has the same rule with two places."""
    target, places = Target("registry", cluster), 2 * 256 + 256
    crowd = []
    with target.watch() as watch:
        for _ in range(places + 50):
            crowd.append(Raw(target.port))
    watch.expect(cpu=4, memory=100)
    assert target.cluster.node_state("a") == "UP"  # its own connection has a stream, and stays
    for raw in crowd:
        raw.sock.close()
    until(target.check, 5)
