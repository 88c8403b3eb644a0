"""test_vllm.py - the scripted vLLM is bound, counts and refuses as the real one."""

import json
import re
import time

import pytest

from client import Stream, ask, at_once, chat, get, post, text_of_chat, until
from vllm import Vllm

CHAT = "/v1/chat/completions"


@pytest.fixture
def engine():
    with Vllm(tokens_per_s=200, batch_cost=0.0) as made:
        yield made


def figure(engine, name):
    _, _, data = ask(engine, "GET", "/metrics")
    return float(re.search(rf"^vllm:{name}{{.*}} (\S+)$", data.decode(), re.M).group(1))


def test_models_come_with_their_length(engine):
    model = get(engine, "/v1/models")["data"][0]
    assert (model["owned_by"], model["max_model_len"]) == ("vllm", 32768)
    assert get(engine, "/version") == {"version": engine.version}
    status, headers, data = ask(engine, "GET", "/health")
    assert (status, data, headers["server"]) == (200, b"", "uvicorn")


def test_a_stream_says_what_the_document_says(engine):
    events = Stream(engine, CHAT, chat(stream=True, stream_options={"include_usage": True})).all()
    whole = post(engine, CHAT, chat())[1]
    assert text_of_chat(events) == whole["choices"][0]["message"]["content"]
    assert events[-2]["usage"] == whole["usage"] and events[-1] == "[DONE]"
    assert "usage" not in Stream(engine, CHAT, chat(stream=True)).all()[-2]


def test_prompt_logprobs_are_refused_in_a_stream_only(engine):
    status, body = post(engine, CHAT, chat(stream=True, prompt_logprobs=1))
    assert status == 400 and body["error"]["message"] == \
        "`prompt_logprobs` are not available when `stream=True`."
    status, body = post(engine, CHAT, chat(prompt_logprobs=1))
    assert status == 200 and body["prompt_logprobs"] is not None


def test_too_long_is_400_with_the_length(engine):
    engine.context = 100
    status, body = post(engine, CHAT, chat("w " * 40, max_tokens=90))
    assert status == 400 and body["error"]["param"] == "input_tokens"
    assert "maximum context length is 100 tokens" in body["error"]["message"]
    assert post(engine, CHAT, chat("w " * 40, max_tokens=10))[0] == 200


def test_an_image_that_cannot_be_fetched_is_500(engine):
    engine.vision = True
    part = {"type": "image_url", "image_url": {"url": "http://nowhere.invalid/a.png"}}
    status, body = post(engine, CHAT, chat([part]))
    assert (status, body["error"]["type"]) == (500, "InternalServerError")


def test_sequences_bound_it_and_the_rest_waits(engine):
    engine.max_num_seqs = 3
    threads_seen = []

    def one(_):
        return post(engine, CHAT, chat(max_tokens=80, ignore_eos=True))[0]

    def look():
        threads_seen.append((figure(engine, "num_requests_running"),
                             figure(engine, "num_requests_waiting")))
        return threads_seen[-1] == (3.0, 3.0)

    results = at_once(7, lambda i: one(i) if i < 6 else until(look))
    assert results[:6] == [200] * 6 and engine.machine.most_running == 3


def test_kv_blocks_bound_it_and_preempt(engine):
    engine.kv_tokens = 640         # 40 blocks: six prompts of 5 blocks, which grow to 12
    text = "w " * 72

    def one(i):
        events = Stream(engine, CHAT, chat(text + str(i), stream=True, max_tokens=110,
                                           ignore_eos=True)).all()
        return text_of_chat(events), events[-2]["choices"][0]["finish_reason"]

    answers = at_once(6, one)
    assert {reason for _, reason in answers} == {"length"}
    assert {len(answer.split()) for answer, _ in answers} == {110}, "nothing lost, nothing twice"
    assert figure(engine, "num_preemptions_total") > 0
    assert 3 <= engine.machine.most_running <= 6
    assert figure(engine, "kv_cache_usage_perc") == 0.0


def test_old_versions_name_the_cache_otherwise(engine):
    engine.old_names = True
    assert figure(engine, "gpu_cache_usage_perc") == 0.0


def test_a_larger_batch_makes_each_slower_and_all_faster(engine):
    engine.batch_cost = 0.1

    def seconds(count):
        began = time.monotonic()
        at_once(count, lambda _: post(engine, CHAT, chat(max_tokens=60, ignore_eos=True)))
        return time.monotonic() - began

    alone, eight = seconds(1), seconds(8)
    assert 1.3 * alone < eight < 5 * alone


def test_a_client_that_leaves_is_noticed_at_once(engine):
    engine.tokens_per_s = 10
    stream = Stream(engine, CHAT, chat(stream=True, max_tokens=100, ignore_eos=True))
    until(lambda: engine.machine.running)
    stream.close()
    until(lambda: not engine.machine.running, 1, "the end")
    until(lambda: engine.count["cancelled"] == 1)


def test_messages_and_their_count(engine):
    body = {"model": engine.models[0], "max_tokens": 5, **chat()}
    status, whole = post(engine, "/v1/messages", body)
    assert status == 200 and whole["stop_reason"] == "max_tokens"
    events = Stream(engine, "/v1/messages", {**body, "stream": True}).all()
    assert events[-1] == {"type": "message_stop"}
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    count = post(engine, "/v1/messages/count_tokens", body)[1]["input_tokens"]
    assert count == whole["usage"]["input_tokens"]


def test_tool_calls_have_an_index_each(engine):
    engine.calls = [("f", json.dumps({"x": 1})), ("g", json.dumps({"y": 2}))]
    body = chat(tools=[{"type": "function", "function": {"name": "f"}}])
    whole = post(engine, CHAT, body)[1]["choices"][0]
    assert whole["finish_reason"] == "tool_calls" and len(whole["message"]["tool_calls"]) == 2
    events = Stream(engine, CHAT, {**body, "stream": True}).all()
    calls = [c for e in events if isinstance(e, dict) and e["choices"]
             for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert [c["index"] for c in calls] == [0, 1]
