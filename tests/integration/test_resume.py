"""An answer that has begun goes on when its node is lost, and fails cleanly where it cannot.

The simulated engine's text depends on the prompt alone, so an answer from two nodes must be, to the
byte, what one node gives.  Each attempt has a fingerprint of its own, which says how many there were.
"""

import asyncio
import json
import random

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk as fake_chunk
from harness import MODEL, POLL_S, SLOW, Cluster, until
from load import FINGERPRINT, chat_body, fetch_now, open_request
from test_clients import BackgroundClient

TOKENS = 60
PACED = "slots=16,rate=60,cache=none"
NODES = 23
KILLS = 20

SURFACES = {
    "chat": ("/v1/chat/completions", {
        "model": MODEL, "stream": True, "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": "Tell me of \"llamas\" \u2014 and g\u00e9n\u00e9raux."}],
        "stream_options": {"include_usage": True}}),
    "completions": ("/v1/completions", {
        "model": MODEL, "stream": True, "max_tokens": TOKENS, "prompt": "Once upon a time",
        "stream_options": {"include_usage": True}}),
    "messages": ("/v1/messages", {
        "model": MODEL, "stream": True, "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": "Say something of rivers."}]}),
    "responses": ("/v1/responses", {
        "model": MODEL, "stream": True, "max_output_tokens": TOKENS,
        "input": "Tell me of \"alpacas\" \u2014 please."}),
}


def reset(**more):
    return {"fault": "reset", **more}


def documents(body):
    """The JSON of each event; [DONE] is left out, and what has no data, as clients must do."""
    assert body.endswith(b"\n\n")
    found = []
    for event in body.decode().split("\n\n")[:-1]:
        _, field, data = event.rpartition("data: ")
        if field and data != "[DONE]":
            found.append(json.loads(data))
    return found


def response_gist(document, text, ends, ids, usage):
    """An event of the Responses API, which must fit what came before; its text."""
    items = [document["item"]] if "item" in document else []
    if "response" in document:
        ids.add(document["response"]["id"])
        items = document["response"]["output"]
    ids.update(item["id"].replace("msg_", "resp_") for item in items)
    if "item_id" in document:
        ids.add(document["item_id"].replace("msg_", "resp_"))
    if document["type"].endswith((".done", ".completed", ".incomplete")):
        whole = [part["text"] for item in items for part in item["content"]]
        whole += [document["part"]["text"]] if "part" in document else []
        whole += [document["text"]] if "text" in document else []
        assert whole == [text], (document, text)
    if document["type"] in ("response.completed", "response.incomplete"):
        ends.append(document["response"]["status"])
        usage.append(document["response"]["usage"])
    return document["delta"] if document["type"] == "response.output_text.delta" else ""


def numbers(body):
    """The numbers of the events must be 0, 1, 2, ..., where there are any."""
    found = [document["sequence_number"] for document in documents(body)
             if "sequence_number" in document]
    assert found == list(range(len(found))), found


def gist(body):
    """An answer's contents, in any API: (text, ends, roles, ids, usage)."""
    text, ends, roles, ids, usage = "", [], 0, set(), []
    for document in documents(body):
        assert "error" not in document, document
        if "choices" in document:
            ids.add(document["id"])
            if document.get("usage"):
                usage.append(document["usage"])
            for choice in document["choices"]:
                delta = choice.get("delta", {})
                roles += "role" in delta
                text += choice.get("text") or delta.get("content") or ""
                if choice.get("finish_reason"):
                    ends.append(choice["finish_reason"])
        elif document["type"].startswith("response."):
            text += response_gist(document, text, ends, ids, usage)
            roles += document["type"] == "response.output_item.added"
        elif document["type"] == "message_start":
            ids.add(document["message"]["id"])
            roles += 1
        elif document["type"] == "content_block_delta":
            text += document["delta"]["text"]
        elif document["type"] == "message_delta":
            ends.append(document["delta"]["stop_reason"])
            usage.append(document["usage"])
        elif document["type"] == "message_stop":
            ends.append("stop")
    return text, ends, roles, ids, usage


