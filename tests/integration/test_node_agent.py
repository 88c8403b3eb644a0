"""test_node_agent.py - drover-node alone, in front of an engine that does what engines do."""

import json
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from datetime import datetime

import grpc
import pytest

from fake_coordinator import FakeCoordinator
from harness import SLOW, free_port, program, until
from messages import call_proof, common, health, inference, registry
from node_rig import DONE, Answer, Engine, Node

Code = grpc.StatusCode


@pytest.fixture
def engine():
    made = Engine()
    yield made
    made.release.set()
    made.stop()


@pytest.fixture
def start(engine):
    nodes = []

    def begin(*arguments, **options):
        options.setdefault("engine", engine.url)
        nodes.append(Node(*arguments, **options))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.stop()


@pytest.fixture
def node(start):
    return start("--insecure-no-token").ready()


# ---- answers ------------------------------------------------------------------------------------


def test_a_stream_passes_with_its_tokens_counted(node):
    answer = Answer(node.infer(want_text=True))
    assert answer.status is Code.OK
    assert answer.accepted == [0]
    assert (answer.head.http_status, answer.head.content_type) == (200, "text/event-stream")
    assert answer.head.event_stream
    assert [(h.name, h.value) for h in answer.head.headers] == [("x-request-id", "from-engine")]
    assert answer.data.endswith(DONE) and answer.data.startswith(b"data: ")
    assert all(chunk.data.endswith(b"\n\n") for chunk in answer.chunks)
    assert sum(chunk.tokens for chunk in answer.chunks) == 2
    assert answer.text == "Hello"
    assert not answer.chunks[-1].resumable       # it has the finish reason
    first = next(chunk for chunk in answer.chunks if chunk.content)
    assert (first.response_id, first.created) == ("chatcmpl-7", 7)
    assert answer.finish.body_bytes == len(answer.data)


def test_usage_is_asked_for_and_hidden_from_a_client_that_did_not_ask(node, engine):
    answer = Answer(node.infer(edit=inference.BodyEdit(want_usage=True)))
    sent = json.loads(engine.requests[-1][2])
    assert sent["stream_options"] == {"include_usage": True} and sent["stream"] is True
    assert b'"usage"' not in answer.data
    usage = answer.finish.usage
    assert (usage.prompt_tokens, usage.cached_prompt_tokens, usage.output_tokens) == (22, 21, 2)


def test_usage_that_the_client_asked_for_stays_in_its_stream(node):
    answer = Answer(node.infer(body={"model": "tiny", "stream": True,
                                     "stream_options": {"include_usage": True}},
                               edit=inference.BodyEdit(want_usage=True)))
    assert b'"usage"' in answer.data


def test_one_json_answer_is_assembled_from_a_stream(node, engine):
    answer = Answer(node.infer(stream=False))
    assert json.loads(engine.requests[-1][2])["stream"] is True
    assert (answer.head.http_status, answer.head.content_type, answer.head.event_stream) == (
        200, "application/json", False)
    assert answer.json == {
        "id": "chatcmpl-7", "object": "chat.completion", "created": 7, "model": "tiny",
        "choices": [{"index": 0, "finish_reason": "length",
                     "message": {"role": "assistant", "content": "Hello"}}],
        "usage": {"completion_tokens": 2, "prompt_tokens": 22, "total_tokens": 24,
                  "prompt_tokens_details": {"cached_tokens": 21}}}
    assert answer.finish.usage.output_tokens == 2
    assert answer.chunks[0].content


def test_a_stream_that_comes_byte_by_byte_with_crlf_keeps_its_bytes(node):
    answer = Answer(node.infer("crlf", want_text=True))
    assert answer.status is Code.OK
    assert answer.text == "Hello"
    assert answer.data.endswith(b"data: [DONE]\r\n\r\n")
    assert all(chunk.data.endswith(b"\r\n\r\n") for chunk in answer.chunks)


def test_embeddings_pass_as_they_are(node, engine):
    answer = Answer(node.infer("plain", operation=common.OPERATION_EMBEDDINGS, stream=False))
    path, _, body = engine.requests[-1]
    assert path == "/v1/embeddings" and "stream" not in json.loads(body)
    assert answer.json["data"] == [{"embedding": [0.5]}]
    assert answer.finish.usage.prompt_tokens == 5


