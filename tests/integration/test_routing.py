"""Which node a request goes to, and how often it is tried."""

import asyncio
import json
import os
import re
import signal

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from harness import MODEL, SLOW, Cluster, alive, children_of, until
from load import chat_body, fetch, fetch_now, open_request, text_of

CHAT = "/v1/chat/completions"


def start_nodes(cluster, names, spec):
    started = [cluster.start_node(name, spec, wait=False) for name in names]
    for node in started:
        cluster.wait_up(node.name, node)


def decisions(cluster, request_id):
    return cluster.ctl_json("explain", request_id)["decisions"]


# ---- retries before the first content ----

@pytest.fixture(scope="module")
def pair(request):
    made = Cluster("retries", config={"limits": {"first_token_ms": int(300 * SLOW)}}).start()
    start_nodes(made, "ab", "slots=8,speed=10")
    yield made
    made.finish(request.session.testsfailed > 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
@pytest.mark.parametrize("fault", ["reset", "hang", "5xx", "garbage", "error_first", "truncate"])
def test_a_node_that_fails_before_content_is_replaced_by_the_other(pair, fault, stream):
    request_id = f"retry-{fault}-{stream}"
    answer = fetch_now(pair.api, "POST", CHAT, chat_body(
        "hello", 6, stream, drover_sim={"fault": fault, "only_attempt": 0}),
        {"x-request-id": request_id})
    assert answer.status == 200, answer.body
    attempts = 1 if fault in ("error_first", "truncate") else 2  # a 200 that is no answer costs none
    assert answer.headers["x-drover-attempts"] == str(attempts)
    if stream:
        assert text_of(answer.body)
    else:
        assert answer.json()["choices"][0]["message"]["content"]
    nodes = [d["node"] for d in sorted(decisions(pair, request_id), key=lambda d: d["attempt"])]
    assert sorted(nodes) == ["a", "b"]
    assert answer.headers["x-drover-node"] == nodes[1]
    assert pair.access_line(request_id)["attempts"] == attempts


def test_a_node_that_dies_or_refuses_the_connection_is_replaced_by_the_other(make_cluster):
    cluster = make_cluster(workers=1, config={"policy": "round_robin"}).start()
    start_nodes(cluster, "abc", "slots=8,speed=10")
    # The engine of the node that gets the first attempt ends in the middle of it, then the node.
    answer = fetch_now(cluster.api, "POST", CHAT, chat_body(
        "hello", 6, drover_sim={"fault": "die", "only_attempt": 0}), {"x-request-id": "dies"})
    assert answer.status == 200, answer.body
    assert answer.headers["x-drover-attempts"] == "2"
    text_of(answer.body)
    died = next(node for node in cluster.nodes
                if node.name == min(decisions(cluster, "dies"),
                                    key=lambda d: d["attempt"])["node"])
    died.engine.wait()
    died.process.kill_all()
    cluster.nodes.remove(died)
    # Nothing reports that another node is gone: attempts find a closed port.
    health = cluster.health_pid()
    victim = next(node for node in cluster.nodes)
    os.kill(health, signal.SIGSTOP)
    try:
        victim.process.kill_all()
        cluster.nodes.remove(victim)
        for turn in range(6):
            answer = fetch_now(cluster.api, "POST", CHAT, chat_body(f"hello {turn}", 6))
            assert answer.status == 200, answer.body
            assert answer.headers["x-drover-node"] == cluster.nodes[0].name
            assert answer.headers["x-drover-attempts"] in ("1", "2")
            text_of(answer.body)
    finally:
        os.kill(health, signal.SIGCONT)


def test_a_node_that_fails_at_once_does_not_attract_requests(make_cluster):
    bad = FakeEngine(lambda handler, path, body: handler.drop(), models=(MODEL,))
    cluster = make_cluster().start()
    cluster.start_node("bad", engine=bad.url)
    cluster.start_node("good", "slots=8,speed=10")
    count = 40
    for number in range(count):
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body(f"number {number}", 4))
        assert answer.status == 200, answer.body
        assert answer.headers["x-drover-node"] == "good"
    assert len(bad.posts()) <= count // 4, "it is tried again and again"
    bad.close()


