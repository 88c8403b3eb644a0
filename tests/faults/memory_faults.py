"""memory_faults.py - the scoreboard is damaged, removed, stale, or its writers die at any moment."""

import mmap
import os
import re
import signal
import subprocess

from crowd import End
from harness import program, session_members, until
from process_faults import fix_addresses, relaunch
from rig import ASAN_OPTIONS, fault


@fault("M1", "the scoreboard's file is removed", "rm",
       clients="nothing", does="`kill -USR2` at leisure, or a restart: droverctl needs the file, drover does not",
       ctl=("status: cannot|not running|No such file",),
       quick=True)
def scoreboard_removed(run):
    cluster = run.start()
    crowd = run.crowd()
    path = cluster.runtime / "scoreboard"
    kept = cluster.runtime / "kept"
    os.link(path, kept)
    path.unlink()
    run.operator_sees()
    run.more(crowd, 20)
    kept.rename(path)  # so that the rest of the checks can look
    run.check(cluster.ctl("status", check=False).returncode == 0, "the file is back, but droverctl fails")


@fault("M1b", "the scoreboard is cut to nothing by its owner", "truncate -s 0",
       clients="all are cut", does="nothing: the supervisor starts it again; find who did it",
       log=("event=started",),
       ends={End.CUT, End.UNANSWERED, End.REFUSED, End.REJECTED, End.ERROR_EVENT})
def scoreboard_truncated(run):
    # SIGBUS is what the machine does here; no sanitizer need explain it.
    run.environment = {"ASAN_OPTIONS": ASAN_OPTIONS + ":handle_sigbus=0"}
    cluster = run.start()
    fix_addresses(run)
    crowd = run.crowd()
    old = cluster.master
    cluster.others.append(old)
    run.oracle.killed.add(old.pid)
    run.workers_died = True
    os.truncate(cluster.runtime / "scoreboard", 0)
    run.within(lambda: not old.running(), 10, "the master ended", "ended after")
    run.within(lambda: not session_members(old.pid), 10, "all of it ended")
    relaunch(run)
    run.since = 0
    run.operator_sees()
    run.more(crowd)


@fault("M2", "workers die while others read what they write", "kill -9, 12 times at random moments, "
       "droverctl and /metrics all the time",
       clients="as P1", does="nothing",
       metric=("drover_process_restarts_total rises",), ends={End.CUT, End.UNANSWERED})
def killed_while_writing(run):
    cluster = run.start(workers=3)
    crowd = run.crowd(concurrency=16, tokens=8)
    kills = 0
    while kills < 12:
        pids = cluster.worker_pids()
        for pid in pids[:2]:
            run.kill(pid)
            kills += 1
        for view in ("status", "nodes", "requests", "workers"):
            run.check(cluster.ctl(view, check=False).returncode == 0, f"droverctl {view} failed")
        until(lambda pids=pids: len(now := cluster.worker_pids()) == 3
              and not set(pids[:2]) & set(now), 20, "new workers")
    run.more(crowd)
    run.operator_sees()


@fault("M3", "bytes of the scoreboard are overwritten at random", "200 words, at random, under load",
       clients="some may be placed badly or refused", does="restart; find who did it",
       ends=frozenset(End))
def scribbled(run):
    """The promise is small: no process crashes, hangs, or reads beyond the segment."""
    cluster = run.start()
    fix_addresses(run)
    crowd = run.crowd()
    crowd.deadline_s = 60
    path = cluster.runtime / "scoreboard"
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as board:
        for _ in range(200):
            at = run.choose.randrange(4096, len(board) - 8) & ~7
            board[at:at + 8] = run.choose.choice(
                (b"\xff" * 8, bytes(8), run.choose.randbytes(8)))
            if run.choose.random() < 0.1:
                for view in ("status", "nodes", "requests", "workers", "models"):
                    done = subprocess.run(
                        [program("droverctl"), "-d", str(cluster.runtime), view],
                        capture_output=True, timeout=30, check=False)
                    run.check(done.returncode in (0, 1, 3) and b"Sanitizer" not in done.stderr,
                              f"droverctl {view}: {done.returncode} {done.stderr[-600:]!r}")
    run.operator_sees()
    crowd.stop()
    crowd.complaints.clear()
    run.check(cluster.master.running(), "the master died")
    # From here on: what a restart repairs.
    run.oracle.killed.add(cluster.master.pid)
    old = cluster.master
    cluster.others.append(old)
    old.signal(signal.SIGKILL)
    old.popen.wait()
    relaunch(run)
    run.workers_died = True
    run.more(run.crowd(), 20)


@fault("M4", "workers die with hundreds of requests in flight", "kill -9, 8 times, 200 streams",
       clients="as P1", does="nothing; `drover_gauge_audit_violations_total` stays 0",
       metric=("drover_gauge_audit_violations_total is 0", "drover_process_restarts_total rises"),
       ends={End.CUT, End.UNANSWERED})
def leak(run):
    cluster = run.start(spec="slots=400,rate=50,spread=10")
    crowd = run.crowd(concurrency=200, tokens=12)
    for _ in range(8):
        pids = cluster.worker_pids()
        run.kill(run.choose.choice(pids))
        until(lambda pids=pids: len(now := cluster.worker_pids()) == 2
              and now != pids, 20, "a new worker")
        run.more(crowd, 40)
    run.operator_sees()


@fault("M5", "an old scoreboard of another layout lies where a new one should be",
       "version word overwritten, restart",
       clients="refused until the restart", does="nothing",
       log=("event=started",),
       ends={End.UNANSWERED, End.REFUSED, End.REJECTED})
def other_layout(run):
    cluster = run.start()
    fix_addresses(run)
    crowd = run.crowd()
    old = cluster.master
    cluster.others.append(old)
    run.oracle.killed.add(old.pid)
    run.workers_died = True
    old.signal(signal.SIGKILL)
    old.popen.wait()
    until(lambda: not session_members(old.pid), 10, "all of it ended")
    path = cluster.runtime / "scoreboard"
    data = bytearray(path.read_bytes())
    data[8:12] = b"\xfe\xff\xff\x7f"
    path.write_bytes(data)
    shown = cluster.ctl("status", check=False)
    run.check(shown.returncode != 0 and re.search("version|layout", shown.stderr),
              f"droverctl says: {shown.returncode} {shown.stderr}")
    relaunch(run)
    run.since = 0
    run.more(crowd)
    run.operator_sees()
