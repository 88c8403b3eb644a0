"""One queue for all models, operations and workers: the order, and no request blocks another."""

import asyncio
import os
import signal
import statistics
import time
from contextlib import contextmanager

import pytest

from fake_node import FakeNode, common
from harness import SLOW, until
from load import chat_body, fetch, open_request

CHAT = "/v1/chat/completions"
HANG = {"fault": "hang"}


async def look(condition, what, bound_s=10):
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, until, condition, bound_s, what)


def run(go, bound_s=60):
    return asyncio.run(asyncio.wait_for(go(), bound_s * SLOW))


def phases(cluster):
    return {row["id"]: row["phase"] for row in cluster.open_requests()}


def queued(cluster):
    return {name for name, phase in phases(cluster).items() if phase == "queued"}


def inflight(cluster):
    return {name: gauge[0] for name, gauge in cluster.gauges().items()}


def start_nodes(cluster, names, spec):
    for name in names:
        cluster.start_node(name, spec, wait=False, extra=("--queue", "0"))
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)


async def hold(cluster, name, model="a", **more):
    """A request that runs until its client leaves."""
    before = sum(inflight(cluster).values())
    answer = await open_request(cluster.api, "POST", CHAT, chat_body(
        name, 4, model=model, drover_sim={**HANG, **more}), {"x-request-id": name})
    await look(lambda: sum(inflight(cluster).values()) == before + 1, f"{name} runs")
    return answer


def send(cluster, name, model="a", headers=None, **more):
    return asyncio.create_task(fetch(cluster.api, "POST", CHAT, chat_body(
        name, 4, False, model=model, **more), {"x-request-id": name, **(headers or {})}))


@contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# ---- between models ----

async def rivals(cluster, clients, answers):
    """`clients` of (model, headers), each asking again and again until `answers` came in all.

    Returns for each what its answers took and the statuses there were.
    """
    took, statuses = [[] for _ in clients], set()

    async def ask(number, model, headers):
        turn = 0
        while sum(map(len, took)) < answers:
            began = time.monotonic()
            turn += 1
            answer = await fetch(cluster.api, "POST", CHAT, chat_body(
                f"{number} {turn}", 8, False, model=model), headers)
            statuses.add(answer.status)
            took[number].append(time.monotonic() - began)
    await asyncio.gather(*(ask(number, *client) for number, client in enumerate(clients)))
    return took, statuses


@pytest.mark.parametrize("workers", [1, 2])
def test_two_models_of_equal_demand_on_the_same_nodes_are_served_alike(make_cluster, workers):
    cluster = make_cluster(workers=workers, config={"queue": {"max_wait_ms": 60000}}).start()
    start_nodes(cluster, "xy", "slots=4,models=a;b,rate=100,cache=none")
    clients = [(model, {}) for model in "ab" for _ in range(24)]
    took, statuses = run(lambda: rivals(cluster, clients, 500))
    served = [sum(map(len, took[:24])), sum(map(len, took[24:]))]
    assert statuses == {200}
    assert max(served) <= 1.3 * min(served), served


@pytest.mark.parametrize("bulk", ["a", "b"], ids=["bulk first", "bulk second"])
def test_interactive_of_one_model_goes_before_bulk_of_another(make_cluster, bulk):
    cluster = make_cluster(workers=2, config={"queue": {"max_wait_ms": 120000}}).start()
    start_nodes(cluster, "x", "slots=4,models=a;b,rate=100,cache=none")
    clients = [(model, {"x-drover-priority": "bulk" if model == bulk else "interactive"})
               for model in "ab" for _ in range(12)]

    async def go():
        # The model that comes first has all slots at first; that is not counted.
        return await rivals(cluster, clients, 200)
    took, statuses = run(go)
    median = {model: statistics.median(sum(took[at:at + 12], []))
              for model, at in (("a", 0), ("b", 12))}
    assert statuses == {200}
    assert median["b" if bulk == "a" else "a"] < median[bulk], median


def test_more_models_than_any_table_holds_wait_and_are_all_served(make_cluster):
    cluster = make_cluster(workers=2, config={"queue": {"max_wait_ms": 120000}}).start()
    models = [f"m{number}" for number in range(80)]
    for name, some in (("x", models[:40]), ("y", models[40:])):
        cluster.start_node(name, f"slots=1,models={';'.join(some)},rate=200,cache=none", wait=False,
                           extra=("--queue", "0"))
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)

    async def go():
        holders = [await hold(cluster, model, model) for model in ("m0", "m40")]
        tasks = [send(cluster, f"r-{model}", model) for model in models]
        await look(lambda: len(queued(cluster)) == len(models), "one of each model waits", 20)
        for holder in holders:
            holder.abort()
        return await asyncio.gather(*tasks)
    answers = run(go)
    assert [answer.status for answer in answers] == [200] * len(models)
    cluster.wait_idle()


# ---- what cannot use a place does not stand before it ----

