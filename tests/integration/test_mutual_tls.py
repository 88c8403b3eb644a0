"""Mutual TLS between coordinator and nodes: both ways, and the refusals."""

import json
import os
import re
import signal
import ssl
import urllib.request

import pytest

from harness import SLOW, until
from load import chat_body, fetch_now
from pki import Pki


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    made = Pki(tmp_path_factory.mktemp("pki"))
    for name in ("ca", "other"):
        made.authority(name)
    for name in ("coordinator", "node", "api"):
        made.issue(name)
    made.issue("stranger", ca="other")
    made.issue("expired", days=-1)
    made.issue("elsewhere", names="DNS:elsewhere.example")
    return made


def join_over_tls(cluster, pki, cert="node", ca="ca", name="a"):
    """A drover-node that joins the registry over TLS and serves over TLS; cert None: neither."""
    argv = cluster.node_argv(name, cluster.start_engine("slots=8")[1])
    argv += ["--coordinator", "localhost:%d" % cluster.address("registry")[1],
             "--token-file", str(cluster.token_path), "--coordinator-tls-ca", pki.cert(ca)]
    if cert:
        argv += ["--tls-cert", pki.cert(cert), "--tls-key", pki.key(cert),
                 "--tls-ca", pki.cert(ca)]
    return cluster.run_node(name, argv)


def tls_cluster(make_cluster, pki, cert="coordinator", **config):
    return make_cluster(config={"registry": {"tls": pki.server(cert, ca="ca")}, **config}).start()


def serves(cluster):
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4))
    return answer.status == 200


def test_a_node_joins_and_serves_with_certificates_on_both_sides(make_cluster, pki):
    cluster = tls_cluster(make_cluster, pki)
    cluster.wait_up("a", join_over_tls(cluster, pki))
    assert serves(cluster)


# A refusal's signs: in the log of the side that refuses, and of the side that is refused.
REFUSED = r'event=tls_refused peer="127.0.0.1:\d+" why="TLS: [^"]*%s'


@pytest.mark.parametrize("cert,why", [
    (None, "peer did not return a certificate"),
    ("stranger", "unable to get local issuer certificate"),
    ("expired", "certificate has expired"),
])
def test_the_registry_refuses_a_node_without_a_good_certificate(make_cluster, pki, cert, why):
    cluster = tls_cluster(make_cluster, pki)
    node = join_over_tls(cluster, pki, cert)
    until(lambda: re.search(REFUSED % why, cluster.master.log()), 15, "the registry's refusal")
    until(lambda: re.search(r'why="[^"]*TLS: ', node.process.log()), 15, "the node's own line")
    assert cluster.node_row("a") is None
    # Others join all the same.
    cluster.wait_up("good", join_over_tls(cluster, pki, name="good"))


@pytest.mark.parametrize("cert,why", [
    ("stranger", "unable to get local issuer certificate"),
    ("expired", "certificate has expired"),
    ("elsewhere", "hostname mismatch"),
])
def test_a_node_does_not_join_a_coordinator_without_a_good_certificate(make_cluster, pki, cert,
                                                                      why):
    cluster = tls_cluster(make_cluster, pki, cert)
    node = join_over_tls(cluster, pki)
    until(lambda: re.search(rf'why="[^"]*certificate not accepted: {why}', node.process.log()),
          15, "the node's refusal")
    assert cluster.node_row("a") is None


def static_cluster(make_cluster, pki, node_cert="node", **tls):
    cluster = make_cluster(token=False)
    _, engine = cluster.start_engine("slots=8")
    # Certificates protect it as well as a token would: other machines may reach it.
    node = cluster.run_node("a", cluster.node_argv("a", engine, [
        "--listen", "0.0.0.0:0", "--tls-cert", pki.cert(node_cert), "--tls-key",
        pki.key(node_cert), "--tls-ca", pki.cert("ca")]))
    cluster.settings["nodes"] = [{"name": "a", "tls": tls, "address":
                                  node.address().replace("0.0.0.0", "127.0.0.1")}]
    cluster.start()
    return cluster, node


def test_a_node_that_demands_certificates_needs_no_token(make_cluster, pki):
    cluster, node = static_cluster(make_cluster, pki, **pki.server("coordinator", ca="ca"))
    cluster.wait_up("a", node)
    assert serves(cluster)
    assert "NO TOKEN" not in node.process.log() and "certificate" in node.process.log()


