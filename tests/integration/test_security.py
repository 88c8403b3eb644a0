"""The rights of the processes of a running Drover, and their traces outside."""

import os
import pwd
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from harness import SLOW, Process, children_of, program, until
from load import chat_body, fetch_now
from test_upgrade import Upgradable, reaper  # noqa: F401


def status_of(pid):
    """/proc/PID/status as a dict of texts."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict((key, value.strip()) for key, value in (line.split(":", 1) for line in lines))


def serve_one(cluster):
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("mode,filtered", [(None, "2"), ("log", "2"), ("off", "0")])
def test_the_children_serve_under_a_filter_of_system_calls(make_cluster, mode, filtered):
    cluster = make_cluster(config={"seccomp": mode} if mode else {}).start()
    cluster.start_node("a")
    serve_one(cluster)
    children = children_of(cluster.master.pid)
    assert len(children) == 3
    assert {status_of(pid)["Seccomp"] for pid in children} == {filtered}


@pytest.mark.parametrize("mode,filtered", [(None, "2"), ("log", "2"), ("off", "0")])
def test_a_node_serves_under_a_filter_of_system_calls(make_cluster, mode, filtered):
    """Names are resolved under it: the engine's by libcurl, the coordinator's by ours."""
    cluster = make_cluster(workers=1).start()
    _, engine = cluster.start_engine()
    by_name = "localhost:%d" % cluster.address("registry")[1]
    node = cluster.start_node("a", engine=engine.replace("127.0.0.1", "localhost"), join=False, wait=False,
                              extra=["--seccomp", mode] if mode else [])
    node.process.signal(15)
    argv = [arg for arg in node.process.argv if arg != "--insecure-no-token"]
    node = cluster.run_node("a", argv + ["--coordinator", by_name, "--token-file", str(cluster.token_path)])
    cluster.wait_up("a", node)
    serve_one(cluster)
    assert status_of(node.pid)["Seccomp"] == filtered


def core_limits(pid):
    """[soft, hard] of the size of core files."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            return line.split()[-3:-1]
    raise AssertionError("no limit of core files")


@pytest.mark.parametrize("wanted", [False, True])
def test_core_files_are_off_unless_they_are_wanted(make_cluster, wanted):
    before = core_limits("self")
    cluster = make_cluster(config={"core_dumps": wanted}).start()
    node = cluster.start_node("a", extra=["--core-dumps"] if wanted else [])
    serve_one(cluster)
    for pid in [cluster.master.pid, node.pid, *children_of(cluster.master.pid)]:
        assert core_limits(pid) == (before if wanted else ["0", "0"])
    for pid in [node.pid, *children_of(cluster.master.pid)]:
        assert status_of(pid)["NoNewPrivs"] == "1"


# ---- another user for the children ----

def low_port():
    """A free port that only root may bind."""
    for port in range(1023, 512, -1):
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no free port below 1024")


@pytest.fixture
def plain_user():
    if os.geteuid() != 0:
        pytest.skip("only root can start as root")
    return pwd.getpwnam("nobody")


def cluster_as(make_cluster, user, **config):
    cluster = make_cluster(config={"user": user.pw_name, **config})
    for path in (cluster.dir, cluster.token_path):
        os.chown(path, user.pw_uid, user.pw_gid)
    cluster.runtime.chmod(0o755)
    return cluster


def run_as(user, *argv):
    return subprocess.run(argv, user=user.pw_uid, group=user.pw_gid, extra_groups=[],
                          capture_output=True, text=True, timeout=60 * SLOW)


def check_child(pid, user):
    status = status_of(pid)
    assert status["Uid"].split() == [str(user.pw_uid)] * 4
    assert status["Gid"].split() == [str(user.pw_gid)] * 4
    assert set(status["Groups"].split()) <= {str(user.pw_gid)}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert core_limits(pid) == ["0", "0"]


