"""Requests that wait for a place: in which order, for how long, and that none of them is lost."""

import asyncio
import json
import os
import re
import resource
import signal
import threading
import time
import urllib.request
from contextlib import nullcontext

import grpc
import pytest

from fake_engine import MODEL as FAKE, FakeEngine
from fake_node import FakeNode, inference
from harness import POLL_S, SLOW, until
from load import Closed, chat_body, fetch, fetch_now, open_request, text_of
from test_clients import BackgroundClient

CHAT = "/v1/chat/completions"


class Gate:
    """An engine that keeps each request until it may go on; it remembers the order they came in."""

    def __init__(self):
        self.open = False
        self.order = []  # the prompts, as they reached the engine
        self.at = []  # and when
        self.engine = FakeEngine(self.behave)

    def behave(self, handler, path, body):
        self.order.append(json.loads(body)["messages"][0]["content"])
        self.at.append(time.monotonic())
        while not self.open and not self.engine.stopping.is_set():
            time.sleep(0.005)
        self.pause()
        handler.chat(body)

    def pause(self):
        pass


def waiting(cluster):
    return [row for row in cluster.open_requests() if row["phase"] == "queued"]


class Line:
    """A cluster with one place to be served at, which is taken, and requests that wait for it."""

    def __init__(self, make_cluster, gate=None, workers=2, config=None, **queue):
        self.gate = gate or Gate()
        self.cluster = make_cluster(workers=workers, config={
            **(config or {}), "queue": {"max_wait_ms": 120000, **queue}}).start()
        self.cluster.start_node("only", engine=self.gate.engine.url,
                                extra=("--slots", "1", "--queue", "0"))
        self.tasks = []

    async def look(self, condition, what, bound_s=10):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, until, condition, bound_s, what)

    def send(self, prompt, priority=None, stream=True):
        headers = {"x-request-id": prompt}
        if priority:
            headers["x-drover-priority"] = priority
        task = asyncio.create_task(fetch(self.cluster.api, "POST", CHAT,
                                         chat_body(prompt, 4, stream, model=FAKE), headers))
        self.tasks.append(task)
        return task

    async def begin(self):
        """Takes the one place."""
        self.send("first")
        await self.look(lambda: self.gate.order, "the place is taken")

    async def fill(self):
        """Lets some wait at each of two workers; their names, in the order they came."""
        names = []
        while True:
            workers = [row["worker"] for row in waiting(self.cluster)]
            lacking = [row["pid"] for row in self.cluster.worker_rows()
                       if row["pid"] and workers.count(row["process"]) < 3]
            if not lacking:
                break
            names.append(f"r{len(names)}")
            # The quicker one takes it, unless that is the same one again and again.
            with self.cluster.only_worker(lacking[0]) if len(names) > 12 else nullcontext():
                self.send(names[-1])
                await self.queued(len(names))
        await self.look(lambda: all(row["heartbeat_age_ms"] < 500
                                    for row in self.cluster.worker_rows()), "all workers turn")
        return names

    async def queued(self, count):
        await self.look(lambda: len(waiting(self.cluster)) == count, f"{count} wait")

    async def finish(self):
        self.gate.open = True
        answers = await asyncio.gather(*self.tasks)
        for answer in answers:
            assert answer.status == 200, answer.body
            text_of(answer.body)
        return answers

    def run(self, go, bound_s=60):
        try:
            return asyncio.run(asyncio.wait_for(go(), bound_s * SLOW))
        finally:
            self.gate.engine.close()


def test_requests_are_served_in_the_order_they_came_over_all_workers(make_cluster):
    line = Line(make_cluster)

    async def go():
        await line.begin()
        names = await line.fill()
        return names, await line.finish()
    names, answers = line.run(go)
    assert line.gate.order == ["first"] + names
    assert all(int(answer.headers["x-drover-queue-ms"]) > 0 for answer in answers[1:])


def test_a_more_urgent_class_goes_first_and_each_class_keeps_its_order(make_cluster):
    line = Line(make_cluster)

    async def go():
        await line.begin()
        count = 0
        for number in range(3):
            for name in ("bulk", "default", "interactive"):
                line.send(f"{name}{number}", name)
                count += 1
                await line.queued(count)
        await line.finish()
    line.run(go)
    assert line.gate.order == ["first"] + [f"{name}{number}" for name in
                                           ("interactive", "default", "bulk")
                                           for number in range(3)]


