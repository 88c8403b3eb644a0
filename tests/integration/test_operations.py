"""Operations beside the usual ones: what engines have is passed, what they lack is learned."""

import json
import threading
import time
import urllib.request

import pytest

from fake_engine import MODEL, FakeEngine
from harness import SLOW, until
from load import fetch_now
from ollama import Ollama

SOUND = bytes(range(256)) * 700
JSON_OF = {
    "/tokenize": {"tokens": [1, 2, 3]},
    "/detokenize": {"content": "hello"},
    "/apply-template": {"prompt": "<|user|>hi"},
    "/v1/responses/input_tokens": {"object": "response.input_tokens", "input_tokens": 7},
    "/completion": {"content": "there", "stop": True},
    "/infill": {"content": "middle", "stop": True},
    "/v1/images/generations": {"created": 1, "data": [{"b64_json": "aGk="}]},
    "/v1/images/edits": {"created": 2, "data": [{"b64_json": "aGk="}]},
    "/v1/images/variations": {"created": 3, "data": [{"b64_json": "aGk="}]},
    "/v1/audio/translations": {"text": "in English"},
    "/v1/moderations": {"id": "modr-1", "results": [{"flagged": False}]},
    "/v1/score": {"data": [{"index": 0, "score": 0.5}]},
    "/classify": {"data": [{"index": 0, "label": "a"}]},
    "/pooling": {"data": [{"index": 0, "data": [0.5]}]},
    "/v1/rerank": {"results": [{"index": 0, "relevance_score": 0.5}]},
}
# Each operation as clients write its path, and the path by which engines have it.
SPELLINGS = [(path, path) for path in JSON_OF] + [
    ("/v1/tokenize", "/tokenize"), ("/v1/detokenize", "/detokenize"), ("/score", "/v1/score"),
    ("/v1/classify", "/classify"), ("/v1/pooling", "/pooling"), ("/rerank", "/v1/rerank"),
    ("/v2/rerank", "/v1/rerank"), ("/responses/input_tokens", "/v1/responses/input_tokens"),
    ("/images/generations", "/v1/images/generations"), ("/v1/completion", "/completion")]
FORMS = {"/v1/images/edits", "/v1/images/variations", "/v1/audio/translations"}


def form_of(model):
    parts = [f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n',
             '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
             'Content-Type: image/png\r\n\r\n\x00\x01\r\n--x--\r\n']
    return "".join(parts).encode()


class All(FakeEngine):
    """Has every operation; what came is in `got`."""

    routes = {**FakeEngine.routes, ("GET", "/props"): "props",
              ("GET", "/lora-adapters"): "adapters"}

    def __init__(self, lacks=()):
        self.got = []
        self.lacks = set(lacks)
        self.more = threading.Event()
        super().__init__(self.take)

    def take(self, reply, path, body):
        self.got.append((path, body))
        if path in self.lacks and path == "/v1/rerank":
            reply.answer(501, {"error": {"code": 501, "type": "not_supported_error",
                                         "message": "start it with --reranking"}})
        elif path in self.lacks:
            reply.answer(404, {"detail": "Not Found"})
        elif path == "/v1/audio/speech":
            reply.begin_stream("audio/mpeg")
            reply.send_piece(SOUND[:1000])
            self.more.wait(20 * SLOW)
            reply.send_piece(SOUND[1000:])
            reply.end_stream()
        elif path in JSON_OF:
            reply.answer(200, JSON_OF[path])
        else:
            reply.chat(body)

    def props(self, reply, _request):
        return reply.answer(200, {"chat_template": "{{x}}", "model_path": "/m.gguf"})

    def adapters(self, reply, _request):
        return reply.answer(200, [{"id": 0, "path": "a.gguf", "scale": 1.0}])


def post(cluster, path, model=MODEL):
    if path in FORMS:
        return fetch_now(cluster.api, "POST", path, form_of(model),
                         {"Content-Type": "multipart/form-data; boundary=x"})
    return fetch_now(cluster.api, "POST", path, {"model": model, "input": "hi", "extra": [1]})


