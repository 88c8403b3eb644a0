"""protocol_faults.py - nodes that break the protocol, and peers that flood the registry.

A hostile node answers probes as a good one would, so it is chosen; what it then says to a worker is
wrong.  Nodes of the configuration, since anybody may be behind an address that an operator wrote.
"""

import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor

from fake_node import FakeNode, inference
from h2raw import Raw
from harness import MODEL, SLOW, until
from load import chat_body, fetch_now
from rig import fault
from test_wire_failures import MARKER, TRICKS, Proxy
from wire import CONTINUATION, HEADERS, PING, RST, SETTINGS, frame

CHAT = "/v1/chat/completions"
Event = inference.InferEvent
HEAD = Event(head=inference.ResponseHead(http_status=200, content_type="text/event-stream"))
WORDS = b'data: {"choices":[{"index":0,"delta":{"content":"evil"}}]}\n\n'
CHUNK = Event(chunk=inference.Chunk(data=WORDS, tokens=1, content=True))


def finish(size):
    return Event(finish=inference.Finish(
        body_bytes=size,
        usage=inference.Usage(prompt_tokens=1, output_tokens=1)))


# A hostile node's answers to a request.  The first group breaks the rules before any content.
EARLY = {
    "no head": [Event(accepted=inference.Accepted()), CHUNK],
    "two heads": [HEAD, HEAD, CHUNK],
    "empty event": [Event()],
    "finish first": [finish(0), HEAD, CHUNK],
    "nothing": [],
    "status 9999": [Event(head=inference.ResponseHead(http_status=9999)), CHUNK],
}
LATE = {
    "head again": [HEAD, CHUNK, HEAD, CHUNK, finish(2 * len(WORDS))],
    "no finish": [HEAD, CHUNK],
    "wrong size": [HEAD, CHUNK, finish(7)],
    "said after the end": [HEAD, CHUNK, finish(len(WORDS)), CHUNK],
}


class EvilNode(FakeNode):
    """Probes pass; requests get what `script` says, or raw bytes where messages should be."""

    def __init__(self, name, models):
        self.script = []
        self.asked = 0
        super().__init__(name)
        self.models = models
        self.slots = 32

    def infer(self, request, context):
        self.asked += 1
        yield from self.script


@fault("G5", "a node breaks the protocol before its first content",
       "6 kinds: no head, two heads, empty event, finish first, nothing, bad status",
       clients="nothing: another node is asked", does="replace that node; it is taken out",
       log=("event=node_ejected node=\"evil\" reason=",
            "event=node_state node=\"evil\" from=UP to=EJECTED"),
       metric=('drover_node_attempts_total{node="evil",outcome="node_error"} rises',),
       ctl=("nodes: evil +(EJECTED|PROBATION)",))
def evil_before_content(run):
    cluster = run.start(nodes=("a", "b"))
    crowd = run.crowd(concurrency=8)
    node = EvilNode("evil", [MODEL])
    run.closers.append(node.stop)
    node.script = EARLY["no head"]
    cluster.write_config(nodes=[{"name": "evil", "address": f"127.0.0.1:{node.port}"}])
    cluster.ctl("reload")
    run.within(lambda: node.asked >= 2, 20, "the hostile node is asked")
    run.operator_sees()
    for name, script in EARLY.items():
        asked, node.script = node.asked, script
        # It is ejected between; a trial comes after a pause that grows.
        until(lambda asked=asked: node.asked > asked, 60, f"asked for '{name}'")
    run.figure("requests it got", node.asked)
    run.more(crowd, 20)


@fault("G5b", "a node breaks the protocol in mid-answer",
       "4 kinds: a second head, no finish, a wrong size, more after the end",
       clients="an error event, or the whole answer where only its end was wrong",
       does="replace that node",
       metric=('drover_node_attempts_total{node="evil"} rises',))
def evil_in_mid_answer(run):
    cluster = run.start(nodes=("a",))
    crowd = run.crowd(concurrency=4)
    node = EvilNode("evil", ["evil-model"])
    run.closers.append(node.stop)
    cluster.write_config(nodes=[{"name": "evil", "address": f"127.0.0.1:{node.port}"}])
    cluster.ctl("reload")
    cluster.wait_up("evil")
    for name, script in LATE.items():
        node.script = script
        until(lambda: cluster.node_state("evil") in ("UP", "PROBATION"), 40, "it may be asked")
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body("x", 4, model="evil-model"))
        body = answer.body
        run.check(body.count(b"evil") <= 2 and body.count(b"HTTP/1.1") == 0,
                  f"{name}: {body[:300]!r}")
        if name in ("no finish", "head again"):
            run.check(answer.status >= 500 or b'"error"' in body,
                      f"{name}: looks whole: {answer.status} {body[-200:]!r}")
    run.more(crowd, 20)
    run.operator_sees()


@fault("G6", "the connection to a node breaks in every way that HTTP/2 has",
       "GOAWAY, RST_STREAM, silence, garbage, error pages: 10 kinds",
       clients="nothing: another attempt is made",
       does="nothing, or look at what stands between",
       log=("event=resuming node=proxied reason=",),
       metric=("drover_node_retried_total rises",))
