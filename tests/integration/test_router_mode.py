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


# ---- a model's server that ends by itself ---------------------------------------------------


def test_a_model_whose_server_crashed_is_loaded_again(make_cluster, engine):
    """A router says `failed` of it until the next request, and only a request starts another."""
    cluster = make_cluster(config={"queue": {"max_wait_ms": 5000}}).start()
    cluster.start_node("n", engine=engine.url)
    body = chat_body("prompt", 5, stream=False, model="a")
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions", body).status == 200
    engine.crash("a")
    # The next look at `a` shows another model in the answer, so drover-node looks at all of them.
    until(lambda: fetch_now(cluster.api, "POST", "/v1/chat/completions",
                            chat_body("prompt", 5, model="b")).status == 200
          and engine.count["shown_failed"] >= 1, 90, "a look has shown it")
    until(lambda: [row["nodes_resident"] for row in cluster.ctl_rows("models") if row["id"] == "a"] == [0],
          20, "the workers know it")
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions", body).status == 200
    assert "a" in [m["id"] for m in fetch_now(cluster.api, "GET", "/v1/models").json()["data"]]


@pytest.mark.parametrize("stream, after", [(False, 0), (True, 0), (True, 5)])
def test_a_request_under_which_a_model_s_servers_crash_is_sent_to_two(make_cluster, stream, after):
    """And costs no router: its other models are served meanwhile, and the model is, too."""
    engines = [LlamaServer(router=MODELS, tokens_per_s=100, prompt_s=0.1, fatal=b"POISON",
                           fatal_after=after)
               for _ in range(3)]
    cluster = make_cluster(config={"health": {"eject_failures": 3, "eject_success_pct": 80},
                                   "policy": "round_robin"}).start()
    for at, engine in enumerate(engines):
        cluster.start_node(f"n{at}", engine=engine.url)

    def send(text, model):
        return fetch_now(cluster.api, "POST", "/v1/chat/completions",
                         chat_body(text, 60, stream=stream, model=model))

    try:
        for turn in range(4):
            before = [engine.count["crashes"] for engine in engines]
            answer = send("POISON", "a")
            crashes = [e.count["crashes"] - b for e, b in zip(engines, before)]
            if after:
                assert answer.status == 200 and b'"error"' in answer.body
                assert b"proxy error" not in answer.body.split(b'"error"')[0]
            else:
                assert answer.status == 502 and answer.headers["x-should-retry"] == "false"
            if after or turn == 0:
                assert max(crashes) == 1 and sum(crashes) <= 2, "once each"
                assert sum(crashes) == 2 or turn > 0, "the retry budget ends it sooner later on"
            else:
                assert sum(crashes) == 0, "from the first time on it is known"
            for model in "ab":
                answer = send("hello", model)
                assert answer.status == 200 and b'"error"' not in answer.body, answer.body
    finally:
        for engine in engines:
            engine.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_router_is_not_ejected_for_one_of_its_models(make_cluster, stream):
    """On one of two each request for `a` crashes its server.  The other serves them all, and the
    first keeps its other models."""
    bad = LlamaServer(router=MODELS, tokens_per_s=1000, fatal=b'"a"')
    good = LlamaServer(router=MODELS, tokens_per_s=1000)
    cluster = make_cluster(config={"health": {"eject_failures": 3, "eject_success_pct": 80},
                                   "limits": {"max_attempts": 2},
                                   "policy": "round_robin"}).start()
    for name, engine in (("bad", bad), ("good", good)):
        cluster.start_node(name, engine=engine.url)
    try:
        until(lambda: fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body(
            "prompt", 5, stream=stream, model="a")).status == 200 and bad.count["crashes"] >= 8,
              30, "crashes")
        assert cluster.node_state("bad") == "UP"
        assert "event=node_state node=\"bad\" from=UP" not in cluster.master.log()
        nodes = {fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body(
            "prompt", 5, stream=stream, model="b")).headers["x-drover-node"] for _ in range(4)}
        assert nodes == {"bad", "good"}
    finally:
        bad.close()
        good.close()