@pytest.fixture
def one(make_cluster):
    engine = All()
    cluster = make_cluster(workers=1, config={
        "aliases": [{"name": "other", "model": MODEL}]}).start()
    cluster.start_node("a", engine=engine.url)
    cluster.engine = engine
    yield cluster
    engine.more.set()
    engine.close()


def test_an_operation_goes_to_the_path_that_engines_have(one):
    for path, at in SPELLINGS:
        answer = post(one, path)
        assert answer.status == 200, (path, answer.body)
        assert answer.json() == JSON_OF[at], path
        assert one.engine.got[-1][0] == at
        sent = one.engine.got[-1][1]
        assert sent == form_of(MODEL) if path in FORMS else json.loads(sent)["extra"] == [1]
    for path in ("/v1/images/edits", "/v1/images/variations", "/tokenize", "/v1/moderations"):
        answer = post(one, path, "other")
        assert answer.status == 200 and answer.headers["x-drover-model"] == MODEL
        assert MODEL.encode() in one.engine.got[-1][1], "the engine gets its own name"
    edit = fetch_now(one.api, "POST", "/v1/images/edits", {"model": MODEL, "images": []})
    assert edit.status == 200, "newer clients send JSON there"
    assert fetch_now(one.api, "GET", f"/props?model={MODEL}").json()["model_path"] == "/m.gguf"
    assert fetch_now(one.api, "GET", "/lora-adapters").json()[0]["path"] == "a.gguf"
    for path in ("/props", "/lora-adapters"):
        answer = fetch_now(one.api, "POST", path, {})
        assert answer.status == 405 and answer.headers["allow"] == "GET"


def test_sound_passes_byte_for_byte_and_as_it_comes(one):
    request = urllib.request.Request(
        "http://%s:%d/v1/audio/speech" % one.api, method="POST",
        data=json.dumps({"model": MODEL, "input": "hi", "voice": "x"}).encode(),
        headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20 * SLOW) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        got = answer.read(1000)
        assert got == SOUND[:1000], "before the rest is there"
        one.engine.more.set()
        got += answer.read()
    assert got == SOUND


def test_questions_do_not_wait_for_the_slot_that_an_infill_has(make_cluster):
    engine = All()
    held = threading.Event()
    take = engine.take

    def slow(reply, path, body):
        if path == "/infill":
            held.wait(20 * SLOW)
        take(reply, path, body)
    engine.behave = slow
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", engine=engine.url, extra=("--slots", "1", "--queue", "0"))
    thread = threading.Thread(target=post, args=(cluster, "/infill"))
    thread.start()
    try:
        until(lambda: [row["phase"] for row in cluster.open_requests()] not in ([], ["queued"]),
              10, "the infill has the slot")
        for path in ("/tokenize", "/detokenize", "/apply-template", "/responses/input_tokens"):
            begin = time.monotonic()
            assert post(cluster, path).status == 200
            assert time.monotonic() - begin < 2 * SLOW
        assert fetch_now(cluster.api, "GET", "/props").status == 200
    finally:
        held.set()
        thread.join()
        engine.close()


def test_an_operation_that_the_engine_lacks_is_learned_and_refused_in_shape(make_cluster):
    engine = All(lacks=("/v1/audio/speech", "/tokenize", "/v1/responses/input_tokens"))
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", engine=engine.url)
    for path in ("/v1/audio/speech", "/tokenize"):
        for turn in range(3):
            answer = post(cluster, path)
            assert answer.status in (404, 501), answer.body
            error = answer.json()["error"]
            assert error["message"] and isinstance(error["code"], str)
            if turn == 0:
                until(lambda: path.rsplit("/", 1)[1] not in
                      cluster.ctl_rows("models")[0]["operations"], 10, "it is learned")
        assert [seen for seen, _ in engine.got].count(path) == 1, "tried once"
    counted = post(cluster, "/v1/responses/input_tokens")
    assert counted.status == 200 and counted.headers["x-drover-estimate"] == "true"
    assert counted.json()["object"] == "response.input_tokens"
    assert counted.json()["input_tokens"] >= 1
    assert cluster.node_state("a") == "UP"
    assert post(cluster, "/v1/moderations").status == 200, "another operation is as it was"
    engine.close()


