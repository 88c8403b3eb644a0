"""A coordinator without drover-node, seen through its admin listener; the nodes are of grpcio.

The fixtures make_plant, plant and box are imported by the tests that name them.
"""

import json
import re
import urllib.error
import urllib.request

import pytest

from fake_node import Attachment, FakeNode, Heart
from harness import SLOW, Cluster, Timeout, children_of, finish_all, until

TOKEN = "integration-test-token-0123456789abcdef"
OLD_TOKEN = "the-token-of-before-0123456789abcdef00"


def http(address, path, method="GET"):
    """(status, headers, body)"""
    request = urllib.request.Request("http://%s:%d%s" % (*address, path), method=method)
    try:
        with urllib.request.urlopen(request, timeout=10 * SLOW) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read().decode()


# ---- a parser of the Prometheus text format, as strict as the format is ----

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)')


def parse_labels(text):
    labels = {}
    while text:
        match = LABEL.match(text)
        assert match, f"bad labels: {text!r}"
        assert match.group(1) not in labels, f"label twice: {text!r}"
        labels[match.group(1)] = re.sub(
            r"\\(.)", lambda m: "\n" if m.group(1) == "n" else m.group(1), match.group(2))
        assert match.group(3) != "," or match.end() < len(text), "comma at the end"
        text = text[match.end():]
    return labels


def parse_metrics(text):
    """{family: (type, [(name, labels, value)])}; asserts every rule of the format we know."""
    assert text.endswith("\n")
    families, current, seen = {}, None, set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split(" ", 3)[2]
            assert current not in families, f"{current} comes twice"
            families[current] = (None, [])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current and families[name] == (None, []), line
            assert kind in ("counter", "gauge", "histogram"), line
            families[name] = (kind, [])
        else:
            match = SAMPLE.fullmatch(line)
            assert match, f"not a sample: {line!r}"
            name, labels, value = match.group(1), parse_labels(match.group(2) or ""), match.group(3)
            kind, samples = families[current]
            if kind == "histogram":
                assert name in (current + "_bucket", current + "_sum", current + "_count"), line
            else:
                assert name == current, f"{line!r} in the family {current}"
            key = (name, tuple(sorted(labels.items())))
            assert key not in seen, f"sample twice: {line!r}"
            seen.add(key)
            samples.append((name, labels, float(value)))
    return families


def check_histogram(name, samples):
    """Buckets grow, end with +Inf, and +Inf is the count."""
    series = {}
    for sample, labels, value in samples:
        rest = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        one = series.setdefault(rest, {"buckets": []})
        if sample.endswith("_bucket"):
            one["buckets"].append((float(labels["le"]), value))
        else:
            one[sample[len(name):]] = value
    for rest, one in series.items():
        bounds = [bound for bound, _ in one["buckets"]]
        counts = [count for _, count in one["buckets"]]
        assert bounds == sorted(bounds) and len(set(bounds)) == len(bounds), (name, rest)
        assert bounds[-1] == float("inf"), (name, rest)
        assert counts == sorted(counts), (name, rest)
        assert counts[-1] == one["_count"], (name, rest)
        assert "_sum" in one, (name, rest)
    return series


# ---- the system under test ----

class Plant(Cluster):
    """A cluster that is looked at through its admin listener only."""

    def __init__(self, name, **options):
        super().__init__(name=name, **options)
        self.fakes = []
        self.attachments = []
        self.hearts = []

    def get(self, path, method="GET"):
        return http(self.address("admin"), path, method)

    def metrics(self):
        return parse_metrics(self.get("/metrics")[2])

    def metric(self, family, **labels):
        for _, have, value in self.metrics()[family][1]:
            if all(have.get(k) == v for k, v in labels.items()):
                return value
        return None

    def nodes_json(self):
        return json.loads(self.get("/nodes")[2])["nodes"]

    def node_row(self, name):
        return next((row for row in self.nodes_json() if row["name"] == name), None)

    def wait_started(self):
        def started():
            assert self.master.running(), f"drover ended at once:\n{self.master.log()}"
            try:
                rows = self.metrics()["drover_process_running"][1]
            except OSError:
                return False  # nothing listens yet, or the address is not known
            return any(labels["proc"].startswith("worker") and value == 1
                       for _, labels, value in rows)
        until(started, 10, "drover has started")

    def idle(self):
        return (all(row["inflight"] == 0 for row in self.nodes_json())
                and self.metric("drover_requests_open") == 0)

    def gauges(self):
        return {row["name"]: row["inflight"] for row in self.nodes_json()}

    def open_requests(self):
        return []

    def health_pid(self):
        for pid in children_of(self.master.pid):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if b"health" in f.read():
                        return pid
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
        return None

    def live(self):
        try:
            return self.get("/livez")[0] == 200
        except OSError:
            return False

    def fake(self, name, **options):
        node = FakeNode(name, **options)
        self.fakes.append(node)
        return node

    def attach(self):
        attachment = Attachment("%s:%d" % self.address("registry"))
        self.attachments.append(attachment)
        return attachment

    def join(self, node, token=TOKEN, heart=True, **changes):
        attachment = self.attach()
        attachment.answer = attachment.register(node, token, **changes)
        if heart:
            attachment.heart = Heart(attachment, node)
            self.hearts.append(attachment.heart)
        return attachment

    def state(self, name):
        row = self.node_row(name)
        return (row["state"], row["reason"]) if row else None

    def wait_state(self, name, state, reason=None, bound_s=10):
        def reached():
            now = self.state(name)
            return now is not None and now[0] == state and reason in (None, now[1])
        try:
            until(reached, bound_s, f"{name} is {state} {reason or ''}")
        except Timeout as failure:
            raise Timeout(f"{failure}\nit is {self.state(name)}\n{self.tails()}") from None
        return self.node_row(name)

    def finish(self, failed=False):
        try:
            if not failed and self.master and self.master.running():
                assert self.metric("drover_gauge_audit_violations_total") == 0
        finally:
            for heart in self.hearts:
                heart.stop()
            for attachment in self.attachments:
                attachment.close()
            for node in self.fakes:
                node.stop()
            super().finish(failed)


@pytest.fixture
def make_plant(request):
    made = []

    def make(start=True, **options):
        plant = Plant(request.node.name, workers=options.pop("workers", 1), **options)
        made.append(plant)
        return plant.start() if start else plant

    yield make
    finish_all(request, made)


@pytest.fixture
def plant(make_plant):
    return make_plant()


def static(name, port):
    return {"name": name, "address": f"127.0.0.1:{port}"}


def static_plant(make_plant, *nodes):
    return make_plant(config={"nodes": [static(node.name, node.port) for node in nodes]})


@pytest.fixture
def box(make_plant):
    """A plant with one static node `box`, UP."""
    node = FakeNode("box")
    made = static_plant(make_plant, node)
    made.fakes.append(node)
    made.box = node
    made.wait_state("box", "UP", "probes_pass")
    return made
