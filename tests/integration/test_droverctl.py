"""droverctl shows the truth, also when the rest of the system is in a bad way."""

import json
import os
import pty
import random
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import MODEL, SLOW, program, until
from load import Load, chat_body, fetch_now

VIEWS = ("status", "nodes", "workers", "requests", "models")


def droverctl(runtime, *args):
    return subprocess.run([program("droverctl"), "--runtime-dir", str(runtime), *args],
                          capture_output=True, text=True, timeout=20 * SLOW, errors="replace")


def test_every_view_works_as_a_table_within_80_columns_and_as_json(cluster):
    with Load(cluster.api, concurrency=8, tokens=40, prompts=1) as load:
        until(lambda: load.done >= 8, 20)
        for args in [(view,) for view in VIEWS] + [("node", "a"), ("histogram", "a")]:
            text = cluster.ctl(*args).stdout
            assert text.strip(), args
            assert "\x1b" not in text, "no colour when it is not a terminal"
            for line in text.splitlines():
                assert len(line) <= 80, (args, len(line), line)
            json.loads(cluster.ctl(*args, "--json").stdout)
    assert not load.failures


def test_the_views_name_nodes_workers_models_and_open_requests(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("tower", "slots=4,rate=20")
    assert MODEL in cluster.ctl("models").stdout
    said = cluster.ctl("node", "tower").stdout
    assert re.search(r"engine +simulated [0-9.]+, agent ", said), said
    assert "tower" in cluster.ctl("nodes").stdout
    assert "UP" in cluster.ctl("nodes").stdout
    for pid in cluster.worker_pids():
        assert str(pid) in cluster.ctl("workers").stdout
    with Load(cluster.api, concurrency=2, tokens=60, prompts=1):
        rows = until(lambda: [r for r in cluster.open_requests() if r["phase"] == "decode"], 5)
        assert rows[0]["node"] == "tower"
        assert rows[0]["model"] == MODEL
        assert rows[0]["id"] in cluster.ctl("requests").stdout or cluster.open_requests()


def test_models_have_the_aliases_that_clients_may_use(make_cluster):
    cluster = make_cluster(workers=1, config={"aliases": [
        {"name": "gpt", "model": MODEL}, {"name": "for-nothing", "model": "nothing"}]}).start()
    cluster.start_node("tower")

    def named():
        return {row["id"]: row.get("alias_of") for row in cluster.ctl_rows("models")}
    listed = fetch_now(cluster.api, "GET", "/v1/models").json()["data"]
    assert set(named()) == {model["id"] for model in listed}
    assert named()["gpt"] == MODEL and named()[MODEL] is None
    assert re.search(rf"^gpt +1/1 .*{MODEL}.* tower$", cluster.ctl("models").stdout, re.M)
    cluster.write_config(aliases=[{"name": "claude", "model": MODEL}])
    cluster.ctl("reload")
    assert named()["claude"] == MODEL and "gpt" not in named()


class Terminal:
    """A program on a terminal of its own: what it drew, and keys for it."""

    def __init__(self, *argv):
        self.drawn = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", LC_ALL="C.UTF-8")
            os.execv(argv[0], argv)
        os.set_blocking(self.fd, False)

    def shows(self, text):
        """Has this been drawn since the last key?"""
        try:
            self.drawn += os.read(self.fd, 65536)
        except OSError:
            pass
        return text.encode() in self.drawn

    def press(self, key):
        self.drawn = b""
        os.write(self.fd, key.encode())

    def ended(self):
        self.shows("")
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return pid != 0 and [os.waitstatus_to_exitcode(status)]


def test_top_shows_the_views_live_and_leaves_the_terminal_as_it_was(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("tower")
    top = Terminal(program("droverctl"), "--runtime-dir", str(cluster.runtime), "top")
    until(lambda: top.shows("tower") and top.shows("load"), 10, "the nodes are shown")
    cluster.start_node("desk")
    until(lambda: top.shows("desk"), 10, "a node that joins is shown by itself")
    for key, text in (("r", "No request is open"), ("m", MODEL), ("w", "BEAT"), ("n", "STATE")):
        top.press(key)
        until(lambda text=text: top.shows(text), 10, f"{key} shows {text}")
    cluster.stop_master()
    until(lambda: top.shows("drover is not running"), 10, "it outlives the master")
    top.press("q")
    assert until(top.ended, 10) == [0]
    assert b"\x1b[?1049l" in top.drawn, "the alternate screen is left"
    done = cluster.ctl("top", check=False)
    assert done.returncode == 1 and "terminal" in done.stderr


def test_an_unknown_node_or_command_is_an_error_in_one_line(cluster):
    for args in (("node", "nobody"), ("histogram", "nobody")):
        done = cluster.ctl(*args, check=False)
        assert done.returncode != 0
        assert "nobody" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = cluster.ctl("frobnicate", check=False)
    assert done.returncode != 0 and "frobnicate" in done.stderr
    for wrong in (("scale",), ("scale", "x"), ("scale", "0"), ("drain",), ("nodes", "--frob")):
        done = cluster.ctl(*wrong, check=False)
        assert done.returncode != 0 and done.stderr.strip(), wrong


def test_it_works_with_every_worker_stopped_and_says_so(cluster):
    workers = cluster.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        def says_so():
            text = cluster.ctl("workers").stdout + cluster.ctl("status").stdout
            return "stall" in text.lower() or "not respond" in text.lower() \
                or "stuck" in text.lower() or "silent" in text.lower()
        until(says_so, 10, "droverctl says that the workers do not turn")
        for view in VIEWS:
            json.loads(cluster.ctl(view, "--json").stdout)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
    until(lambda: fetch_now(cluster.api, "POST", "/v1/chat/completions",
                            chat_body("hi", 2, stream=False)).status == 200, 10)


def test_a_master_that_is_not_running_is_a_clear_error(tmp_path):
    for view in VIEWS + ("reload", "stop"):
        done = droverctl(tmp_path, view)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "running" in done.stderr or str(tmp_path) in done.stderr
    if os.getuid() != 0 or not os.path.exists("/run/drover"):
        for args in (["status"], ["reload"]):
            done = subprocess.run([program("droverctl"), *args], capture_output=True, text=True,
                                  timeout=20 * SLOW, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
            assert done.returncode == 3 and "--runtime-dir" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def scoreboard(request):
    """The bytes of a real scoreboard, a small one."""
    from harness import Cluster
    cluster = Cluster("scoreboard", config={
        "limits": {"max_nodes": 16, "max_connections": 64}, "prefix": {"entries": 1024}}).start()
    cluster.start_node("a")
    data = (cluster.runtime / "scoreboard").read_bytes()
    cluster.finish(request.session.testsfailed > 0)
    return data


def looks_at(tmp_path, data):
    """Shows these bytes with droverctl: it must end by itself, and not by a signal."""
    (tmp_path / "scoreboard").write_bytes(data)
    with ThreadPoolExecutor(4) as pool:
        out = list(pool.map(lambda args: droverctl(tmp_path, *args), [
            (view, *more) for view in VIEWS for more in ((), ("--json",))] + [
                ("node", "a"), ("histogram", "a")]))
    for done in out:
        assert done.returncode >= 0, (done.args, done.returncode, done.stderr[-2000:])
        assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    return out


@pytest.mark.parametrize("make", [
    lambda data: b"", lambda data: data[:1], lambda data: data[:16], lambda data: data[:63],
    lambda data: data[:64], lambda data: data[:4096], lambda data: data[:len(data) // 2],
    lambda data: data[:-1]], ids=["0", "1", "16", "63", "64", "4096", "half", "one short"])
def test_a_truncated_scoreboard_is_a_clear_error(tmp_path, scoreboard, make):
    for done in looks_at(tmp_path, make(scoreboard)):
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_foreign_file_is_a_clear_error(tmp_path, scoreboard):
    for data in (b"#!/bin/sh\n" * 5000, b"\0" * 100000, b"\x7fELF" + b"\2" * 70000):
        for done in looks_at(tmp_path, data):
            assert done.returncode != 0 and done.stderr.strip()


def test_an_older_layout_is_refused_and_both_versions_are_named(tmp_path, scoreboard):
    # The version is the little-endian word after the magic; find it by what the error says.
    hits = 0
    for at in range(4, 40, 4):
        data = bytearray(scoreboard)
        word = int.from_bytes(data[at:at + 4], "little")
        data[at:at + 4] = (9999).to_bytes(4, "little")
        (tmp_path / "scoreboard").write_bytes(data)
        done = droverctl(tmp_path, "status")
        if "version" in done.stderr and "9999" in done.stderr:
            hits += 1
            assert done.returncode != 0
            assert str(word) in done.stderr
    assert hits == 1


def test_random_bytes_never_crash_it(tmp_path, scoreboard):
    choose = random.Random(11)
    looks_at(tmp_path, choose.randbytes(len(scoreboard)))
    for _ in range(4):
        # A valid header with rubbish after it: every index and length in there is a lie.
        keep = choose.choice((64, 128, 256, 4096))
        looks_at(tmp_path, scoreboard[:keep] + choose.randbytes(len(scoreboard) - keep))
    for _ in range(4):
        data = bytearray(scoreboard)
        for _ in range(200):
            at = choose.randrange(min(len(data), 8192))
            data[at] = choose.randrange(256)
        looks_at(tmp_path, bytes(data))


def test_stop_ends_the_master(cluster):
    cluster.ctl("stop")
    assert cluster.master.wait(15) == 0
    assert not (cluster.runtime / "control.sock").exists()


def test_reload_says_what_was_done(cluster):
    before = set(cluster.worker_pids())
    done = cluster.ctl("reload")
    assert done.stdout.strip()
    until(lambda: (pids := set(cluster.worker_pids())) and len(pids) == 2 and not pids & before,
          15)


def test_garbage_on_the_control_socket_hurts_no_other_caller(cluster):
    import socket
    choose = random.Random(5)
    for data in (b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\5hello", b"GET / HTTP/1.1\r\n\r\n",
                 b"\0\0\0\1\x81", choose.randbytes(5000)):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(str(cluster.runtime / "control.sock"))
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            try:
                while s.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    # One that connects and says nothing must not keep others out.
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(cluster.runtime / "control.sock"))
        cluster.ctl("scale", "3")
    until(lambda: len(cluster.worker_pids()) == 3, 10)
    assert cluster.master.running()


def test_the_runtime_directory_is_private(cluster):
    for name in ("scoreboard", "control.sock"):
        assert (cluster.runtime / name).stat().st_mode & 0o077 == 0, name