def test_when_nothing_helps_retries_stop_and_when_it_is_over_they_are_there_again(make_cluster):
    state = {"healed": False}

    def behave(handler, path, body):
        if state["healed"]:
            handler.chat(body)
        else:
            handler.answer(500, {"error": {"message": "Compute error.", "code": 500}})
    engines = [FakeEngine(behave) for _ in range(3)]
    cluster = make_cluster(workers=2).start()
    for number, engine in enumerate(engines):
        cluster.start_node(f"n{number}", engine=engine.url)

    def tries():
        before = sum(len(engine.posts()) for engine in engines)
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 4, model=FAKE))
        assert answer.status == (200 if state["healed"] else 502), answer.body
        return sum(len(engine.posts()) for engine in engines) - before
    counts = [tries() for _ in range(40)]
    assert counts[0] == 3
    assert counts[-10:] == [1] * 10, counts
    state["healed"] = True
    for _ in range(100):
        assert tries() == 1
    state["healed"] = False
    assert tries() > 1
    for engine in engines:
        engine.close()


def test_a_document_whose_node_is_killed_is_made_anew_on_another(make_cluster):
    cluster = make_cluster().start()
    start_nodes(cluster, "ab", "slots=4,rate=30,cache=none")

    async def go():
        task = asyncio.create_task(fetch(cluster.api, "POST", CHAT,
                                         chat_body("a tale", 40, stream=False)))
        loop = asyncio.get_running_loop()
        row = (await loop.run_in_executor(None, until, lambda: [
            row for row in cluster.open_requests()
            if row["phase"] not in ("queued", "sent") and row["node"]], 5, "it is at a node"))[0]
        victim = next(node for node in cluster.nodes if node.name == row["node"])
        victim.process.kill_all()
        cluster.nodes.remove(victim)
        return victim, await task
    victim, answer = asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    assert answer.status == 200, answer.body
    assert answer.headers["x-drover-attempts"] == "2"
    assert answer.headers["x-drover-node"] != victim.name
    assert answer.json()["usage"]["completion_tokens"] == 40
    cluster.wait_idle()


def test_an_engines_refusal_is_put_to_one_more_node(pair):
    answer = fetch_now(pair.api, "POST", CHAT, chat_body("hello", 6, n=2),
                       {"x-request-id": "refused"})
    assert answer.status == 400, answer.body
    assert answer.headers["x-drover-attempts"] == "1"
    assert len(decisions(pair, "refused")) == 2


@pytest.mark.parametrize("status,document,seen,tries,posts", [
    (422, {"error": {"message": "no", "type": "invalid_request_error", "code": 422}}, 422, 1, 2),
    (500, {"error": {"code": 500, "type": "server_error", "message":
                     "[json.exception.parse_error.101] parse error at line 1"}}, 400, 1, 2),
    (500, {"error": {"code": 500, "type": "server_error", "message": "Compute error."}}, 502, 2, 2),
], ids=["422", "llama-server's 500 for bad JSON", "a true 500"])
def test_only_what_the_engine_blames_on_itself_costs_an_attempt(
        make_cluster, status, document, seen, tries, posts):
    engines = [FakeEngine(lambda handler, path, body: handler.answer(status, document))
               for _ in range(2)]
    cluster = make_cluster(workers=1).start()
    for name, engine in zip("ab", engines):
        cluster.start_node(name, engine=engine.url)
    answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 4, model=FAKE),
                       {"x-request-id": "once"})
    assert answer.status == seen, answer.body
    assert sum(len(engine.posts()) for engine in engines) == posts
    assert cluster.access_line("once")["attempts"] == tries
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("path,body", [
    (CHAT, chat_body("hi", 4)), (CHAT, chat_body("hi", 4, stream=False)),
    ("/v1/completions", {"model": MODEL, "prompt": "x", "max_tokens": 4}),
    ("/v1/embeddings", {"model": "sim-embed", "input": "x"}),
    ("/v1/messages", {"model": MODEL, "max_tokens": 4, "stream": True,
                      "messages": [{"role": "user", "content": "x"}]}),
    ("/api/chat", {"model": MODEL, "options": {"num_predict": 4},
                   "messages": [{"role": "user", "content": "x"}]}),
    (CHAT, chat_body("hi", 4, n=2)),
], ids=["stream", "document", "completions", "embeddings", "messages", "ollama", "refusal"])
def test_every_answer_of_a_node_says_how_it_was_routed(pair, path, body):
    answer = fetch_now(pair.api, "POST", path, body)
    assert answer.headers["x-drover-node"] in ("a", "b")
    assert int(answer.headers["x-drover-queue-ms"]) >= 0
    assert answer.headers["x-drover-attempts"] == "1"
    assert answer.headers["x-drover-policy"] == "fastest"


