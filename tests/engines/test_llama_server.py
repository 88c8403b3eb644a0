"""test_llama_server.py - the scripted llama-server answers as the recorded one did."""

import json
import time

import pytest

from client import (Stream, ask, chat, get, leave_unanswered, post, text_of_chat, until)
from llama_server import LlamaServer

CHAT = "/v1/chat/completions"


@pytest.fixture
def engine():
    with LlamaServer() as made:
        yield made


def test_a_loading_server_is_503_everywhere(engine):
    engine.loading = True
    for method, path, body in (("GET", "/health", None), ("GET", "/v1/models", None),
                               ("POST", CHAT, chat())):
        status, _, data = ask(engine, method, path, body)
        assert (status, data) == (503, b'{"error":{"message":"Loading model","type":'
                                       b'"unavailable_error","code":503}}')
    engine.loading = False
    assert get(engine, "/health") == {"status": "ok"}


def test_metrics_are_501_without_the_option(engine):
    status, headers, data = ask(engine, "GET", "/metrics")
    assert status == 501 and json.loads(data)["error"]["type"] == "not_supported_error"
    assert headers["server"] == "llama.cpp" and headers["connection"] == "close"
    engine.metrics = True
    status, headers, data = ask(engine, "GET", "/metrics")
    assert status == 200 and b"llamacpp:n_decode_total 0\n" in data
    assert headers["content-type"] == "text/plain; version=0.0.4"


def test_a_stream_is_written_as_recorded(engine):
    stream = Stream(engine, CHAT, chat(stream=True, max_tokens=3,
                                       stream_options={"include_usage": True}))
    events = stream.all()
    assert stream.lines[0][1].startswith(
        b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant",'
        b'"content":null}}],"created":')
    assert [list(e) for e in events[:1]] == [["choices", "created", "id", "model",
                                              "system_fingerprint", "object"]]
    assert events[-3]["choices"][0]["finish_reason"] == "length"
    assert list(events[-2])[-2:] == ["usage", "timings"] and events[-2]["choices"] == []
    assert events[-1] == "[DONE]"
    whole = post(engine, CHAT, chat(max_tokens=3))[1]
    assert whole["choices"][0]["message"]["content"] == text_of_chat(events[:-2])
    assert whole["usage"] == events[-2]["usage"] and "timings" in whole


def test_timings_are_in_the_last_event_without_usage(engine):
    events = Stream(engine, CHAT, chat(stream=True, max_tokens=3)).all()
    assert "timings" in events[-2] and events[-2]["choices"][0]["finish_reason"] == "length"


def test_several_prompts_begin_with_null_and_have_a_usage_each(engine):
    events = Stream(engine, "/v1/completions", {"prompt": ["a b", "c"], "max_tokens": 3,
                                                "stream": True}).all()
    assert events[0] is None and events[-1] == "[DONE]"
    last = [e for e in events if isinstance(e, dict) and "usage" in e]
    assert sorted(e["choices"][0]["index"] for e in last) == [0, 1]
    assert sorted(e["usage"]["prompt_tokens"] for e in last) == [1, 2]
    status, whole = post(engine, "/v1/completions", {"prompt": ["a b", "c"], "max_tokens": 3})
    assert status == 200 and len(whole["choices"]) == 2
    assert whole["usage"]["completion_tokens"] == 3, "of the first alone, as in the real one"


def test_a_prompt_that_is_too_long_is_refused_with_figures(engine):
    engine.context = 50
    status, body = post(engine, CHAT, chat("w " * 100))
    assert status == 400 and body["error"]["type"] == "exceed_context_size_error"
    assert (body["error"]["n_prompt_tokens"], body["error"]["n_ctx"]) == (104, 50)
    assert list(body["error"]) == ["code", "message", "type", "n_prompt_tokens", "n_ctx"]


def test_an_image_without_eyes_is_500(engine):
    body = chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])
    status, answer = post(engine, CHAT, body)
    assert status == 500 and answer["error"]["message"].startswith("image input is not supported")
    engine.vision = True
    assert post(engine, CHAT, body)[0] == 200


def test_slots_show_the_prefill_and_the_tokens(engine):
    engine.prompt_tokens_per_s, engine.tokens_per_s = 100, 20
    stream = leave_unanswered(engine, CHAT, chat("w " * 60, max_tokens=50, ignore_eos=True))
    seen = []

    def moved():
        slot = get(engine, "/slots")[0]
        seen.append((slot.get("n_prompt_tokens_processed", 0),
                     slot.get("next_token", [{}])[0].get("n_decoded", 0)))
        return seen[-1][1] > 2

    until(moved)
    stream()
    assert len({processed for processed, _ in seen}) > 5 and sorted(seen) == seen


def test_progress_is_returned_when_asked_for(engine):
    engine.prompt_tokens_per_s = 200
    events = Stream(engine, CHAT, chat("w " * 100, stream=True, max_tokens=2,
                                       return_progress=True)).all()
    steps = [e["prompt_progress"]["processed"] for e in events
             if isinstance(e, dict) and "prompt_progress" in e]
    assert len(steps) > 3 and steps[-1] == 104 and sorted(steps) == steps