def test_the_configuration_gives_a_class_to_those_who_name_none(make_cluster):
    line = Line(make_cluster, config={
        "priority": "bulk", "models": [{"name": FAKE, "priority": "interactive"}]})

    async def go():
        await line.begin()
        for count, (name, priority) in enumerate(
                [("says bulk", "bulk"), ("says default", "default"), ("says nothing", None)], 1):
            line.send(name, priority)
            await line.queued(count)
        await line.finish()
    line.run(go)
    assert line.gate.order == ["first", "says nothing", "says default", "says bulk"]


def test_a_bulk_request_under_constant_urgent_load_waits_20_s_and_no_longer(make_cluster):
    gate = Gate()
    gate.pause = lambda: time.sleep(0.1)
    line = Line(make_cluster, gate)
    sent = {}

    async def go():
        await line.begin()
        patient = {}
        for name in ("default", "bulk"):
            sent[name] = time.monotonic()
            patient[name] = line.send(name, name)
        await line.queued(2)

        async def urgent(number):
            turn = 0
            while not patient["bulk"].done():
                name = f"u{number}-{turn}"
                turn += 1
                sent[name] = time.monotonic()
                await line.send(name, "interactive")
        pressing = [asyncio.create_task(urgent(number)) for number in range(4)]
        await line.queued(6)
        gate.open = True
        await asyncio.gather(*pressing)
        await line.finish()
    line.run(go)
    served = dict(zip(gate.order, gate.at))
    # Four urgent ones at 0.1 s each: what came before a key's time may still be ahead of it.  And a
    # key has ten times the prefill, which the gate makes up to 0.1 s for those that come later.
    for name, offset_s in (("default", 5), ("bulk", 20)):
        waited = served[name] - sent[name]
        assert offset_s - 1.5 <= waited <= offset_s + 3 * SLOW, (name, waited)
        for other, at in sent.items():
            if other.startswith("u") and other in served and at > sent[name] + offset_s + 0.5:
                assert served[other] > served[name], (name, other)


def test_a_full_queue_is_429_and_a_client_that_leaves_it_makes_room(make_cluster):
    line = Line(make_cluster, max_waiting=2)
    cluster = line.cluster

    async def go():
        await line.begin()
        leaver = await open_request(cluster.api, "POST", CHAT,
                                    chat_body("leaver", 4, model=FAKE))
        line.send("stays")
        await line.queued(2)
        full = await fetch(cluster.api, "POST", CHAT, chat_body("no", 4, model=FAKE))
        leaver.abort()
        await line.queued(1)
        line.send("instead")
        await line.queued(2)
        await line.finish()
        return full
    full = line.run(go)
    assert full.status == 429, full.body
    assert 1 <= int(full.headers["retry-after"]) <= 60
    assert full.headers["x-drover-reason"] == "queue_full"
    assert sum(row["requests_rejected"] for row in cluster.ctl_rows("workers")) == 1
    assert full.json()["error"]["code"]
    assert line.gate.order == ["first", "stays", "instead"]


def test_a_models_own_limit_of_its_queue_counts_and_not_that_of_all(make_cluster):
    line = Line(make_cluster, config={"models": [{"name": FAKE, "queue": {"max_waiting": 2}}]})

    async def go():
        await line.begin()
        for count in (1, 2):
            line.send(f"waits {count}")
            await line.queued(count)
        refused = await fetch(line.cluster.api, "POST", CHAT, chat_body("third", 4, model=FAKE))
        await line.finish()
        return refused
    refused = line.run(go)
    assert refused.status == 429 and refused.headers["x-drover-reason"] == "queue_full"


def test_a_request_that_waits_too_long_gets_a_503_that_says_when_to_come_back(make_cluster):
    line = Line(make_cluster, max_wait_ms=300)

    async def go():
        await line.begin()
        late = await fetch(line.cluster.api, "POST", CHAT, chat_body("late", 4, model=FAKE))
        await line.finish()
        return late
    late = line.run(go)
    assert late.status == 503, late.body
    assert late.headers["x-drover-reason"] == "queue_timeout"
    assert 1 <= int(late.headers["retry-after"]) <= 60
    assert line.gate.order == ["first"]


