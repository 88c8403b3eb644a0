"""test_engine_kinds.py - which engines are usable, why one is not, and what each is asked for.

Why an engine is not usable is in the node's log, in `droverctl node` and at /nodes, in the same
words: what happened, where, what to do.
"""

import http.server
import json
import re
import ssl
import threading
import urllib.error
import urllib.request

import pytest

from fake_engine import FakeEngine
from harness import Cluster, free_port, until
from lm_studio import LmStudio
from load import fetch_now
from ollama import Ollama
from pki import Pki

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def cluster(request):
    cluster = Cluster("kinds").start()
    yield cluster
    cluster.finish(request.session.testsfailed > 0)


def nodes_json(cluster):
    url = "http://%s:%d/nodes" % cluster.address("admin")
    return {node["name"]: node for node in json.load(urllib.request.urlopen(url))["nodes"]}


def post(cluster, path, body, headers=None):
    return fetch_now(cluster.api, "POST", path, json.dumps(body).encode(),
                     {"content-type": "application/json", **(headers or {})})


def models(cluster):
    answer = fetch_now(cluster.api, "GET", "/v1/models")
    return [model["id"] for model in answer.json().get("data", [])]


def reason_everywhere(cluster, node, *words):
    """Waits until all three places say it."""
    def there():
        shown = nodes_json(cluster).get(node.name, {}).get("detail", "")
        text = re.sub(r"\s+", " ", cluster.ctl("node", node.name, check=False).stdout)
        return all(word in shown and word in node.process.log() and word in text
                   for word in words)
    until(there, 8, f"{node.name} says {words}: {nodes_json(cluster)} {node.process.log()}")
    assert cluster.node_state(node.name) != "UP"


class Site:
    """A web server that gives each path its (status, content type, text), others `page`."""

    def __init__(self, pages, server="nginx", cert=None,
                 page=(404, "text/html", "<html>no</html>")):
        self.asked = asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            server_version, sys_version = server, ""

            def do_GET(self):
                status, kind, text = pages.get(self.path, page)
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        scheme = "http"
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*cert)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


LIST = json.dumps({"object": "list", "data": [{"id": "m", "owned_by": "me"}]})
JSON = "application/json"


# ---- why it is not usable ------------------------------------------------------------------------


def test_a_refused_key_is_said_everywhere_and_so_is_what_comes_next(cluster):
    site = Site({"/v1/models": (401, JSON, '{"error":{"message":"Invalid API Key"}}')})
    node = cluster.start_node("a", engine=site.url, wait=False)
    reason_everywhere(cluster, node, site.url, "refuses our API key", "--engine-key-file")
    site.server.shutdown()
    site.server.server_close()
    reason_everywhere(cluster, node, "connect", "start the engine")
    assert "not asked yet" not in node.process.log()
    assert "not asked yet" not in cluster.master.log()


def test_a_key_never_shows_in_a_reason(cluster):
    site = Site({"/v1/models": (403, JSON, '{"error":"no"}')})
    key = cluster.dir / "key"
    key.write_text("sk-very-secret-0123456789\n")
    key.chmod(0o600)
    node = cluster.start_node("a", engine=site.url, wait=False,
                              extra=["--engine-key-file", str(key)])
    reason_everywhere(cluster, node, "refuses our API key")
    for text in (node.process.log(), cluster.master.log(), json.dumps(nodes_json(cluster)),
                 cluster.ctl("node", "a").stdout):
        assert "sk-very-secret" not in text


def test_a_key_that_is_refused_to_requests_alone_is_said_until_one_is_answered(cluster):
    """The list of models is open to everybody there."""
    engine = FakeEngine(lambda handler, path, body: handler.answer(
        401, {"error": {"message": "No auth credentials found"}}))
    node = cluster.start_node("a", engine=engine.url)

    def said():
        shown = nodes_json(cluster)["a"]["detail"]
        return [("refuses requests for our API key" in text and "--engine-key-file" in text)
                for text in (shown, node.process.log(),
                             re.sub(r"\s+", " ", cluster.ctl("node", "a").stdout))]

    assert said() == [False] * 3
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "fake-model"}).status == 502
    until(lambda: said() == [True] * 3, 8, "it is said everywhere")
    engine.behave = lambda handler, path, body: handler.chat(body)
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "fake-model"}).status == 200
    until(lambda: nodes_json(cluster)["a"]["detail"] == "", 8, "it is said no more")


