"""test_router_mode.py - a llama-server that starts one server for each model, and few at once."""

import asyncio
import re
import threading
import urllib.request

import pytest

from harness import until
from llama_server import LlamaServer
from load import chat_body, fetch, fetch_now

MODELS = ("a", "b", "c")


@pytest.fixture
def engine():
    made = LlamaServer(router=MODELS, load_s=0.3, tokens_per_s=100)
    yield made
    made.close()


def check_crowd(cluster, stream):
    """Twelve clients at once want three models."""
    async def crowd():
        return await asyncio.gather(*(
            fetch(cluster.api, "POST", "/v1/chat/completions",
                  chat_body(f"prompt {n}", 20, stream=stream, model=MODELS[n % 3]))
            for n in range(12)))

    answers = asyncio.run(crowd())
    assert [answer.status for answer in answers] == [200] * 12
    assert not any(b"error" in answer.body for answer in answers)
    assert cluster.node_state("n") == "UP"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_models_run_at_once_than_the_router_keeps(make_cluster, engine, at_once, stream):
    """Directly, a model that is asked for while another one works throws that one out."""
    engine.max_instances = at_once
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    check_crowd(cluster, stream)


@pytest.mark.parametrize("stream", [True, False])
def test_no_model_is_asked_for_while_another_is_loaded_in_its_place(make_cluster, engine, stream):
    """One that is being unloaded looks loaded, and refuses what it gets."""
    engine.max_instances = 2
    engine.unload_s = 0.3
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    check_crowd(cluster, stream)
    assert engine.count["unloads"] >= 1
    # One may join a run that has ended in the engine, which drover-node has yet to hear.
    assert engine.count["unconnected"] <= 1


def test_models_load_side_by_side_while_the_router_has_room(make_cluster, engine):
    engine.max_instances = 2
    engine.load_s = 60
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    threads = [threading.Thread(target=fetch_now, args=(
        cluster.api, "POST", "/v1/chat/completions", chat_body("prompt", 5, model=model)))
        for model in MODELS[:2]]
    threads[0].start()
    until(lambda: engine.count["shown_loading"] >= 2, what="a look has shown it and is over")
    threads[1].start()
    until(lambda: len(engine.instances) == 2, what="two models are being loaded")
    assert not engine.instances["a"].ready.is_set()
    for instance in engine.instances.values():
        instance.ready.set()
    for thread in threads:
        thread.join()


def test_a_model_in_memory_does_not_wait_for_another_s_answer(make_cluster, engine):
    """The head of an embedding, and of any answer of older ones, comes late."""
    engine.max_instances = 2
    engine.head_at = "first"
    direct = ("127.0.0.1", engine.port)
    for model in MODELS[:2]:
        fetch_now(direct, "POST", "/v1/chat/completions", chat_body("prompt", 1, model=model))
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    machine = engine.instances["a"].machine
    machine.frozen = True

    async def ask(model):
        answer = await fetch(cluster.api, "POST", "/v1/chat/completions",
                             chat_body("prompt", 5, model=model))
        return answer.status

    async def both():
        first = asyncio.create_task(ask("a"))
        await asyncio.to_thread(until, lambda: machine.running or machine.queue)
        assert await asyncio.wait_for(ask("b"), 20) == 200
        machine.frozen = False
        assert await first == 200

    asyncio.run(both())


@pytest.mark.parametrize("stream", [True, False])
def test_a_model_that_the_router_unloads_for_others_is_asked_again(make_cluster, engine, stream):
    """The router's own clients come and go: no node has failed by that."""
    engine.max_instances = 1
    engine.unload_s = 1
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    body = chat_body("prompt", 5, stream=stream, model="a")
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions", body).status == 200
    other = threading.Thread(target=fetch_now, args=(
        ("127.0.0.1", engine.port), "POST", "/v1/chat/completions",
        chat_body("prompt", 5, model="b")))
    other.start()
    until(lambda: "a" in engine.unloading, what="its model is being unloaded")
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", body)
    other.join()
    assert answer.status == 200 and b"error" not in answer.body
    assert engine.count["unconnected"] >= 1
    metrics = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin")).read()
    assert re.search(rb'drover_node_attempts_total{.*outcome="node_error".*} 0\n', metrics)
