"""Nodes, workers and clients die at the worst moments."""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import threading

import grpc
import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from fake_node import FakeNode
from harness import MODEL, POLL_S, SLOW, Cluster, until
from load import BadAnswer, Reference, chat_body, checked_stream, fetch, fetch_now, open_request, text_of
from messages import common, inference
from plant import make_plant, static  # noqa: F401

SLOW_PREFILL = "slots=8,prefill=2"  # tokens a second: a long wait before the first token
PACED = "slots=32,rate=50"

# Path, body of a stream of at most `n` tokens: one for each surface.
STREAMS = {
    "openai": ("/v1/chat/completions", lambda n: chat_body("a long story", n)),
    "openai-completions": ("/v1/completions", lambda n: {
        "model": MODEL, "prompt": "a long story", "stream": True, "max_tokens": n}),
    "responses": ("/v1/responses", lambda n: {
        "model": MODEL, "input": "a long story", "stream": True, "max_output_tokens": n}),
    "anthropic": ("/v1/messages", lambda n: {
        "model": MODEL, "max_tokens": n, "stream": True,
        "messages": [{"role": "user", "content": "a long story"}]}),
    "ollama": ("/api/chat", lambda n: {
        "model": MODEL, "options": {"num_predict": n},
        "messages": [{"role": "user", "content": "a long story"}]}),
    "ollama-generate": ("/api/generate", lambda n: {
        "model": MODEL, "prompt": "a long story", "options": {"num_predict": n}}),
}


def node_of(cluster, bound_s=5):
    """The node object that holds the only open request."""
    def find():
        rows = cluster.open_requests()
        return rows[0].get("node") if rows else None
    name = until(find, bound_s, "an open request at a node")
    return next(node for node in cluster.nodes if node.name == name)


# ---- a node dies ----

@pytest.mark.parametrize("surface", STREAMS)
def test_a_node_killed_before_the_first_byte_costs_the_client_nothing(make_cluster, surface):
    cluster = make_cluster().start()
    cluster.start_node("a", SLOW_PREFILL, wait=False)
    cluster.start_node("b", SLOW_PREFILL, wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    path, body = STREAMS[surface]

    async def go():
        answer = await open_request(cluster.api, "POST", path, body(4),
                                    {"x-request-id": "survivor"})
        loop = asyncio.get_running_loop()
        victim = await loop.run_in_executor(None, node_of, cluster)
        victim.process.kill_all()
        await answer.read_head()
        await answer.read()
        answer.close()
        return victim, answer
    victim, answer = asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
    assert answer.status == 200, answer.body
    assert not re.search(rb'"error": ?["{]', answer.body)
    line = cluster.access_line("survivor")
    assert line["attempts"] >= 2
    assert line["node"] != victim.name
    assert line["outcome"] == "ok"
    cluster.nodes.remove(victim)


@pytest.mark.parametrize("surface", STREAMS)
def test_a_node_killed_in_mid_stream_gives_a_clean_error_in_the_surfaces_own_shape(
        make_cluster, surface):
    cluster = make_cluster().start()
    node = cluster.start_node("a", PACED)
    path, body = STREAMS[surface]

    async def go():
        answer = await open_request(cluster.api, "POST", path, body(100000),
                                    {"x-request-id": "cut"})
        await answer.read_head()
        assert answer.status == 200
        events = []
        async for event in answer.events():
            events.append(event)
            if len(events) == 8:
                node.process.kill_all()
        answer.close()
        return events
    events = asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    cluster.nodes.remove(node)
    if surface.startswith("openai"):
        assert events[-1] == b"data: [DONE]"
        error = json.loads(events[-2].removeprefix(b"data: "))["error"]
        assert error["message"] and error["type"] and isinstance(error["code"], str)
        assert sum(b'"error"' in event for event in events) == 1
    elif surface == "responses":
        documents = [json.loads(event.partition(b"data: ")[2]) for event in events]
        assert [d["sequence_number"] for d in documents] == list(range(len(documents)))
        assert documents[-1]["type"] == "error" and documents[-1]["message"]
        assert events[-1].startswith(b"event: error\n")
    elif surface == "anthropic":
        name, data = events[-1].split(b"\n")
        assert name == b"event: error"
        document = json.loads(data.removeprefix(b"data: "))
        assert document["type"] == "error" and document["error"]["message"]
    else:
        document = json.loads(events[-1])
        assert isinstance(document["error"], str)
    line = cluster.access_line("cut")
    assert line["status"] == 200
    assert line["outcome"] == "node_error"
    until(lambda: re.search(r"event=node_connection_lost node=a address=\S+ why=",
                            cluster.master.log()), 5, "the lost connection in the log")


def test_a_node_that_refuses_every_request_leads_to_another_node(make_cluster):
    engine = FakeEngine(lambda handler, path, body: handler.drop(), models=(MODEL,))
    cluster = make_cluster(config={"policy": "round_robin"}).start()
    cluster.start_node("bad", engine=engine.url)
    cluster.start_node("good", "slots=8")
    for turn in range(6):
        answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4))
        assert answer.status == 200, (turn, answer.body)
        assert answer.headers["x-drover-node"] == "good"
        text_of(answer.body)
    assert engine.posts(), "the bad node was never tried"
    engine.close()


