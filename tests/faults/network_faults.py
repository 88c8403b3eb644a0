"""network_faults.py - the wire between coordinator and node is cut, slow, lossy, or another's.

Where a host is needed, a node runs in a network namespace of its own; where a namespace cannot do it
(delay, reorder, resets at a byte), the mangler is the wire.
"""

import shutil
import socket
import tempfile
import time
from pathlib import Path

from harness import Process, program, sim_spec, until
from hosts import run as command
from node_faults import until_busy
from rig import PACED, fault

# The documented times, made shorter where the configuration allows it.
QUICK = {"registry": {"listen": "0.0.0.0:0", "heartbeat_ms": 500, "lease_ms": 4000},
         "health": {"interval_ms": 200, "timeout_ms": 1000},
         "limits": {"first_token_ms": 3000, "idle_token_ms": 3000, "connect_timeout_ms": 1000}}


def remote_node(run, name, spec=PACED, via=None):
    """A drover-node on a host of its own that joins; (node, host)."""
    host = (run.hosts or run.make_hosts()).add()
    port = run.cluster.address("registry")[1]
    coordinator = via or f"{host.ours}:{port}"
    engine = Process(host.argv(program("drover-sim"), "--listen", "127.0.0.1:8091",
                               "--engine", sim_spec(spec, name)),
                     run.cluster.dir / f"sim-{name}.log")
    run.cluster.engines.append(engine)
    until(lambda: "event=ready" in engine.log(), 10, "the engine there is ready")
    argv = host.argv(program("drover-node"), "--engine", "http://127.0.0.1:8091", "--name", name,
                     "--listen", f"{host.address}:0", "--coordinator", coordinator,
                     "--token-file", str(run.cluster.token_path))
    node = run.cluster.run_node(name, argv, engine)
    run.cluster.wait_up(name, node)
    return node, host


def with_host(run, **options):
    config = {**QUICK, **options}
    run.start(nodes=("b", "c"), config=config)
    return remote_node(run, "a")


@fault("W1", "a node's host is cut off: nothing passes, no FIN, no RST", "nft drops both ways, 12 s",
       clients="those it had wait until it is found out, then go on elsewhere",
       does="look at the network; the node joins again by itself",
       log=("event=node_silent", "event=node_state node=\"a\" to=DOWN reason=lease_lost",
            "event=resuming", "event=node_state node=\"a\" to=GONE by=lease_end"),
       root=True)
def cut_off(run):
    node, host = with_host(run)
    crowd = run.crowd()
    until_busy(run, "a")
    host.cut()
    began = time.monotonic()
    run.state_becomes("a", ("DOWN", "GONE", "EJECTED", None), 10)
    run.no_dispatch("a", lambda: run.more(crowd, 30))
    run.operator_sees(20)
    # The node must notice by itself that its callers are gone (I2): its own keepalive does.
    run.within(lambda: "event=detached" in node.process.log()[run.node_since["a"]:], 25,
               "the node notices", "node notices")
    until(lambda: time.monotonic() - began > 12, 20, "time passes")
    host.heal()
    run.state_becomes("a", ("UP",), 30, "back")
    run.more(crowd)


@fault("W1b", "as W1, seen through a proxy that swallows all bytes", "mangler, half open",
       clients="as W1", does="as W1",
       log=("event=probe_failed node=\"a\" reason=probe_timeout",
            "event=node_state node=\"a\" from=UP to=DOWN"),
       ctl=("nodes: a +DOWN",),
       quick=True)
def half_open(run):
    run.start(nodes=("b",), static=("a",), config=QUICK)
    crowd = run.crowd()
    until_busy(run, "a")
    run.wires["a"].half_open()
    run.state_becomes("a", ("DOWN", "EJECTED"), 10)
    run.operator_sees()
    run.no_dispatch("a", lambda: run.more(crowd))
    run.wires["a"].heal(break_old=True)
    run.state_becomes("a", ("UP",), 30, "back")
    run.more(crowd)


@fault("W2", "one way of the wire is cut", "nft drops what comes to the node, then what it sends",
       clients="as W1", does="as W1",
       log=("event=node_state node=\"a\" from=UP",),
       ctl=("nodes: b +UP",), root=True)
