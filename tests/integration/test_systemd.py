"""The test acts as systemd: it starts drover and reads its notifications."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

from harness import BUILD, SLOW, Process, program, until
from load import Load, chat_body, fetch_now
from test_upgrade import Upgradable, reaper  # noqa: F401  pylint: disable=unused-import


class Manager:
    """The socket of NOTIFY_SOCKET: [(pid, {key: value})] as they came."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.heard = []

    def read(self):
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return self.heard
            pid = int.from_bytes(ancillary[0][2][:4], "little")
            self.heard.append((pid, dict(line.split("=", 1)
                                         for line in data.decode().splitlines())))

    def said(self, key, after=0):
        return [(pid, what) for pid, what in self.read()[after:] if key in what]

    def wait(self, key, after=0, bound_s=15):
        return until(lambda: self.said(key, after), bound_s, f"{key}=")[0]


@pytest.fixture
def manager(tmp_path):
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def launch(cluster, env, file=None):
    cluster.write_config()
    cluster.master = Process([str(file or program("drover")), "-c", str(cluster.config_path)],
                             cluster.dir / "drover.log", env)
    cluster.wait_started()


def test_ready_reloading_and_stopping_are_reported_once_each_by_the_master(make_cluster, manager):
    cluster = make_cluster()
    launch(cluster, {"NOTIFY_SOCKET": manager.path})
    pid, _ = manager.wait("READY")
    assert pid == cluster.master.pid
    assert len(cluster.worker_pids()) == 2, "ready is said when all serve"
    cluster.ctl("reload")
    at = manager.said("RELOADING")[0]
    assert abs(int(at[1]["MONOTONIC_USEC"]) / 1e6 - time.monotonic()) < 60
    until(lambda: len(manager.said("READY")) == 2, 5, "ready again")
    cluster.config_path.write_text("nonsense: 1\n")
    cluster.ctl("reload", check=False)
    until(lambda: len(manager.said("READY")) == 3, 5, "ready again, as before")
    assert cluster.stop_master() == 0
    assert len(manager.said("STOPPING")) == 1
    assert not manager.said("WATCHDOG")
    assert {pid for pid, _ in manager.heard} == {cluster.master.pid}


def test_an_abstract_socket_is_reached_too(make_cluster):
    name = f"drover-test-{os.getpid()}"
    manager = Manager("\0" + name)
    cluster = make_cluster(workers=1)
    launch(cluster, {"NOTIFY_SOCKET": "@" + name})
    manager.wait("READY")
    manager.socket.close()