def test_a_node_that_came_up_as_another_died_takes_the_request_over(make_cluster):
    """The worker hears of both at once, of the death first."""
    held = FakeEngine(lambda handler, path, body: handler.wait_gone(60))
    cluster = make_cluster(workers=1).start()
    cluster.start_node("x", engine=held.url)
    worker = cluster.worker_pids()[0]

    async def go():
        answer = asyncio.create_task(fetch(cluster.api, "POST", "/v1/chat/completions",
                                           chat_body("hi", 4, model=FAKE)))
        while not held.posts():
            await asyncio.sleep(POLL_S)
        os.kill(worker, signal.SIGSTOP)
        try:
            await asyncio.to_thread(cluster.start_node, "y", f"models={FAKE}")
            cluster.nodes[0].process.kill_all()
        finally:
            os.kill(worker, signal.SIGCONT)
        return await answer
    answer = asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    assert (answer.status, answer.headers["x-drover-node"]) == (200, "y"), answer.body
    assert cluster.worker_pids() == [worker]
    held.close()


def test_a_request_that_fails_on_every_node_is_502_and_says_not_to_retry(make_cluster):
    engine = FakeEngine(lambda handler, path, body: handler.drop())
    cluster = make_cluster().start()
    cluster.start_node("bad", engine=engine.url)
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 4, model=FAKE))
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["src"] == "drover"
    engine.close()


def test_a_client_error_of_the_engine_is_final_and_passed_on_untouched(make_cluster):
    complaint = b'{ "error" : {"message":"context too long", "code":400, "type":"x", "n":1.50} }'
    engine = FakeEngine(lambda handler, path, body: handler.answer(400, complaint))
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 4, model=FAKE))
    assert answer.status == 400
    assert answer.body == complaint
    assert len(engine.posts()) == 1
    engine.close()


def test_an_engine_that_dies_in_mid_stream_is_an_error_event_not_a_short_answer(make_cluster):
    def behave(handler, path, body):
        handler.begin_stream()
        for word in ("one", " two", " three"):
            handler.send_event(chunk(word))
        handler.drop()
    engine = FakeEngine(behave)
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 40, model=FAKE))
    assert answer.status == 200
    assert b" three" in answer.body
    assert b'"error"' in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    engine.close()


# ---- a client leaves ----

def engine_idle(engine):
    return engine.open == 0


@pytest.mark.parametrize("moment", ["before the first token", "in mid-stream"])
def test_a_client_that_leaves_frees_the_engine_within_a_second(make_cluster, moment):
    gone = []

    def behave(handler, path, body):
        if moment == "in mid-stream":
            handler.begin_stream()
            handler.send_event(chunk("one"))
            handler.send_event(chunk("two"))
        gone.append(handler.wait_gone())
    engine = FakeEngine(behave)
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)

    async def go():
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("hi", 40, model=FAKE), {"x-request-id": "leaver"})
        if moment == "in mid-stream":
            await answer.read_head()
            async for _ in answer.events():
                break
        else:
            while not engine.open:
                await asyncio.sleep(POLL_S)
        answer.abort()
    asyncio.run(asyncio.wait_for(go(), 20 * SLOW))
    until(lambda: engine_idle(engine), 1, "the engine's connection is closed")
    assert gone == [True]
    until(cluster.idle, 1, "the slot is free")
    line = cluster.access_line("leaver")
    assert line["status"] == 499
    assert line["outcome"] == "client_gone"
    engine.close()