def test_errors_say_how_the_request_was_routed_too(make_cluster):
    cluster = make_cluster(config={"policy": "least_conn", "queue": {"max_wait_ms": 100}}).start()
    for name in "ab":
        cluster.start_node(name, "slots=1,speed=10", extra=("--queue", "0"), wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 4, drover_sim={"fault": "5xx"}))
    assert answer.status == 502, answer.body
    assert answer.headers["x-drover-node"] in ("a", "b")
    assert answer.headers["x-drover-attempts"] == "2"
    assert answer.headers["x-drover-policy"] == "least_conn"

    async def go():
        held = [await open_request(cluster.api, "POST", CHAT, chat_body(
            "hi", 4, drover_sim={"fault": "hang"})) for _ in "ab"]
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, until, lambda: len([
            row for row in cluster.open_requests() if row["phase"] != "queued"]) == 2, 10, "full")
        refused = await fetch(cluster.api, "POST", CHAT, chat_body("hi", 4))
        for answer in held:
            answer.abort()
        return refused
    answer = asyncio.run(go())
    assert answer.status == 503 and answer.headers["x-drover-reason"] == "queue_timeout"
    assert "x-drover-node" not in answer.headers, "it was never at one"
    assert answer.headers["x-drover-attempts"] == "0"
    assert int(answer.headers["x-drover-queue-ms"]) >= 100


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
def test_an_event_without_content_is_held_back_and_forgotten_with_its_node(make_cluster, stream):
    """A role, empty texts, a ping: then the connection breaks, and no client notices."""
    arrived = []

    def behave(handler, path, body):
        arrived.append(handler)
        if len(arrived) > 1:
            handler.chat(body)
            return
        handler.begin_stream()
        first = chunk()
        first["choices"][0]["delta"] = {"role": "assistant", "content": None}
        first["id"] = "chatcmpl-of-the-lost-one"
        handler.send_event(first)
        handler.send_event({**chunk(""), "id": "chatcmpl-of-the-lost-one"})
        handler.send_piece(b": ping\n\n")
        handler.drop()
    engines = [FakeEngine(behave) for _ in range(2)]
    cluster = make_cluster(workers=1).start()
    for name, engine in zip("ab", engines):
        cluster.start_node(name, engine=engine.url)
    answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 4, stream, model=FAKE))
    assert answer.status == 200 and answer.headers["x-drover-attempts"] == "2"
    assert len(arrived) == 2
    assert b"lost" not in answer.body and b"ping" not in answer.body
    said = text_of(answer.body) if stream else answer.json()["choices"][0]["message"]["content"]
    assert said == "Hello there."
    for engine in engines:
        engine.close()


# ---- models that are not loaded ----

LOAD_MS = int(500 * SLOW)


