"""Nodes that serve one model and differ: a request goes to one that has what it needs.

The engines are those of tests/engines, which refuse in the words of the real ones.  A refusal for
what an engine lacks is tried elsewhere, ejects no node, teaches no speed, and reaches the client
only when no node can serve the request.
"""

import json
import threading
import time

import pytest

from fake_engine import FakeEngine
from harness import until
from llama_server import LlamaServer
from lm_studio import LmStudio
from load import fetch_now
from ollama import Ollama
from sglang import Sglang
from tabby_api import TabbyApi
from tgi import Tgi
from vllm import Vllm

MODEL = "m"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
OPENAI, ANTHROPIC, OLLAMA = "/v1/chat/completions", "/v1/messages", "/api/chat"
RESPONSES = "/v1/responses"


def body_of(path, text, model=MODEL, stream=False, picture=None, limit=4):
    """A request of each API."""
    content = text
    if picture and path == OPENAI:
        content = [{"type": "text", "text": text},
                   {"type": "image_url", "image_url": {"url": picture}}]
    if picture and path == ANTHROPIC:
        data = picture.partition(",")[2]
        content = [{"type": "text", "text": text},
                   {"type": "image", "source": {"type": "base64", "media_type": "image/png",
                                                "data": data}}]
    if path == RESPONSES:
        if picture:
            content = [{"role": "user", "content": [
                {"type": "input_text", "text": text},
                {"type": "input_image", "image_url": picture}]}]
        return {"model": model, "input": content, "stream": stream, "max_output_tokens": limit}
    message = {"role": "user", "content": content}
    if path == OLLAMA:
        if picture:
            message["images"] = [picture.partition(",")[2]]
        return {"model": model, "messages": [message], "stream": stream,
                "options": {"num_predict": limit}}
    return {"model": model, "messages": [message], "stream": stream, "max_tokens": limit}


def words(count, seed=0):
    """A prompt of about so many tokens of a scripted engine, five bytes each."""
    return f"{seed:04} " + "word " * (count - 1)


class Nodes:
    """A coordinator, and nodes before scripted engines."""

    def __init__(self, make_cluster, engines, workers=1, slots=8, config=None):
        self.engines = engines
        health = {"eject_failures": 5, "eject_success_pct": 80, "eject_backoff_ms": 60_000,
                  "eject_backoff_max_ms": 60_000}
        self.cluster = make_cluster(workers=workers,
                                    config={"health": health, **(config or {})}).start()
        for name, engine in engines.items():
            self.cluster.start_node(name, engine=engine.url, wait=False,
                                    extra=("--slots", str(slots)))
        for node in self.cluster.nodes:
            self.cluster.wait_up(node.name, node)

    def send(self, path, body, headers=None):
        return fetch_now(self.cluster.api, "POST", path, body, headers, timeout_s=60)

    def posts(self, name):
        return len([r for r in self.engines[name].seen if r.method == "POST"])

    def states(self):
        return {name: self.cluster.node_state(name) for name in self.engines}

    def all_up(self):
        """None was ejected, and none would be but for its being needed."""
        rows = [self.cluster.node_row(name) for name in self.engines]
        assert {(r["state"], r["reason"]) for r in rows} == {("UP", "probes_pass")}, rows
        assert {r["success_fraction"] for r in rows} == {1}, rows
        return "to=EJECTED" not in self.cluster.master.log()

    def explain(self, request_id):
        return self.cluster.ctl_json("explain", request_id)["decisions"]


@pytest.fixture
def make_nodes(make_cluster):
    made = []

    def make(engines, **options):
        made.append(engines)
        return Nodes(make_cluster, engines, **options)

    yield make
    for engines in made:
        for engine in engines.values():
            engine.close()


def llama(context=32768, **knobs):
    engine = LlamaServer()
    engine.models, engine.context, engine.slots = [MODEL], context, 8
    for knob, value in knobs.items():
        setattr(engine, knob, value)
    return engine


def vllm(context=32768, **knobs):
    engine = Vllm()
    engine.models, engine.context = [MODEL], context
    for knob, value in knobs.items():
        setattr(engine, knob, value)
    return engine


def sees(kind, vision):
    """An engine of the kind which says in its own way whether its model sees."""
    if kind is LmStudio:
        return LmStudio(models={MODEL: "vlm" if vision else "llm"}, loaded=MODEL)
    if kind is Ollama:
        return Ollama(models={f"{MODEL}:latest": ["completion", "tools"] + ["vision"] * vision})
    if kind is LlamaServer:
        return llama(vision=vision)
    return kind(models=[MODEL], vision=vision)


def holds(kind, context):
    """An engine of the kind whose model has so long a context, which its list does not say."""
    if kind is LmStudio:
        return LmStudio(models={MODEL: "llm"}, loaded=MODEL, context=context)
    return kind(models=[MODEL], context=context)


def assert_whole(answer):
    assert answer.status == 200, answer.body
    assert b'"error"' not in answer.body, answer.body