def test_a_transcription_that_streams_passes_without_a_finish_reason(node, engine):
    answer = Answer(node.infer("transcript", operation=common.OPERATION_TRANSCRIPTIONS))
    assert engine.requests[-1][0] == "/v1/audio/transcriptions"
    assert answer.status is Code.OK and answer.head.event_stream
    assert answer.data.count(b"\n\n") == 2 and answer.chunks[0].content


def test_only_allowed_headers_reach_the_engine(node, engine):
    names = {"anthropic-version": "2023-06-01", "x-conversation-id": "c", "authorization": "x",
             "cookie": "y", "x-request-id": "theirs", "x-client-request-id": "r1"}
    Answer(node.infer(headers=[inference.Header(name=k, value=v) for k, v in names.items()]))
    headers = engine.requests[-1][1]
    assert headers["anthropic-version"] == "2023-06-01" and headers["x-client-request-id"] == "r1"
    assert not {"x-conversation-id", "authorization", "cookie", "expect"} & set(headers)


def test_the_engine_learns_the_number_of_a_later_attempt(node, engine):
    Answer(node.infer(attempt=2))
    assert engine.requests[-1][1]["x-drover-attempt"] == "2"
    Answer(node.infer(headers=[inference.Header(name="x-drover-attempt", value="7")]))
    assert "x-drover-attempt" not in engine.requests[-1][1], "the first attempt, whatever a client says"


def test_the_model_is_replaced_and_the_rest_of_the_body_kept(node, engine):
    body = b'{ "model":"alias",  "stream":true, "odd" : 1.50e1 }'
    Answer(node.infer(body=body, edit=inference.BodyEdit(set_model="tiny")))
    assert engine.requests[-1][2] == body.replace(b'"alias"', b'"tiny"')


def test_an_engine_key_is_sent_from_its_file(start, engine, tmp_path):
    (tmp_path / "key").write_text("sk-secret\n")
    node = start("--engine-key-file", str(tmp_path / "key")).ready()
    Answer(node.infer())
    assert engine.requests[-1][1]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in node.text()


