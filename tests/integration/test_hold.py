"""Long prompts wait in the coordinator, planned on a node, where they can be overtaken and moved."""

import asyncio
import json
import os
import resource
import signal
import threading
import time

import pytest

from fake_engine import MODEL, FakeEngine
from harness import SLOW, until
from load import chat_body, fetch, open_request

CHAT = "/v1/chat/completions"
# At the 1,000 tokens/s that are assumed of a node before anything is known: 100 s of work.
LONG = 400_000
SHORT = 1_200   # 0.3 s: it goes before a long one that came with it
TINY = 40       # 0.01 s: of the size that is not held


class Turns:
    """An engine that begins a prompt at once and keeps its first token until it may give it."""

    def __init__(self):
        self.began = []  # names, in the order they came
        self.may = set()
        self.all = False
        self.change = threading.Condition()
        self.engine = FakeEngine(self.behave)

    def behave(self, handler, path, body):
        name = json.loads(body)["messages"][0]["content"].split()[0]
        with self.change:
            self.began.append(name)
            self.change.wait_for(lambda: self.all or name in self.may
                                 or self.engine.stopping.is_set())
        handler.chat(body)

    def give(self, *names):
        with self.change:
            self.may.update(names)
            self.all = self.all or not names
            self.change.notify_all()


@pytest.fixture
def turns():
    made = Turns()
    yield made
    made.give()
    made.engine.close()


def start(make_cluster, turns, workers=1, slots=8, **config):
    cluster = make_cluster(workers=workers, config=config).start()
    cluster.start_node("x", engine=turns.engine.url,
                       extra=("--slots", str(slots), "--queue", "0"))
    return cluster


def run(go, bound_s=60):
    return asyncio.run(asyncio.wait_for(go(), bound_s * SLOW))


async def look(condition, what, bound_s=10):
    return await asyncio.get_running_loop().run_in_executor(None, until, condition, bound_s, what)


def queued(cluster):
    return {row["id"] for row in cluster.open_requests() if row["phase"] == "queued"}


