"""scripted.py - the base of every scripted engine: an HTTP/1.1 server that records and obeys.

A scripted engine is one Python file that answers as one real engine does, from sockets up, with
the standard library alone.  It runs in threads of the test process, or as a program:

    from vllm import Vllm                      python3 tests/engines/vllm.py --port 0 tokens_per_s=50
    engine = Vllm(max_num_seqs=8)
    engine.url, engine.port                    where it listens, from the constructor on
    engine.tokens_per_s = 5                    every knob is a plain attribute; it works at once
    engine.on["/v1/models"] = my_function      (reply, request) instead of the engine's own answer
    engine.seen, engine.posts("/v1/messages")  every request: method, path, headers, body, instants
    engine.count["cancelled"]                  what happened, by name
    engine.stop(); engine.start()              as if the process had been killed; the same port again
    engine.close()                             the end

To add an engine: subclass Engine (or OpenAi of openai_api.py), fill `routes` with
{(method, path): name of a method (reply, request)}, name in the head of the file the source file
of the real engine behind each behaviour, end with `main(YourClass)`, and write
test_YOUR_ENGINE.py beside it that shows each behaviour without Drover.  What a text says is
machine.py's (deterministic: the same model continues the same prompt alike on every engine), and
so is when: one thread hands out tokens in ticks, so that hundreds of streams cost little.
"""

import collections
import json
import select
import socket
import struct
import sys
import threading
import time
import urllib.parse

from machine import Gone

