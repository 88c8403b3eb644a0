"""oracle.py - the seven invariants, the same for every fault.

    I1  one end         every request ends once, in time, and what came is right
    I2  no orphan work  no engine works for a client that is gone
    I3  no bad dispatch a node that is known to be out gets no new request
    I4  counters        gauges are zero when idle; dispatched is the sum of the ends; no violations
    I5  no leak         descriptors and memory are what they were
    I6  blast radius    only what was killed is dead; no sanitizer report
    I7  lossless        an operation (reload, drain, leave, upgrade) fails no request

Each check gives a list of complaints.  take() is made before the fault, judge() after it.
"""

import os
import re
import urllib.request

from crowd import End
from harness import SANITIZER_REPORT, SLOW, Timeout, children_of, program, until

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})? (\S+)$", re.M)
FD_SLACK = 6            # connections to nodes are made again in any order, probes come and go
RSS_SLACK_KIB = 4096
RSS_PCT = 5
ASAN_SLACK_KIB = 49152  # freed blocks are kept aside by the sanitizer; only growth beyond is ours


def metrics(cluster):
    """{(name, labels as text): value} of the admin listener's page."""
    text = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                  timeout=10 * SLOW).read().decode()
    return {(name, labels): float(value) for name, labels, value in SAMPLE.findall(text)}


def total(page, name, *labels):
    """The sum of the samples of `name` whose labels contain each of `labels`."""
    return sum(value for (found, text), value in page.items()
               if found == name and all(label in text for label in labels))


def sanitized():
    with open(program("drover"), "rb") as f:
        return b"__asan_init" in f.read()


def descriptors(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def rss_kib(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
    except (OSError, AttributeError):
        return 0


class Oracle:
    def __init__(self, cluster):
        self.cluster = cluster
        self.asan = sanitized()
        self.before = {}
        self.killed = set()         # pids that the fault itself ended
        self.gone_nodes = set()     # names of nodes that are not expected back
        self.dispatches = []        # (node, from, to) over times when it should have had none
        self.memory = True          # whether I5 looks at memory, too

    # ---- pictures ----

    def roles(self):
        """{role: pid} of everything that runs now."""
        found = {}
        for row in self.cluster.ctl_rows("workers"):
            if str(row["state"]).upper() == "RUNNING":
                kind = row.get("kind", "worker")
                found[kind + (str(row["process"]) if kind == "worker" else "")] = row["pid"]
        for node in self.cluster.nodes:
            if node.process.running():
                found[f"node {node.name}"] = node.pid
        return found

    def take(self):
        self.before = {role: (descriptors(pid), rss_kib(pid)) for role, pid in self.roles().items()}

    # ---- checks ----

    def one_end(self, crowd, allowed):
        complaints = list(crowd.complaints[:5])
        outside = crowd.outside(allowed)
        if outside:
            name = "I7" if allowed == {End.OK} else "I1"
            complaints.append(f"{name}: {len(outside)} of {crowd.count()} ended otherwise than "
                              f"allowed, the first: {outside[0][0]} {outside[0][1].value} "
                              f"({outside[0][4]})")
        if crowd.done == 0:
            complaints.append("I1: not one request succeeded, which proves nothing")
        return complaints

    def one_line(self, crowd):
        """I4: each request that was answered has one line in the access log, none has two."""
        answered = {e[0] for e in crowd.ends if e[1] in (End.OK, End.REJECTED, End.ERROR_EVENT)}
        counts = {}

        def all_there():
            counts.clear()
            for line in self.cluster.access_lines():
                counts[line["id"]] = counts.get(line["id"], 0) + 1
            return answered <= set(counts)
        try:
            until(all_there, 3, "lines of the access log")  # they are written after the answer
        except Timeout:
            pass
        missing = sorted(answered - set(counts))
        double = [e[0] for e in crowd.ends if counts.get(e[0], 0) > 1]
        complaints = []
        if missing:
            complaints.append(f"I4: {len(missing)} answered requests have no access log line: "
                              f"{missing[:3]}")
        if double:
            complaints.append(f"I4: {len(double)} requests have two access log lines: {double[:3]}")
        return complaints

    def orphans(self, names=None, bound_s=3):
        """I2: no node (of those `names`) reports work once no client asks."""
        def idle():
            page = metrics(self.cluster)
            return not sum(total(page, f"drover_node_reported_{what}", f'node="{node.name}"')
                           for what in ("running", "queued") for node in self.cluster.nodes
                           if node.process.running() and (not names or node.name in names))
        try:
            until(idle, bound_s, "no engine works")
        except Timeout as failure:
            return [f"I2: {failure}"]
        return []

    def bad_dispatch(self):
        return [f"I3: {node} got {after - before:.0f} requests while it was known to be out"
                for node, before, after in self.dispatches if after != before]

    def counters(self, workers_died):
        complaints = []
        try:
            self.cluster.wait_idle()
        except Timeout as failure:
            complaints.append(f"I4: {str(failure)[:600]}")
        page = metrics(self.cluster)
        if total(page, "drover_gauge_audit_violations_total"):
            complaints.append("I4: drover_gauge_audit_violations_total is not 0")
        if not workers_died:
            dispatched = total(page, "drover_node_dispatched_total")
            ended = total(page, "drover_node_attempts_total")
            if dispatched != ended:
                complaints.append(f"I4: {dispatched:.0f} attempts began and {ended:.0f} ended")
        return complaints

    def leaks(self):
        complaints = []

        def grown():
            found = []
            for role, pid in self.roles().items():
                if role in self.before and descriptors(pid) > self.before[role][0] + FD_SLACK:
                    found.append(f"I5: {role} has {descriptors(pid)} descriptors, "
                                 f"had {self.before[role][0]}")
            return found
        try:
            until(lambda: not grown(), 5, "descriptors are closed")
        except Timeout:
            complaints += grown()
        if self.memory:
            for role, pid in self.roles().items():
                if role not in self.before:
                    continue
                had, has = self.before[role][1], rss_kib(pid)
                slack = RSS_SLACK_KIB + (ASAN_SLACK_KIB if self.asan else 0)
                if has > had * (100 + RSS_PCT) // 100 + slack:
                    complaints.append(f"I5: {role} has {has} KiB of memory, had {had}")
        return complaints

    def blast(self, since):
        """I6: every child that died without an order was killed by the fault itself."""
        complaints = []
        text = self.cluster.master.log()[since:]
        for line in re.findall(r"^.*level=error.*event=child_ended.*$", text, re.M):
            pid = int(re.search(r"child=(\d+)", line).group(1))
            if pid not in self.killed:
                complaints.append(f"I6: died too: {line[line.index('event='):]}")
        if self.cluster.master.pid not in self.killed and not self.cluster.master.running():
            complaints.append("I6: the master died")
        for node in self.cluster.nodes:
            if not node.process.running() and node.pid not in self.killed:
                complaints.append(f"I6: drover-node {node.name} died")
        for process in self.cluster.processes():
            match = SANITIZER_REPORT.search(process.log_path.read_bytes())
            if match:
                complaints.append(f"I6: a sanitizer report in {process.log_path}")
        if self.cluster.master.running() and not children_of(self.cluster.master.pid):
            complaints.append("I6: the master has no children")
        return complaints