def test_a_request_that_learns_late_what_all_know_by_then_does_not_wait(make_cluster):
    """Of two at a time the second ends first: then no node has the operation any more."""
    release = threading.Event()

    class Slow(All):
        def take(self, reply, path, body):
            if path == "/v1/rerank" and b"first" in body:
                release.wait(30 * SLOW)
            super().take(reply, path, body)
    engine = Slow(lacks=("/v1/rerank",))
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", engine=engine.url)
    answers = []

    def ask(query):
        answers.append(fetch_now(cluster.api, "POST", "/v1/rerank",
                                 {"model": MODEL, "query": query, "documents": ["d"]},
                                 {"x-request-id": query}))
    first = threading.Thread(target=ask, args=("first",))
    first.start()
    until(lambda: [row["phase"] for row in cluster.open_requests()] not in ([], ["queued"]),
          10, "the first is at the engine")
    ask("second")
    until(lambda: "rerank" not in cluster.ctl_rows("models")[0]["operations"], 10, "it is learned")
    release.set()
    first.join()
    assert [answer.status for answer in answers] == [501, 501], [a.body for a in answers]
    assert cluster.access_line("first")["queue_us"] < 1_000_000
    engine.close()


def test_two_engines_of_a_model_that_lack_different_things_serve_all_of_them(make_cluster):
    engines = {"a": All(lacks=("/tokenize",)), "b": All(lacks=("/v1/score",))}
    cluster = make_cluster(workers=1).start()
    for name, engine in engines.items():
        engine.more.set()
        cluster.start_node(name, engine=engine.url)
    for _ in range(6):
        for path in ("/tokenize", "/v1/score"):
            assert post(cluster, path).status == 200
    assert all(cluster.node_state(name) == "UP" for name in engines)
    for engine in engines.values():
        engine.close()


@pytest.mark.parametrize("path", ["/v1/rerank", "/tokenize"])
def test_an_operation_that_no_node_has_that_serves_waits_for_none_that_drains(make_cluster, path):
    engines = {name: All(lacks=(path,)) for name in ("a", "b")}
    cluster = make_cluster(workers=1).start()
    for name, engine in engines.items():
        cluster.start_node(name, engine=engine.url)
    cluster.ctl("drain", "b")
    until(lambda: cluster.node_state("b") == "DRAINING", 10, "b drains")
    for turn in range(3):
        begin = time.monotonic()
        answer = post(cluster, path)
        assert answer.status in (404, 501), answer.body
        assert time.monotonic() - begin < 1.5 * SLOW
        if turn == 0:
            assert path == "/tokenize" or b"start it with" in answer.body, "the engine's own words"
            until(lambda: path.rsplit("/", 1)[1] not in cluster.ctl_json("node", "a")["models"][0]["operations"],
                  10, "it is learned")
    engines["b"].lacks.clear()
    cluster.ctl("undrain", "b")
    until(lambda: post(cluster, path).status == 200, 10, "b has it")
    cluster.ctl("drain", "a")
    assert post(cluster, path).status == 200
    for engine in engines.values():
        engine.close()


def test_ollama_has_its_tokens_estimated(make_cluster):
    engine = Ollama()
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", engine=engine.url)
    model = fetch_now(cluster.api, "GET", "/v1/models").json()["data"][0]["id"]
    for path, body in (("/v1/responses/input_tokens", {"input": "how many are these " * 40}),
                       ("/v1/messages/count_tokens",
                        {"messages": [{"role": "user", "content": "how many " * 80}]})):
        answer = fetch_now(cluster.api, "POST", path, {"model": model, **body})
        assert answer.status == 200 and answer.headers["x-drover-estimate"] == "true"
        assert 100 < answer.json()["input_tokens"] < 400
    refused = post(cluster, "/tokenize", model)
    assert refused.status == 501 and "no" in refused.json()["error"]["message"].lower()
    engine.close()
