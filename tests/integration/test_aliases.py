"""test_aliases.py - names of the configuration for what engines call otherwise.

An alias may stand for several models, which different engines have: each is asked for its own,
and the client reads the name that it sent.  A name that ends in '*' is for all that begin so.
"""

import json
import re

import pytest

from harness import Cluster, until
from llama_server import LlamaServer
from load import fetch_now
from ollama import Ollama

MESSAGES = [{"role": "user", "content": "hi"}]
SURFACES = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 8},
    "/v1/embeddings": {"input": "hi"},
    "/api/chat": {"messages": MESSAGES},
    "/api/generate": {"prompt": "hi"},
    "/api/embed": {"input": "hi"},
}


@pytest.fixture
def make(request):
    made = []

    def build(aliases, **config):
        made.append(Cluster("aliases", config={
            "aliases": [{"name": name, "model": model} for name, model in aliases.items()],
            **config}).start())
        return made[-1]
    yield build
    for cluster in made:
        cluster.finish(request.session.testsfailed > 0)


def post(cluster, path, model, **more):
    return fetch_now(cluster.api, "POST", path, json.dumps(
        {**SURFACES[path], "model": model, **more}).encode(), {"content-type": "application/json"})


def listed(cluster):
    return [m["id"] for m in fetch_now(cluster.api, "GET", "/v1/models").json()["data"]]


def names_in(answer):
    return set(re.findall(r'"model": ?"([^"]*)"', answer.body.decode()))


def asked_for(engine, path):
    return {request.json["model"] for request in engine.posts(path)}


def test_one_name_is_served_by_engines_that_have_others(make):
    cluster = make({"llama3": ["llama3:8b", "llama-3-8b.gguf", "nowhere"]}, policy="round_robin")
    with (Ollama(models={"llama3:8b": ["completion", "embedding"], "other": ["completion"]}) as ollama,
          LlamaServer(models=["llama-3-8b.gguf"], embeddings_on=True) as llama):
        node = cluster.start_node("a", engine=ollama.url)
        cluster.start_node("b", engine=llama.url)
        assert listed(cluster) == ["llama-3-8b", "llama-3-8b.gguf", "llama3", "llama3:8b", "other"]
        one = fetch_now(cluster.api, "GET", "/v1/models/llama3")
        assert one.status == 200 and one.json()["id"] == "llama3"
        for path in SURFACES:
            own = {}
            for stream in (False, True, False, True):
                more = {} if "embed" in path else {"stream": stream}
                answer = post(cluster, path, "llama3", **more)
                assert answer.status == 200, (path, answer.body)
                assert names_in(answer) == {"llama3"}, (path, answer.body)
                own[answer.headers["x-drover-node"]] = answer.headers["x-drover-model"]
            known = {"a": "llama3:8b", "b": "llama-3-8b.gguf"}
            assert own == ({"a": "llama3:8b"} if path.startswith("/api/") else known), path
            assert asked_for(ollama, path) == {"llama3:8b"}
            if not path.startswith("/api/"):
                assert asked_for(llama, path) == {"llama-3-8b.gguf"}
        assert post(cluster, "/v1/chat/completions", "llama3:8b").status == 200
        cluster.stop_node(node)
        until(lambda: post(cluster, "/v1/chat/completions", "llama3").status == 200, 10,
              "the other serves it")
        cluster.wait_models_known()
        assert post(cluster, "/v1/chat/completions", "nowhere").status == 404


