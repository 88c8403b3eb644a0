"""A second attempt beside one that is slow: when it starts, who wins, what becomes of the loser."""

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from harness import SLOW, until
from load import chat_body, check_one_attempt, fetch, fetch_now, text_of

CHAT = "/v1/chat/completions"
SAMPLES = 3
FLOOR_MS = int(100 * max(SLOW, 1.5))  # what is quick must not look slow on a busy machine
LONG_MS = 2.5 * FLOOR_MS  # a request that is open for so long would have been hedged
QUICK = "quick"  # a prompt that is answered at once


class Rig:
    """Two engines behind two nodes.  Requests for anything but QUICK meet `script`: the first to
    arrive anywhere does script[0], the second script[1], ..."""

    def __init__(self, make_cluster, hedge, slots=4, about=None, more=None):
        self.lock = threading.Lock()
        self.script = []
        self.arrived = []  # names of engines, in the order the scripted requests came
        self.gone = []  # names of engines whose caller hung up before its answer began
        self.release = threading.Event()
        self.engines = {name: FakeEngine(self.behave_as(name), about=about) for name in "ab"}
        config = {"policy": "round_robin", **(more or {})}
        if hedge is not None:
            config["hedge"] = {"floor_ms": FLOOR_MS, "min_samples": SAMPLES, **hedge}
        self.cluster = make_cluster(config=config).start()
        for name, engine in self.engines.items():
            self.cluster.start_node(name, engine=engine.url, wait=False,
                                    extra=("--slots", str(slots), "--queue", "0"))
        for node in self.cluster.nodes:
            self.cluster.wait_up(node.name, node)
        self.warm_up(4 * SAMPLES)

    def behave_as(self, name):
        def behave(handler, path, body):
            if json.loads(body)["messages"][0]["content"] == QUICK:
                handler.chat(body, words=(name,))
                return
            with self.lock:
                turn = len(self.arrived)
                self.arrived.append(name)
            self.script[turn](name, handler, body)
        return behave

    # ---- what an engine can do ----

    def answer(self, name, handler, body):
        handler.chat(body, words=("from ", name))

    def hold(self, name, handler, body):
        """Says nothing until released, or until the caller has gone."""
        if self.wait(handler):
            self.answer(name, handler, body)
        else:
            self.gone.append(name)

    def be_slow(self, name, handler, body):
        """Says nothing until the caller has gone."""
        if handler.wait_gone(30 * SLOW):
            self.gone.append(name)

    def hold_after_role(self, name, handler, body):
        handler.begin_stream()
        document = chunk()
        document["choices"][0]["delta"] = {"role": "assistant", "content": ""}
        handler.send_event(document)
        if not self.wait(handler):
            self.gone.append(name)

    def stall_after_content(self, name, handler, body):
        handler.begin_stream()
        handler.send_event(chunk("from "))
        assert self.wait(handler), "the caller left"
        handler.send_event(chunk(name))
        handler.send_event(chunk(finish="stop"))
        handler.send_event(b"[DONE]")
        handler.end_stream()

    def begin_and_break(self, name, handler, body):
        handler.begin_stream()
        handler.send_event(chunk("from "))
        handler.drop()

    def end_as_begun(self, name, handler, body):
        """Goes on, as a llama-server that was given the beginning."""
        assert json.loads(body)["messages"][-1] == {"role": "assistant", "content": "from "}
        handler.chat(body, words=(name,))

    def end_when_released(self, name, handler, body):
        assert self.wait(handler), "the caller left"
        self.end_as_begun(name, handler, body)

    def fail(self, name, handler, body):
        handler.answer(500, {"error": {"message": "broken", "code": 500}})

    def refuse(self, name, handler, body):
        handler.answer(400, {"error": {"message": "not like this", "code": 400,
                                       "type": "invalid_request_error"}})

    def fail_when_released(self, name, handler, body):
        if self.wait(handler):
            self.fail(name, handler, body)

    def outlast_the_floor(self, name):
        """Waits until the worker itself shows that the request is old enough for a hedge."""
        until(lambda: any(row["id"] == name and row["age_ms"] >= LONG_MS
                          for row in self.cluster.open_requests()), 10, f"{name} has been open for long")

    def wait(self, handler):
        """True: released.  False: the caller hung up first."""
        while not self.release.wait(0.01):
            if handler.wait_gone(0.01):
                return False
        return True

    # ---- what a client does ----

    def warm_up(self, count):
        """So many quick answers, and at least SAMPLES of each node."""
        for number in range(200):
            answer = fetch_now(self.cluster.api, "POST", CHAT, self.body(QUICK))
            assert answer.status == 200, answer.body
            seen = [self.counter("ok", name) for name in "ab"]
            if number + 1 >= count and min(seen) >= SAMPLES:
                return
        raise AssertionError("a node was never chosen")

    def body(self, prompt, stream=True):
        return chat_body(prompt, 4, stream, model=FAKE)

    def ask(self, request_id, stream=True):
        return fetch_now(self.cluster.api, "POST", CHAT, self.body("scripted", stream),
                         {"x-request-id": request_id})

    def ask_aside(self, request_id, stream=True):
        """The same in the background: a function that gives the answer."""
        result = []
        thread = threading.Thread(target=lambda: result.append(self.ask(request_id, stream)),
                                  daemon=True)
        thread.start()

        def get():
            thread.join(60 * SLOW)
            assert result, f"{request_id} has no answer"
            return result[0]
        return get

    # ---- what can be seen ----

    def counter(self, name, node=None):
        return sum(self.cluster.ctl_json("node", each)["counters"][name]
                   for each in ([node] if node else "ab"))

    def metric(self, line):
        text = urllib.request.urlopen("http://%s:%d/metrics" % self.cluster.address("admin"),
                                      timeout=10 * SLOW).read().decode()
        found = [row.rsplit(" ", 1)[1] for row in text.splitlines() if row.startswith(line + " ")]
        return float(found[0]) if found else None

    def decisions(self, request_id):
        return sorted(self.cluster.ctl_json("explain", request_id)["decisions"],
                      key=lambda d: d["attempt"])

    def finish(self):
        self.release.set()
        self.cluster.wait_idle()
        for engine in self.engines.values():
            engine.close()