def one_way(run):
    _, host = with_host(run)
    crowd = run.crowd()
    for hook, match in (("input", "iifname"), ("output", "oifname")):
        until_busy(run, "a")
        host.drop(hook, match, "eth0")
        run.state_becomes("a", ("DOWN", "GONE", "EJECTED", None), 10, f"{hook} cut detected")
        run.no_dispatch("a", lambda: run.more(crowd))
        host.heal()
        run.state_becomes("a", ("UP",), 30, "back")
    run.more(crowd)
    run.operator_sees()


@fault("W3", "packets are lost: 1 %, 5 %, 20 %", "nft drops at random, 4 s each",
       clients="answers come later, none fails", does="look at the network",
       ctl=("nodes: b +UP",), root=True)
def loss(run):
    _, host = with_host(run)
    crowd = run.crowd()
    for percent in (1, 5, 20):
        for hook in ("input", "output"):
            host.drop(hook, "numgen", "random", "mod", "100", "<", str(percent))
        begun, done = time.monotonic(), crowd.done
        until(lambda: time.monotonic() - begun > 4 and crowd.done >= done + 20, 30,
              f"answers with {percent} % lost")
        run.figure(f"{percent} %", f"{(crowd.done - done) / (time.monotonic() - begun):.0f}/s")
        host.heal()
    run.state_becomes("a", ("UP",), 30, "back")
    run.operator_sees()


@fault("W4", "the wire is slow: 200 ms +-50, then 1 Mbit/s", "mangler, tbf",
       clients="later first tokens, nothing else", does="nothing, or a better network",
       ctl=("nodes: far +UP", "nodes: thin +UP"), root=True)
def slow_wire(run):
    run.start(nodes=(), static=("far",), config={**QUICK, "policy": "round_robin"})
    _, host = remote_node(run, "thin")
    crowd = run.crowd()
    wire = run.wires["far"]
    wire.up.delay_s = wire.down.delay_s = 0.1
    wire.up.jitter_s = wire.down.jitter_s = 0.025
    command("tc", "qdisc", "add", "dev", host.link, "root", "tbf", "rate", "1mbit",
            "burst", "8k", "latency", "400ms")
    host.inside("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit",
                "burst", "8k", "latency", "400ms")
    begun = time.monotonic()
    run.more(crowd, 60)
    run.figure("answers", f"{60 / (time.monotonic() - begun):.0f}/s")
    run.operator_sees()
    for name in ("far", "thin"):
        run.check(run.cluster.node_state(name) == "UP", f"{name} is not UP")


@fault("W4b", "HTTP/2 frames of different streams arrive in another order, in pieces of 7 bytes",
       "mangler", clients="nothing", does="nothing", ctl=("nodes: a +UP",),
       quick=True)
def reordered(run):
    run.start(nodes=(), static=("a", "b"))
    for wire in run.wires.values():
        # A mangler that reorders must see a connection from its first byte on.
        wire.up.reorder = wire.down.reorder = True
        wire.up.split = wire.down.split = 7
        wire.reset()
    for name in "ab":
        run.cluster.wait_up(name)
    crowd = run.crowd(kinds=("chat", "whole", "anthropic"))
    run.more(crowd, 40)
    run.operator_sees()


@fault("W5", "connections to a node are reset, or end in the middle of a message",
       "mangler: RST and FIN after 100 to 4000 bytes, 12 times",
       clients="nothing: what broke goes on", does="look at what stands between",
       log=("event=node_connection_lost node=a", "event=resuming"),
       metric=("drover_node_retried_total rises",))
def resets(run):
    run.start(nodes=("b",), static=("a",))
    crowd = run.crowd()
    wire = run.wires["a"]
    for turn in range(12):
        run.state_becomes("a", ("UP",), 15, None)
        until_busy(run, "a")
        limit = ("reset_after", "truncate_after")[turn % 2]
        way = run.choose.choice((wire.up, wire.down))
        setattr(way, limit, run.choose.randrange(100, 4000))
        until(lambda way=way, limit=limit: getattr(way, limit) is None, 15, "the connection ends")
    run.operator_sees()
    run.state_becomes("a", ("UP",), 15, None)
    run.more(crowd)


