"""Time that is not to be trusted: the wall clock jumps, and other processes take the processor."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from harness import SLOW, children_of, session_members, until
from load import Answer, Load, chat_body, fetch, make_request, open_request

CHAT = "/v1/chat/completions"
WAIT_S = 5
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


class WallClock:
    """The wall clock of the processes that have .env in their environment."""

    def __init__(self, folder):
        assert FAKETIME, "libfaketime is not installed (scripts/setup --tests)"
        self.file = folder / "faketime"
        self.env = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self.file),
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
                    "FAKETIME_NO_CACHE": "1"}
        self.set(0)

    def set(self, offset_s):
        other = self.file.with_suffix(".new")
        other.write_text(f"{offset_s:+d}\n")
        other.rename(self.file)


def hours_logged(cluster):
    """Of the access log's times, in the order of the lines."""
    return [line["time"][:13] for line in cluster.access_lines()]


def states_seen(cluster):
    return [line for line in cluster.master.log().splitlines() if "event=node_state" in line]


async def half_before_the_jump(cluster, clock, offset_s):
    """Requests whose first half comes before the jump: the times that their answers bear."""
    whole = make_request("POST", CHAT, chat_body("half", 4, stream=False))
    connections = [await asyncio.open_connection(*cluster.api) for _ in range(8)]
    for _, writer in connections:
        writer.write(whole[:40])
        await writer.drain()
    # A worker that answers what came later has read what came before.
    await asyncio.gather(*(fetch(cluster.api, "GET", "/v1/models") for _ in range(8)))
    clock.set(offset_s)
    # A turn with the new time has passed when this has been answered.
    await asyncio.gather(*(fetch(cluster.api, "GET", "/v1/models") for _ in range(8)))
    dates = []
    for reader, writer in connections:
        writer.write(whole[40:])
        answer = await Answer(reader, writer).read_head()
        await answer.read()
        answer.close()
        assert answer.status == 200, answer.body
        dates.append(parsedate_to_datetime(answer.headers["date"]).timestamp())
    return dates


@pytest.mark.plain  # libfaketime and a sanitizer do not go together
def test_a_wall_clock_that_jumps_changes_nothing_but_the_logs(make_cluster, tmp_path):
    clock = WallClock(tmp_path)
    cluster = make_cluster(config={"queue": {"max_wait_ms": int(WAIT_S * 1000)}})
    cluster.environment = cluster.node_environment = clock.env
    cluster.start()
    for name in "ab":
        cluster.start_node(name, "slots=16,rate=50", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    workers, came_up = set(cluster.worker_pids()), len(states_seen(cluster))
    with Load(cluster.api, concurrency=12, tokens=20) as load:
        for offset_s in (3600, -3600, 10 * 365 * 86400, 0):
            done, lines = load.done, len(hours_logged(cluster))
            dates = asyncio.run(half_before_the_jump(cluster, clock, offset_s))
            off_s = [date - time.time() - offset_s for date in dates]
            assert all(abs(s) < 3 * SLOW for s in off_s), f"Date is off by {off_s}"
            until(lambda: load.done >= done + 24, 10, f"streams go on at {offset_s:+d} s")
            assert len(hours_logged(cluster)) > lines
        load.stop()
    assert not load.failures, load.failures[:3]
    assert len(set(hours_logged(cluster))) >= 4, "the clock did jump"
    assert len(states_seen(cluster)) == came_up, states_seen(cluster)[came_up:]
    assert set(cluster.worker_pids()) == workers and cluster.violations() == 0

    async def waits():
        """A wait for a slot that all others hold, across a jump."""
        holders = [await open_request(cluster.api, "POST", CHAT,
                                      chat_body(f"{i}", 4, drover_sim={"fault": "hang"}))
                   for i in range(48)]  # slots, and half as many places in the nodes' queues
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, until, lambda: sum(
            inflight for inflight, _ in cluster.gauges().values()) >= 32, 10, "no slot is free")
        begun = time.monotonic()
        late = asyncio.create_task(fetch(cluster.api, "POST", CHAT, chat_body("late", 4, stream=False)))
        await loop.run_in_executor(None, until, lambda: any(
            row["phase"] == "queued" for row in cluster.open_requests()), 5)
        clock.set(3600)
        answer = await late
        took = time.monotonic() - begun
        for holder in holders:
            holder.abort()
        return answer, took
    answer, took = asyncio.run(waits())
    assert answer.status == 503, answer.body
    assert 0.9 * WAIT_S <= took <= WAIT_S + SLOW, f"max_wait_ms of {WAIT_S} s took {took:.2f} s"


@pytest.mark.alone
def test_starved_processes_are_slow_but_none_is_taken_for_dead(make_cluster):
    cluster = make_cluster().start()
    for name in "ab":
        cluster.start_node(name, "slots=16,rate=50", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    workers, health, came_up = (set(cluster.worker_pids()), cluster.health_pid(),
                                len(states_seen(cluster)))
    core = min(os.sched_getaffinity(0))
    for process in cluster.processes():
        for pid in session_members(process.pid) + children_of(process.pid):
            os.sched_setaffinity(pid, {core})
    burners = [subprocess.Popen(
        [sys.executable, "-c", f"import os, time\nos.sched_setaffinity(0, {{{core}}})\n"
         "end = time.monotonic() + 5\nwhile time.monotonic() < end: pass"]) for _ in range(4)]
    try:
        with Load(cluster.api, concurrency=8, tokens=20) as load:
            until(lambda: all(burner.poll() is not None for burner in burners), 10)
            load.stop()
    finally:
        for burner in burners:
            burner.send_signal(signal.SIGKILL)
            burner.wait()
    assert load.done > 0 and not load.failures, load.failures[:3]
    assert len(states_seen(cluster)) == came_up, states_seen(cluster)[came_up:]
    assert set(cluster.worker_pids()) == workers and cluster.health_pid() == health
    assert "event=lease_lost" not in cluster.master.log()