@pytest.mark.parametrize("engine, words", [
    (f"http://127.0.0.1:{free_port()}", ["connect", "start the engine there"]),
    ("http://no-such-host.invalid:1", ["resolve", "correct the host name"])])
def test_an_engine_that_cannot_be_reached_is_named_with_its_cause(cluster, engine, words):
    node = cluster.start_node("a", engine=engine, wait=False)
    reason_everywhere(cluster, node, engine, *words)


def test_a_web_server_is_no_engine_and_never_up(cluster):
    page = (200, "text/html", "<html>hello</html>")
    node = cluster.start_node("a", engine=Site({"/": page, "/v1/models": page}).url, wait=False)
    reason_everywhere(cluster, node, "is it an engine?", "--model")
    assert cluster.node_row("a")["reason"] == "no_models"


def test_a_page_that_a_web_server_gives_to_every_path_is_asked_for_once_a_look(cluster):
    site = Site({}, page=(200, "text/html", "<!doctype html><title>app</title>"))
    node = cluster.start_node("a", engine=site.url, wait=False)
    reason_everywhere(cluster, node, "is it an engine?")
    seen = len(site.asked)
    until(lambda: len(site.asked) >= seen + 3, 10, "three more looks")
    assert set(site.asked[5:]) == {"/v1/models"}, site.asked
    assert cluster.node_row("a")["reason"] == "no_models"


def test_a_server_that_points_elsewhere_is_said_so(cluster):
    node = cluster.start_node("a", engine=Site({}, page=(308, "text/html", "")).url, wait=False)
    reason_everywhere(cluster, node, "answered 308", "another URL", "--engine")


@pytest.mark.parametrize("broken", [(401, JSON, "{}"), (404, "text/html", "<html>"),
                                    (200, "text/html", "<html>"), (500, JSON, "{}")])
def test_a_list_that_is_there_no_more_is_said_and_comes_back(cluster, broken):
    pages = {"/v1/models": (200, JSON, LIST)}
    node = cluster.start_node("a", engine=Site(pages).url, extra=["--look-every", "1"])
    pages["/v1/models"] = broken
    reason_everywhere(cluster, node, "/v1/models")
    pages["/v1/models"] = (200, JSON, LIST)
    cluster.wait_up("a", node)
    until(lambda: models(cluster) == ["m"], 5, "the model is listed")


def test_an_engine_without_a_model_is_up_when_it_has_one(cluster):
    engine = FakeEngine(models=())
    node = cluster.start_node("a", engine=engine.url, wait=False)
    reason_everywhere(cluster, node, "lists no model")
    engine.models = ("first",)
    cluster.wait_up("a", node)
    until(lambda: models(cluster) == ["first"], 5, "the model is listed")
    assert nodes_json(cluster)["a"]["detail"] == ""


def test_a_certificate_is_checked_with_the_given_authority_or_not_at_all(cluster):
    pki = Pki(cluster.dir)
    pki.authority("ca")
    pki.issue("engine")
    site = Site({"/v1/models": (200, JSON, LIST)}, cert=(pki.cert("engine"), pki.key("engine")))
    node = cluster.start_node("strict", engine=site.url, wait=False)
    reason_everywhere(cluster, node, site.url, "certificate", "--engine-ca")
    cluster.start_node("known", engine=site.url, extra=["--engine-ca", str(pki.cert("ca"))])
    cluster.start_node("trusting", engine=site.url, extra=["--engine-insecure"])
    assert cluster.node_state("strict") != "UP"


@pytest.mark.parametrize("days, names", [(2, "DNS:elsewhere"), (-1, "IP:127.0.0.1")],
                         ids=["of another name", "expired"])
def test_a_certificate_that_does_not_fit_is_said(cluster, days, names):
    pki = Pki(cluster.dir)
    pki.authority("ca")
    pki.issue("engine", days=days, names=names)
    site = Site({"/v1/models": (200, JSON, LIST)}, cert=(pki.cert("engine"), pki.key("engine")))
    node = cluster.start_node("a", engine=site.url, wait=False,
                              extra=["--engine-ca", str(pki.cert("ca"))])
    reason_everywhere(cluster, node, site.url, "certificate", "--engine-insecure")


