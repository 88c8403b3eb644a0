"""Streams whose engine is silent: comments keep clients, and proxies on the way, from giving up.

With the first comment the stream has begun; a retry elsewhere is still unseen until content, and
what goes wrong is an event in the shape of the API.
"""

import asyncio
import itertools
import json
import threading

import grpc
import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from fake_node import FakeNode, common, inference
from harness import SLOW, Cluster, until
from llama_server import LlamaServer
from load import chat_body, fetch_now, open_request, text_of
from ollama import Ollama
from plant import static
from test_answers import APIS, RESPONSE, events_in, as_events
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


async def read_all(cluster, path, engines, model=FAKE, headers=None):
    """The whole answer of a stream; the engines go on when it has its first comment."""
    answer = await open_request(cluster.api, "POST", path, body_of(path, model), headers)
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


def error_of(path, answer):
    """The last event, an error in the shape of the API."""
    assert answer.status == 200
    events = events_of(answer)
    assert events[0] == b": drover prefill"
    if path in (CHAT, COMPLETIONS):
        assert events[-1] == b"data: [DONE]"
        error = json.loads(events[-2].removeprefix(b"data: "))["error"]
        assert isinstance(error["code"], str)
        return error
    name, _, data = events[-1].partition(b"\n")
    error = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: error" and error["type"] == "error"
    return error["error"]


@pytest.mark.parametrize("status", [400, 500])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_an_error_after_comments_is_an_event_of_the_api(nodes, path, status):
    engine = Failing(status, 9)
    cluster = nodes(engine)
    error = error_of(path, asyncio.run(read_all(cluster, path, [engine])))
    ours = "api_error" if path == MESSAGES else "server_error"
    assert error["type"] == ("invalid_request_error" if status == 400 else ours)
    assert status == 500 or "it does not fit" in error["message"], error


class Unstreamed(FakeEngine):
    """Takes no notice of `stream`: a document is its answer, once a comment was seen."""

    def __init__(self):
        self.commented = threading.Event()
        self.document = None
        super().__init__(self.answer_late, models=("tiny",))

    def answer_late(self, handler, _path, _body):
        assert self.commented.wait(60 * SLOW)
        handler.answer(200, self.document)


@pytest.fixture(name="unstreamed", scope="module")
def unstreamed_fixture(request):
    """unstreamed(path, document): the answer to a stream, its access log line, the node's failures."""
    cluster, engine = Cluster("comments-unstreamed", workers=1, config=SOON).start(), Unstreamed()
    cluster.start_node("n0", engine=engine.url)
    number = itertools.count()

    def ask(path, document):
        engine.commented.clear()
        engine.document = document
        name = f"asked-{next(number)}"
        before = cluster.ctl_json("node", "n0")["counters"]["node_error"]
        answer = asyncio.run(read_all(cluster, path, [engine], "tiny", {"x-request-id": name}))
        return (answer, cluster.access_line(name),
                cluster.ctl_json("node", "n0")["counters"]["node_error"] - before)
    yield ask
    cluster.finish(request.session.testsfailed > 0)
    engine.close()


@pytest.mark.parametrize("size", [0, 2 << 20])
@pytest.mark.parametrize("api", APIS[:4], ids=repr)
def test_a_document_after_comments_is_the_rest_of_the_stream(unstreamed, api, size):
    document = {**api.whole, "fill": "x" * size}
    answer, line, failures = unstreamed(api.path, document)
    assert answer.status == 200 and answer.body.startswith(b": drover prefill\n\n")
    assert events_in(api, answer.body) == as_events(api, document)
    assert line["outcome"] == "ok" and line["output_tokens"] == 2 and not failures


@pytest.mark.parametrize("document, words", [({"error": {"message": "bad thing"}}, "bad thing"),
                                             (b"42", "no answer"), (b"Hello", "not JSON")])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_document_that_is_no_answer_after_comments_is_the_engines_failure(unstreamed, path, document,
                                                                            words):
    answer, line, failures = unstreamed(path, document)
    error = error_of(path, answer)
    assert error["type"] == ("api_error" if path == MESSAGES else "server_error")
    assert words in error["message"]
    assert line["outcome"] == "node_error" and failures == 1