def test_a_client_that_leaves_while_queued_never_reaches_the_engine(make_cluster):
    engine = FakeEngine(lambda handler, path, body: handler.wait_gone(30))
    cluster = make_cluster(config={"queue": {"max_wait_ms": 60000}}).start()
    # A real engine without slot figures gets the agent's default; fill whatever that is.
    cluster.start_node("a", engine=engine.url, extra=("--slots", "1", "--queue", "0"))

    async def go():
        first = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                   chat_body("first", 40, model=FAKE))
        while len(engine.posts()) < 1:
            await asyncio.sleep(POLL_S)
        second = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("second", 40, model=FAKE),
                                    {"x-request-id": "queued"})
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: until(
            lambda: [r for r in cluster.open_requests() if r["phase"] == "queued"], 5,
            "the second waits"))
        second.abort()
        await loop.run_in_executor(None, lambda: until(
            lambda: len(cluster.open_requests()) == 1, 1, "the second is gone"))
        first.abort()
    asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    until(lambda: engine_idle(engine) and cluster.idle(), 1, "all is free")
    assert len(engine.posts()) == 1
    assert cluster.access_line("queued")["status"] == 499
    engine.close()


def test_many_clients_that_leave_at_once_leave_nothing_behind(cluster):
    async def go():
        answers = await asyncio.gather(*(
            open_request(cluster.api, "POST", "/v1/chat/completions", chat_body(f"{i}", 100000))
            for i in range(150)))
        for answer in answers[::2]:
            await answer.read_head()
            break
        for answer in answers:
            answer.abort()
    asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    cluster.wait_idle(3)


def test_a_client_that_closes_after_the_whole_answer_is_not_counted_as_gone(cluster):
    async def one(number):
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("hi", 2), {"x-request-id": f"closer{number}"})
        await answer.read_head()
        await answer.read()
        answer.close()
    async def go():
        for batch in range(20):
            await asyncio.gather(*(one(batch * 10 + i) for i in range(10)))
    asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
    lines = until(lambda: found if len(found := [
        line for line in cluster.access_lines() if line["id"].startswith("closer")]) == 200
        else None, 5, "200 lines of access log")
    wrong = [line for line in lines if line["outcome"] != "ok"]
    assert not wrong, f"{len(wrong)} of 200, for example {wrong[0]}"


# ---- a worker dies ----

