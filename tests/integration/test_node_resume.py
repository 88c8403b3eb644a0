"""test_node_resume.py - an answer that one drover-node began and another one ends.

Two drover-nodes on simulated engines, whose text depends on the prompt alone.  What the client gets in
two parts must be the same events as what it gets in one, apart from the fingerprints of the engines.
"""

import json
import signal

import grpc
import pytest

from harness import Sim
from messages import common, inference
from node_rig import DONE, ROLE, Answer, Engine, Node, delta

Code = grpc.StatusCode
CHAT, COMPLETIONS, MESSAGES = (common.OPERATION_CHAT_COMPLETIONS, common.OPERATION_COMPLETIONS,
                               common.OPERATION_MESSAGES)
TOKENS = 24
ASK = [{"role": "user", "content": "Tell me about \"llamas\" \u2014 and g\u00e9n\u00e9raux."}]
BODIES = {
    CHAT: {"model": "sim", "stream": True, "messages": ASK, "max_tokens": TOKENS,
           "stream_options": {"include_usage": True}},
    COMPLETIONS: {"model": "sim", "stream": True, "prompt": "Once upon a time", "max_tokens": TOKENS,
                  "stream_options": {"include_usage": True}},
    MESSAGES: {"model": "sim", "stream": True, "messages": ASK, "max_tokens": TOKENS},
}


@pytest.fixture(name="start_nodes", scope="module")
def fixture_start_nodes(tmp_path_factory):
    """Starts drover-nodes of the given names, each on an engine of its own of one drover-sim."""
    made, sims = [], []

    def start(names, *arguments):
        sims.append(Sim(["speed=10,cache=none"] * len(names),
                        tmp_path_factory.mktemp("sim") / "sim.log", names))
        nodes = [Node("--insecure-no-token", *arguments, engine=url, name=name).ready()
                 for name, url in zip(names, sims[-1].urls)]
        made.extend(nodes)
        return nodes

    yield start
    for node in made:
        node.stop()
    for sim in sims:
        sim.signal(signal.SIGTERM)
        assert sim.wait() == 0


@pytest.fixture(scope="module")
def nodes(start_nodes):
    return start_nodes(["a", "b", "c"])


def ask(node, operation, resume=None, body=None, **fields):
    fields.setdefault("want_text", True)
    return Answer(node.infer(body=body or BODIES[operation], operation=operation, model="sim",
                             resume=resume, **fields))


def events(data):
    """The events of a stream as (name, JSON), without what differs between engines."""
    assert data.endswith(b"\n\n")
    out = []
    for block in data.decode().split("\n\n")[:-1]:
        name, _, text = block.rpartition("data: ")
        if text != "[DONE]":
            text = json.loads(text)
            for member in ("system_fingerprint", "simulated"):
                text.pop(member, None)
        out.append((name, text))
    return out


def identity(answer):
    first = next(chunk for chunk in answer.chunks if chunk.content)
    return first.response_id, first.created


def cut(answer, k):
    """The first events of an answer that hold k tokens, and the text in them."""
    blocks, text, n = [], "", 0
    for block in answer.data.decode().split("\n\n"):
        piece = block.rpartition("data: ")[2]
        root = json.loads(piece)
        if "choices" in root:
            choice = root["choices"][0]
            new = choice["text"] if "text" in choice else choice["delta"].get("content")
        else:
            new = root.get("delta", {}).get("text")
        if new and n == k:
            return "".join(blocks).encode(), text
        blocks.append(block + "\n\n")
        if new:
            text, n = text + new, n + 1
    raise AssertionError("fewer tokens than that")


@pytest.mark.parametrize("operation", [CHAT, COMPLETIONS, MESSAGES],
                         ids=["chat", "completions", "messages"])
@pytest.mark.parametrize("k", [1, 2, 3, 7, 16, TOKENS - 1])
def test_an_answer_in_two_parts_is_the_same_events_as_in_one(nodes, operation, k):
    whole = ask(nodes[0], operation)
    assert whole.status is Code.OK and sum(chunk.tokens for chunk in whole.chunks) == TOKENS
    first, text = cut(whole, k)
    response_id, created = identity(whole)
    assert response_id
    rest = ask(nodes[1], operation, inference.Resume(text=text, text_tokens=k, created=created,
                                                     response_id=response_id))
    assert rest.status is Code.OK, rest.message
    assert text + rest.text == whole.text
    assert events(first + rest.data) == events(whole.data)
    assert identity(rest) == (response_id, created)
    assert sum(chunk.tokens for chunk in rest.chunks) == TOKENS - k
    for name in ("prompt_tokens", "output_tokens"):
        assert getattr(rest.finish.usage, name) == getattr(whole.finish.usage, name), name
    assert rest.finish.body_bytes == len(rest.data)