# ---- contexts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("make", [llama, vllm])
def test_long_prompts_are_served_by_the_node_whose_context_holds_them(
        make_nodes, make, stream, workers):
    both = make_nodes({"small": make(2048), "large": make(32768)}, workers=workers)
    for seed in range(10):
        for path in (OPENAI, ANTHROPIC):
            assert_whole(both.send(path, body_of(path, words(5000, seed), stream=stream)))
    assert both.all_up()


@pytest.mark.parametrize("stream", [False, True])
def test_a_context_that_no_engine_states_is_learned_from_one_refusal(make_nodes, stream):
    """Both workers know it then."""
    engines = {"small": vllm(2048), "large": vllm()}

    def list_models(reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm"}]})

    for engine in engines.values():
        engine.on["/v1/models"] = list_models
    both = make_nodes(engines, workers=2)
    for seed in range(30):
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(5000, seed), stream=stream)))
    assert both.posts("small") <= 2, "one refusal is enough, two if both workers asked at once"
    assert both.all_up()


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC, RESPONSES])
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_fits_no_node_is_refused_with_the_largest_figures(make_nodes, path, stream):
    both = make_nodes({"small": llama(1024), "large": llama(4096)})
    answer = both.send(path, body_of(path, words(9000), stream=stream))
    assert answer.status == 400, answer.body
    assert b"4096" in answer.body and b"1024" not in answer.body
    # An estimate that is too low asks the small one first.
    answer = both.send(path, body_of(path, "a " * 4500, stream=stream))
    assert answer.status == 400 and b"4096" in answer.body, answer.body
    assert b"1024" not in answer.body
    assert both.all_up()


def test_an_answer_is_not_cut_by_a_small_context_where_another_holds_it(make_nodes):
    both = make_nodes({"small": llama(1024), "large": llama(16384)})
    for seed in range(12):
        answer = both.send(OPENAI, body_of(OPENAI, words(500, seed), limit=600))
        assert_whole(answer)
        assert answer.headers["x-drover-node"] == "large"
    assert both.posts("small") == 0


def test_a_node_does_not_stand_idle_for_a_limit_that_few_answers_reach(make_nodes):
    """Clients that must give max_tokens give 32000; where another node has a slot, it is the one."""
    both = make_nodes({"small": llama(16384), "large": llama(65536)}, slots=1, workers=2)
    large, go_on, busy = both.engines["large"], threading.Event(), threading.Event()

    def ask(seed):
        answer = both.send(ANTHROPIC, body_of(ANTHROPIC, words(100, seed), limit=32000),
                           {"x-request-id": f"r{seed}"})
        assert_whole(answer)
        return answer.headers["x-drover-node"]

    def hold(reply, request):
        busy.set()
        assert go_on.wait(60)
        return large.messages(reply, request)

    assert [ask(seed) for seed in range(6)] == ["large"] * 6
    small = next(c for c in both.explain("r0")[-1]["candidates"] if c["node"] == "small")
    assert small["exclusions"] == ["context"]
    large.on[ANTHROPIC] = hold
    first = threading.Thread(target=ask, args=(6,))
    first.start()
    try:
        assert busy.wait(30)
        assert [ask(seed) for seed in range(7, 11)] == ["small"] * 4
    finally:
        go_on.set()
        first.join()
    del large.on[ANTHROPIC]
    assert ask(11) == "large"


def test_an_engine_that_refuses_such_a_limit_is_the_only_one_that_is_asked(make_nodes):
    """vLLM does.  The request then waits for the node whose context holds it all."""
    three = make_nodes({"small": vllm(16384), "middle": vllm(24576), "large": vllm(65536)}, slots=1)
    large, go_on, busy = three.engines["large"], threading.Event(), threading.Event()
    nodes = []

    def ask(seed):
        answer = three.send(OPENAI, body_of(OPENAI, words(100, seed), limit=32000),
                            {"x-request-id": f"r{seed}"})
        assert_whole(answer)
        nodes.append(answer.headers["x-drover-node"])

    def hold(reply, request):
        busy.set()
        assert go_on.wait(60)
        return large.chat(reply, request)

    large.on[OPENAI] = hold
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(2)]
    threads[0].start()
    try:
        assert busy.wait(30)
        threads[1].start()
        until(lambda: three.posts("small") + three.posts("middle") == 1, 10, "one is asked")
        until(lambda: "queued" in [r["phase"] for r in three.cluster.open_requests()], 10, "it waits")
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert nodes == ["large"] * 2
    assert three.posts("small") + three.posts("middle") == 1
    assert three.all_up()


def test_a_node_that_a_hedge_cannot_use_does_not_bar_the_others(make_nodes):
    """The slow one has slots left, but it has the request already."""
    both = make_nodes({"small": llama(16384), "large": llama(65536)},
                      config={"hedge": {"budget_pct": 100, "floor_ms": 100, "min_samples": 1}})
    large, go_on = both.engines["large"], threading.Event()

    def ask(seed):
        answer = both.send(OPENAI, body_of(OPENAI, words(100, seed), limit=32000, stream=True))
        assert_whole(answer)
        return answer.headers["x-drover-node"]

    def hold(reply, request):
        assert go_on.wait(60)
        return large.chat(reply, request)

    for seed in range(3):
        ask(seed)
    large.on[OPENAI] = hold
    try:
        assert ask(3) == "small"
    finally:
        go_on.set()