def test_a_retry_that_a_node_failed_for_does_not_keep_it_from_other_workers(make_cluster):
    cluster = make_cluster(workers=2, config={"queue": {"max_wait_ms": 60000}}).start()
    start_nodes(cluster, "y", "slots=1,models=a,rate=100,cache=none")
    one, two = cluster.worker_pids()

    async def go():
        holder = await hold(cluster, "holder")
        start_nodes(cluster, "x", "slots=1,models=a,rate=100,cache=none")
        with cluster.only_worker(one):
            retry = send(cluster, "retry", drover_sim={"fault": "5xx", "only_node": "x"})
            await look(lambda: "retry" in queued(cluster), "it waits for the other node")
        await look(lambda: inflight(cluster) == {"x": 0, "y": 1}, "the node that failed is free")
        with stopped(one):
            # By the other worker, and then with the first in front of it again.
            other = send(cluster, "other")
            await look(lambda: phases(cluster), "something is open")
            answer = await other
        assert answer.status == 200
        began = time.monotonic()
        answers = [await send(cluster, f"next{number}") for number in range(4)]
        took = time.monotonic() - began
        assert "retry" in queued(cluster)
        holder.abort()
        return answers, took, await retry
    answers, took, retry = run(go)
    assert [answer.headers["x-drover-node"] for answer in answers] == ["x"] * 4
    assert took < 4 * SLOW, "each at once"
    assert retry.status == 200 and retry.headers["x-drover-node"] == "y"
    assert len(cluster.worker_pids()) == 2 and two in cluster.worker_pids()


class Operations(FakeNode):
    """Serves one operation of the model."""

    def __init__(self, name, operation):
        self.operation = operation
        super().__init__(name)
        self.slots = 1
        self.queue = 0

    def model_list(self):
        return [common.Model(id="fake-model", state=common.MODEL_STATE_READY,
                             max_context_tokens=4096, operations=[self.operation])]


@pytest.mark.parametrize("first", ["chat", "embed"])
def test_requests_for_one_operation_do_not_block_those_for_another(make_cluster, first):
    nodes = {"chat": Operations("chat", common.OPERATION_CHAT_COMPLETIONS),
             "embed": Operations("embed", common.OPERATION_EMBEDDINGS)}
    second = "embed" if first == "chat" else "chat"
    cluster = make_cluster(workers=2, token=False, config={"nodes": [
        {"name": name, "address": f"127.0.0.1:{node.port}"} for name, node in nodes.items()]}).start()
    for name in nodes:
        cluster.wait_up(name)
    bodies = {"chat": ("/v1/chat/completions", chat_body("x", 4, False, model="fake-model")),
              "embed": ("/v1/embeddings", {"model": "fake-model", "input": "x"})}
    nodes[second].infer_gate.set()

    async def go():
        tasks = [asyncio.create_task(fetch(cluster.api, "POST", *bodies[first]))
                 for _ in range(40)]
        await look(lambda: len(queued(cluster)) == 39, "all but one wait")
        others = [await fetch(cluster.api, "POST", *bodies[second]) for _ in range(6)]
        assert len(queued(cluster)) == 39
        nodes[first].infer_gate.set()
        return others, await asyncio.gather(*tasks)
    try:
        others, answers = run(go)
    finally:
        for node in nodes.values():
            node.stop()
    assert {answer.status for answer in others + answers} == {200}


def test_embeddings_do_not_make_a_queue_of_chats_look_short(make_cluster):
    """Of a place that chats hold for 2 s, three of them would wait 6 s."""
    cluster = make_cluster(workers=1, config={"queue": {"max_wait_ms": 5000}}).start()
    start_nodes(cluster, "x", "slots=1,models=a;sim-embed,rate=50,cache=none")

    async def go():
        chat = await fetch(cluster.api, "POST", CHAT, chat_body("long", 100, False, model="a"))
        for _ in range(50):
            answer = await fetch(cluster.api, "POST", "/v1/embeddings", {"model": "sim-embed", "input": "x"})
            assert answer.status == 200, answer.body
        held = await hold(cluster, "held")
        waiting = [send(cluster, f"w{n}") for n in range(6)]
        await look(lambda: len(queued(cluster)) + sum(task.done() for task in waiting) == 6, "all came")
        refused = [task.result() for task in waiting if task.done()]
        held.abort()
        return chat, refused, await asyncio.gather(*waiting)
    chat, refused, answers = run(go)
    assert chat.status == 200
    assert len(refused) >= 3 and {answer.status for answer in refused} == {429}, refused
    assert {answer.status for answer in answers} == {200, 429}


# ---- workers ----

