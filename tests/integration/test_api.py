"""Answers of the HTTP API: errors in each surface's shape, aliases, headers, the access log."""

import asyncio
import gzip
import itertools
import json
import signal
import struct
import time
import zlib

import pytest

from fake_engine import MODEL as FAKE, FakeEngine
from harness import MODEL, free_port, until
from load import chat_body, fetch, fetch_now, make_request, send_raw

MESSAGES = [{"role": "user", "content": "hi"}]
INFER = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
}


def test_after_a_start_what_former_nodes_may_have_is_not_404(make_cluster):
    cluster = make_cluster(workers=1, config={"registry": {"listen": f"127.0.0.1:{free_port()}"}}).start()
    answers = [fetch_now(cluster.api, "GET", path) for path in ("/v1/models", "/api/tags")]
    cluster.start_node("a")
    assert fetch_now(cluster.api, "GET", "/v1/models").status == 200
    asked = [("GET", "/v1/models/nope", b""), ("POST", "/api/show", {"model": "nope"}),
             ("POST", "/v1/messages/count_tokens", {"model": "nope", "messages": MESSAGES})]
    asked += [("POST", path, body_for(surface, model="nope")) for surface, path in INFER.items()]

    async def ask_all():
        return await asyncio.gather(*(fetch(cluster.api, *one) for one in asked))

    def ask_after_a_start():
        cluster.stop_master()
        started = time.monotonic()
        cluster.launch()
        cluster.wait_up("a")
        early = asyncio.run(ask_all())
        # The coordinator waits for 12 s, however slow the machine is.
        return early if time.monotonic() - started < 12 else None
    answers += until(ask_after_a_start, 60, "all is answered soon after the start")
    for answer in answers:
        assert answer.status == 503, answer.body
        assert answer.headers["retry-after"] == "5" and answer.headers["x-should-retry"] == "true"
    cluster.wait_models_known()
    assert {answer.status for answer in asyncio.run(ask_all())} == {404}
    cluster.ctl("reload")  # the new workers start; the coordinator does not
    assert {answer.status for answer in asyncio.run(ask_all())} == {404}


@pytest.mark.parametrize("coding,encode", [
    ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])),
    ("deflate", zlib.compress),
    ("deflate", lambda body: zlib.compress(body)[2:-4]),
    # A frame of one block that is not compressed, behind a frame that is skipped.
    ("zstd", lambda body: struct.pack("<II", 0x184D2A50, 2) + b"no" + b"\x28\xb5\x2f\xfd\x60"
     + struct.pack("<H", len(body) - 256) + struct.pack("<I", len(body) << 3 | 1)[:3] + body),
])
def test_an_engine_gets_an_encoded_body_plain(make_cluster, coding, encode):
    engine = FakeEngine()
    cluster = make_cluster(config={"aliases": [{"name": "alias", "model": FAKE}]}).start()
    cluster.start_node("a", engine=engine.url)
    body = json.dumps({"model": "alias", "messages": [{"role": "user", "content": "x" * 400}]}).encode()
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", encode(body),
                       {"Content-Encoding": coding})
    assert answer.status == 200, answer.body
    got = engine.posts("/v1/chat/completions")[-1]
    assert "content-encoding" not in got.headers
    assert got.json["messages"][0]["content"] == "x" * 400 and got.json["model"] == FAKE
    engine.close()


@pytest.fixture(scope="module")
def shared(request):
    """One cluster for all questions that change nothing."""
    from harness import Cluster
    cluster = Cluster("api", config={
        "aliases": [{"name": "gpt-4o-mini", "model": MODEL}],
        "limits": {"max_body_bytes": 65536}}).start()
    for name in ("a", "b"):
        cluster.start_node(name, "slots=8")
    cluster.wait_models_known()
    yield cluster
    cluster.finish(request.session.testsfailed > 0)


def body_for(surface, **changes):
    body = {"model": MODEL, "messages": MESSAGES, "stream": False}
    if surface == "anthropic":
        body["max_tokens"] = 4
    body.update(changes)
    return body


