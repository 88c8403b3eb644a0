"""Requests as people and their tools write them: what lenient servers take, and errors in each API's shape."""

import json
import re
import socket

import pytest

from harness import Cluster, MODEL
from load import fetch_now, send_raw

JSON = "Content-Type: application/json"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": False}
BODY = json.dumps(CHAT).encode()


@pytest.fixture(name="cluster", scope="module")
def fixture_cluster(request):
    cluster = Cluster("forms").start()
    cluster.start_node("a", "slots=8")
    cluster.wait_models_known()
    yield cluster
    cluster.finish(request.session.testsfailed > 0)


def message(line, *headers, body=None, host="Host: x"):
    lines = [line, *([host] if host else []), *headers, "Connection: close"]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def say(cluster, *args, **kw):
    """Status, headers in lower case, body."""
    answer = send_raw(cluster.api, message(*args, **kw))
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def post(cluster, path="/v1/chat/completions", *headers, body=BODY, version="HTTP/1.1", **kw):
    return say(cluster, f"POST {path} {version}", *headers, body=body, **kw)


SERVED_TYPES = ["application/json", "Application/JSON; charset=UTF-8", "application/json\t; charset=utf-8",
                "application/json, application/json", "application/vnd.api+json", "text/json", "text/plain",
                "application/octet-stream", "application/x-www-form-urlencoded", "*/*", "", None,
                "application/json; charset=latin1"]


@pytest.mark.parametrize("content_type", SERVED_TYPES)
def test_json_is_taken_by_whatever_type_clients_call_it(cluster, content_type):
    headers = [] if content_type is None else [f"Content-Type: {content_type}"]
    assert post(cluster, "/v1/chat/completions", *headers)[0] == 200
    assert post(cluster, "/api/chat", *headers)[0] == 200


def test_a_form_is_no_json_and_a_page_does_not_pass_for_a_program(cluster):
    assert post(cluster, "/v1/chat/completions", "Content-Type: multipart/form-data; boundary=x")[0] == 415
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = [] if kind is None else [f"Content-Type: {kind}"]
        assert post(cluster, "/v1/chat/completions", "Origin: http://evil.example", *headers)[0] == 403


@pytest.mark.parametrize("name,body", [(MODEL, {}), (MODEL, {"model": "gpt-4o"}), (MODEL.replace("-", "%2D"), {"model": None})])
def test_the_model_may_be_in_the_path_as_azures_clients_have_it(cluster, name, body):
    asked = json.dumps({key: value for key, value in CHAT.items() if key != "model"} | body).encode()
    status, _, answer = post(cluster, f"/openai/deployments/{name}/chat/completions?api-version=2024-10-21",
                             JSON, "api-key: any", body=asked)
    assert status == 200 and json.loads(answer)["model"] == MODEL, answer
    missing = post(cluster, "/openai/deployments/other/chat/completions", JSON, body=BODY)
    assert missing[0] == 404 and "'other' does not exist" in missing[2].decode()


@pytest.mark.parametrize("body,status", [
    (b"\xef\xbb\xbf" + BODY, 200), (b"\r\n\t " + BODY + b"\r\n ", 200), (BODY + b"\0", 400),
    (b"\xef\xbb\xbf", 400), (b"\xef\xbb\xbf\xef\xbb\xbf" + BODY, 400), (BODY.decode().encode("utf-16"), 400)])
def test_bytes_around_the_json(cluster, body, status):
    assert post(cluster, "/v1/chat/completions", JSON, body=body)[0] == status


SERVED = ["/v1/chat/completions", "//v1//chat//completions/", "/chat/completions", "/v1/v1/chat/completions",
          "/v1/chat/completions?", "/v1/chat/completions?api-version=2024-10-21&x", "/v1/ch%61t/completions",
          "/%761/chat/%63ompletions", "/openai/v1/chat/completions", "/api/v1/chat/completions",
          "http://x/v1/chat/completions", "HTTP://other:81/v1/chat/completions?x=1", "https://x/v1/chat/completions"]
NOWHERE = ["/V1/Chat/Completions", "/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/chat%2Fcompletions",
           "/v1/chat/completions;x=1", "/v1/chat/completions#x", "/v1/ch%6/completions", "/v1/ch%2561t/completions"]


@pytest.mark.parametrize("path,status", [(path, 200) for path in SERVED] + [(path, 404) for path in NOWHERE])
def test_spellings_of_a_path(cluster, path, status):
    assert post(cluster, path, JSON)[0] == status


@pytest.mark.parametrize("path", ["/v1/messages", "/messages", "/anthropic/v1/messages", "/v1/messages?beta=true"])
def test_spellings_of_anthropics_path(cluster, path):
    status, _, body = post(cluster, path, JSON)
    assert status == 200 and json.loads(body)["type"] == "message"


def test_a_url_without_a_path_is_the_root(cluster):
    assert say(cluster, "GET http://x HTTP/1.1")[2] == b"Ollama is running"
    assert say(cluster, "GET http://x?y=/v1/models HTTP/1.1")[2] == b"Ollama is running"


OPENAI, ANTHROPIC, OLLAMA = "openai", "anthropic", "ollama"


def shape(body):
    document = json.loads(body)
    if isinstance(document["error"], str):
        return OLLAMA
    return ANTHROPIC if document.get("type") == "error" else OPENAI


