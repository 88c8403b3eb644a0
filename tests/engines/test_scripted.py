"""test_scripted.py - what every scripted engine can: record, obey, break, die and come back."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from client import Stream, ask, at_once, chat, get, post, text_of_chat, until
from llama_server import LlamaServer
from ollama import Ollama
from vllm import Vllm

CHAT = "/v1/chat/completions"
HERE = Path(__file__).resolve().parent


@pytest.fixture
def engine():
    with Vllm(models=["m"]) as made:
        yield made


def test_every_request_is_recorded(engine):
    before = time.monotonic()
    ask(engine, "POST", CHAT + "?x=1", chat(max_tokens=2), {"X-Odd": "Yes"})
    request = engine.posts(CHAT)[0]
    assert (request.method, request.path, request.query) == ("POST", CHAT, {"x": "1"})
    assert request.headers["X-ODD"] == "Yes" and request.json["max_tokens"] == 2
    until(lambda: request.ended_s)
    assert before < request.came_s < request.ended_s < time.monotonic() and request.status == 200
    path, headers, body = request
    assert (path, headers.get("x-odd"), body) == (CHAT, "Yes", request.body)


def test_bodies_may_come_in_chunks(engine):
    data = json.dumps(chat(max_tokens=2)).encode()
    with socket.create_connection(("127.0.0.1", engine.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + data[:5] + b"\r\n%x\r\n" % len(data[5:])
                     + data[5:] + b"\r\n0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200") and engine.posts()[0].body == data


def test_knobs_work_while_it_runs_and_unknown_ones_are_refused(engine):
    engine.tokens_per_s = 20
    began = time.monotonic()
    post(engine, CHAT, chat(max_tokens=6))
    assert time.monotonic() - began > 0.2
    with pytest.raises(AttributeError):
        Vllm(no_such_knob=1)


def test_a_path_can_be_answered_by_the_test(engine):
    engine.on["/v1/models"] = lambda reply, _: reply.answer(503, {"error": "busy"})
    assert ask(engine, "GET", "/v1/models")[0] == 503
    del engine.on["/v1/models"]
    assert get(engine, "/v1/models")["data"][0]["id"] == "m"


def test_a_stopped_engine_refuses_and_comes_back_on_its_port(engine):
    engine.tokens_per_s = 10
    stream = Stream(engine, CHAT, chat(stream=True, max_tokens=100, ignore_eos=True))
    assert stream.next()
    engine.stop()
    with pytest.raises(OSError):
        while stream.next() is not None:
            pass
        raise ConnectionResetError
    with pytest.raises(ConnectionRefusedError):
        ask(engine, "GET", "/health")
    engine.tokens_per_s = 1000
    engine.start()
    assert post(engine, CHAT, chat())[0] == 200


@pytest.mark.parametrize("how", ["drop", "end", "error"])
def test_a_stream_breaks_where_the_test_says(engine, how):
    engine.break_after = (3, how)
    stream = Stream(engine, CHAT, chat(stream=True))
    try:
        events = stream.all()
    except Exception:  # pylint: disable=broad-except
        assert how == "drop"
        events = stream.events()
    assert len(text_of_chat(events).split()) == 3 and "[DONE]" not in events
    assert ("error" in events[-1]) is (how == "error")


def test_it_is_silent_where_the_test_says(engine):
    engine.pauses = {3: 0.5}
    stream = Stream(engine, CHAT, chat(stream=True))
    stream.all()
    gaps = [b - a for (a, _), (b, _) in zip(stream.lines, stream.lines[1:])]
    assert max(gaps) > 0.4


@pytest.mark.parametrize("kind", [LlamaServer, Vllm, Ollama])
def test_the_same_question_has_the_same_answer_everywhere(kind, engine):
    """Streamed or not, in whatever API: so answers through Drover can be compared."""
    with kind() as other:
        name = list(other.models)[0]
        here = post(engine, CHAT, chat(model="m"))[1]["choices"][0]["message"]["content"]
        there = post(other, CHAT, chat(model=name))[1]["choices"][0]["message"]["content"]
        streamed = Stream(other, CHAT, chat(model=name, stream=True)).all()
        messages = post(other, "/v1/messages", chat(model=name, max_tokens=99))[1]
        assert here == there == text_of_chat(streamed) == messages["content"][0]["text"]


def test_hundreds_of_streams_keep_their_pace(engine):
    engine.batch_cost, engine.tokens_per_s, engine.tick_s = 0.0, 10, 0.05
    began = time.monotonic()
    answers = at_once(200, lambda i: len(Stream(engine, CHAT, chat(
        str(i), stream=True, max_tokens=20, ignore_eos=True)).all()))
    assert set(answers) == {23} and time.monotonic() - began < 8
    assert engine.machine.most_running > 150


PROGRAMS = ("llama_server", "llama_swap", "lm_studio", "localai", "mlx_lm", "ollama", "plain_openai",
            "sglang", "tabby_api", "tgi", "vllm")


@pytest.mark.parametrize("file", PROGRAMS)
def test_each_runs_as_a_program(file):
    with subprocess.Popen([sys.executable, HERE / f"{file}.py", "--port", "0", "tokens_per_s=50"],
                          stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(url + "/v1/models", timeout=10) as answer:
                assert json.load(answer)["object"] == "list"
        finally:
            process.terminate()
