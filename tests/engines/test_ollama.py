"""test_ollama.py - the scripted Ollama loads, queues and answers as the real one."""

import json
import time

import pytest

from client import Stream, ask, at_once, chat, get, leave_unanswered, post, until
from ollama import Ollama

CHAT, GENERATE = "/api/chat", "/api/generate"


@pytest.fixture
def engine():
    with Ollama(models={"big:latest": ["completion", "tools"], "small:latest": ["completion"],
                        "eyes:7b": ["completion", "vision"], "vec:latest": ["embedding"],
                        "huge:120b-cloud": ["completion"]},
                cloud=("huge:120b-cloud",), tokens_per_s=400) as made:
        yield made


def test_it_lists_its_models(engine):
    assert get(engine, "/api/version")["version"] == engine.version
    assert [m["name"] for m in get(engine, "/api/tags")["models"]][:2] == ["big:latest",
                                                                           "small:latest"]
    assert get(engine, "/v1/models")["data"][0]["owned_by"] == "library"
    assert post(engine, "/api/show", {"model": "eyes:7b"})[1]["capabilities"] == ["completion",
                                                                                  "vision"]
    assert get(engine, "/api/ps") == {"models": []}
    assert ask(engine, "GET", "/")[2] == b"Ollama is running"


def test_it_streams_lines_unless_asked_not_to(engine):
    stream = Stream(engine, CHAT, chat(model="big"))
    lines = stream.all()
    assert stream.response.headers["content-type"] == "application/x-ndjson"
    assert lines[-1]["done"] and lines[-1]["done_reason"] == "stop" and not lines[0]["done"]
    assert lines[-1]["eval_count"] == 16 and lines[0]["model"] == "big"
    status, whole = post(engine, CHAT, chat(model="big:latest", stream=False))
    assert status == 200 and whole["done"]
    assert whole["message"]["content"] == "".join(line["message"]["content"] for line in lines)
    last = Stream(engine, GENERATE, {"model": "small", "prompt": "hi"}).all()[-1]
    assert last["done"] and isinstance(last["context"], list)


def test_num_predict_ends_it(engine):
    whole = post(engine, CHAT, chat(model="big", stream=False, options={"num_predict": 3}))[1]
    assert (whole["done_reason"], whole["eval_count"]) == ("length", 3)


def test_a_load_is_lost_when_its_client_leaves(engine):
    engine.load_s = 1.0
    close = leave_unanswered(engine, CHAT, chat(model="big"))
    until(lambda: engine.count["loads"] == 1)
    close()
    until(lambda: engine.count["loads_lost"] == 1)
    assert get(engine, "/api/ps") == {"models": []}
    began = time.monotonic()
    assert post(engine, CHAT, chat(model="big", stream=False))[0] == 200
    assert time.monotonic() - began > 0.9 and engine.count["loads"] == 2
    assert [m["name"] for m in get(engine, "/api/ps")["models"]] == ["big:latest"]


def test_others_wait_for_one_load(engine):
    engine.load_s, engine.num_parallel = 0.5, 4
    assert at_once(4, lambda _: post(engine, CHAT, chat(model="big", stream=False))[0]) == [200] * 4
    assert engine.count["loads"] == 1


def test_another_num_ctx_is_another_load(engine):
    for size, loads in ((None, 1), (8192, 2), (8192, 2), (4096, 3)):
        options = {} if size is None else {"options": {"num_ctx": size}}
        assert post(engine, CHAT, chat(model="big", stream=False, **options))[0] == 200
        assert engine.count["loads"] == loads
    assert get(engine, "/api/ps")["models"][0]["context_length"] == 4096


@pytest.mark.parametrize("parallel", [1, 4])
def test_so_many_run_at_once_and_the_rest_waits_without_a_byte(engine, parallel):
    engine.num_parallel = parallel
    body = chat(model="big", options={"num_predict": 40}, max_tokens=40)
    engine.answer_tokens = 40

    def head_s(_):
        stream = Stream(engine, CHAT, body)
        assert stream.all()[-1]["done"]
        return stream.head_s

    heads = at_once(6, head_s)
    machine = engine.machine_of("big")
    assert machine.most_running == parallel
    assert max(heads) > 0.08 * (6 // parallel - 1)


def test_no_more_than_the_queue_holds(engine):
    engine.max_queue, engine.load_s = 1, 0.5
    codes = at_once(4, lambda _: post(engine, CHAT, chat(model="big", stream=False))[0])
    assert set(codes) == {200, 503}


def test_unknown_models_and_lacking_abilities(engine):
    status, body = post(engine, CHAT, chat(model="none"))
    assert (status, body) == (404, {"error": 'model "none" not found, try pulling it first'})
    status, body = post(engine, "/v1/chat/completions", chat(model="none"))
    assert status == 404 and body["error"]["type"] == "not_found_error"
    assert post(engine, CHAT, chat(model="vec"))[1]["error"] == '"vec" does not support chat'
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert "does not support tools" in post(engine, CHAT, chat(model="small", **tools))[1]["error"]
    images = {"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}
    assert post(engine, CHAT, {"model": "small", **images})[0] == 400
    assert post(engine, CHAT, {"model": "eyes:7b", "stream": False, **images})[0] == 200


def test_cloud_models_want_a_sign_in_and_stream_as_plain_text(engine):
    status, body = post(engine, CHAT, chat(model="huge:120b-cloud"))
    assert status == 401 and body["error"] == "unauthorized" and "signin_url" in body
    assert post(engine, CHAT, chat(model="small", stream=False))[0] == 200
    engine.signed_in = True
    stream = Stream(engine, CHAT, chat(model="huge:120b-cloud"))
    assert stream.response.headers["content-type"] == "text/plain; charset=utf-8"
    assert stream.all()[-1]["done"] and engine.count["loads"] == 1


def test_tool_calls_of_v1_have_index_zero_in_a_stream(engine):
    engine.calls = [("f", json.dumps({"x": 1})), ("f", json.dumps({"x": 2}))]
    body = chat(model="big", tools=[{"type": "function", "function": {"name": "f"}}])
    events = Stream(engine, "/v1/chat/completions", {**body, "stream": True}).all()
    calls = [c for e in events if isinstance(e, dict) and e["choices"]
             for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert [c["index"] for c in calls] == [0, 0] and len({c["id"] for c in calls}) == 2
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    whole = post(engine, "/v1/chat/completions", body)[1]["choices"][0]["message"]
    assert [json.loads(c["function"]["arguments"]) for c in whole["tool_calls"]] == [{"x": 1},
                                                                                     {"x": 2}]
    lines = Stream(engine, CHAT, body).all()
    assert len(lines[-2]["message"]["tool_calls"]) == 2, "both at once, buffered"


def test_an_empty_request_loads_and_unloads(engine):
    assert post(engine, GENERATE, {"model": "big"})[1]["done_reason"] == "load"
    assert len(get(engine, "/api/ps")["models"]) == 1
    assert post(engine, GENERATE, {"model": "big", "keep_alive": 0})[1]["done_reason"] == "unload"
    assert get(engine, "/api/ps") == {"models": []}