@pytest.mark.alone
def test_a_refused_prompt_changes_nothing_of_who_gets_the_next(make_nodes):
    both = make_nodes({"small": llama(2048), "large": llama(32768)})
    for seed in range(8):
        both.send(OPENAI, body_of(OPENAI, words(200, seed)), {"x-request-id": f"warm-{seed}"})
    both.send(OPENAI, body_of(OPENAI, words(200, 100)), {"x-request-id": "before"})
    before = both.explain("before")[-1]
    answer = both.send(OPENAI, body_of(OPENAI, words(40_000)))
    assert answer.status == 400
    for seed in range(3):
        assert_whole(both.send(OPENAI, body_of(OPENAI, "a " * 3000 + str(seed))))
    both.send(OPENAI, body_of(OPENAI, words(200, 101)), {"x-request-id": "after"})
    after = both.explain("after")[-1]

    def small(decision):
        return next(c for c in decision["candidates"] if c["node"] == "small")

    rate = small(before)["prefill_tokens_per_s"]
    assert rate / 1.5 < small(after)["prefill_tokens_per_s"] < rate * 1.5
    assert small(after)["inflight"] == 0 and both.all_up()


# ---- Ollama's contexts ----------------------------------------------------------------------------


def ollama(context=4096, loaded=None, **knobs):
    """With the model in memory, if `loaded` is its context there."""
    engine = Ollama()
    engine.models, engine.context = {MODEL + ":latest": ["completion"]}, context
    for knob, value in knobs.items():
        setattr(engine, knob, value)
    if loaded:
        whole = fetch_now(("127.0.0.1", engine.port), "POST", OLLAMA, wanting(loaded))
        assert whole.status == 200
    return engine


def wanting(num_ctx, path=OLLAMA, stream=False, text="hi"):
    prompt = {"messages": [{"role": "user", "content": text}]} if path == OLLAMA else {
        "prompt": text}
    return {"model": MODEL, "stream": stream, "options": {"num_ctx": num_ctx, "num_predict": 3},
            **prompt}


def reloads(both):
    return [engine.count["reloads"] for engine in both.engines.values()]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("path", [OLLAMA, "/api/generate"])
def test_a_request_that_wants_another_context_goes_where_that_is_loaded(make_nodes, path, workers):
    both = make_nodes({"small": ollama(loaded=4096), "large": ollama(loaded=16384)}, workers=workers)
    for seed in range(4):
        for context in (4096, 16384):
            assert_whole(both.send(path, wanting(context, path, seed % 2 == 0)))
    assert reloads(both) == [0, 0]
    assert min(both.posts("small"), both.posts("large")) == 5


def test_a_model_that_was_loaded_anew_is_known_to_be(make_nodes):
    both = make_nodes({"a": ollama(loaded=4096), "b": ollama(loaded=4096)})
    for seed in range(4):
        assert_whole(both.send(OLLAMA, wanting(8192), {"x-request-id": f"r{seed}"}))
        until(lambda: 8192 in [m["max_context_tokens"] for name in both.engines
                               for m in both.cluster.ctl_json("node", name)["models"]],
              what="the new context is known")
    assert sum(reloads(both)) == 1
    first = both.explain("r0")[-1]["candidates"]
    assert all(c["load_s"] > 0 for c in first)
    assert [c["load_s"] == 0 for c in both.explain("r3")[-1]["candidates"]].count(True) == 1


def test_a_context_beyond_the_models_own_is_loaded_once(make_nodes):
    both = make_nodes({"a": ollama(loaded=8192, trained=8192), "b": ollama(loaded=4096, trained=8192)})
    for seed in range(4):
        assert_whole(both.send(OLLAMA, wanting(131072), {"x-request-id": f"r{seed}"}))
    assert reloads(both) == [0, 0]
    loads = {c["node"]: c["load_s"] for c in both.explain("r3")[-1]["candidates"]}
    assert loads["a"] == 0 and loads["b"] > 0


def test_a_long_prompt_goes_where_it_is_not_cut_and_is_barred_nowhere(make_nodes):
    both = make_nodes({"small": ollama(loaded=4096), "large": ollama(32768, loaded=32768)})
    for path in (OLLAMA, OPENAI, ANTHROPIC):
        for seed in range(3):
            assert_whole(both.send(path, body_of(path, words(8000, seed))))
    assert both.posts("small") == 1, "none but the test's own"
    both.engines["large"].stop()
    until(lambda: both.cluster.node_state("large") != "UP", what="it is down")
    for path in (OLLAMA, OPENAI, ANTHROPIC):
        assert_whole(both.send(path, body_of(path, words(40_000))))


