"""A reload changes everything that can change, cuts nothing, and refuses the rest by name."""

import os
import re
import signal
import ssl
import subprocess
import time

import pytest

from harness import scalar, until
from load import Load, chat_body, fetch_now

LOAD = dict(concurrency=16, tokens=24)


@pytest.fixture
def loaded(paced):
    """Reloads happen while streams run; none may fail."""
    with Load(paced.api, **LOAD) as load:
        load.more(5)
        yield paced
        load.more(10)
    assert not load.failures, load.failures[:3]


def test_static_nodes_come_and_go(loaded):
    guest = loaded.start_node("guest", "slots=32,rate=100", join=False, wait=False)
    loaded.write_config(nodes=[{"name": "guest", "address": guest.address()}])
    loaded.ctl("reload")
    loaded.wait_up("guest")
    until(lambda: loaded.node_row("guest")["inflight"] > 0, 10, "it has work")
    loaded.write_config(nodes=[{"name": "guest", "address": guest.address(), "slots": 7}])
    loaded.ctl("reload")
    until(lambda: loaded.node_row("guest")["slots"] == 7, 10, "its slots are overridden")
    loaded.write_config(nodes=[])
    loaded.ctl("reload")
    until(lambda: loaded.node_state("guest") in ("GONE", None), 30, "it has drained and gone")


def test_a_drained_node_that_is_taken_out_and_put_back_is_still_drained(loaded):
    # Its streams take 4 s: it is still busy when it is taken out, and done within the grace.
    guest = loaded.start_node("guest", "slots=32,rate=6", join=False, wait=False)
    entry = {"name": "guest", "address": guest.address()}
    loaded.write_config(nodes=[entry])
    loaded.ctl("reload")
    loaded.wait_up("guest")
    until(lambda: loaded.node_row("guest")["inflight"] > 0, 10, "it has work")
    loaded.ctl("drain", "guest")

    def why():
        row = loaded.node_row("guest")
        return row["state"], row["reason"]
    assert why() == ("DRAINING", "operator")
    loaded.write_config(nodes=[])
    loaded.ctl("reload")
    until(lambda: why() == ("DRAINING", "removed"), 10, "it goes, and is not gone")
    loaded.write_config(nodes=[entry])
    loaded.ctl("reload")
    until(lambda: why()[1] != "removed", 10, "it is back")
    assert why() == ("DRAINING", "operator")
    loaded.write_config(nodes=[{**entry, "address": entry["address"].replace("127.0.0.1",
                                                                             "127.0.0.2")}])
    loaded.ctl("reload")
    until(lambda: loaded.node_row("guest")["address"].startswith("127.0.0.2"), 10, "it moved")
    assert why() == ("DRAINING", "operator")
    loaded.write_config(nodes=[entry])
    loaded.ctl("reload")
    loaded.ctl("undrain", "guest")
    loaded.wait_up("guest")


def test_aliases_policies_and_limits(loaded):
    loaded.write_config(policy="round_robin", limits={"max_body_bytes": 2048},
                        aliases=[{"name": "other", "model": "sim-small"}])
    loaded.ctl("reload")

    def ask(text, model="other"):
        return fetch_now(loaded.api, "POST", "/v1/chat/completions",
                         chat_body(text, 2, stream=False, model=model))
    answer = ask("hello")
    assert answer.status == 200, answer.body
    assert answer.headers["x-drover-policy"] == "round_robin"
    assert ask("x" * 4000).status == 413
    loaded.wait_models_known()
    loaded.write_config(aliases=[], limits={"max_body_bytes": 65536})
    loaded.ctl("reload")
    assert ask("hello").status == 404
    assert ask("x" * 4000, "sim-small").status == 200


def test_workers_and_log_level_and_log_files(loaded):
    log = loaded.dir / "drover-own.log"
    access = loaded.dir / "access-2.log"
    loaded.write_config(workers=3, log={"level": "debug", "file": str(log),
                                        "access": str(access)})
    done = loaded.ctl("reload")
    assert "3 workers" in done.stdout
    until(lambda: len(loaded.worker_pids()) == 3, 10, "the old workers have been told to end")
    until(lambda: "event=reloaded" in log.read_text() and "proc=health" in log.read_text(), 10,
          "master and health write to the new file")
    until(access.exists, 10)
    until(lambda: access.read_text().count("\n") > 3, 30, "and workers")
    loaded.write_config(workers=1)
    loaded.ctl("reload")
    until(lambda: len(loaded.worker_rows_all()) == 1, 30, "one worker is left")