@pytest.mark.parametrize("cert,why", [
    (None, "peer did not return a certificate"),
    ("stranger", "unable to get local issuer certificate"),
    ("expired", "certificate has expired"),
])
def test_a_node_refuses_a_coordinator_without_a_good_certificate(make_cluster, pki, cert, why):
    own = {"cert": pki.cert(cert), "key": pki.key(cert)} if cert else {}
    cluster, node = static_cluster(make_cluster, pki, ca=pki.cert("ca"), **own)
    until(lambda: re.search(REFUSED % why, node.process.log()), 15, "the node's refusal")
    until(lambda: re.search(r'event=probe_failed node="a" [^\n]*TLS: ', cluster.master.log()), 15)
    assert cluster.node_state("a") != "UP"


@pytest.mark.parametrize("cert,why", [
    ("stranger", "unable to get local issuer certificate"),
    ("expired", "certificate has expired"),
    ("elsewhere", "IP address mismatch"),
])
def test_the_coordinator_refuses_a_node_that_it_is_to_reach(make_cluster, pki, cert, why):
    cluster, _ = static_cluster(make_cluster, pki, cert, **pki.server("coordinator", ca="ca"))
    until(lambda: re.search(rf'event=probe_failed node="a" [^\n]*certificate not accepted: {why}',
                            cluster.master.log()), 15, "the coordinator's refusal")
    assert cluster.node_state("a") != "UP"


def test_a_node_that_cannot_be_probed_for_its_certificate_is_once_that_is_mended(make_cluster, pki):
    """A health process that starts while the file is bad knows the node and cannot reach it."""
    ca = pki.folder / "changing.pem"
    good = open(pki.cert("ca"), encoding="ascii").read()
    ca.write_text(good)
    cluster, node = static_cluster(make_cluster, pki, ca=str(ca), cert=pki.cert("coordinator"),
                                   key=pki.key("coordinator"))
    cluster.wait_up("a")
    ca.write_text(good.replace("M", "!"))
    os.kill(cluster.health_pid(), signal.SIGKILL)
    until(lambda: "event=node_tls_bad" in cluster.master.log(), 15, "it cannot be used")
    ca.write_text(good)
    cluster.ctl("reload")
    node.process.kill_all()
    until(lambda: cluster.node_state("a") == "DOWN", 15, "it is probed again")


def test_a_reload_brings_a_new_certificate_to_the_registry(make_cluster, pki):
    pki.issue("renewed", ca="other")
    cluster = tls_cluster(make_cluster, pki, cert="renewed")
    node = join_over_tls(cluster, pki)
    until(lambda: "certificate not accepted" in node.process.log(), 15)
    pki.issue("renewed", ca="ca")  # other contents under the same name
    cluster.ctl("reload")
    cluster.wait_up("a", node, 30)
    assert serves(cluster)


# ---- the admin listener ----

def test_the_admin_listener_can_demand_certificates(make_cluster, pki):
    cluster = make_cluster(config={"admin": {"listen": "0.0.0.0:0",
                                             "tls": pki.server("api", ca="ca")}}).start()
    url = "https://localhost:%d/livez" % cluster.address("admin")[1]
    context = ssl.create_default_context(cafile=pki.cert("ca"))
    with pytest.raises((ssl.SSLError, OSError)):
        urllib.request.urlopen(url, context=context, timeout=10 * SLOW).read()
    context.load_cert_chain(pki.cert("coordinator"), pki.key("coordinator"))
    assert urllib.request.urlopen(url, context=context, timeout=10 * SLOW).read() == b"alive\n"
    # The harness looks at the metrics in clear at the end; a reload may take TLS away.
    cluster.write_config(admin={"tls": {"enabled": False}, "allow_remote": True})
    cluster.ctl("reload")
    until(lambda: "event=reloaded nodes=" in cluster.master.log(), 10)
    assert "drover_info" in urllib.request.urlopen(
        "http://127.0.0.1:%d/metrics" % cluster.address("admin")[1], timeout=10 * SLOW).read().decode()


def test_the_admin_listener_is_no_way_to_inference_and_the_api_none_to_metrics(cluster):
    admin = cluster.address("admin")
    assert fetch_now(admin, "POST", "/v1/chat/completions", chat_body("hi", 4)).status == 405
    assert fetch_now(admin, "GET", "/v1/models").status == 404
    for path in ("/metrics", "/nodes"):
        answer = fetch_now(cluster.api, "GET", path)
        assert answer.status == 404
        assert "drover_" not in json.loads(answer.body)["error"]["message"]


@pytest.mark.parametrize("host,status", [("localhost:8081", 200), ("127.0.0.1", 200),
                                         ("rebind.example.com", 421),
                                         ("rebind.example.com:8081", 421)])
def test_a_page_that_calls_itself_by_this_machines_address_reads_nothing(cluster, host, status):
    answer = fetch_now(cluster.address("admin"), "GET", "/metrics", b"", {"Host": host})
    assert answer.status == status
    assert (b"drover_info" in answer.body) == (status == 200)
