"""Failures between a worker and a node before the first content, frame by frame.

A proxy stands before one of two nodes.  It passes HTTP/2 frames on until a request with the marker
in its body comes by; then it plays the trick of the test, once.
"""

import os
import socket
import struct
import threading

import pytest

from harness import SLOW, Cluster
from load import chat_body, check_one_attempt, fetch_now, text_of
from wire import CALM, DATA, HEADERS, INTERNAL_ERROR, REFUSED_STREAM, RST, frame, framed, goaway

CHAT = "/v1/chat/completions"
MARKER = b"meet the proxy"


class Proxy:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.target = None
        self.trick = None  # called once with (link, stream) when the marker comes by
        self.tricked = 0
        self.cancelled = []  # streams that the worker reset
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
                server.settimeout(None)
            except (OSError, TypeError):
                client.close()
                continue
            link = Link(self, client, server)
            threading.Thread(target=link.up, daemon=True).start()
            threading.Thread(target=link.down, daemon=True).start()

    def close(self):
        self.listener.close()


class Link:
    """One connection through the proxy."""

    def __init__(self, proxy, client, server):
        self.proxy = proxy
        self.client = client
        self.server = server
        self.lock = threading.Lock()  # of writing to the client
        self.mute = set()  # streams whose frames do not reach the client; 0: none at all

    def frames(self, sock, preface):
        file = sock.makefile("rb")
        if preface:
            yield None, 0, 0, file.read(24)
        while True:
            head = file.read(9)
            if len(head) < 9:
                return
            length = int.from_bytes(head[:3], "big")
            stream = int.from_bytes(head[5:], "big") & 0x7fffffff
            yield head[3], head[4], stream, head + file.read(length)

    def up(self):
        try:
            for kind, _, stream, data in self.frames(self.client, True):
                if kind == RST:
                    self.proxy.cancelled.append(stream)
                if kind == DATA and MARKER in data and self.proxy.trick is not None:
                    trick, self.proxy.trick = self.proxy.trick, None
                    self.proxy.tricked += 1
                    trick(self, stream)
                    if 0 in self.mute:
                        continue
                    self.mute.add(stream)
                if stream == 0 or stream not in self.mute:
                    self.server.sendall(data)
        except (OSError, ValueError):
            pass
        self.end()

    def down(self):
        try:
            for _, _, stream, data in self.frames(self.server, False):
                if 0 not in self.mute and (stream == 0 or stream not in self.mute):
                    self.say(data)
        except (OSError, ValueError):
            pass
        self.end()

    def say(self, data):
        with self.lock:
            self.client.sendall(data)

    def end(self):
        for sock in (self.client, self.server):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    # ---- tricks ----

    def go_away_unseen(self, _):
        """A polite end: nothing of what is under way was looked at."""
        self.say(goaway(0))

    def go_away_angry(self, stream):
        self.say(goaway(stream, CALM))
        self.end()

    def refuse(self, stream):
        self.say(frame(RST, 0, stream, struct.pack(">I", REFUSED_STREAM)))

    def reset_stream(self, stream):
        self.say(frame(RST, 0, stream, struct.pack(">I", INTERNAL_ERROR)))

    def reset_connection(self, _):
        self.mute.add(0)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def close_connection(self, _):
        self.end()

    def say_nothing(self, _):
        self.mute.add(0)

    def talk_nonsense(self, _):
        self.mute.add(0)
        self.say(os.urandom(64).replace(b"\0", b"\1") + b"HTTP/1.1 500 no\r\n\r\n")

    def answer_garbage(self, stream):
        """Proper frames around a message that is none."""
        # :status 200 by index; content-type: application/grpc without indexing
        block = b"\x88\x00\x0ccontent-type\x10application/grpc"
        self.say(frame(HEADERS, 4, stream, block))
        self.say(frame(DATA, 0, stream, framed(b"\xff\xff\xff\xff")))

    def answer_page(self, stream):
        """An HTTP error, as a proxy would send it."""
        self.say(frame(HEADERS, 4 | 1, stream, b"\x8e"))  # :status 500 by index


