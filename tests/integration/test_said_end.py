"""The end of an answer that an engine has said, while it keeps its connection open."""

import json
import time

import grpc
import pytest

from harness import SLOW, until
from messages import common
from node_rig import DONE, ROLE, USAGE, Answer, Engine, Node, delta

Code = grpc.StatusCode

OPERATION = common.Operation.Value
CHAT, MESSAGES, RESPONSES = (
    OPERATION("OPERATION_" + name) for name in ("CHAT_COMPLETIONS", "MESSAGES", "RESPONSES"))


def event(document, name=None):
    return ((f"event: {name}\n" if name else "") + f"data: {json.dumps(document)}\n\n").encode()


TEXT = {"type": "message", "role": "assistant", "id": "m",
        "content": [{"type": "output_text", "text": "Hello", "annotations": []}]}
STREAMS = {
    CHAT: ("text/event-stream",
           [ROLE + delta("Hel"), delta("lo"), delta(None, "stop"), USAGE, DONE]),
    MESSAGES: ("text/event-stream", [
        event({"type": "message_start", "message": {
            "id": "m", "type": "message", "role": "assistant", "content": [], "model": "tiny",
            "stop_reason": None, "usage": {"input_tokens": 3, "output_tokens": 0}}}),
        event({"type": "content_block_start", "index": 0,
               "content_block": {"type": "text", "text": ""}}),
        event({"type": "content_block_delta", "index": 0,
               "delta": {"type": "text_delta", "text": "Hello"}}),
        event({"type": "content_block_stop", "index": 0}),
        event({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
               "usage": {"output_tokens": 2}}),
        event({"type": "message_stop"})]),
    RESPONSES: ("text/event-stream", [
        event({"type": "response.created", "response": {"id": "r", "object": "response"}}),
        event({"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"}),
        event({"type": "response.completed", "response": {
            "id": "r", "object": "response", "status": "completed", "output": [TEXT],
            "usage": {"input_tokens": 3, "output_tokens": 2}}})]),
}