@fault("W6", "the coordinator cannot reach a node whose registration is well",
       "nft drops the node's own port only",
       clients="those it had go on elsewhere", does="look at firewalls: `connect_failed` or "
       "`probe_timeout` with a node whose own log says `joined`",
       log=("event=probe_failed node=\"a\"", "event=node_state node=\"a\" from=UP"),
       ctl=("nodes: a +(DOWN|EJECTED)",), root=True)
def data_path_only(run):
    node, host = with_host(run)
    crowd = run.crowd()
    until_busy(run, "a")
    port = node.address().rsplit(":", 1)[1]
    host.drop("input", "tcp", "dport", port)
    run.state_becomes("a", ("DOWN", "EJECTED"), 15)
    run.operator_sees()
    began = time.monotonic()
    run.no_dispatch("a", lambda: until(
        lambda: time.monotonic() - began > 5, 20, "heartbeats go on"))
    run.check(run.cluster.node_state("a") != "UP", "heartbeats made it UP again")
    host.heal()
    run.state_becomes("a", ("UP",), 30, "back")
    run.more(crowd)


@fault("W7", "a node can be reached, its way to the registry is cut",
       "nft drops the registry's port only",
       clients="nothing: the node is taken out when its lease ends, its requests finish",
       does="look at firewalls", log=("event=node_silent", "event=node_state node=\"a\" to=DOWN reason=lease_lost"),
       root=True)
def registry_path_only(run):
    node, host = with_host(run)
    crowd = run.crowd()
    until_busy(run, "a")
    port = str(run.cluster.address("registry")[1])
    host.drop("output", "tcp", "dport", port)
    host.drop("input", "tcp", "sport", port)
    run.state_becomes("a", ("DOWN", "GONE", None), 15)
    run.no_dispatch("a", lambda: run.more(crowd))
    run.operator_sees()
    host.heal()
    run.state_becomes("a", ("UP",), 40, "back")
    run.more(crowd)


@fault("W8", "another node listens where a node was", "kill -9, start of another on its port",
       clients="nothing", does="nothing; the table says who is where",
       log=("event=node_state node=\"a\" to=DOWN",), ctl=("nodes: a +DOWN",))
def port_taken(run):
    run.start()
    crowd = run.crowd()
    address = run.node("a").address()
    run.kill_node("a")
    argv = [program("drover-node"), "--engine", run.cluster.start_engine(PACED)[1], "--name", "stranger",
            "--listen", address, "--token-file", str(run.cluster.token_path)]
    run.cluster.run_node("stranger", argv).address()
    run.operator_sees()
    run.no_dispatch("a", lambda: run.more(crowd, 30))


@fault("W9", "the name of a node does not resolve", "an /etc/hosts of our own",
       clients="nothing while another node serves", does="mend the name service; it is asked again",
       log=("event=node_unresolved node=\"named\"",), ctl=("nodes: named +(JOINING|DOWN)",),
       root=True)
def name_unknown(run):
    folder = tempfile.mkdtemp(prefix="drover-hosts-")
    hosts_file = Path(folder) / "hosts"
    hosts_file.write_text("127.0.0.1 localhost\n")
    command("mount", "--bind", str(hosts_file), "/etc/hosts")
    run.closers.append(lambda: (command("umount", "/etc/hosts"), shutil.rmtree(folder)))
    run.start(nodes=("b",))
    crowd = run.crowd()
    node = run.cluster.start_node("named", PACED, join=False, wait=False)
    port = node.address().rsplit(":", 1)[1]
    run.cluster.write_config(nodes=[{"name": "named", "address": f"node-of-the-test:{port}"}])
    run.cluster.ctl("reload")
    run.operator_sees()
    run.more(crowd, 20)
    hosts_file.write_text("127.0.0.1 localhost node-of-the-test\n")
    run.state_becomes("named", ("UP",), 20, "resolved")


@fault("W10", "a silent stranger holds connections to every port", "50 connections that say nothing",
       clients="nothing", does="nothing", ctl=("nodes: a +UP",))
def silent_strangers(run):
    cluster = run.start()
    crowd = run.crowd()
    socks = []
    for which in ("api", "admin", "registry"):
        socks += [socket.create_connection(cluster.address(which)) for _ in range(50)]
    run.more(crowd, 30)
    run.operator_sees()
    for sock in socks:
        sock.close()
