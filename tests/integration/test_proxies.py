"""Behind a balancer the client is the one that it names: api.trusted_proxies.  (What proxies may say, and to whom it
matters: tests/unit/worker/test_peer.c.)"""

import re
import socket
import ssl

from harness import SLOW, until
from load import chat_body, make_request
from pki import Pki
from test_resources import connect_and_say, read_all

CHAT = "/v1/chat/completions"
V1 = b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 8080\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x0a\x00\x00\x01\x12\x67\x1f\x90"


def behind(make_cluster, proxies, **api):
    cluster = make_cluster(workers=1, config={"api": {"trusted_proxies": proxies, **api}}).start()
    cluster.start_node("a")
    return cluster


def request(name, **headers):
    return make_request("POST", CHAT, chat_body("hi", 2, stream=False),
                        {"x-request-id": name, "Connection": "close", **headers})


def client_of(cluster, name, line=b"", say=None, **headers):
    """The client in the access log, of a request on a connection that begins with `line`."""
    answer = read_all((say or connect_and_say)(cluster.api, line + request(name, **headers)))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return cluster.access_line(name)["client"]


def is_read(s):
    """Has the worker taken all that was sent on this connection?"""
    port, own = (f"{address[1]:04X}" for address in (s.getpeername(), s.getsockname()))
    with open("/proc/net/tcp", encoding="ascii") as table:
        found = re.search(rf":{port} [0-9A-F]+:{own} 01 [0-9A-F]+:([0-9A-F]+) ", table.read())
    return found and int(found.group(1), 16) == 0


def in_pieces(address, data):
    s = socket.create_connection(address, 30 * SLOW)
    for piece in data[:3], data[3:20], data[20:50], data[50:]:
        s.sendall(piece)
        until(lambda: is_read(s), 10)
    return s


def test_a_trusted_proxy_says_who_the_client_is(make_cluster):
    cluster = behind(make_cluster, ["127.0.0.0/8", "10.0.0.0/8"])
    forwarded = {"X-Forwarded-For": "6.6.6.6, 198.51.100.1, 10.0.0.9"}
    assert client_of(cluster, "plain") == "127.0.0.1"
    assert client_of(cluster, "forwarded", **forwarded) == "198.51.100.1"
    assert client_of(cluster, "v1", V1) == "198.51.100.7"
    assert client_of(cluster, "v2", V2) == "203.0.113.9"
    assert client_of(cluster, "both", V1, **forwarded) == "198.51.100.7"
    assert client_of(cluster, "pieces", V1, in_pieces) == "198.51.100.7"
    refused = connect_and_say(cluster.api, b"PROXY TCP4 1.2.3 nonsense\r\n" + request("bad"))
    assert read_all(refused) == b""
    until(lambda: "event=proxy_line_refused proxy=127.0.0.1" in cluster.master.log(), 10)
    # Others are not believed, from the reload on.
    cluster.settings["api"]["trusted_proxies"] = ["192.0.2.1"]
    cluster.write_config()
    cluster.ctl("reload")
    until(lambda: read_all(connect_and_say(cluster.api, V1 + request("line"))).startswith(b"HTTP/1.1 400 "), 20)
    assert client_of(cluster, "forged", **forwarded) == "127.0.0.1"


def test_the_line_comes_before_tls(make_cluster, tmp_path):
    pki = Pki(tmp_path)
    pki.authority("ca")
    pki.issue("api")
    cluster = behind(make_cluster, ["127.0.0.1"], tls=pki.server("api"))
    context = ssl.create_default_context(cafile=pki.cert("ca"))

    def secured(line, cork=0):
        def say(address, data):
            s = socket.create_connection(address, 30 * SLOW)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, cork)  # with the first bytes of TLS
            s.sendall(line)
            if not cork:
                until(lambda: is_read(s), 10)
            s = context.wrap_socket(s, server_hostname="localhost")
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
            s.sendall(data)
            return s
        return say
    assert client_of(cluster, "none", say=secured(b"")) == "127.0.0.1"
    assert client_of(cluster, "v1", say=secured(V1)) == "198.51.100.7"
    assert client_of(cluster, "corked", say=secured(V1, 1)) == "198.51.100.7"
    assert client_of(cluster, "v2", say=secured(V2, 1)) == "203.0.113.9"
