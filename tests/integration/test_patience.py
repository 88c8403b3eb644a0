"""Engines that are silent for long: while they show life no request is cut and no node blamed.

Scaled: limits of 2 s, and prompts, loads and pauses of 5 s.
"""

import asyncio
import json
import time

import pytest

from harness import SLOW, until
from llama_server import LlamaServer
from load import chat_body, fetch, fetch_now, text_of
from ollama import Ollama
from plain_openai import PlainOpenAi
from sglang import Sglang
from vllm import Vllm

LIMITS = {"first_token_ms": 2000, "idle_token_ms": 2000}
LONG_S = 5
EJECT = {"eject_failures": 1, "eject_success_pct": 80, "eject_min_requests": 1}
CHAT, MESSAGES, RESPONSES, OLLAMA = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat"
ARGUMENTS = json.dumps({"path": "a.c", "text": "int main(void);\n" * 1200})
TOOL = {"type": "function", "function": {"name": "write_file", "parameters": {"type": "object"}}}


@pytest.fixture(name="make_nodes")
def make_nodes_fixture(make_cluster):
    """Makes a coordinator before as many engines of a kind; ends them with the test."""
    engines = []

    def make(kind, count=1, workers=1, limits=None, extra=("--slots", "4"), **knobs):
        cluster = make_cluster(workers=workers, config={
            "limits": LIMITS if limits is None else limits, "health": EJECT}).start()
        for at in range(count):
            engine = kind(**knobs)
            engines.append(engine)
            cluster.start_node(f"n{at}", engine=engine.url, extra=list(extra), wait=False)
        for at in range(count):
            cluster.wait_up(f"n{at}")
        return cluster, engines[-count:]

    yield make
    for engine in engines:
        engine.close()


def ask(cluster, path=CHAT, model="m", stream=True, **more):
    """(answer, seconds)"""
    body = {"model": model, "stream": stream, "max_tokens": 6, **more}
    body.update({"input": "hello there"} if path == RESPONSES else
                {"messages": [{"role": "user", "content": "hello there"}]})
    began = time.monotonic()
    answer = fetch_now(cluster.api, "POST", path, body, timeout_s=60)
    return answer, time.monotonic() - began


def assert_whole(answer, stream=True):
    assert answer.status == 200, answer.body
    assert b'"error"' not in answer.body, answer.body
    if stream:
        assert answer.body.rstrip().endswith((b"[DONE]", b"}")), answer.body
    else:
        json.loads(answer.body)


def assert_no_node_is_blamed(cluster):
    time.sleep(0.2)  # two looks of the health process
    assert "event=node_ejected" not in cluster.master.log()
    assert "event=node_kept" not in cluster.master.log()
    for node in json.loads(fetch_now(cluster.address("admin"), "GET", "/nodes").body)["nodes"]:
        assert node["state"] == "UP" and node["counters"]["node_error"] == 0, node


def model_of(engine):
    return next(iter(engine.models))


# ---- a long prefill -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("kind, knobs", [
    (LlamaServer, {}), (LlamaServer, {"metrics": True, "slots_endpoint": False}),
    (Vllm, {})], ids=["slots", "llama-metrics", "vllm"])
def test_a_long_prefill_that_shows_is_not_cut(make_nodes, kind, knobs, stream):
    cluster, engines = make_nodes(kind, count=2, prompt_s=LONG_S, **knobs)
    answer, took = ask(cluster, model=model_of(engines[0]), stream=stream)
    assert_whole(answer, stream)
    assert took > LONG_S - 0.5
    assert answer.headers["x-drover-attempts"] == "1"
    assert sum(len(engine.posts(CHAT)) for engine in engines) == 1
    assert_no_node_is_blamed(cluster)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("knobs", [{}, {"metrics": True, "slots_endpoint": False}],
                         ids=["slots", "metrics"])
