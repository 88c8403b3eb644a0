"""test_odd_answers.py - answers as no one should give them, and what a client of each API gets.

The first half asks drover-node; the second goes through a coordinator, and compares with what the
engine itself gives.  The shapes of test_answers.py are the usual ones.
"""

import json
import socket
import time

import grpc
import pytest

from harness import SLOW, Cluster, until
from load import fetch_now
from messages import common
from node_rig import Answer, Node
from test_answers import (APIS, CHAT, DONE, MESSAGES, TEXT, USAGE, Script, both, chat, check,
                          check_document, each, error_event, lines, refuse, sse, text)
from test_answers import ask, rigs  # noqa: F401  (fixtures)

Code = grpc.StatusCode
MESSAGES_API, RESPONSES_API, OLLAMA_CHAT, GENERATE = APIS[2:]
OPENAI = pytest.mark.parametrize("api", [CHAT, TEXT], ids=repr)
SOME = pytest.mark.parametrize("api", [CHAT, MESSAGES_API, OLLAMA_CHAT], ids=repr)


def event_of(api, data):
    """One event, or one line, with these bytes as its data."""
    return data + b"\n" if api.lines else b"data: " + data + b"\n\n"


def streamed(api, pieces):
    return lambda engine, sock, _: engine.stream(sock, pieces, api.type)


def assert_content(answer, stream, said="Hello"):
    """The chat's text, by its deltas or in its one document."""
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data.rstrip().endswith(b"[DONE]") and answer.finish is not None
    else:
        assert answer.json["choices"][0]["message"]["content"] == said


# ---- the end, and what follows it ---------------------------------------------------------------


AFTER = {"garbage": lambda api: event_of(api, b"oops"),
         "error": lambda api: error_event(api, 500),
         "named error": lambda api: b"" if api.lines else b"event: error\ndata: broken\n\n",
         "keep-alive": lambda api: event_of(api, b"{}"),
         "done": lambda api: b"" if api.lines else DONE,
         "half": lambda api: b'{"mod' if api.lines else b'data: {"mod'}


@both
@each
@pytest.mark.parametrize("after", AFTER)
def test_bytes_after_the_end_change_nothing(ask, api, stream, after):  # noqa: F811
    answer = ask(api, stream, streamed(api, [*api.pieces[:-1], api.pieces[-1] + AFTER[after](api)]))
    assert answer.status is Code.OK, answer.message
    assert answer.finish.usage.output_tokens == 2
    if not stream:
        assert answer.json == api.whole
        return
    assert answer.data.startswith(api.stream)
    assert b"oops" not in answer.data and b"broken" not in answer.data
    assert b'"bad"' not in answer.data


@both
@OPENAI
@pytest.mark.parametrize("mark", [b"data:  [DONE]\n\n", b"data: [DONE] \n\n", b"data:[DONE]\r\n\r\n",
                                  b"event: done\ndata: [DONE]\n\n", b"id: 7\ndata: [DONE]\n\n",
                                  b"data: [DONE]\n\ndata: [DONE]\n\n"])
def test_every_spelling_of_the_end_is_one(ask, api, stream, mark):  # noqa: F811
    answer = ask(api, stream, streamed(api, [*api.pieces[:-1], mark]))
    assert answer.status is Code.OK, answer.message
    assert answer.data.endswith(mark) if stream else answer.json == api.whole


