"""Engines without measure, behind a real drover-node: neither the node nor the worker grows with
what they send, and the client gets an answer of another node, or an error in good time."""
import contextlib
import itertools
import json
import threading

import pytest

from fake_engine import FakeEngine, chunk
from harness import MODEL, SLOW, until
from watch import CHAT, Watch, rss_mb
from test_nodes import ask, events

LIMIT = 8 << 20
CONFIG = {"policy": "round_robin",
          "limits": {"first_token_ms": 60000, "idle_token_ms": 60000, "max_answer_bytes": LIMIT}}
names = (f"endless-{n}" for n in itertools.count())


class Endless:
    """An engine sends `begin` and then `piece` for ever: its node, and how many bytes it has sent."""

    def __init__(self, cluster, begin, piece, only=False):
        self.cluster, self.begin, self.piece = cluster, begin, piece
        self.sent, self.asked, self.over = 0, 0, threading.Event()
        self.name = next(names)
        self.model = self.name if only else MODEL
        self.engine = FakeEngine(self.behave, models=(self.model,))

    def behave(self, reply, _path, _body):
        self.asked += 1
        reply.keep = False
        with contextlib.suppress(OSError):
            reply.sendall(self.begin)
            while not self.over.is_set():
                reply.sendall(self.piece)
                self.sent += len(self.piece)

    def __enter__(self):
        self.node = self.cluster.start_node(self.name, engine=self.engine.url)
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.node.process.signal(15)
        self.node.process.wait(20)
        self.engine.stop()

    def watch(self):
        return Watch(self.cluster, self.node.pid, log=self.node.process.log, serve=lambda: True)


def chunked(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(document):
    return b"data: " + json.dumps(document).encode() + b"\n\n"


STREAM = (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
ROLE = chunked(event({**chunk(), "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""},
                                              "finish_reason": None}]}) * 200)
WORDS = chunked(event(chunk("word " * 20)) * 100)


@pytest.mark.parametrize("stream", [True, False])
def test_endless_trailers_end_the_answer(cluster, stream):
    begin = STREAM + chunked(event(chunk("hello"))) + b"0\r\n"
    with Endless(cluster, begin, b"X-Trailer: " + b"t" * 4000 + b"\r\n", only=True) as bad:
        with bad.watch() as cost:
            status, _, body = ask(cluster, stream, model=bad.model)
        assert status == 502 or stream and (b'"error"' in body or events(body)[-1] == "[DONE]")
        assert bad.sent < 16 << 20
        cost.expect(cpu=3, memory=48, lines=12)


def test_endless_heads_of_an_engine_are_no_engine(cluster):
    with Endless(cluster, b"HTTP/1.1 200 OK\r\n", b"X-Head: " + b"h" * 4000 + b"\r\n") as bad:
        with bad.watch() as cost:
            assert {ask(cluster, False)[0] for _ in range(4)} == {200}
        assert bad.asked and bad.sent < 16 << 20
        cost.expect(cpu=3, memory=48, lines=12)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_never_ends_is_cut_at_its_limit(cluster, stream):
    worker = cluster.worker_pids()[0]
    with Endless(cluster, STREAM, WORDS, only=True) as bad:
        before = rss_mb(worker)
        with bad.watch() as cost:
            status, _, body = ask(cluster, stream, model=bad.model)
        if stream:
            assert status == 200 and len(body) < LIMIT + (1 << 20)
            assert b"longer than limits.max_answer_bytes" in body[-2000:]
        else:
            assert status == 502
        assert bad.asked == 1, "no other engine is asked for the same"
        assert rss_mb(worker) - before < 64
        cost.expect(cpu=20, memory=200, lines=12)


def test_a_document_that_never_ends_is_cut_at_its_limit(cluster):
    with Endless(cluster, PLAIN, b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"content":"'
                 + b"w" * 65536, only=True) as bad:
        with bad.watch() as cost:
            status, _, body = ask(cluster, False, model=bad.model)
        assert (status, body) == (200, None) or status == 502, "cut short, or an error"
        assert bad.sent < 64 << 20
        cost.expect(cpu=8, memory=120, lines=12)


def test_role_events_for_ever_are_no_answer_and_another_node_helps(cluster):
    worker = cluster.worker_pids()[0]
    with Endless(cluster, STREAM, ROLE) as bad:
        before = rss_mb(worker)
        with bad.watch() as cost:
            answers = [ask(cluster, True) for _ in range(4)]
        assert bad.asked, "round robin"
        for status, _, body in answers:
            assert status == 200 and events(body)[-1] == "[DONE]", body[-300:]
        assert bad.sent < 64 << 20
        assert rss_mb(worker) - before < 64
        cost.expect(cpu=20, memory=64, lines=20)
