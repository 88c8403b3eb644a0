"""test_other_engines.py - llama-swap, LocalAI, LM Studio, SGLang, TGI, TabbyAPI, MLX, plain OpenAI."""

import gzip
import http.client
import json
import time
import zlib

import pytest

from client import Stream, ask, at_once, chat, get, leave_unanswered, post, text_of_chat, until
from llama_swap import LlamaSwap
from lm_studio import LmStudio
from localai import LocalAi
from mlx_lm import MlxLm
from plain_openai import PlainOpenAi
from sglang import Sglang
from tabby_api import TabbyApi
from tgi import Tgi

CHAT = "/v1/chat/completions"
KINDS = [LlamaSwap, LmStudio, LocalAi, MlxLm, PlainOpenAi, Sglang, TabbyApi, Tgi]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_says_what_the_document_says(kind):
    with kind() as engine:
        body = chat(model=list(engine.models)[0])
        status, whole = post(engine, CHAT, body)
        assert status == 200
        stream = Stream(engine, CHAT, {**body, "stream": True,
                                       "stream_options": {"include_usage": True}})
        while stream.next() is not None:
            pass
        events = [json.loads(line[5:]) for _, line in stream.lines
                  if line.startswith(b"data:") and b"[DONE]" not in line]
        assert text_of_chat(events) == whole["choices"][0]["message"]["content"]
        assert [e["usage"]["completion_tokens"] for e in events if e.get("usage")] == \
            [whole["usage"]["completion_tokens"]]
        assert len(get(engine, "/v1/models")["data"]) >= 1


# ---- llama-swap -------------------------------------------------------------------------------


@pytest.fixture
def swap():
    with LlamaSwap(models=["a", "b"], tokens_per_s=100) as made:
        yield made


def test_llama_swap_is_no_ollama(swap):
    assert "version" in get(swap, "/api/version")
    for path in ("/api/tags", "/api/ps", "/slots", "/version"):
        assert ask(swap, "GET", path)[0] == 404
    assert ask(swap, "GET", "/health")[2] == b"OK"
    assert {m["owned_by"] for m in get(swap, "/v1/models")["data"]} == {"llama-swap"}
    status, body = post(swap, CHAT, chat(model="c"))
    assert status == 404 and body["src"] == "llama-swap"


def test_llama_swap_swaps_when_the_other_is_idle(swap):
    swap.load_s = 0.2
    first = Stream(swap, CHAT, chat(model="a", stream=True, max_tokens=30, ignore_eos=True))
    began = time.monotonic()
    assert post(swap, CHAT, chat(model="b", max_tokens=1))[0] == 200
    assert time.monotonic() - began > 0.4 and first.all()[-1] == "[DONE]"
    assert (swap.count["loads"], swap.count["swaps"]) == (2, 1)
    assert [r["model"] for r in get(swap, "/running")["running"]] == ["b"]
    states = {m["id"]: m["status"]["value"] for m in get(swap, "/v1/models")["data"]}
    assert states == {"a": "unloaded", "b": "loaded"}


def test_llama_swap_refuses_more_than_its_limit(swap):
    swap.concurrency, swap.load_s = 2, 0.5
    out = at_once(4, lambda _: ask(swap, "POST", CHAT, chat(model="a", max_tokens=1)))
    assert sorted(status for status, _, _ in out) == [200, 200, 429, 429]
    refused = next(headers for status, headers, _ in out if status == 429)
    assert refused["retry-after"] == "1"


def test_llama_swap_says_that_it_loads(swap):
    swap.loading_state, swap.load_s = True, 0.3
    stream = Stream(swap, CHAT, chat(model="a", stream=True))
    assert stream.head_s < 0.2
    events = stream.all()
    assert "loading model: a" in events[0]["choices"][0]["delta"]["reasoning_content"]
    assert text_of_chat(events)


# ---- LocalAI ----------------------------------------------------------------------------------


def test_localai_adds_latest_in_one_api_only():
    with LocalAi() as engine:
        assert get(engine, "/v1/models") == {"object": "list",
                                             "data": [{"id": "gpt-4", "object": "model"}]}
        assert get(engine, "/api/tags")["models"][0]["name"] == "gpt-4:latest"
        assert get(engine, "/api/version") == {"version": "0.9.0"}
        assert post(engine, CHAT, chat(model="gpt-4:latest"))[0] == 404
        assert Stream(engine, "/api/chat", chat(model="gpt-4:latest")).all()[-1]["done"]
        assert post(engine, "/v1/rerank", {"model": "gpt-4", "documents": ["x"]})[0] == 200
        assert [m["name"] for m in get(engine, "/api/ps")["models"]] == ["gpt-4:latest"]


