"""soak.py - faults drawn at random under mixed load, for as long as asked; the seed replays the order.

The load: a crowd over all APIs that checks every byte (crowd.py) and the official JavaScript clients
(tests/clients/soak.cjs).  One to three faults at once, drawn with their parameters from the seed
(soak_faults.py), each of which heals itself; those that touch the same part come one after the
other.  All the time: no complaint of a client, no violation, no death that was not ordered.  At the
end: the invariants.  A request may be cut only if a worker was killed while it was open, and end with
an error event only if it streams for Ollama, whose answers cannot go on elsewhere, while nodes or
wires were harmed.
"""

import json
import os
import random
import subprocess
import threading
import time

from crowd import End
from harness import ROOT, SLOW, until
from oracle import metrics, total
from resource_faults import FAKETIME
from rig import ASAN_OPTIONS, Fault, Run
from soak_faults import FAULTS, NODES, SPEC, WIRED
from test_upgrade import Upgradable

AT_ONCE = (1, 1, 2, 2, 3)


class Soak:
    def __init__(self, seed, names):
        self.seed = seed
        self.bag = [fault for fault in FAULTS if not names or fault.name in names]
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
        stamp_dir = run.start(nodes=(), static=WIRED, spec=SPEC, workers=3, config={
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
        for name in WIRED:
            self.cluster.wait_up(name)

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


class Turn(threading.Thread):
    """One fault under way, with a generator of its own."""

    def __init__(self, soak, fault, seed):
        super().__init__(name=fault.name, daemon=True)
        self.soak = soak
        self.fault = fault
        self.choose = random.Random(seed)
        self.failure = None

    cluster = property(lambda self: self.soak.cluster)
    harm = property(lambda self: self.soak.run)  # run() is the thread's

    def run(self):
        try:
            self.fault.function(self)
        except Exception as failure:  # pylint: disable=broad-except
            self.failure = f"{self.fault.name}: {type(failure).__name__}: {failure}"

    @staticmethod
    def wait(seconds):
        began = time.monotonic()
        until(lambda: time.monotonic() - began > seconds, seconds + 10, "time passes")


def draw(soak):
    """Faults that touch different parts."""
    drawn = []
    for _ in range(soak.choose.choice(AT_ONCE)):
        fault = soak.choose.choices(soak.bag, [f.weight for f in soak.bag])[0]
        if not any(fault.touches & other.touches for other in drawn):
            drawn.append(fault)
    return drawn


def watch(soak, minutes):
    """Draws faults until the time is over; the complaints."""
    counts = {}
    while time.monotonic() - soak.began < minutes * 60:
        drawn = draw(soak)
        Turn.wait(soak.choose.uniform(0.2, 2))
        print(f"{time.monotonic() - soak.began:6.1f} s  {' + '.join(f.name for f in drawn)}", flush=True)
        began = time.monotonic()
        turns = [Turn(soak, fault, soak.choose.random()) for fault in drawn]
        for turn in turns:
            counts[turn.fault.name] = counts.get(turn.fault.name, 0) + 1
            turn.start()
        for turn in turns:
            turn.join()
        for turn in turns:
            for kind, ends in turn.fault.excuses:
                soak.excuse(began, kind, *ends)
        if complaints := [turn.failure for turn in turns if turn.failure] + soak.now() + soak.ends():
            return complaints
    print("faults:", ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    return []


def main(seed, minutes, names=None):
    soak = Soak(seed, names)
    complaints = []
    try:
        soak.start()
        soak.load()
        soak.began = time.monotonic()
        complaints += watch(soak, minutes)
        for name in (*NODES, *WIRED):
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
