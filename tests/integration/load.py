"""load.py - HTTP/1.1 over raw asyncio sockets, and a load that checks every byte it gets.

No HTTP library sits between the test and the wire, so a missing byte, a doubled status line or
a second answer in one stream cannot be tidied away.
"""

import asyncio
import json
import re
import threading
import time

from harness import MODEL, POLL_S, SLOW, until

LIMIT = 1 << 22


class BadAnswer(AssertionError):
    """The answer is not well-formed HTTP, or not the right one."""


class Closed(BadAnswer):
    """The connection ended before the answer was complete."""


def make_request(method, path, body=b"", headers=None):
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
    lines = {"Host": "localhost"}
    if body or method == "POST":
        lines["Content-Type"] = "application/json"
        lines["Content-Length"] = str(len(body))
    lines.update(headers or {})
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()
                                                     if v is not None)
    return head.encode() + b"\r\n" + body


class Answer:
    """One HTTP answer; read whole, or piece by piece with pieces()."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers = {}
        self.body = b""
        self.first_byte_s = None

    async def read_head(self):
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as end:
            raise Closed(f"connection closed in the head: {end.partial!r}") from None
        except ConnectionError as end:
            raise Closed(f"connection broke in the head: {end}") from None
        lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", lines[0])
        if not match:
            raise BadAnswer(f"status line {lines[0]!r}")
        self.status = int(match.group(1))
        for line in lines[1:-2]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        return self

    async def pieces(self):
        """The body as it comes, transfer coding removed."""
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                while True:
                    size_line = await self.reader.readuntil(b"\r\n")
                    size = int(size_line.split(b";")[0], 16)
                    data = await self.reader.readexactly(size + 2)
                    if data[-2:] != b"\r\n":
                        raise BadAnswer(f"chunk of {size} bytes does not end in CRLF")
                    if size == 0:
                        return
                    yield data[:-2]
            elif "content-length" in self.headers:
                left = int(self.headers["content-length"])
                while left:
                    data = await self.reader.read(min(left, 65536))
                    if not data:
                        raise Closed(f"{left} bytes of the body are missing")
                    left -= len(data)
                    yield data
            else:
                while True:
                    data = await self.reader.read(65536)
                    if not data:
                        return
                    yield data
        except asyncio.IncompleteReadError as end:
            raise Closed(f"connection closed in a chunk: {end.partial!r}") from None
        except ConnectionError as end:
            raise Closed(f"connection broke in the body: {end}") from None

    async def read(self):
        async for piece in self.pieces():
            self.body += piece
        return self

    async def events(self):
        """Server-sent events (or, for NDJSON, lines) as they come, without their end."""
        kept = b""
        end = b"\n" if "ndjson" in self.headers.get("content-type", "") else b"\n\n"
        async for piece in self.pieces():
            self.body += piece
            kept += piece
            *whole, kept = kept.split(end)
            for event in whole:
                yield event
        if kept:
            raise BadAnswer(f"the stream ends inside an event: {kept!r}")

    def json(self):
        return json.loads(self.body)

    def close(self):
        if self.writer:
            self.writer.close()

    def abort(self):
        """Closes at once, unread bytes and all: what a client that crashed looks like."""
        self.writer.transport.abort()


async def open_request(address, method, path, body=b"", headers=None):
    reader, writer = await asyncio.open_connection(*address, limit=LIMIT)
    writer.write(make_request(method, path, body, headers))
    await writer.drain()
    return Answer(reader, writer)


async def fetch(address, method, path, body=b"", headers=None, timeout_s=60):
    async def go():
        answer = await open_request(address, method, path, body, headers)
        try:
            await answer.read_head()
            if method != "HEAD" and answer.status not in (204, 304):
                await answer.read()
            return answer
        finally:
            answer.close()
    return await asyncio.wait_for(go(), timeout_s * SLOW)


def fetch_now(address, method, path, body=b"", headers=None, timeout_s=60):
    """fetch() for tests that do one thing at a time."""
    return asyncio.run(fetch(address, method, path, body, headers, timeout_s))


def send_raw(address, data, timeout_s=10):
    """Sends bytes as they are; everything that comes back until the other side closes."""
    async def go():
        reader, writer = await asyncio.open_connection(*address, limit=LIMIT)
        writer.write(data)
        try:
            return await reader.read(-1)
        finally:
            writer.close()
    return asyncio.run(asyncio.wait_for(go(), timeout_s * SLOW))


def chat_body(prompt, tokens=16, stream=True, model=MODEL, **more):
    return {"model": model, "stream": stream, "max_tokens": tokens,
            "messages": [{"role": "user", "content": prompt}], **more}


# ---- what a stream must be ----

# Two answers to the same prompt may differ in these: node, time, and timings.
VARYING = re.compile(
    rb'"(id|created|system_fingerprint|timings)":("[^"]*"|[0-9]+|\{[^{}]*\}),?')
FINGERPRINT = re.compile(rb'"system_fingerprint":"([^"]*)"')


def normalised(body):
    """The bytes of an answer without what may vary."""
    return VARYING.sub(b"", body)


def check_one_attempt(body):
    """Every event of one answer must come from the same attempt at the same node."""
    nonces = set(FINGERPRINT.findall(body))
    if len(nonces) != 1:
        raise BadAnswer(f"{len(nonces)} attempts in one answer: {nonces}")


def text_of(body):
    """The text that the chunks of a chat stream add up to; checks the stream's shape."""
    events = body.split(b"\n\n")
    if events[-1] != b"" or events[-2] != b"data: [DONE]":
        raise BadAnswer(f"the stream does not end in [DONE]: ...{body[-200:]!r}")
    text, finish, ids = [], None, set()
    for event in events[:-2]:
        if event.startswith(b":"):
            continue
        if not event.startswith(b"data: "):
            raise BadAnswer(f"not an event: {event!r}")
        document = json.loads(event[6:])
        if "error" in document:
            raise BadAnswer(f"error event: {document['error']}")
        ids.add(document["id"])
        for choice in document["choices"]:
            if finish is not None:
                raise BadAnswer("content after finish_reason")
            text.append(choice["delta"].get("content") or "")
            finish = choice.get("finish_reason")
    if finish is None:
        raise BadAnswer("no finish_reason")
    if len(ids) != 1:
        raise BadAnswer(f"ids {ids} in one answer")
    return "".join(text)


