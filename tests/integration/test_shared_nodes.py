"""Two models on the same nodes: what waits for one is before a request for the other."""

import asyncio
import json
import re
import time

from fake_engine import FakeEngine
from harness import SLOW, until
from load import chat_body, fetch, fetch_now, open_request

CHAT = "/v1/chat/completions"
HOLD_S = 1.0
BUSY, STRICT, PATIENT = "busy-model", "strict-model", "patient-model"
FLOOD = 20


class Shared:
    """One node of two slots, each held for a second, that has three models."""

    def __init__(self, make_cluster):
        self.closed = False  # requests stay in the engine
        self.held = 0
        self.engine = FakeEngine(self.behave, models=(BUSY, STRICT, PATIENT))
        self.cluster = make_cluster(workers=2, config={
            "queue": {"max_wait_ms": 120000, "comment_after_ms": 100},
            "models": [{"name": STRICT, "queue": {"max_wait_ms": 5000}}]}).start()
        self.cluster.start_node("only", engine=self.engine.url,
                                extra=("--slots", "2", "--queue", "0"))

    def behave(self, handler, path, body):
        if self.closed:
            self.held += 1
            while self.closed and not self.engine.stopping.is_set():
                time.sleep(0.01)
        else:
            time.sleep(HOLD_S)
        handler.chat(body)

    def hold_s(self):
        """The times that requests which ended have held their slots."""
        lines = [line for line in self.cluster.access_lines() if line["outcome"] == "ok"]
        times = [(line["total_us"] - line["queue_us"]) / 1e6 for line in lines]
        return min(times), max(times)

    async def waiting(self, count):
        await asyncio.get_running_loop().run_in_executor(None, until, lambda: len(
            [row for row in self.cluster.open_requests() if row["phase"] == "queued"]) == count,
            10, f"{count} wait")

    def send(self, model):
        return asyncio.create_task(fetch(self.cluster.api, "POST", CHAT,
                                         chat_body("hi", 4, False, model=model)))

    def run(self, go):
        try:
            return asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
        finally:
            self.closed = False
            self.engine.close()


def test_a_model_whose_nodes_another_model_floods_learns_when_its_turn_would_be(make_cluster):
    shared = Shared(make_cluster)
    # Speeds are learned per model, and a key has the size of a request in it: with all three
    # measured, the keys differ by arrival alone.
    for model in (BUSY, STRICT, PATIENT):
        assert fetch_now(shared.cluster.api, "POST", CHAT,
                         chat_body("hi", 4, False, model=model)).status == 200
    shared.cluster.wait_idle()

    async def go():
        shared.closed = True
        flood = [shared.send(BUSY) for _ in range(2 + FLOOD)]
        await shared.waiting(FLOOD)
        refused = await shared.send(STRICT)
        stream = await open_request(shared.cluster.api, "POST", CHAT,
                                    chat_body("hi", 4, model=PATIENT))
        await stream.read_head()
        events = stream.events()
        told = await anext(events)
        shared.closed = False
        async for _ in events:
            pass
        stream.close()
        return refused, told, await asyncio.gather(*flood)
    refused, told, flood = shared.run(go)
    least_s, most_s = shared.hold_s()[0], max(HOLD_S * 1.5, HOLD_S + 0.5 * SLOW)
    assert refused.status == 429 and refused.headers["x-drover-reason"] == "queue_full"
    # The 21st place comes free after 10.5 holding times, of which it may wait 5 s; then up to
    # two places more, as there are two workers that ask requests back.
    back_s = int(refused.headers["retry-after"])
    assert 10.5 * least_s - 5 <= back_s <= 11.5 * most_s - 5 + 1, (back_s, least_s, most_s)
    match = re.fullmatch(rb": drover queued pos=([0-9]+) eta=([0-9]+)s", told)
    assert match and FLOOD <= int(match.group(1)) <= FLOOD + 1, told
    assert FLOOD / 2 * least_s <= int(match.group(2)) <= (FLOOD + 1) / 2 * most_s + 1, told
    assert [answer.status for answer in flood] == [200] * (2 + FLOOD)
    assert json.loads(flood[0].body)["choices"]
