"""Malicious joiners against the registry: who does not know the token takes nothing and keeps
nobody out.

Each test has an address of its own: what one address does is that address's trouble.
"""
import itertools
import os
import signal
import time

import pytest

from bad_node import BadNode, good_answer
from fake_node import common, registry
from h2raw import Raw
from harness import SLOW, until
from silent import ATTACH, Silent
from watch import Watch
from wire import END_HEADERS, HEADERS, frame, framed

addresses = (f"127.0.1.{n}" for n in itertools.count(1))


@pytest.fixture(name="watch")
def fixture_watch(cluster):
    return lambda: Watch(cluster, cluster.health_pid())


@pytest.fixture(name="evil")
def fixture_evil(cluster):
    """Makes connections, all from the address of this test."""
    address = next(addresses)
    return lambda: Raw(cluster.address("registry")[1], source=address)


def attach(connection, *frames):
    """Sends the frames on one stream; the status with which it ends."""
    connection.send(frame(HEADERS, END_HEADERS, 1, connection.head(ATTACH)))
    connection.send_data(1, b"".join(framed(body) for body in frames))
    return connection.answer(1)["headers"].get("grpc-status")


def registration(**changes):
    fields = dict(node_id="evil", instance_id=os.urandom(16), node_nonce=os.urandom(32), join_proof=os.urandom(32),
                  host="", port=9, engine=common.ENGINE_KIND_SIMULATED)
    return registry.NodeFrame(register=registry.Register(**{**fields, **changes})).SerializeToString()


def honest_node_joins(cluster, name):
    with BadNode(cluster, name, lambda c, s: c.answer(s, good_answer())):
        assert cluster.node_state(name) == "UP"


def test_ten_thousand_half_open_streams_keep_no_node_out(cluster, evil, watch):
    with watch() as cost:
        crowd = []
        for _ in range(625):
            connection = evil()
            crowd.append(connection)
            connection.send(b"".join(frame(HEADERS, END_HEADERS, stream, connection.head(ATTACH))
                                     for stream in range(1, 33, 2)))
        honest_node_joins(cluster, "honest-1")
        assert cluster.node_state("a") == "UP"
    cost.expect(cpu=6, memory=150, lines=20)
    for connection in crowd:
        connection.sock.close()


def joins_within(cluster, name, seconds):
    began = time.monotonic()
    honest_node_joins(cluster, name)
    assert time.monotonic() - began < seconds * max(1, SLOW / 2), f"{name} took {time.monotonic() - began:.1f} s"


def test_silent_streams_of_two_addresses_keep_no_node_out_not_even_when_health_dies(cluster, watch):
    """128 of each, made again as soon as they end: the oldest of the address that has most goes first."""
    before = cluster.master.log().count("\n")
    with Silent(cluster.address("registry")[1], ("127.0.0.1", "127.0.0.2"), 128) as crowd:
        until(crowd.is_full, 10, "all places are taken")
        for attempt in range(5):
            joins_within(cluster, f"honest-3-{attempt}", 2)
        old = cluster.health_pid()
        os.kill(old, signal.SIGKILL)
        until(lambda: cluster.health_pid() not in (None, old), 10, "health is back")
        joined_again = "event=node_joined node=\"a\""
        until(lambda: joined_again in cluster.master.log()[before:].rsplit("event=child_ended", 1)[-1], 2,
              "the node that was UP joins again")
        until(crowd.is_full, 10, "all places are taken again")
        joins_within(cluster, "honest-4", 2)
        assert cluster.node_state("a") == "UP"
        assert crowd.ended > 0
    said = cluster.master.log()[before:]
    assert 1 <= said.count("event=registry_crowded") <= 2, "once a minute, in each health process"
    assert not [line for line in said.splitlines() if 'node="a"' in line and "to=GONE" in line]


def test_connections_that_only_ask_for_health_without_end_keep_no_node_out(cluster, evil, watch):
    """Each of them holds a call open, so none is ever idle."""
    crowd = []
    with watch() as cost:
        for _ in range(800):
            connection = evil()
            crowd.append(connection)
            connection.request(1, path="/grpc.health.v1.Health/Watch")
        joins_within(cluster, "honest-5", 2)
        assert cluster.node_state("a") == "UP"
    cost.expect(cpu=8, memory=150, lines=24)
    for connection in crowd:
        connection.sock.close()


@pytest.mark.parametrize("frames, wanted", [
    ([registration()], "16"),
    ([registration(join_proof=b"")], "3"),
    ([registration(join_proof=bytes(31))], "3"),
    ([registration(node_id="a b")], "3"),
    ([registration(node_id="n" * 200)], "3"),
    ([registration(port=0)], "3"),
    ([registration(host="h" * 500)], "3"),
    ([registry.NodeFrame(heartbeat=registry.Heartbeat()).SerializeToString()], "3"),
    ([registry.NodeFrame(leave=registry.Leave(reason="x")).SerializeToString()], "3"),
    ([registry.NodeFrame().SerializeToString()] * 3, "3"),
    ([b"\xff\xff\xff"], "3"),
    ([registration(engine_version="v" * 1200000)], "8"),
    ([registration(models=[common.Model(id="m" * 120, aliases=["a" * 120] * 16)] * 64)], "16"),
    ([registration()] * 2, "16"),
], ids=range(14))
def test_a_node_that_does_not_prove_the_token_is_sent_away(cluster, evil, frames, wanted):
    with evil() as connection:
        assert attach(connection, *frames) == wanted
    assert cluster.node_row("evil") is None


def test_wrong_proofs_are_held_off_and_logged_in_few_lines(cluster, evil, watch):
    with watch() as cost:
        said = []
        for _ in range(100):
            with evil() as connection:
                said.append(attach(connection, registration()))
        honest_node_joins(cluster, "honest-2")
    assert set(said) == {"16", "8"} and said[-1] == "8"  # held off in the end
    cost.expect(cpu=4, lines=40)


def test_a_node_that_says_too_much_is_bounded(cluster, watch):
    """It knows the token; and still others are served."""
    with BadNode(cluster, "chatty", lambda c, s: c.answer(s, good_answer())) as bad, watch() as cost:
        for _ in range(2000):
            bad.attachment.heartbeat(bad)
        until(lambda: bad.attachment.frames.qsize() >= 2000, 10, "all are acknowledged")
    cost.expect(cpu=6, memory=64, lines=20)