def test_a_long_prefill_behind_a_router_is_not_cut(make_nodes, knobs, stream):
    cluster, engines = make_nodes(LlamaServer, count=2, prompt_s=LONG_S, router=("m/x", "other"), **knobs)
    answer, took = ask(cluster, model="m/x", stream=stream)
    assert_whole(answer, stream)
    assert took > LONG_S - 0.5
    assert sum(len(engine.posts(CHAT)) for engine in engines) == 1
    for engine in engines:
        assert engine.count["loads_by_question"] == 0
        assert not [r for r in engine.gets("/slots") if r.query["model"] == "other"]
    assert_no_node_is_blamed(cluster)


def test_a_model_that_hangs_behind_a_router_is_blamed(make_nodes):
    cluster, engines = make_nodes(LlamaServer, count=2, router=("m", "other"))
    for engine in engines:
        engine.prompt_s = 60.0
    answer = asyncio.run(first_hangs_behind_a_router(cluster, engines))
    assert_whole(answer)
    assert answer.headers["x-drover-attempts"] == "2"
    until(lambda: "reason=no_progress" in cluster.master.log(), 15, "the node is blamed")


async def first_hangs_behind_a_router(cluster, engines):
    task = asyncio.create_task(fetch(cluster.api, "POST", CHAT, chat_body("hi", 6, model="m")))
    while not (asked := [e for e in engines if e.instances.get("m") and e.posts(CHAT)]):
        await asyncio.sleep(0.05)
    asked[0].instances["m"].machine.frozen = True
    other = next(engine for engine in engines if engine is not asked[0])
    other.prompt_s = None
    return await task


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("kind", [PlainOpenAi, Ollama, Sglang], ids=["plain", "ollama", "sglang"])
def test_an_engine_without_a_sign_ends_the_request_and_is_not_blamed(make_nodes, kind, stream):
    cluster, engines = make_nodes(kind, count=2, prompt_s=60.0)
    answer, took = ask(cluster, model=model_of(engines[0]), stream=stream)
    assert answer.status == 504, answer.body
    assert 2 <= took < 2 + 3 * SLOW
    assert sum(len(engine.posts(CHAT)) for engine in engines) == 1, "the prompt began twice"
    assert_no_node_is_blamed(cluster)


def test_an_engine_that_hangs_is_blamed_and_another_node_answers(make_nodes):
    cluster, engines = make_nodes(Vllm, count=2)
    model = model_of(engines[0])
    for engine in engines:
        engine.machine.frozen = True
    answer = asyncio.run(first_goes_on(cluster, engines, model))
    assert_whole(answer)
    assert answer.headers["x-drover-attempts"] == "2"
    until(lambda: "reason=no_progress" in cluster.master.log(), 15, "the node is blamed")


async def first_goes_on(cluster, engines, model):
    """The answer to a request whose engine hangs, where the other one goes on."""
    task = asyncio.create_task(fetch(cluster.api, "POST", CHAT, chat_body("hi", 6, model=model)))
    while not any(engine.posts(CHAT) for engine in engines):
        await asyncio.sleep(0.05)
    next(engine for engine in engines if not engine.posts(CHAT)).machine.frozen = False
    return await task


# ---- silence inside an answer ---------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_tool_call_that_is_held_back_is_not_cut(make_nodes, path, stream):
    cluster, engines = make_nodes(Vllm, calls=[("write_file", ARGUMENTS)], answer_tokens=2,
                                  call_tokens=100, tokens_per_s=100 / LONG_S)
    tool = TOOL if path != MESSAGES else {"name": "write_file", "input_schema": {"type": "object"}}
    answer, took = ask(cluster, path, model_of(engines[0]), stream, tools=[tool], max_tokens=500)
    assert_whole(answer, stream)
    assert took > LONG_S - 0.5
    assert b"int main(void)" in answer.body
    assert_no_node_is_blamed(cluster)


def test_a_tool_call_that_llama_server_holds_back_is_not_cut(make_nodes):
    cluster, engines = make_nodes(LlamaServer, calls=[("write_file", ARGUMENTS)], answer_tokens=2,
                                  call_tokens=100, tokens_per_s=100 / LONG_S)
    answer, took = ask(cluster, CHAT, model_of(engines[0]), tools=[TOOL], max_tokens=500)
    assert_whole(answer)
    assert took > LONG_S - 0.5
    assert_no_node_is_blamed(cluster)


