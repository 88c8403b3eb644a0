"""The control socket and the runtime directory against those who should not use them."""

import os
import pwd
import socket
import stat
import struct
import subprocess

import pytest

from harness import SLOW, program, until


def control(cluster):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(str(cluster.runtime / "control.sock"))  # waits for a place in the backlog
    s.settimeout(30)
    return s


def framed(body):
    return struct.pack(">I", len(body)) + body


# A map of as many pairs as a header can promise; arrays in arrays; a text longer than its frame.
HOSTILE = {
    "nothing": b"",
    "half a length": b"\0\0",
    "a length of 4 GiB": b"\xff\xff\xff\xff" + b"x" * 1000,
    "an empty message": framed(b""),
    "noise": framed(bytes(range(256)) * 8),
    "a promise of 4 G pairs": framed(b"\xdf\xff\xff\xff\xff"),
    "deep nesting": framed(b"\x81\xa1v" + b"\x91" * 60000),
    "a text beyond the frame": framed(b"\x82\xa1v\x01\xa2op\xdb\x7f\xff\xff\xff"),
    "an unknown wish": framed(b"\x82\xa1v\x01\xa2op\xa4halt"),
    "two wishes at once": framed(b"\x82\xa1v\x01\xa2op\xa6reload") * 2,
}


def test_nonsense_on_the_control_socket_is_answered_or_dropped(make_cluster):
    cluster = make_cluster().start()
    workers = cluster.worker_pids()
    for what, data in HOSTILE.items():
        with control(cluster) as s:
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                answer = s.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
        assert b"\xa2ok\xc3" not in answer or "wishes" in what, (what, answer)
    assert cluster.ctl("scale", "2").returncode == 0
    assert cluster.master.running()
    until(lambda: len(cluster.worker_pids()) == len(workers), 10)


def test_callers_who_say_nothing_do_not_keep_the_operator_out(make_cluster):
    cluster = make_cluster().start()
    silent = [control(cluster) for _ in range(20)]  # there are 16 places
    assert "workers" in cluster.ctl("scale", "2").stdout
    for s in silent:
        s.close()


@pytest.fixture
def daemon():
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    return pwd.getpwnam("daemon")


ASK_AS = """
import socket, struct, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
body = b"\\x82\\xa1v\\x01\\xa2op\\xa4stop"
try:
    s.sendall(struct.pack(">I", len(body)) + body)
except BrokenPipeError:
    pass
sys.stdout.buffer.write(s.recv(1000))
"""


def test_the_kernel_is_asked_who_calls_whatever_the_mode_of_the_socket(make_cluster, daemon):
    cluster = make_cluster().start()
    path = cluster.runtime / "control.sock"
    cluster.dir.chmod(0o755)
    cluster.runtime.chmod(0o755)
    path.chmod(0o666)
    done = subprocess.run(["/usr/bin/python3", "-c", ASK_AS, str(path)], user=daemon.pw_uid,
                          group=daemon.pw_gid, extra_groups=[], capture_output=True, timeout=60 * SLOW,
                          check=False)
    assert b"only root and the user that runs drover" in done.stdout, done
    assert cluster.master.running() and len(cluster.worker_pids()) == 2
    assert "event=ending" not in cluster.master.log()


@pytest.mark.parametrize("spoil,says", [
    (lambda path, user: os.chown(path, user.pw_uid, -1), "belongs to another user"),
    (lambda path, user: path.chmod(stat.S_IRWXU | stat.S_IRWXO), "everyone can write there"),
    (lambda path, user: (path.rmdir(), path.symlink_to("/tmp")), "not a directory"),
    (lambda path, user: (path.rmdir(), path.write_text("")), "not a directory"),
], ids=["another's", "open", "a link", "a file"])
def test_a_runtime_directory_that_others_could_have_prepared_is_refused(make_cluster, daemon,
                                                                       spoil, says):
    cluster = make_cluster()
    spoil(cluster.runtime, daemon)
    cluster.write_config()
    done = subprocess.run([program("drover"), "-c", str(cluster.config_path)],
                          capture_output=True, text=True, timeout=60 * SLOW, check=False)
    assert done.returncode == 1
    assert f"runtime_dir {cluster.runtime}: {says}" in done.stderr
