"""resource_faults.py - disk, descriptors, memory, processor, clock and ports run out or jump."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from crowd import End
from harness import children_of, until
from hosts import run as command
from load import chat_body, fetch_now
from rig import ASAN_OPTIONS, fault

# Debian has a folder for each architecture.
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), Path("libfaketime.so.1"))


def small_disk(run, size="4m"):  # the log of a fault that goes well is far smaller
    folder = Path(tempfile.mkdtemp(prefix="drover-disk-"))
    command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    run.closers.append(lambda: (subprocess.run(["umount", "-l", str(folder)], check=False),
                                shutil.rmtree(folder, ignore_errors=True)))
    return folder


@fault("R1", "the disk of the access log is full", "tmpfs of 4 MiB",
       clients="nothing", does="make room; lines that found none are lost and counted",
       log=("event=log_lines_lost log=",),
       metric=("drover_process_log_lines_lost_total rises",), root=True,
       quick=True)
def disk_full(run):
    folder = small_disk(run)
    run.start(config={"log": {"access": str(folder / "access.log")}})
    run.cluster.access_log_path = folder / "access.log"
    crowd = run.crowd(tokens=2, concurrency=16)
    fill(folder)
    run.operator_sees()
    run.more(crowd, 40)
    (folder / "ballast").unlink(missing_ok=True)
    before = (folder / "access.log").stat().st_size
    run.within(lambda: (folder / "access.log").stat().st_size > before, 10, "lines are written "
               "again", "writes again")
    run.lossy_log = True


def fill(folder):
    """Fills a small disk to the last byte."""
    with open(folder / "ballast", "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"x" * 4096)
        except OSError:
            pass


@fault("R2", "the log file is deleted, then rotated", "rm, USR1",
       clients="nothing", does="after a rotation: `kill -USR1`, which makes the file anew",
       log=("event=logs_reopened",),
       quick=True)
def log_rotated(run):
    cluster = run.start()
    crowd = run.crowd()
    cluster.access_log_path.unlink()
    run.more(crowd, 10)
    cluster.master.signal(signal.SIGUSR1)
    run.within(cluster.access_log_path.exists, 10, "the file is there again", "reopened")
    run.more(crowd, 10)
    run.operator_sees()
    run.lossy_log = True


@fault("R2b", "the reader of the log stands still", "the access log is a pipe that is full and no process reads",
       clients="nothing", does="wake the reader; lines that found no room are lost and counted",
       metric=("drover_process_log_lines_lost_total rises",))
def log_reader_stuck(run):
    cluster = run.start()
    fifo = cluster.dir / "access.pipe"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    run.closers.append(lambda: os.close(held))
    try:
        while True:
            os.write(held, b"x" * 4096)
    except BlockingIOError:
        pass
    crowd = run.crowd()
    cluster.write_config(log={"access": str(fifo)})
    old = set(cluster.worker_pids())
    cluster.ctl("reload")
    until(lambda: (now := set(cluster.worker_pids())) and not now & old, 15, "new workers")
    run.more(crowd, 40)
    run.operator_sees()
    run.lossy_log = True


@fault("R3", "a worker is out of file descriptors", "prlimit --nofile at what it has",
       clients="new connections wait, or go to another worker; open ones go on",
       does="raise the limit (`LimitNOFILE`); twice the connections you expect",
       log=("event=accept_failed",))
def descriptors(run):
    cluster = run.start()
    crowd = run.crowd()
    pids = cluster.worker_pids()
    normal = resource.prlimit(pids[0], resource.RLIMIT_NOFILE)
    began_cpu = [cpu_s(pid) for pid in pids]
    began = time.monotonic()
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE,
                         (len(os.listdir(f"/proc/{pid}/fd")) + 1, normal[1]))
    run.operator_sees()
    until(lambda: time.monotonic() - began > 3, 10, "time passes")
    spent = [cpu_s(pid) - was for pid, was in zip(pids, began_cpu)]
    busy = max(spent) / (time.monotonic() - began)
    run.figure("busiest worker", f"{busy * 100:.0f} % of a processor")
    run.check(busy < 0.8, "a worker spins")
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, normal)
    run.more(crowd)
    for name in "ab":
        run.check(cluster.node_state(name) == "UP", f"node {name} was blamed")


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rsplit(b")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@fault("R4", "the kernel kills a worker that needs too much memory",
       "cgroup of 4 MiB for what is new, bodies of 8 MB",
       clients="as P1", does="give it more memory, or lower `limits.max_body_total_bytes`",
       log=("event=child_ended kind=worker cause=signal name=KILL",),
       metric=("drover_process_restarts_total rises",),
       ends={End.CUT, End.UNANSWERED}, root=True)
def out_of_memory(run):
    cluster = run.start()
    crowd = run.crowd()
    victim = cluster.worker_pids()[0]
    group = new_group(run, "memory")
    (group / "memory.limit_in_bytes").write_text(str(4 << 20))
    (group / "cgroup.procs").write_text(str(victim))
    run.oracle.killed.add(victim)
    run.workers_died = True
    body = chat_body("x" * 8_000_000, 4)
    deadline = time.monotonic() + 60
    while victim in cluster.worker_pids() and time.monotonic() < deadline:
        try:
            fetch_now(cluster.api, "POST", "/v1/chat/completions", body)
        except (OSError, AssertionError):
            pass  # it came to the victim
    run.within(lambda: victim not in (now := cluster.worker_pids()) and len(now) == 2, 15,
               "a new worker", "replaced")
    leave(group)
    run.more(crowd)
    run.operator_sees()


@fault("R5", "the machine has no processor time to spare", "cgroup quota of 20 % of one processor",
       clients="everything is slower, nothing fails", does="nothing, or a larger machine",
       ctl=("nodes: a +UP", "nodes: b +UP"), root=True)
def starved(run):
    cluster = run.start(config={"registry": {"heartbeat_ms": 500, "lease_ms": 5000}})
    crowd = run.crowd(concurrency=4)
    group = new_group(run, "cpu")
    (group / "cpu.cfs_period_us").write_text("50000")
    (group / "cpu.cfs_quota_us").write_text("10000")
    for pid in [cluster.master.pid, *children_of(cluster.master.pid)]:
        (group / "cgroup.procs").write_text(str(pid))
    began, done = time.monotonic(), crowd.done
    until(lambda: time.monotonic() - began > 8 and crowd.done > done + 8, 40, "time passes")
    run.figure("answers", f"{(crowd.done - done) / (time.monotonic() - began):.1f}/s")
    run.operator_sees()
    leave(group)
    run.check("event=node_state" not in run.logs()[0], "a node was judged wrongly")
    run.more(crowd)


def new_group(run, controller):
    group = Path("/sys/fs/cgroup") / controller / f"drover-faults-{time.time_ns()}"
    group.mkdir()
    run.closers.append(lambda: leave(group))
    return group


def leave(group):
    """Processes of a cgroup go on without its limits."""
    if group.exists():
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        until(lambda: not (group / "cgroup.procs").read_text(), 5, "the group is empty")
        group.rmdir()


@fault("R6", "the clock jumps: +1 h, -2 h, +10 years", "libfaketime, monotonic clock untouched",
       clients="nothing", does="nothing; log lines and `created` have the new time",
       ctl=("nodes: a +UP", "nodes: b +UP"),
       quick=True)
def clock_jump(run):
    folder = Path(tempfile.mkdtemp(prefix="drover-time-"))
    run.closers.append(lambda: shutil.rmtree(folder, ignore_errors=True))
    stamp = folder / "stamp"
    stamp.write_text("+0")
    # Only the coordinator's clock: the nodes keep theirs, as other machines would.
    run.environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(stamp),
                       "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1",
                       "ASAN_OPTIONS": ASAN_OPTIONS + ":verify_asan_link_order=0"}
    run.start()
    crowd = run.crowd()
    for jump in ("+3600", "-3600", "+315360000"):
        stamp.write_text(jump)
        run.more(crowd, 24)
    run.operator_sees()
    run.check("event=node_state" not in run.logs()[0], "a node was judged by the clock")
    run.cluster.master.signal(signal.SIGUSR1)  # one more line, to see the faked time in it
    run.within(lambda: "at=203" in run.cluster.master.log(), 10, "a line of ten years later")


@fault("R7", "the machine is suspended", "SIGSTOP of every process for 4 s, lease 1.5 s",
       clients="a pause", does="nothing",
       log=("event=loop_stood_still",), ctl=("nodes: a +UP", "nodes: b +UP"))
def suspended(run):
    cluster = run.start(config={"registry": {"heartbeat_ms": 300, "lease_ms": 1500}})
    crowd = run.crowd()
    pids = [cluster.master.pid, *children_of(cluster.master.pid),
            *(node.pid for node in cluster.nodes)]
    for pid in pids:
        run.stop_process(pid)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 4, 10, "time passes")
    for pid in pids:
        run.continue_process(pid)
    for name in "ab":
        run.state_becomes(name, ("UP",), 15, "all up again")
    run.more(crowd)
    run.operator_sees()


@fault("R8", "there are no local ports left to connect from", "ip_local_port_range 24 wide",
       clients="nothing: connections to nodes are few and kept", does="nothing",
       ctl=("nodes: a +UP",), root=True)
def ports(run):
    path = Path("/proc/sys/net/ipv4/ip_local_port_range")
    normal = path.read_text()
    cluster = run.start()
    run.crowd(concurrency=4).stop()
    run.closers.append(lambda: path.write_text(normal))
    taken = []
    path.write_text("61000 61023")
    with socket.socket() as sink:
        sink.bind(("127.0.0.1", 0))
        sink.listen(64)
        try:
            while True:
                taken.append(socket.create_connection(sink.getsockname(), timeout=5))
        except OSError:
            pass
        run.check(len(taken) > 10, "the ports were not used up")
        health = cluster.health_pid()
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 3, 10, "time passes")
        run.operator_sees()
        run.check(cluster.health_pid() == health, "the health process died")
        for sock in taken:
            sock.close()
    path.write_text(normal)
    run.more(run.crowd(), 20)
