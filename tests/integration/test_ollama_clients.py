"""test_ollama_clients.py - what Ollama's own clients ask for beside answers: lists, memory, management."""

import json
import threading

import pytest

from harness import Cluster, until
from llama_server import LlamaServer
from load import fetch_now
from ollama import STAMP, Ollama, digest_of


@pytest.fixture
def cluster(request):
    cluster = Cluster("ollama", config={"aliases": [
        {"name": "boss", "model": ["small:latest", "big:7b"]}]}).start()
    yield cluster
    cluster.finish(request.session.testsfailed > 0)


def call(cluster, method, path, body=None):
    return fetch_now(cluster.api, method, path, b"" if body is None else json.dumps(body).encode(),
                     {"content-type": "application/json"})


def rows(cluster, path):
    return {row["name"]: row for row in call(cluster, "GET", path).json()["models"]}


def test_lists_have_what_the_engines_say_and_only_what_can_be_run(cluster):
    small, big = {"small:latest": ["completion"]}, {"big:7b": ["completion"]}
    with (Ollama(models=small) as one, Ollama(models={**small, **big}) as two,
          LlamaServer(models=["other"]) as other):
        for name, engine in (("a", one), ("b", two), ("c", other)):
            cluster.start_node(name, engine=engine.url)
        tags = rows(cluster, "/api/tags")
        assert set(tags) == {"small:latest", "big:7b", "boss"}, "other cannot be run by these clients"
        assert "other" in call(cluster, "GET", "/v1/models").body.decode()
        for name in ("small:latest", "big:7b"):
            row = tags[name]
            assert (row["size"], row["digest"], row["modified_at"]) == (
                2019393189, digest_of(name), STAMP)
            assert row["details"]["family"] == "llama" and row["details"]["families"] == ["llama"]
            assert row["details"]["parameter_size"] == "3.2B"
            assert row["details"]["quantization_level"] == "Q4_K_M"
        shown = call(cluster, "POST", "/api/show", {"model": "big:7b"}).json()
        assert shown["details"]["parameter_size"] == "3.2B"
        assert rows(cluster, "/api/ps") == {}
        for engine in (one, two):
            fetch_now(engine_address(engine), "POST", "/api/generate", json.dumps(
                {"model": "small:latest", "prompt": "hi", "stream": False}).encode())
        until(lambda: rows(cluster, "/api/ps").get("small:latest", {}).get("size") == 2 * 3212345678,
              20, "the memory of both nodes")
        row = rows(cluster, "/api/ps")["small:latest"]
        assert row["size_vram"] == 2 * 3212345678 and row["expires_at"] == STAMP
        assert row["digest"] == digest_of("small:latest") and row["context_length"] == 4096

        # ollama stop
        asked = {"model": "boss", "keep_alive": 0}
        answer = call(cluster, "POST", "/api/generate", asked)
        assert answer.status == 200 and answer.json()["done_reason"] == "unload", answer.body
        assert answer.json()["model"] == "boss"
        assert one.loaded == {} and two.loaded == {}, "each of them has been asked"
        until(lambda: rows(cluster, "/api/ps") == {}, 20, "nothing is loaded")
        loads = one.count["loads"] + two.count["loads"]
        answer = call(cluster, "POST", "/api/chat", {**asked, "messages": []})
        assert answer.status == 200 and answer.json()["done_reason"] == "unload"
        assert answer.json()["message"]["role"] == "assistant"
        assert one.count["loads"] + two.count["loads"] == loads
        # Before any look has shown that it is loaded.
        fetch_now(engine_address(two), "POST", "/api/generate", json.dumps(
            {"model": "small:latest", "prompt": "hi", "stream": False}).encode())
        assert call(cluster, "POST", "/api/generate", asked).status == 200 and two.loaded == {}
        cluster.wait_models_known()
        assert call(cluster, "POST", "/api/generate", {"model": "none", "keep_alive": 0}).status == 404


def engine_address(engine):
    host, port = engine.url.removeprefix("http://").split(":")
    return host, int(port)


def test_stopping_does_not_wait_for_a_slot(cluster):
    with Ollama(models={"small:latest": ["completion"]}, tokens_per_s=20, answer_tokens=400) as one:
        cluster.start_node("a", engine=one.url, extra=["--slots", "1"])
        long = threading.Thread(target=call, args=(cluster, "POST", "/api/generate", {
            "model": "small", "prompt": "hi", "options": {"num_predict": 400}}))
        long.start()
        until(lambda: one.loaded and rows(cluster, "/api/ps"), 20, "it is loaded and busy")
        answer = call(cluster, "POST", "/api/generate", {"model": "small", "keep_alive": 0})
        assert answer.json()["done_reason"] == "unload" and long.is_alive()
        one.stop()
        long.join()


def test_requests_that_manage_models_are_answered_at_once(cluster):
    with Ollama(models={"small:latest": ["completion"]}) as one:
        cluster.start_node("a", engine=one.url)
        for name in ("small", "SMALL:latest", "boss"):
            for body in ({"model": name}, {"name": name}):
                answer = call(cluster, "POST", "/api/pull", body)
                lines = [json.loads(line) for line in answer.body.splitlines()]
                assert answer.status == 200 and lines[-1] == {"status": "success"}, answer.body
                answer = call(cluster, "POST", "/api/pull", {**body, "stream": False})
                assert answer.json() == {"status": "success"}
        cluster.wait_models_known()
        for method, path, command in (
                ("POST", "/api/pull", "pull"), ("POST", "/api/push", "push"),
                ("POST", "/api/create", "create"), ("DELETE", "/api/delete", "rm"),
                ("POST", "/api/copy", "cp"), ("POST", "/api/blobs/sha256:1", "create")):
            answer = call(cluster, method, path, {"model": "none"})
            assert answer.status == 501 and list(answer.json()) == ["error"], (path, answer.body)
            assert f"'ollama {command}'" in answer.json()["error"]
            assert answer.headers["x-should-retry"] == "false"
        assert call(cluster, "HEAD", "/api/blobs/sha256:1").status == 501
        assert call(cluster, "POST", "/api/pull", {}).status == 400
        assert not one.posts("/api/pull")