TRICKS = ["go_away_unseen", "go_away_angry", "refuse", "reset_stream", "reset_connection",
          "close_connection", "say_nothing", "talk_nonsense", "answer_garbage", "answer_page"]


@pytest.fixture(scope="module")
def wire(request):
    proxy = Proxy()
    made = Cluster("wire", token=False, config={
        "policy": "round_robin",
        # A connection that is lost under a probe takes the node out for a moment: not the matter here.
        "health": {"fall": 20}, "limits": {"first_token_ms": int(200 * SLOW)}})
    nodes = [made.start_node(name, "slots=8,speed=20", join=False, wait=False)
             for name in ("proxied", "plain")]
    proxy.target = int(nodes[0].address().rsplit(":", 1)[1])
    made.settings["nodes"] = [
        {"name": "proxied", "address": f"127.0.0.1:{proxy.port}"},
        {"name": "plain", "address": nodes[1].address()}]
    made.start()
    for node in nodes:
        made.wait_up(node.name, node)
    yield made, proxy
    made.finish(request.session.testsfailed > 0)
    proxy.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_break_on_the_way_before_content_costs_the_client_nothing(wire, trick, stream):
    cluster, proxy = wire
    proxy.trick = lambda link, number: getattr(link, trick)(number)
    before = proxy.tricked
    for turn in range(40):  # until one goes by the proxy
        cluster.wait_up("proxied")
        request_id = f"{trick}-{stream}-{turn}"
        answer = fetch_now(cluster.api, "POST", CHAT,
                           chat_body(MARKER.decode(), 6, stream), {"x-request-id": request_id})
        assert answer.status == 200, answer.body
        if stream:
            assert text_of(answer.body)
            check_one_attempt(answer.body)
        else:
            assert answer.json()["choices"][0]["message"]["content"]
        if proxy.tricked > before:
            break
    assert proxy.tricked == before + 1, "no request came by the proxy"
    attempts = 1 if trick in ("go_away_unseen", "refuse") else 2  # it never had the request
    assert answer.headers["x-drover-attempts"] == str(attempts)
    assert answer.headers["x-drover-node"] == "plain"
    line = cluster.access_line(request_id)
    assert line["outcome"] == "ok" and line["attempts"] == attempts
    decisions = cluster.ctl_json("explain", request_id)["decisions"]
    assert [d["node"] for d in sorted(decisions, key=lambda d: d["attempt"])] == [
        "proxied", "plain"]
    cluster.wait_idle()


@pytest.fixture(scope="module")
def alone(request):
    """The only node, behind the proxy."""
    proxy = Proxy()
    made = Cluster("wire-alone", token=False, config={"health": {"fall": 20}})
    node = made.start_node("proxied", "slots=8,speed=20", join=False, wait=False)
    proxy.target = int(node.address().rsplit(":", 1)[1])
    made.settings["nodes"] = [{"name": "proxied", "address": f"127.0.0.1:{proxy.port}"}]
    made.start()
    made.wait_up("proxied", node)
    yield made, proxy
    made.finish(request.session.testsfailed > 0)
    proxy.close()


@pytest.mark.parametrize("path", [CHAT, "/v1/messages/count_tokens"])
@pytest.mark.parametrize("trick", ["go_away_unseen", "refuse"])
def test_the_only_node_is_asked_again_when_it_did_not_take_a_request(alone, trick, path):
    """As one that closes its connections after some time does."""
    cluster, proxy = alone
    cluster.wait_up("proxied")
    before = proxy.tricked
    proxy.trick = lambda link, number: getattr(link, trick)(number)
    answer = fetch_now(cluster.api, "POST", path, chat_body(MARKER.decode(), 6, False))
    assert proxy.tricked == before + 1
    assert answer.status == 200, answer.body
    assert answer.headers["x-drover-attempts"] == "1"
    cluster.wait_idle()