def test_localai_ends_with_an_error_that_looks_like_an_end():
    with LocalAi(break_after=(2, "error")) as engine:
        lines = Stream(engine, "/api/chat", chat(model="gpt-4")).all()
        assert lines[-1]["done"] and lines[-1]["done_reason"] == "error"


# ---- LM Studio --------------------------------------------------------------------------------


def test_lm_studio_answers_200_at_every_path():
    with LmStudio() as engine:
        for path in ("/api/version", "/version", "/props", "/slots", "/metrics", "/api/tags"):
            assert "Unexpected endpoint" in get(engine, path)["error"]


def test_lm_studio_loads_what_is_asked_for():
    with LmStudio(load_s=0.2) as engine:
        states = lambda: [m["state"] for m in get(engine, "/api/v0/models")["data"]]  # noqa: E731
        assert states() == ["not-loaded", "not-loaded"]
        began = time.monotonic()
        assert post(engine, CHAT, chat(model="qwen/qwen3-4b"))[0] == 200
        assert time.monotonic() - began > 0.2 and states() == ["loaded", "not-loaded"]
        loaded = get(engine, "/api/v1/models")["models"][0]["loaded_instances"]
        assert loaded[0]["config"]["context_length"] == 4096
        assert post(engine, CHAT, chat(model="nothing"))[0] == 404
        status, body = post(engine, CHAT, chat("w " * 5000, model="qwen/qwen3-4b"))
        assert status == 400 and "greater than the context length" in body["error"]


# ---- SGLang -----------------------------------------------------------------------------------


def test_sglang_says_how_many_run_at_once():
    with Sglang(max_running_requests=3, tokens_per_s=40) as engine:
        assert get(engine, "/server_info")["max_running_requests"] == 3
        closes = [leave_unanswered(engine, CHAT, chat(max_tokens=99, ignore_eos=True))
                  for _ in range(5)]
        until(lambda: len(engine.machine.queue) == 2)
        load = get(engine, "/v1/loads")["loads"][0]
        assert (load["num_running_reqs"], load["num_waiting_reqs"]) == (3, 2)
        assert get(engine, "/get_load")[0]["num_reqs"] == 5
        assert ask(engine, "GET", "/metrics")[0] == 404
        engine.metrics = True
        assert b'sglang:num_running_reqs{model_name="Qwen/Qwen3-8B"} 3.0' in \
            ask(engine, "GET", "/metrics")[2]
        for close in closes:
            close()


def test_old_sglang_has_the_old_paths_only():
    with Sglang(old_paths=True) as engine:
        assert ask(engine, "GET", "/server_info")[0] == 404 == ask(engine, "GET", "/v1/loads")[0]
        assert get(engine, "/get_server_info")["max_running_requests"] == 48


def test_the_health_of_sglang_costs_a_token_and_a_second():
    with Sglang() as engine:
        began = time.monotonic()
        assert ask(engine, "GET", "/health")[0] == 200
        assert time.monotonic() - began >= 1 and engine.count["health_tokens"] == 1


def test_sglang_refuses_flat_and_may_spell_no_finish_as_empty():
    with Sglang(context=50, empty_finish=True) as engine:
        status, body = post(engine, CHAT, chat("w " * 60))
        assert status == 400 and body["object"] == "error"
        assert "longer than the model's context length (50 tokens)" in body["message"]
        events = Stream(engine, CHAT, chat(stream=True)).all()
        assert events[1]["choices"][0]["finish_reason"] == ""


# ---- TGI, TabbyAPI, MLX -----------------------------------------------------------------------


def test_tgi_refuses_beyond_its_limits():
    with Tgi(max_concurrent_requests=1, tokens_per_s=20) as engine:
        assert get(engine, "/info")["max_total_tokens"] == 4096
        close = leave_unanswered(engine, CHAT, chat(max_tokens=99, ignore_eos=True))
        until(lambda: engine.machine.running)
        assert post(engine, CHAT, chat()) == (429, {"error": "Model is overloaded",
                                                    "error_type": "overloaded"})
        close()
        until(lambda: not engine.machine.running)
        assert post(engine, CHAT, chat("w " * 5000))[0] == 422