def body_of(name, size, **more):
    return chat_body(f"{name} " * (size // (len(name) + 1) + 1), 4, False, model=MODEL, **more)


def send(cluster, name, size=SHORT, headers=None):
    return asyncio.create_task(fetch(cluster.api, "POST", CHAT, body_of(name, size),
                                     {"x-request-id": name, **(headers or {})}, timeout_s=60))


async def keep_busy(cluster, turns, name="first"):
    """A long prompt, which the engine works on."""
    task = send(cluster, name, LONG)
    await look(lambda: name in turns.began, "the engine is at the long prompt")
    return task


async def all_of(cluster, tasks):
    answers = await asyncio.gather(*tasks)
    assert {answer.status for answer in answers} == {200}, [a.body for a in answers]
    cluster.wait_idle()
    return answers


# ---- order ----

def test_a_prompt_that_is_held_behind_a_long_one_can_be_overtaken(make_cluster, turns):
    cluster = start(make_cluster, turns)

    async def go():
        tasks = [await keep_busy(cluster, turns)]
        # The short one is so short that it still fills no window when all this has taken 7 s.
        for name, size in (("long", 10 * LONG), ("longer", 10 * LONG), ("short", SHORT * 2 // 5)):
            tasks.append(send(cluster, name, size))
            await look(lambda: name in queued(cluster), "it is held, though slots are free")
        assert turns.began == ["first"]
        await asyncio.sleep(1)          # so the engine takes in a long one in 10 s
        turns.give("first")
        await look(lambda: len(turns.began) == 3, "the window opens")
        assert set(turns.began) == {"first", "short", "long"}
        assert queued(cluster) == {"longer"}, "one long prompt at a time"
        turns.give()
        return await all_of(cluster, tasks)
    answers = run(go)
    assert all(int(answer.headers["x-drover-queue-ms"]) > 0 for answer in answers[1:])
    assert turns.began[-1] == "longer"


def test_a_more_urgent_class_overtakes_what_is_held(make_cluster, turns):
    cluster = start(make_cluster, turns)

    async def go():
        tasks = [await keep_busy(cluster, turns)]
        for name in ("bulk", "default", "interactive"):
            tasks.append(send(cluster, name, 10 * LONG, {"x-drover-priority": name}))
            await look(lambda: name in queued(cluster), "it is held")
        await asyncio.sleep(1)
        for name in ("interactive", "default", "bulk"):
            turns.give(turns.began[-1])
            await look(lambda: turns.began[-1] == name, f"{name} is next")
        turns.give()
        await all_of(cluster, tasks)
    run(go)


def test_a_tiny_prompt_is_not_held_as_the_engine_may_interleave_it(make_cluster, turns):
    cluster = start(make_cluster, turns)

    async def go():
        tasks = [await keep_busy(cluster, turns), send(cluster, "tiny", TINY)]
        await look(lambda: "tiny" in turns.began, "it is at the engine")
        tasks.append(send(cluster, "held"))
        await look(lambda: queued(cluster) == {"held"}, "it is held")
        tasks.append(send(cluster, "tiny-too", TINY))
        await look(lambda: "tiny-too" in turns.began, "it overtakes what is held")
        assert queued(cluster) == {"held"}
        turns.give()
        await all_of(cluster, tasks)
    run(go)


def test_without_hold_all_are_sent_at_once(make_cluster, turns):
    cluster = start(make_cluster, turns, hold_ms=0)

    async def go():
        tasks = [await keep_busy(cluster, turns), send(cluster, "long", LONG), send(cluster, "short")]
        await look(lambda: len(turns.began) == 3, "all are at the engine")
        turns.give()
        await all_of(cluster, tasks)
    run(go)


def test_where_a_model_has_another_policy_nothing_is_held(make_cluster, turns):
    cluster = start(make_cluster, turns, models=[{"name": "other", "policy": "least_conn"}])

    async def go():
        tasks = [await keep_busy(cluster, turns), send(cluster, "long", LONG)]
        await look(lambda: len(turns.began) == 2, "both are at the engine")
        turns.give()
        await all_of(cluster, tasks)
    run(go)


# ---- time ----

def test_a_plan_is_no_wait_for_a_slot(make_cluster, turns):
    """queue.max_wait_ms is for requests that no slot is in prospect for."""
    cluster = start(make_cluster, turns, queue={"max_wait_ms": 300})

    async def go():
        tasks = [await keep_busy(cluster, turns), send(cluster, "held")]
        await look(lambda: "held" in queued(cluster), "it is held")
        await asyncio.sleep(1.5)
        assert queued(cluster) == {"held"}
        turns.give()
        return await all_of(cluster, tasks)
    assert int(run(go)[1].headers["x-drover-queue-ms"]) >= 1500


def test_a_plan_lasts_no_longer_than_a_first_token_may_take(make_cluster, turns):
    cluster = start(make_cluster, turns, queue={"max_wait_ms": 300},
                    limits={"first_token_ms": 5000})

    async def go():
        tasks = [await keep_busy(cluster, turns), send(cluster, "second", 10 * LONG)]
        await look(lambda: "second" in queued(cluster), "it is held")
        began = time.monotonic()
        held = send(cluster, "held", headers={"x-drover-priority": "bulk"})
        await look(lambda: "held" in queued(cluster), "it is held")
        await asyncio.sleep(3.5)
        turns.give("first")     # the second is next, and takes its time as well
        await held
        took = time.monotonic() - began
        turns.give()
        await asyncio.gather(*tasks)
        return held.result(), took
    held, took = run(go)
    assert held.status == 503 and held.headers["x-drover-reason"] == "queue_timeout"
    assert took >= 5
    assert turns.began[:2] == ["first", "second"] and "held" not in turns.began


# ---- leaving ----

def test_a_held_request_that_is_cancelled_leaves_its_turn_to_the_next(make_cluster, turns):
    cluster = start(make_cluster, turns)

    async def go():
        tasks = [await keep_busy(cluster, turns)]
        leaver = await open_request(cluster.api, "POST", CHAT, body_of("leaver", LONG),
                                    {"x-request-id": "leaver"})
        await look(lambda: "leaver" in queued(cluster), "it is held")
        tasks.append(send(cluster, "stays", LONG))
        await look(lambda: "stays" in queued(cluster), "it is held")
        leaver.abort()
        await look(lambda: queued(cluster) == {"stays"}, "the other is gone")
        turns.give()
        await all_of(cluster, tasks)
        # Nothing of the leaver is charged to anybody.
        await all_of(cluster, [send(cluster, "after")])
        decision = cluster.ctl_json("explain", "after")["decisions"][-1]
        assert [c["backlog_ms"] for c in decision["candidates"]] == [0]
    run(go)
    assert turns.began == ["first", "stays", "after"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_worker_with_the_first_plan_that_does_not_run_holds_up_no_other(make_cluster, turns, number):
    cluster = start(make_cluster, turns, workers=2)
    one, two = cluster.worker_pids()

    async def go():
        with cluster.only_worker(two):
            busy = await keep_busy(cluster, turns)
        with cluster.only_worker(one):
            first = send(cluster, "planned-first")
            await look(lambda: "planned-first" in queued(cluster), "it is held")
        with cluster.only_worker(two):
            second = send(cluster, "planned-second")
            await look(lambda: "planned-second" in queued(cluster), "it is held")
        os.kill(one, number)
        began = time.monotonic()
        turns.give()
        answers = [await busy, await second]
        took = time.monotonic() - began
        if number == signal.SIGKILL:
            await asyncio.gather(first, return_exceptions=True)
        else:
            os.kill(one, signal.SIGCONT)
            answers.append(await first)
        return answers, took
    answers, took = run(go)
    assert {answer.status for answer in answers} == {200}
    assert took < 1 * SLOW, took
    until(cluster.idle, 10, "no slot is lost")


@pytest.mark.alone
def test_a_node_that_goes_down_under_a_thousand_plans_stalls_nothing(make_cluster, turns):
    count = 1000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 8192), most))
    cluster = start(make_cluster, turns, slots=2 * count,
                    queue={"max_waiting": 2 * count, "max_wait_ms": 120000},
                    limits={"max_connections": 4096})
    lost = cluster.nodes[-1]
    worst = 0

    async def poll():
        nonlocal worst
        while True:
            began = time.monotonic()
            assert (await fetch(cluster.api, "GET", "/v1/models")).status == 200
            worst = max(worst, time.monotonic() - began)
            await asyncio.sleep(0.02)

    async def go():
        tasks = [await keep_busy(cluster, turns)]
        for number in range(count):
            tasks.append(send(cluster, f"r{number}"))
            if number % 50 == 49:
                await asyncio.sleep(0.05)
        await look(lambda: len(queued(cluster)) == count, "all are held", 30)
        cluster.start_node("y", f"slots={2 * count},models={MODEL},rate=2000,cache=none",
                           extra=("--queue", "0"))
        watch = asyncio.create_task(poll())
        lost.process.kill_all()
        answers = await asyncio.gather(*tasks)
        watch.cancel()
        return answers
    answers = run(go, 120)
    assert [answer.body for answer in answers if answer.status != 200] == []
    assert worst < 1 * SLOW, worst
    until(cluster.idle, 10, "no slot is lost")


# ---- two boxes ----

class Box:
    """An engine that takes in so many bytes a second, one prompt after the other."""

    def __init__(self, bytes_per_s):
        self.rate = bytes_per_s
        self.sizes = []
        self.turn = threading.Lock()
        self.engine = FakeEngine(self.behave)

    def behave(self, handler, path, body):
        self.sizes.append(len(body))
        with self.turn:
            time.sleep(len(body) / self.rate)
        handler.chat(body)


@pytest.mark.alone
def test_short_prompts_behind_long_ones_go_to_the_box_that_answers_first(make_cluster):
    """A home pair: the fast box is busy for seconds, and the slow one takes a short prompt in at once."""
    boxes = {"fast": Box(100_000), "slow": Box(10_000)}
    cluster = make_cluster(workers=2).start()
    for name, box in boxes.items():
        cluster.start_node(name, engine=box.engine.url, extra=("--slots", "8"), wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)

    async def go():
        for number in range(12):
            await all_of(cluster, [send(cluster, f"warm{number}", 20_000)])
        before = {name: len(box.sizes) for name, box in boxes.items()}
        longs = [send(cluster, f"long{number}", 300_000) for number in range(2)]
        await look(lambda: len(queued(cluster)) == 1, "one long prompt is held")
        began = time.monotonic()
        shorts = await asyncio.gather(*(send(cluster, f"short{number}", 300) for number in range(4)))
        took = time.monotonic() - began
        answers = await asyncio.gather(*longs)
        return before, shorts, answers, took
    try:
        before, shorts, longs, took = run(go)
    finally:
        for box in boxes.values():
            box.engine.close()
    assert {answer.status for answer in shorts + longs} == {200}
    assert {answer.headers["x-drover-node"] for answer in shorts} == {"slow"}
    assert {answer.headers["x-drover-node"] for answer in longs} == {"fast"}
    assert took < 3, "the first long prompt alone takes 3 s"
    assert [size > 2000 for size in boxes["slow"].sizes[before["slow"]:]] == [False] * 4
