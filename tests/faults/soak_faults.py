"""soak_faults.py - what the soak draws from.  Each fault heals itself, and says which parts it touches and which ends
of requests it excuses."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
from collections import namedtuple

from crowd import End
from harness import MODEL, SLOW, until
from liars import LIES, lie
from load import chat_body, open_request
from plain_openai import PlainOpenAi

SPEC = "slots=24,rate=120,spread=4"
NODES = ("a", "b", "c", "d")
WIRED = ("wired1", "wired2")
WORKERS = 3
WORKER_DIES = (("", (End.CUT, End.UNANSWERED)),)
NODE_DIES = (("-ollama-", (End.ERROR_EVENT,)),)
ALL = {"workers", "health", "config", "nodes", "wire", "log"}
FAULTS = []
SoakFault = namedtuple("SoakFault", "name weight touches excuses function")


def part(*touches, weight=1, excuses=()):
    """A fault of the soak; its function's name is what is printed.  Faults that touch the same do not
    come at once."""
    def register(function):
        FAULTS.append(SoakFault(function.__name__, weight, set(touches), excuses, function))
        return function
    return register


def all_workers(turn, bound_s=30):
    until(lambda: len(turn.cluster.worker_pids()) == WORKERS, bound_s, "all workers serve")


@part("workers", weight=3, excuses=WORKER_DIES)
def worker_killed(turn):
    pid = turn.choose.choice(turn.cluster.worker_pids())
    number = turn.choose.choice((signal.SIGKILL, signal.SIGABRT))
    turn.harm.kill(pid, number)
    until(lambda: len(now := turn.cluster.worker_pids()) == 3 and pid not in now, 20, "replaced")


@part("health", weight=2)
def health_killed(turn):
    pid = turn.cluster.health_pid()
    turn.harm.kill(pid)
    until(lambda: turn.cluster.health_pid() not in (None, pid), 20, "replaced")


@part("health")
def health_stopped(turn):
    pid = turn.cluster.health_pid()
    os.kill(pid, signal.SIGSTOP)
    turn.wait(2)
    os.kill(pid, signal.SIGCONT)


@part("nodes", weight=3, excuses=NODE_DIES)
def node_killed(turn):
    name = turn.choose.choice(NODES)
    turn.harm.kill_node(name)
    turn.wait(turn.choose.uniform(0, 2))
    turn.cluster.start_node(name, SPEC)


@part("nodes", weight=2, excuses=NODE_DIES)
def node_stopped(turn):
    node = turn.harm.node(turn.choose.choice(NODES))
    os.kill(node.pid, signal.SIGSTOP)
    turn.wait(turn.choose.uniform(0.2, 5))
    os.kill(node.pid, signal.SIGCONT)
    until(lambda: turn.cluster.node_state(node.name) == "UP", 30, "it is back")


@part("nodes", weight=2, excuses=NODE_DIES)
def node_left(turn):
    name = turn.choose.choice(NODES)
    node = turn.harm.node(name)
    turn.harm.oracle.killed.add(node.pid)
    status = turn.cluster.stop_node(node, bound_s=30)
    if status != 0:
        raise AssertionError(f"drover-node {name} ended with status {status}")
    turn.cluster.nodes.remove(node)
    turn.cluster.others.append(node.process)
    turn.cluster.start_node(name, SPEC)


@part("wire", weight=2, excuses=NODE_DIES)
def wire_broken(turn):
    name = turn.choose.choice(WIRED)
    wire = turn.harm.wires[name]
    how = turn.choose.choice(("half_open", "stall", "reset", "close", "refuse"))
    getattr(wire, how)()
    turn.wait(turn.choose.uniform(0, 4))
    wire.heal(break_old=how == "half_open")
    until(lambda: turn.cluster.node_state(name) == "UP", 40, "it is back")


@part("wire", weight=2, excuses=NODE_DIES)
def wire_slow(turn):
    name = turn.choose.choice(WIRED)
    wire = turn.harm.wires[name]
    wire.up.delay_s, wire.down.jitter_s = turn.choose.uniform(0, 0.2), turn.choose.uniform(0, 0.1)
    wire.down.rate = turn.choose.choice((0, 20000, 200000))
    wire.down.split = turn.choose.choice((0, 1, 7, 1000))
    turn.wait(2)
    wire.heal()


@part("wire", weight=2, excuses=NODE_DIES)
def wire_cut_at_a_byte(turn):
    name = turn.choose.choice(WIRED)
    wire = turn.harm.wires[name]
    setattr(turn.choose.choice((wire.up, wire.down)),
            turn.choose.choice(("reset_after", "truncate_after")),
            turn.choose.randrange(1, 5000))
    turn.wait(1)
    wire.heal()
    until(lambda: turn.cluster.node_state(name) == "UP", 40, "it is back")


@part("clients", weight=2)
def clients_vanished(turn):
    count = turn.choose.choice((40, 200))

    async def go():
        answers = await asyncio.gather(*(open_request(
            turn.cluster.api, "POST", "/v1/chat/completions", chat_body(f"vanish {i}", 5000),
            {"x-request-id": "vanished"}) for i in range(count)))
        for answer in answers[:count // 2]:
            await asyncio.wait_for(answer.read_head(), 30 * SLOW)
        for answer in answers:
            answer.abort()
    try:
        asyncio.run(go())
    except (OSError, AssertionError):
        pass  # their own worker may be the next victim
    until(lambda: not [r for r in turn.cluster.open_requests() if r["id"] == "vanished"], 10,
          "they are forgotten")


@part("clock")
def clock_jumped(turn):
    turn.soak.stamp.write_text(turn.choose.choice(("+3600", "-3600", "+0", "+315360000")))


@part("workers", "config", weight=2)
def reloaded(turn):
    turn.cluster.write_config(aliases=[{"name": f"alias-{turn.choose.randrange(9)}",
                                        "model": "sim-small"}])
    for _ in range(turn.choose.randrange(1, 6)):
        turn.cluster.master.signal(signal.SIGHUP)
        turn.wait(0.1)
    until(lambda: len(turn.cluster.worker_rows_all()) == 3, 60, "one generation is left")


@part("config", "workers")
def badly_reloaded(turn):
    good = turn.cluster.config_path.read_text()
    turn.cluster.config_path.write_text(good + turn.choose.choice(
        ("nonsense: 1\n", "\0", "workers: [\n", "x" * 2000000)))
    refused = turn.cluster.ctl("reload", check=False)
    turn.cluster.config_path.write_text(good)
    if refused.returncode != 1:
        raise AssertionError(f"a bad reload: {refused.returncode} {refused.stdout}")


@part("workers")
def scaled(turn):
    for count in (turn.choose.randrange(1, 6), 3):
        turn.cluster.ctl("scale", str(count))
        until(lambda count=count: len(turn.cluster.worker_pids()) == count, 30, "so many workers")


@part("nodes", "health")
def drained(turn):
    name = turn.choose.choice(NODES)
    turn.cluster.ctl("drain", name, "--wait", timeout=60)
    turn.cluster.ctl("undrain", name)
    until(lambda: turn.cluster.node_state(name) == "UP", 20, "it is back")


@part("workers", "health", "config", "nodes", "wire")
def upgraded(turn):
    turn.soak.upgradable.replace()
    turn.cluster.ctl("upgrade", timeout=40)
    old = turn.soak.upgradable.follow()
    turn.harm.oracle.killed.add(old.pid)
    until(lambda: not old.running(), 90, "the old one has ended")

# ---- wider ----

def children(turn):
    pids = [*turn.cluster.worker_pids(), turn.cluster.health_pid()]
    return [pid for pid in pids if pid]


@part("workers", "health", weight=2, excuses=WORKER_DIES)
def children_killed_in_loops(turn):
    for _ in range(turn.choose.randrange(2, 6)):
        found = children(turn)
        for pid in turn.choose.sample(found, min(len(found), turn.choose.randrange(1, 4))):
            with contextlib.suppress(ProcessLookupError):
                turn.harm.kill(pid)
        turn.wait(turn.choose.uniform(0.05, 0.8))
    all_workers(turn, 60)
    until(turn.cluster.health_pid, 30, "health is back")


@part("workers", weight=2, excuses=WORKER_DIES)
def worker_stopped(turn):
    """For as long as may be; one that is silent for longer than the master bears is replaced."""
    pid = turn.choose.choice(turn.cluster.worker_pids())
    turn.harm.oracle.killed.add(pid)
    turn.harm.workers_died = True
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        turn.wait(turn.choose.choice((0.05, 0.5, 2, 9)))
        os.kill(pid, signal.SIGCONT)
    all_workers(turn)


@part("workers", "health", "config")
def master_stopped(turn):
    os.kill(turn.cluster.master.pid, signal.SIGSTOP)
    turn.wait(turn.choose.uniform(0.05, 9))
    os.kill(turn.cluster.master.pid, signal.SIGCONT)
    all_workers(turn)


@part("nodes", excuses=NODE_DIES)
def several_nodes_stopped(turn):
    nodes = [turn.harm.node(name) for name in turn.choose.sample(NODES, 3)]
    for node in nodes:
        os.kill(node.pid, signal.SIGSTOP)
    turn.wait(turn.choose.uniform(0.05, 9))
    for node in nodes:
        os.kill(node.pid, signal.SIGCONT)
    for node in nodes:
        until(lambda node=node: turn.cluster.node_state(node.name) == "UP", 60, "it is back")


@part("workers", "config", weight=2)
def reload_storm(turn):
    for _ in range(100):
        turn.cluster.master.signal(signal.SIGHUP)
        turn.wait(0.02)
    until(lambda: len(turn.cluster.worker_rows_all()) == WORKERS, 90, "one generation is left")


@part("workers", weight=2)
def scale_storm(turn):
    for _ in range(60):
        turn.cluster.master.signal(turn.choose.choice((signal.SIGTTIN, signal.SIGTTOU)))
        turn.wait(turn.choose.uniform(0, 0.05))
    turn.cluster.ctl("scale", str(WORKERS))
    until(lambda: len(turn.cluster.worker_rows_all()) == WORKERS, 60, "so many workers")


@part(*ALL, excuses=WORKER_DIES)
def upgraded_amid_kills(turn):
    """USR2, and children die while it is under way: it succeeds, or nothing has changed."""
    cluster = turn.cluster
    lock = cluster.runtime / "drover.lock"
    failed = cluster.master.log().count("event=upgrade_failed")
    turn.soak.upgradable.replace()
    before = cluster.master.pid
    cluster.master.signal(signal.SIGUSR2)
    for _ in range(turn.choose.randrange(1, 4)):
        turn.wait(turn.choose.uniform(0, 0.5))
        with contextlib.suppress(ProcessLookupError, IndexError):
            turn.harm.kill(turn.choose.choice(children(turn)))

    def decided():
        return (int(lock.read_text() or before) != before
                or cluster.master.log().count("event=upgrade_failed") > failed)
    until(decided, 60, "the upgrade is decided")
    if int(lock.read_text()) != before:
        old = turn.soak.upgradable.follow()
        turn.harm.oracle.killed.add(old.pid)
        until(lambda: not old.running(), 90, "the old one has ended")
    all_workers(turn, 60)
    until(cluster.health_pid, 30, "health is back")
    for name in (*NODES, *WIRED):
        until(lambda name=name: cluster.node_state(name) == "UP", 60, f"{name} is up")


@part("workers", "config", "wire", excuses=NODE_DIES)
def addresses_swapped(turn):
    """A reload gives each of two nodes the other's address."""
    nodes = turn.cluster.settings["nodes"]
    nodes[0]["address"], nodes[1]["address"] = nodes[1]["address"], nodes[0]["address"]
    turn.cluster.write_config()
    turn.cluster.ctl("reload", timeout=60)
    wires = turn.harm.wires
    wires[WIRED[0]], wires[WIRED[1]] = wires[WIRED[1]], wires[WIRED[0]]
    for name in WIRED:
        until(lambda name=name: turn.cluster.node_state(name) == "UP", 40, "it is back")
    until(lambda: len(turn.cluster.worker_rows_all()) == WORKERS, 60, "one generation is left")


