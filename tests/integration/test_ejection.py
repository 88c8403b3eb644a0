"""Nodes whose requests fail: taken out, tried with one request at a time, let in slot by slot."""

import asyncio
import json
import os
import re
import signal
import urllib.request

import pytest

from fake_node import FakeNode
from harness import MODEL, POLL_S, SLOW, Timeout, until
from load import chat_body, fetch, fetch_now, open_request, text_of

CHAT = "/v1/chat/completions"
EJECT = {"eject_failures": 5, "eject_success_pct": 80, "eject_backoff_ms": 400,
         "eject_backoff_max_ms": 60000}
FAILS_ON_A = {"fault": "5xx", "only_node": "a"}


def start(make_cluster, names, health=None, spec="slots=4,speed=10", policy="round_robin"):
    cluster = make_cluster(config={"policy": policy, "health": {**EJECT, **(health or {})}})
    cluster.start()
    for name in names:
        cluster.start_node(name, spec, wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    return cluster


def ask(cluster, **sim):
    """One request; it must succeed, wherever it had to go."""
    answer = fetch_now(cluster.api, "POST", CHAT,
                       chat_body("hello", 4, **({"drover_sim": sim} if sim else {})))
    assert answer.status == 200, answer.body
    text_of(answer.body)
    return answer


def state(cluster, name):
    row = cluster.node_row(name)
    return row["state"], row["reason"]


def until_state(cluster, name, wanted, meanwhile=lambda: None):
    def reached():
        meanwhile()
        now = state(cluster, name)
        return now == wanted or now[0] == wanted
    try:
        until(reached, 20, f"{name} is {wanted}")
    except Timeout as failure:
        raise Timeout(f"{failure}: {state(cluster, name)}\n{cluster.tails()}") from None


def metric(cluster, name):
    text = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                  timeout=10 * SLOW).read().decode()
    return float(re.search(rf"^{name} (\S+)$", text, re.M).group(1))


def test_an_ejected_node_is_shown_in_every_view(make_cluster):
    cluster = start(make_cluster, "ab", {"eject_backoff_ms": 60000})
    until_state(cluster, "a", ("EJECTED", "failures"), lambda: ask(cluster, **FAILS_ON_A))
    assert metric(cluster, "drover_ejections_total") == 1
    text = cluster.ctl("nodes").stdout + cluster.ctl("node", "a").stdout
    assert "EJECTED" in text and "failures" in text
    assert re.search(r"look at +a EJECTED \(failures\) for ", cluster.ctl("status").stdout)
    assert [(row["name"], row["state"], row["reason"])
            for row in cluster.ctl_json("status")["look_at"]] == [("a", "EJECTED", "failures")]
    rows = json.loads(urllib.request.urlopen("http://%s:%d/nodes" % cluster.address("admin"),
                                             timeout=10 * SLOW).read())["nodes"]
    shown = {row["name"]: row for row in rows}["a"]
    assert (shown["state"], shown["reason"]) == ("EJECTED", "failures")


def test_a_node_whose_requests_fail_is_ejected_tried_and_let_in_again(make_cluster):
    cluster = start(make_cluster, "ab")
    until(lambda: (ask(cluster, **FAILS_ON_A), "event=node_ejected" in cluster.master.log())[1],
          20, "a is out")
    # Its trials fail, each costs one request one more try, and it is out for longer each time.
    until(lambda: (ask(cluster, **FAILS_ON_A), "times=3" in cluster.master.log())[1], 30,
          "a third ejection")
    outs = [int(ms) for ms in re.findall(r'event=node_ejected node="a" .*out_ms=(\d+)',
                                         cluster.master.log())]
    for times, out_ms in enumerate(outs[:3]):  # equal jitter: half of it is certain
        assert 200 << times <= out_ms <= 400 << times, outs
    until_state(cluster, "a", ("UP", "probes_pass"), lambda: ask(cluster))
    assert cluster.node_row("a")["slots_open"] == 4
    assert state(cluster, "b") == ("UP", "probes_pass")


def test_a_trial_is_one_request_at_a_time_over_all_workers(make_cluster):
    cluster = start(make_cluster, "ab")
    until_state(cluster, "a", "EJECTED", lambda: ask(cluster, **FAILS_ON_A))
    until_state(cluster, "a", "PROBATION")

    async def crowd():
        # They hold whatever slot they get: five fit, one of them on a.
        held = [await open_request(cluster.api, "POST", CHAT, chat_body(
            f"number {i}", 4, drover_sim={"fault": "hang", "after_tokens": 1}))
                for i in range(12)]
        try:
            await asyncio.gather(*(asyncio.wait_for(answer.read_head(), 20 * SLOW)
                                   for answer in held[:1]))
            deadline = asyncio.get_running_loop().time() + 10 * SLOW
            while len(cluster.ctl_rows("requests")) < 12 or cluster.gauges()["a"][0] == 0:
                assert asyncio.get_running_loop().time() < deadline, cluster.tails()
                await asyncio.sleep(POLL_S)
            for _ in range(20):
                assert cluster.gauges()["a"][0] == 1, cluster.gauges()
                assert state(cluster, "a")[0] == "PROBATION"
        finally:
            for answer in held:
                answer.abort()
    asyncio.run(crowd())
    cluster.wait_idle()


