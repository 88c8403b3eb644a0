"""Bodies of many megabytes: what an engine gets of them, what they cost, and what is refused early."""

import hashlib
import json
import signal
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from fake_node import FakeNode, common, inference
from grpc_server import duplex
from harness import SLOW, until
from load import fetch_now, make_request
from node_rig import Engine, Node
from pki import Pki
from plant import make_plant, static  # noqa: F401
from pressure import anonymous_bytes

CHAT = "/v1/chat/completions"
MIB = 1 << 20


class Digesting(Engine):
    """Answers with the digest of what it got, and keeps no body; `model` may be wherever it likes."""

    def __init__(self, slots=32):
        self.taken = 0               # bodies that came whole
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(slots=slots)

    def _one(self, sock, file):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return False
            head += line
        if not head.startswith(b"POST"):
            path = head.split(b" ", 2)[1].decode()
            return self._get(self.reply_class(self, sock, FakeRequest()), path)
        left = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:"))
        digest = hashlib.sha256()
        while left:
            piece = file.read(min(left, MIB))
            if not piece:
                return False
            digest.update(piece)
            left -= len(piece)
        with self.lock:
            self.taken += 1
        self.gate.wait(60 * SLOW)
        event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "tiny",
                 "choices": [{"index": 0, "delta": {"content": digest.hexdigest()},
                              "finish_reason": "stop"}]}
        data = (f"data: {json.dumps(event)}\n\n"
                'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"tiny",'
                '"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
                "data: [DONE]\n\n").encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n"
                     b"Connection: close\r\n\r\n%s" % (len(data), data))
        return False


class FakeRequest:
    method, headers, status = "GET", {}, 0


class Body:
    """A chat with an image of `size` bytes in it, and its model's name at the end."""

    def __init__(self, size, number=0, model="big"):
        self.front = (b'{"messages":[{"role":"user","content":[{"type":"text","text":"%d"},'
                      b'{"type":"image_url","image_url":{"url":"data:image/png;base64,' % number)
        self.image = memoryview(b"A" * size)
        self.back = (b'"}}]}],"stream":true,"stream_options":{"include_usage":true},"model":"%s"}')
        self.model = model

    def pieces(self, model=None):
        yield self.front
        for at in range(0, len(self.image), MIB):
            yield self.image[at:at + MIB]
        yield self.back % (model or self.model).encode()

    def __len__(self):
        return sum(len(piece) for piece in self.pieces())

    def digest(self, model="tiny"):
        digest = hashlib.sha256()
        for piece in self.pieces(model):
            digest.update(piece)
        return digest.hexdigest()


def upload(address, body, expect=False, path=CHAT, headers=""):
    """(status, head, body) of the answer; the body is sent as far as it is taken."""
    with socket.create_connection(address, timeout=60 * SLOW) as sock:
        return upload_on(sock, body, expect, path, headers)


