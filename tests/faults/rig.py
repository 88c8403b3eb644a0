"""rig.py - what a fault is, and the run of one: rig, crowd, injection, promises, invariants.

A fault is a function with the @fault decorator.  It gets a Run, builds its rig with run.start(),
puts a crowd of clients on it, does its harm, calls run.operator_sees() while the harm is in force,
and heals.  After it the runner asks the oracle for all seven invariants.

What the decorator says about the operator is what docs/operations.md prints, and operator_sees()
checks every word of it: a log line, a metric, what droverctl shows.
"""

import contextlib
import os
import random
import re
import signal
import time
from dataclasses import dataclass

from crowd import Crowd, End
from harness import ROOT, SLOW, Cluster, Timeout, merge, until
from hosts import Hosts
from mangler import Mangler
from oracle import Oracle, metrics, total

LOGS = ROOT / "build-test" / "log" / "faults"
PACED = "slots=32,rate=100"
ASAN_OPTIONS = "quarantine_size_mb=8:malloc_context_size=5"
TABLE = []


@dataclass
class Fault:
    """One row of the table."""
    id: str
    what: str         # the fault, in words an operator would use
    how: str          # how it is injected here
    clients: str      # what clients see
    does: str         # what the operator does
    log: tuple = ()     # log lines: words that one line has; "node: ..." for drover-node's log
    metric: tuple = ()  # "NAME{LABELS} rises" or "NAME{LABELS} is VALUE"
    ctl: tuple = ()     # "VIEW: regular expression" of a line of `droverctl VIEW`
    ends: frozenset = frozenset({End.OK})  # how requests may end
    quick: bool = False  # part of scripts/test
    root: bool = False   # needs network namespaces or mounts
    function: object = None
    family: str = ""


def fault(number, what, how, **more):
    def register(function):
        ends = frozenset(more.pop("ends", ())) | {End.OK}
        TABLE.append(Fault(id=number, what=what, how=how, ends=ends, function=function,
                           family=function.__module__, **more))
        return function
    return register


class Broken(AssertionError):
    """Something that the table promises did not happen."""


