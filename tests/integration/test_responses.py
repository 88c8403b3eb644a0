"""What an engine keeps of the Responses API is asked of the node that has it, and of no other."""

import json
import threading
import urllib.parse

import pytest

from fake_engine import MODEL, FakeEngine
from load import fetch_now
from test_keys import new_key, write_keys


class Store(FakeEngine):
    """An engine with responses and conversations of its own, which no other engine knows."""

    def __init__(self, name):
        self.name = name
        self.kept = {}
        self.made = 0
        self.lock = threading.Lock()
        super().__init__(self.post)

    def new_id(self, prefix):
        with self.lock:
            self.made += 1
            return f"{prefix}_{self.name}{self.made}"

    def missing(self, reply, what, name):
        reply.answer(404, {"error": {"message": f"{what} with id '{name}' not found.",
                                     "type": "invalid_request_error", "param": None,
                                     "code": 404}})

    def document(self, name, **more):
        return {"id": name, "object": "response", "status": "completed", "created_at": 1,
                "model": MODEL, "error": None, "output": [
                    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                     "content": [{"type": "output_text", "text": self.name}]}],
                "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}, **more}

    def post(self, reply, path, body):
        if path == "/v1/responses":
            self.respond(reply, json.loads(body))
        elif path == "/v1/conversations":
            name = self.new_id("conv")
            self.kept[name] = {"id": name, "object": "conversation"}
            reply.answer(200, self.kept[name])
        elif path.endswith("/cancel"):
            name = path.split("/")[3]
            if name in self.kept:
                reply.answer(200, {**self.kept[name], "status": "cancelled"})
            else:
                self.missing(reply, "Response", name)
        else:
            reply.answer(404, {"detail": "Not Found"})

    def respond(self, reply, request):
        before = request.get("previous_response_id")
        conversation = request.get("conversation")
        if isinstance(conversation, dict):
            conversation = conversation["id"]
        for what, name in (("Response", before), ("Conversation", conversation)):
            if name and name not in self.kept:
                self.missing(reply, what, name)
                return
        name = self.new_id("resp")
        document = self.document(name)
        if request.get("store", True):
            self.kept[name] = document
        if not request.get("stream"):
            reply.answer(200, document)
            return
        reply.begin_stream()
        empty = {**document, "status": "in_progress", "output": []}
        item = document["output"][0]
        for number, (kind, more) in enumerate((
                ("response.created", {"response": empty}),
                ("response.output_item.added", {"output_index": 0, "item": item}),
                ("response.output_text.delta", {"item_id": "msg_1", "output_index": 0,
                                                "content_index": 0, "delta": self.name}),
                ("response.output_item.done", {"output_index": 0, "item": item}),
                ("response.completed", {"response": document}))):
            event = {"type": kind, "sequence_number": number, **more}
            reply.send_piece(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())
        reply.end_stream()

    def handle(self, reply, request):
        parts = request.path.split("/")
        if len(parts) < 4 or parts[2] not in ("responses", "conversations") or \
                request.method == "POST":
            return super().handle(reply, request)
        name = parts[3]
        if name not in self.kept:
            self.missing(reply, "Response", name)
        elif request.method == "DELETE":
            del self.kept[name]
            reply.answer(200, {"id": name, "object": "response", "deleted": True})
        elif parts[4:] == ["input_items"]:
            query = urllib.parse.parse_qs(request.target.partition("?")[2])
            reply.answer(200, {"object": "list", "data": [], "limit": query.get("limit")})
        elif "stream=true" in request.target:
            reply.begin_stream()
            reply.send_piece(b'event: response.completed\ndata: {"type":"response.completed"}\n\n')
            reply.end_stream()
        else:
            reply.answer(200, self.kept[name])
        return reply.keep