def tricks(run):
    proxy = Proxy()
    run.closers.append(proxy.close)
    cluster = run.start(nodes=("b",), config={"limits": {"first_token_ms": 1500}})
    node = cluster.start_node("proxied", "slots=32,rate=100", join=False, wait=False)
    proxy.target = int(node.address().rsplit(":", 1)[1])
    cluster.write_config(health={"fall": 20, "eject_failures": 0, "eject_success_pct": 0}, nodes=[
        {"name": "proxied", "address": f"127.0.0.1:{proxy.port}"}])
    cluster.ctl("reload")
    cluster.wait_up("proxied")
    crowd = run.crowd(concurrency=6)
    for trick in TRICKS:
        proxy.trick = lambda link, number, trick=trick: getattr(link, trick)(number)
        before = proxy.tricked
        deadline = time.monotonic() + 60 * SLOW
        while proxy.tricked == before and time.monotonic() < deadline:
            answer = fetch_now(cluster.api, "POST", CHAT, chat_body(MARKER.decode(), 6))
            run.check(answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n")
                      and b'"error"' not in answer.body,
                      f"{trick}: {answer.status} {answer.body[-200:]!r}")
        run.check(proxy.tricked > before, f"{trick}: no request came by")
    run.more(crowd, 10)
    run.operator_sees()


def connections_to(port):
    """The connections that are open to this port, as pairs of addresses."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return {(row[1], row[2]) for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"}


@fault("G7", "a node made of gRPC's own library says nothing for a long time",
       "grpcio with its defaults, which send away who PINGs a third time in vain",
       clients="nothing", does="nothing",
       ctl=("nodes: patient +UP", "requests: patient"))
def patient_node(run):
    cluster = run.start(nodes=("a",), config={"limits": {
        "first_token_ms": 7200000, "request_timeout_ms": 7200000}})
    node = FakeNode("patient")
    node.models = ["patient-model"]
    run.closers.append(node.stop)
    cluster.write_config(nodes=[{"name": "patient", "address": f"127.0.0.1:{node.port}"}])
    cluster.ctl("reload")
    cluster.wait_up("patient")
    crowd = run.crowd(concurrency=2)
    silence_s = 60 * (run.minutes or 1)  # PINGs each 10 s: the fourth would be one too many

    def ask():
        return fetch_now(cluster.api, "POST", CHAT, chat_body(
            "x", 4, stream=False, model="patient-model"), timeout_s=2 * silence_s)
    with ThreadPoolExecutor(1) as pool:
        for what in ("with a call", "idle"):
            answer = pool.submit(ask)
            run.check(node.infer_started.acquire(timeout=20 * SLOW), "it is asked")
            if what == "idle":
                node.infer_gate.set()
                answer.result()
            began, before = time.monotonic(), connections_to(node.port)
            run.check(len(before) >= 2, "a worker and the health process are connected")
            run.within(lambda began=began: time.monotonic() - began > silence_s, 2 * silence_s,
                       "silence is over")
            lost = before - connections_to(node.port)
            run.check(not lost, f"{what}, {len(lost)} connections did not last")
            if what == "with a call":
                run.operator_sees()
            node.infer_gate.set()
            run.check(answer.result().status == 200, "the answer comes in the end")
            node.infer_gate.clear()
    run.figure("silent for", f"{2 * silence_s:.0f} s")
    run.more(crowd, 20)


def floods(raw):
    """Frames that cost the sender little, one kind a connection."""
    head = raw.head("/drover.v1.Registry/Attach")
    yield "PING", frame(PING, 0, 0, bytes(8)) * 2000
    yield "SETTINGS", frame(SETTINGS) * 2000
    yield "rapid reset", b"".join(
        frame(HEADERS, 4, 2 * i + 1, head) + frame(RST, 0, 2 * i + 1, struct.pack(">I", 8))
        for i in range(2000))
    yield "CONTINUATION", frame(HEADERS, 0, 1, head) + frame(CONTINUATION, 0, 1, b"") * 20000
    yield "garbage", os.urandom(200000)


@fault("G8", "a peer floods the registry", "PING, SETTINGS, resets, CONTINUATION, garbage, 5 times",
       clients="nothing", does="block that address",
       log=("event=peer_sent_away peer=",))
def registry_flood(run):
    cluster = run.start()
    crowd = run.crowd()
    port = cluster.address("registry")[1]
    kinds = [name for name, _ in floods(Raw(port))]
    for turn in range(5 * len(kinds)):
        with Raw(port) as raw:
            raw.sock.settimeout(20)
            try:
                raw.send(dict(floods(raw))[kinds[turn % len(kinds)]] * 5)
                while raw.read_frame() is not None:
                    pass
            except OSError:
                continue
    run.more(crowd)
    run.operator_sees()
    for name in "ab":
        run.check(cluster.node_state(name) == "UP", f"node {name} was lost")


@fault("N11", "many nodes join at once", "20 more drover-nodes",
       clients="nothing", does="nothing",
       metric=('drover_nodes{state="UP"} is 22',))
def many_join(run):
    cluster = run.start()
    crowd = run.crowd(concurrency=6)
    began = time.monotonic()
    for number in range(20):
        cluster.start_node(f"n{number}", "slots=4,rate=100", wait=False)
    for number in range(20):
        cluster.wait_up(f"n{number}")
    run.figure("all up", f"{time.monotonic() - began:.2f} s")
    run.more(crowd, 20)
    run.oracle.take()  # a connection to each is right
    run.more(crowd, 40)
    run.operator_sees()


@fault("N12", "a node's port answers, but not as a node", "an HTTP server of somebody's",
       clients="nothing", does="mend the address in the configuration",
       ctl=("nodes: wrong +(JOINING|DOWN)",))
def not_a_node(run):
    cluster = run.start()
    crowd = run.crowd(concurrency=6)
    cluster.write_config(nodes=[{"name": "wrong", "address": "%s:%d" % cluster.address("admin")}])
    cluster.ctl("reload")
    run.operator_sees()
    run.no_dispatch("wrong", lambda: run.more(crowd, 20))