def test_the_content_of_the_events_is_enough_to_go_on_after_every_loss(nodes):
    """An answer that loses its node again and again: each part from the chunks alone."""
    operation, data, text, tokens, known = CHAT, b"", "", 0, None
    for attempt in range(3):
        body = {**BODIES[operation], "drover_sim": {"fault": "reset", "only_attempt": attempt,
                                                    "after_tokens": 5}}
        part = ask(nodes[attempt], operation, body=body, attempt=attempt,
                   resume=known and inference.Resume(text=text, text_tokens=tokens,
                                                     response_id=known[0], created=known[1]))
        assert part.status is Code.UNAVAILABLE
        assert all(chunk.resumable for chunk in part.chunks)
        known = known or identity(part)
        assert identity(part) == known
        data += part.data
        text += part.text
        tokens += sum(chunk.tokens for chunk in part.chunks)
    assert tokens == 15
    last = ask(nodes[0], operation, attempt=3, resume=inference.Resume(
        text=text, text_tokens=tokens, response_id=known[0], created=known[1]))
    whole = ask(nodes[1], operation)
    there = events(data + last.data)
    here = events(whole.data)
    for _, root in here[:-1]:
        root["id"], root["created"] = known
    assert there == here


def test_usage_that_only_drover_asked_for_is_summed_and_hidden(nodes):
    body = {k: v for k, v in BODIES[CHAT].items() if k != "stream_options"}
    edit = inference.BodyEdit(want_usage=True)
    whole = ask(nodes[0], CHAT, body=body, edit=edit)
    _, text = cut(whole, 9)
    rest = ask(nodes[1], CHAT, inference.Resume(text=text, text_tokens=9, response_id="x",
                                                created=1), body=body, edit=edit)
    assert b'"usage":{' not in rest.data
    assert rest.finish.usage.output_tokens == TOKENS
    assert rest.finish.usage.prompt_tokens == whole.finish.usage.prompt_tokens


def test_an_answer_that_ends_by_itself_ends_where_it_would_have(nodes):
    body = {"model": "sim", "stream": True, "messages": ASK, "drover_sim": {"tokens": 10}}
    whole = ask(nodes[0], CHAT, body=body)
    _, text = cut(whole, 4)
    rest = ask(nodes[1], CHAT, inference.Resume(text=text, text_tokens=4, response_id="x"),
               body=body)
    assert text + rest.text == whole.text and b'"finish_reason":"stop"' in rest.data
    assert rest.finish.usage.output_tokens == 10


def test_a_cut_character_is_said_again_as_a_whole(nodes):
    whole = ask(nodes[0], CHAT)
    _, text = cut(whole, 5)
    rest = ask(nodes[1], CHAT, inference.Resume(text=text + "\ufffd", text_tokens=5))
    assert text + rest.text == whole.text


@pytest.mark.parametrize("operation", [CHAT, COMPLETIONS, MESSAGES],
                         ids=["chat", "completions", "messages"])
def test_an_answer_at_its_limit_is_ended_without_an_engine(nodes, operation):
    whole = ask(nodes[0], operation)
    response_id, created = identity(whole)
    rest = ask(nodes[1], operation, est_prompt_tokens=whole.finish.usage.prompt_tokens,
               resume=inference.Resume(text=whole.text, text_tokens=TOKENS, created=created,
                                       response_id=response_id))
    assert rest.status is Code.OK and rest.head.http_status == 200 and rest.head.event_stream
    assert rest.finish.usage.output_tokens == TOKENS
    tail = events(rest.data)
    same = events(whole.data)[-len(tail):]
    assert [name for name, _ in tail] == [name for name, _ in same]
    if operation != MESSAGES:
        assert tail[0][1]["choices"][0]["finish_reason"] == "length"
        assert {tail[0][1]["id"], tail[1][1]["id"]} == {response_id}
        assert tail[1][1]["usage"]["completion_tokens"] == TOKENS
        assert tail[1][1]["usage"]["total_tokens"] == same[1][1]["usage"]["total_tokens"]