def test_the_join_token_is_replaced_in_two_steps(loaded):
    old = loaded.token_path.read_text()
    new = "another-integration-token-0123456789abcdef\n"
    loaded.token_path.write_text(new + old)
    loaded.ctl("reload")
    for _ in range(4):  # by nodes that know the old one alone
        answer = fetch_now(loaded.api, "POST", "/v1/chat/completions",
                           chat_body("hello", 2, stream=False))
        assert answer.status == 200, answer.body
    later = loaded.dir / "later-token"
    later.write_text(new)
    later.chmod(0o600)
    first, loaded.token_path = loaded.token_path, later
    loaded.start_node("c", "slots=32,rate=100")  # with the new token alone
    loaded.token_path = first
    loaded.start_node("d", "slots=32,rate=100")  # its file has both
    for name in ("a", "b"):
        assert loaded.node_state(name) == "UP"


def certificate(folder, name, serial):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{folder}/{name}.key",
                    "-out", f"{folder}/{name}.crt", "-days", "2", "-set_serial", str(serial),
                    "-subj", "/CN=localhost"], check=True, capture_output=True)


def serial_of(address):
    pem = ssl.get_server_certificate(address)
    text = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=pem, check=True,
                          capture_output=True, text=True).stdout
    return int(text.strip().split("=")[1], 16)


def test_certificates_are_renewed_on_every_listener(make_cluster):
    cluster = make_cluster()
    certificate(cluster.dir, "server", 41)
    tls = {"cert": f"{cluster.dir}/server.crt", "key": f"{cluster.dir}/server.key"}
    cluster.settings["api"]["tls"] = tls
    cluster.settings["registry"]["tls"] = tls
    cluster.start()
    pids = until(lambda: len(found := cluster.worker_pids()) == 2 and found, 10, "both workers")
    for which in ("api", "registry"):
        assert serial_of(cluster.address(which)) == 41
    # A key that does not fit is refused before anything changes.
    whole = (cluster.dir / "server.key").read_text()
    certificate(cluster.dir, "server", 42)
    fresh = (cluster.dir / "server.key").read_text()
    (cluster.dir / "server.key").write_text(whole)
    refused = cluster.ctl("reload", check=False)
    assert refused.returncode == 1
    assert str(cluster.config_path) in refused.stderr and "api.tls.key" in refused.stderr
    assert cluster.worker_pids() == pids
    assert serial_of(cluster.address("api")) == 41
    (cluster.dir / "server.key").write_text(fresh)
    cluster.ctl("reload")
    for which in ("api", "registry"):
        until(lambda which=which: serial_of(cluster.address(which)) == 42, 10, which)


def leaves(change):
    for key, value in change.items():
        yield from leaves(value) if isinstance(value, dict) else [(key, value)]


@pytest.mark.parametrize("name,change", [
    ("api.listen", {"api": {"listen": "127.0.0.1:1"}}),
    ("admin.listen", {"admin": {"listen": "127.0.0.1:1"}}),
    ("registry.listen", {"registry": {"listen": "127.0.0.1:1"}}),
    ("runtime_dir", {"runtime_dir": "/tmp/elsewhere"}),
    ("limits.max_nodes", {"limits": {"max_nodes": 17}}),
    ("limits.max_connections", {"limits": {"max_connections": 17}}),
    ("prefix.entries", {"prefix": {"entries": 2048}}),
    ("core_dumps", {"core_dumps": True}),
])
def test_a_setting_that_cannot_change_is_refused_by_name(make_cluster, name, change):
    cluster = make_cluster(workers=1).start()
    cluster.write_config(**change)
    refused = cluster.ctl("reload", check=False)
    assert refused.returncode == 1
    (leaf, value), = leaves(change)
    text = f"{leaf}: {scalar(value)}"
    line, found = next(item for item in enumerate(cluster.config_path.read_text().splitlines(), 1)
                       if item[1].strip() == text)
    place = f"{cluster.config_path}:{line}:{found.index(': ') + 3}"
    assert f"{place}: {name}: cannot change by a reload" in refused.stderr, refused.stderr
    assert f"{place}: {name}: cannot change by a reload" in cluster.master.log()
    assert fetch_now(cluster.api, "GET", "/livez").status == 200