def test_the_watchdog_hears_nothing_while_no_worker_turns(make_cluster, manager):
    cluster = make_cluster(workers=1)
    launch(cluster, {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"})
    manager.wait("WATCHDOG")
    until(lambda: len(manager.said("WATCHDOG")) >= 3, 10, "it is told again and again")
    victim = cluster.worker_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    until(lambda: "event=child_stalled" in cluster.master.log(), 15)
    # From here to the new worker's first turn nothing may be said.
    silent_from = len(manager.read())

    def ended():
        said = manager.said("WATCHDOG", silent_from)  # before the look at the log, in this order
        if "event=child_ended" in cluster.master.log():
            return True
        assert not said, "while nobody turned"
        return False
    until(ended, 15, "it has been killed")
    manager.wait("WATCHDOG", silent_from)
    assert cluster.worker_pids() != [victim]


def test_a_watchdog_for_another_process_is_none_of_ours(make_cluster, manager):
    cluster = make_cluster(workers=1)
    launch(cluster, {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000",
                     "WATCHDOG_PID": "1"})
    manager.wait("READY")
    cluster.ctl("reload")  # time passes, turns are made
    until(lambda: len(manager.said("READY")) == 2, 5)
    assert not manager.said("WATCHDOG")


def test_an_upgrade_hands_over_the_service(make_cluster, manager):
    cluster = make_cluster()
    rig = Upgradable(cluster)
    launch(cluster, {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000"}, rig.file)
    manager.wait("READY")
    cluster.start_node("a")
    cluster.ctl("upgrade")
    old = rig.follow()
    pid, what = manager.wait("MAINPID")
    at = next(i for i, (_, what) in enumerate(manager.heard) if "MAINPID" in what) + 1
    assert pid == old.pid
    assert int(what["MAINPID"]) == cluster.master.pid
    assert manager.wait("READY", at)[0] == cluster.master.pid
    assert manager.wait("WATCHDOG", at)[0] == cluster.master.pid
    assert old.wait(20) == 0
    assert old.pid not in {pid for pid, _ in manager.heard[at:]}
    assert cluster.master.pid not in {pid for pid, _ in manager.heard[:at]}


# ---- socket activation ----

class Activated:
    """A start with sockets that were opened before, as systemd passes them."""

    def __init__(self, cluster, names):
        self.sockets = {}
        for name in names:
            s = socket.create_server(("127.0.0.1", 0), backlog=64)
            self.sockets[name] = s
        self.cluster = cluster

    def address(self, name):
        return self.sockets[name].getsockname()

    def launch(self, names=None, wait=True, file=None):
        cluster = self.cluster
        cluster.write_config()
        fds = [s.fileno() for s in self.sockets.values()]
        names = ":".join(self.sockets) if names is None else names
        # From a shell, because LISTEN_PID is the pid of the program itself.
        moves = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(self.high(fds)))
        script = (f'exec {moves}; LISTEN_PID=$$ LISTEN_FDS={len(fds)} LISTEN_FDNAMES="{names}" '
                  f'exec "$@"')
        with open(cluster.dir / "drover.log", "ab") as log:
            made = subprocess.Popen(
                ["bash", "-c", script, "sh", str(file or program("drover")), "-c",
                 str(cluster.config_path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=self.highs, start_new_session=True)
        process = Process.__new__(Process)
        process.argv, process.log_path = ["drover"], cluster.dir / "drover.log"
        process.popen, process.pid = made, made.pid
        cluster.master = process
        if wait:
            cluster.wait_started()
        return process

    def high(self, fds):
        import fcntl
        self.highs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]
        return self.highs

    def close(self):
        for s in self.sockets.values():
            s.close()
        for fd in self.highs:
            os.close(fd)


def test_the_managers_sockets_are_used_and_connections_wait_in_them(make_cluster):
    cluster = make_cluster()
    given = Activated(cluster, ["api", "admin", "registry"])
    early = socket.create_connection(given.address("api"))  # before drover is there
    early.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    given.launch()
    for name in ("api", "admin", "registry"):
        assert cluster.address(name) == given.address(name)
    assert early.recv(100).startswith(b"HTTP/1.1 200")
    early.close()
    cluster.start_node("a")
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions",
                     chat_body("hi", 2, stream=False)).status == 200
    # A restart loses nothing: the manager keeps the sockets.
    assert cluster.stop_master() == 0
    late = socket.create_connection(given.address("api"))
    late.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    given.launch()
    assert late.recv(100).startswith(b"HTTP/1.1 200")
    late.close()
    given.close()


def test_activated_sockets_outlive_an_upgrade(make_cluster):
    cluster = make_cluster()
    rig = Upgradable(cluster)
    given = Activated(cluster, ["api"])
    given.launch(file=rig.file)
    cluster.start_node("a", "slots=32,rate=200")
    with Load(cluster.api, concurrency=8, tokens=12) as load:
        until(lambda: load.done > 5, 20)
        cluster.ctl("upgrade")
        rig.follow()
        target = load.done + 10
        until(lambda: load.done > target or load.failures, 20)
    assert not load.failures, load.failures[:3]
    assert cluster.api == given.address("api")
    given.close()


@pytest.mark.parametrize("names,words", [
    ("drover.socket", "'drover.socket'"),
    ("", "''"),
])
def test_an_unknown_socket_is_refused_at_the_start(make_cluster, names, words):
    cluster = make_cluster(workers=1)
    given = Activated(cluster, ["api"])
    process = given.launch(names=names, wait=False)
    assert process.wait(10) == 1
    assert words in process.log() and "FileDescriptorName=" in process.log()
    given.close()


# ---- the unit files ----

UNITS = BUILD / "packaging"


def settings(unit):
    """{section: {key: [values]}}; systemd's own grammar, as far as our files use it."""
    sections, section, held = {}, None, ""
    for line in (UNITS / unit).read_text().splitlines():
        line = held + line
        held = ""
        if line.endswith("\\"):
            held = line[:-1] + " "
            continue
        if not line.strip() or line[0] in "#;":
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(match.group(1), {})
            continue
        key, _, value = line.partition("=")
        assert re.fullmatch(r"\w+", key) and section is not None, line
        section.setdefault(key, []).append(value)
    return sections


@pytest.mark.parametrize("unit", ["drover.service", "drover-node.service"])
def test_a_service_is_shut_in_as_far_as_it_can_be(unit):
    service = settings(unit)["Service"]
    for key in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices",
                "ProtectKernelTunables", "ProtectKernelModules", "ProtectControlGroups",
                "RestrictNamespaces", "LockPersonality", "MemoryDenyWriteExecute"):
        assert service[key] == ["yes"], key
    assert service["ProtectSystem"] == ["strict"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert service["SystemCallFilter"][0] == "@system-service"
    assert service["KillMode"] == ["mixed"]


@pytest.mark.parametrize("unit, argv, again", [
    ("drover-node.service", ["--engine", "http://x", "--listen", "0.0.0.0:0"], False),
    ("drover-node.service", ["--engine", "http://x", "--token-file", "/nonexistent"], True),
    ("drover-node.service", ["--engine", "http://x", "--listen", "127.0.0.1:0",
                             "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], True),
    ("drover-node.service", ["--engine", "gopher://x"], False),
    ("drover-node.service", ["--engine", "http://x", "--token-file", "/dev/null"], True),
    ("drover-node.service", ["--engine", "http://x", "--listen", "127.0.0.1:0",
                             "--engine-key-file", "/dev/null"], True),
    ("drover.service", ["--nonsense"], False),
    ("drover.service", ["-c", "/nonexistent"], True),
])
def test_a_service_is_started_again_unless_its_command_line_is_wrong(unit, argv, again):
    done = subprocess.run([program(unit.removesuffix(".service")), *argv], capture_output=True, text=True,
                          timeout=20 * SLOW)
    assert done.returncode not in (0, None), done.stderr
    final = settings(unit)["Service"].get("RestartPreventExitStatus", [])
    assert (str(done.returncode) not in final) == again, done.stderr


def test_the_stop_timeout_is_longer_than_the_default_grace():
    assert int(settings("drover.service")["Service"]["TimeoutStopSec"][0]) >= 30 + 2


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for name in ("drover.service", "drover.socket", "drover-node.service"):
        text = (UNITS / name).read_text()
        # The programs where this build has them; the configuration need not exist.
        text = re.sub(r"(?<==)/\S*/(drover|drover-node|droverctl)(?= )",
                      lambda match: program(match.group(1)), text)
        (tmp_path / name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                           *(str(tmp_path / name) for name in
                             ("drover.service", "drover.socket", "drover-node.service"))],
                          capture_output=True, text=True, timeout=60 * SLOW)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "drover" in line]
    assert not ours and done.returncode == 0, done.stdout + done.stderr
    for name in ("drover.service", "drover-node.service"):
        rated = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--threshold=20",
                                str(tmp_path / name)], capture_output=True, text=True, timeout=60 * SLOW)
        assert rated.returncode == 0, rated.stdout[-400:] + rated.stderr
