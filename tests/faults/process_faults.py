"""process_faults.py - processes of the coordinator die, stop and are started twice."""

import os
import signal
import subprocess
import time

from crowd import End
from frozen import STATIC, Frozen
from harness import SLOW, alive, children_of, program, session_members, until
from rig import PACED, fault

MIXED = ("chat", "whole", "anthropic", "ollama", "completion")


def new_worker(run, old, count=2):
    pids = run.cluster.worker_pids()
    return len(pids) == count and not set(old) & set(pids)


@fault("P1", "a worker dies with requests in every phase", "kill -9",
       clients="those of that worker are cut, all others notice nothing",
       does="nothing; look for a core file and report it if the cause was not yours",
       log=("event=child_ended kind=worker cause=signal name=KILL",
            "event=child_started kind=worker"),
       metric=("drover_process_restarts_total rises",),
       ctl=("workers: worker 0 +[0-9]+ +RUNNING",),
       ends={End.CUT, End.UNANSWERED},
       quick=True)
def worker_killed(run):
    cluster = run.start(static=STATIC)
    crowd = run.crowd()
    frozen = Frozen(run)
    run.oracle.take()
    where = frozen.workers()
    victim = cluster.worker_rows()[0]
    pid, slot = victim["pid"], victim["process"]
    began = time.monotonic()
    run.kill(pid)
    for client in frozen.clients:
        if where.get(client.name) == slot:
            run.check(client.ended(3), f"{client.name} did not see its worker die")
    run.figure("clients told", f"{(time.monotonic() - began) * 1000:.0f} ms")
    until(lambda: new_worker(run, [pid]), 5, "a new worker")
    run.figure("replaced", f"{(time.monotonic() - began) * 1000:.0f} ms")
    for client in frozen.clients:
        if client.name in where and where[client.name] != slot:
            run.check(client.alive(), f"{client.name} is of another worker and was ended")
    run.operator_sees()
    frozen.close()
    run.wires["sent"].heal()
    run.more(crowd)


@fault("P2", "workers crash again and again", "SIGABRT, 12 times, 3 of 4 workers",
       clients="those of the crashing workers are cut; the remaining worker serves",
       does="find the request that does it (access log, core file); restarts are held back up to 5 s",
       log=("event=crash_loop per=minute", "event=child_ended name=ABRT restart_in_ms="),
       metric=("drover_process_restarts_total rises",),
       ctl=("status: workers +4 running",),
       ends={End.CUT, End.UNANSWERED})
def crash_loop(run):
    cluster = run.start(workers=4)
    crowd = run.crowd()
    keep = cluster.worker_rows()[0]["pid"]
    for _ in range(4):
        pids = [row["pid"] for row in cluster.worker_rows()]
        for pid in pids:
            if pid != keep:
                run.kill(pid, signal.SIGABRT)
        run.within(lambda pids=pids: len(set(cluster.worker_pids()) - (set(pids) - {keep})) == 4,
                   12, "all are replaced", "last pause")
    run.check(alive(keep), "the worker that did not crash is gone")
    run.more(crowd)
    run.operator_sees()


@fault("P3", "a worker stops turning its loop", "SIGSTOP",
       clients="those of that worker hang until it is replaced; new connections go to the others",
       does="nothing; a worker that does this again and again is a bug worth reporting",
       log=("event=child_stalled kind=worker",),
       ctl=("workers: worker 0 .* (stalled|does not turn)",),
       ends={End.CUT, End.UNANSWERED})
def worker_stopped(run):
    cluster = run.start()
    crowd = run.crowd()
    pid = cluster.worker_rows()[0]["pid"]
    run.oracle.killed.add(pid)
    run.workers_died = True
    run.stop_process(pid)
    began = time.monotonic()
    run.more(run.crowd(), 20)
    run.operator_sees(15)
    until(lambda: new_worker(run, [pid]), 15, "the stopped worker is replaced")
    run.figure("replaced", f"{time.monotonic() - began:.1f} s")
    run.more(crowd)


@fault("P4", "the health process dies, again and again while a node joins", "kill -9, 5 times",
       clients="nothing",
       does="nothing; nodes come back to the new one by themselves",
       log=("event=child_ended kind=health cause=signal name=KILL",
            "event=node_adopted state=UP", "event=node_joined resumed=yes",
            "node: event=detached"),
       metric=('drover_process_restarts_total{proc="health"} rises',),
       ctl=("status: health +pid [0-9]+, running",))
def health_killed(run):
    cluster = run.start()
    crowd = run.crowd(kinds=MIXED, concurrency=10)
    newcomer = cluster.start_node("c", PACED, wait=False)
    for turn in range(5):
        pid = until(cluster.health_pid, 10, "a health process")
        until(lambda turn=turn: newcomer.process.log().count("event=") >= turn // 2 + 1, 5,
              "the newcomer is a little further")
        run.kill(pid)
        until(lambda pid=pid: cluster.health_pid() not in (None, pid), 10, "a new health process")
        for name in "ab":
            run.check(cluster.node_state(name) == "UP", f"node {name} is not UP any more")
    for name in "abc":
        run.state_becomes(name, ("UP",), 15, "last joined" if name == "c" else None)
    run.workers_died = False
    run.more(crowd, 10)
    run.operator_sees()


@fault("P5", "the health process stands still for longer than a lease", "SIGSTOP 2.5 s, lease 1.5 s",
       clients="nothing",
       does="nothing; find out why the machine stood still",
       log=("event=loop_stood_still gap_ms=",),
       ctl=("nodes: a +UP", "nodes: b +UP"))
