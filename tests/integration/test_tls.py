"""TLS towards clients.  Between coordinator and nodes: test_mutual_tls.py."""

import json
import socket
import ssl
import time
import urllib.request

import pytest

from harness import SLOW, until
from load import chat_body
from pki import Pki


pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.authority("ca")
    for name in ("api", "client"):
        made.issue(name)
    return made


def tls_cluster(make_cluster, pki, name="api", **config):
    return make_cluster(config={"api": {"tls": pki.server(name)}, **config}).start()


def trusting(pki):
    return ssl.create_default_context(cafile=pki.cert("ca"))


def dial(cluster, context):
    return context.wrap_socket(socket.create_connection(cluster.api, 30),
                               server_hostname="localhost")


def https(cluster, pki, path, body=None):
    request = urllib.request.Request(
        "https://127.0.0.1:%d%s" % (cluster.api[1], path),
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"})
    return urllib.request.urlopen(request, context=trusting(pki), timeout=30 * SLOW)


def test_clients_are_served_over_tls(make_cluster, pki):
    cluster = tls_cluster(make_cluster, pki)
    cluster.start_node("a")
    with https(cluster, pki, "/v1/chat/completions", chat_body("hi", 4)) as answer:
        assert answer.status == 200
        assert answer.read().endswith(b"data: [DONE]\n\n")
    # Cleartext on the TLS port is refused, and other clients are served.
    with socket.create_connection(cluster.api, 10) as s:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert not s.recv(100).startswith(b"HTTP/1.1 200")
        except ConnectionResetError:
            pass
    with https(cluster, pki, "/livez") as answer:
        assert answer.status == 200


def test_only_tls_1_2_and_newer_and_only_http_1(make_cluster, pki):
    cluster = tls_cluster(make_cluster, pki)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting(pki)
        context.minimum_version = context.maximum_version = version
        # Even a client that would rather speak HTTP/2 gets HTTP/1.1.
        context.set_alpn_protocols(["h2", "http/1.1"])
        with dial(cluster, context) as s:
            assert s.selected_alpn_protocol() == "http/1.1"
    context = trusting(pki)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        dial(cluster, context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    dial(cluster, context).close()
    context = trusting(pki)
    context.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLError):
        dial(cluster, context)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
                         ids=["nothing", "half a ClientHello"])
def test_a_handshake_that_does_not_end_is_ended(make_cluster, pki, said):
    cluster = tls_cluster(make_cluster, pki, limits={"header_timeout_ms": 300})
    with socket.create_connection(cluster.api, 30) as s:
        s.sendall(said)
        s.settimeout(30)
        assert s.recv(1) == b"", "hung up on"
    with https(cluster, pki, "/livez") as answer:
        assert answer.status == 200


def test_a_listener_can_demand_client_certificates(make_cluster, pki):
    cluster = make_cluster(config={"api": {"tls": pki.server("api", ca="ca")}}).start()

    def first_line(context):
        try:
            with dial(cluster, context) as s:
                s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                return s.recv(15)
        except OSError:
            return b""

    context = trusting(pki)
    assert first_line(context) == b""
    context.load_cert_chain(pki.cert("client"), pki.key("client"))
    assert first_line(context) == b"HTTP/1.1 200 OK"


def test_a_new_certificate_comes_by_reload_and_leaves_running_answers_alone(make_cluster, pki):
    pki.issue("renewed")
    cluster = tls_cluster(make_cluster, pki, "renewed")
    cluster.start_node("a", "rate=40")

    def serial():
        with dial(cluster, trusting(pki)) as s:
            return s.getpeercert()["serialNumber"]

    old = serial()
    body = json.dumps(chat_body("hi", 60)).encode()
    with dial(cluster, trusting(pki)) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                  % (len(body), body))
        data = s.recv(65536)
        pki.issue("renewed")
        cluster.ctl("reload")
        until(lambda: serial() != old, 10, "the new certificate is shown")
        begun = time.monotonic()
        while piece := s.recv(65536):
            data += piece
        assert time.monotonic() > begun, "it was still running"
    assert data.count(b'"content":') >= 60 and data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