def test_a_document_that_cannot_become_a_stream_ends_it_after_comments(make_cluster):
    """A response in the background: each request begins another, so no second node is asked."""
    cluster, engine = make_cluster(workers=1, config=SOON).start(), Unstreamed()
    for name in ("n0", "n1"):
        cluster.start_node(name, engine=engine.url)
    engine.document = {**RESPONSE, "status": "queued", "output": []}
    answer = asyncio.run(read_all(cluster, RESPONSES, [engine], "tiny"))
    assert b": drover prefill" in answer.body and b"a document where a stream" in answer.body
    assert len(engine.posts(RESPONSES)) == 1
    assert not any(cluster.ctl_json("node", n)["counters"]["node_error"] for n in ("n0", "n1"))
    engine.close()


class Foreign(FakeNode):
    """A node of other software: it says `parts`, once a comment was seen."""

    def __init__(self):
        self.commented = threading.Event()
        self.parts, self.end = [], None
        super().__init__("box")
        self.operations = [common.OPERATION_CHAT_COMPLETIONS, common.OPERATION_MESSAGES]

    def infer(self, request, context):
        yield inference.InferEvent(accepted=inference.Accepted())
        assert self.commented.wait(60 * SLOW)
        for part in self.parts:
            yield inference.InferEvent(**part)
        if self.end:
            context.abort(*self.end)
        size = sum(len(part["chunk"].data) for part in self.parts if "chunk" in part)
        yield inference.InferEvent(finish=inference.Finish(body_bytes=size))


def head(status=200, event_stream=False):
    return {"head": inference.ResponseHead(
        http_status=status, event_stream=event_stream,
        content_type="text/event-stream" if event_stream else "application/json")}


def piece(data, content=True):
    return {"chunk": inference.Chunk(data=data, content=content, tokens=1)}


@pytest.fixture(name="foreign", scope="module")
def foreign_fixture(request):
    """foreign(path, part, ...): the answer to a stream that a node gives so, and its access log line."""
    node = Foreign()
    cluster = Cluster("comments-foreign", workers=1,
                      config={**SOON, "nodes": [static(node.name, node.port)]}).start()
    cluster.wait_up("box")
    number = itertools.count()

    def ask(path, *parts, end=None, endless=None):
        node.commented.clear()
        node.parts, node.end = endless or parts, end
        name = f"asked-{next(number)}"
        answer = asyncio.run(read_all(cluster, path, [node], headers={"x-request-id": name}))
        return answer, cluster.access_line(name)
    yield ask
    node.stop()
    cluster.finish(request.session.testsfailed > 0)


# By status: the type on OpenAI's surface, and on Anthropic's.
TYPES = {400: ("invalid_request_error", "invalid_request_error"),
         401: ("authentication_error", "authentication_error"),
         403: ("permission_error", "permission_error"),
         404: ("not_found_error", "not_found_error"),
         408: ("server_error", "timeout_error"),
         413: ("invalid_request_error", "request_too_large"),
         422: ("invalid_request_error", "invalid_request_error")}


@pytest.mark.parametrize("refusal", [True, False])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("status", TYPES)
def test_an_error_after_comments_has_the_type_of_its_status(foreign, path, status, refusal):
    cause = {"cause": inference.Cause(kind=inference.Cause.KIND_REQUEST)}
    answer, line = foreign(path, *([cause] if refusal else []), head(status),
                           piece(b'{"error":{"message":"it does not fit"}}', False),
                           *([piece(b" " * (1 << 20), False)] * 2 if status == 422 else []))
    error = error_of(path, answer)
    assert error["type"] == TYPES[status][path == MESSAGES] and "it does not fit" in error["message"]
    assert line["outcome"] == "client_error"


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_node_that_gives_a_document_after_comments_has_failed(foreign, path):
    answer, line = foreign(path, head(), piece(b'{"choices":[],"content":[]}'))
    error = error_of(path, answer)
    assert error["type"] == ("api_error" if path == MESSAGES else "server_error")
    assert "document" in error["message"] and line["outcome"] == "node_error"