def health_stopped(run):
    cluster = run.start(config={"registry": {"heartbeat_ms": 200, "lease_ms": 1500}})
    crowd = run.crowd()
    pid = cluster.health_pid()
    run.stop_process(pid)
    began = time.monotonic()
    # No condition can be waited for here: the time itself is the fault.
    until(lambda: time.monotonic() - began > 2.5, 10, "time passes")
    run.continue_process(pid)
    run.operator_sees()
    run.check(cluster.health_pid() == pid, "the health process was replaced")
    run.check("event=node_silent" not in run.logs()[0], "a node was blamed for our own pause")
    run.more(crowd, 10)


def relaunch(run):
    """The next master on the same addresses, as a supervisor would start it."""
    cluster = run.cluster
    began = time.monotonic()
    cluster.launch()
    for name in "ab":
        cluster.wait_up(name)
    run.figure("serves again", f"{time.monotonic() - began:.2f} s")


def fix_addresses(run):
    """The configuration with the ports that the kernel chose, so that a restart has the same."""
    cluster = run.cluster
    cluster.write_config(**{which: {"listen": "%s:%d" % cluster.address(which)}
                            for which in ("api", "admin", "registry")})


@fault("P6", "the master dies under load", "kill -9",
       clients="streams under way finish (`shutdown_grace_ms`); new connections are refused until "
               "it is started again",
       does="let the supervisor start it again (systemd: `Restart=on-failure`)",
       log=("event=draining", "event=worker_stopped"),
       ctl=("status: not running",),
       ends={End.UNANSWERED, End.REFUSED, End.REJECTED},
       quick=True)
def master_killed(run):
    cluster = run.start()
    fix_addresses(run)
    crowd = run.crowd()
    children = children_of(cluster.master.pid)
    old = cluster.master
    cluster.others.append(old)
    run.oracle.killed.add(old.pid)
    run.workers_died = True
    old.signal(signal.SIGKILL)
    old.popen.wait()
    run.operator_sees()
    run.within(lambda: not [pid for pid in children if alive(pid)], 10, "its children ended",
               "children gone")
    relaunch(run)
    run.since = 0
    run.more(crowd)


@fault("P7", "the master dies while a reload is under way", "HUP, kill -9 3 to 60 ms later, 3 times",
       clients="as P6", does="as P6",
       log=("event=draining",), ctl=("status: not running",),
       ends={End.UNANSWERED, End.REFUSED, End.REJECTED})
def master_killed_in_reload(run):
    cluster = run.start()
    fix_addresses(run)
    crowd = run.crowd()
    run.workers_died = True
    for turn in range(3):
        old = cluster.master
        pause = run.choose.uniform(0.003, 0.06)
        old.signal(signal.SIGHUP)
        began = time.monotonic()
        until(lambda: time.monotonic() - began > pause, 1, "time passes")
        cluster.others.append(old)
        run.oracle.killed.add(old.pid)
        old.signal(signal.SIGKILL)
        old.popen.wait()
        if turn == 0:
            run.operator_sees()
        run.within(lambda old=old: not session_members(old.pid), 12,
                   "no process of the dead master is left", "children gone")
        relaunch(run)
        run.since = 0
        run.more(crowd, 10)


@fault("P8", "a worker ends by itself with status 0", "SIGTERM to the worker, not the master",
       clients="streams of that worker finish, nothing else",
       does="nothing; send signals to the master, not to workers",
       log=("event=child_ended kind=worker cause=exit status=0",
            "event=child_started kind=worker"),
       metric=("drover_process_restarts_total rises",), ends={End.CUT, End.UNANSWERED})
def worker_exits(run):
    cluster = run.start()
    crowd = run.crowd()
    pid = cluster.worker_pids()[0]
    run.oracle.killed.add(pid)
    os.kill(pid, signal.SIGTERM)
    run.within(lambda: new_worker(run, [pid]), 15, "a new worker", "replaced")
    run.more(crowd)
    run.operator_sees()


@fault("P9", "a second master is started", "drover -c with the same runtime_dir",
       clients="nothing",
       does="nothing; the second one names the first and ends with status 1",
       ctl=("status: master +pid [0-9]+, running",),
       quick=True)
def second_master(run):
    cluster = run.start()
    crowd = run.crowd()
    second = subprocess.run([program("drover"), "-c", str(cluster.config_path)],
                            capture_output=True, text=True, timeout=20 * SLOW, check=False)
    run.check(second.returncode == 1, f"status {second.returncode}")
    run.check(str(cluster.master.pid) in second.stderr and second.stderr.count("\n") == 1,
              f"not one line that names the master: {second.stderr!r}")
    run.more(crowd, 10)
    run.operator_sees()


@fault("P10", "a stale lock file names a process that lives", "the pid of another process in it",
       clients="nothing", does="nothing: the lock counts, the text in it does not",
       ctl=("status: master +pid [0-9]+, running",))
def stale_lock(run):
    cluster = run.start(nodes=())
    run.oracle.killed.add(cluster.master.pid)
    cluster.master.kill_all()
    lock = cluster.runtime / "drover.lock"
    lock.write_text(f"{os.getpid()}\n")
    cluster.launch()
    run.check(lock.read_text().strip() == str(cluster.master.pid), "the lock names another")
    for name in "ab":
        cluster.start_node(name, PACED)
    run.more(run.crowd(), 10)
    run.operator_sees()
