"""client_faults.py - clients leave, do not read, dribble, pipeline and vanish in crowds."""

import asyncio
import json
import socket
import time

from frozen import PHASES, STATIC, Client, Frozen
from harness import MODEL, until
from load import chat_body, make_request, open_request
from oracle import rss_kib
from rig import fault


@fault("C1", "clients leave in every phase of their requests", "FIN, then RST, 6 each",
       clients="they are gone", does="nothing",
       metric=('drover_node_attempts_total{outcome="client_gone"} rises',),
       quick=True)
def clients_leave(run):
    cluster = run.start(static=STATIC)
    crowd = run.crowd()
    for reset in (False, True):
        frozen = Frozen(run)
        frozen.close(reset)
        run.within(lambda: not [row for row in cluster.open_requests()
                                if row["id"].split("-")[0] in PHASES or row["id"] == "holder"],
                   3, "their requests are gone", f"gone ({'RST' if reset else 'FIN'})")
        run.wires["sent"].heal(break_old=True)
        run.complaints += run.oracle.orphans(PHASES)
        for phase in PHASES:
            for node in [n for n in cluster.nodes if n.name == phase and phase != "sent"]:
                run.oracle.killed.add(node.pid)
                cluster.stop_node(node)
                cluster.nodes.remove(node)
        run.state_becomes("sent", ("UP",), 15, None)
        if not reset:
            until(lambda: not [r for r in cluster.ctl_rows("nodes") if r["state"] == "DRAINING"],
                  10, "the phases' nodes have left")
    run.operator_sees()
    lines = [line for line in cluster.access_lines() if line["id"].split("-")[0] in PHASES]
    run.check(lines and all(line["outcome"] == "client_gone" for line in lines),
              f"logged otherwise: {[l for l in lines if l['outcome'] != 'client_gone'][:2]}")
    run.more(crowd)


@fault("C2", "clients do not read", "40 clients with a 4 KiB buffer, write_stall_ms 2000",
       clients="they are cut off after `limits.write_stall_ms`; other clients do not wait",
       does="nothing",
       log=("event=write_stall",))
def clients_do_not_read(run):
    cluster = run.start(config={"limits": {"write_stall_ms": 2000}},
                        spec="slots=64,rate=5000,ctx=10000000")
    crowd = run.crowd(tokens=100)
    pids = cluster.worker_pids()
    before = {pid: rss_kib(pid) for pid in pids}
    stuck = [Client(cluster.api, "flushing", f"stuck-{i}", tokens=1000000, model=MODEL)
             for i in range(40)]
    until(lambda: len([r for r in cluster.open_requests()
                       if r["id"].startswith("stuck")]) >= 30, 10, "they are under way")
    run.more(crowd, 40)
    run.within(lambda: not [r for r in cluster.open_requests() if r["id"].startswith("stuck")],
               20, "they are cut off", "cut off after")
    grown = max(rss_kib(pid) - before[pid] for pid in pids)
    run.figure("worker grew", f"{grown // 1024} MiB")
    run.check(grown < 40 * 1024 + (48 << 10 if run.oracle.asan else 0), f"grew by {grown} KiB")
    run.operator_sees()
    for client in stuck:
        client.close()


@fault("C3", "clients send a byte a second", "60 half heads, 60 half bodies, header_timeout_ms 1500",
       clients="they are closed after `limits.header_timeout_ms`; other clients do not wait",
       does="nothing; `limits.max_per_client` bounds one address")
def slow_loris(run):
    cluster = run.start(config={"limits": {"header_timeout_ms": 1500}})
    crowd = run.crowd()
    whole = make_request("POST", "/v1/chat/completions", chat_body("slow", 4))
    socks = []
    for number in range(120):
        sock = socket.create_connection(cluster.address("api"))
        sock.sendall(whole[:30] if number % 2 else whole[:-20])
        socks.append(sock)
    began = time.monotonic()

    def closed():
        still = 0
        for sock in socks:
            sock.setblocking(False)
            try:
                while sock.recv(4096):
                    pass
            except BlockingIOError:
                still += 1
            except OSError:
                pass
        return still == 0
    run.within(closed, 10, "all are closed", "closed after")
    run.check(time.monotonic() - began > 1, "they were closed before their time")
    run.more(crowd)
    for sock in socks:
        sock.close()