@pytest.fixture
def two(make_cluster):
    cluster = make_cluster(workers=2).start()
    cluster.stores = {name: Store(name) for name in "ab"}
    for name, store in cluster.stores.items():
        cluster.start_node(name, engine=store.url, wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    yield cluster
    for store in cluster.stores.values():
        store.close()


def respond(cluster, **more):
    return fetch_now(cluster.api, "POST", "/v1/responses",
                     {"model": MODEL, "input": "hi", **more})


def make(cluster, count=10):
    """Ids of responses, with the name of the engine that has each."""
    made = {}
    for turn in range(count):
        answer = respond(cluster, stream=bool(turn % 2))
        assert answer.status == 200, answer.body
        text = answer.body.decode()
        name = text[text.index("resp_"):].split('"')[0]
        made[name] = answer.headers["x-drover-node"]
    assert set(made.values()) == {"a", "b"}
    return made


def follow(cluster, made):
    for name, node in made.items():
        answer = respond(cluster, previous_response_id=name)
        assert answer.status == 200, (name, node, answer.body)
        assert answer.headers["x-drover-node"] == node
        got = fetch_now(cluster.api, "GET", f"/v1/responses/{name}")
        assert got.status == 200 and got.json()["id"] == name
        assert got.headers["x-drover-node"] == node


def test_follow_ups_reach_the_node_that_has_the_response(two):
    made = make(two)
    follow(two, made)
    for pid in two.worker_pids():
        with two.only_worker(pid):
            follow(two, dict(list(made.items())[:4]))
    some = next(iter(made))
    at = {"x-drover-node": made[some]}
    cancelled = fetch_now(two.api, "POST", f"/v1/responses/{some}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    items = fetch_now(two.api, "GET", f"/responses/{some}/input_items?limit=5&order=asc")
    assert items.json()["limit"] == ["5"]
    stream = fetch_now(two.api, "GET", f"/v1/responses/{some}?stream=true&starting_after=1")
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert b"response.completed" in stream.body
    gone = fetch_now(two.api, "DELETE", f"/v1/responses/{some}")
    assert gone.json()["deleted"] and gone.headers["x-drover-node"] == at["x-drover-node"]
    after = fetch_now(two.api, "GET", f"/v1/responses/{some}")
    assert after.status == 404 and "not found" in after.json()["error"]["message"]
    lost = respond(two, previous_response_id=some)
    assert lost.status == 404 and "not found" in lost.json()["error"]["message"]
    assert all(row["state"] == "UP" for row in two.ctl_rows("nodes"))


def test_a_conversation_stays_where_it_was_made(two):
    for _ in range(4):
        made = fetch_now(two.api, "POST", "/v1/conversations", {"metadata": {}})
        assert made.status == 200
        name, node = made.json()["id"], made.headers["x-drover-node"]
        for conversation in (name, {"id": name}):
            answer = respond(two, conversation=conversation)
            assert answer.status == 200 and answer.headers["x-drover-node"] == node
        got = fetch_now(two.api, "GET", f"/v1/conversations/{name}")
        assert got.status == 200 and got.headers["x-drover-node"] == node


def test_an_id_that_is_not_known_is_asked_of_all(two):
    for node, store in two.stores.items():
        store.kept["resp_old"] = store.document("resp_old")
        for _ in range(3):
            answer = respond(two, previous_response_id="resp_old")
            assert answer.status == 200 and answer.headers["x-drover-node"] == node
            got = fetch_now(two.api, "GET", "/v1/responses/resp_old")
            assert got.status == 200 and got.headers["x-drover-node"] == node
        del store.kept["resp_old"]
    for answer in (respond(two, previous_response_id="resp_never"),
                   fetch_now(two.api, "GET", "/v1/responses/resp_never")):
        assert answer.status == 404 and "resp_never" in answer.json()["error"]["message"]
    # The words of an engine that might as well lack the path teach nothing about the others.
    for store in two.stores.values():
        store.missing = lambda reply, what, name: reply.answer(404, {"error": "not found"})
    for _ in range(3):
        assert fetch_now(two.api, "GET", "/v1/responses/resp_never").status == 404
    for node, store in two.stores.items():
        store.kept["resp_new"] = store.document("resp_new")
        got = fetch_now(two.api, "GET", "/v1/responses/resp_new")
        assert got.status == 200 and got.headers["x-drover-node"] == node
        del store.kept["resp_new"]
    for path in ("/v1/responses/../models", "/v1/responses/a%2e%2e/x", "/v1/responses/a?x=\"y\""):
        assert fetch_now(two.api, "GET", path).status in (400, 404)


def test_it_is_known_after_a_reload_and_restarts_of_coordinator_and_nodes(two):
    made = dict(list(make(two, 12).items())[:8])
    two.ctl("reload")
    follow(two, made)
    for node in list(two.nodes):
        two.stop_node(node)
    two.stop_master()
    two.launch()
    for name, store in two.stores.items():
        two.start_node(name, engine=store.url)
    follow(two, made)
    held = (two.dir / "state" / "holders").read_bytes()
    assert b"resp_" not in held and len(held) > 1 << 20


def test_a_node_that_is_away_is_waited_for(two):
    made = make(two)
    name = next(name for name, node in made.items() if node == "a")
    node = next(node for node in two.nodes if node.name == "a")
    two.stop_node(node)
    for answer in (respond(two, previous_response_id=name),
                   fetch_now(two.api, "GET", f"/v1/responses/{name}")):
        assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1, answer.body
    two.start_node("a", engine=two.stores["a"].url)
    follow(two, {name: "a"})


def test_a_key_does_not_reach_what_another_made(make_cluster):
    cluster = make_cluster(workers=1)
    keys, lines = zip(*(new_key(name) for name in ("one", "two")))
    cluster.settings["api"]["keys_file"] = str(write_keys(cluster, *lines))
    cluster.start()
    store = Store("a")
    cluster.start_node("a", engine=store.url)

    def ask(key, method, path, body=b""):
        return fetch_now(cluster.api, method, path, body,
                         {"Authorization": f"Bearer {keys[key == 'two']}"})
    name = ask("one", "POST", "/v1/responses", {"model": MODEL, "input": "x"}).json()["id"]
    assert ask("one", "GET", f"/v1/responses/{name}").status == 200
    for answer in (ask("two", "GET", f"/v1/responses/{name}"),
                   ask("two", "DELETE", f"/v1/responses/{name}"),
                   ask("two", "POST", "/v1/responses",
                       {"model": MODEL, "input": "x", "previous_response_id": name})):
        assert answer.status == 404, answer.body
    assert name in store.kept
    assert ask("one", "POST", "/v1/responses", {"model": MODEL, "input": "x", "store": False,
                                                "previous_response_id": name}).status == 200
    store.close()
