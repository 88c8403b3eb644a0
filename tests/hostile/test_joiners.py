"""Malicious joiners against the registry: who does not know the token takes nothing and keeps
nobody out.

Each test has an address of its own: what one address does is that address's trouble.
"""
import itertools
import os

import pytest

from bad_node import BadNode, good_answer
from fake_node import common, registry
from h2raw import Raw
from harness import until
from watch import Watch
from wire import END_HEADERS, HEADERS, frame, framed

ATTACH = "/drover.v1.Registry/Attach"
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
