"""client.py - a small HTTP client for the tests of the scripted engines."""

import http.client
import json
import socket
import struct
import threading
import time


def ask(engine, method, path, body=None, headers=None, timeout=20):
    """(status, headers, body as bytes)"""
    with_type = {"Content-Type": "application/json"} if body is not None else {}
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=timeout)
    try:
        connection.request(method, path, data, {**with_type, **(headers or {})})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def get(engine, path):
    """The document at a path; it must be 200."""
    status, _, data = ask(engine, "GET", path)
    assert status == 200, (status, data)
    return json.loads(data)


def post(engine, path, body):
    """(status, document)"""
    status, _, data = ask(engine, "POST", path, body)
    return status, json.loads(data)


def chat(text="hello there", **more):
    return {"messages": [{"role": "user", "content": text}], **more}


class Stream:
    """A streamed answer, read line by line as it comes."""

    def __init__(self, engine, path, body):
        self.began_s = time.monotonic()
        self.connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
        self.connection.request("POST", path, json.dumps(body).encode(),
                                {"Content-Type": "application/json"})
        self.sock = self.connection.sock
        self.response = self.connection.getresponse()
        self.head_s = time.monotonic() - self.began_s
        self.lines = []            # (seconds since the start, line)

    def next(self):
        """The next line that is not empty; None at the end."""
        while (line := self.response.readline()):
            if line.strip():
                self.lines.append((time.monotonic() - self.began_s, line.strip()))
                return line.strip()
        return None

    def all(self):
        """Every event as a document; [DONE] as a text."""
        while self.next() is not None:
            pass
        return self.events()

    def events(self):
        out = []
        for _, line in self.lines:
            if line.startswith((b"event:", b":")):
                continue
            data = line.removeprefix(b"data: ")
            out.append(data.decode() if data == b"[DONE]" else json.loads(data))
        return out

    def close(self):
        close_now(self.sock)


def close_now(sock):
    """So that the peer sees it, whatever was read."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def leave_unanswered(engine, path, body):
    """Sends a request; returns a function that closes the connection."""
    data = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", engine.port))
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(data), data))
    return lambda: close_now(sock)


def until(condition, bound_s=10, what="the condition"):
    end = time.monotonic() + bound_s
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.01)
    return value


def at_once(count, work):
    """Runs work(i) in so many threads; returns what they returned."""
    out = [None] * count

    def run(i):
        out[i] = work(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return out


def text_of_chat(events):
    return "".join((e["choices"][0]["delta"].get("content") or "") for e in events
                   if isinstance(e, dict) and e.get("choices"))
