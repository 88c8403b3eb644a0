"""node_faults.py - nodes and their engines die, stop, lie, flap, come late and come in crowds."""

import time

from crowd import End
from harness import MODEL, until
from load import chat_body, fetch_now
from rig import PACED, fault

# Plain-text answers that have begun go on elsewhere; these settings forbid that.
NO_RESUME = {"limits": {"max_resumes": 0}}


def until_busy(run, name):
    until(lambda: run.cluster.gauges().get(name, (0, 0))[0] >= 2, 10, f"{name} has work")


@fault("N1", "a node dies with requests before and after their first token", "kill -9 drover-node",
       clients="nothing: what has not begun is tried elsewhere, plain text that has begun goes on "
               "elsewhere",
       does="start the node again",
       log=("event=node_stream_broken", "event=node_state to=DOWN reason=lease_lost",
            "event=resuming"),
       metric=('drover_node_state{node="a",state="DOWN"} is 1',),
       ctl=("nodes: a +DOWN +lease_lost",),
       quick=True)
def node_killed(run):
    run.start(nodes=("a", "b", "c"))
    crowd = run.crowd(kinds=("chat", "completion", "anthropic"))
    until_busy(run, "a")
    run.kill_node("a")
    run.state_becomes("a", ("DOWN", "GONE"), 5)
    run.operator_sees()
    run.no_dispatch("a", lambda: run.more(crowd))
    run.cluster.start_node("a", PACED)
    run.more(crowd)


@fault("N1b", "a node dies in mid-stream and nothing may go on", "kill -9, `limits.max_resumes: 0`",
       clients="an error event in the shape of their own API, as the last event",
       does="start the node again",
       log=("event=node_state to=DOWN reason=lease_lost",),
       metric=('drover_node_attempts_total{outcome="node_error"} rises',),
       ctl=("nodes: a +DOWN +lease_lost",), ends={End.ERROR_EVENT})
def node_killed_no_resume(run):
    run.start(config=NO_RESUME)
    crowd = run.crowd(kinds=("chat", "completion", "anthropic", "ollama"))
    until_busy(run, "a")
    run.kill_node("a")
    run.operator_sees()
    run.no_dispatch("a", lambda: run.more(crowd))
    run.check(crowd.count(End.ERROR_EVENT) > 0, "no stream was hit")


def with_engine(run, **options):
    """Nodes a and b; the process of a's engine."""
    run.start(**options)
    return run.node("a").engine


@fault("N2", "an engine dies, its drover-node lives", "kill -9 of the engine",
       clients="nothing",
       does="start the engine again; the node finds it",
       log=("event=node_state to=DOWN reason=engine_down", "node: event=engine state=unreachable"),
       metric=('drover_node_state{node="a",state="DOWN"} is 1',),
       ctl=("nodes: a +DOWN +engine_down",),
       quick=True)
def engine_killed(run):
    engine = with_engine(run)
    crowd = run.crowd()
    until_busy(run, "a")
    engine.kill_all()
    run.state_becomes("a", ("DOWN", "EJECTED"), 10)
    run.operator_sees()
    run.no_dispatch("a", lambda: run.more(crowd))


@fault("N3", "a drover-node stops", "SIGSTOP, lease 3 s, 8 s long",
       clients="those it had wait until it is found out, then go on elsewhere",
       does="nothing if it comes back; else look at that machine",
       log=("event=node_silent", "event=node_state reason="),
       metric=('drover_node_state{node="a",state="UP"} is 0',),
       ctl=("nodes: a +(DOWN|GONE|EJECTED)",))
def node_stopped(run):
    run.start(nodes=("a", "b", "c"), config={
        "registry": {"heartbeat_ms": 500, "lease_ms": 3000}, "health": {"timeout_ms": 1000},
        "limits": {"first_token_ms": 3000, "idle_token_ms": 3000}})
    crowd = run.crowd()
    until_busy(run, "a")
    pid = run.node("a").pid
    run.stop_process(pid)
    run.state_becomes("a", ("DOWN", "GONE", "EJECTED", None), 10)
    run.operator_sees()
    run.no_dispatch("a", lambda: run.more(crowd))
    run.continue_process(pid)
    run.state_becomes("a", ("UP",), 20, "back")
    run.more(crowd)


