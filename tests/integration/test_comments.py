"""Streams whose engine is silent: comments keep clients, and proxies on the way, from giving up.

With the first comment the stream has begun; a retry elsewhere is still unseen until content, and
what goes wrong is an event in the shape of the API.
"""

import asyncio
import json
import threading

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from harness import SLOW, until
from llama_server import LlamaServer
from load import chat_body, fetch_now, open_request, text_of
from ollama import Ollama
from vllm import Vllm

SOON = {"queue": {"comment_after_ms": 200}}
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, OLLAMA = "/v1/messages", "/api/chat"


@pytest.fixture(name="nodes")
def nodes_fixture(make_cluster):
    """A coordinator before such engines, and their end with the test's."""
    made = []

    def make(*engines, **more):
        made.extend(engines)
        cluster = make_cluster(workers=1, config={**SOON, **more}).start()
        for at, engine in enumerate(engines):
            cluster.start_node(f"n{at}", engine=engine.url, extra=("--slots", "4"), wait=False)
        for at in range(len(engines)):
            cluster.wait_up(f"n{at}")
        return cluster

    yield make
    for engine in made:
        engine.close()


def body_of(path, model, stream=True, **more):
    text = {"prompt": "hi"} if path == COMPLETIONS else {"input": "hi"} if path == RESPONSES else {
        "messages": [{"role": "user", "content": "hi"}]}
    return {"model": model, "stream": stream, "max_tokens": 6, **text, **more}


def name_of(engine):
    return next(iter(engine.models))


def events_of(answer):
    return [event for event in answer.body.split(b"\n\n") if event]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_a_stream_whose_prompt_is_read_for_long_gets_comments(nodes, path):
    engine = LlamaServer(prompt_s=2.5)
    cluster = nodes(engine)
    answer = fetch_now(cluster.api, "POST", path, body_of(path, name_of(engine)))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    first, *rest = events_of(answer)
    assert first == b": drover prefill"
    assert rest and not any(event.startswith(b": drover") for event in rest), "one in five seconds"
    direct = fetch_now(("127.0.0.1", engine.port), "POST", path, body_of(path, name_of(engine)))
    assert len(events_of(direct)) == len(rest)


@pytest.mark.parametrize("path, stream", [(CHAT, False), (MESSAGES, False), (OLLAMA, True),
                                          (OLLAMA, False)])
def test_an_answer_without_events_gets_no_comment(nodes, path, stream):
    engine = Ollama(prompt_s=2.5) if path == OLLAMA else LlamaServer(prompt_s=2.5)
    cluster = nodes(engine)
    answer = fetch_now(cluster.api, "POST", path, body_of(path, name_of(engine), stream))
    assert answer.status == 200 and b": drover" not in answer.body
    for line in answer.body.splitlines():
        json.loads(line)


def test_a_stream_that_waits_for_a_load_gets_comments(nodes):
    engine = Ollama(load_s=2.5)
    cluster = nodes(engine)
    answer = fetch_now(cluster.api, "POST", CHAT, body_of(CHAT, name_of(engine)))
    assert events_of(answer)[0] == b": drover load"
    assert text_of(answer.body) and answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_silence_inside_an_answer_is_filled_between_two_events(nodes, path):
    arguments = json.dumps({"text": "int main(void);\n" * 50})
    tool = {"type": "function", "function": {"name": "write", "parameters": {"type": "object"}}}
    if path == MESSAGES:
        tool = {"name": "write", "input_schema": {"type": "object"}}
    engine = Vllm(calls=[("write", arguments)], answer_tokens=2, call_tokens=100, tokens_per_s=40)
    cluster = nodes(engine)
    answer = fetch_now(cluster.api, "POST", path,
                       body_of(path, name_of(engine), tools=[tool], max_tokens=500))
    comments = [at for at, event in enumerate(events_of(answer)) if event == b": drover decode"]
    assert comments and 0 < comments[0] < len(events_of(answer)) - 1
    rest = [e for e in events_of(answer) if not e.startswith(b":") and not e.endswith(b"[DONE]")]
    for event in rest:
        json.loads(event.rpartition(b"data: ")[2])
    assert b"int main(void)" in answer.body and b'"error"' not in answer.body


