"""Drover's exposure to the network, to other users, and in its files and logs."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT, Process, free_port, program, session_members, until
from load import chat_body, fetch_now

# ---- ports ----

# A network of its own, with nothing in it but a loopback interface that is up.
LONE_HOST = """
import fcntl, socket, struct, sys, time
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
print("up", flush=True)
sys.stdin.read()
"""


def hex_address(text):
    """'0100007F:1F90' as ('127.0.0.1', 8080); IPv6 in hexadecimal."""
    host, port = text.split(":")
    if len(host) == 8:
        host = ".".join(str(byte) for byte in reversed(bytes.fromhex(host)))
    return host, int(port, 16)


def open_ports(pid):
    """All that is bound in the network of process `pid`: {(protocol, address, port)}."""
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if protocol.startswith("tcp") and fields[3] != "0A":  # LISTEN
                continue
            found.add((protocol, *hex_address(fields[1])))
    return found


@pytest.fixture
def lone_host():
    if os.geteuid() != 0:
        pytest.skip("only root can make a network")
    with subprocess.Popen(["unshare", "--net", sys.executable, "-c", LONE_HOST],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout.readline() == "up\n"
        yield host.pid
        host.stdin.close()


def readme_config():
    """The configuration of README's two workstations."""
    return re.search(r"^cat > drover\.yaml <<'YAML'\n(.*?)^YAML$", (ROOT / "README.md").read_text(),
                     re.M | re.S).group(1)


def test_a_port_scan_of_the_readmes_installation_shows_the_api_the_registry_and_the_node(
        make_cluster, lone_host):
    cluster = make_cluster()
    (cluster.dir / "token").chmod(0o600)
    cluster.config_path.write_text(
        readme_config().replace("token_file: token", f"token_file: {cluster.token_path}")
        + f"runtime_dir: {cluster.runtime}\n")
    inside = ["nsenter", f"--net=/proc/{lone_host}/ns/net"]
    cluster.others.append(Process([*inside, program("drover"), "-c", str(cluster.config_path)],
                                  cluster.dir / "drover.log"))
    until(lambda: (cluster.runtime / "addresses").exists() and cluster.worker_pids(), 15)
    coordinator = {("tcp", "0.0.0.0", 8080), ("tcp", "127.0.0.1", 8081),
                   ("tcp", "0.0.0.0", 8082)}
    assert open_ports(lone_host) == coordinator
    engine = Process([*inside, program("drover-sim"), "--listen", "127.0.0.1:8091"], cluster.dir / "sim.log")
    cluster.engines.append(engine)
    coordinator |= {("tcp", "127.0.0.1", 8091)}
    node = Process([*inside, program("drover-node"), "--engine", "http://127.0.0.1:8091",
                    "--coordinator", "127.0.0.1:8082", "--token-file", str(cluster.token_path), "--name", "a"],
                   cluster.dir / "node.log")
    cluster.others.append(node)
    cluster.wait_up("a")
    assert open_ports(lone_host) == coordinator | {("tcp", "0.0.0.0", 9090)}
    # Without the token its port is of no use.
    assert "event=listening" in node.log()


def test_without_a_configuration_nothing_is_open_to_other_machines(make_cluster, lone_host):
    cluster = make_cluster(token=False)
    cluster.config_path.write_text(f"runtime_dir: {cluster.runtime}\n")
    cluster.others.append(Process(
        ["nsenter", f"--net=/proc/{lone_host}/ns/net", program("drover"), "-c",
         str(cluster.config_path)], cluster.dir / "drover.log"))
    until(lambda: (cluster.runtime / "addresses").exists() and cluster.worker_pids(), 15)
    assert open_ports(lone_host) == {("tcp", "127.0.0.1", 8080), ("tcp", "127.0.0.1", 8081)}


# ---- files ----

def modes(folder):
    return {entry.name: oct(stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode))
            for entry in os.scandir(folder)}