def check_error(surface, answer, status, kind=None):
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["content-type"].startswith("application/json")
    document = answer.json()
    if surface == "openai":
        error = document["error"]
        assert isinstance(error["message"], str) and error["message"]
        assert isinstance(error["type"], str)
        assert error["code"] is None or isinstance(error["code"], str)
        assert "param" in error
        assert error["src"] == "drover"
        if kind:
            assert kind in (error["type"], error["code"]), error
    elif surface == "anthropic":
        assert document["type"] == "error"
        assert document["error"]["message"]
        if kind:
            assert document["error"]["type"] == kind, document
    else:
        assert isinstance(document["error"], str) and document["error"]
    return document


@pytest.mark.parametrize("surface,kind", [
    ("openai", "model_not_found"), ("anthropic", "not_found_error"), ("ollama", None)])
def test_an_unknown_model_is_404_and_is_named(shared, surface, kind):
    answer = fetch_now(shared.api, "POST", INFER[surface], body_for(surface, model="nope-13b"))
    check_error(surface, answer, 404, kind)
    assert b"nope-13b" in answer.body


def test_a_model_whose_node_leaves_while_a_request_waits_is_for_later(shared):
    numbers = itertools.count()
    asked = [("/api/show", {"model": "going"}),
             ("/v1/messages/count_tokens", {"model": "going", "messages": MESSAGES})]
    asked += [(path, body_for(surface, model="going", stream=stream))
              for surface, path in INFER.items() for stream in (False, True)]

    async def ask_all(node):
        def leave():
            until(lambda: len(shared.open_requests()) == 2 * len(INFER) or all(t.done() for t in waiting),
                  10, "they wait, or have")
            node.process.signal(signal.SIGTERM)
            until(lambda: shared.node_state(node.name) in ("GONE", None), 10, "the node has left")
            return len(shared.open_requests())
        waiting = [asyncio.create_task(fetch(shared.api, "POST", *one)) for one in asked]
        left = await asyncio.get_running_loop().run_in_executor(None, leave)
        return await asyncio.gather(*waiting), left

    def ask_while_it_leaves():
        """None: the node left after the 2 s for which the requests wait, however slow the machine is."""
        node = shared.start_node(f"leaver-{next(numbers)}", "models=going")
        shared.ctl("drain", node.name)
        answers, left = asyncio.run(ask_all(node))
        assert node.process.wait() == 0
        return answers if left == 2 * len(INFER) else None
    for answer, one in zip(until(ask_while_it_leaves, 30, "they wait when the node has left"), asked):
        assert answer.status == 503, (one, answer.status, answer.body)
        assert answer.headers["retry-after"] == "5" and answer.headers["x-should-retry"] == "true"
    assert {fetch_now(shared.api, "POST", *one).status for one in asked} == {404}


@pytest.mark.parametrize("surface", INFER)
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b"{}", b'{"model":"sim-small",}',
                                  b'{"model":"sim-small","model":"sim-small"}', b'\xff\xfe', b"nul" * 10],
                         ids=["cut", "empty", "array", "string", "no model", "comma",
                              "model twice", "not UTF-8", "word"])
def test_a_body_that_is_not_a_request_is_400(shared, surface, body):
    answer = fetch_now(shared.api, "POST", INFER[surface], body)
    check_error(surface, answer, 400, None if surface == "ollama" else "invalid_request_error")


@pytest.mark.parametrize("surface", INFER)
@pytest.mark.parametrize("change", [{"model": 5}, {"model": None}, {"model": ""},
                                    {"model": "x" * 500}, {"stream": "yes"}],
                         ids=lambda change: json.dumps(change)[:24])
def test_a_member_of_the_wrong_type_is_400(shared, surface, change):
    answer = fetch_now(shared.api, "POST", INFER[surface], body_for(surface, **change))
    assert answer.status in (400, 404), answer.body
    check_error(surface, answer, answer.status)
    if "stream" in change or not isinstance(change.get("model", ""), str):
        assert answer.status == 400


@pytest.mark.parametrize("surface", INFER)
def test_a_body_over_the_limit_is_413(shared, surface):
    answer = fetch_now(shared.api, "POST", INFER[surface],
                       body_for(surface, padding="x" * 100000))
    check_error(surface, answer, 413)


@pytest.mark.parametrize("surface", INFER)
def test_a_body_that_only_claims_to_be_too_large_is_413_before_it_is_sent(shared, surface):
    head = (f"POST {INFER[surface]} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Content-Length: 99999999\r\n\r\n").encode()
    assert send_raw(shared.api, head).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path,allowed", [("/v1/chat/completions", "POST"),
                                          ("/v1/messages", "POST"), ("/api/chat", "POST")])