def error_of(answer):
    """The one error event that ends a stream, checked to be the last thing said."""
    found = documents(answer.body)
    assert "error" in found[-1], found[-2:]
    assert sum("error" in document for document in found) == 1
    assert answer.body.endswith(b"data: [DONE]\n\n")
    for document in found[:-1]:
        for choice in document["choices"]:
            assert not choice.get("finish_reason"), "it failed, and says that it is whole"
    return found[-1]["error"]


def text_before_error(answer):
    return "".join(choice["delta"].get("content") or "" for document in documents(answer.body)
                   if "choices" in document for choice in document["choices"])


def fingerprints(body):
    return set(FINGERPRINT.findall(body))


def post(cluster, path, body, request_id=None):
    return fetch_now(cluster.api, "POST", path, body,
                     {"x-request-id": request_id} if request_id else None)


def node_named(cluster, name):
    return next(node for node in cluster.nodes if node.name == name)


def node_of(cluster, request_id):
    def find():
        for row in cluster.open_requests():
            if row["id"] == request_id and row["node"]:
                return row["node"]
        return None
    return node_named(cluster, until(find, 5, f"{request_id} is at a node"))


def lose(cluster, node):
    node.process.kill_all()
    cluster.nodes.remove(node)


@pytest.fixture(scope="module")
def many(request):
    """More nodes than are lost here; each is lost once and none comes back."""
    made = Cluster("resume").start()
    for number in range(NODES):
        # Half of them report token ids: completions go on from ids or from text, and read the same.
        made.start_node(f"n{number}", PACED, wait=False,
                        extra=("--resume-ids",) if number % 2 else ())
    for node in made.nodes:
        made.wait_up(node.name, node)
    yield made
    made.finish(request.session.testsfailed > 0)


@pytest.fixture(scope="module")
def undisturbed(many):
    found = {}
    for surface, (path, body) in SURFACES.items():
        answer = post(many, path, body)
        assert answer.status == 200, answer.body
        assert len(fingerprints(answer.body)) == 1
        found[surface] = gist(answer.body)
        text, ends, roles, ids, usage = found[surface]
        assert text and ends and len(ids) == 1 and usage, (surface, found[surface])
    return found