@pytest.mark.parametrize("path", [CHAT, OLLAMA])
def test_silence_without_a_sign_inside_an_answer_blames_no_node(make_nodes, path):
    cluster, engines = make_nodes(Ollama, answer_tokens=20, pauses={3: 60.0})
    answer, took = ask(cluster, path, model_of(engines[0]), tools=[TOOL], max_tokens=20)
    assert answer.status == 200 and b"error" in answer.body
    assert took < 2 + 4 * SLOW
    assert_no_node_is_blamed(cluster)


def test_pings_keep_an_answer_alive_before_and_inside_it(make_nodes):
    def pinging(reply, _request):
        reply.begin_stream()
        for part in (b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
                     b'data: {"choices":[{"index":0,"delta":{"content":"b"},'
                     b'"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'):
            for _ in range(LONG_S * 2):
                reply.sleep(0.5)
                reply.send_piece(b": still here\n\n")
            reply.send_piece(part)
        return reply.end_stream()

    cluster, engines = make_nodes(PlainOpenAi)
    engines[0].on[CHAT] = pinging
    answer, took = ask(cluster, model=model_of(engines[0]))
    assert_whole(answer)
    assert took > 2 * LONG_S - 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_an_answer_whose_engine_was_replaced_goes_on_elsewhere(make_nodes, path, stream):
    """The old process keeps the connection and is silent; the new one takes its port at once."""
    cluster, engines = make_nodes(LlamaServer, count=2, tokens_per_s=20, answer_tokens=200, limits={
        "first_token_ms": 60_000, "idle_token_ms": 60_000})
    for engine in engines:
        engine.models = ["tiny"]

    async def go():
        body = {"model": "tiny", "stream": stream, "max_tokens": 200, "max_output_tokens": 200}
        body |= {"input": "hi"} if path == RESPONSES else {
            "messages": [{"role": "user", "content": "hi"}]}
        task = asyncio.create_task(fetch(cluster.api, "POST", path, body))
        while not (old := next((e for e in engines if any(
                w.decoded > 3 for w in e.machine.running)), None)):
            assert not task.done(), task.result().body
            await asyncio.sleep(0.02)
        since = time.monotonic()
        while not any(look.ended_s and look.came_s > since for look in old.gets("/slots")):
            assert not task.done(), "it ended before the first look"
            await asyncio.sleep(0.02)
        old.machine.frozen = True
        old.leave()
        for engine in engines:
            engine.tokens_per_s = 500
        began = time.monotonic()
        with LlamaServer(port=old.port, models=["tiny"]):
            answer = await task
        return answer, time.monotonic() - began

    answer, took = asyncio.run(go())
    assert_whole(answer, stream)
    assert took < 8 * SLOW


IDLE = {"old": [{"id": 0, "state": 1}], "another": [{"id": 0, "id_task": 40, "is_processing": False}],
        "unused": [{"id": 0, "is_processing": False}], "none": []}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("slots", IDLE)
def test_a_silent_answer_is_not_cut_because_slots_look_idle(make_nodes, slots, stream):
    """They are an older version's, or those of another server behind the same URL."""
    cluster, engines = make_nodes(LlamaServer, count=2, answer_tokens=6, pauses={3: float(LONG_S)},
                                  limits={"first_token_ms": 60_000, "idle_token_ms": 60_000})
    for engine in engines:
        engine.models = ["tiny"]
        engine.on["/slots"] = lambda reply, _request: reply.answer(200, IDLE[slots])
    answer, took = ask(cluster, model="tiny", stream=stream)
    assert_whole(answer, stream)
    assert took > LONG_S - 0.5
    assert sum(len(engine.posts(CHAT)) for engine in engines) == 1, "it went on elsewhere"
    assert_no_node_is_blamed(cluster)


# ---- loads ----------------------------------------------------------------------------------------

TWO = {"big:latest": ["completion"], "small:latest": ["completion"]}


def test_a_load_is_begun_once_and_waited_for(make_nodes):
    cluster, engines = make_nodes(Ollama, count=2, workers=2, load_s=LONG_S, models=TWO)

    async def go():
        return await asyncio.gather(*(fetch(cluster.api, "POST", OLLAMA, chat_body(
            f"hi {n}", 4, model="big")) for n in range(6)))

    for answer in asyncio.run(go()):
        assert_whole(answer)
    for engine in engines:
        assert engine.count["loads"] <= 1 and engine.count["loads_lost"] == 0, engine.count
    assert_no_node_is_blamed(cluster)


