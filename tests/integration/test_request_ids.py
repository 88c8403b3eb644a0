"""The id of a client may repeat; what nodes know a request by may not."""

import asyncio

import grpc

from fake_engine import MODEL as FAKE
from fake_engine import FakeEngine
from fake_node import FakeNode
from harness import SLOW, until
from load import chat_body, fetch, fetch_now
from plant import make_plant, static  # noqa: F401

CHAT = "/v1/chat/completions"
BODY = {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}]}


class Slow(FakeNode):
    """Full at first, as often as it is told, with a word of when to come back."""

    def __init__(self, name):
        self.full, self.attempts = 0, []
        super().__init__(name)

    def infer(self, request, context):
        self.attempts.append(request.attempt)
        if self.full:
            self.full -= 1
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "10"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        yield from super().infer(request, context)


def test_no_two_attempts_of_a_request_have_the_same_number(make_plant):  # noqa: F811
    node = Slow("box")
    plant = make_plant(config={"nodes": [static(node.name, node.port)]})
    plant.fakes.append(node)
    plant.wait_state("box", "UP", "probes_pass")
    node.full = 3
    node.infer_gate.set()
    answer = fetch_now(plant.api, "POST", CHAT, BODY, {"x-request-id": "counted"})
    assert answer.status == 200 and node.attempts == [0, 1, 2, 3]
    assert answer.headers["x-drover-attempts"] == "1", "a full node costs none"
    decisions = plant.ctl_json("explain", "counted")["decisions"]
    assert [decision["attempt"] for decision in decisions] == [0, 1, 2, 3]


class Listening(FakeNode):
    """Remembers the ids of what it is asked."""

    def __init__(self, name):
        self.ids = []
        super().__init__(name)

    def infer(self, request, context):
        self.ids.append((request.request_id, {h.name: h.value for h in request.headers}.get("x-client-request-id")))
        yield from super().infer(request, context)


def test_two_requests_at_once_with_the_same_id_do_not_disturb_each_other(make_plant):  # noqa: F811
    node = Listening("box")
    plant = make_plant(config={"nodes": [static(node.name, node.port)]})
    plant.fakes.append(node)
    plant.wait_state("box", "UP", "probes_pass")

    async def go():
        loop = asyncio.get_running_loop()
        twins = [asyncio.create_task(fetch(plant.api, "POST", CHAT, BODY, {"x-request-id": "twin"})) for _ in range(2)]
        single = asyncio.create_task(fetch(plant.api, "POST", CHAT, BODY))
        await loop.run_in_executor(None, until, lambda: len(node.ids) == 3, 10, "all three run at once")
        node.infer_gate.set()
        return await asyncio.gather(single, *twins)
    single, *twins = asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
    assert single.status == 200 and [answer.status for answer in twins] == [200, 200]
    assert [answer.headers["x-request-id"] for answer in twins] == ["twin", "twin"]
    assert len({ours for ours, _ in node.ids}) == 3 and "twin" not in {ours for ours, _ in node.ids}
    assert sorted(str(theirs) for _, theirs in node.ids) == ["None", "twin", "twin"]
    lines = until(lambda: len(plant.access_lines()) >= 3 and plant.access_lines(), 5, "three lines of access log")
    assert sorted(line["execution"] for line in lines) == sorted(ours for ours, _ in node.ids)
    assert [line["id"] for line in lines].count("twin") == 2
    assert single.headers["x-request-id"] in {ours for ours, _ in node.ids}


def test_an_engine_gets_an_id_of_ours_that_no_two_attempts_share(make_cluster):
    """A vLLM of before 2025-11 refuses a request whose x-request-id another one still has."""
    engine = FakeEngine()
    try:
        cluster = make_cluster(workers=1).start()
        cluster.start_node("box", engine=engine.url)
        for _ in range(2):
            answer = fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 3, model=FAKE), {"x-request-id": "twin"})
            assert answer.status == 200 and answer.headers["x-request-id"] == "twin"
        assert fetch_now(cluster.api, "POST", CHAT, chat_body("hi", 3, model=FAKE)).status == 200
        headers = [{name.lower(): value for name, value in seen.items()} for _, seen, _ in engine.posts()]
    finally:
        engine.close()
    ids = [seen["x-request-id"] for seen in headers]
    assert len(set(ids)) == 3 and all(one.startswith("req-") for one in ids)
    assert [seen.get("x-client-request-id") for seen in headers] == ["twin", "twin", None]
