"""The health process, against nodes made of grpcio: joining, leases, probes, and what it tells.

Everything is seen through the admin listener, so these tests need neither droverctl nor
drover-node.
"""

import json
import os
import queue
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest

from fake_node import Attachment, FakeNode, Heart, common, registry
from harness import SLOW, Cluster, Timeout, children_of, program, until

TOKEN = "integration-test-token-0123456789abcdef"
OLD_TOKEN = "the-token-of-before-0123456789abcdef00"


def http(address, path, method="GET"):
    """(status, headers, body)"""
    request = urllib.request.Request("http://%s:%d%s" % (*address, path), method=method)
    try:
        with urllib.request.urlopen(request, timeout=10 * SLOW) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read().decode()


# ---- a parser of the Prometheus text format, as strict as the format is ----

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')


def parse_labels(text):
    labels = {}
    while text:
        match = LABEL.match(text)
        assert match, f"bad labels: {text!r}"
        assert match.group(1) not in labels, f"label twice: {text!r}"
        labels[match.group(1)] = re.sub(
            r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), match.group(2))
        assert match.group(3) != "," or match.end() < len(text), "comma at the end"
        text = text[match.end():]
    return labels


def parse_metrics(text):
    """{family: (type, [(name, labels, value)])}; asserts every rule of the format we know."""
    assert text.endswith("\n")
    families, current, seen = {}, None, set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            assert current not in families, f"{current} comes twice"
            families[current] = (None, [])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current and families[name] == (None, []), line
            assert kind in ("counter", "gauge", "histogram"), line
            families[name] = (kind, [])
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"not a sample: {line!r}"
            name, labels, value = match.group(1), parse_labels(match.group(2) or ""), match.group(3)
            kind, samples = families[current]
            if kind == "histogram":
                assert name in (current + "_bucket", current + "_sum", current + "_count"), line
            else:
                assert name == current, f"{line!r} in the family {current}"
            key = (name, tuple(sorted(labels.items())))
            assert key not in seen, f"sample twice: {line!r}"
            seen.add(key)
            samples.append((name, labels, float(value)))
    return families


def check_histogram(name, samples):
    """Buckets grow, end with +Inf, and +Inf is the count."""
    series = {}
    for sample, labels, value in samples:
        rest = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        one = series.setdefault(rest, {"buckets": []})
        if sample.endswith("_bucket"):
            one["buckets"].append((float(labels["le"]), value))
        else:
            one[sample[len(name):]] = value
    for rest, one in series.items():
        bounds = [bound for bound, _ in one["buckets"]]
        counts = [count for _, count in one["buckets"]]
        assert bounds == sorted(bounds) and len(set(bounds)) == len(bounds), (name, rest)
        assert bounds[-1] == float("inf"), (name, rest)
        assert counts == sorted(counts), (name, rest)
        assert counts[-1] == one["_count"], (name, rest)
        assert "_sum" in one, (name, rest)
    return series


# ---- the system under test ----

class Plant(Cluster):
    """A cluster that is looked at through its admin listener only."""

    def __init__(self, name, **options):
        super().__init__(name=name, **options)
        self.fakes = []
        self.attachments = []
        self.hearts = []

    def get(self, path, method="GET"):
        return http(self.address("admin"), path, method)

    def metrics(self):
        return parse_metrics(self.get("/metrics")[2])

    def metric(self, family, **labels):
        for _, have, value in self.metrics()[family][1]:
            if all(have.get(k) == v for k, v in labels.items()):
                return value
        return None

    def nodes_json(self):
        return json.loads(self.get("/nodes")[2])["nodes"]

    def node_row(self, name):
        return next((row for row in self.nodes_json() if row["name"] == name), None)

    def wait_started(self):
        def started():
            assert self.master.running(), f"drover ended at once:\n{self.master.log()}"
            try:
                rows = self.metrics()["drover_process_running"][1]
            except OSError:
                return False  # nobody listens yet, or nobody has said where
            return any(labels["proc"].startswith("worker") and value == 1
                       for _, labels, value in rows)
        until(started, 10, "drover has started")

    def idle(self):
        return (all(row["inflight"] == 0 for row in self.nodes_json())
                and self.metric("drover_requests_open") == 0)

    def gauges(self):
        return {row["name"]: row["inflight"] for row in self.nodes_json()}

    def open_requests(self):
        return []

    def health_pid(self):
        for pid in children_of(self.master.pid):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if b"health" in f.read():
                    return pid
        return None

    def fake(self, name, **options):
        node = FakeNode(name, **options)
        self.fakes.append(node)
        return node

    def attach(self):
        attachment = Attachment("%s:%d" % self.address("registry"))
        self.attachments.append(attachment)
        return attachment

    def join(self, node, token=TOKEN, heart=True, **changes):
        attachment = self.attach()
        attachment.answer = attachment.register(node, token, **changes)
        if heart:
            attachment.heart = Heart(attachment, node)
            self.hearts.append(attachment.heart)
        return attachment

    def state(self, name):
        row = self.node_row(name)
        return (row["state"], row["reason"]) if row else None

    def wait_state(self, name, state, reason=None, bound_s=10):
        def reached():
            now = self.state(name)
            return now is not None and now[0] == state and reason in (None, now[1])
        try:
            until(reached, bound_s, f"{name} is {state} {reason or ''}")
        except Timeout as failure:
            raise Timeout(f"{failure}\nit is {self.state(name)}\n{self.tails()}") from None
        return self.node_row(name)

    def finish(self, failed=False):
        try:
            if not failed and self.master and self.master.running():
                assert self.metric("drover_invariant_violations_total") == 0
        finally:
            for heart in self.hearts:
                heart.stop()
            for attachment in self.attachments:
                attachment.close()
            for node in self.fakes:
                node.stop()
            super().finish(failed)