def test_a_moment_without_any_node_costs_no_old_request_its_place(make_cluster):
    line = Line(make_cluster)
    cluster = line.cluster

    async def go():
        await line.begin()
        line.send("waits")
        await line.queued(1)
        begun = time.monotonic()
        await line.look(lambda: time.monotonic() - begun > 2.5, "longer than a wait for nodes")
        cluster.ctl("drain", "only")
        await line.look(lambda: cluster.node_state("only") == "DRAINING", "nobody is up")
        drained = time.monotonic()
        while time.monotonic() - drained < 0.7:
            assert len(waiting(cluster)) == 1, "its place is gone"
            await asyncio.sleep(POLL_S)
        cluster.ctl("undrain", "only")
        await line.finish()
    line.run(go)
    assert line.gate.order == ["first", "waits"]


def worker_that_does_not_serve(cluster):
    """The row of a worker other than the one that has `first`, and what waits there."""
    rows = cluster.open_requests()
    serving = next(row["worker"] for row in rows if row["id"] == "first")
    other = next(row for row in cluster.worker_rows() if row["process"] != serving)
    return other, {row["id"] for row in rows if row["worker"] == other["process"]}


def test_a_worker_that_is_killed_with_waiters_loses_only_its_own(make_cluster):
    line = Line(make_cluster)
    cluster = line.cluster

    async def go():
        await line.begin()
        names = await line.fill()
        other, theirs = worker_that_does_not_serve(cluster)
        os.kill(other["pid"], signal.SIGKILL)
        await line.queued(len(names) - len(theirs))
        line.gate.open = True
        results = await asyncio.gather(*line.tasks, return_exceptions=True)
        return names, theirs, results
    names, theirs, results = line.run(go)
    kept = [name for name in ["first"] + names if name not in theirs]
    lost = {name for name, result in zip(["first"] + names, results)
            if isinstance(result, Exception)}
    assert lost == theirs and len(theirs) >= 3
    assert all(result.status == 200 for result in results if not isinstance(result, Exception))
    assert line.gate.order == kept
    cluster.wait_idle()


def test_a_worker_that_stands_still_does_not_hold_up_the_queue_of_the_others(make_cluster):
    line = Line(make_cluster)
    cluster = line.cluster

    async def go():
        await line.begin()
        names = await line.fill()
        other, theirs = worker_that_does_not_serve(cluster)
        mine = {"first", *names} - theirs
        os.kill(other["pid"], signal.SIGSTOP)
        try:
            line.gate.open = True
            await line.look(lambda: set(line.gate.order) == mine, "those of the other are served")
        finally:
            os.kill(other["pid"], signal.SIGCONT)
        await line.finish()
        return names
    names = line.run(go)
    assert sorted(line.gate.order) == sorted(["first"] + names)


def test_those_who_wait_during_a_reload_are_served(make_cluster):
    line = Line(make_cluster)
    cluster = line.cluster

    async def go():
        await line.begin()
        names = await line.fill()
        loop = asyncio.get_running_loop()
        old = set(cluster.worker_pids())
        await loop.run_in_executor(None, cluster.ctl, "reload")
        await line.look(lambda: len(now := set(cluster.worker_pids())) == 2 and not now & old,
                        "new workers")
        for number in range(4):
            line.send(f"new{number}")
            await line.queued(len(names) + number + 1)
        await line.finish()
        return names
    names = line.run(go)
    assert line.gate.order == ["first"] + names + [f"new{number}" for number in range(4)]


def test_a_stream_that_waits_gets_comments_and_then_completes(make_cluster):
    line = Line(make_cluster, comment_after_ms=200)
    cluster = line.cluster

    async def reported_so(prompt, count):
        """A stream that is the count-th to wait, and the first comment it gets."""
        answer = await open_request(cluster.api, "POST", CHAT, chat_body(prompt, 4, model=FAKE))
        await line.queued(count)
        await answer.read_head()
        events = answer.events()
        return answer, events, await anext(events)

    async def go():
        await line.begin()
        client = BackgroundClient("openai", cluster.url, "stream", model=FAKE)
        await line.queued(1)
        plain = asyncio.create_task(fetch(cluster.api, "POST", CHAT,
                                          chat_body("plain", 4, False, model=FAKE)))
        await line.queued(2)
        told = [await reported_so("one", 3), await reported_so("another", 4)]
        line.gate.open = True  # not before their comments
        for answer, events, _ in told:
            async for _ in events:
                pass
            answer.close()
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(None, client.result)
        await line.finish()
        return told, text, await plain
    told, text, plain = line.run(go)
    for answer, _, first in told:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        # One for each worker's line: what stands behind it in another worker's is not known.
        assert re.fullmatch(rb": drover queued pos=[1-4] eta=[0-9]+s", first), first
        assert text_of(answer.body) == "Hello there."
    assert text == "Hello there."
    assert plain.status == 200 and plain.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("status", [400, 500])