def test_a_long_prompt_loads_no_model_where_another_node_has_it(make_nodes):
    both = make_nodes({"loaded": ollama(loaded=4096), "disk": ollama()})
    for seed in range(4):
        assert_whole(both.send(OLLAMA, body_of(OLLAMA, words(8000, seed))))
    assert both.posts("disk") == 0


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_images_go_to_the_node_that_takes_them(make_nodes, path, stream, workers):
    both = make_nodes({"blind": llama(prompt_tokens_per_s=200_000), "seeing": llama(vision=True)},
                      workers=workers)
    for seed in range(10):
        assert_whole(both.send(path, body_of(path, f"what is {seed}?", stream=stream,
                                             picture=PICTURE)))
    assert both.all_up()
    assert len([r for r in both.engines["blind"].seen if r.method == "POST"]) <= workers + 1
    text = both.send(OPENAI, body_of(OPENAI, "hello"), {"x-request-id": "text"})
    assert_whole(text)
    assert {c["node"] for c in both.explain("text")[-1]["candidates"]} == {"blind", "seeing"}


def test_an_image_that_no_node_takes_is_refused_in_the_engine_s_words(make_nodes):
    both = make_nodes({"a": llama(), "b": llama()})
    for _ in range(6):
        answer = both.send(OPENAI, body_of(OPENAI, "what?", picture=PICTURE))
        assert answer.status == 400 and b"image input is not supported" in answer.body
    assert both.all_up()
    for engine in both.engines.values():
        engine.vision = True    # started anew, with a projector
    assert_whole(both.send(OPENAI, body_of(OPENAI, "what?", picture=PICTURE)))


@pytest.mark.parametrize("kind", [LlamaServer, Ollama, LmStudio, Sglang, TabbyApi],
                         ids=lambda kind: kind.__name__)
def test_no_image_is_sent_to_an_engine_that_says_it_does_not_see(make_nodes, kind):
    both = make_nodes({"blind": sees(kind, False), "seeing": sees(kind, True)})
    paths = [OPENAI, ANTHROPIC, RESPONSES, OLLAMA]
    if kind is TabbyApi:
        paths = [OPENAI]
    elif kind is not Ollama:
        paths.remove(OLLAMA)
    for path in paths:
        for stream in (False, True):
            assert_whole(both.send(path, body_of(path, "what?", stream=stream, picture=PICTURE)))
    assert both.posts("blind") == 0
    listed = fetch_now(both.cluster.api, "GET", "/v1/models").json()["data"][0]
    assert "vision" in listed["capabilities"]
    rows = both.cluster.ctl_rows("models")
    assert "vision" in rows[0]["capabilities"], "droverctl says the same"
    assert both.all_up()


@pytest.mark.parametrize("kind", [LmStudio, Tgi, TabbyApi], ids=lambda kind: kind.__name__)
def test_no_long_prompt_is_sent_to_an_engine_that_says_how_little_it_holds(make_nodes, kind):
    both = make_nodes({"small": holds(kind, 2048), "large": holds(kind, 32768)})
    for seed in range(3):
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(20000, seed))))
    assert both.posts("small") == 0
    listed = fetch_now(both.cluster.api, "GET", "/v1/models").json()["data"][0]
    assert listed["max_model_len"] == 32768


# ---- credentials --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_wants_a_sign_in_says_nothing_of_the_others(make_nodes, stream, workers):
    engine = Ollama()
    engine.models = {"small:latest": ["completion"], "x-cloud:latest": ["completion"]}
    engine.cloud = ["x-cloud:latest"]
    one = make_nodes({"n0": engine}, workers=workers)
    for path in (OLLAMA, OPENAI, ANTHROPIC):
        for _ in range(6):
            answer = one.send(path, body_of(path, "hi", "x-cloud", stream))
            assert answer.status == 401, answer.body
            assert json.loads(answer.body)["signin_url"].startswith("https://ollama.com/connect")
        assert_whole(one.send(path, body_of(path, "hi", "small", stream)))
    assert one.all_up()
    engine.signed_in = True
    assert_whole(one.send(OLLAMA, body_of(OLLAMA, "hi", "x-cloud", stream)))


def test_a_key_that_the_engine_refuses_moves_requests_to_another_node(make_nodes):
    engines = {"locked": FakeEngine(models=(MODEL,)), "open": FakeEngine(models=(MODEL,))}
    engines["locked"].behave = lambda handler, path, body: handler.answer(
        401, {"error": {"message": "Invalid API Key", "type": "authentication_error"}})
    both = make_nodes(engines)
    for seed in range(10):
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(10, seed))))
    assert both.all_up() and both.posts("locked") <= 1
    engines["open"].behave = engines["locked"].behave
    for _ in range(8):
        answer = both.send(OPENAI, body_of(OPENAI, "hi"))
        assert answer.status == 502 and b"refuses this node's API key" in answer.body
    assert both.all_up(), "what the nodes lack is no failure"