def test_a_wrong_method_is_405_and_names_the_right_one(shared, path, allowed):
    answer = fetch_now(shared.api, "GET", path)
    assert answer.status == 405
    assert allowed in answer.headers["allow"]
    wrong = fetch_now(shared.api, "POST", "/v1/models", b"{}")
    assert wrong.status == 405
    assert "GET" in wrong.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/nothing", "/v1/chat/completions/x",
                                  "/v1/chat", "/../etc/passwd", "/%2e%2e/etc/passwd"])
def test_an_unknown_path_is_404(shared, path):
    answer = fetch_now(shared.api, "POST", path, b"{}")
    check_error("openai", answer, 404)
    assert fetch_now(shared.api, "GET", "/api/nothing").status == 404


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_paths_work_with_and_without_v1(shared, path):
    answer = fetch_now(shared.api, "POST", path, chat_body("hi", 3, stream=False))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("path,body", [
    ("/v1/completions", {"prompt": "hi", "max_tokens": 3}),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 3}),
    ("/v1/rerank", {"query": "hi", "documents": ["a", "b"]}),
    ("/rerank", {"query": "hi", "documents": ["a", "b"]}),
    ("/v1/reranking", {"query": "hi", "documents": ["a", "b"]}),
    ("/reranking", {"query": "hi", "documents": ["a", "b"]}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}),
    ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ("/api/chat", {"messages": MESSAGES, "stream": False}),
    ("/api/generate", {"prompt": "hi", "stream": False}),
    ("/api/embed", {"input": "hi"}),
    ("/api/embeddings", {"prompt": "hi"}),
    ("/api/show", {}),
])
def test_every_endpoint_answers_on_the_simulated_engine(shared, path, body):
    answer = fetch_now(shared.api, "POST", path, {"model": MODEL, **body})
    assert answer.status == 200, (path, answer.body)
    document = answer.json()
    assert answer.headers["x-drover-node"] in ("a", "b")
    assert document["simulated"] is True or document["details"]["format"] == "simulated"


def test_models_are_listed_once_with_aliases_and_found_by_id(shared):
    document = fetch_now(shared.api, "GET", "/v1/models").json()
    assert document["object"] == "list"
    ids = [model["id"] for model in document["data"]]
    assert sorted(ids) == sorted(set(ids))
    assert MODEL in ids and "gpt-4o-mini" in ids
    for model in document["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int) and isinstance(model["owned_by"], str)
    one = fetch_now(shared.api, "GET", f"/v1/models/{MODEL}")
    assert one.status == 200 and one.json()["id"] == MODEL
    check_error("openai", fetch_now(shared.api, "GET", "/v1/models/nope"), 404,
                "model_not_found")


def test_ollama_lists_tags_running_models_and_version(shared):
    tags = fetch_now(shared.api, "GET", "/api/tags").json()
    assert MODEL in [model["name"] for model in tags["models"]]
    assert isinstance(fetch_now(shared.api, "GET", "/api/ps").json()["models"], list)
    assert fetch_now(shared.api, "GET", "/api/version").json()["version"]
    head = fetch_now(shared.api, "HEAD", "/")
    assert head.status == 200
    assert b"Ollama is running" in fetch_now(shared.api, "GET", "/").body


def test_an_alias_answers_under_the_name_the_client_used(shared):
    answer = fetch_now(shared.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 3, stream=False, model="gpt-4o-mini"))
    assert answer.status == 200, answer.body
    assert answer.headers.get("x-drover-model", MODEL) == MODEL


ROUTED = ("x-request-id", "x-drover-queue-ms", "x-drover-attempts", "x-drover-policy")


@pytest.mark.parametrize("surface", INFER)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "document"])
def test_an_answer_says_how_it_was_routed(shared, surface, stream):
    answer = fetch_now(shared.api, "POST", INFER[surface], body_for(
        surface, model="gpt-4o-mini", stream=stream), {"x-session-id": f"{surface}-{stream}"})
    assert answer.status == 200, answer.body
    assert not [name for name in ROUTED if name not in answer.headers]
    assert answer.headers["x-drover-node"] in ("a", "b")
    assert answer.headers["x-drover-model"] == MODEL
    assert answer.headers["x-drover-session"] == "miss"
    assert "x-drover-reason" not in answer.headers