@fault("C5", "a client sends 300 requests at once on one connection", "pipelining",
       clients="its answers come in order", does="nothing")
def pipelining(run):
    cluster = run.start()
    crowd = run.crowd()
    with socket.create_connection(cluster.api) as sock:
        sock.settimeout(60)
        sock.sendall(b"".join(
            make_request("GET", "/v1/models", headers={"x-request-id": f"pipe-{i}"})
            for i in range(300)))
        data = b""
        while data.count(b"x-request-id: pipe-") < 300 and (piece := sock.recv(1 << 16)):
            data += piece
    order = [int(part.split(b"\r\n")[0]) for part in data.split(b"x-request-id: pipe-")[1:]]
    run.check(order == list(range(300)), f"order {order[:20]} of {len(order)}")
    run.more(crowd, 10)


@fault("C6", "a thousand clients vanish at once in mid-stream", "RST on 1000 connections",
       clients="they are gone; other clients do not notice", does="nothing",
       metric=('drover_node_attempts_total{outcome="client_gone"} rises',))
def storm(run):
    cluster = run.start(spec="slots=1000,rate=20,spread=20")
    crowd = run.crowd(tokens=8)

    async def go():
        answers = []
        for _ in range(10):
            answers += await asyncio.gather(*(open_request(
                cluster.api, "POST", "/v1/chat/completions", chat_body("stay", 100000),
                {"x-request-id": "storm"}) for _ in range(100)))
        for answer in answers:
            await answer.read_head()
        for answer in answers:
            answer.abort()
    asyncio.run(asyncio.wait_for(go(), 120))
    run.within(lambda: not [r for r in cluster.open_requests() if r["id"] == "storm"], 10,
               "all cancelled", "all cancelled")
    run.more(crowd)
    run.operator_sees()


@fault("C7", "a client half-closes its connection", "shutdown(SHUT_WR) after the request",
       clients="it is taken to have gone (`allow_half_close`)", does="nothing",
       metric=('drover_node_attempts_total{outcome="client_gone"} rises',))
def half_close(run):
    cluster = run.start()
    crowd = run.crowd()
    client = Client(cluster.api, MODEL, "half", tokens=100000)
    until(lambda: [r for r in cluster.open_requests() if r["id"] == "half"], 5, "it is open")
    client.sock.shutdown(socket.SHUT_WR)
    run.within(lambda: not [r for r in cluster.open_requests() if r["id"] == "half"], 3,
               "it is cancelled", "noticed")
    run.more(crowd, 10)
    run.operator_sees()
    client.close()


@fault("C8", "requests that are not requests", "bad JSON, no length, two lengths, huge, binary",
       clients="400, 413, 417, 431 or 404 with a reason for the sender; nothing for others",
       does="nothing",
       metric=("drover_worker_requests_rejected_total rises",))
def nonsense(run):
    cluster = run.start()
    crowd = run.crowd()
    good = json.dumps(chat_body("x", 2)).encode()
    heads = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    shapes = [
        make_request("POST", "/v1/chat/completions", b"{" * 5000),
        make_request("POST", "/v1/chat/completions", b'{"model":'),
        make_request("POST", "/v1/chat/completions", bytes(range(256)) * 8),
        make_request("POST", "/v1/chat/completions", good, heads),
        make_request("POST", "/v1/chat/completions", good, {"Content-Length": "99999999999"}),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 500000 + b"\r\n\r\n",
    ]
    for shape in shapes * 5:
        with socket.create_connection(cluster.api) as sock:
            sock.settimeout(20)
            try:
                sock.sendall(shape)
                sock.shutdown(socket.SHUT_WR)
                answer = b""
                while piece := sock.recv(65536):
                    answer += piece
            except OSError:  # closed while we were still sending
                continue
            run.check(not answer or answer[9:10] == b"4", f"{shape[:40]!r}: {answer[:100]!r}")
    run.more(crowd)
    run.operator_sees()
