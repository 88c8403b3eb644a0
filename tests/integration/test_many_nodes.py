"""Hundreds of nodes: they join at once, and routing, health and droverctl stay quick."""

import asyncio
import os
import re
import signal
import time
import urllib.request

import pytest

from harness import BUILD, MODEL, SLOW, Process, until
from load import chat_body, fetch, text_of

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
COUNT = 256
# Measured with sanitizers on two shared processors: 0.7 s.
JOIN_S = 5


def metrics(cluster):
    return urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                  timeout=30 * SLOW).read().decode()


def up(cluster):
    return int(re.search(r'^drover_nodes\{state="UP"\} (\d+)$', metrics(cluster), re.M).group(1))


def start_herd(cluster):
    urls = cluster.start_engines(["slots=2,speed=10"] * COUNT)
    herd = Process([str(BUILD / "tests" / "bench" / "many_nodes"),
                    "%s:%d" % cluster.address("registry"), str(cluster.token_path), *urls],
                   cluster.dir / "herd.log")
    cluster.others.append(herd)
    until(lambda: "ready" in herd.log(), 30, "the herd is ready")
    return herd


def timed(what, bound_s):
    began = time.monotonic()
    value = what()
    took = time.monotonic() - began
    assert took < bound_s * SLOW, f"{took:.3f} s"
    return value, took


def test_256_nodes_join_in_five_seconds_and_all_stays_quick(make_cluster, record_property):
    cluster = make_cluster(workers=2).start()
    began = time.monotonic()
    herd = start_herd(cluster)
    until(lambda: up(cluster) == COUNT, JOIN_S, "all are UP")
    joined = time.monotonic() - began

    # droverctl, metrics, and the API.
    rows, ctl_s = timed(lambda: cluster.ctl_rows("nodes"), 1)
    assert len(rows) == COUNT and {row["state"] for row in rows} == {"UP"}
    _, models_s = timed(lambda: cluster.ctl("models"), 1)
    _, metrics_s = timed(lambda: metrics(cluster), 1)

    async def crowd(n):
        async def one(i):
            start = time.monotonic()
            answer = await fetch(cluster.api, "POST", CHAT, chat_body(f"number {i}", 4))
            assert answer.status == 200, answer.body
            text_of(answer.body)
            return time.monotonic() - start, answer.headers["x-drover-node"]
        return await asyncio.gather(*(one(i) for i in range(n)))
    asyncio.run(crowd(64))  # connections are made
    results = asyncio.run(crowd(256))
    times = sorted(seconds for seconds, _ in results)
    assert len({node for _, node in results}) > COUNT / 2, "they are spread over the nodes"
    assert times[len(times) // 2] < 2 * SLOW, times
    print(f"joined in {joined:.2f} s; droverctl nodes {ctl_s:.3f} s, models {models_s:.3f} s, "
          f"/metrics {metrics_s:.3f} s; 256 requests at once: median "
          f"{times[len(times) // 2] * 1000:.0f} ms, slowest {times[-1] * 1000:.0f} ms")
    record_property("joined_s", joined)

    # One drains, and all leave as they came.
    timed(lambda: cluster.ctl("drain", "n7"), 2)
    assert cluster.node_state("n7") == "DRAINING"
    assert MODEL in cluster.ctl("models").stdout
    cluster.wait_idle()
    herd.signal(signal.SIGTERM)
    assert herd.wait(15) == 0
    until(lambda: up(cluster) == 0, 10, "none is UP")


def test_a_herd_that_lost_its_coordinator_comes_back_spread_out(make_cluster):
    cluster = make_cluster(workers=1).start()
    start_herd(cluster)
    until(lambda: up(cluster) == COUNT, JOIN_S, "all are UP")
    # The health process dies: all streams break at once, and the rows stay.
    old = cluster.health_pid()
    os.kill(old, signal.SIGKILL)
    until(lambda: cluster.health_pid() not in (None, old), 10, "another health process")

    def attached():
        text = metrics(cluster)
        return int(re.search(r"^drover_registry_attached (\d+)$", text, re.M).group(1)) == COUNT
    until(attached, 10, "all have come back")
    assert up(cluster) == COUNT
