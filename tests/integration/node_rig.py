"""node_rig.py - drover-node between a gRPC client of grpcio's and an engine that follows a script.

The engine is tests/engines/scripted.py, so that it can break HTTP on purpose.  A request names what
should happen in its member "script", which drover-node passes on like any member it does not know.
"""

import atexit
import json
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engines"))

import scripted  # noqa: E402
from harness import SLOW, Process, program, sanitizer_report, until
from messages import common, health, inference

LOGS = Path(tempfile.mkdtemp(prefix="drover-nodes-"))
atexit.register(shutil.rmtree, LOGS, ignore_errors=True)


def delta(content=None, finish=None, **more):
    body = {"choices": [{"finish_reason": finish, "index": 0,
                         "delta": {} if content is None else {"content": content}}],
            "created": 7, "id": "chatcmpl-7", "model": "tiny",
            "object": "chat.completion.chunk", **more}
    return f"data: {json.dumps(body)}\n\n".encode()


ROLE = (b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant",'
        b'"content":null}}],"created":7,"id":"chatcmpl-7","model":"tiny",'
        b'"object":"chat.completion.chunk"}\n\n')
USAGE = (b'data: {"choices":[],"created":7,"id":"chatcmpl-7","model":"tiny",'
         b'"object":"chat.completion.chunk","usage":{"completion_tokens":2,"prompt_tokens":22,'
         b'"total_tokens":24,"prompt_tokens_details":{"cached_tokens":21}}}\n\n')
DONE = b"data: [DONE]\n\n"