def test_an_error_says_how_it_was_routed(make_cluster):
    cluster = make_cluster(config={"health": {"eject_failures": 0, "eject_success_pct": 0}}).start()
    for name in ("a", "b"):
        cluster.start_node(name)
    for surface in INFER:
        for stream in (True, False):
            answer = fetch_now(cluster.api, "POST", INFER[surface], body_for(
                surface, stream=stream, drover_sim={"fault": "5xx"}),
                {"x-session-id": f"{surface}-{stream}"})
            check_error(surface, answer, 502)
            assert not [name for name in ROUTED if name not in answer.headers]
            assert answer.headers["x-drover-reason"] == "node_failed"
            assert answer.headers["x-drover-node"] in ("a", "b"), "who failed last"
            assert answer.headers["x-drover-attempts"] in ("1", "2"), "retries end some time"
            assert answer.headers["x-drover-session"] == "miss"


@pytest.mark.parametrize("surface", INFER)
def test_an_error_of_a_request_that_was_at_no_node_names_none(shared, surface):
    unknown = fetch_now(shared.api, "POST", INFER[surface], body_for(surface, model="nope-13b"),
                        {"x-session-id": "lost"})
    check_error(surface, unknown, 404)
    assert not [name for name in ROUTED if name not in unknown.headers]
    assert unknown.headers["x-drover-reason"] == "model_not_found"
    for name in ("x-drover-node", "x-drover-session"):
        assert name not in unknown.headers
    broken = fetch_now(shared.api, "POST", INFER[surface], b"{")
    assert broken.headers["x-drover-reason"] == "bad_request"
    for name in ROUTED[1:]:
        assert name not in broken.headers, "it was not routed"


def test_a_request_id_is_echoed_and_a_bad_one_is_replaced(shared):
    answer = fetch_now(shared.api, "POST", "/v1/chat/completions",
                       chat_body("hi", 3, stream=False), {"x-request-id": "my-id_1.2"})
    assert answer.headers["x-request-id"] == "my-id_1.2"
    for bad in ("has space", "x" * 65, "a\u00e9", "semi;colon"):
        answer = fetch_now(shared.api, "POST", "/v1/chat/completions",
                           chat_body("hi", 3, stream=False), {"x-request-id": bad})
        assert answer.status == 200
        made = answer.headers["x-request-id"]
        assert made != bad and 1 <= len(made) <= 64
    error = fetch_now(shared.api, "POST", "/v1/chat/completions", b"{",
                      {"x-request-id": "broken"})
    assert error.headers["x-request-id"] == "broken"


def test_a_stream_has_the_headers_that_keep_proxies_from_holding_it_back(shared):
    answer = fetch_now(shared.api, "POST", "/v1/chat/completions", chat_body("hi", 3))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in answer.headers


def test_the_access_log_has_one_true_line_for_each_request(shared):
    fetch_now(shared.api, "POST", "/v1/chat/completions", chat_body("hi", 5),
              {"x-request-id": "logged-stream"})
    line = shared.access_line("logged-stream")
    assert line["method"] == "POST" and line["path"] == "/v1/chat/completions"
    assert line["model"] == MODEL and line["node"] in ("a", "b")
    assert line["status"] == 200 and line["outcome"] == "ok" and line["stream"] is True
    assert line["attempts"] == 1
    assert line["output_tokens"] == 5 and line["prompt_tokens"] > 0
    assert 0 < line["ttft_us"] <= line["total_us"]
    assert line["client"].startswith("127.0.0.1")
    assert "hi" not in json.dumps(line["path"])

    fetch_now(shared.api, "POST", "/v1/chat/completions", chat_body("hi", 5, model="nope"),
              {"x-request-id": "logged-404"})
    line = shared.access_line("logged-404")
    assert line["status"] == 404 and line["model"] == "nope" and line["node"] is None
    assert line["execution"] is None
    assert line["outcome"] in ("rejected", "client_error")
    for request_id in ("logged-stream", "logged-404"):
        assert len([x for x in shared.access_lines() if x["id"] == request_id]) == 1