def test_one_request_that_is_refused_bars_no_node_from_the_others(make_nodes):
    """Refusals of a filter and of one odd schema, and words that the engine only repeats."""
    odd = {"type": "json_schema", "json_schema": {"name": "odd", "schema": {"odd": True}}}
    plain = {"type": "json_schema", "json_schema": {"name": "plain", "schema": {}}}

    def behave(handler, path, body):
        if b"FLAG" in body:
            return handler.answer(403, {"error": {"message": "your input was flagged"}})
        if b'"odd"' in body:
            return handler.answer(400, {"error": {"message": "The provided JSON schema contains "
                                                  "features not supported by xgrammar."}})
        if b"REPEAT" in body:
            return handler.answer(422, {"detail": [{
                "loc": ["body", "x"], "msg": "Input should be valid",
                "input": "maximum context length is 8 tokens"}]})
        return handler.chat(body)

    engines = {name: FakeEngine(models=(MODEL,)) for name in ("a", "b")}
    for engine in engines.values():
        engine.behave = behave
    both = make_nodes(engines)
    for _ in range(4):
        assert both.send(OPENAI, body_of(OPENAI, "FLAG")).status == 403
        assert both.send(OPENAI, body_of(OPENAI, "REPEAT")).status == 422
        assert both.send(OPENAI, {**body_of(OPENAI, "x"), "response_format": odd}).status == 400
    assert both.all_up()
    before = {name: both.posts(name) for name in engines}
    for seed in range(12):
        body = body_of(OPENAI, words(200, seed))
        assert_whole(both.send(OPENAI, {**body, "response_format": plain} if seed % 2 else body))
    assert all(both.posts(name) > before[name] for name in engines), "both are used"


# ---- the request's own fault --------------------------------------------------------------------


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_cannot_be_fetched_ejects_no_node(make_nodes, path, stream, workers):
    engines = {name: FakeEngine(models=(MODEL,)) for name in ("a", "b")}
    for engine in engines.values():
        engine.behave = lambda handler, path, body: handler.answer(
            500, {"error": {"message": "Cannot fetch image", "code": 500}}) \
            if b"nowhere.invalid" in body else handler.chat(body)
    both = make_nodes(engines, workers=workers)
    bad = body_of(OPENAI, "what?", stream=stream, picture="http://nowhere.invalid/a.png")
    for _ in range(10):
        answer = both.send(OPENAI, bad)
        assert answer.status == 400 and b"Cannot fetch image" in answer.body, answer.body
    assert both.posts("a") + both.posts("b") <= 20, "two engines each"
    assert both.all_up()
    assert_whole(both.send(OPENAI, body_of(OPENAI, "hello", stream=stream)))
    assert both.all_up()


@pytest.mark.parametrize("status, error", [
    (400, "The model has crashed without additional information. (Exit code: 134)"),
    (404, "[metal::malloc] Attempting to allocate 98304 bytes"),
    (424, "Request failed during generation: Server error: CUDA error")])
@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_s_own_end_said_with_a_4xx_is_no_answer(make_nodes, status, error, stream):
    engines = {name: FakeEngine(models=(MODEL,)) for name in ("broken", "whole")}
    engines["broken"].behave = lambda handler, path, body: handler.answer(status, {"error": error})
    both = make_nodes(engines)
    for seed in range(4):
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(9, seed), stream=stream)))


ECHOES = ["[{'type': 'missing', 'loc': ('body', 'tools'), 'msg': 'Field required', "
          "'input': {'prompt': 'CUDA error: out of memory, images are not supported'}}]",
          "1 validation error for Request\nx\n  Field required [type=missing, "
          "input_value='my model has crashed', input_type=str]",
          "Invalid value: 'model unloaded'. Supported values are: 'text'."]


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC, RESPONSES, OLLAMA])
def test_a_refusal_that_repeats_the_request_is_taken_for_nothing_else(make_nodes, path):
    document = {}
    if path == OLLAMA:
        engines = {name: Ollama(models={MODEL: ["completion"]}) for name in ("a", "b")}
    else:
        engines = {name: FakeEngine(models=(MODEL,)) for name in ("a", "b")}
    for engine in engines.values():
        engine.on[path] = lambda reply, _request: reply.answer(400, document)
        engine.behave = lambda handler, path, body: handler.answer(400, document)
    both = make_nodes(engines)
    for echo in ECHOES:
        document = {"error": echo if path == OLLAMA else
                    {"message": echo, "type": "BadRequestError", "code": 400}}
        for stream in (False, True):
            before = [both.posts("a"), both.posts("b")]
            answer = both.send(path, body_of(path, "hello", stream=stream))
            assert (answer.status, answer.json()) == (400, document)
            assert answer.headers["x-drover-attempts"] == "1"
            asked = [both.posts("a") - before[0], both.posts("b") - before[1]]
            assert max(asked) <= 2, "a second node may know better; each is asked once more as it came"
    assert both.all_up()


