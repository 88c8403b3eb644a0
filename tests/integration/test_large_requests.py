"""Requests that are larger than a node takes: not sent there, or not taken for a node that is full."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from fake_node import FakeNode, common
from harness import until
from load import fetch_now
from plant import make_plant, static  # noqa: F401

CHAT = "/v1/chat/completions"
MIB = 1 << 20


def body(mib, **more):
    return {"model": "fake-model", "messages": [{"role": "user", "content": "x" * (mib * MIB)}], **more}


class Counting(FakeNode):
    """Counts what it is asked; `most`: what it says of the largest message it takes."""

    def __init__(self, name, most=0):
        self.most = most
        self.asked = []
        super().__init__(name)
        self.infer_gate.set()

    def capacity(self):
        return common.Capacity(slots=4, queue=2, max_request_bytes=self.most)

    def infer(self, request, context):
        self.asked.append(len(request.body))
        yield from super().infer(request, context)


@pytest.fixture(name="serve")
def fixture_serve(make_plant):
    """serve(node, ...): a plant with these nodes, all UP."""
    def serve(*nodes, **config):
        plant = make_plant(config={"nodes": [static(node.name, node.port) for node in nodes], **config})
        plant.fakes.extend(nodes)
        for node in nodes:
            plant.wait_state(node.name, "UP", "probes_pass")
        return plant
    return serve


def test_a_request_goes_to_the_node_that_can_take_it_and_no_other_is_asked(serve):
    small, large = Counting("small", MIB), Counting("large", 64 * MIB)
    plant = serve(small, large)
    for _ in range(4):
        answer = fetch_now(plant.api, "POST", CHAT, body(2))
        assert answer.status == 200, answer.body
        assert answer.headers["x-drover-attempts"] == "1"
    assert not small.asked and len(large.asked) == 4


def test_a_large_request_that_waits_lets_small_ones_go_to_a_node_that_came_later(serve):
    """Until then all of them could use the same nodes, and stood in one list."""
    small, large = Counting("small", MIB), FakeNode("large")
    large.slots, large.queue = 1, 0
    small.stop()
    plant = serve(large, nodes=[static(node.name, node.port) for node in (large, small)])
    plant.fakes.append(small)
    pool = ThreadPoolExecutor(3)

    def waiting():
        return sum(row["phase"] == "queued" for row in plant.ctl_rows("requests"))
    holder = pool.submit(fetch_now, plant.api, "POST", CHAT, body(0))
    assert large.infer_started.acquire(timeout=10)
    blocked = pool.submit(fetch_now, plant.api, "POST", CHAT, body(2))
    until(lambda: waiting() == 1, 10, "the large one waits")
    free = pool.submit(fetch_now, plant.api, "POST", CHAT, body(0), {"x-drover-priority": "bulk"})
    until(lambda: waiting() == 2, 10, "the small one waits behind it")
    small.start()
    try:
        until(free.done, 10, "the small one is served")
        assert not blocked.done()
    finally:
        large.infer_gate.set()
    assert free.result().headers["x-drover-node"] == "small"
    assert [answer.result().status for answer in (holder, blocked)] == [200, 200]


def test_a_request_that_no_node_can_take_is_413_at_once(serve):
    small = Counting("small", MIB)
    plant = serve(small)
    answer = fetch_now(plant.api, "POST", CHAT, body(2))
    assert answer.status == 413, answer.body
    assert answer.headers["x-should-retry"] == "false"
    assert not small.asked


class Answering(Counting):
    """Answers questions, too."""

    def model_list(self):
        return [common.Model(id=name, state=common.MODEL_STATE_READY, max_context_tokens=4096,
                             operations=[common.OPERATION_COUNT_TOKENS]) for name in self.models]


def test_a_question_goes_only_where_it_can_be_taken_and_is_413_where_none_can(serve):
    small, large = Answering("small", MIB), Answering("large", 3 * MIB)
    plant = serve(small, large)
    for _ in range(4):
        answer = fetch_now(plant.api, "POST", "/v1/messages/count_tokens", body(2))
        assert answer.status == 200, answer.body
        assert answer.headers["x-drover-attempts"] == "1"
    answer = fetch_now(plant.api, "POST", "/v1/messages/count_tokens", body(4))
    assert answer.status == 413, answer.body
    assert not small.asked and len(large.asked) == 4


def test_a_message_over_the_limit_of_a_grpc_library_is_413_and_not_a_full_node(serve):
    """grpcio takes 4 MiB unless configured otherwise, and says RESOURCE_EXHAUSTED to more."""
    node = Counting("box")
    plant = serve(node, limits={"max_attempts": 3})
    answer = fetch_now(plant.api, "POST", CHAT, body(5))
    assert answer.status == 413, answer.body
    assert answer.headers["x-drover-attempts"] == "1"
    assert int(answer.headers["x-drover-queue-ms"]) == 0
    assert fetch_now(plant.api, "POST", CHAT, body(1)).status == 200, "the node is as good as before"


class Refusing(FakeNode):
    """Says RESOURCE_EXHAUSTED, with no word of when to come back."""

    def __init__(self, name):
        self.asked = 0
        self.lock = threading.Lock()
        super().__init__(name)

    def infer(self, request, context):
        with self.lock:
            self.asked += 1
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large for me")
        yield


def test_a_node_that_is_full_twice_without_a_word_of_when_has_failed(serve):
    node = Refusing("box")
    plant = serve(node, limits={"max_attempts": 3})
    answer = fetch_now(plant.api, "POST", CHAT, body(0))
    assert answer.status == 502 and b"too large for me" in answer.body, answer.body
    assert node.asked == 2
    until(lambda: plant.node_row("box")["state"] == "UP", 5, "it is not blamed for it")


def test_a_question_that_a_node_refuses_for_its_size_is_too_large_and_not_early(serve):
    node = Refusing("box")
    node.operations = [common.OPERATION_CHAT_COMPLETIONS, common.OPERATION_COUNT_TOKENS]
    plant = serve(node)
    count = "/v1/messages/count_tokens"
    answer = fetch_now(plant.api, "POST", count, body(5))
    assert answer.status == 413, answer.body
    answer = fetch_now(plant.api, "POST", count, body(0))
    assert answer.status in (429, 529), "a small one is told to come back"


def test_another_node_serves_what_one_refuses_without_a_word_of_when(serve):
    refusing, good = Refusing("a"), Counting("b")
    plant = serve(refusing, good, policy="round_robin")
    for _ in range(6):
        answer = fetch_now(plant.api, "POST", CHAT, body(0))
        assert answer.status == 200, answer.body
    assert refusing.asked and len(good.asked) == 6