@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_worker_that_holds_the_least_key_and_does_not_run_holds_up_no_other(make_cluster, number):
    cluster = make_cluster(workers=2, config={"queue": {"max_wait_ms": 60000}}).start()
    start_nodes(cluster, "x", "slots=1,models=a;b,rate=100,cache=none")
    one, two = cluster.worker_pids()

    async def go():
        with cluster.only_worker(two):
            holder = await hold(cluster, "holder")
        with cluster.only_worker(one):
            first = send(cluster, "first", "b")
            await look(lambda: "first" in queued(cluster), "it waits")
        with cluster.only_worker(two):
            second = send(cluster, "second")
            await look(lambda: "second" in queued(cluster), "it waits")
        os.kill(one, number)
        began = time.monotonic()
        holder.abort()
        answer = await second
        took = time.monotonic() - began
        if number == signal.SIGKILL:
            await asyncio.gather(first, return_exceptions=True)
            return answer, took, None
        os.kill(one, signal.SIGCONT)
        return answer, took, await first
    second, took, first = run(go)
    assert second.status == 200
    assert took < 1 * SLOW, took
    if first is not None:
        assert first.status == 200
    until(cluster.idle, 10, "no slot is lost")


def test_a_request_that_is_cancelled_while_it_waits_gives_its_turn_to_the_next(make_cluster):
    cluster = make_cluster(workers=2).start()
    start_nodes(cluster, "x", "slots=1,models=a;b,rate=100,cache=none")

    async def go():
        holder = await hold(cluster, "holder")
        leavers = []
        for number in range(6):
            leavers.append(await open_request(cluster.api, "POST", CHAT, chat_body(
                "leaver", 4, model="a"), {"x-request-id": f"leaver{number}"}))
            await look(lambda: len(queued(cluster)) == len(leavers), "it waits")
        stays = send(cluster, "stays", "b")
        await look(lambda: "stays" in queued(cluster), "it waits")
        for leaver in leavers:
            leaver.abort()
        await look(lambda: queued(cluster) == {"stays"}, "the others are gone")
        holder.abort()
        return await stays
    assert run(go).status == 200
    cluster.wait_idle()


# ---- policies ----

def test_prefix_hash_leaves_no_slot_empty_while_requests_wait(make_cluster):
    nodes = {"heavy": FakeNode("heavy"), "light": FakeNode("light")}
    cluster = make_cluster(workers=2, token=False, config={"policy": "prefix_hash", "nodes": [
        {"name": name, "address": f"127.0.0.1:{node.port}", "weight": 100 if name == "heavy" else 1}
        for name, node in nodes.items()]}).start()
    for name, node in nodes.items():
        cluster.wait_up(name)

    async def go():
        tasks = [asyncio.create_task(fetch(cluster.api, "POST", CHAT, chat_body(
            "the same beginning", 4, False, model="fake-model"))) for _ in range(9)]
        await look(lambda: inflight(cluster) == {"heavy": 4, "light": 4}, "every slot is used")
        for node in nodes.values():
            node.infer_gate.set()
        return await asyncio.gather(*tasks)
    try:
        answers = run(go)
    finally:
        for node in nodes.values():
            node.stop()
    assert [answer.status for answer in answers] == [200] * 9


def test_a_flood_of_cache_matches_does_not_keep_another_request_waiting_for_ever(make_cluster):
    cluster = make_cluster(workers=2).start()
    cluster.start_node("x", "slots=2,models=a,prefill=4000", extra=("--queue", "6"))
    beginning = "Once upon a time there was a llama. " * 200
    over = False

    async def go():
        async def flood(number):
            turn = 0
            while not over:
                turn += 1
                answer = await fetch(cluster.api, "POST", CHAT, chat_body(
                    f"{beginning} {number} {turn}", 30, False, model="a"))
                assert answer.status == 200
        nonlocal over
        await fetch(cluster.api, "POST", CHAT, chat_body(beginning, 4, False, model="a"))
        tasks = [asyncio.create_task(flood(number)) for number in range(10)]
        await look(lambda: inflight(cluster)["x"] > 2, "matches have places beyond the slots")
        began = time.monotonic()
        answer = await send(cluster, "something else entirely")
        took = time.monotonic() - began
        over = True
        await asyncio.gather(*tasks)
        return answer, took
    answer, took = run(go)
    assert answer.status == 200
    assert took < 5 + 2 * SLOW, took


def answers_to_siblings(make_cluster, nodes):
    """Eight requests with one beginning, all at once, for nodes x and y."""
    cluster = make_cluster(workers=2).start()
    for name in "xy":
        cluster.start_node(name, nodes, wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    beginning = "All of them share this beginning. " * 300

    async def go():
        return await asyncio.gather(*(
            fetch(cluster.api, "POST", CHAT, chat_body(f"{beginning} {number}", 8, False, model="a"))
            for number in range(8)))
    answers = run(go)
    assert [answer.status for answer in answers] == [200] * 8
    assert {answer.headers["x-drover-node"] for answer in answers} == {"x", "y"}
    cluster.wait_idle()
    return answers


def test_eight_siblings_that_fan_out_at_once_are_all_served(make_cluster):
    answers_to_siblings(make_cluster, "slots=2,models=a,rate=100")


def test_a_node_reads_the_common_beginning_of_siblings_once_or_twice(make_cluster):
    """Each of two workers may send a node one, before it sees the other's."""
    answers = answers_to_siblings(make_cluster, "slots=8,models=a,prefill=2000")
    cached = [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
    assert sum(tokens > 1000 for tokens in cached) >= 4, cached