def test_an_alias_that_hides_a_model_is_warned_of(make):
    cluster = make({"taken": "other", "mine": ["mine", "other"], "free": "other"})
    with LlamaServer(router=("taken", "mine", "other"), models=["taken", "mine", "other"]) as engine:
        cluster.start_node("a", engine=engine.url)
        until(lambda: "event=alias_hides_model" in cluster.master.log(), 10, "the log says so")
        assert re.findall(r"event=alias_hides_model model=\"?([a-z]*)\"? node=\"?([a-z]*)",
                          cluster.master.log()) == [("taken", "a")]
        rows = {row["name"]: row for row in cluster.ctl_json("models")["aliases"]}
        assert {name: row["hides_model_of"] for name, row in rows.items()} == {
            "taken": ["a"], "mine": [], "free": []}
        assert rows["mine"]["models"] == [{"id": "mine", "nodes_total": 1},
                                          {"id": "other", "nodes_total": 1}]
        for name, own in {"taken": "other", "mine": "mine"}.items():
            answer = post(cluster, "/v1/chat/completions", name)
            assert answer.headers.get("x-drover-model", name) == own
            assert names_in(answer) == {name}
        cluster.write_config(aliases=[{"name": "taken", "model": "mine"},
                                      {"name": "other", "model": "mine"}])
        cluster.ctl("reload")
        until(lambda: re.search('alias_hides_model model="?other', cluster.master.log()), 10,
              "a reload says what it hides")
        assert cluster.master.log().count("event=alias_hides_model") == 2, "once for each"


@pytest.mark.parametrize("given", [0, 5], ids=["before", "amid"])
def test_an_answer_that_goes_on_elsewhere_keeps_the_name(make, given):
    cluster = make({"pool": ["a.gguf", "b.gguf"]}, health={"eject_failures": 0},
                   policy="round_robin")
    with (LlamaServer(models=["a.gguf"], answer_tokens=12, break_after=(given, "drop")) as one,
          LlamaServer(models=["b.gguf"], answer_tokens=12) as two):
        cluster.start_node("a", engine=one.url)
        cluster.start_node("b", engine=two.url)
        for _ in range(4):
            answer = post(cluster, "/v1/chat/completions", "pool", stream=True, max_tokens=12)
            assert answer.status == 200 and answer.body.count(b"[DONE]") == 1, answer.body
            assert b'"error"' not in answer.body and names_in(answer) == {"pool"}
        assert asked_for(one, "/v1/chat/completions") == {"a.gguf"}
        assert asked_for(two, "/v1/chat/completions") == {"b.gguf"}


def test_names_that_begin_alike_are_served_by_one_alias(make):
    cluster = make({"claude-*": "big", "claude-haiku-*": ["small", "tiny"], "claude-opus": "small",
                    "*": "any"})
    own = ("any", "big", "claude-real", "small")
    engine = LlamaServer(router=own, models=list(own))
    cluster.start_node("a", engine=engine.url)
    assert listed(cluster) == ["any", "big", "claude-opus", "claude-real", "small"]
    for given in ({}, {"model": None}, {"model": ""}):  # the one for any name
        answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", {"messages": MESSAGES, **given})
        assert answer.status == 200 and names_in(answer) == {"any"}, answer.body
    for path in ("/props", "/props?model=small"):
        assert fetch_now(cluster.api, "GET", path).status == 200
    for name, own in {"claude-sonnet-4": "big", "claude-haiku-4-5": "small", "claude-opus": "small",
                      "claude-real": "claude-real", "gpt-4o": "any", "big": "big"}.items():
        answer = post(cluster, "/v1/messages", name)
        assert answer.status == 200, (name, answer.body)
        assert answer.headers.get("x-drover-model", name) == own
        for headers in ({}, {"anthropic-version": "2023-06-01"}):
            shown = fetch_now(cluster.api, "GET", f"/v1/models/{name}", b"", headers)
            assert shown.status == 200 and shown.json()["id"] == name, (name, shown.body)
    cluster.write_config(aliases=[{"name": "claude-*", "model": "big"}])
    cluster.ctl("reload")
    cluster.wait_models_known()
    until(lambda: post(cluster, "/v1/messages", "gpt-4o").status == 404, 10, "nothing serves it now")
    assert fetch_now(cluster.api, "GET", "/v1/models/gpt-4o").status == 404
    nameless = fetch_now(cluster.api, "POST", "/v1/chat/completions", {"messages": MESSAGES})
    assert nameless.status == 400 and "'model' is missing" in nameless.json()["error"]["message"]