def test_tabby_wants_a_key_and_says_its_length():
    with TabbyApi(api_key="k") as engine:
        assert ask(engine, "GET", "/v1/models")[0] == 401
        status, _, data = ask(engine, "GET", "/v1/model", headers={"x-api-key": "k"})
        assert status == 200 and json.loads(data)["parameters"]["max_seq_len"] == 4096


def test_mlx_speaks_http_1_0_and_keeps_alive_with_comments():
    with MlxLm(prompt_s=0.3) as engine:
        stream = Stream(engine, CHAT, chat(stream=True))
        assert stream.response.version == 10 and stream.all()[-1] == "[DONE]"
        assert sum(line.startswith(b": keepalive") for _, line in stream.lines) > 2


# ---- plain OpenAI -----------------------------------------------------------------------------


@pytest.fixture
def plain():
    with PlainOpenAi(models=["m"]) as made:
        yield made


def test_plain_servers_run_so_many_at_once(plain):
    plain.tokens_per_s = 50
    at_once(8, lambda _: post(plain, CHAT, chat(model="m", max_tokens=15, ignore_eos=True)))
    assert plain.machine.most_running == 6


def test_plain_servers_may_have_no_list_or_a_version(plain):
    plain.list_models_at = None
    assert ask(plain, "GET", "/v1/models")[0] == 404 == ask(plain, "GET", "/version")[0]
    plain.version = "1.2.3"
    assert get(plain, "/version") == {"version": "1.2.3"}


def test_plain_servers_may_compress_unasked(plain):
    plain.gzip = plain.gzip_streams = True
    status, headers, data = ask(plain, "POST", CHAT, chat(model="m"))
    assert status == 200 and headers["content-encoding"] == "gzip"
    whole = json.loads(gzip.decompress(data))["choices"][0]["message"]["content"]
    stream = Stream(plain, CHAT, chat(model="m", stream=True))
    text = zlib.decompressobj(wbits=31).decompress(stream.response.read())
    events = [json.loads(line[6:]) for line in text.split(b"\n\n") if line[6:7] == b"{"]
    assert text_of_chat(events) == whole


@pytest.mark.parametrize("after", ["open", "close"])
def test_plain_servers_may_end_their_own_way(plain, after):
    plain.after_done = after
    stream = Stream(plain, CHAT, chat(model="m", stream=True))
    while stream.next() != b"data: [DONE]":
        pass
    stream.sock.settimeout(0.3)
    with pytest.raises((TimeoutError, http.client.IncompleteRead, ConnectionError, ValueError)):
        if stream.response.readline() == b"" and after == "close":
            raise ConnectionError
        stream.response.read()


def test_plain_servers_may_spell_and_frame_as_they_like(plain):
    plain.finish, plain.stop_word, plain.done = "null", "eos", False
    plain.comments = plain.crlf = True
    plain.stream_type, plain.framing, plain.index = None, "close", False
    stream = Stream(plain, CHAT, chat(model="m", stream=True))
    events = stream.all()
    assert stream.response.headers["content-type"] is None
    assert [e["choices"][0]["finish_reason"] for e in events[-2:]] == ["null", "eos"]
    assert "index" not in events[0]["choices"][0] and "[DONE]" not in events


def test_plain_servers_may_err_in_a_200_or_say_nothing_or_too_much(plain):
    plain.error_in_200 = True
    assert "error" in post(plain, CHAT, chat(model="m"))[1]
    plain.error_in_200, plain.empty = False, True
    assert post(plain, CHAT, chat(model="m"))[1]["choices"][0]["message"]["content"] == ""
    events = Stream(plain, CHAT, chat(model="m", stream=True)).all()
    assert text_of_chat(events) == "" and events[-2]["choices"][0]["finish_reason"] == "stop"
    plain.empty, plain.big_event = False, 3 << 20
    assert max(len(line) for _, line in iter_lines(plain)) > 3 << 20
    plain.big_event, plain.ignores_stream = 0, True
    assert post(plain, CHAT, chat(model="m", stream=True))[1]["object"] == "chat.completion"


def iter_lines(engine):
    stream = Stream(engine, CHAT, chat(model="m", stream=True))
    while stream.next() is not None:
        pass
    return stream.lines