@pytest.mark.parametrize("form", ["{}/", "{}/v1", "{}/v1/", "{}//"])
def test_the_url_may_have_what_people_copy_along(cluster, form):
    engine = FakeEngine()
    cluster.start_node("a", engine=form.format(engine.url))
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "fake-model"}).status == 200
    assert {r.path for r in engine.seen if r.method == "POST"} == {"/v1/chat/completions"}


def test_an_engine_may_live_under_a_prefix_and_on_ipv6(cluster):
    pages = {"/up/v1/models": (200, JSON, LIST)}
    cluster.start_node("a", engine=Site(pages).url + "/up/v1")
    assert models(cluster) == ["m"]
    node = cluster.start_node("b", engine="http://[::1]:1/v1", wait=False)
    reason_everywhere(cluster, node, "http://[::1]:1", "start the engine")


def test_an_authority_that_is_none_is_refused_at_the_start(cluster):
    text = cluster.dir / "no.pem"
    text.write_text("hello\n")
    node = cluster.start_node("a", engine="https://127.0.0.1:1", wait=False,
                              extra=["--engine-ca", str(text)])
    assert node.process.wait() == 1
    assert "no certificate" in node.process.log() and str(text) in node.process.log()


def test_drover_itself_is_named_and_never_an_engine(cluster):
    cluster.start_node("real")
    node = cluster.start_node("loop", engine=cluster.url, wait=False)
    reason_everywhere(cluster, node, "is Llama Drover itself")


# ---- models --------------------------------------------------------------------------------------


def test_hundreds_of_models_with_long_names_are_all_served(cluster):
    names = [f"{i:03d}-" + "x" * 200 for i in range(400)]
    engine = FakeEngine(models=names)
    cluster.start_node("a", engine=engine.url)
    until(lambda: models(cluster) == names, 10, "all are listed")
    answer = post(cluster, "/v1/chat/completions", {**CHAT, "model": names[-1]})
    assert answer.status == 200
    assert json.loads(engine.posts()[-1][2])["model"] == names[-1]


def test_names_beyond_the_bound_are_a_warning_everywhere(cluster):
    engine = FakeEngine(models=[f"m{i}" for i in range(1030)])
    node = cluster.start_node("a", engine=engine.url)
    until(lambda: "6 names of models are left out" in nodes_json(cluster)["a"]["detail"], 10,
          "a warning at /nodes")
    assert "6 names of models are left out" in node.process.log()
    assert "left out" in cluster.ctl("node", "a").stdout
    assert len(models(cluster)) == 1024


def test_a_model_that_is_new_comes_with_the_next_look(cluster):
    engine = FakeEngine(models=["old"])
    cluster.start_node("a", engine=engine.url)
    engine.models = ["old", "new"]
    until(lambda: models(cluster) == ["new", "old"], 70, "both are listed")


def test_the_operator_names_the_models_of_a_server_without_a_list(cluster):
    engine = FakeEngine(models=())
    cluster.start_node("a", engine=engine.url, extra=[
        "--model", "mine", "--operations", "chat_completions"])
    assert models(cluster) == ["mine"]
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "mine"}).status == 200
    assert post(cluster, "/v1/embeddings", {"model": "mine", "input": "x"}).status == 501


def test_the_operator_chooses_among_the_models_of_an_ollama(cluster):
    engine = Ollama(models={"m0:latest": ["completion", "tools"], "big:7b": ["completion"],
                            "other:latest": ["completion"]})
    cluster.start_node("a", engine=engine.url, extra=["--model", "m0", "--model", "big:7b"])
    assert models(cluster) == ["big:7b", "m0"]
    cluster.wait_models_known()
    shown = {model["id"]: model for model in nodes_json(cluster)["a"]["models"]}
    assert shown["m0"]["has"] == ["tools"] and "vision" in shown["m0"]["lacks"]
    for path, body in (("/v1/chat/completions", CHAT), ("/api/chat", {**CHAT, "stream": False}),
                       ("/v1/messages", {**CHAT, "max_tokens": 4})):
        for name in ("m0", "big:7b"):
            answer = post(cluster, path, {**body, "model": name})
            assert answer.status == 200, (path, name, answer.body)
        assert post(cluster, path, {**body, "model": "other"}).status == 404


