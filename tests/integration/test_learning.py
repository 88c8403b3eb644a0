"""The router learns from a node's answers, and not from some: seen through droverctl explain."""

import threading
import time

import pytest

from fake_engine import MODEL, FakeEngine
from fake_node import FakeNode, inference
from harness import MODEL as SIM, until
from load import chat_body, fetch_now

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
COUNT = "/v1/messages/count_tokens"
LONG = 40_000  # bytes of a prompt; about 10,000 tokens


class Box:
    """An engine that takes in so many bytes a second, one prompt after the other."""

    def __init__(self, bytes_per_s):
        self.rate = bytes_per_s
        self.asked = threading.Semaphore(0)
        self.refuses_above = None
        self.drops = None       # an event: waits for it, then drops the connection
        self.turn = threading.Lock()
        self.engine = FakeEngine(self.behave)

    def behave(self, handler, path, body):
        self.asked.release()
        if self.drops is not None:
            self.drops.wait(30)
            handler.drop()
        elif self.refuses_above is not None and len(body) > self.refuses_above:
            handler.answer(400, {"error": {"message": "this prompt is not welcome here",
                                           "type": "invalid_request_error"}})
        else:
            with self.turn:
                time.sleep(len(body) / self.rate)   # this engine's work
            handler.chat(body)

    def prompts(self, at_least=0):
        return [body for path, _, body in self.engine.posts() if len(body) >= at_least]


