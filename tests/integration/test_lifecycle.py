"""Processes come and go under load, and no request notices that it should not."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import time

import pytest

from harness import MODEL, SLOW, alive, children_of, program, session_members, until
from load import Load, chat_body, fetch_now, open_request
from pki import Pki

LOAD = dict(concurrency=24, tokens=24)


def worker_count(cluster):
    return len(cluster.worker_pids())


def assert_clean(load, at_least=20):
    assert not load.failures, f"{len(load.failures)} failed: {load.failures[:3]}"
    assert load.done >= at_least, f"only {load.done} requests were made"


def test_workers_scale_from_two_to_four_to_one_under_load_without_a_failed_request(paced):
    with Load(paced.api, **LOAD) as load:
        load.more(10)
        for _ in range(2):
            before = worker_count(paced)
            paced.master.signal(signal.SIGTTIN)
            until(lambda before=before: worker_count(paced) == before + 1, 10, "one worker more")
        assert worker_count(paced) == 4
        load.more(30)
        for _ in range(3):
            before = worker_count(paced)
            paced.master.signal(signal.SIGTTOU)
            until(lambda before=before: worker_count(paced) == before - 1, 10, "one worker less")
        assert worker_count(paced) == 1
        load.more(30)
    assert_clean(load)
    until(lambda: len(paced.worker_rows_all()) == 1, 10, "drained workers have ended")


def test_the_last_worker_is_kept(paced):
    for _ in range(3):
        paced.master.signal(signal.SIGTTOU)
    until(lambda: len(paced.worker_rows_all()) == 1, 10, "one worker is left")
    assert fetch_now(paced.api, "GET", "/livez").status == 200


def test_droverctl_scales_the_workers(paced):
    paced.ctl("scale", "3")
    until(lambda: worker_count(paced) == 3, 10)
    paced.ctl("scale", "1")
    until(lambda: len(paced.worker_rows_all()) == 1, 10)
    refused = paced.ctl("scale", "1000", check=False)
    assert refused.returncode != 0
    assert worker_count(paced) == 1


def test_a_reload_under_load_fails_no_request_and_the_new_config_is_in_force(paced):
    with Load(paced.api, **LOAD) as load:
        load.more(10)
        for turn in range(3):
            old = set(paced.worker_pids())
            paced.write_config(aliases=[{"name": f"alias-{turn}", "model": MODEL}])
            paced.master.signal(signal.SIGHUP)
            until(lambda old=old: (pids := set(paced.worker_pids())) and len(pids) == 2
                  and not pids & old, 15, "two new workers")
            answer = fetch_now(paced.api, "POST", "/v1/chat/completions",
                               chat_body("hello", 2, stream=False, model=f"alias-{turn}"))
            assert answer.status == 200, answer.body
            load.more(15)
    assert_clean(load)
    until(lambda: len(paced.worker_rows_all()) == 2, 15, "the old workers have ended")


def test_a_stream_that_began_before_a_reload_ends_whole_on_its_old_worker(paced):
    with Load(paced.api, concurrency=1, tokens=150, prompts=1) as load:
        until(paced.open_requests, 5, "the stream is open")
        old = set(paced.worker_pids())
        paced.master.signal(signal.SIGHUP)
        until(lambda: (pids := set(paced.worker_pids())) and not pids & old, 15)
        load.more(2)
    assert_clean(load, 2)


def test_a_reload_with_a_bad_config_keeps_the_old_one_and_says_why(paced):
    before = set(paced.worker_pids())
    paced.config_path.write_text(paced.config_path.read_text() + "nonsense: true\n")
    refused = paced.ctl("reload", check=False)
    assert refused.returncode != 0
    assert "nonsense" in refused.stdout + refused.stderr
    paced.master.signal(signal.SIGHUP)
    until(lambda: paced.master.log().count("nonsense") >= 2, 5, "the log names the key")
    assert set(paced.worker_pids()) == before
    assert fetch_now(paced.api, "POST", "/v1/chat/completions",
                     chat_body("hello", 2, stream=False)).status == 200


def test_a_node_joins_serves_drains_and_leaves_under_load_without_a_failed_request(paced):
    with Load(paced.api, **LOAD) as load:
        load.more(10)
        for turn in range(2):
            name = f"guest{turn}"
            guest = paced.start_node(name, "slots=32,rate=100")
            until(lambda name=name: paced.node_row(name)["inflight"] > 0, 10,
                  "the guest has work")
            status = paced.stop_node(guest, signal.SIGTERM)
            assert status == 0, guest.process.log()
            until(lambda name=name: paced.node_state(name) in ("GONE", None), 10, "it is gone")
            load.more(15)
    assert_clean(load)


def test_a_drained_node_finishes_its_streams_takes_no_more_and_comes_back(paced):
    with Load(paced.api, **LOAD) as load:
        load.more(10)
        paced.ctl("drain", "a", "--wait")
        assert paced.node_state("a") == "DRAINING"
        assert paced.node_row("a")["inflight"] == 0
        load.more(20)
        assert paced.node_row("a")["inflight"] == 0
        paced.ctl("undrain", "a")
        paced.wait_up("a")
        until(lambda: paced.node_row("a")["inflight"] > 0, 10, "it has work again")
    assert_clean(load)


def test_drain_waits_until_the_node_is_safe_and_shows_for_what(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("a", "slots=4,rate=20")
    with Load(cluster.api, concurrency=2, tokens=80, prompts=1) as load:
        until(lambda: cluster.node_row("a")["inflight"] >= 2, 10, "two streams are open")
        load._stop.set()
        late = cluster.ctl("drain", "a", "--wait", "--timeout", "1", "--json", check=False)
        assert late.returncode == 1
        assert json.loads(late.stdout)["ok"] is False
        assert "still open" in late.stderr
        done = cluster.ctl("drain", "a", "--wait")
        assert "requests are open on a" in done.stderr
        assert "idle" in done.stdout
        assert cluster.node_row("a")["inflight"] == 0
    assert not load.failures, load.failures


def test_scale_returns_when_the_workers_serve(paced):
    done = paced.ctl("scale", "4")
    assert "2 -> 4" in done.stdout
    assert len(paced.worker_pids()) == 4
    assert json.loads(paced.ctl("scale", "1", "--json").stdout) == {
        "ok": True, "op": "scale", "text": "workers: 4 -> 1"}


def test_stop_returns_when_all_is_over_and_shows_what_it_waits_for(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("a", "slots=4,rate=20")
    with Load(cluster.api, concurrency=1, tokens=60, prompts=1) as load:
        until(cluster.open_requests, 5, "a stream is open")
        load._stop.set()
        done = cluster.ctl("stop", timeout=60)
    assert not load.failures, load.failures
    assert "ended" in done.stdout
    assert "with 1 connections" in done.stderr, done.stderr
    assert cluster.master.wait(5) == 0
    gone = cluster.ctl("stop", check=False)
    assert gone.returncode == 3


def test_draining_an_unknown_node_is_an_error_that_names_it(paced):
    refused = paced.ctl("drain", "nobody", check=False)
    assert refused.returncode != 0
    assert "nobody" in refused.stdout + refused.stderr


def test_the_health_process_is_restarted_and_traffic_does_not_notice(paced):
    with Load(paced.api, **LOAD) as load:
        load.more(10)
        health = paced.health_pid()
        os.kill(health, signal.SIGKILL)
        until(lambda: (pid := paced.health_pid()) and pid != health, 10, "a new health process")
        load.more(20)
        for name in ("a", "b"):
            paced.wait_up(name)
    assert_clean(load)


def test_quit_finishes_open_streams_before_the_master_ends(paced):
    with Load(paced.api, concurrency=8, tokens=60, prompts=1) as load:
        until(lambda: len(paced.open_requests()) >= 8, 5, "streams are open")
        load._stop.set()
        assert paced.stop_master(signal.SIGQUIT) == 0
        load.stop()
    # A client that was between two requests may find the door closed; no stream may be cut.
    cut = [text for _, text in load.failures if "ConnectionRefused" not in text
           and "closed in the head: b''" not in text and "in the head" not in text]
    assert not cut, cut[:3]


def test_term_ends_open_streams_after_the_grace_with_an_error_event(make_cluster):
    cluster = make_cluster(config={"shutdown_grace_ms": 300}).start()
    cluster.start_node("a", "slots=4,rate=20")

    async def go():
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("long", 100000))
        await answer.read_head()
        events, last = 0, b""
        async for event in answer.events():
            events += 1
            if events == 3:
                cluster.master.signal(signal.SIGTERM)
            last, before = event, last
        answer.close()
        return before, last
    before, last = asyncio.run(asyncio.wait_for(go(), 20 * SLOW))
    assert b'"error"' in before
    assert last == b"data: [DONE]"
    assert cluster.master.wait(10) == 0


def test_readiness_goes_first_and_requests_are_taken_meanwhile(make_cluster):
    cluster = make_cluster(config={"shutdown_delay_ms": 60000}).start()
    cluster.start_node("a", "slots=8,rate=200")
    api, admin = cluster.api, cluster.address("admin")
    assert fetch_now(api, "GET", "/readyz").status == 200
    cluster.master.signal(signal.SIGTERM)
    for address in (api, admin):
        until(lambda address=address: fetch_now(address, "GET", "/readyz").status == 503, 5,
              "not ready any more")
        assert fetch_now(address, "GET", "/livez").status == 200
    answer = fetch_now(api, "POST", "/v1/chat/completions", chat_body("hi", 2, stream=False))
    assert answer.status == 200, answer.body
    cluster.master.signal(signal.SIGTERM)  # the second one does not wait for the delay
    assert cluster.master.wait(10) == 0


def test_a_client_that_connects_while_streams_finish_is_refused_and_does_not_hang(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("a", "slots=8,rate=20")
    api = cluster.api
    with Load(api, concurrency=1, tokens=70, prompts=1) as load:
        until(cluster.open_requests, 5, "the stream is open")
        load._stop.set()
        cluster.master.signal(signal.SIGQUIT)

        def refused():
            try:
                socket.create_connection(api, 5).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass  # it came in the instant in which the listener was closed
            return False
        until(refused, 5, "connections are refused")
        assert cluster.open_requests(), "the stream goes on"
    assert not load.failures, load.failures
    assert cluster.master.wait(15) == 0


def test_a_second_term_ends_everything_at_once(make_cluster):
    cluster = make_cluster(config={"shutdown_grace_ms": 600000}).start()
    cluster.start_node("a", "slots=4,rate=20")

    async def go():
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("long", 100000))
        await answer.read_head()
        cluster.master.signal(signal.SIGTERM)
        await asyncio.to_thread(until, lambda: "event=ending" in cluster.master.log(), 5)
        assert cluster.master.running()
        cluster.master.signal(signal.SIGTERM)
        await asyncio.to_thread(cluster.master.wait, 5)
        answer.close()
    asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
    assert cluster.master.popen.returncode == 0


def test_a_stop_in_the_middle_of_a_reload_is_a_stop(make_cluster):
    cluster = make_cluster(workers=4, config={"shutdown_grace_ms": 60000}).start()
    until(lambda: "event=ready" in cluster.master.log(), 10)
    cluster.master.signal(signal.SIGHUP)
    until(lambda: "generation=2" in cluster.master.log(), 10, "the first new worker")
    cluster.master.signal(signal.SIGQUIT)
    until(lambda: "drover is stopping" in cluster.master.log()
          or "event=reloaded" in cluster.master.log(), 10, "the reload is over")
    cluster.master.signal(signal.SIGTERM)  # uses the grace of the configuration in force
    assert cluster.master.wait(15) == 0


ORDERS = (signal.SIGQUIT, signal.SIGTERM, signal.SIGINT, signal.SIGWINCH, signal.SIGTTIN,
          signal.SIGTTOU, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


@pytest.mark.parametrize("seed", range(6))
def test_signals_in_any_order_never_wedge_the_master(make_cluster, seed):
    """Twenty signals by the seed, some at once and some after the master has turned; whatever
    they were, TERM twice ends it, and nothing is left behind."""
    choice = random.Random(seed)
    cluster = make_cluster(config={"shutdown_grace_ms": 60000}).start()
    session = cluster.master.pid
    sent = []
    for _ in range(20):
        # Orders to end are rare, or every run would be a short one.
        number = choice.choice(ORDERS[3:] if choice.random() < 0.9 else ORDERS)
        sent.append(number.name)
        if not cluster.master.running():
            break
        cluster.master.signal(number)
        if choice.random() < 0.3:
            asked = subprocess.run([program("droverctl"), "-d", str(cluster.runtime), "status"],
                                   capture_output=True, timeout=60 * SLOW, check=False)
            assert asked.returncode in (0, 3), sent
    for _ in range(2):
        for pid in session_members(session):
            try:
                if pid == session or children_of(pid):  # the master, or one that took over
                    os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
    until(lambda: not session_members(session), 15, f"the end after {sent}")
    assert not cluster.master.running()


def test_children_end_when_the_master_is_killed(paced):
    children = children_of(paced.master.pid)
    assert len(children) >= 3  # two workers and the health process
    paced.master.signal(signal.SIGKILL)
    paced.master.popen.wait()
    until(lambda: not [pid for pid in children if alive(pid)], 10, "no child is left")
    # The files of the dead master do not keep the next one from starting, and the nodes
    # find it where the old one was.
    registry = "%s:%d" % paced.address("registry")
    paced.write_config(registry={"listen": registry})
    paced.launch()
    for name in ("a", "b"):
        paced.wait_up(name)


def test_a_second_master_on_the_same_runtime_directory_refuses_to_start(paced):
    second = subprocess.run([program("drover"), "-c", str(paced.config_path)],
                            capture_output=True, text=True, timeout=20 * SLOW)
    assert second.returncode != 0
    assert str(paced.master.pid) in second.stderr
    assert paced.master.running()
    assert fetch_now(paced.api, "GET", "/livez").status == 200


def test_a_worker_that_crashes_is_replaced(paced):
    victim = paced.worker_pids()[0]
    os.kill(victim, signal.SIGABRT)
    until(lambda: len(pids := paced.worker_pids()) == 2 and victim not in pids, 10,
          "two workers again")


def whole_time(seconds):
    """Lets time pass, because its passing is what is tested."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, seconds + 1)


