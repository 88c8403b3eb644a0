"""Web pages that use the API: those that are listed, and all others."""

import functools
import http.server
import json
import shutil
import subprocess
import threading

import pytest

from harness import MODEL, Cluster
from load import chat_body, fetch_now, make_request, send_raw
from test_keys import new_key, write_keys

LISTED, STRANGER = "https://chat.example.com", "http://evil.example"
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "ollama": "/api/chat"}


def start(name, keys=None, **api):
    cluster = Cluster(name, workers=1, config={"limits": {"max_body_bytes": 1024}})
    if keys:
        api["keys_file"] = str(write_keys(cluster, keys))
    cluster.settings["api"].update(api)
    cluster.start()
    cluster.start_node("a", "slots=8")
    return cluster


@pytest.fixture(scope="module")
def open_to_pages(request):
    cluster = start("pages", cors_origins=["loopback", LISTED, "app://*"])
    cluster.wait_models_known()
    yield cluster
    cluster.finish(request.session.testsfailed > 0)


def ask(cluster, origin, path=PATHS["openai"], **more):
    body = more.pop("body", None) or chat_body("hi", 4, **more)
    return fetch_now(cluster.api, "POST", path, body, {"Origin": origin})


def preflight(cluster, origin, path=PATHS["openai"], **headers):
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
    asked.update(headers)
    return fetch_now(cluster.api, "OPTIONS", path, b"", asked)


def exposed(answer):
    return {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}