class OpenEnded(Engine):
    """Says the end of each answer, and then keeps the connection as it is."""

    parts = content_type = None

    def do_open(self, sock, _):
        self.begin(sock, self.content_type)
        for part in self.parts:
            self.send(sock, part)
        return self.wait_closed(sock)

    def do_broken(self, sock, _):
        self.begin(sock, self.content_type)
        for part in self.parts:
            self.send(sock, part)
        return sock.drop()

    def do_open_document(self, sock, _):
        """A document that is whole, of a length that is not said."""
        self.begin(sock, "application/json")
        self.send(sock, json.dumps({"id": "c", "choices": [{"index": 0, "message": {
            "role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]}).encode())
        return self.wait_closed(sock)

    def do_open_error(self, sock, _):
        data = json.dumps({"error": {"message": "no", "code": 400}}).encode()
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n" + data)
        return self.wait_closed(sock)

    def do_long_pause(self, sock, _):
        """Longer than a call is waited for that may follow a call; a reason came before output."""
        self.begin(sock)
        self.send(sock, ROLE + delta("Hel", "stop") + delta("lo"))
        time.sleep(11)
        self.send(sock, delta("!", "tool_calls") + DONE)
        return self.end(sock)

    def do_second_choice(self, sock, _):
        """One choice has ended; the other begins later."""
        other = {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]}
        self.begin(sock)
        self.send(sock, delta("a", "stop"))
        time.sleep(2.5)
        self.send(sock, event(other) + DONE)
        return self.end(sock)


@pytest.fixture(name="engine")
def engine_fixture():
    engine = OpenEnded(slots=1)
    yield engine
    engine.stop()


@pytest.fixture(name="node")
def node_fixture(engine):
    node = Node("--slots", "1", engine=engine.url).ready()
    yield node
    node.stop()


def infer(node, script, operation=CHAT, stream=True, idle_token_ms=600000, **more):
    return node.infer(operation=operation, stream=stream, body={
        "model": "tiny", "script": script, "stream": stream, "max_tokens": 9, "input": "hi",
        "messages": [{"role": "user", "content": "hi"}], **more}, idle_token_ms=idle_token_ms)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("operation", [CHAT, MESSAGES, RESPONSES],
                         ids=["chat", "messages", "responses"])
def test_an_answer_ends_with_its_last_event_and_the_slot_is_free(node, engine, operation, stream):
    engine.content_type, engine.parts = STREAMS[operation]
    for _ in range(2):  # the second needs the slot of the first
        begun = time.monotonic()
        answer = Answer(infer(node, "open", operation, stream))
        took = time.monotonic() - begun
        assert answer.status is Code.OK, answer.message
        assert took < 1 * SLOW, took
        body = b"".join(chunk.data for chunk in answer.chunks)
        if stream:
            assert body == b"".join(engine.parts)
        else:
            assert b"Hello" in json.dumps(json.loads(body)).encode()
        assert answer.finish.usage.output_tokens == 2
    until(lambda: len(engine.closed) == 2, what="both connections are closed")
    assert until(lambda: node.describe().load.running == 0) is not None


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("script", ["open", "broken"])
@pytest.mark.parametrize("operation", [CHAT, MESSAGES], ids=["chat", "messages"])
def test_an_answer_whose_reason_is_said_is_whole_without_its_last_event(node, engine, operation,
                                                                       script, stream):
    """The event that the engine still owed is added, as clients wait for it."""
    content_type, parts = STREAMS[operation]
    engine.content_type, engine.parts = content_type, parts[:-1]
    answer = Answer(infer(node, script, operation, stream))
    assert answer.status is Code.OK, answer.message
    body = b"".join(chunk.data for chunk in answer.chunks)
    if stream:
        assert body.startswith(b"".join(engine.parts))
        assert body[len(b"".join(engine.parts)):].split(b"data: ")[1] in (
            b"[DONE]\n\n", b'{"type":"message_stop"}\n\n')
    else:
        assert b"lo" in json.dumps(json.loads(body)).encode()


def test_a_connection_that_breaks_before_the_reason_of_the_last_choice_is_an_error(node, engine):
    engine.content_type = "text/event-stream"
    engine.parts = [ROLE + delta("Hel"), delta("lo", "stop")]
    answer = Answer(infer(node, "broken", n=2))
    assert answer.status is Code.UNAVAILABLE, answer.message


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_output_after_a_reason_is_the_last_when_no_more_comes(node, engine, stream):
    """Within the limit of any silence, which ends any other answer with an error."""
    engine.content_type = "text/event-stream"
    engine.parts = [ROLE + delta("Hel", "stop"), delta("lo")]
    answer = Answer(infer(node, "open", stream=stream, idle_token_ms=1000))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(engine.parts) + DONE
    else:
        assert answer.json["choices"][0]["message"]["content"] == "Hello"
    answer = Answer(infer(node, "broken", stream=stream))
    assert answer.status is Code.UNAVAILABLE, "the connection may have taken more with it"
    engine.parts.append(delta("!")[:-9])
    answer = Answer(infer(node, "open", stream=stream, idle_token_ms=1000))
    assert answer.status is Code.ABORTED, "half an event is no end"


def test_a_call_that_is_held_back_after_a_reason_and_more_output_is_not_cut(node):
    answer = Answer(infer(node, "long_pause"))
    assert answer.status is Code.OK, answer.message
    assert answer.data.endswith(delta("!", "tool_calls") + DONE)


def test_a_last_event_without_its_blank_line_ends_the_answer_too(node, engine):
    engine.content_type = "text/event-stream"
    engine.parts = [ROLE + delta("Hel"), delta("lo", "stop"), DONE[:-1]]
    answer = Answer(infer(node, "open"))
    assert answer.status is Code.OK, answer.message


@pytest.mark.parametrize("script, status", [("open_document", 200), ("open_error", 400)])
def test_a_whole_document_is_the_answer_whatever_the_connection_does(node, engine, script, status):
    answer = Answer(infer(node, script, stream=False))
    assert answer.status is Code.OK, answer.message
    assert answer.head.http_status == status
    json.loads(b"".join(chunk.data for chunk in answer.chunks))
    until(lambda: engine.closed, what="the connection is closed")


def test_the_end_of_one_choice_is_not_the_end_of_the_answer(node):
    answer = Answer(infer(node, "second_choice", n=2))
    assert answer.status is Code.OK, answer.message
    body = b"".join(chunk.data for chunk in answer.chunks)
    assert b'"b"' in body and body.endswith(DONE), body
