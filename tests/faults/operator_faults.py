"""operator_faults.py - reloads, upgrades, stops and rotations, good and bad."""

import os
import signal
import stat
import time

import skew
from crowd import End
from fake_node import Attachment, Heart
from frozen import Client
from harness import MODEL, SLOW, until
from load import chat_body, fetch_now
from node_faults import until_busy
from rig import PACED, fault
from test_upgrade import Upgradable

MIXED = ("chat", "whole", "anthropic", "ollama")


@fault("O1", "a reload of a bad configuration", "12 kinds: syntax, unknown key, port, empty, NUL ...",
       clients="nothing", does="mend the file: the message has file, line and key",
       log=("event=reload_failed error=",), ctl=("reload: drover.yaml",))
def bad_reload(run):
    cluster = run.start()
    crowd = run.crowd()
    cluster.write_config()
    good = cluster.config_path.read_text()
    other = cluster.address("admin")
    bad = {
        "syntax": good + "a: [b\n",
        "unknown key": good + "nonsense: true\n",
        "wrong type": good.replace("workers: 2", "workers: many"),
        "out of range": good.replace("workers: 2", "workers: 1000"),
        "empty": "",
        "NUL": good + "\0\0",
        "binary": bytes(range(128, 256)).decode("latin-1"),
        "huge": good + "# " + "x" * (2 << 20),
        "listener": good.replace('"127.0.0.1:0"', '"127.0.0.1:%d"' % other[1], 1),
        "token": good.replace(str(cluster.token_path), "/nonexistent/token"),
        "twice": good + "workers: 3\n",
        "node": good + 'nodes:\n  - name: "x y"\n    address: "nowhere"\n',
    }
    workers = set(cluster.worker_pids())
    for name, text in bad.items():
        cluster.config_path.write_text(text)
        refused = cluster.ctl("reload", check=False)
        run.check(refused.returncode == 1 and refused.stderr.strip(),
                  f"{name}: status {refused.returncode} {refused.stdout}{refused.stderr}")
        run.check(set(cluster.worker_pids()) == workers, f"{name}: the workers changed")
    run.more(crowd, 10)
    cluster.config_path.write_text(good + "nonsense: true\n")
    run.operator_sees()
    cluster.config_path.write_text(good)
    cluster.config_path.chmod(0)
    if os.geteuid() == 0:
        cluster.config_path.unlink()
    run.check(cluster.ctl("reload", check=False).returncode == 1, "unreadable: it was taken")
    cluster.config_path.write_text(good)
    cluster.config_path.chmod(stat.S_IRUSR)
    cluster.ctl("reload")
    run.more(crowd, 10)


@fault("O2", "a hundred reloads in a row", "SIGHUP, 100 times",
       clients="nothing", does="nothing",
       log=("event=reloaded",))
def many_reloads(run):
    cluster = run.start()
    crowd = run.crowd(kinds=MIXED)
    most = 0
    for _ in range(100):
        cluster.master.signal(signal.SIGHUP)
        until(lambda count=crowd.count(): crowd.count() > count, 20, "a request ends")
        most = max(most, len(cluster.worker_rows_all()))
    run.figure("workers at most", most)
    until(lambda: len(cluster.worker_rows_all()) == 2, 20, "one generation is left")
    run.more(crowd, 20)
    run.operator_sees()


@fault("O1b", "a reload takes a node away and changes the number of workers", "SIGHUP",
       clients="nothing", does="nothing",
       log=("event=reloaded workers=3", "event=node_state node=\"s\" to=DRAINING"),
       quick=True)
def changing_reload(run):
    cluster = run.start(nodes=("b",), static=("s",))
    crowd = run.crowd(tokens=60)
    until_busy(run, "s")
    cluster.settings["nodes"] = []
    cluster.settings["workers"] = 3
    cluster.write_config()
    cluster.config_path.write_text(cluster.config_path.read_text().replace("nodes:\n", ""))
    cluster.ctl("reload")
    until(lambda: len(cluster.worker_pids()) == 3, 10, "three workers")
    run.operator_sees()
    run.more(crowd, 20)


def upgradable(run):
    """Restarts the master from a file of its own before anything else happens."""
    cluster = run.start(nodes=())
    cluster.stop_master()
    up = Upgradable(cluster).launch()
    for name in "ab":
        cluster.start_node(name, PACED)
    return up


@fault("O3", "an upgrade under load", "USR2, twice",
       clients="nothing", does="nothing: `droverctl upgrade` says what came of it",
       log=("event=upgraded successor=",),
       quick=True)