def test_a_name_and_the_same_with_latest_are_one_model_at_any_engine(make):
    cluster = make({"boss": "plain"}, policy="round_robin")
    ollama = Ollama(models={"plain:latest": ["completion"]})
    llama = LlamaServer(models=["plain"])
    tagged = LlamaServer(models=["tagged:latest"])
    with ollama, llama, tagged:
        for name, engine in (("a", ollama), ("b", llama), ("c", tagged)):
            cluster.start_node(name, engine=engine.url)
        for name in ("plain", "plain:latest", "boss:latest"):
            nodes = set()
            for _ in range(4):
                answer = post(cluster, "/v1/chat/completions", name)
                assert answer.status == 200 and names_in(answer) == {name}, answer.body
                nodes.add(answer.headers["x-drover-node"])
            assert nodes == {"a", "b"}, name
        assert asked_for(llama, "/v1/chat/completions") == {"plain"}
        for name in ("tagged", "tagged:latest"):
            answer = post(cluster, "/v1/chat/completions", name)
            assert answer.status == 200 and answer.headers["x-drover-node"] == "c"
            assert names_in(answer) == {name}
            assert fetch_now(cluster.api, "GET", f"/v1/models/{name}").status == 200
        cluster.wait_models_known()
        assert post(cluster, "/v1/chat/completions", "Tagged").status == 404


def test_errors_say_of_what_a_name_is_an_alias(make):
    cluster = make({"gone": "nosuch", "none": ["no", "such"], "mine": "llama", "any-*": "nosuch",
                    "own-*": ["llama", "no"]})
    gone = {"gone": "'gone' is an alias of 'nosuch', which no node has",
            "none": "'none' is an alias of 'no', 'such', which no node has",
            "any-x": "'any-x' is an alias ('any-*') of 'nosuch', which no node has",
            "nope": "The model 'nope' does not exist"}
    lame = {"mine": "for the model 'mine' (an alias of 'llama'): none of its engines",
            "own-x": "for the model 'own-x' (an alias ('own-*') of 'llama', 'no'): none of",
            "llama": "for the model 'llama': none of its engines"}

    def error_of(answer):
        error = answer.json()["error"]
        return error if isinstance(error, str) else error["message"]
    with LlamaServer(models=["llama"]) as engine:
        cluster.start_node("a", engine=engine.url)
        cluster.wait_models_known()
        for name, text in gone.items():
            for path in SURFACES:
                answer = post(cluster, path, name)
                assert answer.status == 404 and error_of(answer) == text, (path, answer.body)
            answer = fetch_now(cluster.api, "POST", "/v1/messages/count_tokens", json.dumps(
                {"model": name, "messages": MESSAGES}).encode())
            assert answer.status == 404 and error_of(answer) == text, answer.body
            for headers in ({}, {"anthropic-version": "2023-06-01"}):
                answer = fetch_now(cluster.api, "GET", f"/v1/models/{name}", b"", headers)
                assert answer.status == 404 and error_of(answer) == text, answer.body
        for name, text in lame.items():
            answer = post(cluster, "/api/chat", name)
            assert answer.status == 501 and text in error_of(answer), answer.body


def test_a_pull_succeeds_for_what_ollamas_clients_can_run(make):
    cluster = make({"mine": "llama", "gemma": "small", "*": "llama"})

    def pull(name, **more):
        return fetch_now(cluster.api, "POST", "/api/pull", json.dumps({"model": name, **more}).encode())
    with (Ollama(models={"small:latest": ["completion"]}) as ollama,
          LlamaServer(models=["llama"]) as llama):
        cluster.start_node("a", engine=ollama.url)
        cluster.start_node("b", engine=llama.url)
        until(lambda: pull("llama").status == 501, 10, "the nodes have said what they have")
        for name, status in {"small": 200, "small:latest": 200, "gemma": 200, "llama": 501,
                             "mine": 501, "gpt-4o": 501}.items():
            for more in ({}, {"stream": False}):
                answer = pull(name, **more)
                assert answer.status == status == post(cluster, "/api/chat", name).status, name
                last = json.loads(answer.body.splitlines()[-1])
                if status == 200:
                    assert last == {"status": "success"}
                else:
                    assert list(last) == ["error"] and f"'{name}'" in last["error"], last
