"""The registry, against nodes made of grpcio: joining, proofs, limits, leases, replacement."""

import os
import socket
import threading
import time

import grpc
import pytest

from fake_node import common, Heart, registry
from h2raw import Raw
from harness import SLOW, until
from plant import make_plant, OLD_TOKEN, plant, TOKEN  # noqa: F401 (fixtures)
from silent import ATTACH
from wire import DATA, END_HEADERS, HEADERS, frame, framed


# ---- joining ----

def test_a_node_with_the_token_joins_and_gets_up_quickly(plant):
    node = plant.fake("a")
    began = time.monotonic()
    attachment = plant.join(node)
    row = plant.wait_state("a", "UP", "probes_pass")
    assert time.monotonic() - began < 2 * SLOW
    assert not attachment.answer.resumed
    assert row["instance_id"] == node.instance.hex()
    assert row["address"] == f"127.0.0.1:{node.port}"
    assert (row["slots"], row["slots_open"], row["queue"]) == (4, 4, 2)
    assert [model["id"] for model in row["models"]] == ["fake-model"]
    assert row["models"][0]["operations"] == ["chat_completions", "completions"]
    assert row["origin"] == "registry" and row["generation"] == 1


def test_load_reports_reach_the_scoreboard_and_are_acknowledged(plant):
    node = plant.fake("a")
    attachment = plant.join(node, heart=False)
    node.load = dict(engine_reachable=True, running=3, queued=1, kv_used_fraction=0.5)
    report = node.report()
    attachment.send(heartbeat=registry.Heartbeat(load=report))
    assert attachment.expect("heartbeat_ack").load_seq == report.seq
    row = plant.node_row("a")
    assert row["reported"]["running"] == 3 and row["reported"]["queued"] == 1
    assert row["reported"]["kv_used_fraction"] == 0.5
    # A report that is not newer than the last changes nothing.
    attachment.send(heartbeat=registry.Heartbeat(
        load=common.LoadReport(seq=report.seq, engine_reachable=True, running=9)))
    attachment.expect("heartbeat_ack")
    assert plant.node_row("a")["reported"]["running"] == 3


def refused(attachment, message):
    attachment.send(register=message)
    return attachment.ended()


def test_a_wrong_token_is_refused_and_leaves_no_trace(plant):
    node = plant.fake("a")
    attachment = plant.attach()
    attachment.greet()
    message = attachment.registration(node, "wrong" * 8)
    began = time.monotonic()
    assert refused(attachment, message) == grpc.StatusCode.UNAUTHENTICATED
    assert time.monotonic() - began >= 0.05, "the answer waits a random moment"
    assert plant.node_row("a") is None
    assert plant.metric("drover_registry_refused_total") == 1


@pytest.mark.parametrize("field,value", [("port", 1234), ("host", "127.0.0.9"),
                                         ("node_id", "b"), ("instance_id", b"\1" * 16)])
def test_a_proof_covers_who_the_node_is_and_where(plant, field, value):
    attachment = plant.attach()
    attachment.greet()
    message = attachment.registration(plant.fake("a"), TOKEN)
    setattr(message, field, value)
    assert refused(attachment, message) == grpc.StatusCode.UNAUTHENTICATED
    assert plant.nodes_json() == []


def test_a_replayed_proof_is_refused(plant):
    node = plant.fake("a")
    first = plant.attach()
    first.greet()
    message = first.registration(node, TOKEN)
    first.send(register=message)
    first.expect("registered")
    second = plant.attach()
    second.greet()
    assert second.hello.server_nonce != first.hello.server_nonce
    assert refused(second, message) == grpc.StatusCode.UNAUTHENTICATED
    assert first.status is None, "the real node is not disturbed"


def test_the_previous_token_still_opens_while_tokens_change(make_plant):
    plant = make_plant(start=False)
    plant.token_path.write_text(f"{TOKEN}\n{OLD_TOKEN}\n")
    plant.start()
    plant.join(plant.fake("a"), TOKEN)
    plant.join(plant.fake("b"), OLD_TOKEN)  # register() checks the coordinator's proof by it
    plant.wait_state("a", "UP")
    plant.wait_state("b", "UP")


def test_many_wrong_proofs_from_one_address_are_held_off(plant):
    node = plant.fake("a")
    codes = []
    for _ in range(14):
        attachment = plant.attach()
        first = attachment.next()
        if first is None:
            codes.append(attachment.status[0])
            continue
        attachment.hello = first.hello
        codes.append(refused(attachment, attachment.registration(node, "wrong" * 8)))
    assert codes[:10] == [grpc.StatusCode.UNAUTHENTICATED] * 10
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes[10:]

    def joined():
        attachment = plant.attach()
        first = attachment.next()
        if first is None:
            return False
        attachment.hello = first.hello
        return attachment.register(node, TOKEN)
    until(joined, 10, "it is forgiven after a while")