def test_while_a_model_loads_another_one_answers_there(make_nodes):
    cluster, engines = make_nodes(Ollama, models=TWO, extra=())
    assert_whole(ask(cluster, OLLAMA, "small")[0])  # it is in memory now
    engines[0].load_s = 2.0 * LONG_S

    async def go():
        big = asyncio.create_task(fetch(cluster.api, "POST", OLLAMA, chat_body("a", 4, model="big")))
        while engines[0].count["loads"] < 2:
            await asyncio.sleep(0.05)
        began = time.monotonic()
        small = await fetch(cluster.api, "POST", OLLAMA, chat_body("b", 4, model="small"))
        return small, time.monotonic() - began, big.done(), await big

    small, took, over, big = asyncio.run(go())
    assert_whole(small)
    assert not over and took < LONG_S, took
    assert_whole(big)
    assert engines[0].count["loads_lost"] == 0
    assert_no_node_is_blamed(cluster)


def test_a_load_beyond_its_limit_ends_the_request_and_blames_no_node(make_nodes):
    cluster, engines = make_nodes(Ollama, count=2, load_s=60.0, models=TWO,
                                  limits={"load_ms": 3000, "first_token_ms": 1000})
    answer, took = ask(cluster, OLLAMA, "big")
    assert answer.status == 504, answer.body
    assert 3 <= took < 3 + 3 * SLOW
    assert sum(engine.count["loads"] for engine in engines) == 1
    assert_no_node_is_blamed(cluster)


# ---- the whole request ------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_answer_that_flows_has_no_deadline(make_nodes, stream):
    cluster, engines = make_nodes(PlainOpenAi, limits={"request_timeout_ms": 2000}, answer_tokens=50,
                                  tokens_per_s=50 / LONG_S)
    answer, took = ask(cluster, model=model_of(engines[0]), stream=stream, max_tokens=50)
    assert_whole(answer, stream)
    assert took > LONG_S - 0.5
    if stream:
        assert len(text_of(answer.body)) > 50


def test_a_request_without_content_ends_at_its_deadline_and_blames_no_node(make_nodes):
    cluster, engines = make_nodes(Vllm, limits={"request_timeout_ms": 2000}, prompt_s=60.0)
    answer, took = ask(cluster, model=model_of(engines[0]))
    assert answer.status == 504 and b"request_timeout_ms" in answer.body
    assert took < 2 + 3 * SLOW
    until(lambda: len(engines[0].machine.running) == 0, what="the engine has let go")
    assert_no_node_is_blamed(cluster)


# ---- a slow reader ----------------------------------------------------------------------------------


def test_the_silence_of_a_client_that_does_not_read_blames_no_node(make_nodes):
    """The client takes some bytes now and then; the node may send no more meanwhile."""
    def large(reply, _request):
        reply.begin_stream()
        event = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"x" * 30000)
        for _ in range(400):
            reply.send_piece(event)
        reply.send_piece(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
                         b"data: [DONE]\n\n")
        return reply.end_stream()

    cluster, engines = make_nodes(Vllm)
    engines[0].on[CHAT] = large
    data = json.dumps(chat_body("hi", 9, model=model_of(engines[0]))).encode()

    async def go():
        reader, writer = await asyncio.open_connection(*cluster.api, limit=1024)
        writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
                         CHAT.encode(), len(data), data))
        got = await reader.read(4096)
        for _ in range(3):  # silent for three times the limit in all, twice it at once
            await asyncio.sleep(4)
            got += await reader.read(65536)
        while (more := await asyncio.wait_for(reader.read(1 << 20), 20 * SLOW)):
            got += more
        writer.close()
        return got

    body = asyncio.run(go())
    assert b"[DONE]" in body and b'"error"' not in body, body[-2000:]
    assert body.count(b"x" * 30000) > 390
    assert_no_node_is_blamed(cluster)