def test_streams_whose_node_is_killed_at_any_moment_read_as_if_nothing_had_happened(
        many, undisturbed):
    choose = random.Random(20)

    async def stream(surface, request_id, kill_after):
        path, body = SURFACES[surface]
        answer = await open_request(many.api, "POST", path, body, {"x-request-id": request_id})
        await answer.read_head()
        assert answer.status == 200
        count, victim = 0, None
        async for event in answer.events():
            count += 1
            if count == kill_after:
                victim = node_named(many, answer.headers["x-drover-node"])
                lose(many, victim)
        answer.close()
        return answer, victim

    for turn in range(KILLS):
        surface = ("chat", "completions", "messages", "responses")[turn % 4]
        # Not in the last few events, lest the answer be whole before the node is gone.
        kill_after = choose.randrange(3, TOKENS // 2)
        request_id = f"cut{turn}"
        answer, victim = asyncio.run(asyncio.wait_for(
            stream(surface, request_id, kill_after), 60))
        text, ends, roles, ids, usage = gist(answer.body)
        whole = undisturbed[surface]
        where = (turn, surface, kill_after, answer.body[-400:])
        numbers(answer.body)
        assert text == whole[0], where
        assert ends == whole[1], where
        assert roles == whole[2], where
        assert len(ids) == 1, where
        assert usage == whole[4], where
        assert len(fingerprints(answer.body)) == 2, where
        line = many.access_line(request_id)
        assert line["outcome"] == "ok" and line["attempts"] == 2, line
        assert line["node"] != victim.name
        assert line["output_tokens"] == TOKENS, line
    many.wait_idle()


@pytest.mark.parametrize("sdk,case", [("openai", "stream"), ("openai", "streamCompletions"),
                                      ("openai", "streamResponses"),
                                      ("anthropic", "stream")])
def test_the_official_clients_see_nothing_of_a_node_that_was_lost(many, sdk, case):
    # They compare the text of their stream with that of an answer in one piece.
    model = f"only-for-{case}-of-{sdk}"
    for number in range(2):
        many.start_node(f"{sdk}-{case}-{number}", f"slots=16,rate=4,cache=none,models={model}")
    client = BackgroundClient(sdk, many.url, case, model=model)
    rows = until(lambda: [r for r in many.open_requests()
                          if r["phase"] == "decode" and r["tokens_out"] >= 2], 10, "it streams")
    lose(many, node_named(many, rows[0]["node"]))
    assert client.result()
    line = many.access_line(rows[0]["id"])
    assert line["outcome"] == "ok" and line["attempts"] == 2, line


def test_sixty_streams_survive_the_loss_of_two_nodes_of_four(make_cluster):
    cluster = make_cluster().start()
    for name in "abcd":
        cluster.start_node(name, "slots=32,rate=60,cache=none", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    path, body = SURFACES["chat"]
    whole = gist(post(cluster, path, body).body)
    count = 60

    async def stream(number, under_way):
        answer = await open_request(cluster.api, "POST", path, body,
                                    {"x-request-id": f"of-sixty{number}"})
        await answer.read_head()
        events = 0
        async for _ in answer.events():
            events += 1
            if events == 4:
                under_way.append(number)
        answer.close()
        return answer

    async def go():
        under_way = []
        tasks = [asyncio.create_task(stream(number, under_way)) for number in range(count)]
        while len(under_way) < count:
            await asyncio.sleep(POLL_S)
        for node in cluster.nodes[:2]:
            lose(cluster, node)
        return await asyncio.gather(*tasks)
    attempts = []
    for number, answer in enumerate(asyncio.run(asyncio.wait_for(go(), 60))):
        got = gist(answer.body)
        assert got[:3] == whole[:3] and len(got[3]) == 1 and got[4] == whole[4], number
        attempts.append(len(fingerprints(answer.body)))
    assert set(attempts) <= {1, 2, 3} and sum(n > 1 for n in attempts) >= 5, attempts
    cluster.wait_idle()
    assert cluster.violations() == 0


def test_an_answer_that_finds_the_other_node_full_waits_its_turn_and_goes_on(make_cluster):
    cluster = make_cluster(config={"queue": {"comment_after_ms": 100}}).start()
    for name in "ab":
        cluster.start_node(name, "slots=1,rate=15,cache=none", wait=False,
                           extra=("--queue", "0"))
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    path, body = SURFACES["chat"]
    whole = gist(post(cluster, path, body).body)

    def phases():
        return {row["id"]: row["phase"] for row in cluster.open_requests()}

    async def go():
        loop = asyncio.get_running_loop()

        async def look(condition, what):
            return await loop.run_in_executor(None, until, condition, 10, what)
        holder = await open_request(cluster.api, "POST", path, {
            **body, "drover_sim": {"fault": "hang"}}, {"x-request-id": "holder"})
        await look(lambda: phases().get("holder") not in (None, "queued"), "one place is held")
        answers = {}
        for name in ("leaver", "stayer"):
            answer = await open_request(cluster.api, "POST", path, body, {"x-request-id": name})
            answers[name] = answer
            if name == "leaver":
                await answer.read_head()
        # The leaver streams and the stayer waits in the queue.  Their node is lost: the leaver goes
        # to its head, and goes away.
        await look(lambda: phases().get("leaver") == "decode"
                   and phases().get("stayer") == "queued", "one streams, one waits")
        held_at = await loop.run_in_executor(None, node_of, cluster, "holder")
        lose(cluster, next(node for node in cluster.nodes if node is not held_at))
        await look(lambda: phases().get("leaver") == "queued", "the leaver waits in mid-answer")
        answers["leaver"].abort()
        await look(lambda: "leaver" not in phases(), "the leaver is gone")
        again = cluster.start_node("c", "slots=1,rate=15,cache=none", extra=("--queue", "0"))
        await look(lambda: phases().get("stayer") == "decode", "the stayer streams")
        # The same again for one that stays.
        lose(cluster, again)
        await look(lambda: phases().get("stayer") == "queued", "the stayer waits in mid-answer")
        holder.abort()
        await answers["stayer"].read_head()
        await answers["stayer"].read()
        answers["stayer"].close()
        return answers["stayer"]
    answer = asyncio.run(asyncio.wait_for(go(), 60 * SLOW))
    got = gist(answer.body)
    assert got[:3] == whole[:3] and got[4] == whole[4], answer.body[-500:]
    assert len(fingerprints(answer.body)) == 2
    assert cluster.access_line("leaver")["outcome"] == "client_gone"
    cluster.wait_idle()


def test_a_full_queue_does_not_refuse_an_answer_that_has_begun(make_cluster):
    cluster = make_cluster(config={"queue": {"max_waiting": 1}}).start()
    for name in "ab":
        cluster.start_node(name, "slots=1,rate=15,cache=none", wait=False,
                           extra=("--queue", "0"))
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    path, body = SURFACES["chat"]
    whole = gist(post(cluster, path, body).body)

    def phases():
        return {row["id"]: row["phase"] for row in cluster.open_requests()}

    async def go():
        loop = asyncio.get_running_loop()

        async def look(condition, what):
            return await loop.run_in_executor(None, until, condition, 10, what)

        async def begin(name, **more):
            return await open_request(cluster.api, "POST", path, {**body, **more},
                                      {"x-request-id": name})
        holder = await begin("holder", drover_sim={"fault": "hang"})
        await look(lambda: phases().get("holder") not in (None, "queued"), "one place is held")
        begun = await begin("begun")
        await begun.read_head()
        waiter = await begin("waiter")
        await look(lambda: phases().get("waiter") == "queued", "the queue is full")
        held_at = await loop.run_in_executor(None, node_of, cluster, "holder")
        lose(cluster, next(node for node in cluster.nodes if node is not held_at))
        await look(lambda: phases().get("begun") in ("queued", None), "its node is gone")
        holder.abort()
        for answer in (begun, waiter):
            if answer is waiter:
                await answer.read_head()
            await answer.read()
            answer.close()
        return begun, waiter
    for answer in asyncio.run(asyncio.wait_for(go(), 60)):
        assert answer.status == 200, answer.body
        assert gist(answer.body)[:3] == whole[:3]
    assert cluster.access_line("begun")["attempts"] == 2
    cluster.wait_idle()


def test_completions_go_on_from_token_ids_where_they_are_known(make_cluster):
    """The text alone would not do here: the second engine's prompt must be a text and ids."""
    prompts = []

    def behave(handler, path, body):
        request = json.loads(body)
        prompts.append(request["prompt"])
        handler.begin_stream()
        for text, number in ((" ex", 372), ("po", 647), ("s", 115))[len(prompts) - 1:]:
            handler.send_event({"id": f"of-{len(prompts)}", "created": 1, "model": FAKE,
                                "object": "text_completion", "choices": [{
                                    "text": text, "index": 0, "finish_reason": None,
                                    "logprobs": {"content": [{
                                        "id": number, "token": text, "bytes": list(text.encode()),
                                        "logprob": -1, "top_logprobs": []}]}}]})
            if len(prompts) < 3:
                handler.drop()
                return
        handler.send_event({"id": "of-last", "created": 1, "model": FAKE,
                            "object": "text_completion", "choices": [{
                                "text": "", "index": 0, "logprobs": None,
                                "finish_reason": "stop"}]})
        handler.send_event(b"[DONE]")
        handler.end_stream()
    meta = {"vocab_type": 2, "n_vocab": 1259, "n_embd": 192, "n_params": 2058048}
    engines = [FakeEngine(behave, about={"owned_by": "llamacpp", "meta": meta}) for _ in range(3)]
    cluster = make_cluster().start()
    for name, engine in zip("abc", engines):
        cluster.start_node(name, engine=engine.url, extra=("--resume-ids",))
    answer = post(cluster, "/v1/completions", {
        "model": FAKE, "stream": True, "prompt": "The server"}, "by-ids")
    text, ends, _, ids, _ = gist(answer.body)
    assert prompts == ["The server", ["The server", 372], ["The server", 372, 647]]
    assert text == " expos" and ends == ["stop"] and ids == {"of-1"}
    assert b'"content"' not in answer.body, "log probabilities that nobody asked for"
    assert cluster.access_line("by-ids")["attempts"] == 3
    for engine in engines:
        engine.close()


# ---- where it cannot go on ----

@pytest.fixture(scope="module")
def cluster4(request):
    made = Cluster("resume-limits", config={"limits": {"max_resumes": 2}}).start()
    for name in "abcd":
        made.start_node(name, "slots=16,speed=10,cache=none", wait=False)
    for node in made.nodes:
        made.wait_up(node.name, node)
    yield made
    made.finish(request.session.testsfailed > 0)


def test_an_answer_goes_on_at_most_max_resumes_times(cluster4):
    path, body = SURFACES["chat"]
    whole = gist(post(cluster4, path, body).body)[0]
    twice = post(cluster4, path, {**body, "drover_sim": reset(after_tokens=5, only_attempt=0)})
    assert gist(twice.body)[0] == whole
    assert len(fingerprints(twice.body)) == 2
    answer = post(cluster4, path, {**body, "drover_sim": reset(after_tokens=5)}, "each-fails")
    assert answer.status == 200
    assert error_of(answer)["code"]
    text = text_before_error(answer)
    assert text and whole.startswith(text)
    assert len(fingerprints(answer.body)) == 3, "one attempt and two that went on"
    line = cluster4.access_line("each-fails")
    assert line["attempts"] == 3 and line["output_tokens"] == 15, line
    assert line["outcome"] == "node_error"


@pytest.mark.parametrize("more", [
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
     "tool_choice": "required"},
    {"response_format": {"type": "json_object"}},
    {"logprobs": True},
], ids=["a tool call", "a format", "log probabilities"])
def test_an_answer_beyond_plain_text_ends_in_an_error_event_and_is_not_stitched(cluster4, more):
    path, body = SURFACES["chat"]
    request_id = "odd-" + next(iter(more))
    answer = post(cluster4, path, {**body, **more, "drover_sim": reset(
        after_tokens=2, only_attempt=0)}, request_id)
    assert answer.status == 200, answer.body
    error = error_of(answer)
    assert error["message"] and error["type"] and isinstance(error["code"], str)
    assert len(fingerprints(answer.body)) == 1
    assert cluster4.access_line(request_id)["attempts"] == 1


def say(handler, *choices):
    """An event for each of these, and then the connection breaks."""
    handler.begin_stream()
    for number, choice in enumerate(choices):
        document = fake_chunk()
        document["choices"] = choice if isinstance(choice, list) else [
            {"index": 0, "finish_reason": None, "delta": choice}]
        handler.send_event(document)
    handler.drop()


def two_choices():
    return [{"index": index, "finish_reason": None, "delta": {"content": "x"}}
            for index in range(2)]


@pytest.mark.parametrize("more,said", [
    ({"n": 2}, [two_choices()]),
    ({}, [two_choices()]),
    ({}, [{"reasoning_content": "let me see"}]),
    ({}, [{"reasoning_content": "let me see"}, {"content": "Yes"}]),
    ({}, [{"content": "Yes"}, {"tool_calls": [{"index": 0, "id": "c", "type": "function",
                                               "function": {"name": "f", "arguments": ""}}]}]),
    ({}, [{"refusal": "no"}]),
    ({"grammar": "root ::= [a-z]+"}, [{"content": "yes"}]),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
     [{"content": "{"}]),
    ({"logprobs": True, "top_logprobs": 2}, [{"content": "Yes"}]),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
     [{"content": "Yes"}]),
], ids=["two choices", "two choices unasked", "reasoning", "reasoning before text", "a tool call",
        "a refusal", "a grammar", "a schema", "log probabilities", "tools offered"])