def test_while_no_model_is_known_clients_get_503_and_retry_after(cluster):
    loading = (503, JSON, '{"error":{"code":503,"message":"Loading model",'
                          '"type":"unavailable_error"}}')
    pages = {path: loading for path in ("/v1/models", "/health", "/props")}
    node = cluster.start_node("a", engine=Site(pages, server="llama.cpp").url, wait=False)
    until(lambda: nodes_json(cluster).get("a", {}).get("reason") == "engine_loading", 10,
          "the node says that it loads")
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/messages", {**CHAT, "max_tokens": 4}),
                       ("/api/chat", CHAT), ("/api/show", {})):
        answer = post(cluster, path, {**body, "model": "x"})
        assert answer.status == 503, (path, answer.body)
        assert int(answer.headers["retry-after"]) >= 1
    assert node.process.running()


def test_a_model_of_lm_studio_is_in_memory_once_it_has_answered(cluster):
    engine = LmStudio(models={"a": "llm", "e": "embeddings"}, load_s=0.2)
    cluster.start_node("n", engine=engine.url)

    def shown(name):
        return next(m for m in nodes_json(cluster)["n"]["models"] if m["id"] == name)

    assert shown("a")["state"] == "loadable"
    assert "chat_completions" not in shown("e")["operations"]
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "a"}).status == 200
    until(lambda: shown("a")["state"] == "ready", 10, "the node has looked")
    assert shown("a")["max_context_tokens"] == engine.context
    assert engine.count["loads"] == 1


# ---- operations ----------------------------------------------------------------------------------


def echo(paths):
    """Chat, and a 200 on these paths; anything else is no path of this server."""
    def behave(handler, path, body):
        if path == "/v1/chat/completions":
            handler.chat(body)
        elif path in paths:
            handler.answer(200, {"object": path, "results": []})
        else:
            handler.answer(404, {"error": {"message": f"Invalid URL (POST {path})"}})
    return behave


def test_an_unknown_engine_gets_the_operations_it_has(cluster):
    engine = FakeEngine(echo(["/v1/rerank", "/v1/messages/count_tokens"]),
                        about={"owned_by": "organization_owner"})
    cluster.start_node("a", engine=engine.url)
    answer = post(cluster, "/v1/rerank", {"model": "fake-model", "query": "a", "documents": ["b"]})
    assert (answer.status, answer.json()) == (200, {"object": "/v1/rerank", "results": []})


def test_a_path_that_an_engine_does_not_have_is_learned_and_nothing_else_suffers(cluster):
    engine = FakeEngine(echo([]))
    cluster.start_node("a", engine=engine.url)
    body = {"model": "fake-model", "query": "a", "documents": ["b"]}
    assert post(cluster, "/v1/rerank", body).status == 501
    until(lambda: "rerank" not in nodes_json(cluster)["a"]["models"][0]["operations"], 10,
          "the operation is no longer offered")
    asked = len(engine.posts("/v1/rerank"))
    assert post(cluster, "/v1/rerank", body).status == 501
    assert len(engine.posts("/v1/rerank")) == asked
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "fake-model"}).status == 200
    assert cluster.node_state("a") == "UP"


# ---- counting, names, loops ----------------------------------------------------------------------


def count(cluster, model, text):
    return post(cluster, "/v1/messages/count_tokens?beta=true",
                {"model": model, "messages": [{"role": "user", "content": text}]})


def test_where_no_engine_counts_the_coordinator_estimates(cluster):
    cluster.start_node("a", engine=FakeEngine(echo([])).url)
    for _ in range(2):  # the first one finds out that the engine does not count
        short, long = (count(cluster, "fake-model", text) for text in ("hi", "word " * 400))
        assert (short.status, long.status) == (200, 200), (short.body, long.body)
        assert 1 <= short.json()["input_tokens"] < 10 < long.json()["input_tokens"] < 2100
    cluster.wait_models_known()
    assert count(cluster, "none", "hi").status == 404


def test_an_engine_that_counts_is_asked(cluster):
    engine = FakeEngine(lambda handler, path, body: handler.answer(200, {"input_tokens": 7}))
    cluster.start_node("a", engine=engine.url)
    assert count(cluster, "fake-model", "hi").json() == {"input_tokens": 7}