# ---- operations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path, status", [(OPENAI, 501), (ANTHROPIC, 405)])
def test_a_stream_that_an_engine_does_not_have_says_nothing_of_the_document(make_nodes, path, status):
    whole = {"type": "message", "id": "i", "role": "assistant", "model": MODEL, "stop_reason": "end_turn",
             "content": [{"type": "text", "text": "Hello"}], "usage": {}}
    refuses = [False]

    def behave(handler, path, body):
        if refuses[0] or json.loads(body).get("stream"):
            handler.answer(status, b"")
        elif path == ANTHROPIC:
            handler.answer(200, whole)
        else:
            handler.chat(body)
        return None

    engine = FakeEngine(behave, models=(MODEL,))
    one = make_nodes({"n0": engine})
    for count in (2, 3):
        answer = one.send(path, body_of(path, "hello", stream=True))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        assert b"Hello" in answer.body
        assert one.posts("n0") == count, "a stream is refused once"
    refuses[0] = True
    for count in (4, 5):
        assert one.send(path, body_of(path, "hello", stream=count == 5)).status == 501
        assert one.posts("n0") == count, "a document"


def test_a_stream_is_made_of_a_document_where_its_stream_is_refused(make_nodes):
    engine = FakeEngine(lambda handler, path, body: handler.answer(405, b"")
                        if json.loads(body).get("stream") else handler.chat(body), models=(MODEL,))
    one = make_nodes({"n0": engine})
    for stream in (True, False, True):
        assert_whole(one.send(OPENAI, body_of(OPENAI, "hello", stream=stream)))
    assert one.posts("n0") == 4, "a stream is refused once"


@pytest.mark.parametrize("status", [405, 501])
def test_a_stream_that_an_engine_does_not_have_is_had_elsewhere(make_nodes, status):
    engines = {name: FakeEngine(models=(MODEL,)) for name in ("bad", "good")}
    engines["bad"].behave = lambda handler, path, body: (
        handler.answer(status, b"") if json.loads(body).get("stream") else handler.chat(body))
    both = make_nodes(engines, config={"policy": "round_robin"})
    for turn in range(8):
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(9, turn), stream=True)))
    assert both.posts("bad") == 2, "the stream that it refused, and the document for that request"
    for turn in range(8):
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(9, turn))))
    assert both.posts("bad") > 2, "a document may be had of it"
    engines["bad"].behave = lambda handler, path, body: handler.chat(body)
    engines["good"].behave = lambda handler, path, body: handler.answer(status, b"")
    until(lambda: both.send(OPENAI, body_of(OPENAI, "hello", stream=True)).status == 200, 10,
          "one is asked where none has it")
    asked = both.posts("bad")
    assert_whole(both.send(OPENAI, body_of(OPENAI, "hello", stream=True)))
    assert both.posts("bad") == asked + 1, "it is asked at once: the other has neither"


@pytest.mark.parametrize("path", [OPENAI, "/v1/embeddings"])
def test_an_operation_that_is_missing_is_refused_in_the_engine_s_words(make_nodes, path):
    document = {"error": {"code": 501, "message": "This server does not support this. Start it with "
                          "another flag", "type": "not_supported_error"}}
    engine = FakeEngine(lambda handler, path, body: handler.answer(501, document), models=(MODEL,))
    one = make_nodes({"n0": engine})
    answer = one.send(path, {**body_of(OPENAI, "hello"), "input": "hello"})
    assert (answer.status, answer.json()) == (501, document)
    assert answer.headers["x-should-retry"] == "false"
    engine.behave = lambda handler, path, body: handler.answer(
        400, {"error": "the model does not support completions"})
    answer = one.send("/v1/completions", {"model": MODEL, "prompt": "hello"})
    assert answer.status == 501 and "src" not in answer.json()["error"]
    assert answer.json()["error"]["message"] == "the model does not support completions"
    engine.behave = lambda handler, path, body: handler.answer(501, document)
    answer = one.send("/v1/messages/count_tokens", body_of(ANTHROPIC, "hello"))
    assert answer.status == 200 and answer.headers["x-drover-estimate"] == "true"


@pytest.mark.parametrize("status, words_of_it, headers", [
    (429, "Rate limit", ()), (429, "Rate limit", (("Retry-After", "1"),)),
    (503, "too many requests", ()), (503, "no backend is free", (("Retry-After", "1"),))])