def test_a_worker_that_does_not_turn_its_loop_is_replaced_within_ten_seconds(paced):
    victim = paced.worker_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    begun = time.monotonic()
    with Load(paced.api, **LOAD) as load:
        until(lambda: len(pids := paced.worker_pids()) == 2 and victim not in pids, 20,
              "two workers that turn")
        assert 4.5 < time.monotonic() - begun < 10 * SLOW
        load.more(10)
    assert_clean(load)
    assert "stalled=1" in paced.master.log()
    assert not alive(victim)


def test_a_health_process_that_does_not_turn_its_loop_is_replaced(paced):
    victim = paced.health_pid()
    os.kill(victim, signal.SIGSTOP)
    with Load(paced.api, **LOAD) as load:
        until(lambda: (pid := paced.health_pid()) and pid != victim, 20, "a new health process")
        load.more(10)
    assert_clean(load)
    for name in ("a", "b"):
        paced.wait_up(name)


def test_a_machine_that_slept_finds_all_its_processes_well(paced):
    """A suspended machine, seen from inside: everything stands still, then everything goes on."""
    before = sorted(paced.worker_pids() + [paced.health_pid()])
    group = [paced.master.pid] + children_of(paced.master.pid)
    for pid in group:
        os.kill(pid, signal.SIGSTOP)
    whole_time(7)
    os.kill(paced.master.pid, signal.SIGCONT)
    whole_time(2)  # the master alone has woken up: its children's last beats are old
    for pid in group:
        os.kill(pid, signal.SIGCONT)
    assert fetch_now(paced.api, "GET", "/livez").status == 200
    whole_time(2)
    assert "event=child_stalled" not in paced.master.log()
    assert sorted(paced.worker_pids() + [paced.health_pid()]) == before


