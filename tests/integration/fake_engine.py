"""fake_engine.py - an OpenAI-speaking server that records what reaches it and misbehaves on demand.

drover-node is put in front of it with --engine http://...; so a test sees the exact bytes that an
engine would get.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "fake-model"


def chunk(content=None, finish=None, usage=None, **more):
    delta = {} if content is None else {"content": content}
    document = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1,
                "model": MODEL, "system_fingerprint": "fake",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    if usage:
        document.update(choices=[], usage=usage)
    return document


class FakeEngine:
    """`behave(handler, path, body)` answers a POST; handler.stream() and .answer() help it."""

    def __init__(self, behave=None, models=(MODEL,), about=None):
        engine = self
        self.requests = []  # (path, headers, body), in order of arrival
        self.behave = behave or (lambda handler, path, body: handler.chat(body))
        self.models = models
        self.open = 0  # POSTs being answered
        self.lock = threading.Lock()
        self.stopping = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format, *args):  # pylint: disable=redefined-builtin
                pass

            def do_GET(self):
                if self.path == "/v1/models":
                    self.answer(200, {"object": "list", "data": [
                        {"id": model, "object": "model", "created": 1, "owned_by": "fake",
                         **(about or {})}
                        for model in engine.models]})
                elif self.path == "/health":
                    self.answer(200, {"status": "ok"})
                else:
                    self.answer(404, {"error": {"message": "no such path", "code": 404}})

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                with engine.lock:
                    engine.requests.append((self.path, dict(self.headers.items()), body))
                    engine.open += 1
                try:
                    engine.behave(self, self.path, body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with engine.lock:
                        engine.open -= 1

            def answer(self, status, document, headers=()):
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def begin_stream(self, content_type="text/event-stream"):
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()

            def send_piece(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def send_event(self, document):
                data = document if isinstance(document, bytes) else json.dumps(document).encode()
                self.send_piece(b"data: " + data + b"\n\n")

            def end_stream(self):
                self.wfile.write(b"0\r\n\r\n")

            def drop(self):
                """Closes the connection in the middle of whatever this was."""
                self.close_connection = True
                self.connection.shutdown(2)

            def wait_gone(self, bound_s=10):
                """True when the caller hung up within the bound."""
                self.connection.settimeout(bound_s)
                try:
                    return self.connection.recv(1) == b""
                except TimeoutError:
                    return False
                except OSError:
                    return True

            def chat(self, body, words=("Hello", " there", ".")):
                request = json.loads(body)
                usage = {"prompt_tokens": 3, "completion_tokens": len(words),
                         "total_tokens": 3 + len(words)}
                if not request.get("stream"):
                    self.answer(200, {
                        "id": "chatcmpl-fake", "object": "chat.completion", "created": 1,
                        "model": MODEL, "usage": usage,
                        "choices": [{"index": 0, "finish_reason": "stop", "message": {
                            "role": "assistant", "content": "".join(words)}}]})
                    return
                self.begin_stream()
                for word in words:
                    self.send_event(chunk(word))
                self.send_event(chunk(finish="stop"))
                if request.get("stream_options", {}).get("include_usage"):
                    self.send_event(chunk(usage=usage))
                self.send_event(b"[DONE]")
                self.end_stream()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(POLL_S,),
                                       daemon=True)
        self.thread.start()

    def posts(self, path=None):
        with self.lock:
            return [r for r in self.requests if path is None or r[0] == path]

    def close(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()


POLL_S = 0.05