def test_a_broken_configuration_changes_nothing_and_is_named(loaded):
    path = loaded.config_path
    good = path.read_text()
    lines = good.count("\n")
    pids = loaded.worker_pids()
    cases = [
        (good + "queue: [unclosed\n", rf"{path}:{lines + 2}:1: "),
        (good + "nonsense: true\n", rf"{path}:{lines + 1}:\d+: nonsense"),
        (good + "workers: 2\n", rf"{path}:{lines + 1}"),  # given twice
        (good.replace("workers: 2", "workers: many"), rf"{path}:1:\d+: workers"),
        ("", rf"{path}:1:1: the file is empty"),
        ("#" * (10 << 20), rf"{path}:1:1: larger than 1 MiB"),
        (good + "policy: \0\n", rf"{path}:{lines + 1}"),
        (None, rf"{path}.*No such file"),
    ]
    for number, (text, words) in enumerate(cases):
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        refused = loaded.ctl("reload", check=False)
        assert refused.returncode == 1, f"case {number}: {refused.stdout}"
        assert re.search(words, refused.stderr), f"case {number}: {refused.stderr}"
    assert loaded.worker_pids() == pids
    path.write_text(good)
    loaded.ctl("reload")
    until(lambda: not set(loaded.worker_pids()) & set(pids), 10, "all workers are new ones")


@pytest.mark.parametrize("attempt", range(3))
def test_a_health_process_that_dies_in_a_reload_keeps_the_configuration_in_force(make_cluster,
                                                                                 attempt):
    cluster = make_cluster(workers=1)
    cluster.start()
    kept = cluster.start_node("kept", join=False, wait=False)
    cluster.write_config(nodes=[{"name": "kept", "address": kept.address()}])
    cluster.ctl("reload")
    cluster.wait_up("kept")
    worker, health = cluster.worker_pids()[0], cluster.health_pid()
    other_log = cluster.dir / "other.log"
    # Only a worker that starts notices that the access log cannot be opened.
    cluster.write_config(nodes=[{"name": "strange", "address": kept.address()}],
                         log={"file": str(other_log), "access": f"{cluster.dir}/none/access.log"})
    cluster.master.signal(signal.SIGHUP)
    deadline = time.monotonic() + 30
    while not other_log.exists() and time.monotonic() < deadline:
        pass  # no sleep: the reload is decided within milliseconds
    os.kill(health, signal.SIGKILL)
    logs = (lambda: cluster.master.log() + other_log.read_text())
    until(lambda: "event=reload_failed" in logs(), 10, "the reload fails")
    until(lambda: cluster.health_pid() not in (None, health), 10, "another health process")

    cluster.wait_up("kept")
    assert [row["name"] for row in cluster.ctl_rows("nodes")] == ["kept"]
    assert cluster.worker_pids() == [worker]
    assert "strange" not in logs()
    assert "to=DRAINING" not in logs(), "the node was taken out meanwhile"
    cluster.ctl("drain", "kept")
    until(lambda: "event=node_drain_wanted" in cluster.master.log(), 10,
          "the new health process writes to the log in force")
    cluster.ctl("undrain", "kept")
    cluster.wait_up("kept")


def test_a_hundred_reloads_in_a_few_seconds_become_a_few(loaded):
    before = loaded.master.log().count("event=reloaded generation=")
    began = time.monotonic()
    generations = set()
    for _ in range(100):
        loaded.master.signal(signal.SIGHUP)
        rows = loaded.worker_rows_all()
        generations.add(len({row["generation"] for row in rows if row["state"] != "DRAINING"}))
    until(lambda: loaded.ctl("reload").returncode == 0, 30, "one more, and its outcome")
    reloads = loaded.master.log().count("event=reloaded generation=") - before
    took_s = time.monotonic() - began
    assert 1 <= reloads <= took_s / 0.5 + 2, f"{reloads} in {took_s:.1f} s: at most one each 0.5 s"
    assert max(generations) <= 2, generations
    assert "event=reload_failed" not in loaded.master.log()