def test_an_answer_that_cannot_be_continued_to_the_letter_is_not_continued(make_cluster, more, said):
    engines = [FakeEngine(lambda handler, path, body: say(handler, *said)) for _ in range(2)]
    cluster = make_cluster(workers=1).start()
    for name, engine in zip("ab", engines):
        cluster.start_node(name, engine=engine.url)
    answer = post(cluster, "/v1/chat/completions", chat_body("hi", 9, model=FAKE, **more), "odd")
    assert answer.status == 200
    assert error_of(answer)["code"] == "node_failed"
    assert sum(len(engine.posts()) for engine in engines) == 1
    line = cluster.access_line("odd")
    assert line["attempts"] == 1 and line["outcome"] == "node_error"
    for engine in engines:
        engine.close()


def test_a_stream_that_ends_without_its_last_events_goes_on_elsewhere(cluster4):
    path, body = SURFACES["chat"]
    whole = gist(post(cluster4, path, body).body)
    for fault in ("truncate", "garbage", "error_first", "5xx"):
        answer = post(cluster4, path, {**body, "drover_sim": {
            "fault": fault, "after_tokens": 7, "only_attempt": 0}}, f"cut-{fault}")
        got = gist(answer.body)
        assert got[0] == whole[0], (fault, answer.body[-600:])
        assert got[1] == whole[1] and got[4] == whole[4], fault
        assert cluster4.access_line(f"cut-{fault}")["attempts"] == 2


