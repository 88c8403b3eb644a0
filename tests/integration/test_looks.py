"""test_looks.py - drover-node looks at its engine, and the engine does not suffer from it."""

import threading
import time

import grpc
import pytest

from fake_engine import FakeEngine, chunk
from harness import until
from llama_server import LlamaServer
from messages import common
from node_rig import Answer, Node

pytestmark = pytest.mark.alone

LOADS = ("/slots", "/metrics")


@pytest.fixture
def start():
    made = []

    def begin(engine, *arguments):
        node = Node(*arguments, engine=engine.url)
        made.append((node, engine))
        return node.ready()

    yield begin
    for node, engine in made:
        node.stop()
        engine.close()


def ask(node, prompt="hi", **fields):
    """A call whose answer is read in the background."""
    call = node.infer(body={"model": "tiny", "stream": True, "ignore_eos": True, **fields,
                            "messages": [{"role": "user", "content": prompt}]})

    def read():
        try:
            for _ in call:
                pass
        except Exception:  # pylint: disable=broad-except
            pass

    threading.Thread(target=read, daemon=True).start()
    return call


def passed(seconds):
    """A condition that becomes true after so many seconds: these tests are about what does not
    happen in a time."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def looks(engine, since_s, paths=None):
    return [r for r in engine.gets() if r.came_s > since_s and (paths is None or r.path in paths)]


def test_an_idle_engine_is_asked_for_its_health_and_nothing_else(start):
    engine = LlamaServer(models=["tiny"], metrics=True)
    start(engine)
    begun = time.monotonic()
    until(passed(11), bound_s=12)
    assert [r.path for r in looks(engine, begun)] in (["/health"] * 2, ["/health"] * 3)


def test_an_engine_that_sleeps_when_idle_sleeps_behind_a_node(start):
    engine = LlamaServer(models=["tiny"], sleep_idle_s=3, metrics=True)
    node = start(engine)
    until(lambda: engine.is_sleeping, bound_s=4, what="sleep")
    until(passed(7), bound_s=8)
    assert engine.is_sleeping and engine.count["wakes"] == 0
    ask(node, max_tokens=2)
    until(lambda: engine.count["wakes"] == 1, what="a request wakes it")


def test_a_node_that_starts_beside_a_sleeping_engine_does_not_wake_it(start):
    engine = LlamaServer(models=["tiny"], sleep_idle_s=0.01, slots=3)
    until(lambda: engine.is_sleeping, what="sleep")
    node = start(engine)
    assert node.describe().capacity.slots == 3
    assert engine.is_sleeping and engine.count["wakes"] == 0


def test_a_busy_engine_is_looked_at_less_than_once_a_second(start):
    engine = LlamaServer(models=["tiny"], tokens_per_s=20)
    node = start(engine)
    begun = time.monotonic()
    call = ask(node, max_tokens=1000)
    until(passed(6), bound_s=7)
    count = len(looks(engine, begun))
    call.cancel()
    assert 4 <= count <= 7, [r.path for r in looks(engine, begun)]


@pytest.mark.parametrize("after_s", [0.1, 0.7, 1.3, 2.0])
def test_a_client_that_leaves_during_prefill_frees_the_slot(start, after_s):
    engine = LlamaServer(models=["tiny"], prompt_tokens_per_s=10, context=100000, slots=2)
    node = start(engine)
    call = ask(node, prompt="word " * 1000)
    until(lambda: engine.machine.running, what="prefill")
    until(passed(after_s), bound_s=4)
    call.cancel()
    left = time.monotonic()
    until(lambda: not engine.machine.running, what="the slot is free")
    assert time.monotonic() - left < 1.5
    assert not [r for r in looks(engine, left, LOADS) if r.came_s < left + 1.2]
    until(lambda: node.describe().load.running == 0, what="the node knows")


def test_a_client_that_leaves_is_noticed_though_others_are_in_prefill(start):
    engine = LlamaServer(models=["tiny"], prompt_tokens_per_s=5, context=100000, slots=3)
    node = start(engine)
    others = [ask(node, prompt="long " * 2000) for _ in range(2)]
    call = ask(node, prompt="word " * 2000)
    until(lambda: len(engine.machine.running) == 3, what="prefill")
    until(passed(1.5), bound_s=4)
    call.cancel()
    left = time.monotonic()
    until(lambda: len(engine.machine.running) == 2, what="the slot is free")
    assert time.monotonic() - left < 1.5
    until(lambda: node.describe().load.running == 2, what="the node knows")
    for other in others:
        other.cancel()


def test_the_slot_of_a_stream_that_is_cancelled_is_free_at_once(start):
    engine = LlamaServer(models=["tiny"], tokens_per_s=50, slots=1)
    node = start(engine)
    for _ in range(3):
        call = ask(node, max_tokens=1000)
        until(lambda: [w for w in engine.machine.running if w.decoded > 5], what="tokens")
        call.cancel()
        left = time.monotonic()
        until(lambda: node.describe().load.running == 0, what="the node knows")
        assert time.monotonic() - left < 1


def test_a_plain_server_is_not_asked_while_its_answers_flow(start):
    def flow(handler, _path, _body):
        handler.begin_stream()
        while True:
            handler.send_event(chunk("word ", model="tiny"))
            time.sleep(0.05)

    engine = FakeEngine(flow, models=("tiny",))
    node = start(engine, "--look-every", "3600")
    begun = time.monotonic()
    call = ask(node, max_tokens=1000)
    until(passed(4), bound_s=5)
    count = len(looks(engine, begun))
    call.cancel()
    assert count == 0


def test_a_plain_server_is_asked_as_often_as_the_option_says(start):
    engine = FakeEngine(models=("tiny",))
    start(engine, "--look-every", "2")
    begun = time.monotonic()
    until(passed(7), bound_s=8)
    assert 3 <= len(looks(engine, begun)) <= 4


def test_an_engine_that_is_gone_is_noticed_by_the_first_request(start):
    engine = LlamaServer(models=["tiny"])
    node = start(engine)
    engine.stop()
    ask(node)
    until(lambda: not node.describe().load.engine_reachable, bound_s=1, what="noticed")
    engine.start()
    until(lambda: node.describe().load.engine_reachable, bound_s=1.5, what="back")


def test_an_engine_that_loads_is_looked_at_each_second(start):
    engine = LlamaServer(models=["tiny"])
    node = start(engine)
    engine.stop()
    ask(node)
    engine.loading = True
    engine.start()
    until(lambda: node.describe().load.loading, what="loading")
    begun = time.monotonic()
    until(passed(3), bound_s=4)
    assert 2 <= len(looks(engine, begun)) <= 4
    engine.loading = False
    until(lambda: not node.describe().load.loading, bound_s=1.5, what="loaded")


# ---- another engine in its place -----------------------------------------------------------

SURFACES = {
    "chat": (common.OPERATION_CHAT_COMPLETIONS, {"messages": [{"role": "user", "content": "a"}]}),
    "completions": (common.OPERATION_COMPLETIONS, {"prompt": "a"}),
    "messages": (common.OPERATION_MESSAGES,
                 {"max_tokens": 4, "messages": [{"role": "user", "content": "a"}]}),
}


def swap(engine, *models):
    """Another engine stands there within milliseconds."""
    engine.stop()
    engine.models = list(models)
    engine.start()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("surface", SURFACES)
def test_an_engine_that_was_replaced_gives_no_answer_of_the_wrong_model(start, surface, stream):
    engine = LlamaServer(models=["one"])
    node = start(engine)
    operation, body = SURFACES[surface]
    swap(engine, "two")
    answer = Answer(node.infer(body={"model": "one", "stream": stream, **body}, model="one",
                               operation=operation, stream=stream))
    assert answer.status is grpc.StatusCode.NOT_FOUND, answer.data
    assert answer.data == b"" and answer.head is None
    assert [m.id for m in node.describe().models] == ["two"]
    assert Answer(node.infer(body={"model": "two", "stream": stream, **body}, model="two",
                             operation=operation, stream=stream)).status is grpc.StatusCode.OK


@pytest.mark.parametrize("operation, body", [
    (common.OPERATION_EMBEDDINGS, {"input": "a"}),
    (common.OPERATION_RESPONSES, {"input": "a", "stream": True})], ids=["embeddings", "responses"])
def test_after_a_pause_an_answer_that_does_not_show_its_model_waits_for_a_look(start, operation,
                                                                               body):
    engine = LlamaServer(models=["one"], embeddings_on=True)
    node = start(engine)
    until(passed(6), bound_s=7)
    swap(engine, "two")
    answer = Answer(node.infer(body={"model": "one", **body}, model="one", operation=operation,
                               stream=body.get("stream", False)))
    assert answer.status is grpc.StatusCode.NOT_FOUND and answer.data == b""
    assert Answer(node.infer(body={"model": "two", **body}, model="two", operation=operation,
                             stream=body.get("stream", False))).status is grpc.StatusCode.OK


def test_many_requests_on_their_way_when_the_engine_is_replaced_get_no_wrong_answer(start):
    engine = LlamaServer(models=["one"], slots=8)
    node = start(engine, "--queue", "100")
    stop = threading.Event()
    answers = []

    def ask_on():
        while not stop.is_set():
            answers.append(Answer(node.infer(model="one", body={
                "model": "one", "stream": True, "max_tokens": 8,
                "messages": [{"role": "user", "content": "a"}]})))

    threads = [threading.Thread(target=ask_on) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 20, what="answers")
    swap(engine, "two")
    until(lambda: [m.id for m in node.describe().models] == ["two"], bound_s=2, what="two")
    stop.set()
    for thread in threads:
        thread.join()
    assert any(a.status is grpc.StatusCode.OK for a in answers)
    assert not [a.data for a in answers if b'"model":"two"' in a.data]


def test_a_name_that_only_answers_have_costs_one_look_and_no_request(start):
    engine = FakeEngine(models=("tiny",))  # it answers as "fake-model"
    node = start(engine)
    begun = time.monotonic()
    for _ in range(3):
        for stream in (True, False):
            answer = Answer(node.infer(stream=stream, body={
                "model": "tiny", "stream": stream,
                "messages": [{"role": "user", "content": "a"}]}))
            assert answer.status is grpc.StatusCode.OK and b"fake-model" in answer.data
    assert len(looks(engine, begun, ("/v1/models",))) == 1


def test_an_engine_of_which_only_the_health_answers_is_found_out(start):
    """A llama-server that was told to end in the middle of an answer can stay like that."""
    engine = LlamaServer(models=["tiny"], tokens_per_s=20)
    node = start(engine)
    call = ask(node, max_tokens=1000)
    until(lambda: engine.machine.running, what="an answer")
    ended = threading.Event()

    def hang(reply, request):
        ended.wait(60)
        return False

    for path in ("/slots", "/v1/models", "/props"):
        engine.on[path] = hang
    engine.frozen = True
    try:
        until(lambda: not node.describe().load.engine_reachable, bound_s=10,
              what="the node knows that its engine does not work")
    finally:
        ended.set()
        call.cancel()