def test_an_engine_that_refuses_stream_options_is_asked_again_without(node, engine):
    first = Answer(node.infer("no_usage", stream=False))
    assert first.json["choices"][0]["message"]["content"] == "x"
    assert len(engine.requests) == 2
    second = Answer(node.infer("no_usage", stream=False))
    assert second.status is Code.OK and len(engine.requests) == 3


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script, status, words", [
    ("not_http", Code.INTERNAL, "HTTP"),
    ("no_answer", Code.UNAVAILABLE, "broke"),
    ("big_head", Code.INTERNAL, "HTTP"),
    ("garbage_event", Code.INTERNAL, "not JSON"),
    ("endless_event", Code.INTERNAL, "67108864"),
    ("error_first", Code.INTERNAL, "Compute error."),
    ("broken", Code.INTERNAL, "Compute error."),
    ("busy", Code.RESOURCE_EXHAUSTED, "server busy"),
    ("load", Code.RESOURCE_EXHAUSTED, "loading"),
])
def test_a_failure_before_content_commits_to_nothing(node, script, status, words, stream):
    answer = Answer(node.infer(script, stream=stream))
    assert answer.status is status and words in answer.message
    assert answer.head is None and not answer.chunks and answer.finish is None
    until(lambda: node.describe().load.running == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_as_the_first_event_is_the_http_error_that_it_stands_for(node, stream):
    answer = Answer(node.infer("error_first_400", stream=stream))
    assert answer.status is Code.OK and answer.head.http_status == 400
    assert not answer.head.event_stream and "too long" in answer.json["error"]["message"]


@pytest.mark.parametrize("script, kind", [
    ("no_answer", "KIND_ENGINE_DIED"), ("truncated", "KIND_ENGINE_ERROR"),
    ("broken", "KIND_ENGINE_ERROR"), ("incomplete", "KIND_ENGINE_ERROR"),
    ("garbage_event", "KIND_ENGINE_ERROR"), ("not_http", "KIND_ENGINE_ERROR"),
    ("busy", None), ("ok", None)])
def test_the_cause_of_an_end_without_an_answer_is_said_before_it(node, script, kind):
    answer = Answer(node.infer(script))
    said = answer.cause and inference.Cause.Kind.Name(answer.cause.kind)
    assert said == kind, answer.message


@pytest.mark.parametrize("script, status, words", [
    ("truncated", Code.UNAVAILABLE, "broke"),
    ("incomplete", Code.DATA_LOSS, "before its answer"),
    ("cut_in_event", Code.DATA_LOSS, "inside an event"),
    ("error_later", Code.INTERNAL, "Compute error."),
])
def test_a_failure_after_content_keeps_what_came(node, script, status, words):
    answer = Answer(node.infer(script))
    assert answer.status is status and words in answer.message
    assert b'"Hel"' in answer.data and b'"error"' not in answer.data
    assert answer.data.endswith(b"\n\n") and answer.finish is None
    half = Answer(node.infer(script, stream=False))
    assert half.status is status and half.data == b"" and half.finish is None


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_with_a_status_inside_a_200_has_that_status(node, stream):
    answer = Answer(node.infer("error_first_400", stream=stream))
    assert answer.status is Code.OK and answer.head.http_status == 400
    assert answer.head.content_type == "application/json" and not answer.head.event_stream
    assert answer.json == {"error": {"code": 400, "message": "too long"}}


def test_a_connection_lost_after_the_end_took_nothing(node):
    answer = Answer(node.infer("lost_after_done"))
    assert answer.status is Code.OK and answer.finish is not None


def test_a_4xx_is_an_answer(node):
    answer = Answer(node.infer("context"))
    assert answer.status is Code.OK
    assert answer.head.http_status == 400
    assert [(h.name, h.value) for h in answer.head.headers] == [("retry-after", "3")]
    assert "context size" in answer.json["error"]["message"]


def test_a_500_for_the_clients_own_input_becomes_a_400(node):
    answer = Answer(node.infer("json_parse"))
    assert answer.status is Code.OK and answer.head.http_status == 400
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error" and "parse error" in error["message"]


@pytest.mark.parametrize("fields, status", [
    ({"body": b'{"messages":['}, Code.INVALID_ARGUMENT),
    ({"body": b'[1]'}, Code.INVALID_ARGUMENT),
    ({"request_id": "no spaces"}, Code.INVALID_ARGUMENT),
    ({"request_id": ""}, Code.INVALID_ARGUMENT),
    ({"operation": 0}, Code.INVALID_ARGUMENT),
    ({"operation": 32}, Code.UNIMPLEMENTED),
    ({"operation": common.OPERATION_OLLAMA_CHAT}, Code.UNIMPLEMENTED),
    ({"model": "other"}, Code.NOT_FOUND),
    ({"instance_id": b"x" * 16}, Code.FAILED_PRECONDITION),
    ({"content_type": "a\r\nb: c"}, Code.INVALID_ARGUMENT),
])
def test_a_request_that_cannot_be_served_is_refused_with_its_reason(node, engine, fields, status):
    answer = Answer(node.infer(**fields))
    assert answer.status is status and answer.message
    assert not engine.requests


def test_an_engine_that_is_down_is_unavailable_and_comes_back(start, engine):
    node = start("--insecure-no-token", engine=f"http://127.0.0.1:{free_port()}")
    until(lambda: "state=unreachable" in node.text())
    assert not node.describe().load.engine_reachable
    assert node.health() == health.HealthCheckResponse.NOT_SERVING
    answer = Answer(node.infer())
    assert answer.status is Code.UNAVAILABLE and "not reachable" in answer.message


def test_an_engine_too_busy_to_be_looked_at_is_alive_as_long_as_answers_come(node, engine):
    call = node.infer("trickle", timeout=60 * SLOW)
    threading.Thread(target=lambda: Answer(call), daemon=True).start()
    until(lambda: engine.busy == 1, what="a generation")
    engine.deaf = True
    looked = len(engine.closed)
    # Two looks have had their time, 2 s each, and were given up.
    until(lambda: len(engine.closed) >= looked + 2, what="looks without an answer")
    assert node.describe().load.engine_reachable
    engine.release.set()
    until(lambda: engine.busy == 0, what="the end of the generation")
    until(lambda: not node.describe().load.engine_reachable, what="no sign of life is left")
    assert node.describe().load.engine_detail
    engine.deaf = False
    until(lambda: node.describe().load.engine_reachable, what="it answers again")


def test_an_engine_that_loads_is_unavailable_until_it_has(start, engine):
    engine.loading = True
    node = start("--insecure-no-token")
    until(lambda: node.describe().load.loading)
    assert node.health() == health.HealthCheckResponse.NOT_SERVING
    assert "loading" in Answer(node.infer()).message
    engine.loading = False
    until(lambda: node.health("drover.v1.Inference") == health.HealthCheckResponse.SERVING)
    assert Answer(node.infer()).status is Code.OK


def test_an_engine_that_dies_in_mid_stream_is_reported_as_lost(node, engine):
    call = node.infer("held")
    next(e for e in call if e.WhichOneof("event") == "chunk")
    engine.stop()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is Code.UNAVAILABLE
    until(lambda: not node.describe().load.engine_reachable)


# ---- limits -------------------------------------------------------------------------------------


def test_silence_before_the_first_token_has_a_limit(node, engine):
    begun = time.monotonic()
    answer = Answer(node.infer("silent", first_token_ms=200))
    assert answer.status is Code.ABORTED and "200 ms" in answer.message
    assert answer.head is None
    assert 0.2 <= time.monotonic() - begun < 5 * SLOW
    until(lambda: engine.closed)


def test_pings_put_the_limit_off_and_are_no_answer(node, engine):
    call = node.infer("pinging", first_token_ms=int(500 * SLOW), timeout=2000)
    begun, work = time.monotonic(), []
    for event in call:
        assert event.WhichOneof("event") == "accepted"
        work.append(event.accepted.work)
        if time.monotonic() - begun > 1.5 * SLOW and work[-1] > 1:
            break
    assert work == sorted(work), work
    call.cancel()
    until(lambda: engine.closed)


def test_silence_between_tokens_has_its_own_limit(node, engine):
    answer = Answer(node.infer("stalling", first_token_ms=20000, idle_token_ms=200))
    assert answer.status is Code.ABORTED and "200 ms" in answer.message
    assert any(chunk.content for chunk in answer.chunks)
    until(lambda: engine.closed)


def test_the_deadline_of_the_call_closes_the_engine(node, engine):
    answer = Answer(node.infer("silent", timeout=0.3))
    assert answer.status is Code.DEADLINE_EXCEEDED
    until(lambda: engine.closed)


def test_a_caller_that_leaves_closes_the_engine_at_once(node, engine):
    call = node.infer("held")
    next(e for e in call if e.WhichOneof("event") == "chunk")
    begun = time.monotonic()
    call.cancel()
    until(lambda: engine.closed)
    assert engine.closed[0] - begun < SLOW
    until(lambda: node.describe().load.running == 0)


def test_slots_then_queue_then_refusal_and_the_queue_moves_up(start, engine):
    node = start("--insecure-no-token", "--queue", "1").ready()
    running = [node.infer("held") for _ in range(2)]
    for call in running:
        next(e for e in call if e.WhichOneof("event") == "chunk")
    queued = node.infer("ok")
    first = next(queued)
    assert first.accepted.queue_position == 1
    refused = Answer(node.infer("ok"))
    assert refused.status is Code.RESOURCE_EXHAUSTED
    assert dict(refused.call.trailing_metadata())["grpc-retry-pushback-ms"] == "100"
    assert (node.describe().load.running, node.describe().load.queued) == (2, 1)
    engine.release.set()
    rest = Answer(queued)
    assert rest.accepted == [0] and rest.status is Code.OK
    for call in running:
        list(call)
    assert max(len(r) for r in [engine.requests]) == 3


def test_questions_need_no_slot_and_only_so_many_run_at_once(start, engine):
    node = start("--insecure-no-token", "--slots", "1", "--queue", "0").ready()
    held = node.infer("held")
    next(e for e in held if e.WhichOneof("event") == "chunk")

    def ask():
        return node.infer("held_answer", operation=common.OPERATION_COUNT_TOKENS, stream=False)
    calls = [ask() for _ in range(32)]
    for call in calls:
        assert next(call).accepted.queue_position == 0
    refused = Answer(ask())
    assert refused.status is Code.RESOURCE_EXHAUSTED and "32 questions" in refused.message
    assert (node.describe().load.running, node.describe().load.queued) == (1, 0)
    assert Answer(node.infer("ok")).status is Code.RESOURCE_EXHAUSTED, "the slot is still taken"
    calls.pop().cancel()
    until(lambda: engine.closed, what="the engine's connection is closed")
    calls.append(ask())
    assert next(calls[-1]).accepted.queue_position == 0, "its place is another's"
    engine.release.set()
    for call in calls:
        answer = Answer(call)
        assert answer.status is Code.OK and answer.json == {"input_tokens": 3}
    list(held)


def test_a_node_drains_only_after_its_questions(start, engine):
    node = start("--insecure-no-token").ready()
    call = node.infer("held_answer", operation=common.OPERATION_COUNT_TOKENS, stream=False)
    next(call)
    node.process.signal(signal.SIGTERM)
    until(lambda: "event=draining" in node.text(), what="event=draining")
    engine.release.set()
    assert Answer(call).json == {"input_tokens": 3}
    assert node.process.wait(10) == 0


def test_higher_priority_leaves_the_queue_first(start, engine):
    node = start("--insecure-no-token", "--slots", "1", "--queue", "4").ready()
    held = node.infer("held")
    next(e for e in held if e.WhichOneof("event") == "chunk")
    calls = [node.infer("ok", request_id=f"p{p}", priority=p,
                        headers=[inference.Header(name="x-client-request-id", value=f"p{p}")])
             for p in (0, 9, 5)]
    until(lambda: node.describe().load.queued == 3)
    engine.release.set()
    for call in calls:
        assert Answer(call).status is Code.OK
    assert [headers["x-client-request-id"] for _, headers, _ in engine.requests[1:]] == ["p9", "p5", "p0"]


def test_a_queued_caller_that_leaves_is_forgotten(start, engine):
    node = start("--insecure-no-token", "--slots", "1", "--queue", "1").ready()
    held = node.infer("held")
    next(e for e in held if e.WhichOneof("event") == "chunk")
    queued = node.infer("ok")
    next(queued)
    queued.cancel()
    until(lambda: node.describe().load.queued == 0)
    engine.release.set()
    list(held)
    assert len(engine.requests) == 1


def test_a_slow_caller_slows_its_engine_run_and_no_other_caller(node, engine):
    slow = node.infer("flood", timeout=60 * SLOW)
    next(slow)
    until(lambda: getattr(engine, "sent", 0) > 0)

    looks = []

    def settled():
        looks.append(engine.sent)
        return len(looks) >= 20 and len(set(looks[-20:])) == 1

    until(settled, 20, "back-pressure")
    assert engine.sent < 24 << 20
    assert Answer(node.infer()).status is Code.OK
    total = sum(len(e.chunk.data) for e in slow)
    assert total > 1024 * 32000


# ---- what it says of itself ---------------------------------------------------------------------


def test_describe_says_engine_models_and_capacity(node):
    d = node.describe()
    assert (d.node_id, len(d.instance_id), d.engine, d.engine_version) == (
        "n1", 16, common.ENGINE_KIND_LLAMA_SERVER, "b10573")
    assert (d.capacity.slots, d.capacity.queue) == (2, 1)
    assert [(m.id, list(m.aliases), m.max_context_tokens) for m in d.models] == [
        ("tiny", ["small"], 2048)]
    assert common.OPERATION_MESSAGES in d.models[0].operations


def test_watch_load_reports_changes_at_once_and_in_order(node, engine):
    watch = node.watch(60000)
    first = next(watch)
    assert (first.running, first.engine_reachable) == (0, True)
    call = node.infer("held")
    seqs = [first.seq]
    for report in watch:
        seqs.append(report.seq)
        if report.running == 1:
            break
    assert seqs == sorted(set(seqs))
    engine.release.set()
    list(call)
    assert next(r for r in watch if r.running == 0).engine_reachable
    watch.cancel()


def test_calls_need_a_proof_of_either_token(start, engine, tmp_path):
    tokens = tmp_path / "token"
    tokens.write_text("new-token-1\nold-token-0\n")
    node = start("--token-file", str(tokens)).ready()
    instance = node.describe().instance_id

    def infer(token):
        proof = call_proof(token, instance)
        return Answer(node.infer(metadata=[("drover-call-proof-bin", proof)])).status

    assert Answer(node.infer()).status is Code.UNAUTHENTICATED
    assert infer("new-token-1") is Code.OK
    assert infer("old-token-0") is Code.OK
    assert infer("other") is Code.UNAUTHENTICATED
    previous = [("drover-call-proof-bin", call_proof("other", instance)),
                ("drover-call-proof-previous-bin", call_proof("old-token-0", instance))]
    assert Answer(node.infer(metadata=previous)).status is Code.OK
    for refused in (lambda: next(node.watch(1000)),
                    lambda: next(node.watch(1000, metadata=previous[:1]))):
        with pytest.raises(grpc.RpcError) as caught:
            refused()
        assert caught.value.code() is Code.UNAUTHENTICATED
    watch = node.watch(1000, metadata=previous)
    assert next(watch).engine_reachable
    tokens.write_text("newer-token-2\nnew-token-1\n")
    node.process.signal(signal.SIGHUP)
    until(lambda: infer("newer-token-2") is Code.OK)
    assert infer("new-token-1") is Code.OK
    assert infer("old-token-0") is Code.UNAUTHENTICATED
    tokens.write_text("")
    node.process.signal(signal.SIGHUP)
    until(lambda: "event=reload_failed" in node.text())
    assert infer("newer-token-2") is Code.OK
    assert "token-1" not in node.text() and "token-2" not in node.text()


def test_no_token_is_said_loudly(start):
    assert "NO TOKEN" in start().text()


# ---- coordinators -------------------------------------------------------------------------------


@pytest.fixture
def coordinator():
    made = FakeCoordinator()
    yield made
    made.stop()


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "join"
    path.write_text("join-token\n")
    return str(path)


def test_a_node_joins_heartbeats_and_leaves(start, engine, coordinator, token_file):
    node = start("--token-file", token_file, "--coordinator", f"127.0.0.1:{coordinator.port}")
    until(lambda: 'id="box/7"' in node.text(), what="event=joined, with the coordinator's name")
    r = coordinator.registers[0]
    assert (r.node_id, r.port, r.host, r.tls) == ("n1", node.port, "", False)
    until(lambda: len(coordinator.of("heartbeat")) >= 3)
    until(lambda: coordinator.of("heartbeat")[-1].load.engine_reachable)
    # The engine may have been recognised after register: then the models follow.
    models = until(lambda: (coordinator.of("models") or [r])[-1].models)
    assert [m.id for m in models] == ["tiny"]
    node.stop()
    leave = coordinator.of("leave")
    assert len(leave) == 1 and leave[0].reason == "SIGTERM"
    assert "event=left" in node.text()


def test_models_that_change_while_the_node_joins_are_reported(start, engine, coordinator, token_file):
    engine.loading = True
    coordinator.welcome.clear()
    node = start("--token-file", token_file, "--coordinator", f"127.0.0.1:{coordinator.port}")
    until(lambda: coordinator.registers)
    assert not coordinator.registers[0].models
    engine.loading = False
    node.ready()
    coordinator.welcome.set()
    until(lambda: coordinator.of("models"))
    assert [m.id for m in coordinator.of("models")[0].models] == ["tiny"]


def test_a_node_drains_before_it_leaves(start, engine, coordinator, token_file):
    node = start("--token-file", token_file, "--coordinator",
                 f"127.0.0.1:{coordinator.port}").ready()
    until(lambda: "event=joined" in node.text())
    proof = [("drover-call-proof-bin",
              call_proof("join-token", node.describe().instance_id))]
    call = node.infer("held", metadata=proof)
    next(e for e in call if e.WhichOneof("event") == "chunk")
    node.process.signal(signal.SIGTERM)
    until(lambda: coordinator.of("leave"))
    refused = Answer(node.infer(metadata=proof))
    assert refused.status is Code.UNAVAILABLE and "draining" in refused.message
    assert node.health() == health.HealthCheckResponse.NOT_SERVING
    assert node.process.running()
    engine.release.set()
    assert Answer(call).status is Code.OK
    assert node.process.wait(10) == 0


def test_a_second_signal_ends_at_once(start, engine):
    node = start("--insecure-no-token").ready()
    call = node.infer("held")
    next(e for e in call if e.WhichOneof("event") == "chunk")
    node.process.signal(signal.SIGTERM)
    until(lambda: "event=draining" in node.text())
    node.process.signal(signal.SIGTERM)
    assert node.process.wait(5) == 0
    call.cancel()


def test_the_drain_timeout_is_kept(start, engine):
    node = start("--insecure-no-token", "--drain-timeout", "1").ready()
    call = node.infer("held")
    next(e for e in call if e.WhichOneof("event") == "chunk")
    node.process.signal(signal.SIGTERM)
    assert node.process.wait(10) == 0
    assert "event=drain_timeout" in node.text()
    call.cancel()


def test_a_node_comes_back_when_its_coordinator_does(start, token_file):
    first = FakeCoordinator()
    node = start("--token-file", token_file, "--coordinator", f"localhost:{first.port}")
    until(lambda: first.of("heartbeat"))
    instance = first.registers[0].instance_id
    first.stop()
    until(lambda: "event=detached" in node.text())
    second = FakeCoordinator(port=first.port)
    until(lambda: second.of("heartbeat"), 20)
    assert second.registers[0].instance_id == instance
    node.stop()
    second.stop()


def test_a_coordinator_without_the_token_is_not_joined(start, token_file):
    class Impostor(FakeCoordinator):
        def proof(self, label, nonce, register):
            return b"x" * 32 if label == "drover.v1 coordinator" else register.join_proof

    impostor = Impostor()
    node = start("--token-file", token_file, "--coordinator", f"127.0.0.1:{impostor.port}")
    until(lambda: "does not hold the join token" in node.text())
    assert not impostor.of("heartbeat")
    node.stop()
    impostor.stop()


def test_after_a_rotation_the_previous_token_is_tried_too(start, coordinator, tmp_path):
    (tmp_path / "two").write_text("brand-new\njoin-token\n")
    start("--token-file", str(tmp_path / "two"), "--coordinator",
          f"127.0.0.1:{coordinator.port}")
    until(lambda: coordinator.of("heartbeat"), 20)
    assert len(coordinator.registers) == 2


@pytest.mark.parametrize("refusal", [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED])
@pytest.mark.parametrize("tokens", [["wrong-token"], ["wrong-token", "false-token"]])
def test_a_node_whose_tokens_are_refused_waits_until_it_has_others(start, coordinator, tmp_path, tokens, refusal):
    coordinator.refusal = refusal
    (tmp_path / "join").write_text("\n".join(tokens) + "\n")
    node = start("--token-file", str(tmp_path / "join"), "--coordinator", f"127.0.0.1:{coordinator.port}")
    pauses = until(lambda: (found := re.findall(rf"event=detached .*{refusal.name}.* retry_ms=(\d+)", node.text()))
                   and len(found) == len(tokens) and found, what="each was tried")
    # A coordinator counts failed proofs of an address, which other nodes may have, too.
    assert all(int(pause) < 1000 for pause in pauses[:-1]) and int(pauses[-1]) >= 8000, pauses
    (tmp_path / "join").write_text("join-token\n")
    node.process.signal(signal.SIGHUP)
    until(lambda: "event=joined" in node.text(), 20, "it has joined")
    assert len(coordinator.registers) == len(tokens) + 1
    reloaded, joined = (datetime.fromisoformat(re.search(rf"at=(\S+)Z .*event={event}", node.text())[1])
                        for event in ("reloaded", "joined"))
    assert (joined - reloaded).total_seconds() < 5


def test_a_superseded_node_waits_and_tries_again(start, coordinator, token_file):
    coordinator.verdict = registry.Evicted(reason=registry.Evicted.REASON_SUPERSEDED)
    other = FakeCoordinator()
    other.verdict = registry.Evicted(reason=registry.Evicted.REASON_LEASE_EXPIRED)
    node = start("--token-file", token_file, "--coordinator", f"127.0.0.1:{coordinator.port}",
                 "--coordinator", f"127.0.0.1:{other.port}")
    until(lambda: "reason=superseded" in node.text())
    # Another one that sends it away in another manner sees it again and again meanwhile.
    until(lambda: len(other.registers) >= 4, 20)
    assert len(coordinator.registers) == 1
    pause = re.search(rf'event=detached coordinator="127.0.0.1:{coordinator.port}" .*retry_ms=(\d+)', node.text())
    assert 30_000 <= int(pause[1]) <= 60_000
    node.stop()
    other.stop()


def test_another_port_than_the_registrys_gets_a_hint(start, make_cluster):
    cluster = make_cluster(workers=1).start()
    with socket.create_server(("127.0.0.1", 0)) as listener:  # as one that speaks TLS
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        for port in cluster.address("api")[1], listener.getsockname()[1]:
            node = start("--insecure-no-token", "--coordinator", f"127.0.0.1:{port}")
            until(lambda: "event=detached" in node.text())
            assert "is this the registry's port" in node.text(), node.text()
            node.stop()


def test_a_name_that_does_not_resolve_stops_nothing(start, engine):
    node = start("--insecure-no-token", "--coordinator", "no-such-host.invalid:9").ready()
    assert Answer(node.infer()).status is Code.OK


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, words", [
    ([], "--engine is missing"),
    (["--engine", "gopher://x"], "is not http"),
    (["--engine", "sim:slots=2"], "drover-sim"),
    (["--engine", "http://x", "--token-file", "/nonexistent"], "No such file"),
    (["--engine", "http://x", "--tls-cert", "/x"], "--tls-key"),
    (["--engine", "http://x", "--listen", "0.0.0.0:0"], "--insecure-no-token"),
    (["--engine", "http://x", "--listen", "0.0.0.0:0", "--tls-cert", "/x", "--tls-key", "/x"],
     "--tls-ca"),
])
def test_a_wrong_command_line_is_one_clear_line(arguments, words):
    done = subprocess.run([program("drover-node"), "--listen", "127.0.0.1:0",
                           *arguments], capture_output=True, text=True, timeout=20 * SLOW, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("drover-node: ")]
    assert done.returncode != 0 and len(lines) == 1 and words in lines[0]


