"""bad_node.py - a node that a test makes do wrong: HTTP/2 by hand, so that nothing stops it.

It joins through the registry like any other, passes its probes, and answers Infer with whatever
frames the test's `attack` writes.
"""
import contextlib
import os
import queue
import socket
import struct
import threading

import hpack

from fake_node import Attachment, Heart, common, health, inference, registry
from harness import MODEL, SLOW, until
from wire import (ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST, SETTINGS, WINDOW, frame, framed,
                  goaway)

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
TOKEN = "integration-test-token-0123456789abcdef"


def event(**what):
    return framed(inference.InferEvent(**what).SerializeToString())


def head_event(status=200, content_type="text/event-stream", stream=True, headers=()):
    return event(head=inference.ResponseHead(
        http_status=status, content_type=content_type, event_stream=stream,
        headers=[inference.Header(name=name, value=value) for name, value in headers]))


def chunk_event(data=b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n', content=True, tokens=1, **more):
    return event(chunk=inference.Chunk(data=data, content=content, tokens=tokens, **more))


def finish_event(size, **more):
    return event(finish=inference.Finish(body_bytes=size, usage=inference.Usage(
        prompt_tokens=3, output_tokens=1), **more))


DONE = b"data: [DONE]\n\n"


def good_answer():
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\n' + DONE
    return event(accepted=inference.Accepted()) + head_event() + chunk_event(chunk) + finish_event(len(chunk))


class Connection(threading.Thread):
    """One connection that a worker, or the health process, has made to the node."""

    def __init__(self, node, sock):
        super().__init__(daemon=True)
        self.node, self.sock = node, sock
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.lock = threading.Lock()
        self.paths, self.bodies, self.ended = {}, {}, set()
        self.pings = {}  # by what they carry: set when the answer is there
        self.credit = {0: 65535}  # bytes that the peer's windows allow, of the connection (0) and of each stream
        self.first_credit, self.more_credit = 65535, threading.Condition()
        self.settings = b""

    def send(self, data):
        with self.lock:
            self.sock.sendall(data)

    # ---- what attacks are made of ----

    def headers(self, stream, fields, end=False):
        self.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.encoder.encode(list(fields))))

    def data(self, stream, data, end=False):
        for at in range(0, max(len(data), 1), 16384):
            piece = data[at:at + 16384]
            self.send(frame(DATA, END_STREAM if end and at + 16384 >= len(data) else 0, stream, piece))

    def paced(self, stream, data, bound_s=20):
        """data(), but within the peer's windows, as a large message needs it; OSError when they stay shut."""
        data = memoryview(data)
        while data:
            with self.more_credit:
                room = lambda: min(self.credit[0], self.credit.get(stream, self.first_credit), 16384)
                if not self.more_credit.wait_for(lambda: room() > 0, bound_s * SLOW):
                    raise OSError("the window stays shut")
                piece, data = data[:room()], data[room():]
                self.credit[0] -= len(piece)
                self.credit[stream] = self.credit.get(stream, self.first_credit) - len(piece)
            self.send(frame(DATA, 0, stream, piece))

    def trailers(self, stream, status="0", **more):
        fields = [("grpc-status", status)] if status is not None else []
        self.headers(stream, fields + [(name.replace("_", "-"), value) for name, value in more.items()], True)

    def answer(self, stream, body, status="0", **more):
        self.headers(stream, HEAD)
        self.data(stream, body)
        self.trailers(stream, status, **more)

    def reset(self, stream, code):
        self.send(frame(RST, 0, stream, struct.pack(">I", code)))

    def goaway(self, last, code=0):
        self.send(goaway(last, code))

    def has_been_read(self):
        """Waits until the other side has read all so far: its answer to a PING comes after that."""
        text, answered = os.urandom(8), threading.Event()
        self.pings[text] = answered
        self.send(frame(PING, 0, 0, text))
        if not answered.wait(10 * SLOW):
            raise OSError("no answer to a PING")

    # ---- the honest part ----

    def run(self):
        with contextlib.suppress(OSError, AssertionError):
            self.file = self.sock.makefile("rb")
            assert self.file.read(24).startswith(b"PRI")
            self.send(frame(SETTINGS, 0, 0, self.node.settings))
            while self.one():
                pass
        with contextlib.suppress(OSError):
            self.sock.close()

    def one(self):
        start = self.file.read(9)
        if len(start) < 9:
            return False
        size, kind, flags = int.from_bytes(start[:3], "big"), start[3], start[4]
        stream = int.from_bytes(start[5:9], "big")
        body = self.file.read(size)
        if kind == SETTINGS and not flags & ACK:
            self.settle(body)
            self.send(frame(SETTINGS, ACK))
        elif kind == WINDOW:
            with self.more_credit:
                self.credit[stream] = self.credit.get(stream, self.first_credit) + struct.unpack(">I", body)[0]
                self.more_credit.notify_all()
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, body))
        elif kind == PING and body in self.pings:
            self.pings.pop(body).set()
        elif kind == HEADERS:
            self.paths[stream] = dict(self.decoder.decode(body))[":path"].rsplit("/", 1)[1]
            self.begin(stream)
        elif kind == DATA:
            if body:
                self.send(frame(WINDOW, 0, 0, struct.pack(">I", size)))
            self.bodies[stream] = self.bodies.get(stream, b"") + body
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self.serve(stream)
        return True

    def settle(self, body):
        for name, value in struct.iter_unpack(">HI", body):
            if name == 4:  # INITIAL_WINDOW_SIZE
                with self.more_credit:
                    for stream in self.credit.keys() - {0}:
                        self.credit[stream] += value - self.first_credit
                    self.first_credit = value
                    self.more_credit.notify_all()

    def begin(self, stream):
        if self.paths[stream] == "Infer" and self.node.early:
            self.node.asked += 1
            self.node.early(self, stream)

    def serve(self, stream):
        node, path = self.node, self.paths[stream]
        if path == "Check":
            kind = health.HealthCheckResponse
            self.answer(stream, framed(kind(status=kind.SERVING).SerializeToString()))
        elif path == "Describe":
            self.answer(stream, framed(inference.DescribeResponse(
                node_id=node.name, instance_id=node.instance, engine=common.ENGINE_KIND_SIMULATED,
                capacity=node.capacity(), models=node.model_list(), load=node.report()).SerializeToString()))
        elif path == "WatchLoad":
            self.headers(stream, HEAD)
            self.data(stream, framed(node.report().SerializeToString()))
        elif path == "Infer" and node.attack:
            node.asked += 1
            # On a thread of its own: it may take its time, and the probes must not.
            threading.Thread(target=self.attack, args=(stream,), daemon=True).start()

    def attack(self, stream):
        with contextlib.suppress(OSError):
            self.node.attack(self, stream)