class Engine(scripted.Engine):
    """A llama-server as far as drover-node can see; a request's member `script` names what follows."""

    server = "llama.cpp"

    def __init__(self, slots=2, n_vocab=1259):
        self.n_vocab = n_vocab
        self.slots = slots
        self.loading = False
        self.deaf = False            # questions get no answer; generations go on
        self.metrics = None          # the text of /metrics; None: it has none
        self.closed = []             # instants at which a peer closed on us
        self.sent = 0                # bytes of do_flood
        self.release = threading.Event()
        super().__init__()

    @property
    def looks(self):
        """How often /metrics was asked for."""
        return len(self.gets("/metrics"))

    @property
    def busy(self):
        """POSTs under way."""
        return self.open

    def handle(self, reply, request):
        if request.method == "GET":
            return self._get(reply, request.path)
        try:
            body = request.json
        except ValueError:
            body = {}
        script = body.get("script", "ok") if isinstance(body, dict) else "ok"
        return getattr(self, "do_" + script)(reply, request.json)

    def answer(self, sock, status, document, headers=()):
        return sock.answer(status, document, headers)

    def _get(self, sock, path):
        if self.deaf:
            return self.wait_closed(sock)
        if self.loading:
            return self.answer(sock, 503, {"error": {"message": "Loading model",
                                                     "type": "unavailable_error", "code": 503}})
        pages = {
            "/v1/models": {"object": "list", "data": [
                {"id": "tiny", "aliases": ["small"], "owned_by": "llamacpp",
                 "meta": {"n_ctx": 2048, "vocab_type": 2, "n_vocab": self.n_vocab,
                          "n_embd": 192, "n_params": 2058048}}]},
            "/props": {"default_generation_settings": {"n_ctx": 2048},
                       "total_slots": self.slots, "build_info": "b10573",
                       "modalities": {"audio": True}},
            "/slots": [{"id": i, "is_processing": i < self.busy} for i in range(self.slots)],
            "/health": {"status": "ok"},
        }
        if path == "/metrics" and self.metrics is not None:
            return self.answer(sock, 200, self.metrics.encode())
        if path in pages:
            return self.answer(sock, 200, pages[path])
        return self.answer(sock, 501, {"error": {"code": 501, "message": "no"}})

    # ---- scripts ----------------------------------------------------------------------------

    def begin(self, sock, content_type="text/event-stream", headers=()):
        sock.begin_stream(content_type, headers)

    def send(self, sock, data):
        sock.send_piece(data)

    def end(self, sock):
        return sock.end_stream()

    def wait_closed(self, sock):
        """Until the peer closes; notes when."""
        sock.wait_gone(30)
        self.closed.append(time.monotonic())
        return False

    def released(self, sock):
        """False: the peer left first."""
        if sock.wait_for(self.release):
            return True
        self.closed.append(time.monotonic())
        return False

    def do_ok(self, sock, _):
        self.begin(sock, headers=[("X-Request-Id", "from-engine"), ("Set-Cookie", "a=b")])
        for part in (ROLE + delta("Hel"), delta("lo"), delta(None, "length"), USAGE, DONE):
            self.send(sock, part)
        return self.end(sock)

    def do_crlf(self, sock, _):
        self.begin(sock)
        text = (ROLE + b":\n\n" + delta("Hel") + delta("lo") + delta(None, "stop") + DONE)
        for byte in text.replace(b"\n", b"\r\n"):
            self.send(sock, bytes([byte]))
        return self.end(sock)

    def do_held(self, sock, body):
        """A first token, then nothing until released."""
        self.begin(sock)
        self.send(sock, ROLE + delta("a"))
        if not self.released(sock):
            return False
        self.send(sock, delta(None, "stop") + DONE)
        return self.end(sock)

    def do_trickle(self, sock, _):
        """A token ten times a second until released."""
        self.begin(sock)
        self.send(sock, ROLE)
        while not self.release.wait(0.1):
            self.send(sock, delta("a"))
        self.send(sock, delta(None, "stop") + DONE)
        return self.end(sock)

    def do_silent(self, sock, _):
        return self.wait_closed(sock)

    def do_pinging(self, sock, _):
        """Headers and pings, but never a token."""
        self.begin(sock)
        try:
            while True:
                self.send(sock, b":\n\n")
                time.sleep(0.02)
        except (OSError, scripted.Gone):
            self.closed.append(time.monotonic())
            return False

    def do_stalling(self, sock, _):
        self.begin(sock)
        self.send(sock, ROLE + delta("a"))
        return self.wait_closed(sock)

    def do_truncated(self, sock, _):
        self.begin(sock)
        self.send(sock, ROLE + delta("Hel"))
        return False

    def do_cut_in_event(self, sock, _):
        self.begin(sock)
        self.send(sock, ROLE + delta("Hel") + delta("lo")[:40])
        return self.end(sock)

    def do_incomplete(self, sock, _):
        self.begin(sock)
        self.send(sock, ROLE + delta("Hel"))
        return self.end(sock)

    def do_lost_after_done(self, sock, _):
        self.begin(sock)
        self.send(sock, delta("Hel") + delta(None, "stop") + DONE)
        return False

    def do_not_http(self, sock, _):
        sock.sendall(b"220 smtp.example ESMTP\r\n")
        return False

    def do_no_answer(self, *_):
        return False

    def do_garbage_event(self, sock, _):
        self.begin(sock)
        self.send(sock, b"data: <html>oops</html>\n\n")
        return self.end(sock)

    def do_endless_event(self, sock, _):
        self.begin(sock)
        try:
            while True:
                self.send(sock, b"x" * 65536)
        except (OSError, scripted.Gone):
            return False

    def do_big_head(self, sock, _):
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"y" * 60000 + b"\r\n" +
                     b"X-Filler: " + b"y" * 60000 + b"\r\n\r\n")
        return False

    def do_error_first(self, sock, _):
        self.begin(sock)
        self.send(sock, b'data: {"error":{"code":500,"message":"Compute error."}}\n\n')
        return self.end(sock)

    def do_error_first_400(self, sock, _):
        self.begin(sock)
        self.send(sock, b'data: {"error":{"code":400,"message":"too long"}}\n\n')
        return self.end(sock)

    def do_error_later(self, sock, _):
        self.begin(sock)
        self.send(sock, ROLE + delta("Hel"))
        self.send(sock, b'data: {"error":{"code":500,"message":"Compute error."}}\n\n')
        return self.end(sock)

    def do_json_parse(self, sock, _):
        return self.answer(sock, 500, {"error": {
            "code": 500, "message": "[json.exception.parse_error.101] parse error at line 1",
            "type": "server_error"}})

    def do_broken(self, sock, _):
        return self.answer(sock, 500, {"error": {"code": 500, "message": "Compute error."}})

    def do_busy(self, sock, _):
        return self.answer(sock, 503, {"error": "server busy, please try again."})

    def do_load(self, sock, _):
        return self.answer(sock, 503, {"error": {"message": "Loading model", "code": 503}})

    def do_context(self, sock, _):
        return self.answer(sock, 400, {"error": {"code": 400, "message": "request exceeds the "
                                                 "available context size"}},
                           headers=[("Retry-After", "3")])

    def do_no_usage(self, sock, body):
        if "stream_options" in body:
            return self.answer(sock, 400, {"error": {"code": 400, "message":
                                                     "unknown field stream_options"}})
        self.begin(sock)
        self.send(sock, ROLE + delta("x") + delta(None, "stop") + DONE)
        return self.end(sock)

    def do_plain(self, sock, _):
        return self.answer(sock, 200, {"object": "list", "data": [{"embedding": [0.5]}],
                                       "usage": {"prompt_tokens": 5, "total_tokens": 5}})

    def do_held_answer(self, sock, _):
        """An answer to a question, once released; or none, if the asker leaves first."""
        if not self.released(sock):
            return False
        return self.answer(sock, 200, {"input_tokens": 3})

    def do_transcript(self, sock, _):
        self.begin(sock)
        self.send(sock, b'data: {"type":"transcript.text.delta","delta":"hi"}\n\n')
        self.send(sock, b'data: {"type":"transcript.text.done","text":"hi"}\n\n')
        return self.end(sock)

    def do_flood(self, sock, _):
        """32 MiB as fast as they go; notes how many were sent."""
        self.begin(sock)
        self.sent = 0
        part = delta("y" * 32000)
        for _ in range(1024):
            self.send(sock, part)
            self.sent += len(part)
        self.send(sock, delta(None, "stop") + DONE)
        return self.end(sock)


