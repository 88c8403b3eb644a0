"""A node that is frozen, its agent or its engine: out within five seconds, and no request is lost."""

import asyncio
import json
import os
import signal
import time
import urllib.request

import pytest

from crowd import Crowd, End
from harness import SLOW, until
from load import chat_body, fetch, text_of

CHAT = "/v1/chat/completions"
OUT_S = 4 + SLOW  # 5, and what looking takes with sanitized programs
# Everything that detection depends on, as it is when the configuration says nothing.
DEFAULTS = {"health": {"interval_ms": 2000, "timeout_ms": 1000, "rise": 2, "fall": 2,
                       "eject_failures": 5, "eject_success_pct": 80, "ramp_ms": 30000},
            "registry": {"heartbeat_ms": 2000, "lease_ms": 10000}}
CLIENTS = 12


def node_json(cluster, name):
    rows = json.loads(urllib.request.urlopen("http://%s:%d/nodes" % cluster.address("admin"),
                                             timeout=10 * SLOW).read())["nodes"]
    return next(row for row in rows if row["name"] == name)


def test_a_long_prefill_that_advances_is_no_silence(make_cluster):
    """Eight seconds of prefill, where a node may be silent for three."""
    cluster = make_cluster(workers=1, config={"limits": {"first_token_ms": 3000}}).start()
    cluster.start_node("a", "slots=2,prefill=1000,chunk=100")
    answer = asyncio.run(fetch(cluster.api, "POST", CHAT, chat_body(
        "long", 4, drover_sim={"prompt_tokens": 8000}), {"x-request-id": "long"}))
    assert answer.status == 200, answer.body
    text_of(answer.body)
    assert answer.headers["x-drover-attempts"] == "1"
    assert cluster.access_line("long")["ttft_us"] > 7_500_000


@pytest.mark.parametrize("victim", ["agent", "engine", "static"])
def test_a_frozen_node_is_out_within_five_seconds_and_clients_see_only_latency(make_cluster,
                                                                                victim):
    cluster = make_cluster(config=DEFAULTS).start()
    engine, url = cluster.start_engine("slots=2,speed=2")
    joins = victim != "static"
    a = cluster.start_node("a", engine=url, join=joins, wait=False,
                           extra=["--slots", "2"])
    cluster.start_node("b", "slots=4,speed=2", wait=False)
    if not joins:
        cluster.write_config(nodes=[{"name": "a", "address": a.address()}])
        cluster.ctl("reload")
    for name in "ab":
        cluster.wait_up(name)
    frozen = engine.pid if victim == "engine" else a.pid
    with Crowd(cluster.api, CLIENTS, 12, ("chat", "whole")) as crowd:
        until(lambda: cluster.gauges()["a"][0] >= 2 and crowd.done > CLIENTS, 20, "a works")
        os.kill(frozen, signal.SIGSTOP)
        began = time.monotonic()
        try:
            row = until(lambda: node_json(cluster, "a"), 5)
            while row["state"] == "UP":
                assert time.monotonic() - began < OUT_S, row
                row = node_json(cluster, "a")
            assert row["state"] == "DOWN"
            assert row["reason"] in (("engine_down",) if victim == "engine" else
                                     ("probe_timeout", "lease_lost", "connect_failed"))
            # Its requests go on elsewhere, and no new one goes there.
            until(lambda: cluster.gauges()["a"][0] == 0, 10, "nothing is open on a")
            sent = node_json(cluster, "a")["counters"]["dispatched"]
            before = crowd.done
            until(lambda: crowd.done > before + 2 * CLIENTS, 30, "b does the work")
            assert node_json(cluster, "a")["counters"]["dispatched"] == sent
        finally:
            os.kill(frozen, signal.SIGCONT)
        until(lambda: cluster.node_state("a") == "UP", 30, "a is back")
        until(lambda: cluster.gauges()["a"][0] > 0, 30, "a works again")
        crowd.stop()
    assert not crowd.complaints and not crowd.outside({End.OK}), crowd.complaints + crowd.ends
    cluster.wait_idle()
