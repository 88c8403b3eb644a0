"""test_engines.py - Drover in front of every scripted engine: what it says is what the engine says.

Each request goes to the engine directly and through a coordinator and its drover-node; text, usage
and the reason of the end must be the same, in every API that the engine has, streamed and not.
"""

import json
from types import SimpleNamespace

import pytest

from client import Stream, ask, chat, leave_unanswered
from harness import Cluster, SLOW, until
from llama_server import LlamaServer
from llama_swap import LlamaSwap
from lm_studio import LmStudio
from load import fetch_now
from localai import LocalAi
from mlx_lm import MlxLm
from ollama import Ollama
from plain_openai import PlainOpenAi
from sglang import Sglang
from tabby_api import TabbyApi
from tgi import Tgi
from vllm import Vllm

CHAT, TEXT, MESSAGES, RESPONSES = ("/v1/chat/completions", "/v1/completions", "/v1/messages",
                                   "/v1/responses")
OLLAMA_CHAT, OLLAMA_GENERATE = "/api/chat", "/api/generate"
PATHS = (CHAT, TEXT, MESSAGES, RESPONSES, OLLAMA_CHAT, OLLAMA_GENERATE)
KINDS = [LlamaServer, Ollama, Vllm, Sglang, LlamaSwap, LocalAi, LmStudio, Tgi, TabbyApi, MlxLm,
         PlainOpenAi]
CASES = [(kind, path, stream) for kind in KINDS for path in PATHS
         if ("POST", path) in kind.routes for stream in (False, True)]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
         for name in ("f", "g")]
# Ways of a plain server that change nothing of what it says.
WAYS = {"plain text": {"stream_type": "text/plain; charset=utf-8"},
        "json type": {"stream_type": "application/json"}, "no type": {"stream_type": None},
        "no done": {"done": False}, "stays open": {"after_done": "open"},
        "closes": {"after_done": "close"}, "no chunks": {"framing": "close"},
        "empty finish": {"finish": ""}, "null finish": {"finish": "null"},
        "eos": {"stop_word": "eos"}, "STOP": {"stop_word": "STOP"},
        "large event": {"big_event": 3 << 20}, "comments": {"comments": True},
        "crlf": {"crlf": True}, "no index": {"index": False}, "nothing": {"empty": True},
        "silence": {"pauses": {3: 0.5}}}

# The cases that Drover does not serve yet, and why.  A case that works is to be taken off: its test says so.
OPEN = {}


def check(case, expected):
    """Runs `expected`, which asserts; a case that is OPEN must fail."""
    if case not in OPEN:
        expected()
        return
    try:
        expected()
    except (AssertionError, ValueError):
        return
    pytest.fail(f"{name_of(case[0])}, {case[1]}: works now; take it off OPEN")


def name_of(value):
    return value.__name__ if isinstance(value, type) else str(value)


@pytest.fixture(scope="module")
def pairs(request):
    """kind -> (engine, coordinator), started when first asked for."""
    made = {}

    def get(kind):
        if kind not in made:
            engine = kind()
            cluster = Cluster(f"engines-{kind.__name__}", workers=1).start()
            cluster.start_node("n", engine=engine.url, extra=["--slots", "4"])
            through = SimpleNamespace(port=cluster.address("api")[1], cluster=cluster)
            made[kind] = engine, through
        return made[kind]

    yield get
    for engine, through in made.values():
        through.cluster.finish(request.session.testsfailed > 0)
        engine.close()


def body_for(path, engine, text="What does a node keep?", **more):
    model = list(engine.models)[0]
    if path == TEXT:
        return {"model": model, "prompt": text, **more}
    if path == RESPONSES:
        if "max_tokens" in more:
            more["max_output_tokens"] = more.pop("max_tokens")
        return {"model": model, "input": text, **more}
    if path in (OLLAMA_CHAT, OLLAMA_GENERATE):
        if "max_tokens" in more:
            more["options"] = {"num_predict": more.pop("max_tokens")}
        more.setdefault("stream", False)
        if path == OLLAMA_GENERATE:
            return {"model": model, "prompt": text, **more}
    if path == MESSAGES:
        more.setdefault("max_tokens", 200)
    return {**chat(text, model=model), **more}