@part("wire", weight=2, excuses=NODE_DIES)
def node_flaps(turn):
    """Ten times a second it is away."""
    name = turn.choose.choice(WIRED)
    wire = turn.harm.wires[name]
    for _ in range(turn.choose.randrange(10, 40)):
        wire.reset()
        turn.wait(0.05)
        wire.heal()
        turn.wait(0.05)
    until(lambda: turn.cluster.node_state(name) == "UP", 60, "it is back")


@part("workers", "clients", excuses=(("", (End.REJECTED, End.UNANSWERED)), *NODE_DIES))
def few_descriptors(turn):
    pid = turn.choose.choice(turn.cluster.worker_pids())
    normal = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    few = len(os.listdir(f"/proc/{pid}/fd")) + turn.choose.randrange(3)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, normal[1]))
    turn.wait(turn.choose.uniform(0.2, 3))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, normal)


@part("log")
def log_replaced(turn):
    """Renamed, or a folder stands in its place when it is opened again."""
    path = turn.cluster.access_log_path
    turn.harm.lossy_log = True
    path.rename(path.with_suffix(".1"))
    folder = turn.choose.choice((True, False))
    if folder:
        path.mkdir()
    turn.cluster.master.signal(signal.SIGUSR1)
    turn.wait(turn.choose.uniform(0.1, 1))
    if folder:
        shutil.rmtree(path)
        turn.cluster.master.signal(signal.SIGUSR1)


@part("nodes")
def liar_joined(turn):
    """A node that is fast and wrong: each client is served all the same."""
    with lie(PlainOpenAi(models=[MODEL]), turn.choose.choice(LIES)) as engine:
        node = turn.cluster.start_node("liar", engine=engine.url, wait=False)
        turn.harm.oracle.killed.add(node.pid)
        turn.wait(turn.choose.uniform(2, 6))
        turn.cluster.stop_node(node, bound_s=30)
        turn.cluster.nodes.remove(node)
        turn.cluster.others.append(node.process)