def test_an_error_after_a_stream_was_begun_for_waiting_is_an_event(make_cluster, status):
    gate = Gate()
    refuse = {"error": {"message": "it does not fit", "type": "x", "code": status}}
    serve = gate.behave

    def behave(handler, path, body):
        if json.loads(body)["messages"][0]["content"] == "refuse":
            handler.answer(status, refuse)
        else:
            serve(handler, path, body)
    gate.engine.behave = behave
    line = Line(make_cluster, gate, comment_after_ms=100)

    async def go():
        await line.begin()
        told = await open_request(line.cluster.api, "POST", CHAT,
                                  chat_body("refuse", 4, model=FAKE))
        await told.read_head()
        events = []
        async for event in told.events():
            events.append(event)
            gate.open = True
        told.close()
        await line.finish()
        return told, events
    told, events = line.run(go)
    assert told.status == 200
    assert events[0].startswith(b": drover queued pos=1")
    assert events[-1] == b"data: [DONE]"
    error = json.loads(events[-2].removeprefix(b"data: "))["error"]
    assert "it does not fit" in error["message"] or status == 500, error
    assert error["type"] and isinstance(error["code"], str)


class Bouncing(Gate):
    """Says once to "first" that it is full, after a while."""

    def __init__(self):
        self.full = threading.Event()
        super().__init__()

    def behave(self, handler, path, body):
        if json.loads(body)["messages"][0]["content"] == "first" and "first" not in self.order:
            self.order.append("first")
            assert self.full.wait(60 * SLOW)
            handler.answer(429, {"error": {"message": "full", "code": 429}})
            return
        super().behave(handler, path, body)


def test_a_request_that_met_a_full_node_is_not_rejected_by_the_queue_that_grew_meanwhile(make_cluster):
    line = Line(make_cluster, gate=Bouncing(), workers=1, max_waiting=2)

    async def go():
        await line.begin()
        for count in (1, 2):
            line.send(f"waits {count}")
            await line.queued(count)
        refused = await fetch(line.cluster.api, "POST", CHAT, chat_body("late", 4, model=FAKE))
        line.gate.full.set()
        await line.look(lambda: len(line.gate.order) == 2, "the place is taken")
        await line.queued(2)
        answers = await line.finish()
        return refused, answers[0]
    refused, first = line.run(go)
    assert refused.status == 429, "the line was as long as it may be"
    assert first.status == 200 and first.headers["x-drover-attempts"] == "1"
    assert line.gate.order == ["first", "first", "waits 1", "waits 2"]


class FullNode(FakeNode):
    """Its own admission refuses everybody until it is open."""

    def __init__(self, name):
        self.open = False
        self.asked = []
        super().__init__(name)
        self.slots = 1
        self.infer_gate.set()

    def infer(self, request, context):
        if not self.open:
            self.asked.append((time.monotonic(), request.request_id))
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "100"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        yield from super().infer(request, context)


def test_a_full_node_is_not_asked_by_all_who_wait_one_after_the_other(make_cluster):
    node = FullNode("box")
    cluster = make_cluster(workers=1, token=False, config={
        "nodes": [{"name": "box", "address": f"127.0.0.1:{node.port}"}]}).start()
    cluster.wait_up("box")

    async def go():
        loop = asyncio.get_running_loop()
        tasks = []
        for number in range(10):
            tasks.append(asyncio.create_task(fetch(
                cluster.api, "POST", CHAT, chat_body("x", 4, False, model="fake-model"),
                {"x-request-id": f"r{number}"})))
            await loop.run_in_executor(None, until, lambda: len(cluster.open_requests()) == len(tasks),
                                       5, "it waits")
        asked = len(node.asked)
        await loop.run_in_executor(None, until, lambda: len(node.asked) >= asked + 20, 10,
                                   "the node is asked again and again")
        node.open = True
        return await asyncio.gather(*tasks)
    try:
        answers = asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
    finally:
        node.stop()
    times, who = zip(*node.asked)
    assert times[-1] - times[0] >= 0.8 * 0.05 * (len(times) - 1), "once every 50 ms, over all"
    assert len(set(who)) > 1, "who is refused again and again does not hold up the others"
    assert [answer.status for answer in answers] == [200] * 10


