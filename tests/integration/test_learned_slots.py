"""test_learned_slots.py - how many requests an engine runs at once, where it does not say.

Each test lets clients at a scripted engine that has a bound of its own, through Drover and, where
speed is compared, straight as well, in the same run.
"""

import asyncio
import threading
import time

import pytest

from harness import POLL_S, SLOW, until
from load import chat_body, fetch, fetch_now
from ollama import Ollama
from plain_openai import PlainOpenAi
from vllm import Vllm

pytestmark = pytest.mark.alone


@pytest.fixture
def engine_of():
    """Starts scripted engines that end with the test."""
    started = []

    def start(kind, **knobs):
        engine = kind(**knobs)
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.close()


class ClosedLoop:
    """So many clients, each with one request after the other; when the block ends they leave."""

    def __init__(self, address, clients, body, path="/v1/chat/completions"):
        self.address, self.clients, self.body, self.path = address, clients, body, path
        self.ends = []         # a status, or what went wrong, of each request that ended
        self.ending = False
        self.thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending = True
        self.thread.join()

    async def _all(self):
        clients = [asyncio.create_task(self._client(n)) for n in range(self.clients)]
        while not self.ending:
            await asyncio.sleep(POLL_S)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, number):
        turn = 0
        while not self.ending:
            turn += 1
            try:
                answer = await fetch(self.address, "POST", self.path,
                                     self.body(f"client {number} turn {turn}"), timeout_s=120)
                self.ends.append(answer.status)
            except Exception as failure:  # pylint: disable=broad-except
                self.ends.append(repr(failure))
                await asyncio.sleep(POLL_S)


def burst(address, count, body, path="/v1/chat/completions"):
    """Seconds until `count` requests that come at once have been answered, all with 200."""
    async def go():
        answers = await asyncio.gather(*(
            fetch(address, "POST", path, body(f"burst {n}")) for n in range(count)))
        assert [a.status for a in answers] == [200] * count
    began = time.monotonic()
    asyncio.run(go())
    return time.monotonic() - began


def address_of(engine):
    return ("127.0.0.1", engine.port)


def slots_of(cluster, name):
    return cluster.node_row(name)["slots"]


def ask(engine, tokens):
    name = engine.models[0] if isinstance(engine.models, list) else next(iter(engine.models))
    return lambda prompt: chat_body(prompt, tokens, model=name)


def test_a_burst_on_a_plain_server_takes_no_longer_than_without_drover(make_cluster, engine_of):
    engine = engine_of(PlainOpenAi, slots=6, tokens_per_s=20, prompt_s=0.3)
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    direct_s = burst(address_of(engine), 6, ask(engine, 40))
    through_s = burst(cluster.api, 6, ask(engine, 40))
    assert engine.machine.most_running == 6
    assert through_s <= direct_s * 1.15 + 0.1 * SLOW, (through_s, direct_s)


@pytest.mark.parametrize("stream", [True, False])
def test_the_requests_that_a_plain_server_runs_are_counted_however_they_arrive(
        make_cluster, engine_of, stream):
    """Those that are sent at once reach it in any order."""
    engine = engine_of(PlainOpenAi, slots=3, tokens_per_s=60, prompt_s=0.1)
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    for _ in range(2):
        burst(cluster.api, 10, lambda prompt: {**ask(engine, 60)(prompt), "stream": stream})
    until(lambda: slots_of(cluster, "n") == 3, what=f"3 are known: {cluster.node_row('n')}")


@pytest.mark.parametrize("parallel", [1, 4])
def test_ollamas_parallel_requests_are_known_after_ten(make_cluster, engine_of, parallel):
    engine = engine_of(Ollama, num_parallel=parallel, tokens_per_s=100, prompt_s=0.1,
                       answer_tokens=120)
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    name = next(iter(engine.models))
    fetch_now(cluster.api, "POST", "/api/chat",
              {"model": name, "messages": [{"role": "user", "content": "load it"}]})
    burst(cluster.api, 10, lambda prompt: {
        "model": name, "options": {"num_predict": 120},
        "messages": [{"role": "user", "content": prompt}]}, "/api/chat")
    until(lambda: slots_of(cluster, "n") == parallel,
          what=f"{parallel} slots are known: {cluster.node_row('n')}")
    assert cluster.node_row("n")["slots_source"] == "learned"
    assert f"/~{parallel}" in cluster.ctl("nodes").stdout


def tokens_a_second(engine, window_s):
    """Output of the engine over a window of time."""
    began, before = time.monotonic(), engine.machine.tokens_given
    until(lambda: time.monotonic() - began >= window_s, bound_s=window_s + 5)
    return (engine.machine.tokens_given - before) / (time.monotonic() - began)


@pytest.mark.parametrize("bound", [
    {"max_num_seqs": 256, "batch_cost": 0.0},
    {"max_num_seqs": 256, "batch_cost": 0.0, "kv_tokens": 60 * 192},
], ids=["by_256_sequences", "by_kv_for_60"])
def test_vllm_is_used_to_its_own_bound(make_cluster, engine_of, bound):
    """The pace of a sequence does not depend on the others: the output is what runs at once."""
    engine = engine_of(Vllm, tokens_per_s=4, prompt_tokens_per_s=1e6, **bound)
    engine.machine.tick_s = 0.05
    clients, tokens = 300, 120
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)
    with ClosedLoop(address_of(engine), clients, ask(engine, tokens)):
        until(lambda: engine.machine.queue and len(engine.machine.running) > 40)
        direct = tokens_a_second(engine, 6)
    until(lambda: not engine.machine.running and not engine.machine.queue, bound_s=60)
    with ClosedLoop(cluster.api, clients, ask(engine, tokens)) as loop:
        until(lambda: engine.machine.tokens_given and slots_of(cluster, "n") >= 40, bound_s=30)
        until(lambda: tokens_a_second(engine, 3) >= 0.95 * direct, bound_s=30)
        through = tokens_a_second(engine, 6)
        most_waiting = len(engine.machine.queue)
    assert through >= 0.95 * direct, (through, direct)
    assert most_waiting < clients / 2, "the requests wait in Drover, not in the engine"
    assert set(loop.ends) == {200}