class Run:
    """One fault under way."""

    def __init__(self, row, seed, minutes=None):
        self.row = row
        self.minutes = minutes  # how long what is slow by nature may take; None: as the row says
        self.choose = random.Random(f"{row.id}/{seed}")
        self.cluster = None
        self.oracle = None
        self.crowds = []
        self.figures = {}     # shown on the fault's line
        self.complaints = []
        self.manglers = []
        self.wires = {}
        self.hosts = None
        self.closers = []     # run at the end, last first
        self.seen = False
        self.since = 0        # where the master's log stood before the fault
        self.node_since = {}
        self.page = {}
        self.workers_died = False
        self.lossy_log = False  # the fault is one of the access log itself
        self.environment = {}   # of the master

    # ---- the rig ----

    def start(self, nodes=("a", "b"), spec=PACED, workers=2, config=None, static=(), extra=()):
        """A master and nodes that join it, and nodes of the configuration (`static`: their names, or
        {name: engine}), each of those behind a mangler of its own: run.wires[name]."""
        # In turn, so that every node has work when a fault strikes it.
        # Ejection as it is by default, with shorter pauses; other tests are without it.
        settings = {"policy": "round_robin",
                    "health": {"eject_failures": 5, "eject_success_pct": 80,
                               "eject_backoff_ms": 1000, "eject_backoff_max_ms": 4000},
                    "limits": {"request_timeout_ms": int(20000 * SLOW)}}
        merge(settings, config or {})
        self.cluster = Cluster(name=self.row.id, workers=workers, config=settings)
        os.environ.setdefault("ASAN_OPTIONS", ASAN_OPTIONS)
        if not isinstance(static, dict):
            static = dict.fromkeys(static, spec)
        if static:
            listed = []
            for name, engine in static.items():
                node = self.cluster.start_node(name, engine, join=False, wait=False, extra=extra)
                host, port = node.address().rsplit(":", 1)
                wire = Mangler((host, int(port)), seed=self.choose.random())
                self.manglers.append(wire)
                self.wires[name] = wire
                listed.append({"name": name, "address": wire.url})
            self.cluster.settings["nodes"] = listed
        self.cluster.environment = self.environment
        self.cluster.start()
        for name in nodes:
            self.cluster.start_node(name, spec, wait=False, extra=extra)
        for name in (*static, *nodes):
            self.cluster.wait_up(name)
        self.oracle = Oracle(self.cluster)
        return self.cluster

    def make_hosts(self):
        self.hosts = Hosts()
        return self.hosts

    def wire(self, target, seed=0):
        """A mangler in front of (host, port), stopped at the end."""
        made = Mangler(target, seed)
        self.manglers.append(made)
        return made

    def crowd(self, **options):
        """Starts clients; takes the oracle's picture of what is normal once they are at work."""
        made = Crowd(self.cluster.api, label=f"{self.row.id}-{len(self.crowds)}", **options)
        self.crowds.append(made)
        made.__enter__()
        until(lambda: made.done >= 8 or made.complaints, 30, "the crowd is at work")
        if len(self.crowds) == 1:
            self.oracle.take()
            self.mark()
        return made

    def mark(self):
        """From here on a log line or a rise of a metric counts as seen because of the fault."""
        self.since = len(self.cluster.master.log())
        self.node_since = {node.name: len(node.process.log()) for node in self.cluster.nodes}
        self.page = metrics(self.cluster)

    # ---- doing ----

    def node(self, name):
        return next(node for node in self.cluster.nodes if node.name == name)

    def kill(self, pid, number=signal.SIGKILL):
        """A child of the master is killed."""
        self.oracle.killed.add(pid)
        self.workers_died = True
        os.kill(pid, number)

    def stop_process(self, pid):
        """SIGSTOP; it goes on at the end at the latest."""
        os.kill(pid, signal.SIGSTOP)
        self.closers.append(lambda: self.continue_process(pid))

    @staticmethod
    def continue_process(pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def kill_node(self, name):
        """The node's process is killed; its name may be used again."""
        node = self.node(name)
        self.oracle.killed.add(node.pid)
        node.process.kill_all()
        self.cluster.nodes.remove(node)
        self.cluster.others.append(node.process)

    def more(self, crowd, count=20, bound_s=30):
        """Waits until so many more requests were answered."""
        target = crowd.done + count
        until(lambda: crowd.done >= target, bound_s, f"{count} more answers ({crowd.tally()})")

    # ---- judging ----

    def figure(self, name, value):
        self.figures[name] = value

    def within(self, condition, bound_s, what, figure=None):
        """Waits for what must happen within a bound, and notes how long it took."""
        began = time.monotonic()
        try:
            value = until(condition, bound_s, what)
        except Timeout as failure:
            raise Broken(str(failure)) from None
        took = time.monotonic() - began
        if figure:
            self.figure(figure, f"{took:.2f} s" if took >= 1 else f"{took * 1000:.0f} ms")
        return value

    def state_becomes(self, name, states, bound_s, figure="detected"):
        return self.within(lambda: self.cluster.node_state(name) in states, bound_s,
                           f"node {name} is one of {states}", figure)

    def dispatched(self, name):
        return total(metrics(self.cluster), "drover_node_dispatched_total", f'node="{name}"')

    def no_dispatch(self, name, meanwhile):
        """I3: runs `meanwhile`, during which the node must get no request."""
        before = self.dispatched(name)
        meanwhile()
        self.oracle.dispatches.append((name, before, self.dispatched(name)))

    def check(self, truth, complaint):
        if not truth:
            self.complaints.append(complaint)

    # ---- what the operator sees ----

    def logs(self):
        """(the master's log, the nodes' logs) since the fault."""
        nodes = [node.process.log()[self.node_since.get(node.name, 0):]
                 for node in self.cluster.nodes]
        nodes += [other.log() for other in self.cluster.others]
        return self.cluster.master.log()[self.since:], "\n".join(nodes)

    def log_kept(self, promise):
        ours, nodes = self.logs()
        text = ours
        if promise.startswith("node: "):
            promise, text = promise[6:], nodes
        return any(all(word in line for word in promise.split()) for line in text.splitlines())

    def metric_kept(self, promise):
        name, relation = promise.split(" ", 1)
        name, _, labels = name.rstrip("}").partition("{")
        labels = [label for label in labels.split(",") if label]
        now = total(metrics(self.cluster), name, *labels)
        if relation == "rises":
            return now > total(self.page, name, *labels)
        return relation == f"is {now:g}"

    def ctl_kept(self, promise):
        view, pattern = promise.split(": ", 1)
        output = self.cluster.ctl(*view.split(), check=False)
        return re.search(pattern, output.stdout + output.stderr, re.M)

    def operator_sees(self, bound_s=10):
        """Every promise of the row, kept now or soon."""
        self.seen = True
        for kind, promises in (("log", self.row.log), ("metric", self.row.metric),
                               ("ctl", self.row.ctl)):
            kept = getattr(self, kind + "_kept")
            for promise in promises:
                try:
                    until(lambda kept=kept, promise=promise: kept(promise), bound_s,
                          f"{kind} {promise!r}")
                except Timeout:
                    self.complaints.append(f"the operator does not see: {kind}: {promise}")

    # ---- the end ----

    def verdict(self):
        """Stops the crowds and asks the oracle; the complaints."""
        if not self.seen:
            self.operator_sees()
        for crowd in self.crowds:
            crowd.stop()
        found = self.complaints
        oracle = self.oracle
        tally = {}
        for crowd in self.crowds:
            found += oracle.one_end(crowd, self.row.ends)
            if self.cluster.master.running() and not self.lossy_log:
                found += oracle.one_line(crowd)
            for name, count in crowd.tally().items():
                tally[name] = tally.get(name, 0) + count
        if tally:
            self.figures["requests"] = " ".join(f"{count} {name}" for name, count in tally.items())
        if self.cluster.master.running():
            found += oracle.counters(self.workers_died) + oracle.orphans() + oracle.leaks()
        found += oracle.bad_dispatch() + oracle.blast(self.since)
        return found

    def close(self, failed):
        for crowd in self.crowds:
            crowd._stop.set()
        for closer in reversed(self.closers):
            closer()
        problems = []
        if self.cluster is not None:
            LOGS.mkdir(parents=True, exist_ok=True)
            path = LOGS / f"{self.row.id}.log"
            with open(path, "w", encoding="utf-8") as log, contextlib.redirect_stderr(log):
                if failed:
                    for crowd in self.crowds:
                        print(*(entry for entry in crowd.ends if entry[1] is not End.OK),
                              sep="\n", file=log)
                try:
                    self.cluster.finish(failed)
                except AssertionError as problem:
                    problems.append(f"at the end: {problem}")
            if failed or problems:
                problems.append(f"logs: {path}")
        for wire in self.manglers:
            wire.stop()
        if self.hosts is not None:
            self.hosts.close()
        return problems