@pytest.mark.parametrize("changes", [
    dict(instance_id=b"short"), dict(node_nonce=b""), dict(port=0), dict(port=70000),
    dict(host="not numeric"), dict(node_id="a b"), dict(node_id="x" * 64),
    dict(engine_version="v" * 128)])
def test_a_registration_that_breaks_a_limit_is_refused(plant, changes):
    attachment = plant.attach()
    attachment.greet()
    message = registry.Register()
    message.CopyFrom(attachment.registration(plant.fake("a"), TOKEN))
    for key, value in changes.items():
        setattr(message, key, value)
    from fake_node import proof
    if message.port < 65536:
        message.join_proof = proof("drover.v1 join", TOKEN, attachment.hello.server_nonce,
                                   message)
    attachment.send(register=message)
    assert attachment.expect("evicted").reason == registry.Evicted.REASON_PROTOCOL
    assert attachment.ended() == grpc.StatusCode.INVALID_ARGUMENT
    assert plant.nodes_json() == []


def test_too_many_models_and_wild_bytes_are_refused(plant):
    node = plant.fake("a")
    node.models = [f"m{i}" for i in range(1025)]
    attachment = plant.attach()
    attachment.greet()
    assert (refused(attachment, attachment.registration(node, TOKEN))
            == grpc.StatusCode.INVALID_ARGUMENT)
    for wild in (b"\xff" * 40, b"\x0a\x05\x0a\x03\xff\xfe\xfd", b"\x12\x00"):
        attachment = plant.attach()
        attachment.greet()
        attachment.outgoing.put(wild)
        assert attachment.ended() == grpc.StatusCode.INVALID_ARGUMENT
    assert plant.nodes_json() == []


def test_a_stream_that_does_not_register_ends(plant):
    attachment = plant.attach()
    attachment.greet()
    assert attachment.ended(20) == grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_oldest_of_too_many_streams_that_do_not_register_make_room(plant):
    """256 may be unregistered at once; nobody waits for a place."""
    held = []
    for _ in range(260):
        held.append(plant.attach())
        held[-1].greet()
    assert [a.ended() for a in held[:4]] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
    plant.join(plant.fake("a"))
    assert held[4].ended() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert plant.metric("drover_registry_crowded_total") == 5
    assert plant.master.log().count("event=registry_crowded") == 1
    for attachment in held:
        attachment.break_off()


def test_each_v4_address_counts_for_itself_on_a_listener_for_v6(make_plant):
    plant = make_plant(config={"registry": {"listen": "[::]:0"}})
    port = plant.address("registry")[1]
    plant.address = lambda which, real=plant.address: ("127.0.0.1", port) if which == "registry" else real(which)
    wrong = registry.NodeFrame(register=registry.Register(
        node_id="evil", instance_id=bytes(16), node_nonce=bytes(32), join_proof=bytes(32), port=9)).SerializeToString()
    with Raw(port, source="127.0.0.2") as evil:
        said = []
        for stream in range(1, 31, 2):
            evil.send(frame(HEADERS, END_HEADERS, stream, evil.head(ATTACH)) + frame(DATA, 0, stream, framed(wrong)))
            said.append(evil.answer(stream)["headers"]["grpc-status"])
        assert said[-1] == "8", "it is held off"
        plant.join(plant.fake("a"))
    assert 'peer="127.0.0.2:' in plant.master.log()
    row = plant.wait_state("a", "UP")
    assert row["address"].startswith("127.0.0.1:")


def test_a_full_table_evicts_the_newcomer_and_a_gone_row_makes_room(make_plant):
    plant = make_plant(config={"limits": {"max_nodes": 2}})
    first = plant.join(plant.fake("a"))
    plant.join(plant.fake("b"))
    third = plant.attach()
    third.greet()
    node = plant.fake("c")
    third.send(register=third.registration(node, TOKEN))
    assert third.expect("evicted").reason == registry.Evicted.REASON_TABLE_FULL
    assert third.ended() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ('event=join_refused node="c" why="the node table is full"'
            in plant.master.log()), "only the node was told"
    first.send(leave=registry.Leave(reason="test"))
    first.expect("left")
    plant.wait_state("a", "GONE")
    plant.join(node)
    plant.wait_state("c", "UP")
    assert {row["name"] for row in plant.nodes_json()} == {"b", "c"}