@pytest.fixture
def make_plant(request):
    made = []

    def make(start=True, **options):
        plant = Plant(request.node.name, workers=options.pop("workers", 1), **options)
        made.append(plant)
        return plant.start() if start else plant

    yield make
    report = getattr(request.node, "report_call", None)
    problems = []
    for plant in made:
        try:
            plant.finish(report is None or report.failed)
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)


@pytest.fixture
def plant(make_plant):
    return make_plant()


def static(name, port):
    return {"name": name, "address": f"127.0.0.1:{port}"}


def static_plant(make_plant, *nodes):
    return make_plant(config={"nodes": [static(node.name, node.port) for node in nodes]})


@pytest.fixture
def box(make_plant):
    """A plant with one static node `box`, UP."""
    node = FakeNode("box")
    made = static_plant(make_plant, node)
    made.fakes.append(node)
    made.box = node
    made.wait_state("box", "UP", "probes_pass")
    return made


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
    held = [socket.create_connection(plant.address("admin")) for _ in range(40)]
    for s in held[:20]:
        s.sendall(b"GET /metrics HTT")
    assert plant.get("/livez")[0] == 200
    for s in held:
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
            return urllib.request.urlopen(request, timeout=10).status == 200
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
    node.models = [f"m{i}" for i in range(65)]
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


def test_streams_that_do_not_register_are_limited_by_address(plant):
    """128 from one address may be unregistered at once; the rest is told to come later."""
    held = [plant.attach() for _ in range(140)]
    answers = [attachment.next() for attachment in held]
    refusals = [a.status[0] for a, first in zip(held, answers) if first is None]
    assert refusals == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 12
    for attachment in held:
        attachment.break_off()

    def joined():
        attachment = plant.attach()
        first = attachment.next()
        if first is None:
            return False
        attachment.hello = first.hello
        return attachment.register(plant.fake("a"), TOKEN)
    until(joined, 10, "there is room again")


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

def test_a_node_nobody_can_reach_never_gets_up(plant):
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

def test_a_silent_node_is_down_first_and_gone_at_the_end_of_its_lease(plant):
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
    assert (after["slot"], after["generation"]) == (before["slot"], before["generation"])


def test_a_broken_stream_that_is_not_resumed_ends_with_the_lease(plant):
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
    assert (after["slot"], after["generation"]) != (before["slot"], before["generation"])
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
    # Once the newer has gone for good, the name is free for anybody.
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


def test_an_engine_that_is_recognised_late_is_shown(plant):
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


# ---- leaving and draining ----

def test_an_idle_node_that_leaves_is_told_that_it_may(plant):
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
            timeout=30).status)
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
            urllib.request.urlopen(plant.url + "/v1/chat/completions", body, timeout=30)
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
    assert row["drain_wished"]
    while True:
        frame = attachment.next()
        if frame.WhichOneof("frame") == "drain":
            assert frame.drain.drain
            break
    plant.ctl("undrain", "a")
    row = plant.wait_state("a", "UP")
    assert not row["drain_wished"]
    assert plant.ctl("drain", "nobody", check=False).returncode != 0


@pytest.mark.skipif(not has_droverctl(), reason="droverctl is not built")
def test_the_wish_to_drain_outlives_the_nodes_process(plant):
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
    assert (after["slot"], after["generation"]) == (before["slot"], before["generation"])
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

    def answers():
        try:
            return plant.get("/livez")[0] == 200
        except OSError:
            return False
    until(answers, 5, "it answers")
    assert plant.state("a")[0] == "UP", "taken over as it was"
    again = plant.join(node)
    assert again.answer.resumed
    after = plant.node_row("a")
    assert after["state"] == "UP"
    assert (after["slot"], after["generation"]) == (before["slot"], before["generation"])


def test_a_node_that_does_not_come_back_to_a_new_health_process_is_gone(plant):
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    attachment.heart.stop()
    pid = plant.health_pid()
    os.kill(pid, signal.SIGKILL)
    until(lambda: plant.health_pid() not in (None, pid), 5, "another health process")
    until(lambda: plant.get("/livez")[0] == 200, 5)
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
    assert "loop_stood_still" in plant.master.log()


def test_nodes_are_told_when_the_coordinator_stops(plant):
    attachment = plant.join(plant.fake("a"))
    plant.wait_state("a", "UP")
    plant.master.signal(signal.SIGTERM)
    assert attachment.expect("evicted").reason == registry.Evicted.REASON_SHUTDOWN
    assert attachment.ended() == grpc.StatusCode.UNAVAILABLE
    assert plant.master.wait(10) == 0