def test_files_are_for_their_owner_whatever_the_umask_was(make_cluster):
    cluster = make_cluster(config={"log": {"file": "LOG"}})
    cluster.settings["log"]["file"] = str(cluster.dir / "main.log")
    cluster.settings["runtime_dir"] = str(cluster.runtime / "made")
    cluster.runtime = cluster.runtime / "made"
    cluster.settings["admin"]["listen"] = f"unix:{cluster.runtime}/admin.sock"
    cluster.settings["api"]["listen"] = f"127.0.0.1:{free_port()}"
    cluster.write_config()
    before = os.umask(0)
    try:
        cluster.others.append(Process([program("drover"), "-c", str(cluster.config_path)],
                                      cluster.dir / "drover.log"))
    finally:
        os.umask(before)
    until(lambda: (cluster.runtime / "addresses").exists() and cluster.worker_pids(), 15)
    cluster.start_node("a")
    assert fetch_now(("127.0.0.1", int(cluster.settings["api"]["listen"].rsplit(":")[1])), "POST",
                     "/v1/chat/completions", chat_body("hi", 4)).status == 200
    assert stat.S_IMODE(cluster.runtime.stat().st_mode) == (0o755 if os.geteuid() == 0 else 0o700)
    assert modes(cluster.runtime) == {
        "drover.lock": "0o644",     # a pid
        "addresses": "0o644",       # what `ss -l` shows every user
        "scoreboard": "0o600", "control.sock": "0o600",
        "admin.sock": "0o755",      # to connect takes the right to write
    }
    assert {name: mode for name, mode in modes(cluster.dir).items() if name.endswith(".log")
            and not name.startswith(("drover", "node", "sim"))} == {"main.log": "0o640",
                                                             "access.log": "0o640"}


# ---- secrets ----

def run_busy(cluster, key, wrong):
    """Requests of every surface and outcome, with good, wrong and no keys; the answers' texts."""
    texts = []
    for shown in (key, wrong, None):
        for headers in ({"Authorization": f"Bearer {shown}"}, {"x-api-key": str(shown)}):
            for path, body in (("/v1/chat/completions", chat_body("hi", 4)),
                               ("/v1/chat/completions", chat_body("hi", 4, model="none")),
                               ("/v1/messages", {"model": 7}), ("/api/chat", "{"),
                               ("/v1/nothing", {})):
                answer = fetch_now(cluster.api, "POST", path,
                                   body if isinstance(body, dict) else body.encode(),
                                   headers if shown else {})
                texts.append(repr((answer.headers, answer.body)))
    return texts


def test_secrets_are_nowhere_but_in_their_files(make_cluster):
    cluster = make_cluster(config={"log": {"level": "debug"}})
    made = subprocess.run([program("droverctl"), "key", "new", "alice"], check=True,
                          capture_output=True, text=True)
    keys = cluster.dir / "keys"
    keys.touch(mode=0o600)
    keys.write_text(made.stdout)
    key, wrong = made.stderr.strip(), "sk-drover-" + "w" * 43
    token = cluster.token_path.read_text().strip()
    digest = made.stdout.split(":")[1].strip()
    cluster.settings["api"]["keys_file"] = str(keys)
    cluster.start()
    cluster.start_node("a")
    # A node with another token is refused, a reload with a broken file too.
    other = cluster.dir / "other-token"
    other.touch(mode=0o600)
    other.write_text("another-token-0123456789abcdef\n")
    node = Process(cluster.node_argv("b", cluster.start_engine()[1]) +
                   ["--coordinator", "%s:%d" % cluster.address("registry"),
                    "--token-file", str(other)], cluster.dir / "node-b.log")
    cluster.others.append(node)
    until(lambda: "event=detached" in node.log() or not node.running(), 15, "it is refused")
    texts = run_busy(cluster, key, wrong)
    keys.write_text(f"alice {key}\n")
    done = cluster.ctl("reload", check=False)
    assert done.returncode == 1
    texts.append(done.stderr)
    keys.write_text(made.stdout)
    for path in ("/metrics", "/nodes"):
        texts.append(fetch_now(cluster.address("admin"), "GET", path).body.decode())
    for view in ("status", "nodes", "workers", "requests", "models"):
        texts.append(cluster.ctl(view, "--json").stdout)
    for process in cluster.processes():
        for pid in session_members(process.pid):
            texts.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"))
            try:
                texts.append(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace"))
            except PermissionError:  # not even for the same user
                pass
    texts.append(cluster.access_log_path.read_text())
    texts += [process.log() for process in cluster.processes()]
    texts += [path.read_bytes().decode("latin-1") for path in cluster.runtime.iterdir()
              if path.is_file()]
    assert any("alice" in text for text in texts), "the name is what is written down"
    for secret in (key, wrong, token, "another-token-0123456789abcdef", digest):
        for text in texts:
            at = text.find(secret)
            assert at == -1, text[max(0, at - 200):at + 100]