def test_an_engine_that_refuses_beyond_its_bound_is_full_and_not_bad(make_nodes, status,
                                                                      words_of_it, headers):
    lock, here, refused = threading.Lock(), [0], [0]

    def behave(handler, path, body):
        with lock:
            full = here[0] >= 2
            here[0] += not full
            refused[0] += full
        if full:
            return handler.answer(status, {"error": {"message": words_of_it}}, headers)
        time.sleep(0.05)
        handler.chat(body)
        with lock:
            here[0] -= 1
        return None

    engine = FakeEngine(behave, models=(MODEL,))
    one = make_nodes({"n0": engine}, slots=6)
    answers = []
    threads = [threading.Thread(target=lambda i=i: answers.append(
        one.send(OPENAI, body_of(OPENAI, words(9, i))))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} == {200}, [a.body for a in answers]
    assert refused[0] > 0 and one.all_up()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_every_engine_has_with_a_request_counts_for_none(make_nodes, workers):
    engines = {name: FakeEngine(models=(MODEL,)) for name in ("a", "b", "c")}
    for engine in engines.values():
        engine.behave = lambda handler, path, body: handler.answer(
            500, {"error": {"message": "list index out of range", "code": 500}}) \
            if b"odd" in body else handler.chat(body)
    three = make_nodes(engines, workers=workers)
    for _ in range(10):
        answer = three.send(OPENAI, body_of(OPENAI, "odd"))
        assert answer.status == 502 and b"list index out of range" in answer.body
        assert answer.headers["x-should-retry"] == "false"
    assert three.all_up()
    assert_whole(three.send(OPENAI, body_of(OPENAI, "hello")))


def test_an_engine_that_fails_where_another_answers_is_ejected(make_nodes):
    engines = {name: FakeEngine(models=(MODEL,)) for name in ("bad", "good")}
    engines["bad"].behave = lambda handler, path, body: handler.answer(
        500, {"error": {"message": "CUDA error: out of memory", "code": 500}})
    both = make_nodes(engines, config={"policy": "round_robin"})

    def ejected():
        assert_whole(both.send(OPENAI, body_of(OPENAI, words(10))))
        return both.cluster.node_state("bad") == "EJECTED"

    until(ejected, 10, "it is out")


# ---- a request under which engines die ----------------------------------------------------------


class Mortal:
    """An engine that dies of a poison, before its answer or in the middle of it."""

    def __init__(self, after_content):
        self.engine = llama()
        self.engine.on[OPENAI] = self.chat
        self.after_content = after_content
        self.poisoned = 0

    def chat(self, reply, request):
        if b"POISON" not in request.body:
            return self.engine.chat(reply, request)
        self.poisoned += 1
        if self.after_content:
            reply.begin_stream("text/event-stream")
            reply.send_event({"id": "chatcmpl-1", "created": 1, "model": MODEL,
                              "object": "chat.completion.chunk", "choices": [{
                                  "index": 0, "delta": {"content": "Hel"},
                                  "finish_reason": None}]})
            time.sleep(0.2)
        self.engine.stop()
        return reply.drop()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("stream, after_content", [(False, False), (True, False), (True, True)])
def test_a_request_under_which_engines_die_is_sent_to_two(make_nodes, stream, after_content, workers):
    mortals = {name: Mortal(after_content) for name in ("a", "b", "c")}
    three = make_nodes({name: m.engine for name, m in mortals.items()}, workers=workers)
    good, stop = [], threading.Event()

    def beside():
        while not stop.is_set():
            good.append(three.send(OPENAI, body_of(OPENAI, f"good {len(good)}")))
            time.sleep(0.1)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        answer = three.send(OPENAI, body_of(OPENAI, "POISON", stream=stream))
        until(lambda: len(good) > 5, 20, "good requests beside it")
    finally:
        stop.set()
        thread.join()
    assert sum(m.poisoned for m in mortals.values()) == 2
    assert max(m.poisoned for m in mortals.values()) == 1, "once each"
    if after_content:
        assert answer.status == 200 and b'"error"' in answer.body
    else:
        assert answer.status == 502 and answer.headers["x-should-retry"] == "false"
        for _ in range(4):  # its client's own retries, at whichever worker
            again = three.send(OPENAI, body_of(OPENAI, "POISON", stream=stream))
            assert again.status == 502 and again.headers["x-should-retry"] == "false"
        assert sum(m.poisoned for m in mortals.values()) == 2, "no third engine dies of them"
        assert "event=poison_refused" in three.cluster.master.log()
        assert three.send(OPENAI, body_of(OPENAI, "another")).status == 200
    assert all(one.status == 200 for one in good), [one.body for one in good]


def test_an_engine_alone_dies_of_a_request_twice(make_nodes):
    mortal = Mortal(False)
    one = make_nodes({"a": mortal.engine})
    for deaths in (1, 2):
        died = time.monotonic()
        one.send(OPENAI, body_of(OPENAI, "POISON"))
        assert mortal.poisoned == deaths
        mortal.engine.start()
        until(lambda: one.send(OPENAI, body_of(OPENAI, "another")).status == 200 and
              time.monotonic() - died > 1.1, 30, "the engine is back")
    answer = one.send(OPENAI, body_of(OPENAI, "POISON"))
    assert answer.status == 502 and answer.headers["x-should-retry"] == "false"
    assert mortal.poisoned == 2


def test_an_engine_that_ends_on_a_drained_node_did_not_die(make_nodes):
    engines, held, done = {name: llama() for name in ("a", "b", "c")}, [], threading.Event()
    for name, engine in engines.items():
        def chat(reply, request, name=name, engine=engine):
            if b"LONG" not in request.body or len(held) == 2:
                return engine.chat(reply, request)
            held.append(name)
            reply.wait_for(done)
            return reply.drop()
        engine.on[OPENAI] = chat
    three = make_nodes(engines)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(three.send(OPENAI, body_of(OPENAI, "LONG"))))
    thread.start()
    for count in (1, 2):
        until(lambda: len(held) == count, 10, "it waits for an engine")
        three.cluster.ctl("drain", held[-1])
        until(lambda: three.states()[held[-1]] == "DRAINING", 10, "it is drained")
        engines[held[-1]].stop()
    thread.join()
    assert answers[0].status == 200 and "event=poison" not in three.cluster.master.log()