def test_workers_killed_under_load_hurt_only_their_own_clients_and_gauges_stay_exact(
        make_cluster):
    cluster = make_cluster(workers=3).start()
    for name in ("a", "b"):
        cluster.start_node(name, "slots=64,rate=100", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    choose = random.Random(7)
    kills = 6

    async def run():
        loop = asyncio.get_running_loop()
        reference = Reference(cluster.api)
        prompts = [f"Number {i}" for i in range(4)]
        for prompt in prompts:
            await reference.learn(prompt, 40)
        state = {"stop": False, "done": 0, "cut": 0}

        async def client(number):
            while not state["stop"]:
                try:
                    await checked_stream(cluster.api, reference, prompts[number % 4], 40)
                    state["done"] += 1
                except (BadAnswer, ConnectionError) as failure:
                    # Only a cut connection is allowed: never a wrong byte or an error status.
                    if "clos" not in str(failure) and "broke" not in str(failure) \
                            and not isinstance(failure, ConnectionError):
                        raise
                    state["cut"] += 1

        async def killer():
            for _ in range(kills):
                target = state["done"] + 15
                while state["done"] < target:
                    await asyncio.sleep(POLL_S)
                pids = await loop.run_in_executor(None, cluster.worker_pids)
                victim = choose.choice(pids)
                os.kill(victim, signal.SIGKILL)
                await loop.run_in_executor(None, lambda victim=victim: until(
                    lambda: len(now := cluster.worker_pids()) == 3 and victim not in now, 15,
                    "the worker is replaced"))
            state["stop"] = True
        await asyncio.gather(killer(), *(client(i) for i in range(24)))
        return state
    state = asyncio.run(asyncio.wait_for(run(), 180 * SLOW))
    # At most all of one worker's clients are cut by each kill: not those of the other two.
    assert state["cut"] <= kills * 24 * 2 // 3, state
    assert state["done"] >= kills * 15
    cluster.wait_idle()
    assert cluster.violations() == 0


def test_streams_of_other_workers_go_on_when_one_is_killed(make_cluster):
    cluster = make_cluster(workers=2).start()
    each, tokens = 12, 120
    quick = cluster.start_node("quick", "slots=4,rate=2000")

    async def run():
        loop = asyncio.get_running_loop()
        reference = Reference(cluster.api)
        await reference.learn("steady", tokens)
        await loop.run_in_executor(None, cluster.stop_node, quick)
        cluster.nodes.remove(quick)
        await loop.run_in_executor(None, cluster.start_node, "steady", "slots=64,rate=20")
        streams = {}  # by name, of both workers in turn
        for worker in cluster.worker_pids():
            with cluster.only_worker(worker):
                for _ in range(each):
                    name = f"s{len(streams)}"
                    streams[name] = asyncio.create_task(checked_stream(
                        cluster.api, reference, "steady", tokens, {"x-request-id": name}))
                await loop.run_in_executor(None, lambda: until(
                    lambda: len(cluster.open_requests()) == len(streams), 10, "all are open"))
        def flowing():
            rows = cluster.open_requests()
            return rows if all(row["phase"] == "decode" for row in rows) else None
        rows = await loop.run_in_executor(None, until, flowing, 10, "they flow")
        victim = cluster.worker_rows()[0]
        theirs = {row["id"] for row in rows if row["worker"] == victim["process"]}
        os.kill(victim["pid"], signal.SIGKILL)
        results = await asyncio.gather(*streams.values(), return_exceptions=True)
        failed = {name for name, result in zip(streams, results) if isinstance(result, Exception)}
        return theirs, failed
    theirs, failed = asyncio.run(asyncio.wait_for(run(), 60 * SLOW))
    assert failed == theirs
    assert len(theirs) == each, "each worker has its share"


# ---- a node that never had the request ----

class Away(FakeNode):
    """Says of so many requests that its engine is away, after some content if it is told to."""

    def __init__(self, name):
        self.away, self.content, self.asked, self.broken = 0, False, 0, False
        super().__init__(name)
        self.slots, self.queue = 1, 0
        self.operations = [common.OPERATION_CHAT_COMPLETIONS, common.OPERATION_COUNT_TOKENS]

    def infer(self, request, context):
        self.asked += 1
        if self.broken:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        if not self.away:
            yield from super().infer(request, context)
            return
        self.away -= 1
        if self.content:
            yield inference.InferEvent(head=inference.ResponseHead(
                http_status=200, content_type="text/event-stream", event_stream=True))
            yield inference.InferEvent(chunk=inference.Chunk(
                data=b"data: %s\n\n" % json.dumps(chunk("begun")).encode(), tokens=1, content=True))
        yield inference.InferEvent(cause=inference.Cause(kind=inference.Cause.KIND_ENGINE_AWAY))
        context.abort(grpc.StatusCode.UNAVAILABLE, "cannot reach the engine")


def away_plant(make_plant, *nodes, **more):  # noqa: F811
    """The earlier a node comes, the more it is preferred."""
    plant = make_plant(config={
        "policy": "least_conn", "queue": {"max_wait_ms": 10000},
        "nodes": [{**static(node.name, node.port), "weight": 10 ** (3 - at)}
                  for at, node in enumerate(nodes)], **more})
    plant.fakes += nodes
    for node in nodes:
        plant.wait_state(node.name, "UP", "probes_pass")
    return plant


def test_a_node_is_not_away_once_it_has_begun_to_answer(make_plant):  # noqa: F811
    """Another node's answer must not follow what the client has seen."""
    nodes = [Away("a"), Away("b")]
    plant = away_plant(make_plant, *nodes)
    for node in nodes:
        node.away, node.content = 1, True
    answer = fetch_now(plant.api, "POST", "/v1/chat/completions", chat_body("hi", 4, model="fake-model"))
    assert answer.status == 200 and answer.body.count(b"begun") == 1, answer.body
    assert b'"error"' in answer.body
    assert [node.asked for node in nodes] == [1, 0]
    for node in nodes:
        node.away = 1
    answer = fetch_now(plant.api, "POST", "/v1/messages/count_tokens", chat_body("hi", 4, model="fake-model"))
    assert answer.status == 502 and answer.headers["x-drover-attempts"] == "2", answer.body


def test_a_node_that_was_away_is_asked_again_when_the_others_are_full(make_plant):  # noqa: F811
    a, b = Away("a"), Away("b")
    plant = away_plant(make_plant, a, b)
    body = chat_body("hi", 4, False, model="fake-model")
    a.infer_gate.set()
    a.away = 1
    first = []
    thread = threading.Thread(target=lambda: first.append(fetch_now(
        plant.api, "POST", "/v1/chat/completions", body)))
    thread.start()
    assert b.infer_started.acquire(timeout=10 * SLOW), "it went to the other node, which is full now"
    a.away = 1
    answer = fetch_now(plant.api, "POST", "/v1/chat/completions", body)
    assert answer.status == 200, answer.body
    assert answer.headers["x-drover-node"] == "a" and answer.headers["x-drover-attempts"] == "1"
    b.infer_gate.set()
    thread.join()
    assert first[0].headers["x-drover-node"] == "b" and first[0].headers["x-drover-attempts"] == "1"
    # When all are away it waits as where none is up: an engine that starts anew is back soon.
    a.away = b.away = 1
    answer = fetch_now(plant.api, "POST", "/v1/chat/completions", body)
    assert answer.status == 200 and answer.headers["x-drover-attempts"] == "1", answer.body
    a.away = b.away = 100
    answer = fetch_now(plant.api, "POST", "/v1/chat/completions", body)
    assert answer.status == 503 and answer.headers["retry-after"] == "5", answer.body


class Asker:
    """Requests in threads of their own."""

    def __init__(self, plant):
        self.plant, self.threads, self.answers = plant, [], []

    def ask(self):
        return fetch_now(self.plant.api, "POST", "/v1/chat/completions",
                         chat_body("hi", 4, False, model="fake-model"))

    def begin(self):
        self.threads.append(threading.Thread(target=lambda: self.answers.append(self.ask())))
        self.threads[-1].start()

    def hold(self, node):
        self.begin()
        assert node.infer_started.acquire(timeout=10 * SLOW)

    def end(self, *nodes):
        for node in nodes:
            node.infer_gate.set()
        for thread in self.threads:
            thread.join()
        assert [answer.status for answer in self.answers] == [200] * len(self.threads)


def test_a_request_that_was_at_a_node_that_is_away_is_not_rejected_for_overload(make_plant):  # noqa: F811
    a, b = Away("a"), Away("b")
    plant = away_plant(make_plant, a, b, queue={"max_wait_ms": 20000, "max_waiting": 1})
    asker = Asker(plant)
    a.infer_gate.set()
    assert asker.ask().status == 200, "how long an answer takes is known"
    a.infer_gate.clear()
    assert a.infer_started.acquire(timeout=10 * SLOW)
    asker.hold(a)
    asker.hold(b)
    asker.begin()
    until(lambda: plant.metric("drover_requests_open") == 3, 10, "one waits")
    answer = asker.ask()
    assert answer.status == 429, answer.body
    a.infer_gate.set()
    until(lambda: len(asker.answers) == 2 and plant.gauges()["a"] == 0, 10, "nothing waits any more")
    a.away = 2
    answer = asker.ask()
    assert answer.status == 200 and answer.headers["x-drover-node"] == "a", answer.body
    assert int(answer.headers["x-drover-queue-ms"]) >= 3000
    asker.end(b)


def test_a_second_try_after_a_node_that_is_away_is_not_for_a_probation(make_plant):  # noqa: F811
    a, b, broken = Away("a"), Away("b"), Away("broken")
    plant = away_plant(make_plant, a, b, broken, limits={"max_attempts": 1}, health={
        "eject_failures": 3, "eject_success_pct": 80, "eject_backoff_ms": 100, "eject_backoff_max_ms": 60000})
    asker = Asker(plant)
    asker.hold(a)
    broken.broken = True
    asker.hold(b)
    for _ in range(3):
        assert asker.ask().status == 502
    plant.wait_state("broken", "PROBATION")
    broken.broken, broken.asked = False, 0
    broken.infer_gate.set()
    a.infer_gate.set()
    until(lambda: plant.gauges()["a"] == 0, 10, "the preferred node is free")
    a.away = 1
    answer = asker.ask()
    assert answer.status == 200 and answer.headers["x-drover-node"] == "a", answer.body
    assert not a.away and not broken.asked
    asker.end(b)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages/count_tokens"])
def test_a_node_that_cannot_be_connected_to_makes_the_client_come_back(make_plant, path):  # noqa: F811
    node = Away("a")
    plant = away_plant(make_plant, node, limits={"connect_timeout_ms": 300})
    answers = []

    def ask():
        answers.append(fetch_now(plant.api, "POST", path, chat_body("hi", 4, False, model="fake-model")))

    def is_sent():
        return answers or any(row.get("node") for row in Cluster.open_requests(plant))

    node.infer_gate.set()
    ask()
    assert answers.pop().status == 200
    thread, health = threading.Thread(target=ask), plant.health_pid()
    os.kill(health, signal.SIGSTOP)  # so that nobody finds the node down
    try:
        node.stop()
        with socket.create_server(("127.0.0.1", node.port)):  # takes connections, and says nothing
            until(lambda: "event=node_connection_" in plant.master.log(), 10, "the connection has gone")
            thread.start()
            until(is_sent, 10, "the request waits for a connection, or did")
        thread.join()
    finally:
        with contextlib.suppress(ProcessLookupError):  # the master ends a child that is silent for 5 s
            os.kill(health, signal.SIGCONT)
    answer = answers[0]
    assert answer.status == 503, answer.body
    assert answer.headers["retry-after"] == "5" and answer.headers["x-should-retry"] == "true"
    assert answer.headers["x-drover-reason"] == "no_node"
    assert answer.headers["x-drover-attempts"] == "0"