def said(path, documents):
    """(text, usage, reason) of the events of a stream, or of one document."""
    text, usage, reason = "", None, None
    for document in documents:
        if document is None or document == "[DONE]":
            continue
        if path in (OLLAMA_CHAT, OLLAMA_GENERATE):
            text += (document.get("message") or {}).get("content") or document.get("response") or ""
            if document["done"]:
                usage = {k: document.get(k) for k in ("prompt_eval_count", "eval_count")}
                reason = document.get("done_reason")
        elif path == MESSAGES:
            message = document.get("message") or document
            text += (document.get("delta") or {}).get("text") or "".join(
                block.get("text", "") for block in document.get("content") or [])
            found = document.get("usage") or message.get("usage")
            usage = {**(usage or {}), **found} if found else usage
            reason = (document.get("delta") or {}).get("stop_reason") or \
                message.get("stop_reason") or reason
        elif path == RESPONSES:
            response = document.get("response") or document
            if "output" in response and response.get("usage"):
                text = "".join(part["text"] for item in response["output"]
                               for part in item.get("content") or [])
                usage, reason = response["usage"], response["status"]
        else:
            for choice in document.get("choices") or []:
                piece = choice.get("delta") or choice.get("message") or choice
                text += piece.get("content") or piece.get("text") or ""
                reason = choice.get("finish_reason") or reason
            usage = document.get("usage") or usage
    return text, usage, reason


def answer_of(server, path, body):
    if body.get("stream"):
        return said(path, events_of(Stream(server, path, body)))
    status, _, data = ask(server, "POST", path, body, timeout=30 * SLOW)
    assert status == 200, (status, data)
    return said(path, [json.loads(data)])


def events_of(stream):
    while stream.next() is not None:
        pass
    lines = [line for _, line in stream.lines if not line.startswith((b"event:", b":"))]
    lines = [line[5:].strip() if line.startswith(b"data:") else line for line in lines]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


@pytest.mark.parametrize("tokens", [None, 5], ids=["stop", "length"])
@pytest.mark.parametrize("kind,path,stream", CASES, ids=name_of)
def test_the_answer_is_the_engines_own(pairs, kind, path, stream, tokens):
    engine, through = pairs(kind)
    more = {"stream": stream} if tokens is None else {"stream": stream, "max_tokens": tokens}
    if stream and path in (CHAT, TEXT):
        more["stream_options"] = {"include_usage": True}
    body = body_for(path, engine, **more)
    direct = answer_of(engine, path, body)
    assert direct[0] and direct[1] and direct[2], direct

    def expected():
        assert answer_of(through, path, body) == direct
    check((kind, path), expected)


@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_two_tool_calls_stay_two(pairs, kind, stream):
    engine, through = pairs(kind)
    engine.calls = [("f", '{"x":1}'), ("g", '{"y":2}')]
    try:
        body = body_for(CHAT, engine, stream=stream, tools=TOOLS)
        whole = [("f", '{"x":1}'), ("g", '{"y":2}')]
        assert calls_of(engine, body) == whole

        def expected():
            assert calls_of(through, body) == whole
        check((kind, f"tool calls, {'stream' if stream else 'document'}"), expected)
    finally:
        engine.calls = []


def calls_of(server, body):
    """Whole calls of a chat; each event of ours has a whole one."""
    if body["stream"]:
        documents = events_of(Stream(server, CHAT, body))
    else:
        status, _, data = ask(server, "POST", CHAT, body, timeout=30 * SLOW)
        assert status == 200, (status, data)
        documents = [json.loads(data)]
    return [(call["function"]["name"], call["function"]["arguments"])
            for document in documents for choice in document.get("choices") or []
            for call in (choice.get("delta") or choice.get("message") or {}).get("tool_calls") or []]


