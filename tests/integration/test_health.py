"""The health process, against nodes made of grpcio: probes, static nodes, draining, and reports.

Everything is seen through the admin listener, so these tests need no drover-node.
"""

import json
import os
import queue
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest

from fake_node import FakeNode, Heart, registry
from harness import program, SLOW, until
from plant import box, check_histogram, make_plant, plant, static, static_plant  # noqa: F401 (fixtures)


# ---- the admin listener ----

def test_livez_is_ok_and_readyz_waits_for_a_node(plant):
    assert plant.get("/livez")[0] == 200
    status, _, body = plant.get("/readyz")
    assert (status, body) == (503, "no node is up\n")
    plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    assert plant.get("/readyz")[0] == 200


def test_the_admin_listener_answers_only_what_it_knows(plant):
    assert plant.get("/nothing")[0] == 404
    status, headers, _ = plant.get("/livez", "POST")
    assert status == 405 and headers["Allow"] == "GET, HEAD"
    status, headers, body = plant.get("/metrics", "HEAD")
    assert status == 200 and body == "" and int(headers["Content-Length"]) > 1000
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_silent_connections_do_not_keep_the_admin_listener_from_answering(plant):
    other = socket.create_connection(plant.address("admin"), source_address=("127.0.0.2", 0))
    held = [socket.create_connection(plant.address("admin")) for _ in range(100)]
    for s in held[:50]:
        s.sendall(b"GET /metrics HTT")
    for _ in range(3):
        assert plant.get("/livez")[0] == 200
    assert 'drover_process_connections_gave_way_total{proc="health"} 0' not in plant.get("/metrics")[2]
    other.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert other.recv(100).startswith(b"HTTP/1.1 200 "), "those of the crowd go first"
    for s in held + [other]:
        s.close()