class Flooding(FakeNode):
    """Serves one request when released; to the next it says much without content, as often as it can."""

    PIECE = b": nothing\n\n" * 6000

    def __init__(self, event_stream):
        self.event_stream = event_stream
        self.asked = 0
        self.sent = 0
        self.stopped = threading.Event()
        super().__init__("box")
        self.slots = 1

    def infer(self, request, context):
        self.asked += 1
        if self.asked == 1:
            yield from super().infer(request, context)
            return
        yield inference.InferEvent(head=inference.ResponseHead(
            http_status=200 if self.event_stream else 400, event_stream=self.event_stream,
            content_type="text/event-stream" if self.event_stream else "application/json"))
        try:
            while self.sent < 64 << 20:
                yield inference.InferEvent(chunk=inference.Chunk(data=self.PIECE))
                self.sent += len(self.PIECE)
        finally:
            self.stopped.set()


@pytest.mark.parametrize("event_stream", [True, False], ids=["stream", "refusal"])
def test_the_text_held_for_a_stream_that_was_begun_early_is_bounded(make_cluster, event_stream):
    node = Flooding(event_stream)
    cluster = make_cluster(workers=1, token=False, config={
        "queue": {"comment_after_ms": 100},
        "nodes": [{"name": "box", "address": f"127.0.0.1:{node.port}"}]}).start()
    cluster.wait_up("box")
    body = chat_body("x", 4, model="fake-model")

    async def go():
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(fetch(cluster.api, "POST", CHAT, body))
        await loop.run_in_executor(None, until, lambda: node.asked, 10, "the place is taken")
        told = await open_request(cluster.api, "POST", CHAT, body)
        await told.read_head()
        node.infer_gate.set()
        await first
        if event_stream:  # which is not read, so the node has to wait
            until_full = lambda: node.sent > 1 << 20
            await loop.run_in_executor(None, until, until_full, 10, "much is held")
        else:
            await loop.run_in_executor(None, until, node.stopped.is_set, 10, "it is cancelled")
        sent, since = node.sent, time.monotonic()
        while time.monotonic() - since < 0.5 * SLOW:  # it must not go on
            if sent != node.sent:
                sent, since = node.sent, time.monotonic()
            await asyncio.sleep(POLL_S)
        told.abort()
        return sent
    try:
        sent = asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
        assert sent < 16 << 20, "as much as the node likes"
        cluster.wait_idle()
    finally:
        node.stop()


class Lingering(FakeNode):
    """Gives whole answers, and does not end the call."""

    def __init__(self, name):
        self.ended = threading.Event()
        super().__init__(name)
        self.infer_gate.set()

    def infer(self, request, context):
        context.add_callback(self.ended.set)
        yield from super().infer(request, context)
        self.ended.wait()


def test_a_node_that_does_not_end_the_call_of_a_whole_answer_keeps_no_place(make_cluster):
    node = Lingering("box")
    cluster = make_cluster(workers=1, token=False, config={
        "nodes": [{"name": "box", "address": f"127.0.0.1:{node.port}"}]}).start()
    cluster.wait_up("box")
    try:
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body("x", 4, False, model="fake-model"))
        assert answer.status == 200
        until(node.ended.is_set, 10, "the call is cancelled")
        cluster.wait_idle()
        assert cluster.ctl_json("node", "box")["counters"]["ok"] == 1
    finally:
        node.ended.set()
        node.stop()


class Breaking(FakeNode):
    """Breaks off a document of which the client has seen the beginning."""

    def infer(self, request, context):
        yield inference.InferEvent(head=inference.ResponseHead(
            http_status=200, content_type="application/json"))
        for _ in range(80):
            yield inference.InferEvent(chunk=inference.Chunk(data=b" " * 32768))
        context.abort(grpc.StatusCode.INTERNAL, "broken")


def test_a_document_that_had_to_be_cut_off_is_not_logged_as_the_clients_doing(make_cluster):
    node = Breaking("box")
    cluster = make_cluster(workers=1, token=False, config={
        "nodes": [{"name": "box", "address": f"127.0.0.1:{node.port}"}]}).start()
    cluster.wait_up("box")
    try:
        with pytest.raises(Closed):
            fetch_now(cluster.api, "POST", CHAT, chat_body("x", 4, False, model="fake-model"),
                      {"x-request-id": "cut"})
        line = cluster.access_line("cut")
    finally:
        node.stop()
    assert (line["outcome"], line["status"], line["reason"]) == ("node_error", 200, "node_failed")