@pytest.mark.parametrize("more", [{"tools": [{"type": "function", "function": {"name": "f"}}]},
                                  {"response_format": {"type": "json_object"}},
                                  {"logprobs": True}])
def test_an_answer_that_is_more_than_its_text_is_not_resumable(nodes, more):
    body = {**BODIES[CHAT], **more}
    answer = ask(nodes[0], CHAT, body=body)
    assert answer.status is Code.OK
    assert not any(chunk.resumable or chunk.text for chunk in answer.chunks)
    assert ask(nodes[0], CHAT, inference.Resume(text="x", text_tokens=1),
               body=body).status is Code.UNIMPLEMENTED


def test_text_is_given_to_a_caller_that_asked_for_it_only(nodes):
    answer = ask(nodes[0], CHAT, want_text=False)
    assert not any(chunk.resumable or chunk.text or chunk.response_id for chunk in answer.chunks)


def test_only_a_stream_can_be_continued(nodes):
    answer = ask(nodes[0], CHAT, inference.Resume(text="x", text_tokens=1), stream=False)
    assert answer.status is Code.INVALID_ARGUMENT


def test_faults_can_be_for_one_node_only(nodes):
    body = {**BODIES[CHAT], "drover_sim": {"fault": "5xx", "only_node": "a"}}
    assert ask(nodes[0], CHAT, body=body).status is not Code.OK
    assert ask(nodes[1], CHAT, body=body).status is Code.OK