def upload_on(sock, body, expect=False, path=CHAT, headers="", chunks=0):
    framing = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
    sock.sendall((f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  f"{framing}\r\n{headers}"
                  + ("Expect: 100-continue\r\n" if expect else "") + "\r\n").encode())
    if expect:
        line = sock.recv(4096)
        if not line.startswith(b"HTTP/1.1 100"):
            return parse(line + rest(sock))
        assert line == b"HTTP/1.1 100 Continue\r\n\r\n"
    try:
        for piece in in_chunks(body, chunks) if chunks else body.pieces():
            sock.sendall(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return parse(until_end(sock))


def in_chunks(body, size):
    data = b"".join(body.pieces())
    for at in range(0, len(data), size):
        piece = data[at:at + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def until_end(sock):
    data = b""
    while True:
        piece = sock.recv(65536)
        data += piece
        if not piece or data.endswith(b"0\r\n\r\n") or whole(data):
            return data


def whole(data):
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


def rest(sock):
    return until_end(sock)


def parse(data):
    head, _, body = data.partition(b"\r\n\r\n")
    assert head, "no answer"
    return int(head.split(b" ")[1]), head.lower().decode("latin-1"), body


@pytest.fixture(name="engines")
def fixture_engines():
    made = [Digesting(), Digesting()]
    yield made
    for engine in made:
        engine.gate.set()
        engine.close()


def start(make_cluster, engines, api=None, **limits):
    config = {"aliases": [{"name": "big", "model": "tiny"}]}
    if api:
        config["api"] = api
    if limits:
        config["limits"] = limits
    cluster = make_cluster(workers=1, config=config).start()
    for i, engine in enumerate(engines):
        cluster.start_node(f"n{i}", engine=engine.url, wait=False)
    for i in range(len(engines)):
        cluster.wait_up(f"n{i}")
    return cluster


# ---- drover-node ----

def parts(node, body, size=200_000, say=None, first=None, **fields):
    """An Infer whose body comes in parts of this size; events as they come."""
    def messages():
        yield inference.InferRequest(
            request_id="r", operation=common.OPERATION_CHAT_COMPLETIONS, model="tiny", stream=True,
            body_bytes=len(body) if say is None else say, **(first or {}), **fields)
        for at in range(0, len(body), size):
            yield inference.InferRequest(body=body[at:at + size])
    return node.channel.stream_stream(
        "/drover.v1.Inference/Infer",
        request_serializer=inference.InferRequest.SerializeToString,
        response_deserializer=inference.InferEvent.FromString)(messages(), timeout=20 * SLOW)


@pytest.fixture(name="node")
def fixture_node(engines):
    node = Node("--insecure-no-token", engine=engines[0].url).ready()
    yield node
    node.stop()


def said(events):
    return b"".join(event.chunk.data for event in events if event.WhichOneof("event") == "chunk")


@pytest.mark.parametrize("size", [1, 2 * MIB, 20 * MIB])
def test_a_node_puts_a_body_in_parts_together_and_edits_it(node, size):
    assert node.describe().capacity.max_body_bytes == 128 * MIB
    body = Body(size)
    data = b"".join(body.pieces())
    events = list(parts(node, data, edit=inference.BodyEdit(set_model="tiny", want_usage=True)))
    assert body.digest("tiny").encode() in said(events)
    assert events[-1].WhichOneof("event") == "finish"


def test_a_client_of_one_message_is_served_as_before(node):
    data = b"".join(Body(3 * MIB).pieces("tiny"))
    assert hashlib.sha256(data).hexdigest().encode() in said(list(node.infer(body=data)))


@pytest.mark.parametrize("wrong", [dict(say=10), dict(say=5 * MIB), dict(first={"body": b"{}"}),
                                   dict(say=129 * MIB)], ids=["more", "less", "both", "too_large"])
def test_a_body_that_is_not_what_was_said_is_refused(node, wrong):
    with pytest.raises(grpc.RpcError) as failure:
        list(parts(node, b"".join(Body(2 * MIB).pieces()), **wrong))
    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT, failure.value
    assert said(list(node.infer(body=b"".join(Body(10).pieces("tiny"))))), "all is well afterwards"


# ---- a worker ----

class InParts(FakeNode):
    """Takes bodies in parts, and notes what came."""

    def __init__(self, name, most):
        self.most = most
        self.came = []
        super().__init__(name)
        self.infer_gate.set()

    def infer_method(self):
        return duplex(self.infer_parts, inference.InferRequest)

    def capacity(self):
        return common.Capacity(slots=4, queue=2, max_request_bytes=4 * MIB, max_body_bytes=self.most)

    def infer_parts(self, requests, context):
        messages = list(requests)
        self.came.append(messages)
        yield from super().infer(messages[0], context)


def test_parts_go_only_to_a_node_that_knows_them_and_has_room(make_plant):
    old, small, large = FakeNode("old"), InParts("small", 3 * MIB), InParts("large", 10 * MIB)
    old.capacity = lambda: common.Capacity(slots=4, queue=2, max_request_bytes=4 * MIB)
    plant = make_plant(config={"nodes": [static(n.name, n.port) for n in (old, small, large)]})
    plant.fakes.extend((old, small, large))
    for node in plant.fakes:
        plant.wait_state(node.name, "UP", "probes_pass")
    body = {"model": "fake-model", "messages": [{"role": "user", "content": "x" * (8 * MIB)}]}
    for _ in range(3):
        answer = fetch_now(plant.api, "POST", CHAT, body)
        assert answer.status == 200, answer.body
        assert answer.headers["x-drover-node"] == "large"
    assert not small.came and len(large.came) == 3
    for first, *more in large.came:
        assert first.body == b"" and first.model == "fake-model"
        assert first.body_bytes == len(json.dumps(body)) == sum(len(m.body) for m in more)
        assert b"".join(m.body for m in more) == json.dumps(body).encode()
        assert max(m.ByteSize() for m in more) <= 256 * 1024
    body["messages"][0]["content"] = "x" * (12 * MIB)
    answer = fetch_now(plant.api, "POST", CHAT, body)
    assert answer.status == 413, answer.body
    body["messages"][0]["content"] = "x" * (MIB // 2)
    assert fetch_now(plant.api, "POST", CHAT, body).status == 200
    assert all(len(messages) == 1 or messages[0].body_bytes > MIB
               for messages in small.came + large.came)


def test_a_body_comes_whole_to_the_engine_with_its_model_changed(make_cluster, engines):
    cluster = start(make_cluster, engines[:1])
    for size, expect in ((70_000, False), (70_000, True), (5 * MIB, True), (40 * MIB, False)):
        body = Body(size)
        status, head, answer = upload(cluster.api, body, expect)
        assert status == 200, answer
        assert body.digest().encode() in answer
        assert "x-drover-model: tiny" in head


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_long_and_short_bodies_share_a_connection(make_cluster, engines, tmp_path, tls):
    pki = Pki(tmp_path)
    pki.authority("ca")
    pki.issue("api")
    cluster = start(make_cluster, engines[:1], api={"tls": pki.server("api")} if tls else None)
    with socket.create_connection(cluster.api, timeout=60 * SLOW) as plain:
        sock = plain
        if tls:
            context = ssl.create_default_context(cafile=pki.cert("ca"))
            sock = context.wrap_socket(plain, server_hostname="localhost")
        for size, expect, chunks in ((3 * MIB, False, 0), (100, False, 0), (70_000, True, 0),
                                     (5 * MIB, False, 100_000), (9 * MIB, False, 0), (100, True, 40),
                                     (70_000, True, 30), (100, True, 0)):
            body = Body(size)
            status, _, answer = upload_on(sock, body, expect, chunks=chunks)
            assert status == 200, answer
            assert body.digest().encode() in answer


def test_a_refusal_comes_before_the_body(make_cluster, engines):
    cluster = start(make_cluster, engines[:1], max_body_bytes=8 * MIB, max_body_total_bytes=12 * MIB)
    body = Body(5 * MIB)
    for path, wanted in (("/v1/nothing", 404), ("/v1/models", 405)):
        status, _, _ = upload(cluster.api, body, expect=True, path=path)
        assert status == wanted
        status, head, _ = upload(cluster.api, body, path=path)
        assert status == wanted and "connection: close" in head
    status, _, answer = upload(cluster.api, Body(9 * MIB))
    assert status == 413, answer
    engines[0].gate.clear()
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(upload, cluster.api, body) for _ in range(2)]
        until(lambda: engines[0].taken == 2, 20, "two are held")
        status, head, answer = upload(cluster.api, body)
        assert status == 503 and "retry-after: " in head, answer
        assert "x-drover-reason: overloaded" in head
        engines[0].gate.set()
        assert [h.result()[0] for h in held] == [200, 200]


def test_a_slow_body_is_served_and_one_that_stops_is_408(make_cluster, engines):
    cluster = start(make_cluster, engines[:1], header_timeout_ms=500)
    body = Body(100_000)
    data = b"".join(body.pieces())
    head = make_request("POST", CHAT, data)[:-len(data)]
    small = b"".join(Body(1000).pieces())
    small_head = make_request("POST", CHAT, small)[:-len(small)]
    with socket.create_connection(cluster.api, timeout=30 * SLOW) as sock, \
            socket.create_connection(cluster.api, timeout=30 * SLOW) as other:
        sock.sendall(head)
        other.sendall(small_head)
        begun = time.monotonic()
        for i in range(40):                      # 2 s, four times the limit
            sock.sendall(data[i * len(data) // 40:(i + 1) * len(data) // 40])
            other.sendall(small[i * len(small) // 40:(i + 1) * len(small) // 40])
            time.sleep(0.05)
        assert time.monotonic() - begun > 1.5
        assert parse(until_end(sock))[0] == 200
        assert parse(until_end(other))[0] == 200
    with socket.create_connection(cluster.api, timeout=30 * SLOW) as sock:
        sock.sendall(head + data[:70_000])
        status, head, answer = parse(until_end(sock))
        assert status == 408, answer
        assert "x-drover-reason: slow_body" in head
    until(lambda: cluster.access_lines()[-1]["status"] == 408, 5, "it is in the access log")


def test_uploads_that_send_nothing_take_no_room(make_cluster, engines):
    cluster = start(make_cluster, engines[:1], max_body_bytes=8 * MIB, max_body_total_bytes=12 * MIB)
    body = Body(7 * MIB)
    head = (f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n").encode()
    idle = [socket.create_connection(cluster.api, timeout=30 * SLOW) for _ in range(6)]
    try:
        for sock in idle:
            sock.sendall(head)
            assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
            sock.sendall(b"{")
        assert upload(cluster.api, body)[0] == 200
    finally:
        for sock in idle:
            sock.close()


def test_uploads_that_do_not_fit_together_let_some_of_them_pass(make_cluster, engines):
    cluster = start(make_cluster, engines[:1], max_body_bytes=6 * MIB, max_body_total_bytes=13 * MIB)
    engines[0].gate.clear()
    with ThreadPoolExecutor(6) as pool:
        uploads = [pool.submit(upload, cluster.api, Body(5 * MIB, i)) for i in range(6)]
        until(lambda: sum(u.done() for u in uploads) == 4, 30, "four are refused")
        engines[0].gate.set()
        answers = [u.result() for u in uploads]
    assert sorted(status for status, _, _ in answers) == [200, 200, 503, 503, 503, 503]
    assert all("retry-after: " in head for status, head, _ in answers if status == 503)
    assert upload(cluster.api, Body(5 * MIB))[0] == 200, "nothing is left behind"


def test_a_body_in_chunks_is_within_the_same_limits(make_cluster, engines):
    cluster = start(make_cluster, engines[:1], max_body_bytes=6 * MIB, max_body_total_bytes=13 * MIB)

    def send(body, **options):
        with socket.create_connection(cluster.api, timeout=60 * SLOW) as sock:
            return upload_on(sock, body, **options)

    body = Body(5 * MIB)
    status, _, answer = send(body, chunks=MIB)
    assert status == 200 and body.digest().encode() in answer
    for size, chunks in ((7 * MIB, 100_000), (7 * MIB, 8 * MIB)):
        status, _, answer = send(Body(size), chunks=chunks)
        assert status == 413 and b"limit of 6291456 bytes" in answer
    status, _, _ = send(body, chunks=MIB, path="/v1/nothing")
    assert status == 404
    with socket.create_connection(cluster.api, timeout=60 * SLOW) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
                     b"Content-Type: application/json\r\n\r\n5\r\n{\"a\":x")
        status, head, answer = parse(until_end(sock))
        assert status == 400 and b"chunks" in answer and "connection: close" in head
    engines[0].gate.clear()
    before = engines[0].taken
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(send, body, chunks=MIB) for _ in range(2)]
        until(lambda: engines[0].taken == before + 2, 20, "two are held")
        status, head, answer = send(body, chunks=MIB)
        assert status == 503 and "retry-after: " in head, answer
        engines[0].gate.set()
        assert [h.result()[0] for h in held] == [200, 200]


@pytest.mark.parametrize("chunks", [0, 50_000])
def test_a_request_behind_a_long_body_gets_its_turn(make_cluster, engines, chunks):
    cluster = start(make_cluster, engines[:1])
    body = Body(200_000)
    framing = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
    with socket.create_connection(cluster.api, timeout=60 * SLOW) as sock:
        sock.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                     f"{framing}\r\n\r\n".encode()
                     + b"".join(in_chunks(body, chunks) if chunks else body.pieces())
                     + b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    assert data.count(b"HTTP/1.1 200 OK") == 2
    assert body.digest().encode() in data and b'"object":"list"' in data


def test_a_client_that_leaves_amid_its_body_leaves_nothing_behind(make_cluster, engines):
    cluster = start(make_cluster, engines[:1], max_body_bytes=8 * MIB, max_body_total_bytes=8 * MIB)
    data = b"".join(Body(7 * MIB).pieces())
    for _ in range(3):
        with socket.create_connection(cluster.api, timeout=30 * SLOW) as sock:
            sock.sendall(make_request("POST", CHAT, data)[:4 * MIB])
    until(lambda: upload(cluster.api, Body(7 * MIB))[0] == 200, 10, "their room is there again")


def many_uploads(make_cluster, engines, count, size, total):
    """They reach an engine whole, though a node dies.  The most memory that the worker needed for them."""
    cluster = start(make_cluster, engines, max_body_bytes=size + 4096, max_body_total_bytes=total,
                    worker_memory_bytes=0)
    worker = cluster.worker_pids()[0]
    before, peak, done = anonymous_bytes(worker), [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_bytes(worker))
    watcher = threading.Thread(target=watch)
    watcher.start()
    for engine in engines:
        engine.gate.clear()
    with ThreadPoolExecutor(count) as pool:
        bodies = [Body(size, i) for i in range(count)]
        uploads = [pool.submit(upload, cluster.api, body) for body in bodies]
        try:
            until(lambda: len(cluster.ctl_rows("requests")) == count and engines[0].taken > 0, 60,
                  "all are there, and one is at the node that dies")
            status, head, _ = upload(cluster.api, Body(size))
            assert status == 503 and "retry-after: " in head, "there is no room for one more"
        finally:
            cluster.nodes[0].process.signal(signal.SIGKILL)
            for engine in engines:
                engine.gate.set()
        answers = [u.result() for u in uploads]
    done.set()
    watcher.join()
    for body, (status, _, answer) in zip(bodies, answers):
        assert status == 200, answer
        assert body.digest().encode() in answer
    cluster.wait_idle()
    return peak[0] - before


def test_uploads_reach_the_engine_whole_though_a_node_dies(make_cluster, engines):
    many_uploads(make_cluster, engines, 4, 4 * MIB, 4 * 5 * MIB)


@pytest.mark.alone
@pytest.mark.plain
def test_twenty_uploads_of_64_mib_cost_the_worker_their_size(make_cluster, engines):
    total = 20 * 72 * MIB  # one client alone has nine tenths of it
    assert many_uploads(make_cluster, engines, 20, 64 * MIB - 4096, total) <= total + 64 * MIB