@pytest.mark.parametrize("status, error", [
    (500, "llama runner process has terminated: exit status 2"),
    (400, "The model has crashed without additional information. (Exit code: 134)")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_under_which_runners_die_is_sent_to_two(make_nodes, status, error, stream):
    """The engine lives and starts another; the request has gone to each of them once."""
    asked = []

    def behave(handler, _path, body):
        if b"POISON" not in body:
            return handler.chat(body)
        asked.append(handler.engine)
        return handler.answer(status, {"error": error})

    three = make_nodes({name: FakeEngine(behave, models=(MODEL,)) for name in "abc"})
    for turn in range(6):
        del asked[:]
        answer = three.send(OPENAI, body_of(OPENAI, "POISON", stream=stream))
        assert answer.status == 502 and answer.headers["x-should-retry"] == "false"
        assert len(asked) == len(set(asked)) <= 2, "once each"
        assert len(asked) == (2 if turn == 0 else 0), "from then on it is known"
    assert_whole(three.send(OPENAI, body_of(OPENAI, "hello", stream=stream)))
    assert set(three.states().values()) == {"UP"}


@pytest.mark.parametrize("stream", [False, True])
def test_runners_that_never_came_up_did_not_die_of_the_request(make_nodes, stream):
    """Ollama says the same of a load that fails: two lack the memory for the model, one has it."""
    failed = []

    def chat(reply, request):
        if len(failed) == 2 and reply.engine not in failed:
            return reply.engine.api_chat(reply, request)
        failed.append(reply.engine)
        return reply.answer(500, {"error": "llama runner process has terminated: exit status 2"})

    three = make_nodes({name: Ollama(models={f"{MODEL}:latest": ["completion"]}) for name in "abc"})
    for engine in three.engines.values():
        engine.on[OLLAMA] = chat
    assert_whole(three.send(OLLAMA, body_of(OLLAMA, "hello", stream=stream)))
    assert len(failed) == 2


def test_a_question_under_which_engines_die_is_put_to_two(make_nodes):
    engines = {name: llama() for name in "abc"}
    asked = []

    def die(reply, _request):
        asked.append(reply.engine)
        reply.engine.stop()
        return reply.drop()

    for engine in engines.values():
        engine.on["/v1/messages/count_tokens"] = die
    three = make_nodes(engines)
    answer = three.send("/v1/messages/count_tokens", body_of(ANTHROPIC, "POISON"))
    assert answer.status == 502 and len(asked) == 2


def test_a_request_is_not_sent_again_on_a_connection_that_broke(make_nodes):
    """libcurl does so by itself where it kept the connection and got no byte."""
    engine = FakeEngine(models=(MODEL,))
    asked = []

    def behave(handler, _path, body):
        asked.append(body)
        if b"second" in body:
            handler.drop()
        else:
            handler.chat(body)

    engine.behave = behave
    one = make_nodes({"n0": engine})
    assert_whole(one.send(OPENAI, body_of(OPENAI, "first")))
    answer = one.send(OPENAI, body_of(OPENAI, "second"))
    assert answer.status == 502
    assert len([body for body in asked if b"second" in body]) == 1


@pytest.mark.parametrize("nodes", [1, 2])
def test_an_embedding_that_is_larger_than_a_batch_is_refused_in_the_engine_s_words(make_nodes, nodes):
    """The context, which is larger, is not what it is compared with."""
    made = make_nodes({f"n{i}": llama(8192, embeddings_on=True) for i in range(nodes)})
    body = {"model": MODEL, "input": "word " * 600}
    answer = made.send("/v1/embeddings", body)
    assert answer.status == 400 and b"increase the physical batch size" in answer.body, answer.body
    assert made.send("/v1/embeddings", {**body, "input": "word"}).status == 200


# ---- one truth ----------------------------------------------------------------------------------


def test_models_are_listed_with_what_their_nodes_can_do(make_nodes):
    both = make_nodes({"small": llama(1024), "large": llama(16384, vision=True)}, workers=2)
    listed = fetch_now(both.cluster.api, "GET", "/v1/models").json()["data"]
    assert [m["id"] for m in listed] == [MODEL]
    assert listed[0]["max_model_len"] == listed[0]["context_length"] == 16384
    rows = both.cluster.ctl_rows("models")
    assert [r["max_context_tokens"] for r in rows if r["id"] == MODEL] == [16384]
    again = fetch_now(both.cluster.api, "GET", f"/v1/models/{MODEL}").json()
    assert again["created"] == listed[0]["created"]
