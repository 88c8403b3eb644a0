"""crowd.py - clients that never stop asking while something is wrong, and judge what they get.

Every request ends in exactly one way, its End; anything else is a breach of invariant I1 of
tests/faults/README.md and is kept as a complaint.  The text of drover-sim depends on the prompt
alone, so what a client should get is known to the byte: a whole answer is compared with one that was
taken before the fault, a broken one must be its beginning.
"""

import asyncio
import enum
import json
import os
import re
import threading
import time

from harness import MODEL, POLL_S, SLOW
from load import (FINGERPRINT, BadAnswer, Closed, chat_body, fetch, normalised, open_request)


class End(enum.Enum):
    OK = "ok"                # status 200 and the whole answer, every byte right
    REJECTED = "rejected"    # a status of 4xx or 5xx with an error of ours
    ERROR_EVENT = "error"    # a stream that broke off, and said so as its last event
    CUT = "cut"              # the connection ended in the middle of an answer
    UNANSWERED = "unanswered"  # the connection ended before the first byte of one
    REFUSED = "refused"      # no connection was made


# Path and body of one request of each kind.
KINDS = {
    "chat": ("/v1/chat/completions", chat_body),
    "whole": ("/v1/chat/completions",
              lambda prompt, tokens: chat_body(prompt, tokens, stream=False)),
    "completion": ("/v1/completions", lambda prompt, tokens: {
        "model": MODEL, "prompt": prompt, "stream": True, "max_tokens": tokens}),
    "anthropic": ("/v1/messages", lambda prompt, tokens: {
        "model": MODEL, "max_tokens": tokens, "stream": True,
        "messages": [{"role": "user", "content": prompt}]}),
    "ollama": ("/api/chat", lambda prompt, tokens: {
        "model": MODEL, "options": {"num_predict": tokens},
        "messages": [{"role": "user", "content": prompt}]}),
}


# Instants and durations, which Ollama's events have too.
TIMES = re.compile(rb'"(created_at":"[^"]*|[a-z_]*_duration":[0-9]+)"?,?')


# A coordinator's comments on an answer that is slow to begin.
COMMENT = re.compile(rb"^: drover [^\n]*\n\n", re.MULTILINE)


def steady(body):
    """The bytes of an answer without what differs between two right ones."""
    return TIMES.sub(b"", COMMENT.sub(b"", normalised(body)))


def documents(body, lines):
    """The JSON of every whole event (or line) of a body; what is cut off at its end is left out."""
    end = b"\n" if lines else b"\n\n"
    *whole, _ = body.split(end)
    for event in whole:
        if lines:
            yield json.loads(event)
            continue
        for line in event.split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                yield json.loads(line[6:])


def text_in(document):
    """The words that one event of any of the APIs adds to its answer."""
    if document.get("choices"):
        choice = document["choices"][0]
        return choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get(
            "content") or ""
    if document.get("type") == "content_block_delta":
        return document["delta"].get("text", "")
    message = document.get("message")
    return message.get("content") or "" if isinstance(message, dict) and "done" in document else ""


def is_end(document):
    return (document.get("done") is True or document.get("type") == "message_stop"
            or any(choice.get("finish_reason") for choice in document.get("choices", ())))


def judge(kind, body, expected):
    """(End, complaint or None) of a body that came with status 200 and ended in order."""
    if kind == "whole":
        got = json.loads(body)
        if "error" in got:
            return End.REJECTED, "status 200 with an error in it"
        text = got["choices"][0]["message"]["content"]
        return End.OK, None if text == expected["text"] else f"text {text!r}"
    found = list(documents(body, kind == "ollama"))
    text = "".join(map(text_in, found))
    errors = sum("error" in document for document in found)
    if errors:
        if errors > 1 or "error" not in found[-1]:
            return End.ERROR_EVENT, f"{errors} errors, or words after one"
        if not expected["text"].startswith(text):
            return End.ERROR_EVENT, f"before the error came {text!r}"
        if any(is_end(document) for document in found[:-1]):
            return End.ERROR_EVENT, "an answer that is whole and failed"
        return End.ERROR_EVENT, None
    ends = sum(is_end(document) for document in found)
    if ends != 1:
        return End.CUT, f"a tidy end of the body with {ends} ends of the answer in it"
    if text != expected["text"]:
        return End.OK, f"text {text!r} instead of {expected['text']!r}"
    if len(set(FINGERPRINT.findall(body))) <= 1 and steady(body) != expected["body"]:
        return End.OK, f"the words are right, other bytes are not: {difference(body, expected)}"
    return End.OK, None


def difference(body, expected):
    """Where an answer is another than the expected one, in words."""
    got, wanted = steady(body), expected["body"]
    at = len(os.path.commonprefix([got, wanted]))
    return f"at {at} {got[max(0, at - 100):at + 300]!r} instead of {wanted[max(0, at - 100):at + 300]!r}"