def upgrade(run):
    up = upgradable(run)
    cluster = up.cluster
    crowd = run.crowd(kinds=MIXED, tokens=40)
    for turn in range(2):
        up.replace()
        began = time.monotonic()
        cluster.ctl("upgrade")
        run.figure(f"upgrade {turn + 1}", f"{time.monotonic() - began:.2f} s")
        old = up.follow()
        run.oracle.killed.add(old.pid)
        run.within(lambda old=old: not old.running(), 20, "the old one has ended")
        run.more(crowd, 20)
    run.oracle.before = {}
    run.workers_died = True  # its counters began anew
    run.operator_sees()


@fault("O3b", "an upgrade to a program that cannot take over",
       "missing, not executable, no program, exits at once, hangs, fails its own check",
       clients="nothing", does="mend the program file; the old one goes on",
       log=("event=upgrade_failed error=",))
def bad_upgrade(run):
    up = upgradable(run)
    cluster = up.cluster
    crowd = run.crowd()
    shapes = {"exits": "#!/bin/sh\nexit 3\n", "nothing": "", "garbage": "\x7fELF garbage",
              "hangs": "#!/bin/sh\nexec sleep 1000\n"}
    for name, text in shapes.items():
        up.replace(text=text)
        began = time.monotonic()
        refused = cluster.ctl("upgrade", check=False, timeout=30)
        run.check(refused.returncode == 1 and refused.stderr.strip(),
                  f"{name}: {refused.returncode} {refused.stdout}{refused.stderr}")
        run.figure(name, f"{time.monotonic() - began:.1f} s")
    up.replace(mode=0o644)
    run.check(cluster.ctl("upgrade", check=False, timeout=30).returncode == 1, "not executable")
    up.file.unlink()
    run.check(cluster.ctl("upgrade", check=False, timeout=30).returncode == 1, "missing")
    run.operator_sees()
    run.more(crowd, 20)


@fault("O4", "stop, then stop at once", "QUIT, then TERM while streams are open",
       clients="streams finish until the grace is over, then end with an error event",
       does="nothing",
       log=("event=ending order=", "event=stopped status=0"),
       ends={End.REFUSED, End.UNANSWERED, End.ERROR_EVENT, End.REJECTED})
def stop_twice(run):
    cluster = run.start(config={"shutdown_grace_ms": 500})
    run.crowd()
    client = Client(cluster.api, MODEL, "long", tokens=100000)
    until(lambda: [r for r in cluster.open_requests() if r["id"] == "long"], 5, "it is open")
    run.figure("ready before", fetch_now(cluster.address("admin"), "GET", "/readyz").status)
    cluster.master.signal(signal.SIGQUIT)
    until(lambda: "order=" in run.logs()[0], 5, "the order is in the log")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 1, 5, "time passes")
    run.check(cluster.master.running(), "QUIT did not wait for the stream")
    cluster.master.signal(signal.SIGTERM)
    status = cluster.master.wait(10)
    run.figure("ended", f"{time.monotonic() - began - 1:.2f} s after TERM")
    run.check(status == 0, f"status {status}")
    run.oracle.killed.add(cluster.master.pid)
    run.check(client.ended(5), "the stream was left open")
    run.operator_sees()


@fault("O5", "the grace ends and a client still does not read", "TERM, a client that reads nothing",
       clients="cut off at the deadline", does="nothing",
       log=("event=grace_over", "event=stopped status=0"),
       ends={End.REFUSED, End.UNANSWERED, End.ERROR_EVENT, End.REJECTED})
def stuck_at_the_end(run):
    cluster = run.start(config={"shutdown_grace_ms": 500}, spec="slots=32,rate=5000,ctx=10000000")
    run.crowd()
    keep = Client(cluster.api, "flushing", "stuck", tokens=1000000, model=MODEL)
    until(lambda: [r for r in cluster.open_requests() if r["id"] == "stuck"], 5, "it is open")
    began = time.monotonic()
    status = cluster.stop_master(bound_s=10)
    run.figure("ended", f"{time.monotonic() - began:.2f} s after TERM")
    run.check(status == 0 and time.monotonic() - began < 5 * SLOW, f"status {status}")
    run.oracle.killed.add(cluster.master.pid)
    run.operator_sees()
    keep.close()


@fault("O6", "the join token is changed", "new token first, old second; then the new one alone",
       clients="nothing", does="nodes: the new token file, then HUP; `droverctl reload` here",
       log=("event=reloaded", "event=node_joined node=\"new\""),
       quick=True)
def token_rotation(run):
    cluster = run.start()
    crowd = run.crowd()
    old = cluster.token_path.read_text()
    new = "the-new-token-0123456789abcdef\n"
    cluster.token_path.write_text(new + old)
    cluster.ctl("reload")
    for node in cluster.nodes:
        node.process.signal(signal.SIGHUP)
    cluster.start_node("new", PACED)
    run.more(crowd, 10)
    cluster.token_path.write_text(new)
    cluster.ctl("reload")
    for node in cluster.nodes:
        node.process.signal(signal.SIGHUP)
    run.more(crowd, 20)
    for name in ("a", "b", "new"):
        run.check(cluster.node_state(name) == "UP", f"{name} was lost")
    run.operator_sees()


