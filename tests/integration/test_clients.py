"""The official JavaScript clients, as people use them."""

import json
import os
import subprocess

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from harness import Cluster, MODEL, ROOT, SLOW, until
from load import fetch_now

MODULES = os.environ.get("DROVER_NODE_MODULES", str(ROOT / "tests/npm/node_modules"))


def client_argv(client, url, case, *args):
    return ["node", str(ROOT / "tests/clients" / f"{client}.cjs"), url, case, *args]


def client_env(model=MODEL):
    return dict(os.environ, NODE_PATH=MODULES, DROVER_TEST_MODEL=model)


def run_client(client, url, case, *args, model=MODEL):
    done = subprocess.run(client_argv(client, url, case, *args), env=client_env(model),
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == 0, f"{client} {case}:\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def test_the_admin_page_shows_the_nodes_as_text(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("tower", "slots=3")
    cluster.start_node("desk", "slots=5")
    cluster.ctl("drain", "desk")
    admin = cluster.address("admin")
    page = fetch_now(admin, "GET", "/")
    assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert b"http://" not in page.body and b"https://" not in page.body, "it needs no other place"
    seen = run_client("dashboard", "http://%s:%d" % admin, "show", "2")
    assert seen["figures"].startswith("1 / 2|nodes up|0 / 3|requests on slots")
    rows = {row.split("|")[0]: row.split("|") for row in seen["nodes"]}
    assert rows["tower"][1] == "UP" and "0 / 3" in "|".join(rows["tower"])
    assert rows["desk"][1].startswith("DRAINING (")
    assert MODEL in rows["tower"][-1]


class BackgroundClient:
    """A client script under way; said() waits for what it prints on its error output."""

    def __init__(self, client, url, case, *args, model=MODEL):
        self.popen = subprocess.Popen(client_argv(client, url, case, *args),
                                      env=client_env(model), stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True)

    def said(self, text):
        line = self.popen.stderr.readline()
        assert text in line, line + self.popen.stderr.read()

    def result(self):
        out, err = self.popen.communicate(timeout=60 * SLOW)
        assert self.popen.returncode == 0, out + err
        return json.loads(out)


@pytest.fixture(scope="module")
def shared(request):
    if not os.path.isdir(MODULES):
        pytest.fail(f"{MODULES} is missing: run `npm ci` in tests/npm, or scripts/test")
    cluster = Cluster("clients").start()
    for name in ("a", "b"):
        cluster.start_node(name, "slots=8")
    cluster.wait_models_known()
    yield cluster
    cluster.finish(request.session.testsfailed > 0)


@pytest.mark.parametrize("case", ["chat", "stream", "streamWithoutUsage", "completions",
                                  "streamCompletions",
                                  "embeddings", "models", "errorUnknownModel",
                                  "errorBadRequest"])
def test_the_openai_client_is_served(shared, case):
    run_client("openai", shared.url, case)


@pytest.mark.parametrize("case", ["messages", "stream", "errorUnknownModel", "errorBadRequest"])
def test_the_anthropic_client_is_served(shared, case):
    run_client("anthropic", shared.url, case)


@pytest.mark.parametrize("case", ["chat", "stream", "generate", "embed", "list", "manage",
                                  "errorUnknownModel"])
def test_the_ollama_client_is_served(shared, case):
    run_client("ollama", shared.url, case)


def test_all_three_surfaces_stream_the_text_they_also_give_whole(shared):
    for client, whole in (("openai", "chat"), ("anthropic", "messages"), ("ollama", "chat")):
        assert run_client(client, shared.url, whole) == run_client(client, shared.url, "stream")


def test_blocks_without_data_do_not_reach_a_client_that_would_stumble_over_them(make_cluster):
    def behave(handler, path, body):
        handler.begin_stream()
        handler.send_piece(b"retry: 3000\n\nevent: ping\n\n")
        handler.send_event(chunk("Hello"))
        handler.send_piece(b"event: ping\n\nid: 7\n\ndata:\n\n: a comment\n\n")
        handler.send_event(chunk(" there"))
        handler.send_event(chunk(finish="stop"))
        handler.send_event(b"[DONE]")
        handler.end_stream()
    engine = FakeEngine(behave)
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    assert run_client("openai", cluster.url, "silentBlocks", model=FAKE) == "Hello there"
    engine.close()


def test_an_abort_by_the_openai_client_frees_the_slot_within_a_second(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("a", "slots=4,rate=50")
    run_client("openai", cluster.url, "abort", "js-abort")
    until(cluster.idle, 1, "the slot is free")
    line = cluster.access_line("js-abort")
    assert line["status"] == 499 and line["outcome"] == "client_gone"


def test_the_openai_client_does_not_retry_what_drover_has_retried(make_cluster):
    engine = FakeEngine(lambda handler, path, body: handler.drop())
    cluster = make_cluster().start()
    cluster.start_node("bad", engine=engine.url)
    run_client("openai", cluster.url, "noRetryAfterFinalFailure", model=FAKE)
    engine.close()


def test_the_openai_client_waits_as_retry_after_says_and_succeeds_when_a_node_is_back(make_cluster):
    cluster = make_cluster(config={"queue": {"max_wait_ms": 200}}).start()
    node = cluster.start_node("a")
    node.process.kill_all()
    cluster.nodes.remove(node)
    until(lambda: cluster.node_state("a") == "DOWN", 10)
    client = BackgroundClient("openai", cluster.url, "retryAfter")
    client.said("first answer was 503")
    cluster.start_node("a")
    assert client.result() >= 2


@pytest.mark.parametrize("client", ["openai", "anthropic", "ollama"])
def test_each_client_sees_an_error_when_its_node_dies_in_mid_stream(make_cluster, client):
    cluster = make_cluster().start()
    node = cluster.start_node("a", "slots=4,rate=20")
    running = BackgroundClient(client, cluster.url, "streamError")
    running.said("streaming")
    node.process.kill_all()
    cluster.nodes.remove(node)
    assert running.result()