@pytest.fixture
def make_rig(make_cluster):
    made = []

    def make(hedge=None, **options):
        made.append(Rig(make_cluster, hedge, **options))
        return made[-1]
    yield make
    for rig in made:
        rig.finish()


def content_of(answer, stream):
    assert answer.status == 200, answer.body
    return text_of(answer.body) if stream else answer.json()["choices"][0]["message"]["content"]


def samples_of(rig, name):
    return rig.cluster.ctl_json("node", name)["latency"]["ttft"]["count"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
@pytest.mark.parametrize("slow", ["hold", "hold_after_role"])
def test_a_node_that_is_slow_to_its_first_token_is_overtaken(make_rig, slow, stream):
    rig = make_rig({"budget_pct": 100})
    rig.script = [getattr(rig, slow), rig.answer]
    failures = rig.counter("node_error"), rig.counter("client_gone")
    samples = {name: samples_of(rig, name) for name in "ab"}
    began = time.monotonic()
    answer = rig.ask("slow", stream)
    loser, winner = rig.arrived
    assert samples_of(rig, loser) == samples[loser] + 1, "what it took is not forgotten"
    assert samples_of(rig, winner) == samples[winner] + 1
    assert time.monotonic() - began >= FLOOR_MS / 1000
    assert winner != loser
    assert content_of(answer, stream) == f"from {winner}"
    assert answer.headers["x-drover-node"] == winner
    assert answer.headers["x-drover-attempts"] == "2"
    # The loser was cancelled immediately, though nothing released it, and holds no place any more.
    until(lambda: rig.gone == [loser], 5, "the loser's engine was let go of")
    rig.cluster.wait_idle()
    assert (rig.counter("node_error"), rig.counter("client_gone")) == failures
    assert rig.counter("overtaken", loser) == 1
    assert rig.counter("hedges", winner) == rig.counter("hedges_won", winner) == 1
    until(lambda: rig.metric(f'drover_node_hedges_won_total{{node="{winner}"}}') == 1, 5, "metric")
    assert rig.metric(
        f'drover_node_attempts_total{{node="{loser}",outcome="overtaken"}}') == 1
    assert rig.cluster.node_state(loser) == "UP"
    line = rig.cluster.access_line("slow")
    assert (line["hedge"], line["attempts"], line["node"]) == ("won", 2, winner)
    assert [(d["node"], d["hedge"]) for d in rig.decisions("slow")] == [
        (loser, False), (winner, True)]
    assert "attempt 2 (hedge)" in rig.cluster.ctl("explain", "slow").stdout


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
def test_the_first_attempt_may_win_after_all(make_rig, stream):
    rig = make_rig({"budget_pct": 100})
    rig.script = [rig.hold, rig.be_slow]
    get = rig.ask_aside("late", stream)
    until(lambda: len(rig.arrived) == 2, 20, "the hedge has begun")
    until(lambda: len(rig.cluster.open_requests()) == 2, 5, "both legs are shown")
    rig.release.set()
    answer = get()
    first, hedge = rig.arrived
    assert content_of(answer, stream) == f"from {first}"
    assert answer.headers["x-drover-node"] == first
    until(lambda: rig.gone == [hedge], 5, "the hedge's engine was let go of")
    assert rig.cluster.access_line("late")["hedge"] == "lost"
    assert rig.counter("hedges", hedge) == 1 and rig.counter("hedges_won") == 0
    assert rig.counter("overtaken", hedge) == 1


def test_it_is_off_by_default(make_rig):
    rig = make_rig()
    rig.script = [rig.hold, rig.answer]
    get = rig.ask_aside("patient")
    until(lambda: rig.arrived, 10, "it has begun")
    rig.outlast_the_floor("patient")
    assert len(rig.arrived) == 1
    rig.release.set()
    assert content_of(get(), True) == f"from {rig.arrived[0]}"
    assert rig.cluster.access_line("patient")["hedge"] is None


def test_hedges_stop_when_their_budget_is_spent_and_go_on_when_there_is_more(make_rig):
    rig = make_rig({"budget_pct": 10})  # at least 12 answers so far: enough for one, not for two
    while rig.counter("ok") % 10 != 5:
        rig.warm_up(1)
    saved = rig.counter("ok") // 10
    for number in range(saved):
        rig.arrived.clear()
        rig.script = [rig.hold, rig.answer]
        content_of(rig.ask(f"paid-{number}"), True)
        assert len(rig.arrived) == 2
    # Each of these answers put something back; what is missing to the next hedge comes by one.
    rig.arrived.clear()
    rig.script = [rig.hold, rig.answer]
    answered = rig.counter("ok")
    assert answered // 10 == saved, "the test must stay within one hedge's worth of answers"
    get = rig.ask_aside("broke")
    until(lambda: rig.arrived, 10, "it has begun")
    rig.outlast_the_floor("broke")
    assert len(rig.arrived) == 1, "hedged without budget"
    while rig.counter("ok") < 10 * (saved + 1):
        rig.warm_up(1)
    answer = get()
    assert content_of(answer, True) == f"from {rig.arrived[1]}"
    assert rig.counter("hedges") == saved + 1
    assert rig.cluster.access_line("broke")["hedge"] == "won"


def test_it_starts_only_where_a_slot_is_free_and_as_soon_as_one_is(make_rig):
    rig = make_rig({"budget_pct": 100}, slots=1)
    rig.script = [rig.stall_after_content, rig.be_slow, rig.answer]
    busy = rig.ask_aside("busy")
    until(lambda: len(rig.arrived) == 1, 10, "one node is busy")
    slow = rig.ask_aside("slow")
    until(lambda: len(rig.arrived) == 2, 10, "the other is, too")
    rig.outlast_the_floor("slow")
    assert len(rig.arrived) == 2, "a hedge beyond the slots"
    rig.release.set()
    assert content_of(busy(), True) == f"from {rig.arrived[0]}"
    assert content_of(slow(), True) == f"from {rig.arrived[0]}"
    assert rig.cluster.access_line("slow")["hedge"] == "won"


def test_there_is_none_while_retries_are_throttled(make_rig):
    rig = make_rig({"budget_pct": 100},
                   more={"health": {"eject_failures": 0, "eject_success_pct": 0}})
    rig.script = [rig.fail] * 100
    for number in range(20):
        answer = rig.ask(f"fails-{number}")
        assert answer.status == 502, answer.body
        if answer.headers["x-drover-attempts"] == "1":
            break
    else:
        raise AssertionError("retries were never throttled")
    rig.arrived.clear()
    rig.script = [rig.hold, rig.answer]
    get = rig.ask_aside("throttled")
    until(lambda: rig.arrived, 10, "it has begun")
    rig.outlast_the_floor("throttled")
    assert len(rig.arrived) == 1, "hedged while retries are throttled"
    rig.warm_up(1)  # one answer more, and they are not
    answer = get()
    assert content_of(answer, True) == f"from {rig.arrived[1]}"
    assert rig.cluster.access_line("throttled")["hedge"] == "won"


def test_an_answer_that_has_begun_is_not_hedged(make_rig):
    rig = make_rig({"budget_pct": 100})
    rig.script = [rig.stall_after_content, rig.answer]
    get = rig.ask_aside("begun")
    until(lambda: rig.arrived, 10, "it has begun")
    rig.outlast_the_floor("begun")
    assert len(rig.arrived) == 1
    rig.release.set()
    assert content_of(get(), True) == f"from {rig.arrived[0]}"
    assert rig.counter("hedges") == 0


def test_an_answer_that_goes_on_elsewhere_is_not_hedged(make_rig):
    rig = make_rig({"budget_pct": 100}, about={"owned_by": "llamacpp"})
    rig.script = [rig.begin_and_break, rig.end_when_released, rig.answer]
    get = rig.ask_aside("resumed")
    until(lambda: len(rig.arrived) == 2, 10, "it goes on")
    rig.outlast_the_floor("resumed")
    assert len(rig.arrived) == 2
    rig.release.set()
    assert content_of(get(), True) == f"from {rig.arrived[1]}"
    assert rig.counter("hedges") == 0


def test_a_hedge_that_won_and_is_lost_goes_on_elsewhere_like_any_answer(make_rig):
    rig = make_rig({"budget_pct": 100}, about={"owned_by": "llamacpp"})
    rig.script = [rig.be_slow, rig.begin_and_break, rig.end_as_begun]
    answer = rig.ask("won-and-lost")
    first, second, third = rig.arrived
    assert third == first != second, "who was overtaken has not failed"
    assert content_of(answer, True) == f"from {third}"
    line = rig.cluster.access_line("won-and-lost")
    assert (line["hedge"], line["attempts"], line["outcome"]) == ("won", 3, "ok")


def test_a_node_is_not_called_slow_before_enough_is_known_of_it(make_rig):
    rig = make_rig({"budget_pct": 100, "min_samples": 1000})
    rig.script = [rig.hold, rig.answer]
    get = rig.ask_aside("unknown")
    until(lambda: rig.arrived, 10, "it has begun")
    rig.outlast_the_floor("unknown")
    assert len(rig.arrived) == 1
    rig.release.set()
    content_of(get(), True)


def test_a_hedge_that_fails_leaves_the_first_attempt_alone(make_rig):
    rig = make_rig({"budget_pct": 100})
    rig.script = [rig.hold, rig.fail]
    get = rig.ask_aside("failed-hedge")
    until(lambda: rig.counter("node_error") == 1, 20, "the hedge has failed")
    until(lambda: len(rig.cluster.open_requests()) == 1, 5, "its row is closed")
    rig.release.set()
    answer = get()
    assert content_of(answer, True) == f"from {rig.arrived[0]}"
    assert answer.headers["x-drover-attempts"] == "2"
    assert len(rig.arrived) == 2, "one hedge in a request's life"


def test_a_first_attempt_that_fails_leaves_the_hedge_alone(make_rig):
    rig = make_rig({"budget_pct": 100})

    def answer_after_failure(name, handler, body):
        rig.release.set()
        until(lambda: rig.counter("node_error") == 1, 20, "the first attempt has failed")
        rig.answer(name, handler, body)
    rig.script = [rig.fail_when_released, answer_after_failure]
    answer = rig.ask("failed-first")
    assert content_of(answer, True) == f"from {rig.arrived[1]}"
    assert answer.headers["x-drover-attempts"] == "2"
    assert len(rig.arrived) == 2
    assert rig.cluster.access_line("failed-first")["hedge"] == "won"


def test_a_refusal_leaves_the_other_attempt_alone(make_rig):
    rig = make_rig({"budget_pct": 100})
    rig.script = [rig.hold, rig.refuse]
    get = rig.ask_aside("refused-hedge")
    until(lambda: rig.counter("client_error") == 1, 20, "the hedge was refused")
    rig.release.set()
    assert content_of(get(), True) == f"from {rig.arrived[0]}"


def test_a_refusal_of_both_is_the_answer(make_rig):
    def refuse_when_released(name, handler, body):
        assert rig.wait(handler)
        rig.refuse(name, handler, body)
    rig = make_rig({"budget_pct": 100})
    rig.script = [refuse_when_released, rig.refuse]
    get = rig.ask_aside("refused")
    until(lambda: rig.counter("client_error") == 1, 20, "the hedge was refused")
    rig.release.set()
    answer = get()
    assert answer.status == 400 and b"not like this" in answer.body


def test_a_client_that_leaves_ends_both(make_rig):
    rig = make_rig({"budget_pct": 100})
    rig.script = [rig.hold, rig.hold]

    async def go():
        task = asyncio.create_task(fetch(rig.cluster.api, "POST", CHAT, rig.body("scripted"),
                                         {"x-request-id": "leaver"}))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, until, lambda: len(rig.arrived) == 2, 20, "two legs")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    asyncio.run(go())
    until(lambda: sorted(rig.gone) == ["a", "b"], 10, "both engines are free")
    rig.cluster.wait_idle()
    assert rig.cluster.access_line("leaver")["outcome"] == "client_gone"