class Failing(FakeEngine):
    """Keeps requests until a comment was seen; the first `fails` of them get an HTTP error."""

    def __init__(self, status, fails, shared=None):
        self.commented = threading.Event()
        self.status, self.fails = status, fails
        self.asked = shared if shared is not None else []
        super().__init__(self.answer_late)

    def answer_late(self, handler, path, body):
        self.asked.append(path)
        if len(self.asked) > self.fails:
            handler.chat(body)
            return
        assert self.commented.wait(60 * SLOW)
        handler.answer(self.status, {"error": {"message": "it does not fit", "code": self.status}})


async def read_all(cluster, path, engines):
    """The whole answer of a stream; the engines go on when it has its first comment."""
    answer = await open_request(cluster.api, "POST", path, body_of(path, FAKE))
    await answer.read_head()
    async for event in answer.events():
        if event.startswith(b": drover"):
            for engine in engines:
                engine.commented.set()
    answer.close()
    return answer


@pytest.mark.parametrize("status", [500, 429])
def test_after_comments_another_node_answers_unseen(nodes, status):
    one = Failing(status, 1)
    two = Failing(status, 1, one.asked)
    two.commented = one.commented
    cluster = nodes(one, two)
    answer = asyncio.run(read_all(cluster, CHAT, [one]))
    assert len(one.asked) == 2
    assert text_of(answer.body) == "Hello there."
    assert b'"error"' not in answer.body and answer.body.count(b"[DONE]") == 1


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_an_error_after_comments_is_an_event_of_the_api(nodes, path, status):
    engine = Failing(status, 9)
    cluster = nodes(engine)
    answer = asyncio.run(read_all(cluster, path, [engine]))
    assert answer.status == 200
    events = events_of(answer)
    assert events[0] == b": drover prefill"
    if path in (CHAT, COMPLETIONS):
        assert events[-1] == b"data: [DONE]"
        error = json.loads(events[-2].removeprefix(b"data: "))["error"]
        assert error["type"] and isinstance(error["code"], str)
    elif path == MESSAGES:
        name, _, data = events[-1].partition(b"\n")
        error = json.loads(data.removeprefix(b"data: "))["error"]
        assert name == b"event: error" and error["type"].endswith("_error")
    else:
        name, _, data = events[-1].partition(b"\n")
        error = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: error" and error["type"] == "error"
    assert status == 500 or "it does not fit" in error["message"], error


def test_a_client_that_leaves_after_comments_frees_the_slot(nodes):
    engine = Vllm(prompt_s=60.0)
    cluster = nodes(engine)

    async def go():
        answer = await open_request(cluster.api, "POST", CHAT, chat_body("hi", 4, model=name_of(engine)))
        await answer.read_head()
        answer.abort()
    asyncio.run(go())
    until(lambda: not engine.machine.running, 10, "the engine has let go")
    cluster.wait_idle()


def test_an_event_that_is_not_whole_is_not_broken_by_a_comment(nodes):
    """An engine without a blank line at the end of its bytes: the next ones belong to the event."""
    go_on = threading.Event()
    part = b"data: " + json.dumps(chunk("Hello")).encode()

    def behave(handler, _path, _body):
        handler.begin_stream()
        handler.send_piece(part + b"\n\n" + part[:20])
        go_on.wait(3)
        handler.send_piece(part[20:] + b"\n\ndata: " + json.dumps(chunk(finish="stop")).encode() +
                           b"\n\ndata: [DONE]\n\n")
        handler.end_stream()
    cluster = nodes(FakeEngine(behave))
    answer = fetch_now(cluster.api, "POST", CHAT, body_of(CHAT, FAKE))
    assert text_of(answer.body) == "HelloHello"
    assert b": drover decode" in events_of(answer)