def test_requests_go_where_their_model_is_loaded(make_cluster):
    cluster = make_cluster(workers=2).start()
    start_nodes(cluster, "ab", f"slots=8,models=big@8192@{LOAD_MS}")

    def ask(name):
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 4, model="big"),
                           {"x-request-id": name})
        assert answer.status == 200, answer.body
        return answer.headers["x-drover-node"]
    node = ask("loads")
    until(lambda: [m["state"] for m in cluster.ctl_json("node", node)["models"]] == ["ready"], 10,
          "the coordinator knows that it is loaded")
    assert [ask(f"r{i}") for i in range(4)] == [node] * 4
    costs = {c["node"]: c for c in decisions(cluster, "r3")[0]["candidates"]}
    assert costs[node]["load_s"] == 0
    other = costs["a" if node == "b" else "b"]
    assert other["load_s"] > 0
    assert other["cost_s"] > costs[node]["cost_s"]


# ---- explaining ----

def test_a_decision_can_be_explained_even_after_the_master_was_killed(make_cluster):
    cluster = make_cluster().start()
    start_nodes(cluster, "abc", "slots=4,rate=20")

    async def go():
        answer = await open_request(cluster.api, "POST", CHAT, chat_body("a story", 5000),
                                    {"x-request-id": "explained"})
        await answer.read_head()
        loop = asyncio.get_running_loop()
        row = await loop.run_in_executor(None, until, lambda: [
            row for row in cluster.open_requests() if row["phase"] == "decode"], 5, "decode")
        text = await loop.run_in_executor(None, lambda: cluster.ctl("requests").stdout)
        answer.abort()
        return answer, row[0], text
    answer, row, text = asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    assert row["id"] == "explained" and row["node"] == answer.headers["x-drover-node"]
    assert "explained" in text and "decode" in text

    def check(status):
        done = cluster.ctl("explain", "explained", "--json", check=False)
        assert done.returncode == status, done.stderr
        found = json.loads(done.stdout)["decisions"]
        assert len(found) == 1
        assert found[0]["node"] == answer.headers["x-drover-node"]
        assert found[0]["policy"] == "fastest" and found[0]["attempt"] == 0
        assert sorted(c["node"] for c in found[0]["candidates"]) == ["a", "b", "c"]
        assert [c["node"] for c in found[0]["candidates"] if c["chosen"]] == [found[0]["node"]]
        assert all(c["slots"] == 4 and c["eligible"] for c in found[0]["candidates"])
        table = cluster.ctl("explain", "explained", check=False).stdout
        for name in ("attempt 1", "fastest", "a", "b", "c"):
            assert re.search(rf"\b{name}\b", table), table
    check(0)
    cluster.wait_idle()
    children = children_of(cluster.master.pid)
    cluster.master.signal(signal.SIGKILL)
    cluster.master.popen.wait()
    until(lambda: not [pid for pid in children if alive(pid)], 10, "no child is left")
    check(3)  # shown, and said to be what a dead master left
    unknown = cluster.ctl("explain", "never-seen", check=False)
    assert unknown.returncode != 0 and "never-seen" in unknown.stderr


# ---- affinity ----

def test_the_second_turn_of_a_conversation_goes_where_its_beginning_is_cached(make_cluster):
    cluster = make_cluster(config={"prefix": {"window_bytes": 256}}).start()
    start_nodes(cluster, "abcd", "slots=4,prefill=20000,cache=block,block=64")
    conversations, places, hits, kept = 12, set(), 0, 0
    told = []
    for number in range(conversations):
        messages = [{"role": "user", "content": f"Topic {number}. " + f"word{number} " * 500}]
        first = fetch_now(cluster.api, "POST", CHAT, {
            "model": MODEL, "max_tokens": 8, "messages": messages})
        assert first.status == 200, first.body
        assert not first.json()["usage"].get("prompt_tokens_details", {}).get("cached_tokens")
        places.add(first.headers["x-drover-node"])
        told.append((messages, first))
    for messages, first in told:
        messages.append(first.json()["choices"][0]["message"])
        messages.append({"role": "user", "content": "Go on."})
        second = fetch_now(cluster.api, "POST", CHAT, {
            "model": MODEL, "max_tokens": 8, "messages": messages})
        assert second.status == 200, second.body
        kept += second.headers["x-drover-node"] == first.headers["x-drover-node"]
        hits += second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert len(places) >= 2, "all went to one node: this proves nothing"
    assert hits == kept == conversations, (hits, kept, conversations)