def test_metrics_are_valid_prometheus_text_and_carry_traffic(plant):
    node = plant.fake("a")
    node.infer_gate.set()
    plant.join(node)
    plant.wait_state("a", "UP")
    body = json.dumps({"model": "fake-model", "messages": [{"role": "user", "content": "hi"}]})

    def served():
        request = urllib.request.Request(plant.url + "/v1/chat/completions", body.encode(),
                                         {"content-type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=10 * SLOW).status == 200
        except urllib.error.HTTPError:
            return False
    until(served, 10, "a request is served")
    until(lambda: plant.metric("drover_node_attempts_total", node="a", outcome="ok") == 1, 5,
          "the attempt is counted")
    families = plant.metrics()
    for name, (kind, samples) in families.items():
        assert kind, f"{name} has no type"
        if kind == "histogram":
            series = check_histogram(name, samples)
            if name == "drover_node_ttft_seconds":
                assert series[(("node", "a"),)]["_count"] == 1
        if kind == "counter":
            assert name.endswith("_total") or name == "drover_config_generation", name
    for name in ("gen_ai_server_time_to_first_token_seconds",
                 "gen_ai_server_time_per_output_token_seconds",
                 "gen_ai_server_request_duration_seconds", "gen_ai_client_token_usage"):
        assert families[name][0] == "histogram"
    assert plant.metric("gen_ai_server_request_duration_seconds",
                        gen_ai_request_model="fake-model") is not None
    assert plant.metric("drover_slots_total") == 4
    assert plant.metric("drover_node_state", node="a", state="UP") == 1
    assert plant.metric("drover_process_running", proc="health") == 1
    assert plant.metric("drover_registry_attached") == 1


# ---- leaving and draining ----

def test_an_idle_node_may_leave_at_once(plant):
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    attachment.send(leave=registry.Leave(reason="SIGTERM", drain_ms=10000))
    attachment.expect("left", 5)
    assert attachment.ended() == grpc.StatusCode.OK
    plant.wait_state("a", "GONE", "leaving")


def test_a_node_that_leaves_may_go_only_when_its_requests_are_done(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    plant.wait_state("a", "UP")
    answers = []

    def ask():
        body = json.dumps({"model": "fake-model", "messages": []}).encode()
        answers.append(urllib.request.urlopen(urllib.request.Request(
            plant.url + "/v1/chat/completions", body, {"content-type": "application/json"}),
            timeout=30 * SLOW).status)
    until(lambda: plant.get("/readyz")[0] == 200, 5)
    client = threading.Thread(target=ask)
    client.start()
    assert node.infer_started.acquire(timeout=10 * SLOW)
    attachment.send(leave=registry.Leave(reason="SIGTERM", drain_ms=30000))
    plant.wait_state("a", "DRAINING", "leaving")
    with pytest.raises(queue.Empty):
        attachment.expect("left", 0.5)
    assert plant.node_row("a")["inflight"] == 1
    node.infer_gate.set()
    attachment.expect("left")
    client.join()
    assert answers == [200]
    plant.wait_state("a", "GONE", "leaving")


def test_a_node_that_leaves_does_not_wait_for_ever(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    plant.wait_state("a", "UP")

    def ask():
        body = json.dumps({"model": "fake-model", "messages": []}).encode()
        try:
            urllib.request.urlopen(plant.url + "/v1/chat/completions", body, timeout=30 * SLOW)
        except OSError:
            pass
    client = threading.Thread(target=ask, daemon=True)
    client.start()
    assert node.infer_started.acquire(timeout=10 * SLOW)
    attachment.send(leave=registry.Leave(reason="SIGTERM", drain_ms=300))
    attachment.expect("left", 5)
    plant.wait_state("a", "GONE", "leaving")
    node.infer_gate.set()
    client.join()


def has_droverctl():
    try:
        return bool(program("droverctl"))
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not has_droverctl(), reason="droverctl is not built")
def test_the_operator_drains_and_undrains_and_the_node_hears_of_it(plant):
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    plant.ctl("drain", "a")
    row = plant.wait_state("a", "DRAINING", "operator")
    assert row["drain_wanted"]
    while True:
        frame = attachment.next()
        if frame.WhichOneof("frame") == "drain":
            assert frame.drain.drain
            break
    plant.ctl("undrain", "a")
    row = plant.wait_state("a", "UP")
    assert not row["drain_wanted"]
    assert plant.ctl("drain", "nobody", check=False).returncode != 0


@pytest.mark.skipif(not has_droverctl(), reason="droverctl is not built")
def test_a_drain_command_outlives_the_nodes_process(plant):
    plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    plant.ctl("drain", "a")
    plant.wait_state("a", "DRAINING", "operator")
    second = plant.join(plant.fake("a"))
    frame = second.next()
    assert frame.WhichOneof("frame") == "drain" and frame.drain.drain
    assert plant.state("a") == ("DRAINING", "operator")


# ---- static nodes ----

def test_a_static_node_is_described_and_its_config_overrides_it(make_plant):
    node = FakeNode("box")
    plant = make_plant(config={"nodes": [dict(static("box", node.port), slots=2, weight=50)]})
    plant.fakes.append(node)
    row = plant.wait_state("box", "UP")
    assert row["origin"] == "static"
    assert (row["slots"], row["queue"], row["weight_pct"]) == (2, 1, 50)
    assert row["instance_id"] == node.instance.hex()
    assert row["engine"] == "simulated" and row["engine_version"] == "fake 1"


def test_a_static_node_goes_down_with_its_process_and_up_with_the_next(box):
    first = box.box.instance
    box.box.stop()
    box.wait_state("box", "DOWN", "connect_failed")
    assert box.get("/readyz")[0] == 503
    box.box.restart()
    row = box.wait_state("box", "UP")
    assert row["instance_id"] == box.box.instance.hex() != first.hex()
    assert row["generation"] == 1


def test_a_static_node_that_comes_late_is_let_in(make_plant):
    node = FakeNode("box")
    node.stop()
    plant = static_plant(make_plant, node)
    plant.fakes.append(node)
    plant.wait_state("box", "JOINING", "connect_failed")
    node.restart()
    plant.wait_state("box", "UP")


def test_a_node_by_name_is_resolved(make_plant):
    node = FakeNode("box")
    plant = make_plant(config={"nodes": [
        {"name": "box", "address": f"localhost:{node.port}"},
        {"name": "lost", "address": "no-such-host.invalid:1"}]})
    plant.fakes.append(node)
    row = plant.wait_state("box", "UP")
    assert row["address"] in (f"127.0.0.1:{node.port}", f"[::1]:{node.port}")
    plant.wait_state("lost", "JOINING", "connect_failed", 30)


def test_the_reason_says_what_is_wrong_with_the_engine(box):
    box.box.set_load(engine_reachable=False, engine_detail="connection refused")
    box.box.serving = False
    box.wait_state("box", "DOWN", "engine_down")
    box.box.set_load(engine_reachable=True, loading=True, engine_detail="loading model")
    box.wait_state("box", "DOWN", "engine_loading")
    box.box.set_load()
    box.wait_state("box", "DOWN", "not_serving")
    box.box.serving = True
    box.wait_state("box", "UP")


def test_a_node_that_reports_a_dead_engine_is_out_at_once(make_plant):
    node = FakeNode("box")
    plant = make_plant(config={"nodes": [static("box", node.port)],
                               "health": {"interval_ms": 60000}})
    plant.fakes.append(node)
    plant.wait_state("box", "UP")
    until(lambda: node.watchers, 5, "its load is watched")
    began = time.monotonic()
    node.set_load(engine_reachable=False)
    plant.wait_state("box", "DOWN", "engine_down")
    assert time.monotonic() - began < 1 * SLOW, "it did not take a probe"
    node.set_load()
    plant.wait_state("box", "UP")
    assert time.monotonic() - began < 3 * SLOW


def test_a_node_that_does_not_answer_in_time_is_down(make_plant):
    node = FakeNode("box")
    plant = make_plant(config={"nodes": [static("box", node.port)],
                               "health": {"timeout_ms": 200}})
    plant.fakes.append(node)
    plant.wait_state("box", "UP")
    node.silent.set()
    plant.wait_state("box", "DOWN", "probe_timeout")
    node.silent.clear()
    plant.wait_state("box", "UP")


class Fickle(FakeNode):
    """Says in turn that it serves and that it does not, and now and then why."""

    def check(self, request, context):
        self.serving = not self.serving
        return super().check(request, context)


def test_a_node_that_fails_every_other_probe_is_logged_once(make_plant):
    node = Fickle("box")
    plant = static_plant(make_plant, node)
    plant.fakes.append(node)
    plant.wait_state("box", "UP")
    checks = node.checks
    until(lambda: node.checks >= checks + 20, 30, "twenty more checks")
    assert plant.state("box")[0] == "UP"
    since = plant.master.log().split(" to=UP ", 1)[1]
    assert since.count("event=probe_failed") == 1, since


def test_a_node_whose_engine_comes_and_goes_does_not_fill_the_log(make_plant):
    """Its own reports could do that as fast as it can send them."""
    node = FakeNode("box")
    plant = make_plant(config={"nodes": [static("box", node.port)],
                               "health": {"flap_wait_ms": 10000}})
    plant.fakes.append(node)
    plant.wait_state("box", "UP")
    until(lambda: node.watchers, 5, "its load is watched")
    for _ in range(3):
        node.set_load(engine_reachable=False)
        plant.wait_state("box", "DOWN")
        node.set_load()
        until(lambda: plant.state("box") in (("UP", "probes_pass"), ("DOWN", "flapping")), 10)
    before = plant.master.log().count("event=node_cannot_serve")
    for _ in range(100):
        node.set_load(engine_reachable=False)
        node.set_load()
    node.set_load(engine_reachable=False, loading=True)
    until(lambda: plant.state("box") == ("DOWN", "engine_loading"), 10, "it has heard them all")
    assert plant.master.log().count("event=node_cannot_serve") <= before + 2, plant.master.log()


def test_a_server_that_is_no_node_never_gets_up(make_plant):
    speaker = socket.socket()
    speaker.bind(("127.0.0.1", 0))
    speaker.listen(16)
    stop = threading.Event()

    def answer():
        speaker.settimeout(0.1)
        while not stop.is_set():
            try:
                peer, _ = speaker.accept()
            except OSError:
                continue
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            peer.close()
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        plant = make_plant(config={"nodes": [static("web", speaker.getsockname()[1])]})
        until(lambda: plant.state("web")[1] in ("connect_failed", "protocol"), 10)
        assert plant.state("web")[0] == "JOINING"
    finally:
        stop.set()
        thread.join()
        speaker.close()


# ---- the health process itself ----

def test_a_reload_adds_and_removes_static_nodes_and_leaves_the_others_alone(make_plant):
    nodes = {name: FakeNode(name) for name in ("keep", "drop", "add")}
    plant = static_plant(make_plant, nodes["keep"], nodes["drop"])
    plant.fakes += nodes.values()
    joined = plant.join(plant.fake("joined"))
    plant.wait_state("joined", "UP")
    before = plant.wait_state("keep", "UP")
    plant.wait_state("drop", "UP")
    plant.settings["nodes"] = [static("add", nodes["add"].port),
                               dict(static("keep", nodes["keep"].port), weight=70)]
    plant.write_config()
    plant.master.signal(signal.SIGHUP)
    plant.wait_state("add", "UP")
    until(lambda: plant.node_row("drop") is None, 10, "the removed node's row is empty")
    after = plant.wait_state("keep", "UP")
    assert after["weight_pct"] == 70
    assert (after["node_id"], after["generation"]) == (before["node_id"], before["generation"])
    assert after["state_age_ms"] >= before["state_age_ms"], "it was UP all the time"
    assert plant.state("joined") == ("UP", "probes_pass") and joined.status is None


def test_a_joined_node_stays_up_while_the_health_process_is_replaced(plant):
    node = plant.fake("a")
    attachment = plant.join(node)
    before = plant.wait_state("a", "UP")
    attachment.heart.stop()
    pid = plant.health_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: plant.health_pid() not in (None, pid), 5, "another health process")
    until(plant.live, 5, "it answers")
    assert plant.state("a")[0] == "UP", "taken over as it was"
    again = plant.join(node)
    assert again.answer.resumed
    after = plant.node_row("a")
    assert after["state"] == "UP"
    assert (after["node_id"], after["generation"]) == (before["node_id"], before["generation"])


def test_a_node_that_does_not_come_back_to_a_new_health_process_is_gone(plant):
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    attachment.heart.stop()
    pid = plant.health_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: plant.health_pid() not in (None, pid), 5, "another health process")
    until(plant.live, 5, "it answers")
    assert plant.state("a")[0] == "UP"
    plant.wait_state("a", "GONE", "lease_lost")


def test_leases_do_not_run_out_because_the_health_process_was_stopped(plant):
    attachment = plant.join(plant.fake("a"))
    before = plant.wait_state("a", "UP")
    attachment.heart.stop()  # so that no heartbeat waits in the socket to save the lease
    pid = plant.health_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        # Longer than the lease, shorter than the master's patience.
        until(lambda: next(row["heartbeat_age_ms"] for row in plant.ctl_rows("workers")
                           if row["kind"] == "health") > 4000, 10, "the health process is silent")
    finally:
        os.kill(pid, signal.SIGCONT)
    plant.hearts.append(Heart(attachment, plant.fakes[0]))
    after = plant.wait_state("a", "UP")
    assert attachment.status is None, "not evicted"
    assert after["generation"] == before["generation"]
    until(lambda: "loop_stood_still" in plant.master.log(), 5)


def test_nodes_are_evicted_when_the_coordinator_stops(plant):
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    plant.master.signal(signal.SIGTERM)
    assert attachment.expect("evicted").reason == registry.Evicted.REASON_SHUTDOWN
    assert attachment.ended() == grpc.StatusCode.UNAVAILABLE
    assert plant.master.wait(10) == 0


def test_a_scraper_that_leaves_amid_its_answer_leaves_nothing_behind(plant):
    """The text is made in parts, a turn of the loop each."""
    for _ in range(40):
        with socket.create_connection(plant.address("admin")) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
    assert plant.metrics()["drover_registry_joins_total"]