def test_two_coordinators_share_a_node_that_knows_better_than_they_do(make_cluster):
    gate = Gate()
    clusters = []
    address = None
    for _ in range(2):
        cluster = make_cluster(token=False, config={} if address is None else {
            "nodes": [{"name": "shared", "address": address}]})
        if address is None:
            node = cluster.start_node("shared", engine=gate.engine.url, join=False, wait=False,
                                      extra=("--slots", "1", "--queue", "0"))
            address = node.address()
            cluster.settings["nodes"] = [{"name": "shared", "address": address}]
        cluster.start()
        cluster.wait_up("shared")
        clusters.append(cluster)

    async def go():
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(fetch(clusters[0].api, "POST", CHAT,
                                          chat_body("first", 4, model=FAKE)))
        await loop.run_in_executor(None, until, lambda: gate.order, 5, "the place is taken")
        others = [asyncio.create_task(fetch(clusters[1].api, "POST", CHAT,
                                            chat_body(f"other{number}", 4, model=FAKE)))
                  for number in range(5)]
        await loop.run_in_executor(None, until, lambda: len(waiting(clusters[1])) >= 4, 5,
                                   "the others wait")
        assert gate.order == ["first"]
        gate.open = True
        return await asyncio.gather(first, *others)
    answers = asyncio.run(asyncio.wait_for(go(), 30 * SLOW))
    gate.engine.close()
    for answer in answers:
        assert answer.status == 200, answer.body
        assert answer.headers["x-drover-attempts"] == "1", "being full is no failure"
        text_of(answer.body)
    assert sorted(gate.order) == ["first"] + [f"other{number}" for number in range(5)]


def test_ten_thousand_that_wait_are_all_served(make_cluster):
    count, slots = 10000, 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > count + 1000, f"this test needs more than {hard} descriptors (ulimit -Hn)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        drain_many(make_cluster, count, slots)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def drain_many(make_cluster, count, slots):
    cluster = make_cluster(config={"queue": {"max_waiting": 2 * count, "max_wait_ms": 300000,
                                             "comment_after_ms": 0},
                                   "limits": {"max_connections": 2 * count}}).start()
    cluster.start_node("only", f"slots={slots},speed=100", extra=("--queue", "0"))

    def queued():
        text = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                      timeout=10 * SLOW).read().decode()
        return int(re.search(r"^drover_requests_buffered (\d+)", text, re.M).group(1))

    async def go():
        loop = asyncio.get_running_loop()
        holders = await asyncio.gather(*(
            open_request(cluster.api, "POST", CHAT,
                         chat_body(f"hold {i}", 4, drover_sim={"fault": "hang"}))
            for i in range(slots)))
        await loop.run_in_executor(None, until, lambda: cluster.gauges()["only"][0] == slots,
                                   20, "every slot is held")
        opened = []
        for start in range(0, count, 200):  # a listener's backlog is no queue of ours
            opened += await asyncio.gather(*(
                open_request(cluster.api, "POST", CHAT, chat_body(f"{i % 50}", 2))
                for i in range(start, start + 200)))
        await loop.run_in_executor(None, until, lambda: queued() == count, 30, f"{count} wait")
        for holder in holders:
            holder.abort()
        async def rest(answer):
            await answer.read_head()
            await answer.read()
            answer.close()
            assert answer.status == 200, answer.body
            assert text_of(answer.body)
            return answer.headers["x-drover-attempts"]
        return await asyncio.gather(*(rest(answer) for answer in opened))
    attempts = asyncio.run(asyncio.wait_for(go(), 90 * SLOW))
    assert len(attempts) == count and set(attempts) == {"1"}
    cluster.wait_idle()


def test_a_model_is_loaded_once_while_the_others_wait_for_it(make_cluster):
    cluster = make_cluster(workers=2).start()
    cluster.start_node("only", f"slots=8,models=big@8192@{int(500 * SLOW)}")

    async def go():
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(fetch(cluster.api, "POST", CHAT,
                                           chat_body(f"{i}", 4, False, model="big")))
                 for i in range(6)]
        await loop.run_in_executor(None, until, lambda: len(waiting(cluster)) == 5, 10,
                                   "one has the model loaded, five wait")
        assert cluster.gauges()["only"][0] == 1
        return await asyncio.gather(*tasks)
    for answer in asyncio.run(asyncio.wait_for(go(), 60 * SLOW)):
        assert answer.status == 200 and answer.headers["x-drover-attempts"] == "1"
        assert answer.json()["choices"][0]["message"]["content"]
    cluster.wait_idle()