def test_a_request_id_cannot_forge_log_lines(shared):
    evil = 'x"},{"id":"forged'
    fetch_now(shared.api, "POST", "/v1/chat/completions",
              chat_body("hi", 2, stream=False, model='m"\n{"id":"forged"}'),
              {"x-request-id": evil})
    fetch_now(shared.api, "GET", "/livez")
    assert not [line for line in shared.access_lines() if line["id"] == "forged"]


def test_connections_are_kept_and_pipelined_requests_answered_in_order(shared):
    requests = b"".join(make_request("POST", "/v1/chat/completions",
                                     chat_body(f"n{i}", 2, stream=False),
                                     {"x-request-id": f"pipe{i}",
                                      "Connection": "close" if i == 4 else None})
                        for i in range(5))
    data = send_raw(shared.api, requests, 20)
    places = [data.find(f"x-request-id: pipe{i}".encode()) for i in range(5)]
    assert -1 not in places and places == sorted(places), places
    assert data.count(b"HTTP/1.1 200 ") == 5


@pytest.mark.parametrize("data", [
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    b"Content-Length: 3\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    b"0\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}",
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length : 2\r\n\r\n{}",
    b"\x00\x01\x02 nonsense\r\n\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
], ids=["two lengths", "length and chunked", "gzip, chunked", "negative length", "signed length",
        "space before colon", "binary", "long path"])
def test_a_request_that_two_parsers_might_read_differently_is_refused(shared, data):
    answer = send_raw(shared.api, data)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ",
                                               b"HTTP/1.1 414 ", b"HTTP/1.1 431 ",
                                               b"HTTP/1.1 501 ")), answer[:200]
    assert answer.count(b"HTTP/1.1 ") <= 1


def test_http_2_is_not_spoken(shared):
    answer = send_raw(shared.api, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    assert not answer.startswith(b"\0")


def test_liveness_and_readiness(shared):
    for path in ("/health", "/livez", "/readyz", "/healthz"):
        assert fetch_now(shared.api, "GET", path).status == 200, path
    for path in ("/livez", "/readyz", "/metrics", "/nodes"):
        assert fetch_now(shared.address("admin"), "GET", path).status == 200, path


def test_readiness_is_503_without_nodes_and_liveness_is_not(make_cluster):
    cluster = make_cluster().start()
    assert fetch_now(cluster.api, "GET", "/livez").status == 200
    assert fetch_now(cluster.api, "GET", "/readyz").status == 503
    node = cluster.start_node("a")
    until(lambda: fetch_now(cluster.api, "GET", "/readyz").status == 200, 5)
    cluster.stop_node(node)
    until(lambda: fetch_now(cluster.api, "GET", "/readyz").status == 503, 5)


@pytest.mark.parametrize("surface", INFER)
def test_a_model_whose_nodes_are_all_down_is_503_with_retry_after(make_cluster, surface):
    cluster = make_cluster(config={"queue": {"max_wait_ms": 300}}).start()
    node = cluster.start_node("a")
    node.process.kill_all()
    cluster.nodes.remove(node)
    until(lambda: cluster.node_state("a") == "DOWN", 10)
    answer = fetch_now(cluster.api, "POST", INFER[surface], body_for(surface))
    check_error(surface, answer, 503)
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers.get("x-should-retry", "true") == "true"


def test_a_full_queue_is_429_and_a_long_wait_is_503_both_with_retry_after(make_cluster):
    cluster = make_cluster(workers=1, config={
        "queue": {"max_waiting": 2, "max_wait_ms": 700}}).start()
    cluster.start_node("a", "slots=1,rate=5", extra=("--queue", "0"))

    async def run():
        long = asyncio.create_task(fetch(cluster.api, "POST", "/v1/chat/completions",
                                         chat_body("long", 25)))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: until(cluster.open_requests, 5,
                                                       "the only slot is taken"))
        return await asyncio.gather(long, *(
            fetch(cluster.api, "POST", "/v1/chat/completions", chat_body(f"{i}", 2))
            for i in range(5)))
    answers = asyncio.run(run())
    statuses = sorted(answer.status for answer in answers)
    assert statuses.count(200) == 1 and statuses.count(429) == 3 and statuses.count(503) == 2, \
        statuses
    for answer in answers:
        if answer.status != 200:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.headers["x-drover-reason"] in ("queue_full", "queue_timeout")