def test_a_node_that_gives_documents_after_comments_is_not_taken_out():
    """It answers; that comments came before is not its doing."""
    node, other = Foreign(), FakeNode("other")
    node.parts = [head(), piece(b'{"choices":[],"content":[]}')]
    cluster = Cluster("comments-excused", workers=1, config={
        **SOON, "limits": {"max_attempts": 1}, "health": {"eject_failures": 2},
        "nodes": [static(n.name, n.port) for n in (node, other)]}).start()
    try:
        for name in ("box", "other"):
            cluster.wait_up(name)
        other.serving = False
        until(lambda: cluster.node_row("other")["state"] == "DOWN", 20, "box is the one that is asked")
        for _ in range(3):
            node.commented.clear()
            assert b"document" in asyncio.run(read_all(cluster, CHAT, [node])).body
        other.serving = True
        cluster.wait_up("other")
        assert "event=node_ejected" not in cluster.master.log()
        assert "event=node_kept" not in cluster.master.log()
    finally:
        node.stop()
        other.stop()
        cluster.finish()


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_error_after_comments_that_does_not_end_is_shown_all_the_same(foreign, path):
    endless = itertools.chain([head(404), piece(b'{"error":{"message":"it does not fit"}}')],
                              itertools.repeat(piece(b" " * (1 << 18))))
    answer, line = foreign(path, endless=endless)
    error = error_of(path, answer)
    assert error["type"] == TYPES[404][path == MESSAGES] and "it does not fit" in error["message"]
    assert line["outcome"] == "client_error"


HALF = {"crlf": b"data: {}\r\n", "cr": b"data: {}\r", "lf": b"data: {}\n", "text": b"data: {"}


@pytest.mark.parametrize("half", HALF)
def test_an_error_does_not_go_on_inside_an_event_that_is_not_whole(foreign, half):
    answer, _ = foreign(CHAT, head(event_stream=True), piece(b'data: {"choices":[]}\r\n\r\n'),
                        piece(HALF[half]), end=(grpc.StatusCode.UNAVAILABLE, "gone"))
    begun, _, error = answer.body.partition(b'data: {"error"')
    assert error and begun.endswith((b"\n\n", b"\r\n\r\n")) and HALF[half] in begun


def fetch_until_comment(cluster, engine):
    """The bytes of a chat's stream; the engine goes on when a comment is among them."""
    async def go():
        answer = await open_request(cluster.api, "POST", CHAT, body_of(CHAT, FAKE))
        await answer.read_head()
        async for part in answer.pieces():
            answer.body += part
            if b": drover" in answer.body:
                engine.commented.set()
        answer.close()
        return answer.body
    return asyncio.run(asyncio.wait_for(go(), 60 * SLOW))


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
    part = b"data: " + json.dumps(chunk("Hello")).encode()

    def behave(handler, _path, _body):
        handler.begin_stream()
        handler.send_piece(part + b"\n\n" + part[:20])
        assert engine.commented.wait(60 * SLOW)
        handler.send_piece(part[20:] + b"\n\ndata: " + json.dumps(chunk(finish="stop")).encode() +
                           b"\n\ndata: [DONE]\n\n")
        handler.end_stream()
    engine = FakeEngine(behave)
    engine.commented = threading.Event()
    answer = asyncio.run(read_all(nodes(engine), CHAT, [engine]))
    assert text_of(answer.body) == "HelloHello"
    assert b": drover decode" in events_of(answer)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_an_engine_that_ends_lines_in_another_way_gets_comments_between_its_events(nodes, end):
    def behave(handler, _path, _body):
        handler.begin_stream()
        handler.send_piece(b"data: " + json.dumps(chunk("Hello")).encode() + end * 2)
        assert engine.commented.wait(60 * SLOW)
        handler.send_piece(b"data: " + json.dumps(chunk(finish="stop")).encode() + end * 2 +
                           b"data: [DONE]" + end * 2)
        handler.end_stream()
    engine = FakeEngine(behave)
    engine.commented = threading.Event()
    answer = fetch_until_comment(nodes(engine), engine)
    assert b"Hello" in answer and b"[DONE]" in answer and b'"error"' not in answer
    assert b"\n" + end not in answer or end == b"\r\n"
    assert (end * 2 + b": drover decode\n\ndata: ") in answer