REASONS = {100: "Continue", 200: "OK", 204: "No Content", 302: "Found", 400: "Bad Request",
           401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
           413: "Payload Too Large", 422: "Unprocessable Entity", 429: "Too Many Requests",
           499: "Client Closed Request", 500: "Internal Server Error", 501: "Not Implemented",
           502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


def compact(document):
    """JSON as most engines write it: no blanks, UTF-8."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


class Headers(dict):
    """Names in lower case; looked up however they are spelled."""

    def get(self, name, default=None):
        return super().get(name.lower(), default)

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())


class Request:
    """One request as it arrived.  Unpacks as (path, headers, body)."""

    def __init__(self, method, target, headers, body):
        self.method = method
        self.target = target
        self.path, _, query = target.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.headers = headers
        self.body = body
        self.came_s = time.monotonic()
        self.ended_s = None        # instant at which the answer had been handed to the kernel
        self.status = None         # of the answer, once there is one
        self.gone = False          # the client left before the end

    @property
    def json(self):
        return json.loads(self.body)

    def __iter__(self):
        return iter((self.path, self.headers, self.body))

    def __getitem__(self, index):
        return (self.path, self.headers, self.body)[index]

    def __repr__(self):
        return f"<{self.method} {self.target} {self.status}>"


class Reply:
    """The answer to one request, and the connection it goes out on."""

    def __init__(self, engine, sock, request):
        self.engine = engine
        self.sock = sock
        self.request = request
        self.framing = None        # of a stream: "chunked" or "close"
        self.keep = request.headers.get("connection", "").lower() != "close"
        self.pending = b""         # what the kernel would not take yet
        self.lock = threading.Lock()

    # ---- whole answers --------------------------------------------------------------------

    def answer(self, status, document, headers=(), content_type="application/json"):
        """One document: bytes as they are, a text in UTF-8, all else as JSON."""
        if isinstance(document, str):
            data = document.encode()
        else:
            data = document if isinstance(document, bytes) else self.engine.dump(document)
        head = list(headers)
        if content_type is not None:
            head.insert(0, ("Content-Type", content_type))
        head.append(("Content-Length", str(len(data))))
        body = b"" if self.request.method == "HEAD" or status == 204 else data
        self._head(status, head)
        self.sendall(body)
        return self.keep

    def _head(self, status, headers):
        self.request.status = status
        lines = [f"{self.engine.http_version} {status} {REASONS.get(status, 'Odd')}"]
        lines += [f"{name}: {value}" for name, value in self.engine.head_of(self, status, headers)]
        if not self.keep and not any(line.lower().startswith("connection:") for line in lines):
            lines.append("Connection: close")
        self.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")

    # ---- streams --------------------------------------------------------------------------

    def begin_stream(self, content_type="text/event-stream", headers=(), status=200,
                     framing="chunked"):
        head = list(headers)
        if content_type is not None:
            head.insert(0, ("Content-Type", content_type))
        if framing == "chunked":
            head.append(("Transfer-Encoding", "chunked"))
        else:
            self.keep = False
        self.framing = framing
        self._head(status, head)

    def frame(self, data):
        return b"%x\r\n%s\r\n" % (len(data), data) if self.framing == "chunked" else data

    def send_piece(self, data):
        if data:
            self.sendall(self.frame(data))

    def send_event(self, document):
        data = document if isinstance(document, bytes) else self.engine.dump(document)
        self.send_piece(b"data: " + data + b"\n\n")

    def push(self, data):
        """As send_piece, but never waits for a slow reader: the rest goes out with what follows."""
        with self.lock:
            self.pending += self.frame(data) if data else b""
            while self.pending:
                try:
                    sent = self.sock.send(self.pending, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    return
                self.pending = self.pending[sent:]

    def end_stream(self):
        if self.framing == "chunked":
            self.sendall(b"0\r\n\r\n")
        return self.keep

    # ---- the connection -------------------------------------------------------------------

    def sendall(self, data):
        with self.lock:
            data, self.pending = self.pending + data, b""
            try:
                self.sock.sendall(data, socket.MSG_NOSIGNAL)
            except OSError as error:
                raise Gone() from error

    def drop(self):
        """Closes the connection in the middle of whatever this was."""
        self.keep = False
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        return False

    def reset(self):
        """As drop(), but the peer sees a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.keep = False
        return False

    def wait_read(self, bound_s=10):
        """Until the peer's process has taken all bytes so far out of its kernel."""
        peer, own = (f"{name[1]:04X}" for name in (self.sock.getpeername(), self.sock.getsockname()))
        end = time.monotonic() + bound_s
        while unread_bytes(peer, own) or unread_bytes(own, peer, sent=True):
            if time.monotonic() > end:
                raise Gone()
            time.sleep(0.005)

    def is_gone(self):
        return closed_by_peer(self.sock, 0)

    def wait_gone(self, bound_s=10):
        """True when the caller hung up within the bound."""
        gone = closed_by_peer(self.sock, bound_s)
        self.request.gone = self.request.gone or gone
        return gone

    def wait_for(self, event, bound_s=30):
        """Until the event is set: True; the client left, or the bound passed: False."""
        end = time.monotonic() + bound_s
        while not event.wait(0.02):
            if self.is_gone() or time.monotonic() > end or self.engine.stopping.is_set():
                self.request.gone = self.is_gone()
                return False
        return True

    def sleep(self, seconds):
        """Raises Gone when the client leaves meanwhile."""
        if closed_by_peer(self.sock, seconds):
            raise Gone()


def unread_bytes(port, peer_port, sent=False):
    """Of the socket between these ports (in hexadecimal): bytes that came and were not read, or that
    were sent and have not come."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        for row in map(str.split, table):
            if row[1].endswith(":" + port) and row[2].endswith(":" + peer_port):
                return int(row[4].split(":")[0 if sent else 1], 16)
    return 0


def closed_by_peer(sock, bound_s):
    """Whether the other side has closed its half; bytes it sent meanwhile do not matter."""
    poller = select.poll()
    try:
        poller.register(sock, select.POLLRDHUP)
    except (OSError, ValueError):
        return True
    return bool(poller.poll(bound_s * 1000))


class Engine:
    """The server.  A subclass says what it answers."""

    reply_class = Reply
    server = None                  # the Server header
    http_version = "HTTP/1.1"
    routes = {}                    # (method, path) -> name of a method (reply, request)
    backlog = 512

    def __init__(self, port=0, **knobs):
        self.seen = []             # every Request, in order of arrival
        self.on = {}               # path or (method, path) -> function instead of our own
        self.count = collections.Counter()
        self.open = 0              # POSTs being answered
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.dead = False          # answers nothing at all; connections stay open
        self.listener = None
        self.sockets = set()
        self.posting = set()       # those of POSTs being answered
        self.port = port
        self.setup()
        for name, value in knobs.items():
            self.set(name, value)
        self.start()

    def setup(self):
        """A subclass sets its knobs to their defaults here."""

    def set(self, name, value):
        if not hasattr(self, name):
            raise AttributeError(f"{type(self).__name__} has no knob {name}")
        setattr(self, name, value)

    # ---- life -----------------------------------------------------------------------------

    def start(self):
        """Listens (again, on the same port)."""
        self.stopping = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=self.backlog)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()
        return self

    def stop(self):
        """As if the process had been killed: nothing listens, every connection is reset."""
        listener, self.listener = self.listener, None
        if listener is None:
            return
        self.stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self.lock:
            sockets = list(self.sockets)
        for sock in sockets:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def leave(self):
        """As a process that is about to end: nothing listens, idle connections are closed, and the
        others stay."""
        listener, self.listener = self.listener, None
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self.lock:
            for sock in self.sockets - self.posting:
                sock.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- what was seen --------------------------------------------------------------------

    def posts(self, path=None):
        with self.lock:
            return [r for r in self.seen if r.method == "POST" and path in (None, r.path)]

    def gets(self, path=None):
        with self.lock:
            return [r for r in self.seen if r.method in ("GET", "HEAD") and path in (None, r.path)]

    @property
    def requests(self):
        return self.posts()

    # ---- serving --------------------------------------------------------------------------

    def dump(self, document):
        return compact(document)

    def head_of(self, _reply, _status, headers):
        """The header lines of an answer, in the engine's order."""
        return ([("Server", self.server)] if self.server else []) + list(headers)

    def handle(self, reply, request):
        """Answers; returns whether the connection is kept."""
        own = self.on.get((request.method, request.path)) or self.on.get(request.path)
        if own is not None:
            return own(reply, request)
        name = self.routes.get((request.method, request.path))
        if name is None and request.method == "HEAD":
            name = self.routes.get(("GET", request.path))
        if name is None:
            return self.no_route(reply, request)
        return getattr(self, name)(reply, request)

    def no_route(self, reply, _request):
        return reply.answer(404, {"error": {"message": "no such path", "code": 404}})

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with self.lock:
            self.sockets.add(sock)
        try:
            file = sock.makefile("rb")
            while self._one(sock, file):
                pass
        except (OSError, Gone, ValueError):
            pass
        finally:
            with self.lock:
                self.sockets.discard(sock)
            sock.close()

    def _one(self, sock, file):
        request = read_request(sock, file)
        if request is None:
            return False
        post = request.method == "POST"
        with self.lock:
            self.seen.append(request)
            self.open += post
            if post:
                self.posting.add(sock)
        reply = self.reply_class(self, sock, request)
        try:
            if self.dead:
                reply.wait_gone(3600)
                return False
            kept = self.handle(reply, request)
            return reply.keep if kept is None else kept and reply.keep
        except Gone:
            request.gone = True
            return False
        except (BrokenPipeError, ConnectionResetError):
            request.gone = True
            return False
        finally:
            request.ended_s = time.monotonic()
            with self.lock:
                self.open -= post
                self.posting.discard(sock)


def read_request(sock, file):
    line = file.readline()
    if not line.strip():
        return None
    method, target, _ = line.decode("latin-1").split(" ", 2)
    headers = Headers()
    while (line := file.readline().strip()):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while (size := int(file.readline().split(b";")[0], 16)):
            body += file.read(size)
            file.readline()
        while file.readline().strip():
            pass
    else:
        body = file.read(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


def main(kind):
    """The engine as a program: --port N, and knobs as NAME=VALUE (JSON or a plain text)."""
    port, knobs, words = 0, {}, sys.argv[1:]
    while words:
        word = words.pop(0)
        if word == "--port" and words:
            port = int(words.pop(0))
        elif "=" in word and not word.startswith("-"):
            name, _, value = word.partition("=")
            try:
                knobs[name] = json.loads(value)
            except ValueError:
                knobs[name] = value
        else:
            sys.exit(f"usage: {sys.argv[0]} [--port N] [KNOB=VALUE]...")
    engine = kind(port=port, **knobs)
    print(engine.url, flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        engine.close()