@pytest.mark.parametrize("question,heard", [("/health", True), ("/slots", False)])
def test_a_client_that_leaves_in_prefill_is_heard_only_in_a_second_without_results(
        engine, question, heard):
    engine.prompt_s = 30
    close = leave_unanswered(engine, CHAT, chat(stream=True))
    until(lambda: engine.machine.running, what="the prefill")
    close()
    end = time.monotonic() + 2.2
    while time.monotonic() < end and engine.machine.running:
        ask(engine, "GET", question)
        time.sleep(0.1)
    assert bool(engine.machine.running) is not heard
    if not heard:                  # left alone it hears within a second or two
        until(lambda: not engine.machine.running, 3, "the end")
    assert engine.machine.cancelled == 1


def test_a_client_that_leaves_a_stream_is_heard_at_the_next_token(engine):
    engine.tokens_per_s = 20
    stream = Stream(engine, CHAT, chat(stream=True, max_tokens=1000, ignore_eos=True))
    while stream.next() is not None and len(stream.lines) < 4:
        pass
    left = time.monotonic()
    stream.close()
    until(lambda: not engine.machine.running)
    assert time.monotonic() - left < 0.5
    until(lambda: engine.count["cancelled"] == 1)


def test_more_requests_than_slots_wait_without_a_byte(engine):
    engine.slots, engine.tokens_per_s = 1, 50
    first = Stream(engine, CHAT, chat(stream=True, max_tokens=20, ignore_eos=True))
    second = Stream(engine, CHAT, chat(stream=True, max_tokens=1))
    assert second.head_s > 0.2, "no head before there is a slot"
    assert first.all()[-1] == second.all()[-1] == "[DONE]"
    assert engine.machine.most_running == 1


def test_it_sleeps_and_looks_at_slots_wake_it(engine):
    engine.sleep_idle_s = 0.3
    ask(engine, "GET", "/slots")
    until(lambda: get(engine, "/props")["is_sleeping"], 3, "sleep")
    for path in ("/health", "/props", "/v1/models"):
        ask(engine, "GET", path)
    assert get(engine, "/props")["is_sleeping"] and engine.count["wakes"] == 0
    ask(engine, "GET", "/slots")
    assert not get(engine, "/props")["is_sleeping"] and engine.count["wakes"] == 1


def test_an_assistant_message_at_the_end_is_continued(engine):
    whole = post(engine, CHAT, chat("go on", max_tokens=10))[1]["choices"][0]["message"]["content"]
    begun = " ".join(whole.split()[:4])
    rest = post(engine, CHAT, {"messages": [{"role": "user", "content": "go on"},
                                            {"role": "assistant", "content": begun}],
                               "continue_final_message": True, "add_generation_prompt": False,
                               "max_tokens": 6})[1]
    assert begun + rest["choices"][0]["message"]["content"] == whole


def test_the_router_unloads_one_model_for_another(engine):
    engine.router, engine.max_instances, engine.tokens_per_s = ("a", "b"), 1, 50
    assert get(engine, "/props")["max_instances"] == 1
    assert post(engine, CHAT, chat(model="c"))[1]["error"]["message"] == "model 'c' not found"
    assert post(engine, CHAT, chat(model="a", max_tokens=2))[0] == 200
    states = {m["id"]: m["status"]["value"] for m in get(engine, "/v1/models")["data"]}
    assert states == {"a": "loaded", "b": "unloaded"}
    answers = []
    with_a = leave_unanswered(engine, CHAT, chat(model="a", max_tokens=500, ignore_eos=True))
    until(lambda: engine.machine_of("a").running)
    answers.append(ask(engine, "POST", CHAT, chat(model="b", max_tokens=2))[0])
    with_a()
    assert answers == [200] and engine.count["unloads"] == 1
    until(lambda: [r.status for r in engine.posts()][2] == 500, what="the proxy error")


def test_a_model_whose_server_crashed_is_loaded_for_the_next_request(engine):
    engine.router, engine.fatal, engine.fatal_after = ("a", "b"), b"POISON", 3
    words = b"proxy error: Failed to read connection"
    whole = ask(engine, "POST", CHAT, chat("POISON", model="a", max_tokens=500))
    assert whole[0] == 500 and whole[-1] == words
    states = {m["id"]: m["status"] for m in get(engine, "/v1/models")["data"]}
    assert states["a"]["value"] == "unloaded" and states["a"]["failed"]
    assert "failed" not in states["b"]
    stream = ask(engine, "POST", CHAT, chat("POISON", model="a", max_tokens=500, stream=True))
    assert stream[0] == 200 and stream[-1].endswith(words) and stream[-1].count(b"data: ") >= 3
    assert post(engine, CHAT, chat(model="a", max_tokens=2))[0] == 200
    assert engine.count["loads"] == 3 and engine.count["crashes"] == 2


def test_a_key_is_wanted_everywhere_but_at_health(engine):
    engine.api_key = "k"
    assert ask(engine, "GET", "/v1/models")[0] == 401 and ask(engine, "GET", "/health")[0] == 200
    assert ask(engine, "GET", "/slots", headers={"Authorization": "Bearer k"})[0] == 200