@fault("N4", "an engine stops, its drover-node lives", "SIGSTOP of the engine",
       clients="those it had wait until it is found out (3.5 s), then go on elsewhere",
       does="look at the engine; it gets no work until it answers",
       log=("event=node_state node=\"a\" from=UP",),
       metric=('drover_node_state{node="a",state="UP"} is 0',),
       ctl=("nodes: a +(DOWN|EJECTED|PROBATION)",))
def engine_stopped(run):
    engine = with_engine(run, config={"limits": {"first_token_ms": 2000, "idle_token_ms": 2000}})
    crowd = run.crowd()
    until_busy(run, "a")
    run.stop_process(engine.pid)
    run.state_becomes("a", ("DOWN", "EJECTED", "PROBATION"), 10)
    run.operator_sees()
    run.more(crowd)
    run.continue_process(engine.pid)
    run.state_becomes("a", ("UP",), 40, "back")


@fault("N5", "an engine loads its model for long", "simulated engine with load_ms=4000",
       clients="nothing while another node is up",
       does="wait",
       log=("event=node_cannot_serve reason=engine_loading",),
       ctl=("nodes: slow +(JOINING|DOWN) +engine_loading",))
def engine_loads(run):
    run.start(nodes=("b",))
    crowd = run.crowd()
    run.cluster.start_node("slow", PACED + ",load_ms=4000", wait=False)
    run.operator_sees()
    run.no_dispatch("slow", lambda: run.more(crowd, 10))
    run.state_becomes("slow", ("UP",), 15, "loaded")


@fault("N6", "a node leaves in order", "SIGTERM to drover-node",
       clients="nothing", does="nothing; switch the machine off when drover-node has ended",
       log=("event=node_leaves why=\"SIGTERM\"", "event=node_state to=DRAINING reason=leaving",
            "node: event=drained"))
def node_leaves(run):
    run.start(nodes=("a", "b"))
    crowd = run.crowd(tokens=60)
    until_busy(run, "a")
    node = run.node("a")
    began = time.monotonic()
    status = run.cluster.stop_node(node)
    run.figure("drained", f"{time.monotonic() - began:.2f} s")
    run.check(status == 0, f"drover-node ended with status {status}")
    run.oracle.killed.add(node.pid)
    run.more(crowd)
    run.operator_sees()


@fault("N7", "two machines use the name of one node", "a second drover-node of the same name",
       clients="nothing", does="give one of them another name (`--name`); the older one tries after 30 to 60 s each, and joins when the newer has gone",
       log=("event=node_superseded node=a", "node: event=evicted reason=superseded"),
       ctl=("nodes: a +UP",),
       quick=True)
def same_name(run):
    run.start()
    crowd = run.crowd()
    first = run.node("a")
    run.cluster.start_node("a", PACED, wait=False)
    run.operator_sees()
    run.state_becomes("a", ("UP",), 10, "taken over")
    run.more(crowd)
    run.oracle.killed.add(first.pid)  # it may end, since no coordinator takes it
    run.check(len(run.cluster.ctl_rows("nodes")) == 2, "the name is there twice")


@fault("N8", "a node starts and dies every second", "kill -9 and start, 6 times",
       clients="nothing", does="find out why it dies",
       log=("event=node_state to=UP", "event=node_stream_broken"),
       metric=("drover_registry_joins_total rises",))
def flapping(run):
    run.start(nodes=("a", "b", "flap"))
    crowd = run.crowd()
    for turn in range(6):
        run.kill_node("flap")
        run.cluster.start_node("flap", PACED, wait=turn == 5)
        run.more(crowd, 6)
    run.operator_sees()


@fault("N9", "a node says that it is idle and answers slowly", "700 ms delay on its wire",
       clients="a few slow first tokens", does="look at `TTFT P50` of the nodes",
       ctl=("nodes: lame +UP",))