class Crowd:
    """`concurrency` clients in a thread of their own, until stop()."""

    def __init__(self, address, concurrency=12, tokens=24, kinds=("chat",), prompts=4,
                 deadline_s=30, label="r"):
        self.address = address
        self.concurrency = concurrency
        self.tokens = tokens
        self.kinds = kinds
        self.prompts = [f"Tell me about number {i}." for i in range(prompts)]
        self.deadline_s = deadline_s
        self.label = label
        self.ends = []        # (request id, End, began, ended, detail)
        self.complaints = []  # breaches of I1, in words
        self.known = {}
        self.sent = 0
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="crowd", daemon=True)

    def __enter__(self):
        self._thread.start()
        if not self._ready.wait(60 * SLOW) or self.complaints:
            raise AssertionError(f"the crowd did not begin: {self.complaints}")
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        """Lets what is open end; a request that does not is a complaint."""
        self._stop.set()
        self._thread.join((self.deadline_s + 30) * SLOW)
        if self._thread.is_alive():
            self.complaints.append("a request neither ended nor failed")

    # ---- what was seen ----

    def count(self, end=None):
        return sum(end is None or entry[1] is end for entry in list(self.ends))

    @property
    def done(self):
        return self.count(End.OK)

    def tally(self):
        """{name of the end: how often}, ends that did not happen left out."""
        return {end.value: n for end in End if (n := self.count(end))}

    def outside(self, allowed):
        """The ends that a fault does not excuse."""
        return [entry for entry in self.ends if entry[1] not in allowed]

    # ---- inside ----

    def _main(self):
        try:
            asyncio.run(self._run())
        except Exception as failure:  # pylint: disable=broad-except
            self.complaints.append(f"the crowd itself failed: {failure!r}")
        finally:
            self._ready.set()

    async def _run(self):
        for kind in self.kinds:
            for prompt in self.prompts:
                self.known[kind, prompt] = await self._learn(kind, prompt)
        self._ready.set()
        await asyncio.gather(*(self._client(i) for i in range(self.concurrency)))

    async def _learn(self, kind, prompt):
        path, make = KINDS[kind]
        answer = await fetch(self.address, "POST", path, make(prompt, self.tokens))
        if answer.status != 200:
            raise BadAnswer(f"reference: {answer.status} {answer.body[:300]!r}")
        if kind == "whole":
            text = answer.json()["choices"][0]["message"]["content"]
        else:
            text = "".join(map(text_in, documents(answer.body, kind == "ollama")))
        if not text:
            raise BadAnswer(f"reference of {kind}: no words in {answer.body[:300]!r}")
        return {"text": text, "body": steady(answer.body)}

    async def _client(self, number):
        turn = number
        while not self._stop.is_set():
            kind = self.kinds[turn % len(self.kinds)]
            prompt = self.prompts[turn // len(self.kinds) % len(self.prompts)]
            turn += 1
            name = f"{self.label}-{kind}-{number}-{turn}"
            began = time.monotonic()
            self.sent += 1
            try:
                end, detail = await asyncio.wait_for(
                    self._one(name, kind, prompt), self.deadline_s * SLOW)
            except asyncio.TimeoutError:
                end, detail = None, None
                self.complaints.append(f"I1: {name} had no end after {self.deadline_s} s")
            except Exception as failure:  # pylint: disable=broad-except
                end, detail = None, None
                self.complaints.append(f"I1: {name} ({kind}): {failure!r}")
            if end is not None:
                self.ends.append((name, end, began, time.monotonic(), detail))
            if end is not End.OK:
                await asyncio.sleep(POLL_S)  # a refused connection must not spin

    async def _one(self, name, kind, prompt):
        path, make = KINDS[kind]
        expected = self.known[kind, prompt]
        try:
            answer = await open_request(self.address, "POST", path, make(prompt, self.tokens),
                                        {"x-request-id": name})
        except OSError as failure:
            return End.REFUSED, str(failure)
        try:
            try:
                await answer.read_head()
                await answer.read()
            except (Closed, OSError) as failure:
                self._check_beginning(name, kind, answer, expected)
                end = End.CUT if answer.status else End.UNANSWERED
                return end, f"{failure} after {len(answer.body)} bytes"
            if answer.status != 200:
                return self._rejection(name, answer)
            end, complaint = judge(kind, answer.body, expected)
            if complaint:
                self.complaints.append(f"I1: {name} ({kind}): {complaint}")
            return end, f"{len(answer.body)} bytes"
        finally:
            answer.close()

    def _check_beginning(self, name, kind, answer, expected):
        if kind == "whole" or answer.status != 200:
            return
        text = "".join(map(text_in, documents(answer.body, kind == "ollama")))
        if not expected["text"].startswith(text):
            self.complaints.append(f"I1: {name} ({kind}): before it was cut came {text!r}")

    def _rejection(self, name, answer):
        try:
            error = answer.json()["error"]
        except (ValueError, KeyError):
            self.complaints.append(f"I1: {name}: status {answer.status} and no error in "
                                   f"{answer.body[:200]!r}")
            error = None
        if answer.status in (429, 503) and "retry-after" not in answer.headers:
            self.complaints.append(f"I1: {name}: status {answer.status} without Retry-After")
        return End.REJECTED, f"{answer.status} {error}"