TOO_LONG = "Content-Length: 999999999"
VERSION = "anthropic-version: 2023-06-01"
ERRORS = [
    ("GET /v1/nope", (), 404, OPENAI), ("GET /nope", (), 404, OPENAI), ("GET /favicon.ico", (), 404, OPENAI),
    ("GET /v1/models/nope", (), 404, OPENAI), ("GET /v1/models/nope", (VERSION,), 404, ANTHROPIC),
    ("GET /v1/nope", (VERSION,), 404, ANTHROPIC), ("POST /v1/models", (VERSION,), 405, ANTHROPIC),
    ("GET /v1/messages/nope", (), 404, ANTHROPIC), ("POST /v1/messages/batches", (), 404, ANTHROPIC),
    ("GET /anthropic/nope", (), 404, ANTHROPIC), ("GET /messages/nope", (), 404, ANTHROPIC),
    ("GET /api/nope", (), 404, OLLAMA), ("GET /api", (), 404, OLLAMA), ("GET //api//nope/", (), 404, OLLAMA),
    ("GET http://y/api/nope", (), 404, OLLAMA), ("GET /%61pi/nope", (), 404, OLLAMA),
    ("GET /v1/chat/completions", (), 405, OPENAI), ("PUT /v1/responses", (), 405, OPENAI),
    ("PATCH /v1/messages", (), 405, ANTHROPIC), ("POST /api/tags", (), 405, OLLAMA), ("GET /api/chat", (), 405, OLLAMA),
    ("TRACE /api/ps", (), 405, OLLAMA), ("get /v1/models", (), 405, OPENAI),
    # These are libh2o's own.
    ("POST /v1/chat/completions", (TOO_LONG,), 413, OPENAI), ("POST /v1/messages", (TOO_LONG,), 413, ANTHROPIC),
    ("POST /api/chat", (TOO_LONG,), 413, OLLAMA), ("POST http://y/api/chat", (TOO_LONG,), 413, OLLAMA),
    ("POST /v1/messages", ("Content-Length: 2", "Expect: more"), 417, ANTHROPIC),
    ("POST /api/chat", ("Content-Length: x",), 400, OLLAMA),
    # Our strict reading.
    ("GET /api/tags", ("Host: y",), 400, OLLAMA), ("GET /v1/messages", ("Host: y",), 400, ANTHROPIC),
    ("GET ftp://y/v1/models", (), 400, OPENAI), ("OPTIONS *", (), 400, OPENAI),
]


@pytest.mark.parametrize("line,headers,status,expected", ERRORS)
def test_an_error_has_the_shape_of_the_api_that_the_path_is_of(cluster, line, headers, status, expected):
    got, head, body = say(cluster, f"{line} HTTP/1.1", *headers)
    assert (got, shape(body)) == (status, expected), body
    assert head["content-type"] == "application/json" and head["x-request-id"]
    assert status != 405 or head["allow"] in ("POST", "GET, HEAD")


def test_head_and_options(cluster):
    for path in ("/", "/v1/models", "/api/tags", "/api/version", "/health"):
        status, head, body = say(cluster, f"HEAD {path} HTTP/1.1")
        assert status == 200 and int(head["content-length"]) > 0 and body == b""
    assert say(cluster, "HEAD /v1/chat/completions HTTP/1.1")[0] == 405
    for path, allow in (("/v1/chat/completions", "POST"), ("/api/tags", "GET, HEAD"), ("/", "GET, HEAD")):
        status, head, body = say(cluster, f"OPTIONS {path} HTTP/1.0", host=None)
        assert status == 204 and head["allow"] == allow and body == b"", "as HAProxy asks by default"
    assert say(cluster, "OPTIONS /nope HTTP/1.1")[0] == 404


def test_clients_of_http_1_0(cluster):
    for headers in ((), ("Host: x",)):
        status, head, body = post(cluster, "/v1/chat/completions", JSON, *headers, version="HTTP/1.0", host=None)
        assert status == 200 and json.loads(body)["choices"] and head["connection"] == "close"
    stream = json.dumps({**CHAT, "stream": True}).encode()
    status, head, body = post(cluster, "/v1/chat/completions", JSON, body=stream, version="HTTP/1.0", host=None)
    assert status == 200 and "transfer-encoding" not in head and body.endswith(b"data: [DONE]\n\n")
    # One that keeps its connection gets a length.
    data = b"GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    with socket.create_connection(cluster.api, timeout=10) as sock, sock.makefile("rb") as file:
        for _ in range(2):
            sock.sendall(data)
            head = b"".join(iter(file.readline, b"\r\n")).lower()
            assert b" 200 " in head and b"connection: keep-alive" in head
            assert json.loads(file.read(int(re.search(rb"content-length: (\d+)", head)[1])))["data"]


def test_a_websocket_is_refused_at_once_with_426_and_http_goes_on(cluster):
    upgrade = ["Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    for path in ("/v1/responses", "/responses", "/v1/chat/completions"):
        answer = send_raw(cluster.api, "\r\n".join(
            [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: WebSocket", *upgrade, "", ""]).encode())
        assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n"), answer
        assert b"\r\nupgrade: HTTP/1.1\r\n" in answer and b'"code":"upgrade_required"' in answer
    # Elsewhere, and to what is offered beside it, the header says nothing (RFC 9110, 7.8).
    for line, offer in (("GET /v1/models HTTP/1.1", "websocket"), ("GET /v1/models HTTP/1.1", "h2c")):
        answer = send_raw(cluster.api, "\r\n".join(
            [line, "Host: x", f"Upgrade: {offer}", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade, HTTP2-Settings",
             "", ""]).encode())
        assert answer.startswith(b"HTTP/1.1 200 "), answer


def test_codex_finds_its_member_in_the_list_of_models(cluster):
    plain = json.loads(fetch_now(cluster.api, "GET", "/v1/models").body)
    assert "models" not in plain
    codex = json.loads(fetch_now(cluster.api, "GET", "/v1/models?client_version=0.171.0").body)
    assert codex.pop("models") == [] and codex == plain