def test_started_as_root_the_children_are_a_user_without_rights(make_cluster, plain_user):
    port = low_port()
    cluster = cluster_as(make_cluster, plain_user, api={"listen": f"127.0.0.1:{port}"}).start()
    assert cluster.api == ("127.0.0.1", port)
    cluster.start_node("a")
    serve_one(cluster)
    assert "event=children_are_root" not in cluster.master.log()
    assert status_of(cluster.master.pid)["Uid"].split()[0] == "0"
    children = children_of(cluster.master.pid)
    assert len(children) == 3
    for pid in children:
        check_child(pid, plain_user)
    # Workers are killed before the master and health when memory runs out.
    scores = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in children}
    own = int(Path(f"/proc/{cluster.master.pid}/oom_score_adj").read_text())
    assert sorted(scores.values()) == [own, min(own + 100, 1000), min(own + 100, 1000)]
    # A child can only read these files and speak to the master.
    for name, mode in (("scoreboard", 0o640), ("control.sock", 0o660)):
        info = (cluster.runtime / name).stat()
        assert (info.st_uid, info.st_gid) == (0, plain_user.pw_gid)
        assert stat.S_IMODE(info.st_mode) == mode
    # A killed worker's successor is no more than it was; a reload and new logs work without root.
    victim = cluster.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(cluster.worker_pids()) == 2 and victim not in cluster.worker_pids(), 10)
    cluster.access_log_path.rename(cluster.dir / "access.log.1")
    cluster.master.signal(signal.SIGUSR1)
    until(cluster.access_log_path.exists, 10, "a new access log")
    assert cluster.access_log_path.stat().st_uid == plain_user.pw_uid
    assert "reloaded" in cluster.ctl("reload").stdout
    until(lambda: "proc=health" in cluster.master.log() and
          "event=reloaded nodes=" in cluster.master.log(), 10, "health has read its token again")
    serve_one(cluster)
    for pid in children_of(cluster.master.pid):
        check_child(pid, plain_user)


def test_the_user_of_the_children_may_use_droverctl_and_another_may_not(make_cluster, plain_user,
                                                                       tmp_path):
    cluster = cluster_as(make_cluster, plain_user).start()
    # Any user may run it from there.
    tool = cluster.dir / "droverctl"
    tool.write_bytes(Path(program("droverctl")).read_bytes())
    tool.chmod(0o755)
    cluster.dir.chmod(0o755)
    ctl = [str(tool), "--runtime-dir", str(cluster.runtime)]
    assert run_as(plain_user, *ctl, "status").returncode == 0
    done = run_as(plain_user, *ctl, "scale", "1")
    assert done.returncode == 0, done.stderr
    daemon = pwd.getpwnam("daemon")
    for command, says in (("status", "Permission denied"), ("stop", "not allowed")):
        done = run_as(daemon, *ctl, command)
        assert done.returncode == 1 and says in done.stderr, done
    tool.unlink()


@pytest.mark.parametrize("what", ["token", "certificate's key", "log"])
def test_a_path_that_the_user_cannot_read_or_write_is_said_at_the_start(make_cluster, plain_user, what):
    cluster = cluster_as(make_cluster, plain_user)
    secret = cluster.dir / "root-only"
    secret.touch(mode=0o600)
    if what == "token":
        os.chown(cluster.token_path, 0, 0)
        says = f"registry.token_file: cannot read '{cluster.token_path}': Permission denied"
    elif what == "log":
        cluster.settings["log"]["file"] = str(secret)
        says = f"log file {secret}: open: Permission denied"
    else:
        cluster.settings["api"]["tls"] = {"cert": str(cluster.config_path), "key": str(secret)}
        says = f"api.tls.key: cannot read '{secret}': Permission denied"
    cluster.write_config()
    done = Process([program("drover"), "-c", str(cluster.config_path)], cluster.dir / "start.log")
    cluster.others.append(done)
    assert done.wait(10) == 1
    cluster.others.remove(done)
    assert says in done.log()


@pytest.mark.parametrize("settings,says", [
    ({"user": "no-such-user"}, "user: there is no user 'no-such-user'"),
    ({"user": "daemon", "group": "no-such-group"}, "group: there is no group 'no-such-group'"),
    ({"group": "daemon"}, "group: a group needs its 'user' too"),
])
def test_a_user_that_cannot_be_is_refused(make_cluster, settings, says):
    cluster = make_cluster(config=settings)
    cluster.write_config()
    done = subprocess.run([program("drover"), "-t", "-c", str(cluster.config_path)],
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 1 and says in done.stderr


@pytest.mark.usefixtures("reaper")
def test_another_user_for_the_children_outlives_an_upgrade(make_cluster, plain_user):
    cluster = cluster_as(make_cluster, plain_user)
    up = Upgradable(cluster).launch()
    cluster.start_node("a")
    up.replace()
    cluster.ctl("upgrade", timeout=60 * SLOW)
    up.follow()
    serve_one(cluster)
    for pid in cluster.worker_pids():
        check_child(pid, plain_user)
    assert [stat.S_IMODE((cluster.runtime / name).stat().st_mode)
            for name in ("scoreboard", "control.sock")] == [0o640, 0o660]
    assert cluster.node_state("a") == "UP"
