"""harness.py - real Drover processes for tests: start, watch, stop, and look for leftovers.

A Cluster is one master (with its workers and its health process) and any number of drover-node
processes, each with a drover-sim of its own as its engine, all on ephemeral loopback ports.  Nothing here sleeps for a duration: until() polls a
condition and gives up after a bound, so a fast machine is fast and a slow one is right.

At the end of a test, Cluster.finish() stops everything and checks what must hold after any
test: no request or gauge left open, no process left, no sanitizer report in any log.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DROVER_BUILD", ROOT / "build"))
POLL_S = 0.02
MODEL = "sim-small"

# Sanitized programs are several times slower; every bound grows with this.
SLOW = float(os.environ.get("DROVER_TEST_SLOW", "1"))

SANITIZER_REPORT = re.compile(
    rb"(ERROR: (Address|Leak|Thread|Memory)Sanitizer|WARNING: ThreadSanitizer|runtime error:)")


def program(name):
    """The path of one of our programs in the build directory (or an install prefix)."""
    folder = {"drover": "master", "drover-node": "node", "drover-sim": "sim",
              "droverctl": "droverctl"}.get(name, "")
    for place in (BUILD / folder / name, BUILD / "bin" / name, BUILD / "sbin" / name,
                  BUILD / name):
        if place.is_file() and os.access(place, os.X_OK):
            return str(place)
    raise FileNotFoundError(f"{name} is not in {BUILD}: build first, or set DROVER_BUILD")


class Timeout(AssertionError):
    pass


def until(condition, bound_s=10.0, what=None):
    """Polls `condition` until it gives something true, and returns that."""
    deadline = time.monotonic() + bound_s * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Timeout(f"after {bound_s * SLOW:.0f} s still not: "
                          f"{what or getattr(condition, '__name__', condition)}"
                          f" (last value: {value!r})")
        time.sleep(POLL_S)


def state_of(pid):
    """The letter that the kernel has for what the process does, as in ps(1); None: it is no more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid):
    """Is there such a process, and is it more than a zombie?"""
    return state_of(pid) not in (None, "Z", "X")


def processes_where(field, value):
    """The living processes whose field of /proc/PID/stat (1 = parent, 3 = session) is `value`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as f:
                    fields = f.read().rsplit(b")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[field]) == value and fields[0] not in (b"Z", b"X"):
                found.append(int(entry))
    return found


def children_of(pid):
    return processes_where(1, pid)


def session_members(session):
    return processes_where(3, session)


def free_port():
    """A port that was free a moment ago, for programs that cannot take port 0; the kernel gives
    it to nobody who does."""
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10000, first_ephemeral)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def to_yaml(value, indent=0):
    """Just enough YAML for a configuration: maps, lists of maps or scalars, scalars."""
    pad = "  " * indent
    out = []
    for key, item in value.items():
        if isinstance(item, dict):
            out.append(f"{pad}{key}:\n{to_yaml(item, indent + 1)}")
        elif isinstance(item, list):
            out.append(f"{pad}{key}:\n" if item else f"{pad}{key}: []\n")
            for element in item:
                if isinstance(element, dict):
                    text = to_yaml(element, indent + 2)
                    out.append(f"{pad}  - " + text[len(pad) + 4:])
                else:
                    out.append(f"{pad}  - {scalar(element)}\n")
        else:
            out.append(f"{pad}{key}: {scalar(item)}\n")
    return "".join(out)


def scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps(str(value))


def merge(base, extra):
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value
    return base


def sanitizer_report(path):
    """A sanitizer's report in a log, or None."""
    data = Path(path).read_bytes()
    match = SANITIZER_REPORT.search(data)
    if not match:
        return None
    report = data[max(0, match.start() - 200):match.start() + 3000]
    return f"sanitizer report in {Path(path).name}:\n" + report.decode(errors="replace")