@pytest.mark.parametrize("url", [
    "http://me:geheim@127.0.0.1:9", "http://me:geheim@127.0.0.1:9/?x=1", "ftp://me:geheim@x",
    "http://geheim@x", "me:geheim@x", "http://me:geheim@x/#y", "http://me:geheim@" + "x" * 1000])
def test_a_password_in_the_url_is_refused_and_not_shown(url):
    done = subprocess.run([program("drover-node"), "--listen", "127.0.0.1:0", "--engine", url],
                          capture_output=True, text=True, timeout=20 * SLOW, check=False)
    assert done.returncode == 2 and "--engine-key-file" in done.stderr, done.stderr
    assert "geheim" not in done.stderr + done.stdout


@pytest.mark.parametrize("text, words", [
    ("", "is empty"), ("k\xe9y\n", "not a key"), ("k" * 1025 + "\n", "longer than 1024 bytes")])
def test_an_engine_key_that_is_none_is_said_and_not_shown(tmp_path, text, words):
    (tmp_path / "key").write_text(text)
    done = subprocess.run([program("drover-node"), "--engine", "http://127.0.0.1:9",
                           "--listen", "127.0.0.1:0", "--engine-key-file", str(tmp_path / "key")],
                          capture_output=True, text=True, timeout=20 * SLOW, check=False)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert "kkk" not in done.stderr


