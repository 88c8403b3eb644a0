"""drover -t: a bad configuration is one clear line with file, line and key."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import ROOT, SLOW, program
from load import chat_body, fetch_now

GOOD = """\
workers: 2
api:
  listen: 127.0.0.1:0
admin:
  listen: 127.0.0.1:0
runtime_dir: {dir}/run
nodes:
  - name: one
    address: 127.0.0.1:9101
"""


def drover_t(tmp_path, text):
    path = tmp_path / "drover.yaml"
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text)
    return subprocess.run([program("drover"), "-t", "-c", str(path)], capture_output=True,
                          text=True, timeout=20 * SLOW, errors="replace")


def test_a_good_config_passes(tmp_path):
    done = drover_t(tmp_path, GOOD.format(dir=tmp_path))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "run" / "scoreboard").exists(), "a check must not start anything"


def test_the_example_config_passes():
    done = subprocess.run([program("drover"), "-t", "-c", str(ROOT / "docs/drover.example.yaml")],
                          capture_output=True, text=True, timeout=20 * SLOW)
    assert done.returncode == 0, done.stderr


def test_the_smallest_config_of_the_documentation_serves(make_cluster):
    """With a node that other machines can reach."""
    cluster = make_cluster(token=False)
    node = cluster.run_node("desk", cluster.node_argv("desk", cluster.start_engine()[1], [
        "--listen", "0.0.0.0:0", "--token-file", str(cluster.token_path)]))
    text = re.search("^```yaml\n(.*?)^```$", (ROOT / "docs/configuration.md").read_text(), re.M | re.S)[1]
    assert text.count("192.168.1.20:9090") == 1
    cluster.write_config()
    with open(cluster.config_path, "a", encoding="utf-8") as config:
        config.write(text.replace("192.168.1.20:9090", node.address().replace("0.0.0.0", "127.0.0.1"))
                     .replace(": token\n", f": {cluster.token_path}\n"))
    cluster.launch()
    cluster.wait_up("desk", node)
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4)).status == 200


@pytest.mark.parametrize("change,line,key", [
    (("workers: 2", "wrokers: 2"), 1, "wrokers"),
    (("workers: 2", "workers: many"), 1, "workers"),
    (("workers: 2", "workers: 0"), 1, "workers"),
    (("workers: 2", "workers: 65"), 1, "workers"),
    (("workers: 2", "workers: -1"), 1, "workers"),
    (("workers: 2", "workers: [2]"), 1, "workers"),
    (("  listen: 127.0.0.1:0\nadmin", "  listen: nowhere\nadmin"), 3, "listen"),
    (("  listen: 127.0.0.1:0\nadmin", "  listen: 127.0.0.1:99999\nadmin"), 3, "listen"),
    (("  listen: 127.0.0.1:0\nadmin", "  lisen: 127.0.0.1:0\nadmin"), 3, "lisen"),
    (("name: one", "name: 'has space'"), 8, "name"),
    (("9101\n", "9101\n  - name: one\n    address: 127.0.0.1:9102\n"), 10, "one"),
    (("127.0.0.1:9101", "127.0.0.1"), 9, "address"),
    (("workers: 2", "workers: 2\nworkers: 3"), 2, "workers"),
    (("workers: 2", "policy: magic"), 1, "policy"),
], ids=lambda value: str(value)[:30].replace("\n", "|"))
def test_a_bad_value_is_named_with_file_line_and_key(tmp_path, change, line, key):
    text = GOOD.format(dir=tmp_path)
    assert change[0] in text
    done = drover_t(tmp_path, text.replace(*change, 1))
    assert done.returncode != 0
    message = done.stderr.strip()
    assert len(message.splitlines()) == 1, message
    assert f"drover.yaml:{line}" in message, message
    assert key in message


@pytest.mark.parametrize("text", [
    "workers: [\n", "\tworkers: 2\n", "workers: 2\n  api: x\n", "- a\n- b\n", "just text\n",
    "workers: &a 2\nshutdown_grace_ms: *b\n", b"\xff\xfe\0w", b"workers: \x01\n", "",
    "a: " + "[" * 10000, "x: &a [1]\ny: [*a, *a]\n" * 3,
], ids=["open list", "tab", "indent", "list", "scalar", "alias", "utf-16", "control", "empty",
        "deep", "anchors"])
def test_a_text_that_is_no_configuration_is_refused_without_a_crash(tmp_path, text):
    done = drover_t(tmp_path, text)
    assert done.returncode != 0 or text == ""
    assert done.returncode >= 0, done.stderr
    if done.returncode:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Sanitizer" not in done.stderr


def test_missing_files_are_named(tmp_path):
    done = subprocess.run([program("drover"), "-t", "-c", str(tmp_path / "none.yaml")],
                          capture_output=True, text=True, timeout=20 * SLOW)
    assert done.returncode != 0 and "none.yaml" in done.stderr
    done = drover_t(tmp_path, GOOD.format(dir=tmp_path) +
                    f"registry:\n  listen: 127.0.0.1:0\n  token_file: {tmp_path}/no-token\n")
    assert done.returncode != 0 and "no-token" in done.stderr
    done = drover_t(tmp_path, GOOD.format(dir=tmp_path).replace(
        "admin:", f"  tls: {{enabled: true, cert: {tmp_path}/no.crt, key: {tmp_path}/no.key}}\nadmin:"))
    assert done.returncode != 0 and "no.crt" in done.stderr


def test_a_start_with_a_bad_config_fails_with_the_same_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "drover.yaml"
    path.write_text(GOOD.format(dir=tmp_path).replace("workers: 2", "wrokers: 2"))
    done = subprocess.run([program("drover"), "-c", str(path)], capture_output=True, text=True,
                          timeout=20 * SLOW)
    assert done.returncode != 0
    assert "drover.yaml:1" in done.stderr and "wrokers" in done.stderr
    assert not (tmp_path / "run" / "scoreboard").exists()


def test_a_port_that_is_taken_is_named(tmp_path):
    import socket
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "drover.yaml"
        path.write_text(GOOD.format(dir=tmp_path).replace("127.0.0.1:0", f"127.0.0.1:{port}", 1))
        done = subprocess.run([program("drover"), "-c", str(path)], capture_output=True,
                              text=True, timeout=20 * SLOW)
        assert done.returncode != 0
        assert str(port) in done.stderr


@pytest.mark.parametrize("name", ["drover", "drover-node", "droverctl", "drover-sim"])
def test_every_program_says_its_version_and_how_it_was_built(name):
    said = subprocess.run([program(name), "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"^project\(drover VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
    commit = "commit [0-9a-f]{12}(-changed)?, " if (ROOT / ".git").exists() else ""
    assert re.fullmatch(rf"{name} {re.escape(number)} \({commit}\w+, (gcc|clang) [0-9.]+(, \w+Sanitizer)?\)\n",
                        said), said


@pytest.mark.parametrize("name", ["drover", "drover-node", "droverctl"])
def test_every_program_has_help_and_a_version(name):
    for flag in ("--help", "--version"):
        done = subprocess.run([program(name), flag], capture_output=True, text=True, timeout=20 * SLOW)
        assert done.returncode == 0, (name, flag, done.stderr)
        assert name in done.stdout
    done = subprocess.run([program(name), "--no-such-flag"], capture_output=True, text=True,
                          timeout=20 * SLOW)
    assert done.returncode != 0 and done.stderr.strip()


WITHOUT_A_FILE = """
drover -t
drover >out 2>&1 &
for i in $(seq 300); do droverctl status >status 2>&1 && break; sleep 0.1; done
mkdir -p .config/drover
echo "workers: 1" >.config/drover/drover.yaml
droverctl reload && droverctl upgrade && droverctl stop
drover -t
echo "runtime_dir: \\${WHERE}/here" >.config/drover/drover.yaml
droverctl status
rm .config/drover/drover.yaml
droverctl status
"""


def test_without_a_file_drover_says_what_it_decided_and_finds_one_that_appears():
    if os.geteuid() != 0:
        pytest.skip("the usual ports are free only in a network of its own")
    user = pwd.getpwnam("daemon")
    home = Path(tempfile.mkdtemp(prefix="drover-home-"))
    try:
        os.chown(home, user.pw_uid, user.pw_gid)
        binaries = ":".join({str(Path(program(name)).parent) for name in ("drover", "droverctl")})
        env = {"PATH": binaries + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "WHERE": "/nowhere",
               "XDG_RUNTIME_DIR": str(home)}
        script = f"cd {home}; ip link set lo up; exec setpriv --reuid daemon --clear-groups " \
                 f"sh -c '{WITHOUT_A_FILE}'"
        done = subprocess.run(["unshare", "--net", "sh", "-c", script], env=env, capture_output=True,
                              text=True, timeout=60 * SLOW)
        said = done.stdout + done.stderr
        file = home / ".config/drover/drover.yaml"
        first = (home / "out").read_text().splitlines()[:4]
        assert f"drover: no configuration file (looked for {file} and /etc/drover/drover.yaml): " \
               "the defaults are good" in said
        assert str(file) in first[0] and "default" in first[0], first
        assert "http://127.0.0.1:8080/" in first[1] and "http://127.0.0.1:8081/" in first[1], first
        assert f"{home}/drover " in first[2] and f"{home}/.local/state/drover" in first[2], first
        assert f"next: there are no nodes yet; write {file}" in first[3], first
        assert "nodes     none" in (home / "status").read_text()
        assert "reloaded: generation 2, 1 workers" in said and "drover has ended" in said, said
        assert f"drover: {file}: the configuration is good" in said
        assert "there is no /nowhere/here/scoreboard" in said
        assert f"there is no {home}/drover/scoreboard" in said or Path("/run/drover/scoreboard").exists()
    finally:
        shutil.rmtree(home)