@pytest.mark.parametrize("policy", ["least_conn", "random2"])
def test_a_trial_comes_though_the_other_nodes_are_never_full(make_cluster, policy):
    cluster = start(make_cluster, "ab", {"eject_failures": 1}, policy=policy)

    async def go():
        loop = asyncio.get_running_loop()

        async def reach(wanted, **sim):
            await loop.run_in_executor(None, until_state, cluster, "a", wanted,
                                       (lambda: ask(cluster, **sim)) if sim or wanted == "UP" else (lambda: None))
        # b keeps a slot in use and three free.
        cluster.ctl("drain", "a")
        await reach("DRAINING")
        held = await open_request(cluster.api, "POST", CHAT, chat_body(
            "hold", 4, drover_sim={"fault": "hang", "after_tokens": 1}))
        await held.read_head()
        try:
            cluster.ctl("undrain", "a")
            await reach("UP")
            await reach("EJECTED", **FAILS_ON_A)
            await reach("PROBATION")
            await reach("UP")
        finally:
            held.abort()
    asyncio.run(go())


def test_the_last_half_of_a_models_nodes_is_kept_and_says_so(make_cluster):
    cluster = start(make_cluster, "a")
    until_state(cluster, "a", ("UP", "kept"), lambda: fetch_now(
        cluster.api, "POST", CHAT, chat_body("x", 4, drover_sim={"fault": "5xx"})))
    until(lambda: 'event=node_kept node="a" reason=failures' in cluster.master.log(), 5, "said")
    assert cluster.master.log().count("event=node_kept") == 1
    assert metric(cluster, "drover_ejections_kept_total") == 1
    assert metric(cluster, "drover_ejections_total") == 0
    assert "kept" in cluster.ctl("nodes").stdout
    # A second node makes it dispensable.
    cluster.start_node("b", "slots=4,speed=10")
    until_state(cluster, "a", "EJECTED")
    # ... and its loss makes it indispensable again.
    cluster.nodes[1].process.signal(signal.SIGKILL)
    until(lambda: 'event=ejection_cut_short node="a"' in cluster.master.log()
          or state(cluster, "a")[0] == "PROBATION", 20, "a is tried")


def test_a_fault_of_a_client_never_counts_against_a_node(make_cluster):
    cluster = start(make_cluster, "ab", {"eject_min_requests": 1})
    for _ in range(12):  # the engine refuses them
        assert fetch_now(cluster.api, "POST", CHAT,
                         {"model": MODEL, "n": 3, "messages": [
                             {"role": "user", "content": "x"}]}).status == 400

    async def leave():
        for i in range(12):
            answer = await open_request(cluster.api, "POST", CHAT, chat_body(
                f"{i}", 4, drover_sim={"fault": "hang"}))
            deadline = asyncio.get_running_loop().time() + 10 * SLOW
            while sum(inflight for inflight, _ in cluster.gauges().values()) == 0:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(POLL_S)
            answer.abort()
            while sum(inflight for inflight, _ in cluster.gauges().values()) != 0:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(POLL_S)
    asyncio.run(leave())
    for name in "ab":
        assert state(cluster, name) == ("UP", "probes_pass")
    assert metric(cluster, "drover_ejections_total") == 0
    assert metric(cluster, "drover_ejections_kept_total") == 0


def test_pings_without_tokens_are_no_progress(make_cluster):
    """One request that is silent for its whole limit, while no request gets a token, is enough."""
    cluster = make_cluster(workers=1, config={
        "health": {**EJECT, "eject_backoff_ms": 60000}, "policy": "round_robin",
        "limits": {"first_token_ms": int(400 * SLOW)}})
    cluster.start()
    for name in "ab":
        cluster.start_node(name, "slots=4,speed=10")
    until_state(cluster, "a", ("EJECTED", "no_progress"),
                lambda: ask(cluster, fault="hang", only_node="a"))
    until(lambda: len(re.findall('event=node_ejected node="a"', cluster.master.log())) == 1, 5)