def test_ollamas_names_are_listed_once_and_compared_as_it_does(cluster):
    engine = Ollama(models={"M0:latest": ["completion"], "big:7b": ["completion"]})
    cluster.start_node("a", engine=engine.url)
    assert models(cluster) == ["M0:latest", "big:7b"]
    cluster.wait_models_known()
    for name in ("M0:latest", "M0", "m0", "m0:LATEST", "BIG:7b"):
        answer = post(cluster, "/v1/chat/completions", {**CHAT, "model": name})
        assert answer.status == 200, (name, answer.body)
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "big"}).status == 404


def test_a_question_about_one_model_finds_the_model_that_a_chat_finds(request):
    cluster = Cluster("kinds", config={"aliases": [
        {"name": "boss", "model": "m0"}, {"name": "file", "model": "Part"}]}).start()
    try:
        ollama = Ollama(models={"M0:latest": ["completion"], "big:7b": ["completion"]})
        other = FakeEngine(models=["Part"])
        cluster.start_node("a", engine=ollama.url)
        cluster.start_node("b", engine=other.url)
        cluster.wait_models_known()
        for name, there in (("M0:latest", True), ("M0", True), ("m0:LATEST", True),
                            ("BIG:7b", True), ("big", False), ("boss", True), ("Boss", False),
                            ("Part", True), ("file", True), ("part", False),
                            ("Part:latest", True), ("part:latest", False)):
            chat = post(cluster, "/v1/chat/completions", {**CHAT, "model": name})
            assert chat.status == (200 if there else 404), (name, chat.body)
            for headers in ({}, {"anthropic-version": "2023-06-01"}):
                shown = fetch_now(cluster.api, "GET", f"/v1/models/{name}", b"", headers)
                assert shown.status == chat.status, (name, shown.body)
                assert not there or shown.json()["id"] == name
            show = post(cluster, "/api/show", {"model": name})
            assert (show.status == 404) == (not there), (name, show.body)
        assert {"boss", "file"} <= set(models(cluster))
        assert "boss" in cluster.ctl("models").stdout
    finally:
        cluster.finish(request.session.testsfailed > 0)


def test_each_change_of_a_list_of_models_is_in_the_log(cluster):
    engine = FakeEngine(models=["one", "two", "three"])
    node = cluster.start_node("a", engine=engine.url)
    assert "event=model" not in node.process.log()
    engine.models = ["one", "other", "three"]
    until(lambda: "event=model change=new model=\"other\" state=ready" in node.process.log(), 20, "x")
    assert "event=model change=gone model=\"two\"" in node.process.log()
    engine.about = {"max_model_len": 4096}
    until(lambda: re.search("change=other model=.three. .*context=4096", node.process.log()), 20, "y")
    assert len(re.findall("event=model ", node.process.log())) == 5


def test_a_request_that_comes_back_is_a_loop(cluster):
    """Behind a proxy that hides what it is, Drover cannot know itself."""
    api = cluster.url

    def behave(handler, path, body):
        request = urllib.request.Request(api + path, body, {
            "content-type": "application/json",
            "x-drover-via": engine.posts()[-1][1]["x-drover-via"]})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                handler.answer(answer.status, answer.read())
        except urllib.error.HTTPError as failure:
            handler.answer(failure.code, failure.read())
    engine = FakeEngine(behave)
    cluster.start_node("a", engine=engine.url)
    body = {**CHAT, "model": "fake-model"}
    for path, more in (("/v1/chat/completions", {}), ("/v1/chat/completions", {"stream": True}),
                       ("/v1/messages", {"max_tokens": 9}), ("/api/chat", {}),
                       ("/v1/messages/count_tokens", {})):
        before = len(engine.posts())
        answer = post(cluster, path, {**body, **more})
        assert answer.status == 508 or path == "/api/chat", (path, answer.status, answer.body)
        assert answer.status != 508 or answer.headers["x-drover-reason"] == "loop_detected"
        assert answer.status != 508 or (b"'a'" in answer.body and b"--engine" in answer.body)
        assert len(engine.posts()) <= before + 1
    good = FakeEngine()
    cluster.start_node("b", engine=good.url)
    for turn in range(8):
        answer = post(cluster, "/v1/chat/completions", {**body, "seed": turn})
        assert answer.status == 200 and answer.headers["x-drover-node"] == "b"
    assert post(cluster, "/v1/chat/completions", {**CHAT, "model": "fake-model"}, {
        "x-drover-via": "x" * 600}).status == 508
    assert cluster.node_state("a") == "UP"
