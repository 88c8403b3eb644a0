"""benchlib.py - shared by the benchmarks: programs under test, started fresh and always stopped.

A Group owns processes; Drover, Nginx and Haproxy are Groups that write their configuration from a
list of nodes and start.  Every measurement makes new ones in a folder of its own.
"""

import json
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.02
MODEL = "sim-small"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY_PCT = 80  # a busier machine measures itself: nothing is judged

FOLDERS = {"drover": "master", "drover-node": "node", "drover-sim": "sim", "droverctl": "droverctl",
           "relay_client": "tests/bench", "routing_client": "tests/bench"}


def default_build():
    return Path(os.environ.get("DROVER_BUILD", ROOT / "build"))


def program(name, build):
    for place in (build / FOLDERS[name] / name, build / "bin" / name):
        if place.is_file():
            return str(place)
    sys.exit(f"{Path(sys.argv[0]).name}: {name} is not in {build}; run scripts/build first")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(condition, bound_s, what):
    deadline = time.monotonic() + bound_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {bound_s} s still not: {what}")
        time.sleep(POLL_S)


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def children(pid):
    path = f"/proc/{pid}/task/{pid}/children"
    with open(path, encoding="ascii") as f:
        return [int(word) for word in f.read().split()]


def cpu_s(pids):
    """User and system time of processes; one that is gone counts as 0."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as f:
                fields = f.read().rsplit(b")", 1)[1].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def machine_busy():
    """(busy, all) processor time of the whole machine, in ticks."""
    with open("/proc/stat", encoding="ascii") as f:
        ticks = [int(word) for word in f.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def busy_pct(before, after):
    """Of all processors, between two of machine_busy()."""
    return 100 * (after[0] - before[0]) / max(after[1] - before[1], 1)


def print_verdicts(verdicts, busy=0.0, reduced=""):
    """Prints (text, good) each and returns the goods of those that are judged: none on a machine that
    was more than BUSY_PCT busy, none of a run that is less than the targets are meant for (`reduced`
    says what they are meant for), and none whose good is None, for which there was no sample."""
    reason = (f"the machine was {busy:.0f} % busy, more than {BUSY_PCT} %" if busy > BUSY_PCT else
              f"the targets are meant for {reduced}" if reduced else "")
    for text, good in verdicts:
        print(f"  {'----' if reason or good is None else 'PASS' if good else 'FAIL'}  {text}")
    if reason:
        print(f"  not judged: {reason}")
        return []
    return [good for _, good in verdicts if good is not None]


def most_files():
    """Raises the limit of open files to what is allowed, and says it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def version_of(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    match = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return match.group(0) if match else "?"


def versions():
    return {"nginx": version_of(["nginx", "-v"]), "haproxy": version_of(["haproxy", "-v"]),
            "kernel": platform.release()}


def machine_line():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        models = re.findall(r"model name\s*:\s*(.*)", f.read())
    found = versions()
    return (f"{len(os.sched_getaffinity(0))} processors ({models[0] if models else 'unknown'}), "
            f"Linux {found['kernel']}, nginx {found['nginx']}, HAProxy {found['haproxy']}")


def demand(name):
    """Ends the script when a peer's program is not there."""
    if not shutil.which(name):
        sys.exit(f"{Path(sys.argv[0]).name}: {name} is not installed (scripts/setup --bench)")


@contextmanager
def run_folder():
    """A folder for one measurement, in memory where possible, that the peers' workers can read."""
    with tempfile.TemporaryDirectory(prefix="drover-bench-",
                                     dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def logs_in(folder, bytes_each=1500):
    return "".join(f"--- {path.name}\n{path.read_text(errors='replace')[-bytes_each:]}\n"
                   for path in sorted(Path(folder).glob("*.log")))


class Group:
    """Processes that are started together and do not outlive stop()."""

    def __init__(self, build, folder):
        self.build = build
        self.folder = Path(folder)
        self.processes = []

    def run(self, argv, log):
        with open(self.folder / log, "ab") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True)
        self.processes.append(process)
        return process

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes = []


class Engines(Group):
    """drover-sims, and drover-nodes before them: peers stand before the same engines as Drover's nodes."""

    def start_engine(self, name, spec, port):
        """A drover-sim; call wait_listens() before it is used."""
        return self.run([program("drover-sim", self.build), "--listen", f"127.0.0.1:{port}",
                         "--engine", f"{spec},name={name}", "--log-level", "warn"], f"sim-{name}.log")

    def start_node(self, name, engine_port, port, extra=()):
        return self.run([program("drover-node", self.build), "--engine", f"http://127.0.0.1:{engine_port}",
                         "--name", name, "--insecure-no-token", "--listen", f"127.0.0.1:{port}",
                         "--log-level", "warn", *extra], f"node-{name}.log")

    def start_pairs(self, names, spec, extra=()):
        """An engine and a node for each name; (name, gRPC port) each, ready."""
        pairs = [(name, free_port(), free_port()) for name in names]
        for name, engine_port, _ in pairs:
            self.start_engine(name, spec, engine_port)
        self.wait_listens(*(engine_port for _, engine_port, _ in pairs))
        for name, engine_port, port in pairs:
            self.start_node(name, engine_port, port, extra)
        self.wait_listens(*(port for *_, port in pairs))
        return [(name, port) for name, _, port in pairs]

    @staticmethod
    def wait_listens(*ports):
        wait_for(lambda: all(listens(port) for port in ports), 20, "engines and nodes listen")

    def stop(self):
        for process in self.processes:
            process.kill()  # they hold nothing that matters, and draining takes its time
        super().stop()


class Drover(Group):
    """start() -> (port, pids of the workers)."""

    def start(self, nodes, workers=1, config="", health="interval_ms: 200"):
        """`nodes`: (name, gRPC port) each; `config`: more lines of the configuration; `health`:
        what goes between its braces."""
        runtime = self.folder / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        path = self.folder / "drover.yaml"
        path.write_text(
            f"workers: {workers}\napi: {{listen: '127.0.0.1:0'}}\nadmin: {{listen: '127.0.0.1:0'}}\n"
            f"runtime_dir: {runtime}\nlog: {{level: warn}}\n"
            f"health: {{rise: 1, {health}}}\n{config}nodes:\n"
            + "".join(f"  - {{name: {name}, address: '127.0.0.1:{port}'}}\n" for name, port in nodes))
        self.run([program("drover", self.build), "-c", str(path)], "drover.log")
        ctl = [program("droverctl", self.build), "--runtime-dir", str(runtime)]

        def rows(what):
            done = subprocess.run(ctl + [what, "--json"], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return []
            document = json.loads(done.stdout)
            return document[what] if isinstance(document, dict) else document
        wait_for(lambda: sum(row["state"] == "UP" for row in rows("nodes")) == len(nodes), 20,
                 "the nodes are UP")
        found = wait_for(lambda: [row["pid"] for row in rows("workers")
                                  if row.get("kind", "worker") == "worker"], 5, "a worker")
        addresses = json.loads((runtime / "addresses").read_text())
        return int(addresses["api"].rsplit(":", 1)[1]), found


class Nginx(Group):
    """start() -> (port, pids of the workers)."""

    def start(self, upstream, workers=1, connections=4096, location=""):
        """`upstream`: the lines of the upstream block; `location`: more lines for the location.
        Neither side's connections end after nginx's usual 1000 requests, as those of others do not."""
        port = free_port()
        config = self.folder / "nginx.conf"
        user = "user root;\n" if os.getuid() == 0 else ""
        config.write_text(f"""{user}worker_processes {workers};
daemon off;
pid {self.folder}/nginx.pid;
error_log {self.folder}/nginx-error.log error;
worker_rlimit_nofile {resource.getrlimit(resource.RLIMIT_NOFILE)[1]};
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path {self.folder}/body;
    proxy_temp_path {self.folder}/proxy;
    fastcgi_temp_path {self.folder}/fastcgi;
    uwsgi_temp_path {self.folder}/uwsgi;
    scgi_temp_path {self.folder}/scgi;
    upstream engine {{
{upstream}
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
{location}
        }}
    }}
}}
""")
        master = self.run(["nginx", "-p", str(self.folder), "-c", str(config),
                           "-e", str(self.folder / "nginx-error.log")], "nginx.log")
        wait_for(lambda: listens(port), 10, "nginx listens")
        return port, wait_for(lambda: children(master.pid), 5, "nginx's workers")


class Haproxy(Group):
    """start() -> (port, pids)."""

    def start(self, backend, threads=1, connections=4096, defaults=""):
        """`backend`: the lines of the backend section; `defaults`: more lines for the defaults."""
        port = free_port()
        config = self.folder / "haproxy.cfg"
        config.write_text(f"""global
    nbthread {threads}
    maxconn {connections}
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    option http-no-delay
    http-reuse always
{defaults}
frontend api
    bind 127.0.0.1:{port} backlog 4096
    default_backend engine
backend engine
{backend}
""")
        process = self.run(["haproxy", "-db", "-f", str(config)], "haproxy.log")
        wait_for(lambda: listens(port), 10, "haproxy listens")
        return port, [process.pid]