def test_a_taken_port_is_said(engine):
    done = subprocess.run([program("drover-node"), "--engine", "http://x", "--listen",
                           f"127.0.0.1:{engine.port}"], capture_output=True, text=True, timeout=20 * SLOW,
                          check=False)
    assert done.returncode == 1 and "Address already in use" in done.stderr


# ---- what a coordinator gets to know ------------------------------------------------------------


def at_speed(tokens_per_s):
    return (f"llamacpp:prompt_tokens_total {10 * tokens_per_s:.0f}\n"
            "llamacpp:prompt_seconds_total 10\n")


def test_a_speed_that_the_node_learns_after_it_has_joined_reaches_the_coordinator(make_cluster,
                                                                                 engine):
    engine.metrics = at_speed(0)
    cluster = make_cluster(workers=1).start()
    cluster.start_node("n1", engine=engine.url)

    def speed():
        return cluster.ctl_json("node", "n1")["prefill_tokens_per_s"]

    assert speed() == 0
    # While it is busy its load is looked at.
    body = json.dumps({"model": "tiny", "script": "held", "messages": []}).encode()
    threading.Thread(target=lambda: urllib.request.urlopen(urllib.request.Request(
        cluster.url + "/v1/chat/completions", data=body,
        headers={"content-type": "application/json"})).read(), daemon=True).start()
    engine.metrics = at_speed(2000)
    until(lambda: speed() == 2000, what="the speed")
    # Many small changes add up.
    for step in range(1, 7):
        looks = engine.looks
        engine.metrics = at_speed(2000 * 1.05 ** step)
        until(lambda: engine.looks > looks, what="a look at the metrics")
    until(lambda: speed() > 2300, what="the new speed")
    engine.release.set()
