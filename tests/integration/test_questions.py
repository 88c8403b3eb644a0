"""Questions (count_tokens, show, lists of models, versions) hold no slot and teach nothing."""

import asyncio
import re
import signal
import socket
import threading
import time
import urllib.request

import pytest

from harness import MODEL, SLOW, until
from load import chat_body, fetch, fetch_now, make_request, open_request
from node_rig import Engine
from ollama import Ollama

CHAT = "/v1/chat/completions"
COUNT = "/v1/messages/count_tokens"
MESSAGES = [{"role": "user", "content": "how many tokens are these"}]
ASKED_OF_A_NODE = [
    (COUNT, {"model": MODEL, "messages": MESSAGES}),
    ("/api/show", {"model": MODEL}),
]
ANSWERED_HERE = ["/v1/models", "/models", f"/v1/models/{MODEL}", "/api/tags", "/api/ps",
                 "/api/version", "/", "/health"]


async def in_thread(condition, what):
    return await asyncio.get_running_loop().run_in_executor(None, until, condition, 10, what)


def phases(cluster):
    return sorted(row["phase"] for row in cluster.open_requests())


def test_questions_are_answered_at_once_while_every_slot_and_the_queue_are_taken(make_cluster):
    cluster = make_cluster(workers=2, config={
        "queue": {"max_wait_ms": 120000, "max_waiting": 2}}).start()
    for name in "ab":
        cluster.start_node(name, "slots=1", extra=("--queue", "0"), wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)

    async def go():
        held = []
        for open_ones in range(4):
            held.append(await open_request(cluster.api, "POST", CHAT, chat_body(
                f"held {open_ones}", 4, drover_sim={"fault": "hang"})))
            await in_thread(lambda: len(phases(cluster)) == open_ones + 1, "it has its place")
        await in_thread(lambda: phases(cluster).count("queued") == 2, "two wait")
        refused = await fetch(cluster.api, "POST", CHAT, chat_body("one too many", 4))
        assert refused.status == 429, "the queue is full"
        answers = []
        for turn, pid in enumerate(2 * sorted(cluster.worker_pids())):
            with cluster.only_worker(pid):
                for path, body in ASKED_OF_A_NODE:
                    answers.append(await fetch(cluster.api, "POST", path, body,
                                               {"x-request-id": f"q{turn}"}, timeout_s=5))
                for path in ANSWERED_HERE:
                    answers.append(await fetch(cluster.api, "GET", path, timeout_s=5))
        taken = phases(cluster)
        gauges = cluster.gauges()
        for answer in held:
            answer.abort()
        return answers, taken, gauges
    answers, taken, gauges = asyncio.run(asyncio.wait_for(go(), 100 * SLOW))
    assert [answer.status for answer in answers] == [200] * len(answers)
    assert taken.count("queued") == 2 and len(taken) == 4, "the generations are where they were"
    assert all(gauge[0] == 1 for gauge in gauges.values()), "a question is in no gauge"
    counted = [answer for answer in answers if b"input_tokens" in answer.body]
    assert len(counted) == 4, "two of each worker"
    places = {answer.headers.get("x-drover-node") for answer in answers}
    assert places == {"a", "b", None}, "nodes take turns; some answers need none"
    assert all(answer.headers["x-drover-queue-ms"] == "0" for answer in counted)
    line = cluster.access_line("q0")
    assert line["outcome"] == "ok" and line["node"] in ("a", "b") and line["attempts"] == 1


def node_counters(cluster, name):
    """Counters of the node in /metrics, and what routing has learned of it."""
    text = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                  timeout=10 * SLOW).read().decode()
    lines = [line for line in text.splitlines() if f'node="{name}"' in line and
             re.match(r"drover_node_\w*(_total|_count|_sum|_bucket)\{", line)]
    assert lines, text
    return sorted(lines)