class Nodes:
    def __init__(self, make_cluster, rates, **options):
        self.cluster = make_cluster(workers=1, **options).start()
        self.boxes = {name: Box(rate) for name, rate in rates.items()}
        self.asked = 0
        for name, box in self.boxes.items():
            self.cluster.start_node(name, engine=box.engine.url, extra=("--slots", "16"), wait=False)
        for node in self.cluster.nodes:
            self.cluster.wait_up(node.name, node)

    def close(self):
        for box in self.boxes.values():
            box.engine.close()

    def send(self, size, status=200):
        """The decision for a new prompt of so many bytes, once it is answered."""
        self.asked += 1
        request_id = f"prompt-{self.asked}"
        text = f"{self.asked:09} " * (size // 10)
        answer = fetch_now(self.cluster.api, "POST", CHAT, chat_body(text, 3, model=MODEL),
                           {"x-request-id": request_id}, timeout_s=60)
        assert answer.status == status, answer.body
        return self.cluster.ctl_json("explain", request_id)["decisions"][-1]

    def warm_up(self, size=2000):
        """Each box is measured, alone first: a trial comes when it may."""
        for name, box in self.boxes.items():
            others = [other for other in self.boxes if other != name]
            for other in others:
                self.cluster.ctl("drain", other)
                until(lambda: self.cluster.node_state(other) != "UP", 10, f"{other} is drained")
            self.send(size)
            assert box.prompts()
            for other in others:
                self.cluster.ctl("undrain", other)
                self.cluster.wait_up(other)
        for _ in range(8):
            self.send(size)


def speed(decision, node):
    return next(c["prefill_tokens_per_s"] for c in decision["candidates"] if c["node"] == node)


@pytest.fixture
def make_nodes(make_cluster):
    made = []

    def make(rates, **options):
        made.append(Nodes(make_cluster, rates, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_refusal_of_a_long_prompt_does_not_make_a_node_look_fast(make_nodes):
    both = make_nodes({"small": 100_000, "large": 400_000})
    both.warm_up(9000)
    both.boxes["small"].refuses_above = 10_000
    before = both.send(LONG)
    assert before["node"] == "large", "it is the faster one"
    # The large one is made busy, so that long prompts come to the small one and are refused.
    both.boxes["large"].drops = threading.Event()
    held = [threading.Thread(target=fetch_now, daemon=True, args=(
        both.cluster.api, "POST", CHAT, chat_body(f"{i} " + "x" * LONG, 3, model=MODEL)))
        for i in range(3)]
    for thread in held:
        thread.start()
    until(lambda: len(both.boxes["large"].prompts(LONG)) >= 1, 10, "the large one is busy")
    until(lambda: len(both.boxes["small"].prompts(LONG)) >= 1, 10, "the small one was asked")
    both.boxes["large"].drops.set()
    both.boxes["large"].drops = None
    for thread in held:
        thread.join()
    after = both.send(LONG)
    assert after["node"] == "large"
    assert speed(after, "small") <= 2 * speed(before, "small")


def test_counting_tokens_teaches_nothing_and_caches_nothing(make_cluster):
    cluster = make_cluster(workers=1).start()
    for name, prefill in (("a", 20000), ("b", 80000)):
        cluster.start_node(name, f"slots=8,prefill={prefill},ctx=100000", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    text = "count these " * (LONG // 12)

    def send(number, prompt):
        answer = fetch_now(cluster.api, "POST", CHAT, chat_body(prompt, 3), {"x-request-id": f"n{number}"})
        assert answer.status == 200
        return cluster.ctl_json("explain", f"n{number}")["decisions"][-1]

    made = []
    while len(made) < 6 or len({one["node"] for one in made[-3:]}) > 1:
        made.append(send(len(made), f"{len(made):09} " * (LONG // 10)))
        assert len(made) < 60, "both are measured, and one of them is the faster"
    before = made[-1]
    for _ in range(20):
        assert fetch_now(cluster.api, "POST", COUNT, {
            "model": SIM, "messages": [{"role": "user", "content": text}]}).status == 200
    after = send("-after", text)
    assert after["node"] == before["node"], (before, after)
    for name in "ab":
        assert 0.5 <= speed(after, name) / speed(before, name) <= 2
    assert all(c["matched_tokens"] == 0 for c in after["candidates"]), "it was never prefilled"


def test_an_engine_that_drops_eight_requests_is_not_damned(make_nodes):
    both = make_nodes({"a": 100_000, "b": 100_000}, config={"limits": {"max_attempts": 3}})
    both.warm_up()
    before = both.send(2000)
    cut = threading.Event()
    both.boxes["a"].drops = cut
    threads = [threading.Thread(target=fetch_now, daemon=True, args=(
        both.cluster.api, "POST", CHAT, chat_body(f"{i} " + "x" * 4000, 3, model=MODEL)))
        for i in range(24)]
    for thread in threads:
        thread.start()
    until(lambda: len(both.boxes["a"].prompts(4000)) >= 8, 20, "eight requests are held")
    cut.set()
    both.boxes["a"].drops = None
    for thread in threads:
        thread.join(60)
    after = both.send(2000)
    # One event: 0.9 T + 0.1 * 10 T is 1.9 T, and a second event is possible on a slow machine.
    assert speed(after, "a") >= speed(before, "a") / 5


def test_no_long_prompt_goes_to_a_slow_box_that_was_idle_but_a_short_one_does(make_nodes):
    both = make_nodes({"fast": 400_000, "slow": 20_000})
    both.warm_up()
    until(lambda: both.send(LONG)["node"] == "fast", 10, "the speeds are known")
    idle_since = time.monotonic()
    seen = len(both.boxes["slow"].prompts(LONG))
    while time.monotonic() - idle_since < 12:   # longer than a node may be idle without a trial
        assert both.send(LONG)["node"] == "fast"
    assert len(both.boxes["slow"].prompts(LONG)) == seen
    trials = []

    def short_ones_try_it():
        trials.append(both.send(100))
        return trials[-1]["node"] == "slow"

    until(short_ones_try_it, 10, "a short prompt finds out how it is now")
    assert trials[-1]["trial"]
    assert both.send(LONG)["node"] == "fast"


def test_every_box_is_measured_though_the_first_one_would_do(make_nodes):
    three = make_nodes({"a": 100_000, "b": 100_000, "c": 100_000})
    until(lambda: three.send(2000) and all(box.prompts() for box in three.boxes.values()), 10,
          "each has had a prompt")


def test_a_router_before_engines_that_are_sped_up_guesses_and_tries_as_much_faster(make_nodes):
    one = make_nodes({"box": 400_000}, config={"testing": {"speedup": 50}})
    first = one.send(2000)
    assert speed(first, "box") == pytest.approx(50 * 1000), "a guess, sped up"


class Loads(FakeNode):
    """Loads the model, which it said was there, before it gives an answer."""

    loads = False

    def infer(self, request, context):
        if self.loads:
            yield inference.InferEvent(accepted=inference.Accepted(loading=True))
            time.sleep(1)
        yield from super().infer(request, context)


def test_the_time_of_a_load_that_only_the_node_knew_of_is_no_speed(make_cluster):
    node = Loads("a")
    node.infer_gate.set()
    cluster = make_cluster(workers=1, token=False, config={"nodes": [
        {"name": "a", "address": f"127.0.0.1:{node.port}"}]}).start()
    cluster.wait_up("a")
    speeds = []
    try:
        for number, loads in enumerate((False, True, False)):
            node.loads = loads
            assert fetch_now(cluster.api, "POST", CHAT, chat_body(
                f"{number} " * 4000, 3, False, model="fake-model"),
                {"x-request-id": f"r{number}"}).status == 200
            speeds.append(speed(cluster.ctl_json("explain", f"r{number}")["decisions"][-1], "a"))
    finally:
        node.stop()
    assert speeds[1] != speeds[0], "the first answer was a sample"
    assert speeds[2] == speeds[1]
