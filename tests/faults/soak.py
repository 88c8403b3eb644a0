"""soak.py - faults drawn at random under mixed load, for as long as asked; the seed replays the order.

The load: a crowd over all APIs that checks every byte (crowd.py) and the official JavaScript clients
(tests/clients/soak.cjs).  One fault after the other, drawn with its parameters from the seed; each
heals itself.  All the time: no complaint of a client, no violation, no death that was not ordered.
At the end: the invariants.  A request may be cut only if a worker was killed while it was open, and
end with an error event only if it streams for Ollama, whose answers cannot go on elsewhere, while
nodes or wires were harmed.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import time

from crowd import End
from harness import ROOT, SLOW, until
from load import chat_body, open_request
from oracle import metrics, total
from resource_faults import FAKETIME
from rig import ASAN_OPTIONS, Fault, Run
from test_upgrade import Upgradable

SPEC = "slots=24,rate=120,spread=4"
NODES = ("a", "b", "c", "d")
WIRED = "wired"
FAULTS = []


def part(weight=1):
    """A fault of the soak; its function's name is what is printed."""
    def register(function):
        FAULTS.append((weight, function))
        return function
    return register


class Soak:
    def __init__(self, seed):
        self.seed = seed
        self.choose = random.Random(seed)
        row = Fault(id="soak", what="", how="", clients="", does="")
        self.run = Run(row, seed)
        self.began = 0.0
        self.excused = []   # (from, to, ends): what may happen to requests open then
        self.upgradable = None
        self.stamp = None
        self.sdk = None

    @property
    def cluster(self):
        return self.run.cluster

    def start(self):
        run = self.run
        stamp_dir = run.start(nodes=(), static=(WIRED,), spec=SPEC, workers=3, config={
            "policy": "fastest", "shutdown_grace_ms": 20000,
            "registry": {"heartbeat_ms": 500, "lease_ms": 6000},
            "health": {"interval_ms": 250, "timeout_ms": 1500},
            "limits": {"first_token_ms": 4000, "idle_token_ms": 4000, "write_stall_ms": 3000,
                       "request_timeout_ms": 60000}}).dir
        self.cluster.stop_master()
        self.stamp = stamp_dir / "stamp"
        self.stamp.write_text("+0")
        self.cluster.environment = {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(self.stamp),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1",
            "ASAN_OPTIONS": ASAN_OPTIONS + ":verify_asan_link_order=0"}
        self.upgradable = Upgradable(self.cluster)
        self.upgradable.launch()
        for name in NODES:
            self.cluster.start_node(name, SPEC)
        self.cluster.wait_up(WIRED)

    def load(self):
        self.run.crowd(concurrency=16, tokens=32, deadline_s=70,
                       kinds=("chat", "whole", "completion", "anthropic", "ollama"))
        self.sdk = subprocess.Popen(
            ["node", str(ROOT / "tests/clients/soak.cjs"), self.cluster.url, "6"],
            env=dict(os.environ, NODE_PATH=os.environ["DROVER_NODE_MODULES"]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.run.closers.append(self.sdk.kill)
        line = self.sdk.stdout.readline()
        if line.strip() != "ready":
            raise AssertionError(f"the official clients did not begin: {line}"
                                 f"{self.sdk.stderr.read()}")

    def excuse(self, began, kind, *ends):
        """Requests with `kind` in their name, open between `began` and now, may end so."""
        self.excused.append((began, time.monotonic(), kind, ends))

    def wait(self, seconds):
        began = time.monotonic()
        until(lambda: time.monotonic() - began > seconds, seconds + 10, "time passes")

    # ---- checks ----

    def now(self):
        """Checks that must hold at any moment."""
        crowd = self.run.crowds[0]
        found = list(crowd.complaints)
        found += self.run.oracle.blast(self.run.since)
        if total(metrics(self.cluster), "drover_gauge_audit_violations_total"):
            found.append("I4: drover_gauge_audit_violations_total is not 0")
        if self.sdk.poll() is not None:
            found.append(f"the official clients ended: {self.sdk.stderr.read()[-2000:]}")
        return found

    def ends(self):
        """The ends of requests that nothing excuses."""
        found = []
        for name, end, began, ended, detail in self.run.crowds[0].ends:
            if end is not End.OK and not any(
                    end in ends and kind in name and began <= last + 1 and ended >= first
                    for first, last, kind, ends in self.excused):
                found.append(f"I1: {name} ended as {end.value} at {began - self.began:.1f} to "
                             f"{ended - self.began:.1f} s without cause ({detail})")
        return found

    def sdk_result(self):
        self.sdk.stdin.close()
        self.sdk.wait(120 * SLOW)
        result = json.loads(self.sdk.stdout.readlines()[-1])
        print("official clients:", ", ".join(f"{n} {k}" for k, n in sorted(
            result["tally"].items())))
        found = [f"official client: {text}" for text in result["complaints"]]
        good = sum(n for kind, n in result["tally"].items() if kind.endswith(" ok"))
        return found if good else found + ["no official client got an answer"]


# ---- the faults ----

@part(3)
def worker_killed(soak):
    pid = soak.choose.choice(soak.cluster.worker_pids())
    number = soak.choose.choice((signal.SIGKILL, signal.SIGABRT))
    soak.run.kill(pid, number)
    until(lambda: len(now := soak.cluster.worker_pids()) == 3 and pid not in now, 20, "replaced")


@part(2)
def health_killed(soak):
    pid = soak.cluster.health_pid()
    soak.run.kill(pid)
    until(lambda: soak.cluster.health_pid() not in (None, pid), 20, "replaced")


@part(1)
def health_stopped(soak):
    pid = soak.cluster.health_pid()
    os.kill(pid, signal.SIGSTOP)
    soak.wait(2)
    os.kill(pid, signal.SIGCONT)


@part(3)
def node_killed(soak):
    name = soak.choose.choice(NODES)
    soak.run.kill_node(name)
    soak.wait(soak.choose.uniform(0, 2))
    soak.cluster.start_node(name, SPEC)


@part(2)
def node_stopped(soak):
    node = soak.run.node(soak.choose.choice(NODES))
    os.kill(node.pid, signal.SIGSTOP)
    soak.wait(soak.choose.uniform(0.2, 5))
    os.kill(node.pid, signal.SIGCONT)
    until(lambda: soak.cluster.node_state(node.name) == "UP", 30, "it is back")


@part(2)
def node_left(soak):
    name = soak.choose.choice(NODES)
    node = soak.run.node(name)
    soak.run.oracle.killed.add(node.pid)
    status = soak.cluster.stop_node(node, bound_s=30)
    if status != 0:
        raise AssertionError(f"drover-node {name} ended with status {status}")
    soak.cluster.nodes.remove(node)
    soak.cluster.others.append(node.process)
    soak.cluster.start_node(name, SPEC)


@part(2)
def wire_broken(soak):
    wire = soak.run.wires[WIRED]
    how = soak.choose.choice(("half_open", "stall", "reset", "close", "refuse"))
    getattr(wire, how)()
    soak.wait(soak.choose.uniform(0, 4))
    wire.heal(break_old=how == "half_open")
    until(lambda: soak.cluster.node_state(WIRED) == "UP", 40, "it is back")


@part(2)
def wire_slow(soak):
    wire = soak.run.wires[WIRED]
    wire.up.delay_s, wire.down.jitter_s = soak.choose.uniform(0, 0.2), soak.choose.uniform(0, 0.1)
    wire.down.rate = soak.choose.choice((0, 20000, 200000))
    wire.down.split = soak.choose.choice((0, 1, 7, 1000))
    soak.wait(2)
    wire.heal()


@part(2)
def wire_cut_at_a_byte(soak):
    wire = soak.run.wires[WIRED]
    setattr(soak.choose.choice((wire.up, wire.down)),
            soak.choose.choice(("reset_after", "truncate_after")),
            soak.choose.randrange(1, 5000))
    soak.wait(1)
    wire.heal()
    until(lambda: soak.cluster.node_state(WIRED) == "UP", 40, "it is back")


@part(2)
def clients_vanished(soak):
    async def go():
        answers = await asyncio.gather(*(open_request(
            soak.cluster.api, "POST", "/v1/chat/completions", chat_body(f"vanish {i}", 5000),
            {"x-request-id": "vanished"}) for i in range(40)))
        for answer in answers[:20]:
            await asyncio.wait_for(answer.read_head(), 30 * SLOW)
        for answer in answers:
            answer.abort()
    try:
        asyncio.run(go())
    except (OSError, AssertionError):
        pass  # their own worker may be the next victim
    until(lambda: not [r for r in soak.cluster.open_requests() if r["id"] == "vanished"], 10,
          "they are forgotten")


@part(1)
def clock_jumped(soak):
    soak.stamp.write_text(soak.choose.choice(("+3600", "-3600", "+0", "+315360000")))


@part(2)
def reloaded(soak):
    soak.cluster.write_config(aliases=[{"name": f"alias-{soak.choose.randrange(9)}",
                                        "model": "sim-small"}])
    for _ in range(soak.choose.randrange(1, 6)):
        soak.cluster.master.signal(signal.SIGHUP)
        soak.wait(0.1)
    until(lambda: len(soak.cluster.worker_rows_all()) == 3, 60, "one generation is left")


@part(1)
def badly_reloaded(soak):
    good = soak.cluster.config_path.read_text()
    soak.cluster.config_path.write_text(good + soak.choose.choice(
        ("nonsense: 1\n", "\0", "workers: [\n", "x" * 2000000)))
    refused = soak.cluster.ctl("reload", check=False)
    soak.cluster.config_path.write_text(good)
    if refused.returncode != 1:
        raise AssertionError(f"a bad reload: {refused.returncode} {refused.stdout}")


@part(1)
def scaled(soak):
    for count in (soak.choose.randrange(1, 6), 3):
        soak.cluster.ctl("scale", str(count))
        until(lambda count=count: len(soak.cluster.worker_pids()) == count, 30, "so many workers")


@part(1)
def drained(soak):
    name = soak.choose.choice(NODES)
    soak.cluster.ctl("drain", name, "--wait", timeout=60)
    soak.cluster.ctl("undrain", name)
    until(lambda: soak.cluster.node_state(name) == "UP", 20, "it is back")


@part(1)
def upgraded(soak):
    soak.upgradable.replace()
    soak.cluster.ctl("upgrade", timeout=40)
    old = soak.upgradable.follow()
    soak.run.oracle.killed.add(old.pid)
    until(lambda: not old.running(), 90, "the old one has ended")


def watch(soak, minutes):
    """Draws faults until the time is over; the complaints."""
    weights = [weight for weight, _ in FAULTS]
    counts = {}
    while time.monotonic() - soak.began < minutes * 60:
        function = soak.choose.choices([f for _, f in FAULTS], weights)[0]
        soak.wait(soak.choose.uniform(0.2, 2))
        counts[function.__name__] = counts.get(function.__name__, 0) + 1
        print(f"{time.monotonic() - soak.began:6.1f} s  {function.__name__}", flush=True)
        began = time.monotonic()
        function(soak)
        if function is worker_killed:
            soak.excuse(began, "", End.CUT, End.UNANSWERED)
        elif function.__name__.startswith(("node_", "wire_")):
            soak.excuse(began, "-ollama-", End.ERROR_EVENT)
        if complaints := soak.now() + soak.ends():
            return complaints
    print("faults:", ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    return []


def main(seed, minutes):
    soak = Soak(seed)
    complaints = []
    try:
        soak.start()
        soak.load()
        soak.began = time.monotonic()
        complaints += watch(soak, minutes)
        for name in (*NODES, WIRED):
            soak.cluster.wait_up(name, bound_s=30)
        complaints += soak.sdk_result()
        # Upgrades and killed workers took their share of the counters with them.
        soak.run.workers_died = soak.run.lossy_log = True
        soak.run.row.ends = frozenset(End)
        complaints += soak.run.verdict() + soak.ends()
    except Exception as failure:  # pylint: disable=broad-except
        complaints.append(f"{type(failure).__name__}: {failure}")
    print("requests:", soak.run.figures.get("requests", ""))
    complaints += soak.run.close(bool(complaints))
    for complaint in complaints[:20]:
        print("       " + complaint[:3000])
    print(f"soak of {minutes:g} minutes, seed {seed}: "
          f"{'passed' if not complaints else 'FAILED'}")
    return 1 if complaints else 0
