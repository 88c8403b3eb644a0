"""test_answers.py - what an engine says is known for what it is, in every API, streamed and not.

drover-node stands in front of an engine whose answer is a list of bytes, so each shape can be had
under each content type and over each odd but legal HTTP.
"""

import json

import grpc
import pytest

from fake_engine import FakeEngine
from llama_server import LlamaServer
from load import fetch_now
from messages import common, inference
from node_rig import Answer, Engine, Node
from ollama import Ollama
from plain_openai import PlainOpenAi
from test_clients import run_client
from vllm import Vllm

Code = grpc.StatusCode


def sse(*documents, names=False):
    out = []
    for document in documents:
        name = f"event: {document['type']}\n" if names else ""
        out.append(f"{name}data: {json.dumps(document)}\n\n".encode())
    return out


def lines(*documents):
    return [json.dumps(document).encode() + b"\n" for document in documents]


def chat(delta=None, finish=None, **more):
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny",
            "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def text(said="", finish=None, **more):
    return {"id": "c", "object": "text_completion", "created": 1, "model": "tiny",
            "choices": [{"index": 0, "text": said, "finish_reason": finish}], **more}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
PART = {"type": "output_text", "annotations": [], "text": "Hello"}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [PART]}
RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed",
            "model": "tiny", "output": [ITEM],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}}
DONE = b"data: [DONE]\n\n"


class Api:
    """An operation: what is streamed, and the same answer in one document."""

    def __init__(self, name, path, operation, pieces, whole, body):
        self.name, self.path, self.operation = name, path, operation
        self.pieces, self.whole, self.body = pieces, whole, body
        self.lines = pieces[0].startswith(b"{")

    def __repr__(self):
        return self.name

    @property
    def stream(self):
        return b"".join(self.pieces)

    @property
    def type(self):
        return "application/x-ndjson" if self.lines else "text/event-stream"