class BadNode:
    def __init__(self, cluster, name, attack=None, early=None, settings=b"", models=(MODEL,), load=None, join=True):
        self.name, self.attack, self.early, self.settings = name, attack, early, settings
        self.models, self.load, self.instance = list(models), load or {}, os.urandom(16)
        self.asked, self.seq = 0, 0
        self.cluster = cluster
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.connections = []
        threading.Thread(target=self.accept, daemon=True).start()
        self.attachment = self.heart = None
        if join:
            self.join()

    def join(self):
        self.attachment = Attachment("%s:%d" % self.cluster.address("registry"))
        self.attachment.register(self, TOKEN)
        self.heart = Heart(self.attachment, self)
        self.cluster.wait_up(self.name)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections.append(Connection(self, sock))
                self.connections[-1].start()

    # fake_node.py's Attachment needs these of a node.
    def capacity(self):
        return common.Capacity(slots=8, queue=8)

    def model_list(self):
        return [common.Model(id=name, state=common.MODEL_STATE_READY, max_context_tokens=8192) for name in self.models]

    def report(self):
        self.seq += 1
        return common.LoadReport(seq=self.seq, **{"engine_reachable": True, **self.load})

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.heart:
            self.heart.stop()
            # So that nothing of it is left: a node that just ends is probed until its lease ends.
            self.attachment.send(leave=registry.Leave(reason="test"))
            with contextlib.suppress(AssertionError, queue.Empty):
                self.attachment.expect("left", 5)
            self.attachment.break_off()
        self.listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        if self.attachment:
            until(lambda: self.cluster.node_state(self.name) in (None, "GONE"), 10, f"{self.name} is gone")
