"""TLS towards clients, and mutual TLS between coordinator and nodes."""

import json
import ssl
import subprocess
import urllib.error
import urllib.request

import pytest

from harness import Node, Process, program, until
from load import chat_body


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """A certificate authority, one certificate each for server and client, and a stranger's."""
    folder = tmp_path_factory.mktemp("pki")
    for ca in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", f"{folder}/{ca}.key", "-out", f"{folder}/{ca}.crt", "-days", "2",
                "-subj", f"/CN=test {ca}")
    for name, ca in (("api", "ca"), ("node", "ca"), ("coordinator", "ca"), ("stranger", "other")):
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.csr",
                "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl("x509", "-req", "-in", f"{folder}/{name}.csr", "-CA", f"{folder}/{ca}.crt",
                "-CAkey", f"{folder}/{ca}.key", "-CAcreateserial", "-days", "2",
                "-extfile", f"{folder}/{name}.ext", "-out", f"{folder}/{name}.crt")
    return folder


def https(cluster, pki, path, body=None):
    context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    context.set_alpn_protocols(["h2", "http/1.1"])
    request = urllib.request.Request(
        "https://127.0.0.1:%d%s" % (cluster.api[1], path),
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"})
    return urllib.request.urlopen(request, context=context, timeout=30)


def test_clients_are_served_over_tls_with_http_1(make_cluster, pki):
    cluster = make_cluster(config={"api": {"tls": {
        "enabled": True, "cert": f"{pki}/api.crt", "key": f"{pki}/api.key"}}}).start()
    cluster.start_node("a")
    with https(cluster, pki, "/v1/chat/completions", chat_body("hi", 4)) as answer:
        assert answer.status == 200
        data = answer.read()
    assert data.endswith(b"data: [DONE]\n\n")
    # Even a client that would rather speak HTTP/2 gets HTTP/1.1.
    context = ssl.create_default_context(cafile=f"{pki}/ca.crt")
    context.set_alpn_protocols(["h2", "http/1.1"])
    import socket
    with context.wrap_socket(socket.create_connection(cluster.api, 10),
                             server_hostname="localhost") as s:
        assert s.selected_alpn_protocol() in (None, "http/1.1")
        assert s.version() in ("TLSv1.2", "TLSv1.3")
    # Cleartext on the TLS port is no way in, and hurts nobody.
    with socket.create_connection(cluster.api, 10) as s:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            assert not s.recv(100).startswith(b"HTTP/1.1 200")
        except ConnectionResetError:
            pass
    with https(cluster, pki, "/livez") as answer:
        assert answer.status == 200


def start_tls_node(cluster, pki, name="secure", cert="node"):
    process = Process(
        [program("drover-node"), "--engine", "sim:slots=8", "--name", name,
         "--listen", "127.0.0.1:0", "--insecure-no-token", "--tls-cert", f"{pki}/{cert}.crt",
         "--tls-key", f"{pki}/{cert}.key", "--tls-ca", f"{pki}/ca.crt"],
        cluster.dir / f"node-{name}-{len(cluster.nodes)}.log")
    node = Node(process, name)
    cluster.nodes.append(node)
    return node


def cluster_with_tls_node(make_cluster, pki, node_cert="node", our_cert="coordinator"):
    cluster = make_cluster(token=False)
    node = start_tls_node(cluster, pki, cert=node_cert)
    cluster.settings["nodes"] = [{
        "name": "secure", "address": node.address(),
        "tls": {"enabled": True, "ca": f"{pki}/ca.crt", "cert": f"{pki}/{our_cert}.crt",
                "key": f"{pki}/{our_cert}.key"}}]
    return cluster.start()


def test_coordinator_and_node_talk_over_mutual_tls(make_cluster, pki):
    cluster = cluster_with_tls_node(make_cluster, pki)
    cluster.wait_up("secure")
    from load import fetch_now
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4))
    assert answer.status == 200, answer.body
    assert answer.headers["x-drover-node"] == "secure"


@pytest.mark.parametrize("node_cert,our_cert", [("stranger", "coordinator"),
                                                ("node", "stranger")],
                         ids=["the node's certificate is foreign", "ours is foreign to the node"])
def test_a_peer_with_a_certificate_of_another_authority_is_not_used(make_cluster, pki, node_cert,
                                                                   our_cert):
    cluster = cluster_with_tls_node(make_cluster, pki, node_cert, our_cert)
    until(lambda: cluster.node_row("secure")["reason"] not in ("new", "none"), 10,
          "a verdict on the node")
    assert cluster.node_state("secure") != "UP"
    from load import fetch_now
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 4), timeout_s=60)
    assert answer.status in (404, 503)