@fault("O6b", "a node comes with a wrong token", "another token file",
       clients="nothing", does="give it the right token file",
       log=("event=join_refused why=\"bad proof\"", "node: event=detached"),
       metric=("drover_registry_refused_total rises",))
def wrong_token(run):
    cluster = run.start()
    crowd = run.crowd()
    wrong = cluster.dir / "wrong"
    wrong.write_text("this-is-not-the-token-0000000\n")
    wrong.chmod(0o600)
    cluster.token_path, kept = wrong, cluster.token_path
    cluster.start_node("liar", PACED, wait=False)
    cluster.token_path = kept
    run.operator_sees()
    run.check(cluster.node_row("liar") is None, "it is in the table")
    run.more(crowd, 10)


@fault("O7", "a node is drained by the operator", "droverctl drain NODE --wait",
       clients="nothing", does="switch the node off when the command returns",
       log=("event=node_drain_wanted node=\"a\" drain=yes",),
       metric=('drover_node_drain_wanted{node="a"} is 1',), ctl=("nodes: a +DRAINING",))
def drain(run):
    cluster = run.start()
    crowd = run.crowd(tokens=60)
    until_busy(run, "a")
    began = time.monotonic()
    cluster.ctl("drain", "a", "--wait")
    run.figure("drained", f"{time.monotonic() - began:.2f} s")
    run.no_dispatch("a", lambda: run.more(crowd, 20))
    run.operator_sees()
    cluster.ctl("undrain", "a")
    cluster.wait_up("a")
    run.more(crowd, 10)


@fault("O8", "nodes and coordinators of other versions of the protocol",
       "a later and an earlier minor version, and another major one, as nodes and as coordinators",
       clients="nothing: minor versions work together, another major one is refused",
       does="bring the one that was refused to the same major version",
       log=("event=join_refused why=\"another major version of the protocol\" asked=",
            "event=probe_failed node=\"v2\" reason=protocol major version",
            "node: event=call_refused why=\"another major version of the protocol\"",
            "node: event=detached UNIMPLEMENTED major version"),
       metric=("drover_registry_refused_total rises",), ctl=("nodes: v2 +JOINING +protocol",),
       quick=True)
def version_skew(run):
    cluster = run.start()
    crowd = run.crowd()
    token = cluster.token_path.read_text().strip()
    joined = []
    joins = ((skew.LaterNode("later"), skew.join_later),
             (skew.EarlierNode("earlier"), skew.join_earlier))
    for node, join in joins:
        run.closers.append(node.stop)
        node.models = [f"{node.name}-model"]
        node.infer_gate.set()
        attachment = join(Attachment("%s:%d" % cluster.address("registry")), node, token)
        heart = Heart(attachment, node)
        run.closers += [attachment.close, heart.stop]
        joined.append(attachment)
        cluster.wait_up(node.name)
        answer = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                           chat_body("x", 2, stream=False, model=node.models[0]))
        run.check(answer.status == 200 and answer.headers["x-drover-node"] == node.name,
                  f"{node.name}: {answer.status} {answer.body[:200]!r}")
    registries = [skew.LaterCoordinator(token), skew.EarlierCoordinator(token),
                  skew.major_coordinator()]
    major = skew.major_node()
    run.closers += [server.stop for server in (*registries, major)]
    node = cluster.start_node("c", PACED, extra=[
        word for server in registries for word in ("--coordinator", f"127.0.0.1:{server.port}")])
    for name, server in zip(("later", "earlier"), registries):
        until(lambda server=server: len(server.of("heartbeat")) >= 2, 20,
              f"heartbeats for the {name} one")
    cluster.write_config(nodes=[{"name": "v2", "address": f"127.0.0.1:{major.port}"}])
    cluster.ctl("reload")
    for address, method in (("%s:%d" % cluster.address("registry"), "/drover.v2.Registry/Attach"),
                            (node.address(), "/drover.v2.Inference/Infer")):
        code, details = skew.ask_major(address, method)
        run.check(code is skew.grpc.StatusCode.UNIMPLEMENTED, f"{method}: {code} {details}")
    run.operator_sees()
    run.more(crowd, 20)
    for name in ("later", "earlier", "c"):
        run.check(cluster.node_state(name) == "UP", f"{name} was lost")
    for attachment in joined:
        attachment.send(leave=skew.registry.Leave(reason="SIGTERM", drain_ms=1000))
        attachment.expect("left")
    run.oracle.killed.add(node.pid)
    run.check(cluster.stop_node(node) == 0, "the node did not leave in order")
    cluster.settings["nodes"] = []
    cluster.write_config()
    cluster.ctl("reload")
    until(lambda: not cluster.node_row("v2"), 10, "all guests have gone")