@pytest.mark.parametrize("surface", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_listed_page_may_read_answers_and_their_headers(open_to_pages, surface, stream):
    answer = ask(open_to_pages, LISTED, PATHS[surface], stream=stream)
    assert answer.status == 200, answer.body
    assert answer.headers["access-control-allow-origin"] == LISTED
    assert answer.headers["vary"] == "origin"
    ours = {name for name in answer.headers if name.startswith("x-") and name != "x-accel-buffering"}
    assert ours and ours <= exposed(answer), ours - exposed(answer)
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("method, path, body, status", [
    ("POST", "/v1/chat/completions", b"{", 400),
    ("POST", "/v1/chat/completions", {"model": "nope", "messages": []}, 404),
    ("GET", "/v1/chat/completions", b"", 405),
    ("GET", "/nowhere", b"", 404),
    pytest.param("POST", "/v1/chat/completions", b" " * 2048, 413, id="too-large"),
    ("GET", "/v1/models", b"", 200),
    ("GET", "/health", b"", 200),
])
def test_a_listed_page_may_read_errors_and_lists(open_to_pages, method, path, body, status):
    answer = fetch_now(open_to_pages.api, method, path, body, {"Origin": "app://obsidian.md"})
    assert answer.status == status, answer.body
    assert answer.headers["access-control-allow-origin"] == "app://obsidian.md"
    assert "x-request-id" in answer.headers and "x-request-id" in exposed(answer)
    if status >= 400:
        assert "x-drover-reason" in exposed(answer) and "retry-after" in exposed(answer)


@pytest.mark.parametrize("path", [*PATHS.values(), "/v1/models", "/nowhere"])
def test_a_browser_that_asks_first_is_answered(open_to_pages, path):
    answer = preflight(open_to_pages, "http://localhost:3000", path)
    assert answer.status == 204 and answer.body == b"" and "content-length" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-private-network" not in answer.headers
    answer = preflight(open_to_pages, LISTED, path, **{"Access-Control-Request-Private-Network": "true"})
    assert answer.headers["access-control-allow-private-network"] == "true"


def test_the_connection_goes_on_after_the_browsers_question(open_to_pages):
    question = make_request("OPTIONS", "/v1/models", b"", {"Origin": LISTED,
                                                           "Access-Control-Request-Method": "GET"})
    last = make_request("GET", "/v1/models", b"", {"Origin": LISTED, "Connection": "close"})
    answer = send_raw(open_to_pages.api, question + last)
    assert answer.startswith(b"HTTP/1.1 204 ") and b"HTTP/1.1 200 OK" in answer
    assert answer.count(b"HTTP/1.1 ") == 2


@pytest.mark.parametrize("surface", PATHS)
def test_a_page_that_is_not_listed_reaches_nothing_where_no_key_is_asked_for(open_to_pages, surface):
    for answer in (ask(open_to_pages, STRANGER, PATHS[surface]),
                   preflight(open_to_pages, STRANGER, PATHS[surface]),
                   ask(open_to_pages, "null", PATHS[surface]),
                   fetch_now(open_to_pages.api, "GET", "/v1/models", b"", {"Origin": STRANGER})):
        assert answer.status == 403 and b"api.cors_origins" in answer.body
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-should-retry"] == "false"
    assert fetch_now(open_to_pages.api, "GET", "/health", b"", {"Origin": STRANGER}).status == 200


def test_by_default_pages_of_this_machine_may_and_an_empty_list_means_none():
    for list_, origin, status in ((None, "http://127.0.0.1:5173", 200), (None, STRANGER, 403),
                                  ([], "http://localhost:3000", 403), (["*"], STRANGER, 200)):
        cluster = start("pages-default", **({} if list_ is None else {"cors_origins": list_}))
        try:
            assert ask(cluster, origin).status == status, (list_, origin)
        finally:
            cluster.finish(False)


def test_with_keys_the_question_needs_none_and_a_stranger_with_a_key_is_no_stranger():
    key, line = new_key("alice")
    cluster = start("pages-keys", keys=line, cors_origins=[LISTED])
    try:
        assert preflight(cluster, LISTED).status == 204
        assert preflight(cluster, STRANGER).status == 403
        answer = ask(cluster, LISTED)
        assert answer.status == 401 and answer.headers["access-control-allow-origin"] == LISTED
        # A program that sends an Origin and has a key: no browser would show a page the answer.
        answer = fetch_now(cluster.api, "POST", PATHS["openai"], chat_body("hi", 4),
                           {"Origin": STRANGER, "Authorization": f"Bearer {key}"})
        assert answer.status == 200 and "access-control-allow-origin" not in answer.headers
    finally:
        cluster.finish(False)


@pytest.mark.parametrize("content_type", ["text/plain;charset=UTF-8", "text/plain",
                                          "application/x-www-form-urlencoded", ""])
def test_types_that_need_no_question_are_taken_from_listed_pages_only(open_to_pages, content_type):
    body = json.dumps(chat_body("hi", 4, stream=False)).encode()
    for origin, status in ((None, 200), (LISTED, 200), (STRANGER, 403)):
        headers = {"Content-Type": content_type, **({"Origin": origin} if origin else {})}
        answer = fetch_now(open_to_pages.api, "POST", PATHS["openai"], body, headers)
        assert answer.status == status, (origin, answer.body)


PAGE = """<script>
async function chat(stream, how) {
  const answer = await fetch(API + '/v1/chat/completions', {method: 'POST', headers: how,
    body: JSON.stringify({model: MODEL, stream, max_tokens: 4, messages: [{role: 'user', content: 'hi'}]})});
  return {status: answer.status, id: answer.headers.get('x-request-id'),
          node: answer.headers.get('x-drover-node'), text: await answer.text()};
}
const json = {'content-type': 'application/json', 'authorization': 'Bearer x', 'x-stainless-os': 'y'};
(async () => {
  const out = {};
  for (const [name, stream, how] of [['plain', false, {}], ['asked', false, json], ['stream', true, json]])
    try { out[name] = await chat(stream, how); } catch (e) { out[name] = {failed: String(e)}; }
  document.body.textContent = JSON.stringify(out);
})();
</script><body>"""


def serve_page(html):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=functools.partial(server.serve_forever, 0.05), daemon=True).start()
    return server


def see(page_url, profile):
    done = subprocess.run(
        [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
         f"--user-data-dir={profile}", "--host-resolver-rules=MAP evil.example 127.0.0.1",
         "--virtual-time-budget=20000", "--dump-dom", page_url],
        check=True, capture_output=True, text=True, timeout=180)
    text = done.stdout
    return json.loads(text[text.index("<body>") + 6:text.index("</body>")].replace("&quot;", '"'))


@pytest.mark.parametrize("host, may", [("localhost", True), ("evil.example", False)])
def test_chromium_lets_a_listed_page_talk_and_no_other(open_to_pages, tmp_path, host, may):
    api = "http://%s:%d" % open_to_pages.api
    server = serve_page(PAGE.replace("API", json.dumps(api)).replace("MODEL", json.dumps(MODEL)))
    try:
        seen = see(f"http://{host}:{server.server_address[1]}/", tmp_path / "profile")
    finally:
        server.shutdown()
    for name, answer in seen.items():
        if not may:
            assert "failed" in answer, (name, answer)
            continue
        assert answer.get("status") == 200, (name, answer)
        assert answer["id"] and answer["node"] == "a"
    assert set(seen) == {"plain", "asked", "stream"}
    if may:
        assert "[DONE]" in seen["stream"]["text"]