def test_with_max_resumes_0_nothing_goes_on(make_cluster):
    cluster = make_cluster(config={"limits": {"max_resumes": 0}}).start()
    for name in "ab":
        cluster.start_node(name, "slots=16,speed=10,cache=none", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    path, body = SURFACES["chat"]
    answer = post(cluster, path, {**body, "drover_sim": reset(after_tokens=5, only_attempt=0)},
                  "never")
    assert answer.status == 200
    error_of(answer)
    assert len(fingerprints(answer.body)) == 1
    assert cluster.access_line("never")["attempts"] == 1


def test_when_every_node_is_lost_and_one_comes_back_in_time_streams_go_on_there(make_cluster):
    cluster = make_cluster().start()
    for name in "abc":
        cluster.start_node(name, "slots=16,rate=30,cache=none", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    cluster.ctl("drain", "c")
    until(lambda: cluster.node_state("c") == "DRAINING", 5, "c is out")
    path, body = SURFACES["chat"]
    whole = gist(post(cluster, path, body).body)
    begun = []

    async def stream():
        answer = await open_request(cluster.api, "POST", path, body)
        await answer.read_head()
        count = 0
        async for _ in answer.events():
            count += 1
            if count == 5:
                begun.append(answer)
        answer.close()
        return answer

    async def go():
        tasks = [asyncio.create_task(stream()) for _ in range(6)]
        while len(begun) < 6:
            await asyncio.sleep(POLL_S)
        for node in list(cluster.nodes[:2]):
            lose(cluster, node)
        await asyncio.get_running_loop().run_in_executor(None, cluster.ctl, "undrain", "c")
        return await asyncio.gather(*tasks)
    for answer in asyncio.run(asyncio.wait_for(go(), 60)):
        got = gist(answer.body)
        assert got[:3] == whole[:3] and got[4] == whole[4], answer.body[-400:]
        # A stream may have had a few tokens of the second node before that was lost, too.
        assert len(fingerprints(answer.body)) in (2, 3)
    cluster.wait_idle()
    assert cluster.violations() == 0


def test_when_every_node_is_lost_streams_fail_cleanly_and_a_node_that_comes_back_serves(
        make_cluster):
    cluster = make_cluster().start()
    for name in "ab":
        cluster.start_node(name, "slots=16,rate=20", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)

    async def stream(number, begun):
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body(f"story {number}", 5000),
                                    {"x-request-id": f"lost{number}"})
        await answer.read_head()
        first = True
        async for _ in answer.events():
            if first:
                begun.append(number)
                first = False
        answer.close()
        return answer

    async def go():
        begun = []
        tasks = [asyncio.create_task(stream(number, begun)) for number in range(12)]
        while len(begun) < 12:
            assert not [task for task in tasks if task.done()]
            await asyncio.sleep(POLL_S)
        for node in list(cluster.nodes):
            lose(cluster, node)
        return await asyncio.gather(*tasks)
    for answer in asyncio.run(asyncio.wait_for(go(), 60)):
        assert answer.status == 200
        error_of(answer)
    cluster.wait_idle()
    cluster.start_node("a", "slots=16")
    for number in range(4):
        answer = post(cluster, "/v1/chat/completions", chat_body(f"again {number}", 4))
        assert answer.status == 200 and answer.headers["x-drover-node"] == "a", answer.body
    cluster.wait_idle()
    assert cluster.violations() == 0


# ---- a node that says it is full when it has begun ----

def full_in_the_middle(handler, path, body):
    handler.begin_stream()
    handler.send_event(fake_chunk("one "))
    handler.send_event({"error": {"message": "full", "code": 429, "type": "rate_limit"}})
    handler.end_stream()


@pytest.fixture
def make_full(make_cluster):
    """A cluster of two nodes whose engines break off as if they were full, the first `breaks` times."""
    engines = []

    def make(breaks):
        met = []

        def behave(handler, path, body):
            met.append(json.loads(body))
            if len(met) <= breaks:
                full_in_the_middle(handler, path, body)
            else:
                handler.chat(body, words=("two",))
        cluster = make_cluster(config={"health": {
            "eject_failures": 0, "eject_success_pct": 0}}).start()
        for name in "ab":
            engines.append(FakeEngine(behave, about={"owned_by": "llamacpp"}))
            cluster.start_node(name, engine=engines[-1].url)
        return cluster, met
    yield make
    for engine in engines:
        engine.close()


def test_an_answer_that_cannot_go_on_is_not_begun_anew_as_its_node_says_it_is_full(make_full):
    cluster, met = make_full(breaks=1)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    answer = post(cluster, "/v1/chat/completions",
                  chat_body("hello", 8, model=FAKE, tools=[tool]))
    assert answer.status == 200
    error_of(answer)
    assert text_before_error(answer) == "one ", "a second answer behind the first"
    assert len(met) == 1


def test_nodes_that_say_they_are_full_after_each_token_are_asked_once(make_full):
    cluster, met = make_full(breaks=1000)
    answer = post(cluster, "/v1/chat/completions", chat_body("hello", 8, model=FAKE))
    assert answer.status == 200
    error_of(answer)
    assert len(met) == 2, "each node was asked once"
    assert cluster.ctl_json("node", "a")["counters"]["node_error"] == 1


def test_a_plain_text_whose_node_says_it_is_full_goes_on_elsewhere(make_full):
    cluster, met = make_full(breaks=1)
    answer = post(cluster, "/v1/chat/completions", chat_body("hello", 8, model=FAKE))
    assert gist(answer.body)[0] == "one two"
    assert met[1]["messages"][-1] == {"role": "assistant", "content": "one "}
    assert answer.headers["x-drover-attempts"] == "1", "as it was when the answer began"