@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
@pytest.mark.parametrize("way", WAYS)
def test_a_plain_server_may_have_its_ways(pairs, way, stream):
    engine, through = pairs(PlainOpenAi)
    body = body_for(CHAT, engine, stream=stream)
    if stream:
        body["stream_options"] = {"include_usage": True}
    right = answer_of(engine, CHAT, body)
    before = {name: getattr(engine, name) for name in WAYS[way]}
    try:
        for name, value in WAYS[way].items():
            setattr(engine, name, value)
        if way == "nothing":
            right = answer_of(engine, CHAT, body)
        elif "stop_word" in WAYS[way]:
            right = (*right[:2], engine.stop_word)

        def expected():
            assert answer_of(through, CHAT, body) == right
        check((PlainOpenAi, f"{way}, {'stream' if stream else 'document'}"), expected)
        assert through.cluster.node_state("n") == "UP"
    finally:
        for name, value in before.items():
            setattr(engine, name, value)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_compressed_unasked_is_a_failure(make_cluster, stream):
    with PlainOpenAi(gzip=True, gzip_streams=True) as engine:
        cluster = make_cluster(workers=1).start()
        cluster.start_node("n", engine=engine.url)
        answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", {
            "model": list(engine.models)[0], "stream": stream,
            "messages": [{"role": "user", "content": "hi"}]})
        assert answer.status == 502 and b"content coding" in answer.body


def test_a_list_may_be_compressed_unasked(make_cluster):
    with PlainOpenAi(gzip_list=True) as engine:
        cluster = make_cluster(workers=1).start()
        cluster.start_node("n", engine=engine.url, wait=False)
        until(lambda: engine.gets("/v1/models"), what="a look")
        check((PlainOpenAi, "gzip list"), lambda: cluster.wait_up("n", bound_s=1))


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_its_models_are_listed(pairs, kind):
    engine, through = pairs(kind)
    status, _, data = ask(through, "GET", "/v1/models")
    assert status == 200
    ids = {model["id"] for model in json.loads(data)["data"]}
    assert set(engine.models) <= ids


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in (Ollama, MlxLm, PlainOpenAi, LocalAi)],
                         ids=name_of)
def test_a_prompt_that_is_too_long_is_refused_in_the_engines_words(pairs, kind):
    engine, through = pairs(kind)
    body = body_for(CHAT, engine, "word " * (engine.context + 10))
    status, _, data = ask(engine, "POST", CHAT, body)
    assert status in (400, 422)
    seen, _, answer = ask(through, "POST", CHAT, body, timeout=30 * SLOW)
    assert 400 <= seen < 500, (seen, answer)
    error = json.loads(data)
    inner = error.get("error", error)
    words = inner if isinstance(inner, str) else inner["message"]
    assert json.dumps(words[:40])[1:-1].encode() in answer
    assert through.cluster.node_state("n") == "UP"


@pytest.mark.parametrize("stream", [False, True], ids=["document", "stream"])
@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_a_client_that_leaves_frees_the_engine(pairs, kind, stream):
    engine, through = pairs(kind)
    slow, engine.tokens_per_s = engine.tokens_per_s, 5
    try:
        body = body_for(CHAT, engine, stream=stream, max_tokens=400, ignore_eos=True)
        close = leave_unanswered(through, CHAT, body)
        until(lambda: running(engine), what="the generation")
        close()
        until(lambda: not running(engine), 3, "the slot is free")
    finally:
        engine.tokens_per_s = slow


def test_an_engine_that_has_just_gone_makes_the_client_come_back(make_cluster):
    """No node has failed yet as far as anybody knows, and no engine had the request."""
    cluster = make_cluster(workers=1).start()
    cases = [(path, stream) for path in (CHAT, TEXT, RESPONSES, MESSAGES) for stream in (False, True)]
    cases += [(MESSAGES + "/count_tokens", False), (OLLAMA_CHAT, False)]
    engines = [LlamaServer(models=[f"m{i}"]) for i in range(len(cases) - 1)] + [Ollama()]
    for i, engine in enumerate(engines):
        cluster.start_node(f"n{i}", engine=engine.url, wait=False)
    for i in range(len(cases)):
        cluster.wait_up(f"n{i}")
    through = SimpleNamespace(port=cluster.address("api")[1])
    for engine, (path, stream) in zip(engines, cases):
        engine.close()
        body = body_for(path, engine, **({"stream": stream} if stream else {}))
        status, headers, data = ask(through, "POST", path, body)
        assert status == 503, (path, stream, data)
        assert headers["x-should-retry"] == "true" and headers["retry-after"] == "5", path
        assert headers["x-drover-reason"] == "no_node" and headers["x-drover-attempts"] == "0", path


def running(engine):
    return [work for machine in engine.machines for work in machine.running]