def test_forty_nodes_that_join_at_once_are_all_up_soon(plant):
    nodes = [plant.fake(f"n{i}") for i in range(40)]
    began = time.monotonic()
    threads = [threading.Thread(target=plant.join, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: [row["state"] for row in plant.nodes_json()] == ["UP"] * 40, 10, "all are UP")
    assert time.monotonic() - began < 10 * SLOW


# ---- addresses that lie ----

def test_a_node_that_cannot_be_reached_never_gets_up(plant):
    node = plant.fake("a")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        plant.join(node, port=closed.getsockname()[1])
        plant.wait_state("a", "JOINING", "connect_failed")
        until(lambda: plant.metric("drover_node_checked_age_seconds", node="a") >= 0, 5)
        assert plant.state("a")[0] == "JOINING"


def test_the_address_of_another_node_does_not_get_a_liar_up(plant):
    honest = plant.fake("honest")
    liar = plant.fake("liar")
    plant.join(liar, port=honest.port)
    plant.wait_state("liar", "JOINING", "protocol")
    checks = honest.checks
    until(lambda: honest.checks > checks + 3, 10, "it has been probed again and again")
    assert plant.state("liar") == ("JOINING", "protocol")


# ---- leases ----

SHORT_LEASE = {"registry": {"lease_ms": int(1000 * max(SLOW, 2))}}  # it is to run out


def test_a_silent_node_is_down_first_and_gone_at_the_end_of_its_lease(make_plant):
    plant = make_plant(config=SHORT_LEASE)
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    attachment.heart.stop()
    plant.wait_state("a", "DOWN", "lease_lost")
    assert attachment.status is None, "down, but not yet evicted"
    assert attachment.expect("evicted").reason == registry.Evicted.REASON_LEASE_EXPIRED
    plant.wait_state("a", "GONE", "lease_lost")


def test_a_node_that_was_silent_for_a_while_comes_back(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    before = plant.wait_state("a", "UP")
    attachment.heart.stop()
    plant.wait_state("a", "DOWN", "lease_lost")
    plant.hearts.append(Heart(attachment, node))
    after = plant.wait_state("a", "UP")
    assert after["generation"] == before["generation"]


def test_a_broken_stream_takes_the_node_out_at_once_and_the_same_instance_resumes(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    before = plant.wait_state("a", "UP")
    attachment.heart.stop()
    began = time.monotonic()
    attachment.break_off()
    plant.wait_state("a", "DOWN", "lease_lost")
    assert time.monotonic() - began < 1 * SLOW
    again = plant.join(node)
    assert again.answer.resumed
    after = plant.wait_state("a", "UP")
    assert (after["node_id"], after["generation"]) == (before["node_id"], before["generation"])


def test_a_broken_stream_that_is_not_resumed_ends_with_the_lease(make_plant):
    plant = make_plant(config=SHORT_LEASE)
    node = plant.fake("a")
    attachment = plant.join(node)
    plant.wait_state("a", "UP")
    attachment.heart.stop()
    attachment.break_off()
    plant.wait_state("a", "GONE", "lease_lost")
    again = plant.join(node)
    assert not again.answer.resumed
    row = plant.wait_state("a", "UP")
    assert row["generation"] == 2
    assert len(plant.nodes_json()) == 1, "one name, one row"


def test_a_node_that_never_stops_leaving_says_so_once_in_the_log(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    plant.wait_state("a", "UP")
    for _ in range(50):
        attachment.send(leave=registry.Leave(reason="again"))
    attachment.expect("left")
    plant.wait_state("a", "GONE")
    assert plant.master.log().count("event=node_leaves") == 1


def test_a_newer_instance_takes_the_name_over(plant):
    old = plant.fake("a")
    first = plant.join(old)
    before = plant.wait_state("a", "UP")
    new = plant.fake("a")
    second = plant.join(new)
    assert first.expect("evicted").reason == registry.Evicted.REASON_SUPERSEDED
    assert first.ended() == grpc.StatusCode.ABORTED
    assert not second.answer.resumed
    after = plant.wait_state("a", "UP")
    assert after["instance_id"] == new.instance.hex()
    assert (after["node_id"], after["generation"]) != (before["node_id"], before["generation"])
    assert len(plant.nodes_json()) == 1


def test_an_older_instance_does_not_get_its_name_back_while_a_newer_holds_it(plant):
    older, newer = plant.fake("a"), plant.fake("a")
    cut = plant.join(older)
    plant.wait_state("a", "UP")
    cut.heart.stop()
    cut.close()  # its network is cut: it hears nothing of its successor
    attachment = plant.join(newer)
    until(lambda: plant.node_row("a")["instance_id"] == newer.instance.hex(), 10, "the newer")
    plant.wait_state("a", "UP")
    back = plant.attach()
    back.greet()
    back.send(register=back.registration(older, TOKEN))
    assert back.expect("evicted").reason == registry.Evicted.REASON_SUPERSEDED
    assert back.ended() == grpc.StatusCode.ABORTED
    assert attachment.status is None and plant.state("a") == ("UP", "probes_pass")
    assert plant.node_row("a")["instance_id"] == newer.instance.hex()
    # Once the newer has gone for good, the name is free.
    attachment.send(leave=registry.Leave(reason="test"))
    attachment.expect("left")
    attachment.heart.stop()
    plant.join(older)
    until(lambda: plant.node_row("a")["instance_id"] == older.instance.hex(), 10, "the older")


def test_a_node_that_comes_and_goes_has_to_wait(make_plant):
    plant = make_plant(config={"health": {"flap_wait_ms": int(2000 * SLOW)}})
    for losses in range(3):
        node = plant.fake("a")  # a process of its own each time
        attachment = plant.join(node)
        plant.wait_state("a", "UP", "probes_pass")
        attachment.heart.stop()
        attachment.close()
        plant.wait_state("a", "DOWN", "lease_lost")
    began = time.monotonic()
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "JOINING", "flapping")
    plant.wait_state("a", "UP", "probes_pass")
    assert time.monotonic() - began > SLOW, "most of the two seconds"


@pytest.mark.parametrize("kind", ["the same", "that leaves", "another each time"])
def test_a_name_that_joins_in_a_loop_does_not_flood_the_log(plant, kind):
    node, joins, deadline = plant.fake("a"), 0, time.monotonic() + 60 * SLOW
    while joins < 120:
        assert time.monotonic() < deadline
        attachment = plant.attach()
        node.instance = os.urandom(16)
        attachment.register(node, TOKEN)
        joins += 1
        if kind == "that leaves":
            attachment.send(leave=registry.Leave(reason="x"))
            attachment.expect("left")
        elif kind == "another each time":
            node.name = f"a{joins % 5}"
        attachment.close()
    assert plant.metric("drover_registry_joins_total") == joins
    names = 5 if kind == "another each time" else 1
    lines = [line for line in plant.master.log().splitlines() if "node=" in line]
    assert 30 <= len(lines) <= names * 60, "40 for each name, and one in ten seconds"
    plant.join(plant.fake("other"))
    plant.wait_state("other", "UP")
    assert plant.master.log().count('node="other"') >= 3


def test_a_second_stream_of_the_same_instance_replaces_the_first(plant):
    node = plant.fake("a")
    first = plant.join(node)
    plant.wait_state("a", "UP")
    second = plant.join(node)
    assert second.answer.resumed
    assert first.ended() == grpc.StatusCode.ABORTED
    assert plant.wait_state("a", "UP")["generation"] == 1


def test_models_can_change_while_attached(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    plant.wait_state("a", "UP")
    attachment.send(models=registry.ModelsUpdate(
        models=[common.Model(id="new", aliases=["newer"],
                             operations=[common.OPERATION_EMBEDDINGS])],
        capacity=common.Capacity(slots=9, queue=1)))
    row = until(lambda: [row for row in plant.nodes_json() if row["slots"] == 9], 5)[0]
    assert [(m["id"], m.get("alias_of"), m["operations"]) for m in row["models"]] == [
        ("new", None, ["embeddings"]), ("newer", "new", ["embeddings"])]
    assert row["slots_open"] == 9 and row["queue"] == 1


def test_an_engine_that_is_detected_late_is_shown(plant):
    node = plant.fake("a")
    attachment = plant.join(node, engine=common.ENGINE_KIND_UNSPECIFIED)
    attachment.send(models=registry.ModelsUpdate(models=node.model_list()))
    until(lambda: plant.node_row("a")["engine"] == "simulated", 5, "the engine is known")


def test_registering_twice_on_one_stream_is_a_protocol_error(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    plant.wait_state("a", "UP")
    attachment.heart.stop()
    attachment.send(register=attachment.registration(node, TOKEN))
    assert attachment.expect("evicted").reason == registry.Evicted.REASON_PROTOCOL
    plant.wait_state("a", "DOWN", "lease_lost")