def test_the_statistics_of_a_node_are_the_same_before_and_after_many_questions(make_cluster):
    cluster = make_cluster(workers=1).start()
    for name in "ab":
        cluster.start_node(name, "slots=4", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    session = {"x-session-id": "s1"}
    body = chat_body("a prompt of some length " * 200, 4)

    def chat(request_id):
        answer = fetch_now(cluster.api, "POST", CHAT, body, {"x-request-id": request_id, **session})
        assert answer.status == 200
        cluster.wait_idle()
        return answer.headers

    def candidates(request_id):
        return cluster.ctl_json("explain", request_id)["decisions"][0]["candidates"]

    def statistics():
        return [([cluster.ctl_json("histogram", name, which) for which in ("ttft", "tpot", "e2e")],
                 node_counters(cluster, name)) for name in "ab"]
    for turn in range(3):
        chat(f"before{turn}")
    before = statistics()
    asked = set()
    for _ in range(20):
        for path, question in ASKED_OF_A_NODE:
            answer = fetch_now(cluster.api, "POST", path, question, session)
            assert answer.status == 200
            asked.add(answer.headers["x-drover-node"])
    assert asked == {"a", "b"}
    wrong = fetch_now(cluster.api, "POST", COUNT, {"model": MODEL, "messages": 7})
    assert wrong.status == 400
    fetch_now(cluster.api, "POST", COUNT, {"model": MODEL, "messages": body["messages"]})
    unheard = chat_body("of which nobody knows anything " * 200, 4)["messages"]
    fetch_now(cluster.api, "POST", COUNT, {"model": MODEL, "messages": unheard})
    assert statistics() == before
    # Not even a prompt that was only counted counts as cached anywhere.
    body["messages"] = unheard
    home = chat("unheard")["x-drover-node"]
    assert all(c["matched_tokens"] == 0 for c in candidates("unheard"))
    for _ in "ab":
        fetch_now(cluster.api, "POST", COUNT, {"model": MODEL, "messages": unheard}, session)
    other = {"a": "b", "b": "a"}[home]
    cluster.ctl("drain", other)
    until(lambda: cluster.node_state(other) == "DRAINING", 5, "the other drains")
    after = chat("after")
    assert after["x-drover-node"] == home
    assert after["x-drover-session"] == "hit", "no question has moved the session"


class Two:
    """Two nodes in front of engines that keep a question until it may be answered."""

    def __init__(self, make_cluster, **config):
        self.cluster = make_cluster(workers=1, config=config).start()
        self.engines = {name: Engine() for name in "ab"}
        for name, engine in self.engines.items():
            self.cluster.start_node(name, engine=engine.url, wait=False)
        for node in self.cluster.nodes:
            self.cluster.wait_up(node.name, node)

    def asked(self):
        return [name for name, engine in self.engines.items() if engine.busy]

    def ask(self, script="held_answer"):
        return fetch(self.cluster.api, "POST", COUNT, {
            "model": "tiny", "messages": MESSAGES, "script": script})

    def run(self, go):
        try:
            return asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
        finally:
            for engine in self.engines.values():
                engine.release.set()
                engine.stop()


def test_a_question_to_a_node_that_dies_goes_to_another(make_cluster):
    two = Two(make_cluster)

    async def go():
        task = asyncio.create_task(two.ask())
        name = (await in_thread(two.asked, "a node has it"))[0]
        node = next(node for node in two.cluster.nodes if node.name == name)
        node.process.signal(signal.SIGKILL)
        other = {"a": "b", "b": "a"}[name]
        await in_thread(lambda: two.engines[other].busy, "the other node has it")
        two.engines[other].release.set()
        answer = await task
        assert answer.status == 200 and answer.json() == {"input_tokens": 3}
        assert answer.headers["x-drover-node"] == other
        assert answer.headers["x-drover-attempts"] == "2"
    try:
        two.run(go)
    finally:
        two.cluster.nodes[:] = [node for node in two.cluster.nodes if node.process.running()]


def test_a_question_that_its_engine_fails_is_asked_elsewhere_and_then_fails(make_cluster):
    two = Two(make_cluster)

    async def go():
        answer = await two.ask("broken")
        assert answer.status == 502, answer.body
        assert answer.headers["x-drover-attempts"] == "2"
        assert all(len(engine.requests) == 1 for engine in two.engines.values())
        answer = await two.ask("context")
        assert answer.status == 400, "the engine's refusal is final"
        assert answer.headers["x-drover-attempts"] == "1"
    two.run(go)
    assert all(row["state"] == "UP" for row in two.cluster.ctl_rows("nodes"))


def test_a_client_that_leaves_ends_its_question_at_the_engine(make_cluster):
    two = Two(make_cluster)

    async def go():
        answer = await open_request(two.cluster.api, "POST", COUNT, {
            "model": "tiny", "messages": MESSAGES, "script": "held_answer"},
            {"x-request-id": "left"})
        await in_thread(two.asked, "a node has it")
        answer.abort()
        await in_thread(lambda: not two.asked(), "no engine works on it")
    two.run(go)
    assert two.cluster.access_line("left")["outcome"] == "client_gone"


def test_more_questions_than_all_nodes_take_are_refused_at_once(make_cluster):
    two = Two(make_cluster)

    async def go():
        tasks = [asyncio.create_task(two.ask()) for _ in range(64)]
        await in_thread(lambda: sum(engine.busy for engine in two.engines.values()) == 64,
                        "64 are asked")
        refused = await two.ask()
        assert refused.status == 529 and refused.headers["retry-after"] == "1"
        for engine in two.engines.values():
            engine.release.set()
        return await asyncio.gather(*tasks)
    assert [answer.status for answer in two.run(go)] == [200] * 64


@pytest.mark.parametrize("path,body", ASKED_OF_A_NODE)
def test_a_question_without_a_node_is_503_after_a_moment(make_cluster, path, body):
    cluster = make_cluster(workers=1).start()
    node = cluster.start_node("a")
    cluster.stop_node(node)
    until(lambda: cluster.node_state("a") != "UP", 10, "the node is gone")
    answer = fetch_now(cluster.api, "POST", path, body)
    assert answer.status in (404, 503), answer.body


def test_a_model_that_a_node_may_still_bring_is_503_that_says_so(make_cluster):
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a")
    answers = {}

    def ask(path):
        answers[path] = fetch_now(cluster.api, "POST", path, {"model": "late", "messages": [], "prompt": "x"})
    threads = [threading.Thread(target=ask, args=(path,)) for path in ("/v1/chat/completions", "/tokenize")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers.values():
        assert answer.status == 503 and answer.headers["retry-after"] == "5", answer.body
        assert "not all have said yet" in answer.json()["error"]["message"], answer.body


def test_a_question_for_an_unknown_model_is_refused_and_a_count_that_no_node_has_is_estimated(
        cluster):
    cluster.wait_models_known()
    answer = fetch_now(cluster.api, "POST", COUNT, {"model": "nobody", "messages": MESSAGES})
    assert answer.status == 404
    answer = fetch_now(cluster.api, "POST", COUNT, {"model": "sim-embed", "messages": MESSAGES})
    assert answer.status == 200 and answer.headers["x-drover-estimate"] == "true"


def test_a_slow_reader_of_a_questions_answer_gets_it_whole(make_cluster):
    """The limit of a question's silence is first_token_ms, 10 s at most."""
    engine = Ollama()
    size, limit_s = 6 << 20, 0.4 * SLOW
    engine.on["/api/show"] = lambda reply, _: reply.answer(200, {"modelfile": "x" * size})
    cluster = make_cluster(workers=1, config={"limits": {"first_token_ms": int(1000 * limit_s)}}).start()
    cluster.start_node("a", engine=engine.url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(cluster.api)
        sock.sendall(make_request("POST", "/api/show", {"model": next(iter(engine.models))},
                                  {"Connection": "close"}))
        got = sock.recv(100)
        time.sleep(5 * limit_s)
        sock.settimeout(10 * SLOW)
        while data := sock.recv(1 << 20):
            got += data
    assert got.startswith(b"HTTP/1.1 200") and got.count(b"x" * 100) > size / 101, got[:300]
    assert "event=child_stalled" not in cluster.master.log()
    engine.close()
