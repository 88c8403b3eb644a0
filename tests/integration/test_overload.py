"""Ten times more work than the nodes can do: some is served, some refused, and probes stay quick.

scripts/bench-overload is the same at full length, with figures.
"""

import asyncio
import json
import subprocess
import sys
import threading

import pytest

import pressure
from harness import BUILD, ROOT, SLOW, until
from load import chat_body, fetch_now
from pressure import CHAT, offer, summary

pytestmark = pytest.mark.alone

SLOTS, HOLD_S, TOKENS = 16, 0.4, 16   # two nodes of 8 slots; 16 tokens at 24 ms each
CAPACITY = SLOTS / HOLD_S
# Time limits of a probe, 99 of 100 and the slowest; both 0.1 s where nothing is slow.
PROBE_P99_S, PROBE_MAX_S = 0.1 * max(1, SLOW / 2), 0.1 * (2 * SLOW - 1)


@pytest.fixture
def busy(make_cluster):
    """Nodes that do CAPACITY requests a second, and have done a few."""
    cluster = make_cluster(config={"queue": {"max_wait_ms": 2000}}).start()
    for name in "ab":
        cluster.start_node(name, "slots=8,base_ms=20,slope_ms=0.5,cache=none",
                           extra=("--queue", "0"), wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    done = summary(asyncio.run(offer(cluster.api, CAPACITY / 2, 2, TOKENS)), 2)
    assert done["served"] == done["offered"] > 0, done
    return cluster


def watch(cluster):
    api, admin = cluster.api, cluster.address("admin")
    return pressure.Watcher({"api": (*api, "/livez"), "admin": (*admin, "/livez"),
                             "metrics": (*admin, "/metrics")}, cluster.worker_pids())


def test_ten_times_too_much_is_refused_at_once_and_the_rest_served_as_usual(busy):
    with watch(busy) as watcher:
        outcomes = asyncio.run(offer(busy.api, 10 * CAPACITY, 5, TOKENS))
    result, seen = summary(outcomes, 5), watcher.report
    assert result["failed"] == 0, result
    assert result["without_retry_after"] == 0, result
    assert result["served_per_s"] > 0.7 * CAPACITY, "refusing must not cost the slots"
    # Once the first have been rejected, no request waits for longer than a slot is held, or 1 s.
    later = summary([o for o in outcomes if o.at_s > 2], 3)
    assert later["served"] and later["queue_p99_s"] < 1.6, later
    assert later["refusal_p50_s"] < 0.05 * SLOW, "most are refused at once"
    assert result["refusal_p99_s"] < 2.5, "and nobody waits for longer than max_wait_ms"
    for name, latency in seen["latencies"].items():
        assert latency["bad"] == 0 and latency["count"] > 20, (name, latency)
        assert latency["p99_s"] < PROBE_P99_S, (name, latency)
        assert latency["max_s"] < PROBE_MAX_S, (name, latency)
    for first, most in seen["memory"].values():
        assert most - first < 64 << 20, seen["memory"]
    # Back to normal: at half the load everybody is served without a wait worth the name.
    after = summary(asyncio.run(offer(busy.api, CAPACITY / 2, 2, TOKENS, seed=2)), 2)
    assert after["served"] == after["offered"] and after["ttft_p99_s"] < max(1, SLOW / 2), after


def test_a_client_that_comes_back_when_retry_after_says_is_served(busy):
    outcomes = asyncio.run(offer(busy.api, 8 * CAPACITY, 1, TOKENS, come_back=1.0))
    result = summary(outcomes, 1)
    assert result["failed"] == 0 and result["came_back"] > 2 * CAPACITY, result
    assert result["came_back_served"] >= 0.9 * result["came_back"], result
    # The right time is what the nodes need for all of them, not more.
    assert max(o.retry_after_s for o in outcomes) <= 2 * result["offered"] / CAPACITY, result


def test_a_queue_without_rejections_stays_long(busy):
    """Agents that outnumber the slots all the time are no overload."""
    async def agents():
        async def agent(number):
            return [(await pressure.one_chat(busy.api, chat_body(f"{number} {turn}", TOKENS), 0))
                    for turn in range(6)]
        return await asyncio.gather(*(agent(number) for number in range(3 * SLOTS)))
    outcomes = [o for turns in asyncio.run(agents()) for o in turns]
    assert {o.status for o in outcomes} == {200}
    assert max(o.queue_s for o in outcomes) > HOLD_S, "some waited for more than one turn"


def test_rejected_clients_get_the_reason_in_the_shape_of_their_api(busy):
    with busy_slots(busy):
        until(lambda: fetch_now(busy.api, "POST", CHAT, chat_body("x", 4)).status == 429, 10)
        for path, place in ((CHAT, "error"), ("/v1/messages", "error"), ("/api/chat", "error")):
            answer = fetch_now(busy.api, "POST", path, chat_body("x", 4))
            assert answer.status in (429, 529) and place in answer.json(), answer.body
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.headers["x-drover-reason"] == "queue_full"


class busy_slots:
    """More than fits, in the background."""

    def __init__(self, cluster):
        self.cluster = cluster

    def __enter__(self):
        self.thread = threading.Thread(target=lambda: asyncio.run(
            offer(self.cluster.api, 6 * CAPACITY, 4, TOKENS)))
        self.thread.start()

    def __exit__(self, *exc):
        self.thread.join()


def test_the_benchmark_of_overload_runs(tmp_path):
    """A short one: that it measures and judges, not what it finds."""
    result = tmp_path / "result.json"
    done = subprocess.run([sys.executable, str(ROOT / "scripts/bench-overload"), "--build", str(BUILD),
                           "--seconds", "5", "--quick", "--json", str(result)],
                          capture_output=True, text=True, timeout=100 * SLOW, check=False)
    assert done.returncode in (0, 1) and "targets met" in done.stdout, done.stdout + done.stderr
    figures = json.loads(result.read_text())
    assert figures["over"]["refused"] > figures["over"]["served"] > 0
    assert figures["capacity_per_s"] > 5