def test_a_worker_that_is_killed_with_two_attempts_open_leaves_no_place_taken(make_rig):
    rig = make_rig({"budget_pct": 100})
    rig.script = [rig.be_slow, rig.be_slow]

    async def go():
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(fetch(rig.cluster.api, "POST", CHAT, rig.body("scripted")))
        await loop.run_in_executor(None, until, lambda: len(rig.arrived) == 2, 20, "two legs")
        rows = await loop.run_in_executor(None, rig.cluster.open_requests)
        assert len(rows) == 2 and len({row["node"] for row in rows}) == 2
        os.kill(rig.cluster.worker_pids()[rows[0]["worker"]], signal.SIGKILL)
        await asyncio.gather(task, return_exceptions=True)
    asyncio.run(go())
    until(lambda: sorted(rig.gone) == ["a", "b"], 10, "both engines are free")
    rig.cluster.wait_idle()
    assert rig.cluster.violations() == 0
    rig.warm_up(1)


def test_many_slow_requests_at_once_leave_nothing_behind(make_cluster):
    """Simulated engines, two workers: every answer is whole, from one attempt, and hedges stay
    within what the answers have saved."""
    cluster = make_cluster(config={
        "hedge": {"budget_pct": 20, "floor_ms": 1, "min_samples": 5}}).start()
    for name in "abc":
        cluster.start_node(name, "slots=8,speed=20", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)

    async def go():
        gate = asyncio.Semaphore(12)

        async def one(number):
            # One in five hangs where it is sent first; it comes by a hedge, or by its limit.
            more = {"drover_sim": {"fault": "hang", "only_attempt": 0}} if number % 5 == 4 else {}
            async with gate:
                return await fetch(cluster.api, "POST", CHAT,
                                   chat_body(f"number {number}", 8, **more))
        return await asyncio.gather(*(one(number) for number in range(150)))
    cluster.write_config(limits={"first_token_ms": int(500 * SLOW)})
    cluster.ctl("reload")
    for answer in asyncio.run(go()):
        assert answer.status == 200, answer.body
        text_of(answer.body)
        check_one_attempt(answer.body)
    cluster.wait_idle()
    assert cluster.violations() == 0
    counters = [cluster.ctl_json("node", name)["counters"] for name in "abc"]
    total = {name: sum(each[name] for each in counters)
             for name in ("ok", "hedges", "hedges_won", "overtaken")}
    assert total["ok"] == 150
    assert 0 < total["hedges_won"] <= total["hedges"] <= 0.2 * 150
    assert total["overtaken"] <= total["hedges"]
