"""Vercel's AI SDK and LangChain, as programs use them: docs/clients.md promises what is here."""

import json

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from harness import Cluster, until
from test_clients import BackgroundClient, run_client

TEXT = [("ai", "openai"), ("ai", "chat"), ("ai", "compatible"), ("ai", "anthropic"),
        ("langchain", "openai"), ("langchain", "responses"), ("langchain", "ollama")]


def called(handler, request):
    """What a model does that has a tool, and then what the tool gave."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        handler.send_event(chunk(last["content"]))
        return "stop"
    if request.get("tools"):
        for arguments in ("", '{"city":', '"Oslo"}'):
            name = request["tools"][0]["function"]["name"]
            first = {"id": "call-1", "type": "function"} if not arguments else {}
            call = {"index": 0, **first, "function": {"arguments": arguments, **({} if arguments else {"name": name})}}
            event = chunk()
            event["choices"][0]["delta"] = {"tool_calls": [call]}
            handler.send_event(event)
        return "tool_calls"
    assert request["response_format"]["type"] == "json_schema"
    for piece in ('{"river":', '"Rhine"}'):
        handler.send_event(chunk(piece))
    return "stop"


def behave(handler, _path, body):
    request = json.loads(body)
    handler.begin_stream()
    handler.send_event(chunk(finish=called(handler, request)))
    handler.send_event(chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}))
    handler.send_event(b"[DONE]")
    handler.end_stream()


@pytest.fixture(name="shared", scope="module")
def fixture_shared(request):
    engines = [FakeEngine(behave), FakeEngine(behave)]
    cluster = Cluster("frameworks").start()
    for number, engine in enumerate(engines):
        cluster.start_node(f"sim-{number}", "slots=8")
        cluster.start_node(f"fake-{number}", engine=engine.url)
    cluster.wait_models_known()
    until(lambda: cluster.node_state("fake-1") == "UP", 10)
    yield cluster
    cluster.finish(request.session.testsfailed > 0)
    for engine in engines:
        engine.close()


def test_all_say_the_same_streamed_and_not(shared):
    assert len({run_client(client, shared.url, "text", provider) for client, provider in TEXT}) == 1


@pytest.mark.parametrize("client,provider", [("ai", "chat"), ("ai", "compatible"), ("langchain", "openai")])
def test_tools_and_structured_output(shared, client, provider):
    assert run_client(client, shared.url, "tools", provider, model=FAKE) == "cold in Oslo"
    assert run_client(client, shared.url, "object", provider, model=FAKE) == {"river": "Rhine"}


def test_embeddings(shared):
    assert len({run_client("ai", shared.url, "embed"), run_client("langchain", shared.url, "embed", "openai"),
                run_client("langchain", shared.url, "embed", "ollama")}) == 1


@pytest.mark.parametrize("client,provider", [("ai", "openai"), ("ai", "compatible"), ("ai", "anthropic"),
                                             ("langchain", "openai"), ("langchain", "ollama")])
def test_an_error_is_the_libraries_own_with_our_words(shared, client, provider):
    assert "'nope' does not exist" in run_client(client, shared.url, "errors", provider)


def test_an_abort_frees_the_slot(shared):
    for client, provider in (("ai", "chat"), ("ai", "anthropic"), ("langchain", "openai")):
        assert run_client(client, shared.url, "abort", provider) is True
        until(shared.idle, 5, "the slot is free")


def test_a_refusal_with_retry_after_is_tried_again_by_the_client(make_cluster):
    cluster = make_cluster(config={"queue": {"max_wait_ms": 200}}).start()
    cluster.start_node("a")
    cluster.wait_models_known()
    cluster.ctl("drain", "a")
    clients = [BackgroundClient("ai", cluster.url, "retries", "compatible"),
               BackgroundClient("langchain", cluster.url, "retries", "openai")]

    def refusals():
        return sum(json.loads(line)["status"] in (429, 503)
                   for line in (cluster.dir / "access.log").read_text().splitlines()
                   if "/chat/completions" in line)
    until(lambda: refusals() >= len(clients), 30, "both have been refused")
    cluster.ctl("undrain", "a")
    assert all(client.result() for client in clients)