class Reference:
    """The right bytes per (prompt, tokens), learned from one answer each."""

    def __init__(self, address):
        self.address = address
        self.known = {}

    async def learn(self, prompt, tokens):
        answer = await fetch(self.address, "POST", "/v1/chat/completions",
                             chat_body(prompt, tokens))
        if answer.status != 200:
            raise BadAnswer(f"reference: {answer.status} {answer.body[:300]!r}")
        text_of(answer.body)
        self.known[prompt, tokens] = normalised(answer.body)

    def check(self, prompt, tokens, body):
        check_one_attempt(body)
        text_of(body)
        expected = self.known[prompt, tokens]
        got = normalised(body)
        if got != expected:
            at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b),
                      min(len(got), len(expected)))
            raise BadAnswer(f"byte {at} differs: got {got[at - 60:at + 60]!r}, "
                            f"expected {expected[at - 60:at + 60]!r}")


async def checked_stream(address, reference, prompt, tokens, headers=None):
    """One stream, every byte checked.  Returns its answer."""
    answer = await open_request(address, "POST", "/v1/chat/completions",
                                chat_body(prompt, tokens), headers)
    try:
        await answer.read_head()
        if answer.status != 200:
            await answer.read()
            raise BadAnswer(f"status {answer.status}: {answer.body[:300]!r}")
        await answer.read()
    finally:
        answer.close()
    reference.check(prompt, tokens, answer.body)
    return answer


class Load:
    """Streams in the background, `concurrency` at a time, until stop(); every byte is checked.

        with Load(cluster.api, concurrency=40) as load:
            ...disturb...
        assert load.done > 0 and not load.failures
    """

    def __init__(self, address, concurrency=32, tokens=24, prompts=8):
        self.address = address
        self.concurrency = concurrency
        self.tokens = tokens
        self.prompts = [f"Tell me about number {i}." for i in range(prompts)]
        self.done = 0
        self.failures = []  # (seconds since start, text)
        self.started = None
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="load", daemon=True)

    def more(self, count):
        """Waits until `count` more requests are done: real traffic crossed the event."""
        target = self.done + count
        until(lambda: self.done >= target or self.failures, 30, f"{count} more requests")

    def __enter__(self):
        self._thread.start()
        if not self._ready.wait(30 * SLOW):
            raise AssertionError("the load did not begin")
        if self.failures:
            raise AssertionError(f"the load did not begin: {self.failures}")
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        self._stop.set()
        self._thread.join(90 * SLOW)
        if self._thread.is_alive():
            raise AssertionError("the load hangs: a request neither ended nor failed")

    def _main(self):
        try:
            asyncio.run(self._run())
        except Exception as failure:  # pylint: disable=broad-except
            self.failures.append((0.0, repr(failure)))
        finally:
            self._ready.set()

    async def _run(self):
        reference = Reference(self.address)
        for prompt in self.prompts:
            await reference.learn(prompt, self.tokens)
        self.started = time.monotonic()
        self._ready.set()
        await asyncio.gather(*(self._client(i, reference) for i in range(self.concurrency)))

    async def _client(self, number, reference):
        turn = number
        while not self._stop.is_set():
            prompt = self.prompts[turn % len(self.prompts)]
            turn += 1
            try:
                await asyncio.wait_for(
                    checked_stream(self.address, reference, prompt, self.tokens), 60 * SLOW)
                self.done += 1
            except Exception as failure:  # pylint: disable=broad-except
                at = time.monotonic() - self.started
                self.failures.append((at, f"{type(failure).__name__}: {failure}"))
                if len(self.failures) > 200:
                    return
                await asyncio.sleep(POLL_S)  # a refused connection must not spin