def test_a_connection_that_breaks_is_one_failure(make_cluster):
    """A node that dies with ten requests is DOWN, which its next probe can undo; not EJECTED."""
    cluster = start(make_cluster, "ab", {"eject_backoff_ms": 60000}, spec="slots=16,speed=10")

    async def crowd():
        held = [asyncio.ensure_future(fetch(cluster.api, "POST", CHAT, chat_body(
            f"number {i}", 4, drover_sim={"fault": "hang", "only_node": "a"})))
                for i in range(20)]
        deadline = asyncio.get_running_loop().time() + 10 * SLOW
        while cluster.gauges()["a"][0] < 8:
            assert asyncio.get_running_loop().time() < deadline, cluster.gauges()
            await asyncio.sleep(POLL_S)
        cluster.nodes[0].process.signal(signal.SIGKILL)
        for answer in await asyncio.gather(*held):
            assert answer.status == 200, answer.body
    asyncio.run(crowd())
    until_state(cluster, "a", "DOWN")
    assert "event=node_ejected" not in cluster.master.log()


def test_slots_open_one_by_one_after_an_absence(make_cluster):
    ramp_ms = 3000
    cluster = start(make_cluster, "ab", {"ramp_ms": ramp_ms, "timeout_ms": 500})
    assert cluster.node_row("a")["slots_open"] == 4, "a new node opens at once"
    pid = cluster.nodes[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        until_state(cluster, "a", "DOWN")
    finally:
        os.kill(pid, signal.SIGCONT)
    until_state(cluster, "a", "UP")
    seen = []

    def all_open():
        row = cluster.node_row("a")
        seen.append(row["slots_open"])
        assert row["state"] == "UP"
        return row["slots_open"] == 4
    until(all_open, 3 * ramp_ms / 1000, "all slots are open")
    assert seen == sorted(seen) and seen[0] < 4 and {2, 3} & set(seen), seen


def test_an_ejection_outlives_the_health_process(make_cluster):
    cluster = start(make_cluster, "ab", {"eject_backoff_ms": 60000})
    until_state(cluster, "a", "EJECTED", lambda: ask(cluster, **FAILS_ON_A))
    old = cluster.health_pid()
    os.kill(old, signal.SIGKILL)
    until(lambda: cluster.health_pid() not in (None, old), 10, "another health process")
    until(lambda: 'event=node_adopted node="a" state=EJECTED reason=failures'
          in cluster.master.log(), 5, "it takes the node over")
    assert state(cluster, "a") == ("EJECTED", "failures")


def replace_health(cluster):
    old = cluster.health_pid()
    os.kill(old, signal.SIGKILL)
    until(lambda: cluster.health_pid() not in (None, old), 10, "another health process")
    until(lambda: 'event=node_adopted node="a"' in cluster.master.log(), 5, "it takes the node over")


def test_a_trial_whose_result_no_health_process_saw_is_followed_by_another(make_cluster):
    cluster = start(make_cluster, "ab")
    until_state(cluster, "a", "EJECTED", lambda: ask(cluster, **FAILS_ON_A))
    until_state(cluster, "a", "PROBATION")
    os.kill(cluster.health_pid(), signal.SIGSTOP)
    until(lambda: ask(cluster).headers["x-drover-node"] == "a", 4, "the trial")
    replace_health(cluster)
    assert 'node_adopted node="a" state=PROBATION' in cluster.master.log()
    until_state(cluster, "a", "UP", lambda: ask(cluster))


def test_a_trial_whose_client_leaves_after_the_first_content_went_well(make_cluster):
    """Only editors use the node, and they cut off nearly every stream: its trial ends all the same."""
    cluster = start(make_cluster, "ab", {"eject_failures": 1})
    until_state(cluster, "a", "EJECTED", lambda: ask(cluster, **FAILS_ON_A))
    until_state(cluster, "a", "PROBATION")

    async def leave_early():
        answer = await open_request(cluster.api, "POST", CHAT, chat_body(
            "hello", 4, drover_sim={"fault": "hang", "after_tokens": 1}))
        await asyncio.wait_for(answer.read_head(), 20 * SLOW)
        answer.abort()
    until_state(cluster, "a", "UP", lambda: asyncio.run(leave_early()))


def test_slots_that_open_one_by_one_do_so_under_another_health_process(make_cluster):
    node = FakeNode("a")
    cluster = make_cluster(token=False, config={"health": {"ramp_ms": 6000}, "nodes": [
        {"name": "a", "address": f"127.0.0.1:{node.port}"}]}).start()
    try:
        cluster.wait_up("a")
        node.serving = False
        until_state(cluster, "a", "DOWN")
        node.serving = True
        until_state(cluster, "a", "UP")
        assert cluster.node_row("a")["slots_open"] < 4
        replace_health(cluster)
        seen = []
        until(lambda: (seen.append(cluster.node_row("a")["slots_open"]), seen[-1] == 4)[1], 18,
              "all slots are open")
        assert seen == sorted(seen), seen
    finally:
        node.stop()