def test_a_child_that_cannot_start_is_tried_ever_more_rarely_and_the_master_says_why(paced, tmp_path):
    """The certificate goes away after the start: no new worker can read it."""
    pki = Pki(tmp_path)
    pki.authority("ca")
    pki.issue("api")
    paced.write_config(api={"tls": pki.server("api")})
    paced.ctl("reload")
    os.rename(pki.cert("api"), pki.cert("away"))
    for pid in paced.worker_pids():
        os.kill(pid, signal.SIGKILL)
    ended = re.compile(r"event=child_ended kind=worker [^\n]*restart_in_ms=(\d+) "
                       r"last_error=\"[^\n]*api.crt[^\n]*No such file")
    until(lambda: len(ended.findall(paced.master.log())) >= 6, 20, "six failed starts")
    waits = [int(ms) for ms in ended.findall(paced.master.log())]
    assert max(waits) >= 400, waits
    os.rename(pki.cert("away"), pki.cert("api"))
    until(lambda: len(paced.worker_pids()) == 2, 15, "workers are back")


def test_processes_have_titles_and_a_pid_file(paced):
    assert int((paced.runtime / "drover.lock").read_text()) == paced.master.pid
    titles = []
    for pid in children_of(paced.master.pid):
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            titles.append(f.read().replace(b"\0", b" ").decode())
    assert any("worker" in title for title in titles), titles
    assert any("health" in title for title in titles), titles