def test_the_model_in_a_form_is_replaced(nodes):
    form = (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nalias\r\n--b\r\n'
            b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--b--\r\n')
    fields = {"body": form, "operation": common.OPERATION_TRANSCRIPTIONS, "model": "sim",
              "stream": False, "content_type": "multipart/form-data; boundary=b"}
    assert Answer(nodes[0].infer(**fields)).status is Code.NOT_FOUND
    answer = Answer(nodes[0].infer(**fields, edit=inference.BodyEdit(set_model="sim")))
    assert answer.head.http_status == 200 and answer.json["text"]


# ---- other engines ------------------------------------------------------------------------------


class Prefilling(Engine):
    """Says the given text again with its first token, as llama-server does without the flags."""

    def do_repeat(self, sock, body):
        self.begin(sock)
        given = body["messages"][-1]["content"]
        self.send(sock, ROLE + delta(given + " more") + delta(" text"))
        self.send(sock, delta(None, "stop") + DONE)
        return self.end(sock)

    def do_think(self, sock, _):
        self.begin(sock)
        data = delta("x").replace(b'"content"', b'"reasoning_content"')
        self.send(sock, ROLE + data + delta("anew") + delta(None, "stop") + DONE)
        return self.end(sock)


    def do_document(self, sock, body):
        """Takes no notice of `stream`; `said` is what it says after the given text."""
        content = body["messages"][-1]["content"] * body["repeats"] + body["said"]
        return self.answer(sock, 200, {
            "id": "doc", "object": "chat.completion", "created": 9, "model": "tiny",
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": content}}],
            "usage": {"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16}})


@pytest.fixture(scope="module")
def engine():
    made = Prefilling()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def node(engine):
    made = Node("--insecure-no-token", engine=engine.url).ready()
    yield made
    made.stop()


RESUME = {"text": "One two three four", "text_tokens": 4, "response_id": "old", "created": 3}


def test_the_engine_gets_the_text_and_is_asked_to_go_on(node, engine):
    body = b'{ "model":"tiny","messages":[{"role":"user","content":"hi"} ], "max_tokens" : 9, "z":1e0}'
    Answer(node.infer(body=body, resume=inference.Resume(**RESUME)))
    sent = engine.requests[-1][2]
    assert sent == (b'{"stream":true,"continue_final_message":true,"add_generation_prompt":false, '
                    b'"model":"tiny","messages":[{"role":"user","content":"hi"} ,{"role":'
                    b'"assistant","content":"One two three four"}], "max_tokens" : 5, "z":1e0}')
    assert "x-drover-attempt" not in engine.requests[-1][1]


def test_text_that_the_engine_repeats_does_not_reach_the_client(node):
    answer = Answer(node.infer("repeat", want_text=True, resume=inference.Resume(**RESUME)))
    assert answer.status is Code.OK and answer.text == " more text"
    found = [root for _, root in events(answer.data) if root != "[DONE]"]
    assert [root["choices"][0]["delta"] for root in found] == [
        {"content": " more"}, {"content": " text"}, {}]
    assert {(root["id"], root["created"]) for root in found} == {("old", 3)}
    assert answer.finish.usage.output_tokens == 6


@pytest.mark.parametrize("repeats", [0, 1])
def test_a_document_is_the_rest_of_a_stream_too(node, repeats):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "script": "document",
            "said": " more text", "repeats": repeats, "stream_options": {"include_usage": True}}
    answer = Answer(node.infer(body=body, want_text=True, resume=inference.Resume(**RESUME)))
    assert answer.status is Code.OK and answer.head.event_stream, answer.message
    assert answer.text == " more text"
    found = [root for _, root in events(answer.data) if root != "[DONE]"]
    assert "".join(choice["delta"].get("content") or "" for root in found
                   for choice in root["choices"]) == " more text"
    assert not any("role" in choice["delta"] for root in found for choice in root["choices"])
    assert {(root["id"], root["created"]) for root in found} == {("old", 3)}
    assert answer.data.endswith(DONE)
    assert answer.finish.usage.output_tokens == 6 == found[-1]["usage"]["completion_tokens"]
    assert answer.finish.usage.prompt_tokens == 10 == found[-1]["usage"]["prompt_tokens"]


def test_an_engine_that_begins_anew_is_no_continuation(node):
    answer = Answer(node.infer("think", want_text=True, resume=inference.Resume(**RESUME)))
    assert answer.status is Code.UNIMPLEMENTED and answer.data == b""
    plain = Answer(node.infer("think", want_text=True))
    assert plain.status is Code.OK and not any(chunk.resumable for chunk in plain.chunks)


@pytest.mark.parametrize("script", ["context", "json_parse"])
def test_an_error_page_is_no_continuation(node, script):
    answer = Answer(node.infer(script, resume=inference.Resume(**RESUME)))
    assert answer.status is Code.UNIMPLEMENTED and answer.head is None


def test_failures_of_the_engine_are_what_they_are(node):
    assert Answer(node.infer("busy", resume=inference.Resume(**RESUME))).status is Code.RESOURCE_EXHAUSTED
    assert Answer(node.infer("plain", resume=inference.Resume(**RESUME))).status is Code.INTERNAL


# ---- from token ids -----------------------------------------------------------------------------


def words(*tokens, told=True):
    """The stream of a llama-server's /v1/completions: (text, id, bytes) each."""
    out = b""
    for text, number, raw in tokens:
        logprobs = {"content": [{"id": number, "token": text, "bytes": list(raw), "logprob": -1.0,
                                 "top_logprobs": []}]} if told else None
        out += b"data: " + json.dumps({
            "choices": [{"text": text, "index": 0, "logprobs": logprobs, "finish_reason": None}],
            "created": 5, "model": "tiny", "object": "text_completion",
            "id": "new"}).encode() + b"\n\n"
    out += (b'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],'
            b'"created":5,"model":"tiny","object":"text_completion","id":"new"}\n\n')
    return out + DONE


PLAIN = [(" ex", 372, b" ex"), ("po", 647, b"po"), ("s", 115, b"s")]
HELD = PLAIN[:1] + [("\U0001f999", 153, b"\x99")] + PLAIN[1:]  # three of its four ids are not reported


class Telling(Engine):
    def do_words(self, sock, body):
        self.begin(sock)
        self.send(sock, words(*PLAIN, told=bool(body.get("logprobs"))))
        return self.end(sock)

    def do_held(self, sock, body):
        self.begin(sock)
        for event in words(*HELD, told=bool(body.get("logprobs"))).split(b"\n\n")[:-1]:
            self.send(sock, event + b"\n\n")
        return self.end(sock)

    def do_no_logprobs(self, sock, body):
        if "logprobs" in body:
            return self.answer(sock, 400, {"error": {"code": 400, "message": "no logprobs here",
                                                     "type": "invalid_request_error"}})
        return self.do_words(sock, body)

    def do_wrong(self, sock, body):
        return self.answer(sock, 400, {"error": {"code": 400, "message": "the client's own",
                                                 "type": "invalid_request_error"}})


@pytest.fixture(scope="module")
def telling():
    """The same model twice, asked for ids and not, and one of another vocabulary."""
    engines = [Telling(), Telling(), Telling(n_vocab=99)]
    made = [Node("--insecure-no-token", *more, engine=each.url).ready()
            for each, more in zip(engines, (["--resume-ids"], [], ["--resume-ids"]))]
    yield list(zip(made, engines))
    for each in made:
        each.stop()
    for each in engines:
        each.stop()


def complete(node, script="words", resume=None, **more):
    body = {"model": "tiny", "script": script, "prompt": "The server", "max_tokens": 9, **more}
    return Answer(node.infer(body=body, operation=COMPLETIONS, want_text=True, resume=resume))


def known_ids(answer):
    return [number for chunk in answer.chunks for number in chunk.token_ids]


def test_ids_are_asked_for_on_demand_and_leave_no_trace_in_the_answer(telling):
    (node, engine), (other, other_engine), _ = telling
    answer = complete(node)
    assert json.loads(engine.requests[-1][2])["logprobs"] == 1
    assert known_ids(answer) == [372, 647, 115]
    assert answer.text == " expos" and all(c.vocabulary for c in answer.chunks if c.text)
    plain = complete(other)
    assert "logprobs" not in json.loads(other_engine.requests[-1][2])
    assert known_ids(plain) == [] and not any(chunk.vocabulary for chunk in plain.chunks)
    assert answer.data == plain.data == words(*PLAIN, told=False)
    # A client that asks for them itself gets them.
    body = {"model": "tiny", "script": "words", "prompt": "x", "logprobs": 1}
    asked = Answer(node.infer(body=body, operation=COMPLETIONS, want_text=True))
    assert asked.data == words(*PLAIN) and not known_ids(asked)


def test_ids_are_given_to_an_engine_of_the_same_vocabulary_only(telling):
    vocabulary = next(chunk.vocabulary for chunk in complete(telling[0][0]).chunks)
    resume = inference.Resume(text=" ex", text_tokens=1, token_ids=[372], vocabulary=vocabulary,
                              response_id="old", created=3)
    prompts = []
    for node, engine in telling:
        answer = complete(node, resume=resume)
        assert answer.status is Code.OK, answer.message
        sent = json.loads(engine.requests[-1][2])
        assert sent["max_tokens"] == 8
        prompts.append(sent["prompt"])
        assert b'"old"' in answer.data and b'"new"' not in answer.data
        assert b'"content"' not in answer.data
    assert prompts == [["The server", 372], ["The server", 372], "The server ex"]


def test_a_character_of_several_tokens_makes_ids_unknown_from_there_on(telling):
    answer = complete(telling[0][0], "held")
    assert answer.status is Code.OK and "\U0001f999" in answer.text
    # However the events were gathered into chunks: none that has the character or what follows it
    # has ids, and none is wrong.
    assert known_ids(answer) in ([], [372])
    assert answer.data == words(*HELD, told=False)


def test_an_engine_that_refuses_to_give_ids_is_asked_without(telling):
    node, engine = telling[0]
    before = len(engine.requests)
    answer = complete(node, "no_logprobs")
    assert answer.status is Code.OK and answer.head.http_status == 200
    assert answer.data == words(*PLAIN, told=False) and not known_ids(answer)
    assert len(engine.requests) == before + 2
    answer = complete(node, "wrong")
    assert answer.head.http_status == 400 and b"the client's own" in answer.data


def test_the_simulated_engine_gives_and_takes_ids(start_nodes):
    made = start_nodes(["d", "e"], "--resume-ids")
    whole = ask(made[0], COMPLETIONS)
    ids = known_ids(whole)
    assert len(ids) == TOKENS
    for k in (1, 7, TOKENS - 1):
        first, text = cut(whole, k)
        response_id, created = identity(whole)
        rest = ask(made[1], COMPLETIONS, inference.Resume(
            text="not this", token_ids=ids[:k], vocabulary=whole.chunks[0].vocabulary,
            text_tokens=k, created=created, response_id=response_id))
        assert rest.status is Code.OK, rest.message
        assert text + rest.text == whole.text
        assert events(first + rest.data) == events(whole.data)
        assert known_ids(rest) == ids[k:]