def test_the_node_that_served_a_session_last_has_a_bonus(make_cluster):
    cluster = make_cluster().start()
    start_nodes(cluster, "abcd", "slots=4,speed=10")

    def ask(request_id, session):
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body(request_id, 2), {
            "x-request-id": request_id, "x-session-id": session})
        assert answer.status == 200, answer.body
        return answer.headers["x-drover-node"]
    for number in range(4):
        before = ask(f"first{number}", f"s{number}")
        ask(f"again{number}", f"s{number}")
        found = decisions(cluster, f"again{number}")[0]["candidates"]
        assert [c["node"] for c in found if c["bonus_s"] != 0] == [before]
        assert not [c for c in decisions(cluster, f"first{number}")[0]["candidates"]
                    if c["bonus_s"] != 0]


def test_an_answer_says_whether_it_came_from_the_sessions_node(make_cluster):
    cluster = make_cluster().start()
    start_nodes(cluster, "ab", "slots=4")

    def ask(session, headers=None, path=CHAT, **body):
        if session:
            headers = {"x-session-id": session}
        answer = fetch_now(cluster.api, "POST", path, {**chat_body("hello", 2), **body}, headers)
        assert answer.status == 200, answer.body
        return answer.headers["x-drover-node"], answer.headers.get("x-drover-session")

    def only(name):
        other = "b" if name == "a" else "a"
        cluster.ctl("undrain", name)
        until(lambda: cluster.node_state(name) == "UP", 5, "it is back")
        cluster.ctl("drain", other)
        until(lambda: cluster.node_state(other) == "DRAINING", 5, "it drains")
    only("a")
    assert ask(None)[1] is None, "no session"
    assert ask("one") == ("a", "miss"), "none was known"
    assert ask("one") == ("a", "hit")
    # A name in the body is a session as well.
    for path, body in [(CHAT, {"prompt_cache_key": "body"}), (CHAT, {"user": "somebody"}),
                       ("/v1/messages", {"metadata": {"user_id": "else"}})]:
        assert ask(None, path=path, **body)[1] == "miss"
        assert ask(None, path=path, **body)[1] == "hit"
    # A node that has the session and is passed over, as it drains or as it failed.
    only("b")
    assert ask("one") == ("b", "repin")
    assert ask("one") == ("b", "hit"), "it has moved there"
    cluster.ctl("undrain", "a")
    until(lambda: cluster.node_state("a") == "UP", 5, "it is back")
    assert ask("one", drover_sim={"fault": "5xx", "only_node": "b"}) == ("a", "repin")
    place, told = ask("new", drover_sim={"fault": "5xx", "only_attempt": 0})
    assert told == "miss", "its own first attempt does not count"
    # A node that is down has nothing cached.
    (node,) = [node for node in cluster.nodes if node.name == place]
    node.process.signal(signal.SIGKILL)
    until(lambda: cluster.node_state(place) != "UP", 15, "it is lost")
    assert ask("new")[1] == "miss"
    assert ask("new")[1] == "hit"


def test_a_session_that_uses_two_models_has_a_node_for_each(make_cluster):
    cluster = make_cluster().start()
    for name in "ab":
        cluster.start_node(name, f"slots=4,models=model-{name}")

    def ask(name):
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hello", 2, model=f"model-{name}"),
                           {"x-session-id": "both"})
        assert answer.status == 200, answer.body
        assert answer.headers["x-drover-node"] == name
        return answer.headers["x-drover-session"]
    assert [ask(name) for name in "ab"] == ["miss", "miss"]
    assert [ask(name) for name in "ab"] == ["hit", "hit"]