class Process:
    """One of our programs, with its output in a file."""

    def __init__(self, argv, log_path, env=None):
        self.argv = argv
        self.log_path = Path(log_path)
        full_env = dict(os.environ)
        full_env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
        full_env.update(env or {})
        with open(self.log_path, "ab") as log:
            # A session of its own: session_members() then finds every descendant.
            self.popen = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=full_env, start_new_session=True)
        self.pid = self.popen.pid

    def log(self):
        return self.log_path.read_text(errors="replace")

    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, bound_s=10.0):
        """Waits for the end; the exit status (negative: the signal)."""
        until(lambda: self.popen.poll() is not None, bound_s, f"end of {self.argv[0]}")
        return self.popen.returncode

    def kill_all(self):
        for pid in session_members(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()


def listening_at(log):
    """Every address of the log lines `event=listening ... address=...`, as "HOST:PORT"."""
    return re.findall(r'event=listening\b[^\n]*\baddress="?([0-9.]+:[0-9]+)', log)


class Node:
    """A drover-node."""

    def __init__(self, process, name, engine=None):
        self.process = process
        self.name = name
        self.engine = engine  # its drover-sim, a Process; None: some other server

    @property
    def pid(self):
        return self.process.pid

    def address(self):
        return until(lambda: listening_at(self.process.log()), 10, f"address of node {self.name}")[0]


# The engine, unless a test says otherwise: an answer is as long as its request allows.
SIM_DEFAULTS = {"length": "limit", "tokens": "64"}


def sim_spec(spec, name=""):
    """The settings of a drover-sim: `spec`, and the defaults of tests for what it leaves open."""
    given = {pair.split("=", 1)[0] for pair in spec.split(",")}
    more = {**SIM_DEFAULTS, **({"name": name} if name else {})}
    pairs = [spec] if spec else []
    return ",".join(pairs + [f"{key}={value}" for key, value in more.items() if key not in given])


class Sim(Process):
    """A drover-sim with an engine for each of `specs`, at `urls`."""

    def __init__(self, specs, log_path, names=(), listen="127.0.0.1:0"):
        argv = [program("drover-sim"), "--listen", listen]
        for i, spec in enumerate(specs):
            argv += ["--engine", sim_spec(spec, names[i] if i < len(names) else "")]
        super().__init__(argv, log_path)
        until(self.ready, 10, "drover-sim is ready")
        self.urls = [f"http://{address}" for address in listening_at(self.log())]

    def ready(self):
        if not self.running():
            raise AssertionError(f"drover-sim ended at once:\n{self.log()}")
        return "event=ready" in self.log()


def fetch_status(url):
    try:
        return urllib.request.urlopen(url, timeout=10 * SLOW).status
    except urllib.error.HTTPError as error:
        return error.code


class Cluster:
    def __init__(self, name="test", workers=2, config=None, token=True):
        shm = Path("/dev/shm")
        base = shm if shm.is_dir() and os.access(shm, os.W_OK) else None
        self.dir = Path(tempfile.mkdtemp(prefix="drover-", dir=base))
        self.name = name
        self.runtime = self.dir / "run"
        self.runtime.mkdir(mode=0o700)
        self.config_path = self.dir / "drover.yaml"
        self.access_log_path = self.dir / "access.log"
        self.token_path = self.dir / "token"
        self.token_path.write_text("integration-test-token-0123456789abcdef\n")
        self.token_path.chmod(0o600)
        self.settings = {
            "workers": workers,
            "api": {"listen": "127.0.0.1:0"},
            "admin": {"listen": "127.0.0.1:0"},
            "runtime_dir": str(self.runtime),
            "state_dir": str(self.dir / "state"),
            "log": {"access": str(self.access_log_path),
                    "level": "debug" if os.environ.get("DROVER_TEST_DEBUG") else "info"},
            "shutdown_grace_ms": 5000,
            # Tests that make requests fail on purpose want their nodes kept, and at once when
            # they are back; test_ejection.py is about what happens otherwise.
            "health": {"interval_ms": 100, "timeout_ms": int(1000 * SLOW), "rise": 1, "fall": 2,
                       "eject_failures": 0, "eject_success_pct": 0, "ramp_ms": 0,
                       "flap_wait_ms": 0},
        }
        if token:
            self.settings["registry"] = {
                "listen": "127.0.0.1:0", "token_file": str(self.token_path),
                "heartbeat_ms": 500, "lease_ms": int(3000 * SLOW)}
        merge(self.settings, config or {})
        self.environment = None  # of the master: what differs from ours
        self.node_environment = None
        self.master = None
        self.nodes = []
        self.engines = []  # drover-sims
        self.others = []

    # ---- starting ----

    def write_config(self, **changes):
        merge(self.settings, changes)
        self.config_path.write_text(to_yaml(self.settings))

    def start(self):
        self.write_config()
        self.launch()
        return self

    def launch(self):
        self.master = Process([program("drover"), "-c", str(self.config_path)],
                              self.dir / "drover.log", self.environment)
        self.wait_started()

    def wait_started(self):
        def started():
            if not self.master.running():
                raise AssertionError(f"drover ended at once:\n{self.master.log()}")
            # A scoreboard that an earlier master left behind shows workers that are no more.
            pids = self.worker_pids()
            return pids and set(pids) <= set(children_of(self.master.pid))
        until(started, 10, "drover has started")

    def addresses(self):
        return json.loads((self.runtime / "addresses").read_text())

    def address(self, which="api"):
        host, port = self.addresses()[which].rsplit(":", 1)
        return host.strip("[]"), int(port)

    @property
    def api(self):
        return self.address("api")

    @property
    def url(self):
        return "http://%s:%d" % self.api

    def start_engines(self, specs, names=(), listen="127.0.0.1:0"):
        """One drover-sim with an engine for each of `specs`; their URLs."""
        sim = Sim(specs, self.dir / f"sim-{len(self.engines)}.log", names, listen)
        self.engines.append(sim)
        return sim.urls

    def start_engine(self, spec="", name="", listen="127.0.0.1:0"):
        """A drover-sim with one engine: (Process, URL)."""
        url, = self.start_engines([spec], [name], listen)
        return self.engines[-1], url

    def node_argv(self, name, engine, extra=()):
        """`engine`: its URL."""
        argv = [program("drover-node"), "--engine", engine, "--name", name,
                "--listen", "127.0.0.1:0"]
        return argv + list(extra)

    def run_node(self, name, argv, engine=None):
        """A drover-node by its whole command line."""
        node = Node(Process(argv, self.dir / f"node-{name}-{len(self.nodes)}.log",
                            self.node_environment), name, engine)
        self.nodes.append(node)
        return node

    def start_node(self, name, spec="", engine=None, join=True, extra=(), wait=True):
        """A drover-node on a drover-sim (`spec`) or on the engine at URL `engine`."""
        sim = None
        if engine is None:
            sim, engine = self.start_engine(spec, name)
        argv = self.node_argv(name, engine, extra)
        if join:
            argv += ["--coordinator", "%s:%d" % self.address("registry"),
                     "--token-file", str(self.token_path)]
        else:
            argv += ["--insecure-no-token"]
        node = self.run_node(name, argv, sim)
        if wait:
            self.wait_up(name, node)
        return node

    def wait_up(self, name, node=None, bound_s=15):
        def up():
            if node is not None and not node.process.running():
                raise AssertionError(f"drover-node {name} ended:\n{node.process.log()}")
            return self.node_state(name) == "UP"
        try:
            until(up, bound_s, f"node {name} is UP")
        except Timeout as failure:
            raise Timeout(f"{failure}\n{self.tails()}") from None

    def wait_models_known(self):
        """After its start a coordinator waits for former nodes: an unknown model is 503 and not 404."""
        until(lambda: fetch_status(self.url + "/v1/models/no-such-model") == 404, 20,
              "an unknown model is known to be unknown")

    # ---- looking ----

    def ctl(self, *args, check=True, timeout=30):
        done = subprocess.run([program("droverctl"), "--runtime-dir", str(self.runtime), *args],
                              capture_output=True, text=True, timeout=timeout * SLOW)
        if check and done.returncode != 0:
            raise AssertionError(f"droverctl {' '.join(args)}: status {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}\n{self.tails()}")
        return done

    def ctl_json(self, *args):
        return json.loads(self.ctl(*args, "--json").stdout)

    def ctl_rows(self, what):
        document = self.ctl_json(what)
        return document[what] if isinstance(document, dict) else document

    def node_row(self, name):
        for row in self.ctl_rows("nodes"):
            if row["name"] == name:
                return row
        return None

    def node_state(self, name):
        row = self.node_row(name)
        return row["state"] if row else None

    def worker_rows(self):
        return [row for row in self.ctl_rows("workers") if row.get("kind", "worker") == "worker"]

    def worker_rows_all(self):
        """Every worker that still exists, draining ones too."""
        return [row for row in self.worker_rows() if str(row["state"]).upper() != "FREE"]

    def health_pid(self):
        for row in self.ctl_rows("workers"):
            if row.get("kind") == "health" and str(row["state"]).upper() == "RUNNING":
                return row["pid"]
        return None

    def violations(self):
        """How often the health process found gauges and open requests in disagreement."""
        text = urllib.request.urlopen("http://%s:%d/metrics" % self.address("admin"),
                                      timeout=10 * SLOW).read().decode()
        values = re.findall(r"^drover_\w*violations?_total(?:\{[^}]*\})? (\S+)$", text, re.M)
        assert values, "no counter of violations in /metrics"
        return sum(float(value) for value in values)

    def worker_pids(self, state="RUNNING"):
        try:
            rows = self.worker_rows()
        except (AssertionError, json.JSONDecodeError):
            return []
        pids = [row["pid"] for row in rows if str(row["state"]).upper() == state]
        return pids if len(pids) >= 1 else []

    @contextlib.contextmanager
    def only_worker(self, pid):
        """Meanwhile new connections are taken by this worker: the others stand still."""
        others = [other for other in self.worker_pids() if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        try:
            until(lambda: all(state_of(other) == "T" for other in others), 5, "the others stand")
            yield
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)

    def gauges(self):
        """{node: (requests in flight, ms of prefill charged)} over all workers."""
        return {row["name"]: (row["inflight"], row["backlog_ms"])
                for row in self.ctl_rows("nodes")}

    def open_requests(self):
        return self.ctl_rows("requests")

    def idle(self):
        """Nothing is sent, planned or open."""
        return not self.open_requests() and not any(
            row[key] for row in self.ctl_rows("nodes") for key in ("inflight", "backlog_ms", "held", "held_ms"))

    def wait_idle(self, bound_s=5):
        try:
            until(self.idle, bound_s, "no request and no gauge is open")
        except Timeout as failure:
            raise Timeout(f"{failure}\nnodes {self.ctl_rows('nodes')}\nrequests "
                          f"{self.open_requests()[:5]}\n{self.tails()}") from None

    def access_lines(self):
        if not self.access_log_path.exists():
            return []
        return [json.loads(line) for line in self.access_log_path.read_text().splitlines()]

    def access_line(self, request_id, bound_s=5):
        def find():
            return [line for line in self.access_lines() if line["id"] == request_id]
        return until(find, bound_s, f"access log line of {request_id}")[0]

    def processes(self):
        found = [self.master] if self.master else []
        return found + [node.process for node in self.nodes] + self.others + self.engines

    def tails(self, lines=25):
        out = []
        for process in self.processes():
            text = "\n".join(process.log().splitlines()[-lines:])
            out.append(f"--- {process.log_path.name} (running: {process.running()})\n{text}")
        return "\n".join(out)

    # ---- stopping ----

    def stop_node(self, node, number=signal.SIGTERM, bound_s=15):
        node.process.signal(number)
        return node.process.wait(bound_s)

    def stop_master(self, number=signal.SIGTERM, bound_s=15):
        self.master.signal(number)
        return self.master.wait(bound_s)

    def finish(self, failed=False):
        """Stops all and checks what must hold after every test."""
        problems = []
        try:
            if self.master and self.master.running() and not failed:
                try:
                    self.wait_idle()
                except AssertionError as problem:
                    problems.append(str(problem))
                status = self.stop_master()
                if status != 0:
                    problems.append(f"drover ended with status {status}")
            for process in self.processes():
                if process is not self.master and process.running():
                    process.signal(signal.SIGTERM)
            for process in self.processes():
                if process.running() and not failed:
                    try:
                        status = process.wait(15)
                        if status != 0:
                            problems.append(f"{process.argv[0]} ended with status {status}")
                    except Timeout as problem:
                        problems.append(str(problem))
            for process in self.processes():
                left = session_members(process.pid)
                if left and not failed:
                    problems.append(f"left over from {process.argv[0]}: {left}")
        finally:
            for process in self.processes():
                process.kill_all()
        problems += filter(None, (sanitizer_report(process.log_path) for process in self.processes()))
        if problems or failed:
            print(self.tails(60), file=sys.stderr)
            print(f"files of this test are in {self.dir}", file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        assert not problems, "\n".join(problems)


def finish_all(request, clusters):
    """Ends the clusters of a test, and checks what must hold after it."""
    report = getattr(request.node, "report_call", None)
    failed = report is None or report.failed
    problems = []
    for cluster in clusters:
        try:
            cluster.finish(failed)
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)