MESSAGES = [{"role": "user", "content": "hi"}]
APIS = [
    Api("chat", "/v1/chat/completions", common.OPERATION_CHAT_COMPLETIONS,
        [*sse(chat({"role": "assistant"}), chat({"content": "Hel"}), chat({"content": "lo"}),
              chat(finish="stop", usage=USAGE)), DONE],
        {"id": "c", "object": "chat.completion", "created": 1, "model": "tiny", "usage": USAGE,
         "choices": [{"index": 0, "finish_reason": "stop",
                      "message": {"role": "assistant", "content": "Hello"}}]},
        {"messages": MESSAGES}),
    Api("completions", "/v1/completions", common.OPERATION_COMPLETIONS,
        [*sse(text("Hel"), text("lo"), text(finish="stop", usage=USAGE)), DONE],
        {"id": "c", "object": "text_completion", "created": 1, "model": "tiny", "usage": USAGE,
         "choices": [{"index": 0, "text": "Hello", "finish_reason": "stop"}]},
        {"prompt": "hi"}),
    Api("messages", "/v1/messages", common.OPERATION_MESSAGES,
        sse({"type": "message_start",
             "message": {"id": "m", "type": "message", "role": "assistant", "content": [],
                         "model": "tiny", "stop_reason": None, "stop_sequence": None,
                         "usage": {"input_tokens": 3, "output_tokens": 0}}},
            {"type": "content_block_start", "index": 0,
             "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0,
             "delta": {"type": "text_delta", "text": "Hel"}},
            {"type": "content_block_delta", "index": 0,
             "delta": {"type": "text_delta", "text": "lo"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
             "usage": {"output_tokens": 2}},
            {"type": "message_stop"}, names=True),
        {"id": "m", "type": "message", "role": "assistant", "model": "tiny",
         "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
         "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 2}},
        {"messages": MESSAGES, "max_tokens": 9}),
    Api("responses", "/v1/responses", common.OPERATION_RESPONSES,
        sse({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
            {"type": "response.output_item.added", "item": {**ITEM, "content": []}},
            {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hel"},
            {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "lo"},
            {"type": "response.completed", "response": RESPONSE}, names=True),
        RESPONSE, {"input": "hi"}),
    Api("ollama_chat", "/api/chat", common.OPERATION_OLLAMA_CHAT,
        lines({"model": "tiny", "message": {"role": "assistant", "content": "Hel"}, "done": False},
              {"model": "tiny", "message": {"role": "assistant", "content": "lo"}, "done": False},
              {"model": "tiny", "message": {"role": "assistant", "content": ""}, "done": True,
               "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2}),
        {"model": "tiny", "message": {"role": "assistant", "content": "Hello"}, "done": True,
         "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 2},
        {"messages": MESSAGES}),
    Api("ollama_generate", "/api/generate", common.OPERATION_OLLAMA_GENERATE,
        lines({"model": "tiny", "response": "Hel", "done": False},
              {"model": "tiny", "response": "lo", "done": False},
              {"model": "tiny", "response": "", "done": True, "context": [1, 2],
               "prompt_eval_count": 3, "eval_count": 2}),
        {"model": "tiny", "response": "Hello", "done": True, "context": [1, 2],
         "prompt_eval_count": 3, "eval_count": 2},
        {"prompt": "hi"}),
]
CHAT, TEXT = APIS[0], APIS[1]
OLLAMA = {"/api/version": {"version": "0.9.9"},
          "/api/tags": {"models": [{"name": "tiny:latest", "model": "tiny:latest"}]},
          "/api/ps": {"models": []}}


class Script(Engine):
    """A llama-server, or an Ollama, whose answer to a POST is `reply(sock, body)`."""

    def __init__(self, ollama=False):
        self.ollama = ollama
        self.reply = None
        super().__init__()
        self.server = None if ollama else "llama.cpp"

    def _get(self, sock, path):
        if not self.ollama:
            return super()._get(sock, path)
        if path in OLLAMA:
            return self.answer(sock, 200, OLLAMA[path])
        return self.answer(sock, 404, "404 page not found")

    def do_ok(self, sock, body):
        return self.reply(sock, body)

    def stream(self, sock, pieces, content_type):
        sock.begin_stream(content_type)
        for piece in pieces:
            sock.send_piece(piece)
        return sock.end_stream()

    def document(self, sock, data, content_type="application/json"):
        return sock.answer(200, data, content_type=content_type)

    def close_delimited(self, sock, data, content_type):
        sock.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode() + data)
        return sock.drop()


@pytest.fixture(scope="module")
def rigs():
    made = {ollama: Script(ollama) for ollama in (False, True)}
    nodes = {ollama: Node("--insecure-no-token", engine=engine.url).ready()
             for ollama, engine in made.items()}
    yield {ollama: (made[ollama], nodes[ollama]) for ollama in made}
    for node in nodes.values():
        node.stop()
    for engine in made.values():
        engine.stop()


@pytest.fixture
def own_rigs():
    """A node that has learned nothing, and its engine, for an API."""
    made = []

    def of(api):
        if not made:
            engine = Script(api.lines)
            made.append((engine, Node("--insecure-no-token", engine=engine.url).ready()))
        return made[0]
    yield of
    for engine, node in made:
        node.stop()
        engine.stop()


@pytest.fixture
def ask_own(own_rigs):
    return asker(own_rigs)


@pytest.fixture
def ask(rigs):
    return asker(lambda api: rigs[api.lines])


def asker(rig_of):
    def one(api, stream, reply, **fields):
        engine, node = rig_of(api)
        engine.reply = lambda sock, body: reply(engine, sock, body)
        body = {"model": "tiny", "stream": stream, **api.body, **fields.pop("body", {})}
        return Answer(node.infer(body=body, operation=api.operation, stream=stream,
                                 model="tiny:latest" if api.lines else "tiny", **fields))
    return one


def check(api, stream, answer):
    """The whole answer, in bytes or as one document."""
    assert answer.status is Code.OK, answer.message
    assert answer.head.http_status == 200 and answer.head.event_stream == stream
    if stream:
        assert answer.data == api.stream
        assert answer.head.content_type in (api.type, "application/jsonl")
    else:
        assert answer.json == api.whole
        assert answer.head.content_type == "application/json"
    assert answer.finish.usage.prompt_tokens == 3 and answer.finish.usage.output_tokens == 2


def events_in(api, data):
    """The JSON of each event, or line, that the bytes are made of; comments are left out."""
    if api.lines:
        return [json.loads(line) for line in data.splitlines()]
    *blocks, rest = data.split(b"\n\n")
    assert rest == b"" and not any(b"\n" in block.partition(b"data: ")[2] for block in blocks)
    texts = [block.rpartition(b"data: ")[2] for block in blocks if not block.startswith(b":")]
    return [text.decode() if text == b"[DONE]" else json.loads(text) for text in texts]


def as_events(api, whole, usage=False):
    """The events in which a client gets a document that it asked for as a stream."""
    if api.lines:
        return [whole]
    if api.path == "/v1/messages":
        block, = whole["content"]
        end = {name: whole[name] for name in ("stop_reason", "stop_sequence")}
        return [{"type": "message_start", "message": {
                    **whole, "content": [], "stop_reason": None, "stop_sequence": None}},
                {"type": "content_block_start", "index": 0, "content_block": {**block, "text": ""}},
                {"type": "content_block_delta", "index": 0,
                 "delta": {"type": "text_delta", "text": block["text"]}},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": end, "usage": whole["usage"]},
                {"type": "message_stop"}]
    if api.path == "/v1/responses":
        item, = whole["output"]
        part, = item["content"]
        begun = {key: value for key, value in whole.items() if key != "usage"}
        at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        events = [{"type": "created", "response": {**begun, "output": [], "status": "in_progress"}},
                  {"type": "output_item.added", "output_index": 0,
                   "item": {**item, "content": [], "status": "in_progress"}},
                  {"type": "content_part.added", **at, "part": {**part, "text": ""}},
                  {"type": "output_text.delta", **at, "delta": part["text"]},
                  {"type": "output_text.done", **at, "text": part["text"]},
                  {"type": "content_part.done", **at, "part": part},
                  {"type": "output_item.done", "output_index": 0, "item": item},
                  {"type": "completed", "response": whole}]
        return [{**event, "type": f"response.{event['type']}", "sequence_number": n}
                for n, event in enumerate(events)]
    choice, = whole["choices"]
    is_chat = "message" in choice
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    usual = {key: whole[key] for key in ("id", "created", "model")} | {"object": kind}
    first = {key: value for key, value in choice.items() if key != "message"}
    first |= {"finish_reason": None, **({"delta": choice["message"]} if is_chat else {})}
    last = {"delta": {}} if is_chat else {"text": "", "logprobs": None}
    rest = {key: value for key, value in whole.items() if key != "usage"}
    return [{**rest, "object": kind, "choices": [first]},
            {**usual, "choices": [{"index": 0, "finish_reason": choice["finish_reason"], **last}]},
            *([{**usual, "choices": [], "usage": whole["usage"]}] if usage else []), "[DONE]"]


def check_document(api, stream, answer, document):
    """The document's bytes, or its events where a stream was asked for."""
    assert answer.status is Code.OK, answer.message
    assert answer.head.event_stream == stream
    if stream:
        assert answer.head.content_type == api.type
        assert events_in(api, answer.data) == as_events(api, json.loads(document))
    else:
        assert answer.head.content_type == "application/json" and answer.data == document


both = pytest.mark.parametrize("stream", [True, False])
each = pytest.mark.parametrize("api", APIS, ids=repr)


# ---- framing ------------------------------------------------------------------------------------


@both
@each
@pytest.mark.parametrize("content_type", [None, "text/plain; charset=utf-8", "application/json",
                                          "application/jsonl", "application/octet-stream",
                                          "text/event-stream", "application/x-ndjson"])
def test_a_stream_is_one_under_any_content_type(ask, api, stream, content_type):
    check(api, stream, ask(api, stream, lambda engine, sock, _: engine.stream(
        sock, api.pieces, content_type)))


@both
@each
def test_a_stream_in_single_bytes_is_the_same(ask, api, stream):
    check(api, stream, ask(api, stream, lambda engine, sock, _: engine.stream(
        sock, [bytes([byte]) for byte in api.stream], "text/plain")))


@each
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/event-stream"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_document_where_a_stream_was_asked_for_becomes_one(ask, api, content_type, end):
    data = json.dumps(api.whole).encode() + end
    for stream in (True, False):
        answer = ask(api, stream, lambda engine, sock, _: engine.document(sock, data, content_type))
        check_document(api, stream, answer, data)
        assert answer.finish.usage.prompt_tokens == 3 and answer.finish.usage.output_tokens == 2


@pytest.mark.parametrize("api", [CHAT, TEXT], ids=repr)
@pytest.mark.parametrize("asked", [True, False])
def test_a_document_that_becomes_a_stream_has_usage_where_it_was_asked_for(ask, api, asked):
    answer = ask(api, True, lambda engine, sock, _: engine.document(
        sock, json.dumps(api.whole).encode()), edit=inference.BodyEdit(want_usage=True),
        body={"stream_options": {"include_usage": True}} if asked else {})
    assert events_in(api, answer.data) == as_events(api, api.whole, usage=asked)
    assert answer.finish.usage.prompt_tokens == 3


@each
def test_a_document_that_is_too_large_to_become_a_stream_passes(ask, api):
    large, largest = ({**api.whole, "fill": "x" * size} for size in (3 << 20, 17 << 20))
    answer = ask(api, True, lambda engine, sock, _: engine.document(sock, json.dumps(large).encode()))
    assert answer.status is Code.OK and events_in(api, answer.data) == as_events(api, large)
    data = json.dumps(largest).encode()
    check_document(api, False, ask(api, True, lambda engine, sock, _: engine.document(sock, data)), data)


@pytest.mark.parametrize("change", [
    {"status": "queued", "output": []}, {"output": [{**ITEM, "id": "x" * 300}]}],
    ids=["queued", "long_id"])
def test_a_response_that_cannot_become_a_stream_passes(ask, change):
    """One in the background is begun by each request: another node must not be asked."""
    data = json.dumps({**RESPONSE, **change}).encode()
    check_document(APIS[3], False, ask(
        APIS[3], True, lambda engine, sock, _: engine.document(sock, data)), data)


@each
def test_a_document_written_for_people_passes(ask, api):
    data = json.dumps(api.whole, indent=2).encode()
    for stream in (True, False):
        check_document(api, stream, ask(
            api, stream, lambda engine, sock, _: engine.document(sock, data)), data)


# ---- HTTP ---------------------------------------------------------------------------------------


def chunked(data, size=7, extension=b"", trailer=b""):
    out = b""
    for at in range(0, len(data), size):
        piece = data[at:at + size]
        out += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    return out + b"0\r\n" + trailer + b"\r\n"


def http(head, data):
    def reply(_, sock, __):
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + data)
        return sock.drop()
    return reply


ODD = {
    "identity": lambda t, d: http(t + b"Content-Encoding: identity\r\n", d),
    "extensions": lambda t, d: http(t + b"Transfer-Encoding: chunked\r\n",
                                    chunked(d, extension=b";a=b; c=\"d\"")),
    "trailers": lambda t, d: http(t + b"Trailer: X-T\r\nTransfer-Encoding: chunked\r\n",
                                  chunked(d, trailer=b"X-T: 1\r\n")),
    "close": lambda t, d: http(t, d),
    "upper chunked": lambda t, d: http(t + b"TRANSFER-ENCODING: Chunked\r\n", chunked(d)),
    "103 and 100": lambda t, d: lambda _, sock, __: sock.sendall(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\n" + t + b"Content-Length: %d\r\n\r\n" % len(d) + d) or True,
    "1.0": lambda t, d: lambda engine, sock, __: engine.close_delimited(
        sock, d, t.decode().partition(": ")[2].strip()),
}


@both
@each
@pytest.mark.parametrize("way", ODD)
def test_odd_but_legal_http_changes_nothing(ask, api, stream, way):
    head = f"Content-Type: {api.type}\r\n".encode()
    check(api, stream, ask(api, stream, ODD[way](head, api.stream)))
    document = json.dumps(api.whole).encode()
    check_document(api, stream, ask(
        api, stream, ODD[way](b"Content-Type: application/json\r\n", document)), document)


@both
@pytest.mark.parametrize("change", [
    lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b"\n", b"\r\n"),
    lambda data: data.replace(b"data: ", b"data:"), lambda data: b": hi\n\n\n" + data,
    lambda data: data.replace(b"\n\n", b"\nid: 1\n\n"),
    lambda data: data.replace(DONE, b"data: [DONE]")])
def test_odd_but_legal_events_are_events(ask, change, stream):
    api = CHAT
    answer = ask(api, stream, lambda engine, sock, _: engine.stream(
        sock, [change(api.stream)], "text/plain"))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.head.event_stream and answer.text == ""
        assert b'"Hel"' in answer.data and b"[DONE]" in answer.data
    else:
        assert answer.json == api.whole


# ---- no answer ----------------------------------------------------------------------------------


HTML = b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"
NONE = {
    "empty": b"", "blank": b"\n\n", "html": HTML, "text": b"no healthy upstream",
    "empty object": b"{}", "null": b"null", "list": b"[]", "number": b"7",
    "other object": b'{"status":"ok"}', "no choices": b'{"choices":[]}',
    "error": b'{"error":{"message":"Compute error.","code":500}}',
    "error text": b'{"error":"out of memory"}', "error true": b'{"error":true,"message":"x"}',
    "old error": b'{"object":"error","message":"x","code":500}',
}


def refuse(answer):
    assert answer.status in (Code.INTERNAL, Code.DATA_LOSS, Code.UNAVAILABLE), (
        answer.status, answer.message, answer.data)
    assert answer.head is None and not answer.chunks and answer.finish is None


@both
@each
@pytest.mark.parametrize("shape", NONE)
def test_a_200_that_is_no_answer_commits_to_nothing(ask, api, stream, shape):
    for content_type in ("application/json", api.type, "text/html"):
        refuse(ask(api, stream, lambda engine, sock, _: engine.document(
            sock, NONE[shape], content_type)))


@both
@each
def test_half_a_document_is_none(ask, api, stream):
    data = json.dumps(api.whole).encode()
    for n in (1, len(data) // 2, len(data) - 1):
        refuse(ask(api, stream, lambda engine, sock, _: engine.close_delimited(
            sock, data[:n], "application/json")))


@both
@each
def test_a_stream_that_ends_early_is_not_whole(ask, api, stream):
    for count in range(1, len(api.pieces) - 2):
        answer = ask(api, stream, lambda engine, sock, _: engine.stream(
            sock, api.pieces[:count], api.type))
        assert answer.status in (Code.DATA_LOSS, Code.UNAVAILABLE), (count, answer.message)
        assert answer.finish is None and (stream or answer.data == b"")


@both
@each
def test_a_stream_that_says_its_end_and_nothing_else_is_no_answer(ask, api, stream):
    if api.lines or api.name == "responses":
        return   # the last event of these holds an answer
    last = api.pieces[-1]
    refuse(ask(api, stream, lambda engine, sock, _: engine.stream(sock, [last], api.type)))


def error_event(api, code, words="bad"):
    document = {"error": {"code": code, "message": words}}
    if api.lines:
        return lines(document)[0]
    return sse(document)[0]


@both
@each
@pytest.mark.parametrize("wrapped", ["event", "document"])
def test_a_refusal_inside_a_200_has_its_status(ask, api, stream, wrapped):
    document = {"error": {"code": 400, "message": "bad request of yours"}}
    data = error_event(api, 400, document["error"]["message"])
    asked = []

    def reply(engine, sock, body):
        asked.append(body.get("stream"))
        if wrapped == "event":
            return engine.stream(sock, [data], api.type)
        return engine.document(sock, json.dumps(document).encode())
    answer = ask(api, stream, reply)
    assert answer.status is Code.OK and answer.head.http_status == 400
    assert not answer.head.event_stream and answer.json == document
    assert asked == ([True] if stream else [True, False if api.lines else None])


@each
def test_an_error_after_content_is_an_error(ask, api):
    pieces = [*api.pieces[:-2 if not api.lines else -1], error_event(api, 503)]
    answer = ask(api, True, lambda engine, sock, _: engine.stream(sock, pieces, api.type))
    assert answer.status is not Code.OK and answer.finish is None
    assert b"Hel" in answer.data and b'"error"' not in answer.data


# ---- requests that may not stream ---------------------------------------------------------------


@each
@pytest.mark.parametrize("status", [400, 405, 422, 500, 501])
def test_a_request_that_an_engine_takes_only_unstreamed_is_sent_unstreamed(ask_own, api, status):
    asked, ask = [], ask_own

    def reply(engine, sock, body):
        asked.append(body)
        if body.get("stream", api.lines):
            return engine.answer(sock, status, {"error": {
                "message": "`prompt_logprobs` are not available when `stream=True`"}})
        return engine.document(sock, json.dumps(api.whole).encode())
    answer = ask(api, False, reply, body={"prompt_logprobs": 1})
    assert answer.status is Code.OK and answer.json == api.whole
    assert len(asked) == 2 and "stream_options" not in asked[1]
    assert asked[1]["prompt_logprobs"] == 1
    asked.clear()
    answer = ask(api, True, reply, body={"prompt_logprobs": 1})
    assert answer.status is Code.OK and answer.head.event_stream
    assert events_in(api, answer.data) == as_events(api, api.whole)
    assert [body.get("stream", api.lines) for body in asked] == ([False] if status == 405 else
                                                                 [True, False])


@each
@pytest.mark.parametrize("words", ["", "streaming is not supported"])
def test_a_stream_that_an_engine_does_not_have_costs_one_refusal(ask_own, api, words):
    asked, ask = [], ask_own

    def reply(engine, sock, body):
        asked.append(body.get("stream", api.lines))
        if asked[-1]:
            return engine.answer(sock, 400 if words else 501, {"error": {"message": words}})
        return engine.document(sock, json.dumps(api.whole).encode())
    for turn in range(3):
        answer = ask(api, turn != 1, reply)
        assert answer.status is Code.OK and answer.head.event_stream == (turn != 1)
        assert answer.cause.ability == common.ABILITY_OPERATION and answer.cause.limit == 1
    assert asked == [True, False, False, False]


def test_a_stream_that_fails_is_no_stream_that_is_refused(ask):
    asked = []

    def reply(engine, sock, body):
        asked.append(body)
        return engine.answer(sock, status, {"error": {"message": words}})
    for status, words in ((500, "boom"), (503, "busy"), (400, "top_k must be positive"),
                          (429, "too many streams"), (422, "upstream says no")):
        asked.clear()
        answer = ask(CHAT, True, reply)
        assert len(asked) == 1, (status, words, answer.message)


def test_a_refusal_of_the_request_itself_passes_as_the_engine_says_it_unstreamed(ask):
    def reply(engine, sock, body):
        words = "streamed" if body.get("stream") else "top_k must be positive"
        return engine.answer(sock, 400, {"error": {"message": words, "code": 400}})
    answer = ask(CHAT, False, reply)
    assert answer.head.http_status == 400
    assert answer.json["error"]["message"] == "top_k must be positive"


# ---- several choices, usage, timings ------------------------------------------------------------


def prompts():
    """As llama-server streams two prompts."""
    def of(index, said, finish=None, usage=None):
        document = text(said, finish, **({"usage": usage} if usage else {}))
        document["choices"][0]["index"] = index
        return document
    ends = [{"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9,
             "prompt_tokens_details": {"cached_tokens": 6}},
            {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11,
             "prompt_tokens_details": {"cached_tokens": 0}}]
    return [b"data: null\n\n", *sse(of(1, "a"), of(0, "b"), of(1, "c"), of(1, "", "stop", ends[0]),
                                    of(0, "", "stop", ends[1])), DONE]


def test_several_prompts_are_one_answer(ask):
    body = {"prompt": ["x", "y"]}
    answer = ask(TEXT, True, lambda engine, sock, _: engine.stream(
        sock, prompts(), "text/event-stream"), body=body)
    assert answer.status is Code.OK and answer.data == b"".join(prompts())
    assert (answer.finish.usage.prompt_tokens, answer.finish.usage.output_tokens) == (17, 3)
    answer = ask(TEXT, False, lambda engine, sock, _: engine.stream(
        sock, prompts(), "text/event-stream"), body=body)
    assert [choice["text"] for choice in answer.json["choices"]] == ["b", "ac"]
    assert answer.json["usage"] == {"prompt_tokens": 17, "completion_tokens": 3,
                                    "total_tokens": 20,
                                    "prompt_tokens_details": {"cached_tokens": 6}}


@both
def test_an_answer_to_two_prompts_that_ends_after_one_is_not_whole(ask, stream):
    answer = ask(TEXT, stream, lambda engine, sock, _: engine.stream(
        sock, sse(text("a", "stop")), "text/event-stream"), body={"prompt": ["x", "y"]})
    assert answer.status is Code.DATA_LOSS and answer.finish is None


@both
@pytest.mark.parametrize("reason", ["", "null", None, "NONE", " "])
@pytest.mark.parametrize("api", [CHAT, TEXT], ids=repr)
def test_a_reason_that_is_none_ends_nothing(ask, api, stream, reason):
    pieces = sse(*(json.loads(piece[6:].replace(b'"finish_reason": null',
                                                f'"finish_reason": {json.dumps(reason)}'.encode()))
                   for piece in api.pieces[:-2]))
    answer = ask(api, stream, lambda engine, sock, _: engine.stream(sock, pieces, api.type))
    assert answer.status is Code.DATA_LOSS and answer.finish is None
    answer = ask(api, stream, lambda engine, sock, _: engine.stream(
        sock, [*pieces, *api.pieces[-2:]], api.type))
    assert answer.status is Code.OK
    assert stream or answer.json == api.whole


@pytest.mark.parametrize("api", [CHAT, TEXT], ids=repr)
@pytest.mark.parametrize("apart", [False, True])
def test_timings_are_where_the_engine_puts_them_when_no_one_asks_for_usage(ask, api, apart):
    timings = {"cache_n": 21, "predicted_ms": 1.768}
    first = api.pieces[:-2]
    make = chat if api is CHAT else text
    direct = b"".join([*first, *sse(make(finish="stop", timings=timings)), DONE])

    def reply(engine, sock, body):
        assert body["stream_options"] == {"include_usage": True}
        usage = {**make(), "choices": [], "usage": USAGE, "timings": timings}
        ends = sse(make(finish="stop")) + sse(usage)
        pieces = [*first, *ends, DONE] if apart else [*first, b"".join(ends) + DONE]
        return engine.stream(sock, pieces, "text/event-stream")
    answer = ask(api, True, reply, edit=inference.BodyEdit(want_usage=True))
    assert answer.status is Code.OK
    assert answer.data.replace(b'"timings":{', b'"timings": {') == direct.replace(
        b', "timings": {', b',"timings": {')
    assert answer.finish.usage.prompt_tokens == 3


@both
@pytest.mark.parametrize("api", [APIS[0], APIS[3], APIS[5]], ids=repr)
def test_one_event_of_many_mib_passes(ask, api, stream):
    fill = "A" * (3 << 20)
    if api is CHAT:
        pieces = [*api.pieces[:1], *sse(chat({"audio": {"data": fill}})), *api.pieces[-2:]]
    elif api.lines:
        document = json.loads(api.pieces[-1])
        pieces = [*api.pieces[:-1], *lines({**document, "context": [1] * (1 << 20)})]
    else:
        last = {"type": "response.completed", "response": {**RESPONSE, "metadata": {"x": fill}}}
        pieces = [*api.pieces[:-1], *sse(last, names=True)]
    answer = ask(api, stream, lambda engine, sock, _: engine.stream(sock, pieces, api.type))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(pieces)
    elif api is CHAT:
        assert answer.json["choices"][0]["message"]["audio"]["data"] == fill
    else:
        assert len(answer.data) > 2 << 20


def test_a_request_for_audio_is_not_streamed_unless_the_client_streams(ask):
    asked = []

    def reply(engine, sock, body):
        asked.append(body["stream"])
        return engine.document(sock, json.dumps(CHAT.whole).encode())
    ask(CHAT, False, reply, body={"modalities": ["text", "audio"], "audio": {"format": "mp3"}})
    assert asked == [False]


# ---- through a coordinator ----------------------------------------------------------------------


def post(cluster, path, body):
    return fetch_now(cluster.api, "POST", path, json.dumps(body).encode())


@both
@pytest.mark.parametrize("shape", NONE)
def test_a_shape_that_is_no_answer_is_replaced_by_another_nodes_answer(make_cluster, shape, stream):
    cluster = make_cluster().start()
    broken = FakeEngine(lambda handler, path, body: handler.answer(200, NONE[shape]))
    good = FakeEngine()
    for name, engine in (("broken", broken), ("good", good)):
        cluster.start_node(name, engine=engine.url)
    for _ in range(3):
        answer = post(cluster, CHAT.path, {"model": "fake-model", "messages": MESSAGES,
                                           "stream": stream})
        assert answer.status == 200 and answer.headers["x-drover-node"] == "good"
        assert b"Hello" in answer.body and b'"error"' not in answer.body
    assert len(broken.posts()) + len(good.posts()) >= 3
    broken.close()
    good.close()


def test_valid_requests_eject_no_node_however_often_they_come(make_cluster):
    def behave(handler, path, body):
        handler.begin_stream()
        for piece in prompts():
            handler.send_piece(piece)
        handler.end_stream()
    cluster = make_cluster().start()
    engines = [FakeEngine(behave) for _ in range(2)]
    for name, engine in zip("ab", engines):
        cluster.start_node(name, engine=engine.url)
    for turn in range(14):
        answer = post(cluster, TEXT.path, {"model": "fake-model", "prompt": ["x", "y"],
                                           "stream": turn % 2 == 0})
        assert answer.status == 200, answer.body
    assert [cluster.node_state(name) for name in "ab"] == ["UP", "UP"]
    assert all(row["counters"]["node_error"] == 0
               for row in (cluster.ctl_json("node", name) for name in "ab"))
    for engine in engines:
        engine.close()


class Whole(FakeEngine):
    """Takes no notice of `stream`."""

    def __init__(self):
        super().__init__(lambda handler, path, _: handler.answer(
            200, next(api.whole for api in APIS if api.path == path)), models=("tiny",))


CLIENTS = [
    (Whole, {}, "openai", ("stream", "streamCompletions", "streamResponses")),
    (Whole, {}, "anthropic", ("stream",)),
    (LlamaServer, {}, "openai", ("chat", "stream", "streamWithoutUsage", "completions",
                                 "streamCompletions", "severalPrompts", "streamResponses")),
    (LlamaServer, {}, "anthropic", ("messages", "stream")),
    (Vllm, {}, "openai", ("chat", "stream", "streamWithoutUsage", "streamCompletions")),
    (Ollama, {}, "ollama", ("chat", "stream", "generate")),
    (Ollama, {}, "openai", ("chat", "stream")),
    (PlainOpenAi, {"stream_type": "text/plain"}, "openai", ("chat", "stream")),
]


@pytest.mark.parametrize("kind, knobs, sdk, cases", CLIENTS, ids=[
    f"{kind.__name__}-{sdk}-{'-'.join(knobs)}" for kind, knobs, sdk, _ in CLIENTS])
def test_the_official_clients_read_what_the_engine_says(make_cluster, kind, knobs, sdk, cases):
    engine = kind(**knobs)
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    for case in cases:
        run_client(sdk, cluster.url, case, model=list(engine.models)[0])
    engine.close()