@both
@pytest.mark.parametrize("api", APIS[2:], ids=repr)
def test_an_end_mark_is_no_end_where_an_event_is(ask, api, stream):  # noqa: F811
    mark = b"data: [DONE]\n\n"
    answer = ask(api, stream, streamed(api, [*api.pieces, b"" if api.lines else mark]))
    assert answer.status is Code.OK and (stream or answer.json == api.whole), answer.message
    events = [b"data: " + p.strip() + b"\n\n" for p in api.pieces] if api.lines else api.pieces
    answer = ask(api, stream, lambda engine, sock, _: engine.stream(
        sock, [*events[:len(api.pieces) // 2], mark], "text/event-stream"))
    assert answer.status is Code.DATA_LOSS and answer.finish is None, answer.message


@both
@OPENAI
def test_usage_that_comes_after_the_end_counts(ask, api, stream):  # noqa: F811
    make = chat if api is CHAT else text
    late = sse({**make(), "choices": [], "usage": USAGE})
    answer = ask(api, stream, streamed(
        api, [*api.pieces[:-2], *sse(make(finish="stop")), DONE + late[0]]))
    assert answer.status is Code.OK and answer.finish.usage.prompt_tokens == 3
    assert stream or answer.json["usage"] == USAGE


@both
@pytest.mark.parametrize("api", [OLLAMA_CHAT, GENERATE, MESSAGES_API, RESPONSES_API], ids=repr)
def test_the_last_event_ends_the_answer_though_the_connection_stays(ask, api, stream):  # noqa: F811
    left = []

    def reply(engine, sock, _):
        sock.begin_stream(api.type)
        sock.send_piece(api.stream)
        left.append(sock.wait_gone(20))
        return False
    began = time.monotonic()
    check(api, stream, ask(api, stream, reply, idle_token_ms=600000))
    assert time.monotonic() - began < 1 * SLOW
    until(lambda: left == [True], what="the connection is closed")


# ---- events that say nothing --------------------------------------------------------------------


IDLE = {"empty object": lambda api: event_of(api, b"{}"),
        "null": lambda api: b"" if api.lines else event_of(api, b"null"),
        "status": lambda api: event_of(api, b'{"status":"loading model"}'),
        "comment": lambda api: b"" if api.lines else b": x\n\n",
        "ping": lambda api: b"" if api.lines else b"event: ping\ndata: now\n\n",
        "heartbeat": lambda api: b"" if api.lines else b"event: heartbeat\ndata: 17:03\n\n"}


@both
@each
@pytest.mark.parametrize("idle", IDLE)
def test_events_that_only_keep_a_connection_alive_are_no_part_of_the_answer(ask, api, stream,  # noqa: F811
                                                                           idle):
    keep = IDLE[idle](api)
    pieces = [piece for part in api.pieces for piece in (keep, part)]
    answer = ask(api, stream, streamed(api, pieces))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data.replace(keep, b"") == api.stream and answer.head.event_stream
    else:
        assert answer.json == api.whole


# ---- errors inside a 200 ------------------------------------------------------------------------


ERRORS = {"list": {"error": ["bad thing"]}, "objects": {"error": [{"message": "bad thing"}]},
          "number": {"error": 503, "message": "bad thing"},
          "text code": {"error": {"code": "503", "message": "bad thing"}},
          "bare": {"code": 500, "message": "bad thing"},
          "status code": {"statusCode": 503, "message": "bad thing"},
          "status": {"status": "error", "message": "bad thing"},
          "type": {"type": "error", "message": "bad thing", "code": "server_error"}}
FINE = {"object": {"error": {}}, "zero": {"error": 0}, "list": {"error": []},
        "nulls": {"error": {"message": None, "code": None}}, "text": {"error": ""}}


@both
@each
@pytest.mark.parametrize("shape", ERRORS)
def test_an_error_is_known_in_every_shape(ask, api, stream, shape):  # noqa: F811
    document = json.dumps(ERRORS[shape]).encode()
    for reply in (lambda engine, sock, _: engine.document(sock, document),
                  streamed(api, [event_of(api, document)]),
                  streamed(api, [event_of(api, document), *([] if api.lines else [DONE])])):
        answer = ask(api, stream, reply)
        refuse(answer)
        assert "bad thing" in answer.message
    count = 1 if api.lines else len(api.pieces) - 2
    answer = ask(api, stream, streamed(api, [*api.pieces[:count], event_of(api, document),
                                             api.pieces[-1]]))
    assert answer.status is not Code.OK and answer.finish is None
    assert "bad thing" in answer.message


@both
@SOME
@pytest.mark.parametrize("shape", FINE)
def test_no_error_is_known_in_every_shape(ask, api, stream, shape):  # noqa: F811
    def with_error(document):
        return {**document, **FINE[shape]}
    if api.lines:
        pieces = lines(*(with_error(json.loads(piece)) for piece in api.pieces))
    else:
        pieces = [b"data: " + json.dumps(with_error(json.loads(piece.split(b"data: ")[1]))).encode()
                  + b"\n\n" if b"[DONE]" not in piece else piece for piece in api.pieces]
    answer = ask(api, stream, streamed(api, pieces))
    assert answer.status is Code.OK, answer.message
    document = json.dumps(with_error(api.whole)).encode()
    check_document(api, stream, ask(
        api, stream, lambda engine, sock, _: engine.document(sock, document)), document)


@both
@pytest.mark.parametrize("api", [OLLAMA_CHAT, GENERATE], ids=repr)
def test_a_status_before_an_answer_is_no_end_whatever_the_content_type(ask, api, stream):  # noqa: F811
    def reply(_, sock, __):
        sock.begin_stream("application/json")
        for piece in (b'{"status":"loading model"}\n', api.stream):
            sock.send_piece(piece)
            sock.sleep(0.6)
        return sock.end_stream()
    answer = ask(api, stream, reply)
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data.endswith(api.stream) and answer.head.event_stream
    else:
        assert answer.json == api.whole


@both
@pytest.mark.parametrize("api", APIS[:4], ids=repr)
def test_an_error_that_is_written_into_a_stream_as_if_there_were_none_ends_it(ask, api, stream):  # noqa: F811
    bare = b'{"error":{"message":"bad thing","type":"server_error"}}\n'
    answer = ask(api, stream, streamed(api, [*api.pieces[:len(api.pieces) - 2], bare + b"\n", DONE]))
    assert answer.status is not Code.OK and "bad thing" in answer.message


@both
@OPENAI
def test_a_choice_that_failed_is_no_answer(ask, api, stream):  # noqa: F811
    failed = {"index": 0, "finish_reason": "error", "text": "",
              "error": {"code": 502, "message": "bad thing"}}
    document = {"id": "c", "object": "x", "model": "tiny", "choices": [failed]}
    answer = ask(api, stream, lambda engine, sock, _: engine.document(
        sock, json.dumps(document).encode()))
    refuse(answer)
    assert "bad thing" in answer.message
    answer = ask(api, stream, streamed(api, [*api.pieces[:1], *sse(document), DONE]))
    assert answer.status is not Code.OK and "bad thing" in answer.message


@both
@OPENAI
@pytest.mark.parametrize("reason", ["abort", "aborted", "error"])
def test_an_answer_that_was_aborted_before_it_began_is_none(ask, api, stream, reason):  # noqa: F811
    make = chat if api is CHAT else text
    answer = ask(api, stream, streamed(api, [*sse(make(), make(finish=reason)), DONE]))
    assert answer.status in (Code.INTERNAL, Code.DATA_LOSS, Code.UNAVAILABLE), answer.message
    # The first event may have come alone: a coordinator holds what is no content.
    assert answer.finish is None and not any(chunk.content for chunk in answer.chunks)


@each
def test_an_endpoint_that_lm_studio_does_not_have_is_a_missing_operation(ask, api):  # noqa: F811
    words = {"error": f"Unexpected endpoint or method. (POST {api.path})"}
    answer = ask(api, True, lambda engine, sock, _: engine.document(sock, json.dumps(words).encode()))
    assert answer.status is Code.UNIMPLEMENTED, (answer.status, answer.message)
    assert answer.cause.kind == type(answer.cause).KIND_ABILITY


# ---- reasons to end -----------------------------------------------------------------------------


@both
@OPENAI
@pytest.mark.parametrize("reason", ["length", "content_filter", "end_turn", "STOP", "eos_token",
                                    "stop_sequence", "abort"])
def test_every_reason_ends_an_answer_and_is_kept(ask, api, stream, reason):  # noqa: F811
    make = chat if api is CHAT else text
    pieces = [*api.pieces[:-2], *sse(make(finish=reason, usage=USAGE)), DONE]
    answer = ask(api, stream, streamed(api, pieces))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(pieces)
    else:
        assert answer.json["choices"][0]["finish_reason"] == reason


@both
@OPENAI
def test_a_reason_that_came_too_early_ends_nothing(ask, api, stream):  # noqa: F811
    make, said = (chat, lambda s: {"content": s}) if api is CHAT else (text, lambda s: s)
    early = sse(make(said("Hel"), "stop"), make(said("lo")))
    answer = ask(api, stream, streamed(api, [*early, *sse(make(finish="length")), DONE]))
    assert answer.status is Code.OK
    assert stream or answer.json["choices"][0]["finish_reason"] == "length"


@both
@OPENAI
def test_a_stream_that_ends_after_a_reason_is_whole_though_output_followed_it(ask, api, stream):  # noqa: F811
    make, said = (chat, lambda s: {"content": s}) if api is CHAT else (text, lambda s: s)
    early = sse(make(said("Hel"), "stop"), make(said("lo")))
    answer = ask(api, stream, streamed(api, early))
    assert answer.status is Code.OK and answer.finish is not None, answer.message
    if stream:
        assert answer.data == b"".join(early)
    else:
        choice = answer.json["choices"][0]
        assert choice["finish_reason"] == "stop" and "Hello" in json.dumps(choice)
    answer = ask(api, stream, streamed(api, early), body={"n": 2})
    assert answer.status is Code.DATA_LOSS and answer.finish is None, "the other had none"


def test_a_tool_call_that_is_held_back_after_the_reason_of_the_one_before_is_not_cut(ask):  # noqa: F811
    def call(index, finish=None):
        return chat({"tool_calls": [{"index": index, "id": f"c{index}", "type": "function",
                                     "function": {"name": "f", "arguments": "{}"}}]}, finish)

    def reply(_, sock, __):
        sock.begin_stream()
        sock.send_piece(sse(call(0, "tool_calls"))[0])
        sock.sleep(2.6)
        sock.send_piece(sse(call(1, "tool_calls"))[0] + DONE)
        return sock.end_stream()
    answer = ask(CHAT, False, reply)
    assert answer.status is Code.OK, answer.message
    assert len(answer.json["choices"][0]["message"]["tool_calls"]) == 2


# ---- what is put together -----------------------------------------------------------------------


def calls_of(answer):
    assert answer.status is Code.OK, answer.message
    return [(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in answer.json["choices"][0]["message"]["tool_calls"]]


def piece(call_id=None, name=None, arguments="", index=None):
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"function": function, **({"id": call_id} if call_id else {}),
            **({} if index is None else {"index": index})}


TWO = [("a", "f", '{"x":1}'), ("b", "g", '{"y":"}"}')]
CALLS = {
    "indexed": [piece("a", "f", '{"x"', 0), piece("b", "g", '{"y":', 1), piece(None, None, ":1}", 0),
                piece(None, None, '"}"}', 1)],
    "by id alone": [piece("a", "f", '{"x"'), piece("b", "g", '{"y":'), piece("a", None, ":1}"),
                    piece("b", None, '"}"}')],
    "index 0, by id": [piece("a", "f", '{"x"', 0), piece("b", "g", '{"y":', 0),
                       piece("a", None, ":1}", 0), piece("b", None, '"}"}', 0)],
    "index is text": [piece("a", "f", '{"x":', "0"), piece("a", None, "1}", "0"),
                      piece("b", "g", '{"y":"}"}', "1")],
    "an id for each piece": [piece("a", "f", "", 0), piece("i", None, '{"x"', 0),
                             piece("j", None, ":1}", 0), piece("b", "g", "", 1),
                             piece("k", None, '{"y":"}"}', 1)],
    "no id yet": [{**piece(None, "f", "", 0), "id": None}, piece("a", None, '{"x":1}', 0),
                  piece("b", "g", '{"y":"}"}', 1)],
    "line end after": [piece("a", "f", '{"x":1}', 0), piece(None, None, "\n", 0),
                       piece("b", "g", '{"y":"}"}', 1)],
}


@pytest.mark.parametrize("way", CALLS)
def test_two_calls_are_two_in_whatever_pieces_they_come(ask, way):  # noqa: F811
    pieces = sse(*(chat({"tool_calls": [part]}) for part in CALLS[way]), chat(finish="tool_calls"))
    answer = ask(CHAT, False, streamed(CHAT, [*pieces, DONE]))
    assert [(i, n, a.strip()) for i, n, a in calls_of(answer)] == TWO


def test_calls_that_share_one_id_are_two(ask):  # noqa: F811
    parts = [piece("call_0", "f", '{"x":1}', 0), piece("call_0", "g", '{"y":2}', 0)]
    answer = ask(CHAT, False, streamed(CHAT, [*sse(*(chat({"tool_calls": [p]}) for p in parts),
                                                   chat(finish="tool_calls")), DONE]))
    assert [call[1:] for call in calls_of(answer)] == [("f", '{"x":1}'), ("g", '{"y":2}')]


@both
@pytest.mark.parametrize("halves", [(b'"\\ud83d"', b'"\\ude00"'), (b'"\xf0\x9f"', b'"\x98\x80"'),
                                    (b'"\\\\"', b'"n"')])
def test_text_that_is_cut_inside_a_character_is_whole_again(ask, stream, halves):  # noqa: F811
    def part(text):
        return b'data: {"choices":[{"index":0,"delta":{"content":' + text + b'}}]}\n\n'
    pieces = [*map(part, halves), *sse(chat(finish="stop")), DONE]
    answer = ask(CHAT, stream, streamed(CHAT, pieces))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(pieces)
    else:
        whole = json.loads(halves[0][:-1] + halves[1][1:])
        assert answer.json["choices"][0]["message"]["content"] == whole


@both
def test_a_whole_message_in_an_event_is_the_answer(ask, stream):  # noqa: F811
    document = {**CHAT.whole, "object": "chat.completion.chunk"}
    answer = ask(CHAT, stream, streamed(CHAT, [*sse(document), DONE]))
    assert_content(answer, stream)
    assert answer.finish.usage.output_tokens == 2


@both
def test_a_message_that_repeats_the_pieces_is_not_added_to_them(ask, stream):  # noqa: F811
    pieces, said = [], ""
    for word in ("Hel", "lo"):
        said += word
        document = chat({"content": word})
        document["choices"][0]["message"] = {"role": "assistant", "content": said}
        pieces += sse(document)
    answer = ask(CHAT, stream, streamed(CHAT, [*pieces, *sse(chat(finish="stop")), DONE]))
    assert_content(answer, stream)


@both
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_only_python_writes_is_one(ask, rigs, stream, number):  # noqa: F811
    part = sse({**chat({"content": "Hello"}), "odd": 8.5})[0].replace(b"8.5", number.encode())
    pieces = [CHAT.pieces[0], part, *CHAT.pieces[-2:]]
    answer = ask(CHAT, stream, streamed(CHAT, pieces))
    assert_content(answer, stream)
    assert not stream or answer.data == b"".join(pieces)
    document = json.dumps(CHAT.whole)[:-1].encode() + b',"odd":' + number.encode() + b"}"
    answer = ask(CHAT, stream, lambda engine, sock, _: engine.document(sock, document))
    assert answer.status is Code.OK and (stream or answer.data == document), answer.message
    engine, node = rigs[False]
    document = b'{"object":"list","data":[{"index":0,"embedding":[%s,0.5]}]}' % number.encode()
    engine.reply = lambda sock, _: engine.document(sock, document)
    answer = Answer(node.infer(body={"model": "tiny", "input": "x"}, stream=False,
                               operation=common.OPERATION_EMBEDDINGS))
    assert answer.status is Code.OK and answer.data == document, answer.message


@pytest.mark.parametrize("part", [
    {"reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]}, {"thinking": "Hm"},
    {"thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]}, {"reasoning_content": "Hm"},
    {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}],
    ids=lambda part: next(iter(part)))
def test_output_that_is_no_text_is_output(ask, part):  # noqa: F811
    pieces = [*sse(chat({"role": "assistant", "content": ""}), chat(part)), *CHAT.pieces[-2:]]
    answer = ask(CHAT, True, streamed(CHAT, pieces))
    assert answer.status is Code.OK and answer.data == b"".join(pieces)
    assert any(chunk.content for chunk in answer.chunks), "the client would wait for it"
    answer = ask(CHAT, False, streamed(CHAT, pieces))
    assert answer.json["choices"][0]["message"].items() >= part.items()


@both
@pytest.mark.parametrize("index", [None, "0", -1, 0.0, False])
def test_an_index_that_counts_nothing_is_the_first(ask, stream, index):  # noqa: F811
    pieces = [p.replace(b'"index": 0', b'"index": ' + json.dumps(index).encode())
              for p in CHAT.pieces]
    assert_content(ask(CHAT, stream, streamed(CHAT, pieces)), stream)


@both
def test_choices_in_any_order_are_each_whole(ask, stream):  # noqa: F811
    def of(index, said=None, finish=None):
        document = chat({"content": said} if said else {}, finish)
        document["choices"][0]["index"] = index
        return document
    double = of(1, "C")
    double["choices"] += of(0, "c", "stop")["choices"]
    pieces = [*sse(of(1, "A"), of(0, "a"), of(1, "B"), of(0, "b"), double, of(1, None, "length")),
              DONE]
    answer = ask(CHAT, stream, streamed(CHAT, pieces), body={"n": 2})
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(pieces)
    else:
        assert [(c["message"]["content"], c["finish_reason"]) for c in answer.json["choices"]] == [
            ("abc", "stop"), ("ABC", "length")]


@both
@pytest.mark.parametrize("member", [{"usage": None}, {"choices": None}, {"choices": []},
                                    {"prompt_filter_results": [], "choices": []},
                                    {"obfuscation": "xxxx"}, {"service_tier": None}])
def test_odd_members_of_events_change_nothing(ask, stream, member):  # noqa: F811
    extra = sse({**chat(), **member})
    pieces = [*extra, *CHAT.pieces[:-2], *extra, *CHAT.pieces[-2:]]
    answer = ask(CHAT, stream, streamed(CHAT, pieces))
    assert_content(answer, stream)
    assert answer.finish.usage.output_tokens == 2
    assert not stream or answer.data == b"".join(pieces)


@both
@each
def test_events_where_lines_are_usual_and_lines_where_events_are(ask, api, stream):  # noqa: F811
    if api.lines:
        pieces, kind = [b"data: " + p.strip() + b"\n\n" for p in api.pieces], "text/event-stream"
    else:
        pieces = [p.split(b"data: ")[1].strip() + b"\n" for p in api.pieces if b"[DONE]" not in p]
        kind = "application/x-ndjson"
    answer = ask(api, stream, lambda engine, sock, _: engine.stream(sock, pieces, kind))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(pieces) and answer.head.content_type == kind
    else:
        assert answer.json == api.whole


@both
def test_an_event_of_twenty_mib_passes(ask, stream):  # noqa: F811
    fill = "A" * (20 << 20)
    pieces = [*CHAT.pieces[:1], *sse(chat({"content": fill})), *CHAT.pieces[-2:]]
    answer = ask(CHAT, stream, streamed(CHAT, pieces))
    assert answer.status is Code.OK, answer.message
    if stream:
        assert answer.data == b"".join(pieces)
    else:
        assert len(answer.data) > 20 << 20


# ---- streams that are none ----------------------------------------------------------------------


UNUSABLE = {"done alone": DONE, "garbage": b"data: oops\n\n", "html": b"data: <html></html>\n\n",
            "done before": b": hi\n\n" + DONE}


@both
@pytest.mark.parametrize("api", APIS[:4], ids=repr)
@pytest.mark.parametrize("shape", UNUSABLE)
def test_a_stream_that_makes_no_answer_is_asked_for_as_the_client_asked(ask, api, stream,  # noqa: F811
                                                                       shape):
    asked = []

    def reply(engine, sock, body):
        asked.append(body.get("stream"))
        if body.get("stream"):
            return engine.stream(sock, [UNUSABLE[shape]], api.type)
        return engine.document(sock, json.dumps(api.whole).encode())
    answer = ask(api, stream, reply)
    if stream:
        refuse(answer)
        assert asked == [True]
    else:
        assert answer.status is Code.OK and answer.json == api.whole, answer.message
        assert asked == [True, None]


@each
@pytest.mark.parametrize("status, body", [(405, b""), (406, b"no"), (501, b""),
                                          (415, b'{"detail":"Not supported"}')])
def test_a_streamed_form_that_is_refused_without_words_is_left_out(ask, api, status, body):  # noqa: F811
    asked = []

    def reply(engine, sock, request):
        asked.append(request)
        if request.get("stream", api.lines):
            return sock.answer(status, body, content_type="text/plain")
        return engine.document(sock, json.dumps(api.whole).encode())
    answer = ask(api, False, reply)
    assert answer.status is Code.OK and answer.json == api.whole, (answer.status, answer.message)
    # An engine that had no stream a moment ago is not asked for one again.
    assert 1 <= len(asked) <= 2 and not asked[-1].get("stream", api.lines)


FAILURES = [(400, "The model has crashed without additional information. (Exit code: 134)"),
            (404, "[metal::malloc] Attempting to allocate 9 bytes"),
            (500, "stream disconnected before completion"),
            (502, "upstream connect error or disconnect/reset before headers"),
            (503, "no healthy upstream"), (504, "stream timeout"),
            (429, "too many streams"), (503, "server busy: too many streams")]


@each
@pytest.mark.parametrize("status, words", FAILURES)
def test_an_engine_that_failed_or_is_full_is_asked_once(ask, api, status, words):  # noqa: F811
    asked = []

    def reply(_, sock, request):
        asked.append(request)
        return sock.answer(status, {"error": {"message": words}})
    answer = ask(api, False, reply)
    assert answer.status is not Code.OK and answer.head is None
    assert len(asked) == 1


OTHERS = {"embeddings": (common.OPERATION_EMBEDDINGS, {"data": [{"embedding": [0.5]}]}),
          "rerank": (common.OPERATION_RERANK, {"results": []}),
          "count_tokens": (common.OPERATION_COUNT_TOKENS, {"input_tokens": 3})}


@pytest.mark.parametrize("name", OTHERS)
def test_a_document_that_is_no_answer_to_its_question_is_none(rigs, name):  # noqa: F811
    engine, node = rigs[False]
    operation, good = OTHERS[name]

    def answer_to(document):
        engine.reply = lambda sock, _: engine.document(sock, document)
        return Answer(node.infer(body={"model": "tiny", "input": "x", "messages": MESSAGES},
                                 operation=operation, stream=False))
    answer = answer_to(json.dumps(good).encode())
    assert answer.status is Code.OK and answer.json == good
    for document in (b"{}", b'{"status":"ok"}', b'{"detail":"oops"}', b"null", b"<html></html>"):
        refuse(answer_to(document))


@both
@each
@pytest.mark.parametrize("size", [600_000, 3_000_000])
def test_an_error_that_repeats_the_request_is_json_however_long_it_is(ask, api, stream, size):  # noqa: F811
    document = {"detail": [{"type": "missing", "loc": ["body", "x"], "msg": "Field required",
                            "input": "y" * size}]}
    answer = ask(api, stream, lambda engine, sock, _: sock.answer(422, document))
    assert answer.status is Code.OK and answer.head.http_status == 422, answer.message
    if size < 1 << 20:
        assert answer.json == document
    else:
        assert "Field required" in json.dumps(answer.json["error"])


# ---- HTTP ---------------------------------------------------------------------------------------


def raw(head, body, reset=False):
    def reply(_, sock, __):
        sock.sendall(head + b"\r\n\r\n" + body)
        if reset:
            sock.wait_read()
            return sock.reset()
        return sock.drop()
    return reply


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json"


@both
@each
@pytest.mark.parametrize("reset", [False, True])
def test_a_document_is_whole_where_its_json_is(ask, api, stream, reset):  # noqa: F811
    data = json.dumps(api.whole).encode()
    for reply in (raw(OK + b"\r\nContent-Length: %d" % (len(data) + 9), data, reset),
                  raw(OK + b"\r\nTransfer-Encoding: chunked", b"%x\r\n%s\r\n" % (len(data), data),
                      reset)):
        check_document(api, stream, ask(api, stream, reply), data)


@both
@each
def test_a_document_that_is_cut_is_none_whatever_its_length_says(ask, api, stream):  # noqa: F811
    data = json.dumps(api.whole).encode()
    for n in (1, len(data) // 2, len(data) - 1):
        for reply in (raw(OK + b"\r\nContent-Length: %d" % n, data),
                      raw(OK + b"\r\nContent-Length: %d" % len(data), data[:n], True),
                      raw(OK + b"\r\nTransfer-Encoding: chunked", b"%x\r\n%s" % (len(data), data[:n]))):
            refuse(ask(api, stream, reply))


@both
@SOME
@pytest.mark.parametrize("status", [b"301 Moved", b"307 Temporary Redirect", b"308 Permanent Redirect",
                                    b"304 Not Modified", b"204 No Content"])
def test_a_status_that_is_neither_answer_nor_error_commits_to_nothing(ask, api, stream, status):  # noqa: F811
    refuse(ask(api, stream, raw(b"HTTP/1.1 " + status + b"\r\nLocation: /elsewhere\r\n"
                                b"Content-Length: 0", b"")))


@both
@each
def test_an_accepted_answer_keeps_its_status(ask, api, stream):  # noqa: F811
    data = json.dumps(api.whole).encode()
    answer = ask(api, stream, raw(b"HTTP/1.1 202 Accepted\r\nContent-Length: %d" % len(data), data))
    check_document(api, stream, answer, data)
    assert answer.head.http_status == 202


@both
@SOME
def test_a_page_is_no_answer_under_any_status(ask, api, stream):  # noqa: F811
    page = b"<!DOCTYPE html><html><body>gateway</body></html>"
    for status in (200, 500, 502, 503, 504):
        refuse(ask(api, stream, lambda engine, sock, _, s=status: sock.answer(
            s, page, content_type="text/html")))


@both
@each
@pytest.mark.parametrize("count, right", [(32768, True), (80000, False)])
def test_blanks_before_an_answer_are_waited_for_to_a_bound(ask, api, stream, count, right):  # noqa: F811
    data = json.dumps(api.whole).encode()

    def reply(_, sock, __):
        sock.begin_stream("application/json")
        for _ in range(8):
            sock.send_piece(b" \r\n\t"[:2] * (count // 16))
        sock.send_piece(data)
        return sock.end_stream()
    answer = ask(api, stream, reply)
    if right:
        check_document(api, stream, answer, data if stream else answer.data)
        assert stream or answer.data.strip() == data
    else:
        assert answer.status is Code.INTERNAL and answer.head is None
        assert "white space" in answer.message


class Hasty(Script):
    """Answers a POST when it has read the head, and closes with the rest unread."""

    lingers = False

    def _one(self, sock, file):
        if not sock.recv(4, socket.MSG_PEEK).startswith(b"POST"):
            return super()._one(sock, file)
        while sock.recv(1, socket.MSG_PEEK) and file.readline().strip():
            pass
        data = b'{"error":{"message":"too much for me","code":413}}'
        sock.sendall(b"HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Type: "
                     b"application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
        while self.lingers and sock.recv(1 << 20):
            pass
        return False


@pytest.mark.parametrize("lingers", [True, False])
def test_an_engine_that_answers_before_it_has_read_the_request_is_heard(lingers):
    engine = Hasty()
    engine.lingers = lingers
    node = Node("--insecure-no-token", engine=engine.url).ready()
    answer = Answer(node.infer(body={"model": "tiny", "messages": [
        {"role": "user", "content": "x" * (8 << 20)}]}))
    assert answer.status is Code.OK and answer.head.http_status == 413, (answer.status, answer.message)
    assert b"too much for me" in answer.data
    node.stop()
    engine.stop()


# ---- through a coordinator ----------------------------------------------------------------------


class Other(Script):
    """An Ollama, whose model has a name of its own."""

    def _get(self, sock, path):
        if path == "/api/tags":
            return self.answer(sock, 200, {"models": [{"name": "other", "model": "other"}]})
        return super()._get(sock, path)


class Pair:
    """A coordinator with one node before an OpenAI server, and one before an Ollama."""

    def __init__(self):
        self.cluster = Cluster("odd-answers", workers=1).start()
        self.engines = {False: Script(), True: Other(ollama=True)}
        for lines_, engine in self.engines.items():
            self.cluster.start_node("ollama" if lines_ else "llama", engine=engine.url)

    def ask(self, api, stream, reply, direct=False, **more):
        engine = self.engines[api.lines]
        engine.reply = lambda sock, body: reply(engine, sock, body)
        address = ("127.0.0.1", engine.port) if direct else self.cluster.api
        return fetch_now(address, "POST", api.path, {
            "model": "other" if api.lines else "tiny", "stream": stream, **api.body, **more},
            timeout_s=10)

    def close(self, failed):
        self.cluster.finish(failed)
        for engine in self.engines.values():
            engine.stop()


@pytest.fixture(scope="module")
def pair(request):
    made = Pair()
    yield made
    made.close(request.session.testsfailed > 0)


def with_crlf(data):
    return data.replace(b"\n", b"\r\n")


CHANGES = {
    "as it is": lambda api, data: data,
    "crlf": lambda api, data: with_crlf(data),
    "cr": lambda api, data: data if api.lines else data.replace(b"\n", b"\r"),
    "tight": lambda api, data: data.replace(b"data: ", b"data:"),
    "several data lines": lambda api, data: data if api.lines else data.replace(
        b'"model"', b'\ndata: "model"'),
    "comments": lambda api, data: data if api.lines else data.replace(b"\n\n", b"\n: x\n\n"),
    "event names": lambda api, data: data if api.lines or b"event:" in data else data.replace(
        b"data:", b"event: message\ndata:"),
    "done twice": lambda api, data: data if api.lines else data + DONE,
}


@each
@pytest.mark.parametrize("change", CHANGES)
def test_a_stream_passes_byte_for_byte(pair, api, change):
    data = CHANGES[change](api, api.stream)
    reply = streamed(api, [data])
    direct = pair.ask(api, True, reply, direct=True)
    through = pair.ask(api, True, reply)
    assert direct.body == data
    assert through.status == 200 and through.body == data
    assert through.headers["content-type"] == direct.headers["content-type"]
    whole = pair.ask(api, False, reply)
    assert whole.status == 200 and whole.json() == api.whole


@each
def test_an_error_in_the_middle_is_one_in_the_clients_own_shape(pair, api):
    count = 1 if api.lines else len(api.pieces) - 2

    def reply(_, sock, __):
        sock.begin_stream(api.type)
        sock.send_piece(b"".join(api.pieces[:count]))
        sock.wait_read()  # an error beside the first bytes is one before the answer
        sock.send_piece(event_of(api, b'{"error":["bad thing"]}') + api.pieces[-1])
        return sock.end_stream()
    answer = pair.ask(api, True, reply, tools=[{"type": "function", "function": {"name": "f"}}])
    assert answer.status == 200 and answer.body.startswith(b"".join(api.pieces[:count]))
    end = answer.body[len(b"".join(api.pieces[:count])):]
    assert b"bad thing" in end
    if api.lines:
        assert "bad thing" in json.loads(end)["error"]
    elif api in (CHAT, TEXT):
        first, done = end.split(b"\n\n")[:2]
        assert json.loads(first.removeprefix(b"data: "))["error"]["message"] and b"[DONE]" in done
    else:
        assert end.startswith(b"event: error\ndata: ")
        assert json.loads(end.split(b"data: ")[1])["type"] == "error"
    whole = pair.ask(api, False, reply)
    assert whole.status == 502 and b"bad thing" in whole.body


@pytest.mark.parametrize("api", [CHAT, OLLAMA_CHAT, GENERATE], ids=repr)
def test_a_cut_answer_ends_with_what_happened_to_it(pair, api):
    """RST in the middle of an answer that no other node can continue."""
    count = 1 if api.lines else len(api.pieces) - 2

    def reply(_, sock, __):
        sock.begin_stream(api.type)
        sock.send_piece(b"".join(api.pieces[:count]))
        sock.wait_read()
        return sock.reset()
    # The Ollama's answers bear another name than its model: the first one is held for a look.
    assert pair.ask(api, True, streamed(api, api.pieces)).status == 200
    answer = pair.ask(api, True, reply)
    assert answer.status == 200
    assert b"the connection to the engine broke" in answer.body, answer.body
    assert pair.ask(api, False, reply).status == 502


@pytest.fixture(scope="module")
def two(request):
    """Two nodes of one model, asked in turns; neither engine can continue an answer."""
    cluster = Cluster("odd-two", workers=1, config={"policy": "round_robin"}).start()
    engines = [Plain() for _ in range(2)]
    for name, engine in zip("ab", engines):
        cluster.start_node(name, engine=engine.url)
    yield cluster, engines
    cluster.finish(request.session.testsfailed > 0)
    for engine in engines:
        engine.stop()


class Plain(Script):
    """An OpenAI server of no known kind."""

    def __init__(self):
        super().__init__()
        self.server = None

    def _get(self, sock, path):
        if path == "/v1/models":
            return self.answer(sock, 200, {"object": "list", "data": [{"id": "tiny"}]})
        return self.answer(sock, 404, "404 page not found")


def of_two(two, api, stream, bad):
    """An answer for which the first engine that is asked does `bad`; the other is well."""
    cluster, engines = two
    asked = []

    def reply_of(engine):
        def reply(sock, body):
            asked.append(engine)
            if engine is asked[0]:
                return bad(engine, sock, body)
            if body.get("stream"):
                return engine.stream(sock, api.pieces, api.type)
            return engine.document(sock, json.dumps(api.whole).encode())
        return reply
    for engine in engines:
        engine.reply = reply_of(engine)
    return fetch_now(cluster.api, "POST", api.path, {"model": "tiny", "stream": stream, **api.body},
                     timeout_s=10)


BROKEN = {"error list": streamed(CHAT, [event_of(CHAT, b'{"error":["x"]}'), DONE]),
          "bare error": streamed(CHAT, [event_of(CHAT, b'{"code":500,"message":"x"}'), DONE]),
          "aborted": streamed(CHAT, [*sse(chat(finish="abort")), DONE]),
          "page": lambda engine, sock, _: sock.answer(502, "<html></html>", content_type="text/html"),
          "nothing": streamed(CHAT, [DONE]), "moved": raw(b"HTTP/1.1 308 Moved\r\nLocation: /x\r\n"
                                                          b"Content-Length: 0", b""),
          "half": raw(OK + b"\r\nContent-Length: 900", b'{"id":"c","choices":[{"index"', True),
          "204": raw(b"HTTP/1.1 204 No Content", b"")}


@both
@pytest.mark.parametrize("shape", BROKEN)
def test_an_answer_that_is_none_comes_from_the_other_node(two, shape, stream):
    answer = of_two(two, CHAT, stream, BROKEN[shape])
    assert answer.status == 200, answer.body
    if stream:
        assert answer.body == CHAT.stream
    else:
        assert answer.json() == CHAT.whole


@pytest.mark.parametrize("api", [CHAT, MESSAGES_API, RESPONSES_API], ids=repr)
def test_a_cut_answer_that_the_other_node_cannot_continue_says_why_it_was_cut(two, api):
    count = len(api.pieces) - 2

    def cut(_, sock, __):
        sock.begin_stream(api.type)
        sock.send_piece(b"".join(api.pieces[:count]))
        sock.wait_read()
        return sock.reset()
    answer = of_two(two, api, True, cut)
    assert answer.status == 200 and answer.body.startswith(b"".join(api.pieces[:count]))
    assert b"the connection to the engine broke" in answer.body, answer.body
    assert b"cannot continue" not in answer.body