class Node:
    """One drover-node, and a gRPC client of it."""

    def __init__(self, *arguments, engine=None, name="n1"):
        self.name = name
        self.process = Process(
            [program("drover-node"), "--listen", "127.0.0.1:0", "--name", name, "--engine", engine,
             "--log-level", "debug", *arguments], LOGS / f"{uuid.uuid4().hex}.log")
        line = until(lambda: re.search(r"event=listening .*?port=(\d+)", self.text()),
                     what="event=listening")
        self.port = int(line.group(1))
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.port}", options=[("grpc.max_receive_message_length", 32 << 20)])

    def text(self):
        return self.process.log()

    def ready(self):
        """Until the engine is ready."""
        until(lambda: self.describe().load.engine_reachable and not self.describe().load.loading,
              what="the engine")
        return self

    def unary(self, method, request, response, **options):
        call = self.channel.unary_unary(method, request_serializer=type(request).SerializeToString,
                                        response_deserializer=response.FromString)
        return call(request, timeout=10 * SLOW, **options)

    def describe(self):
        return self.unary("/drover.v1.Inference/Describe", inference.DescribeRequest(),
                          inference.DescribeResponse)

    def health(self, service=""):
        return self.unary("/grpc.health.v1.Health/Check",
                          health.HealthCheckRequest(service=service),
                          health.HealthCheckResponse).status

    def infer(self, script="ok", body=None, timeout=20 * SLOW, metadata=None, **fields):
        if body is None:
            body = {"model": "tiny", "script": script,
                    "messages": [{"role": "user", "content": "hi"}]}
        request = inference.InferRequest(**{
            "request_id": uuid.uuid4().hex, "operation": common.OPERATION_CHAT_COMPLETIONS,
            "model": "tiny", "stream": True,
            "body": body if isinstance(body, bytes) else json.dumps(body).encode(), **fields})
        call = self.channel.unary_stream(
            "/drover.v1.Inference/Infer",
            request_serializer=inference.InferRequest.SerializeToString,
            response_deserializer=inference.InferEvent.FromString)
        return call(request, timeout=timeout, metadata=metadata)

    def watch(self, interval_ms, metadata=None):
        call = self.channel.unary_stream(
            "/drover.v1.Inference/WatchLoad",
            request_serializer=inference.WatchLoadRequest.SerializeToString,
            response_deserializer=common.LoadReport.FromString)
        return call(inference.WatchLoadRequest(interval_ms=interval_ms), timeout=20 * SLOW,
                    metadata=metadata)

    def stop(self, expect=0):
        self.channel.close()
        if self.process.running():
            self.process.signal(signal.SIGTERM)
        try:
            code = self.process.wait()
        finally:
            self.process.kill_all()
        assert code == expect, self.text()[-3000:]
        report = sanitizer_report(self.process.log_path)
        assert not report, report


class Answer:
    """Everything that one call gave."""

    def __init__(self, call):
        self.accepted, self.chunks, self.head, self.finish, self.cause = [], [], None, None, None
        self.status, self.message, self.call = grpc.StatusCode.OK, "", call
        try:
            for event in call:
                kind = event.WhichOneof("event")
                if kind == "accepted":
                    self.accepted.append(event.accepted.queue_position)
                elif kind == "chunk":
                    self.chunks.append(event.chunk)
                else:
                    assert getattr(self, kind) is None, f"a second {kind}"
                    setattr(self, kind, getattr(event, kind))
        except grpc.RpcError as error:
            self.status, self.message = error.code(), error.details()

    @property
    def data(self):
        return b"".join(chunk.data for chunk in self.chunks)

    @property
    def json(self):
        return json.loads(self.data)

    @property
    def text(self):
        return "".join(chunk.text for chunk in self.chunks)