def lame(run):
    run.start(nodes=("a", "b"), static=("lame",), config={"policy": "fastest"})
    crowd = run.crowd()
    run.wires["lame"].down.delay_s = 0.7
    run.more(crowd, 20)
    before = {name: run.dispatched(name) for name in ("a", "b", "lame")}
    run.more(crowd, 80)
    got = {name: run.dispatched(name) - before[name] for name in before}
    share = got["lame"] / sum(got.values())
    run.figure("share of the slow node", f"{share * 100:.0f} %")
    run.check(share < 0.2, f"the slow node still gets {share:.2f} of the requests")
    run.operator_sees()


@fault("N10", "every node is down, then one returns", "kill -9 of both, start of one",
       clients="503 with Retry-After when nothing is up for 2 s; what waits is served on return",
       does="start the nodes; `/readyz` is 503 meanwhile",
       log=("event=node_state to=DOWN",),
       metric=('drover_nodes{state="UP"} is 0',),
       ctl=("status: nodes +2 DOWN",),
       ends={End.REJECTED, End.ERROR_EVENT},
       quick=True)
def all_down(run):
    cluster = run.start()
    crowd = run.crowd()
    run.kill_node("a")
    run.kill_node("b")
    run.operator_sees()
    run.within(lambda: crowd.count(End.REJECTED) >= 4, 10, "requests are refused", "refused")
    ready = fetch_now(cluster.address("admin"), "GET", "/readyz")
    run.check(ready.status == 503, f"/readyz says {ready.status}")
    run.check(fetch_now(cluster.address("admin"), "GET", "/livez").status == 200, "not alive")
    done = crowd.done
    began = time.monotonic()
    cluster.start_node("a", PACED, wait=False)
    until(lambda: crowd.done > done, 20, "the first answer")
    run.figure("first answer after", f"{time.monotonic() - began:.2f} s")
    run.more(crowd)


@fault("N13", "an answer is harmed in the engine", "garbage, truncation, reset, error, each in turn",
       clients="nothing: another attempt, or the answer goes on",
       does="look at the engine's log",
       log=("event=resuming",),
       metric=("drover_node_retried_total rises",),
       quick=True)
def engine_faults(run):
    cluster = run.start(spec="slots=16,speed=10")
    crowd = run.crowd()
    for kind in ("5xx", "error_first", "garbage", "truncate", "reset"):
        for after in (0, 5):
            body = chat_body("harm me", 12, drover_sim={
                "fault": kind, "after_tokens": after, "only_attempt": 0})
            answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", body)
            run.check(answer.status == 200 and b'"error"' not in answer.body
                      and answer.body.endswith(b"data: [DONE]\n\n"),
                      f"{kind} after {after}: {answer.status} {answer.body[-300:]!r}")
    run.more(crowd, 10)
    run.operator_sees()


@fault("N14", "an engine hangs in the middle of an answer", "simulated fault `hang`",
       clients="the answer goes on elsewhere after `limits.idle_token_ms`",
       does="look at the engine", log=("event=resuming reason=",))
def engine_hangs(run):
    cluster = run.start(config={"limits": {"idle_token_ms": 1000, "first_token_ms": 1000}})
    crowd = run.crowd()
    for after in (0, 5):
        began = time.monotonic()
        answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body(
            "hang here", 12, drover_sim={"fault": "hang", "after_tokens": after,
                                         "only_attempt": 0}))
        run.check(answer.body.endswith(b"data: [DONE]\n\n") and b'"error"' not in answer.body,
                  f"after {after} tokens: {answer.status} {answer.body[-300:]!r}")
        run.figure(f"hang after {after} tokens", f"{time.monotonic() - began:.2f} s")
    run.more(crowd, 10)
    run.operator_sees()


@fault("N15", "requests wait for the only node and it dies", "kill -9, another joins",
       clients="those that wait are served by the newcomer", does="start a node",
       log=("event=node_state to=DOWN",), ctl=("models: " + MODEL,),
       ends={End.ERROR_EVENT, End.REJECTED})
def waiting_when_down(run):
    cluster = run.start(nodes=("a",), spec="slots=2,rate=20")
    crowd = run.crowd(concurrency=8)
    run.kill_node("a")
    cluster.start_node("b", PACED, wait=False)
    run.state_becomes("b", ("UP",), 10, "newcomer up")
    run.more(crowd, 20)
    run.operator_sees()
