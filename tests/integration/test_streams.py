"""Many streams at once, slow readers, and bytes that must arrive as they were sent."""

import asyncio
import contextlib
import json
import socket
import time

import pytest

from fake_engine import MODEL as FAKE, FakeEngine, chunk
from harness import POLL_S, SLOW, until
from load import (Reference, chat_body, checked_stream, fetch, fetch_now, make_request,
                  open_request)


@pytest.mark.alone
def test_a_thousand_streams_at_once_through_two_workers_arrive_byte_for_byte(make_cluster):
    cluster = make_cluster(workers=2).start()
    for name in ("a", "b"):
        cluster.start_node(name, "slots=600,rate=10", wait=False)
    for node in cluster.nodes:
        cluster.wait_up(node.name, node)
    tokens, streams = 60, 1000

    async def run():
        reference = Reference(cluster.api)
        prompts = [f"Say number {i}." for i in range(16)]
        await asyncio.gather(*(reference.learn(prompt, tokens) for prompt in prompts))
        peak = 0
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(checked_stream(cluster.api, reference, prompts[i % 16],
                                                    tokens)) for i in range(streams)]
        while not all(task.done() for task in tasks):
            rows = await loop.run_in_executor(None, cluster.worker_rows)
            peak = max(peak, sum(row["requests_open"] for row in rows))
            used = [row for row in rows if row["requests_open"] > 0]
            if peak >= streams:
                assert len(used) == 2, rows
                break
            await asyncio.sleep(POLL_S)
        await asyncio.gather(*tasks)
        return peak
    peak = asyncio.run(asyncio.wait_for(run(), 150 * SLOW))
    assert peak >= streams, f"only {peak} streams were ever open at once"


def test_a_slow_reader_is_held_back_and_stalls_no_other_client(make_cluster):
    # 64 KiB an event: what the slow client does not read must stop at the engine, not pile up.
    sent = {}

    def behave(handler, path, body):
        prompt = json.loads(body)["messages"][0]["content"]
        if prompt == "quick":
            handler.chat(body)
            return
        handler.begin_stream()
        filler = "x" * 65536
        for number in range(2000):
            handler.send_event(chunk(filler))
            sent[prompt] = number + 1
    engine = FakeEngine(behave)
    cluster = make_cluster(workers=1, config={"limits": {"write_stall_ms": 60000,
                                                         "idle_token_ms": 60000}}).start()
    cluster.start_node("a", engine=engine.url, extra=("--slots", "8"))

    async def run():
        slow = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                  chat_body("slow", 100000, model=FAKE))
        await slow.read_head()
        slow.reader._transport.pause_reading()
        worker = cluster.worker_pids()[0]
        # It has stopped when 50 quick answers in a row see no more being sent.
        for _ in range(40):
            before = sent.get("slow", 0)
            for _ in range(25):
                quick = await fetch(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("quick", 8, model=FAKE), timeout_s=5)
                assert quick.status == 200
            if before and sent["slow"] == before:
                break
        else:
            raise AssertionError(f"never held back: {sent['slow']} events of 64 KiB went in")
        with open(f"/proc/{worker}/status", encoding="ascii") as f:
            rss_kib = int(next(line for line in f if line.startswith("VmRSS")).split()[1])
        slow.abort()
        return sent["slow"], rss_kib
    events, rss_kib = asyncio.run(asyncio.wait_for(run(), 90 * SLOW))
    assert events < 500, f"{events} events of 64 KiB were taken in for a client that reads none"
    assert rss_kib < 400 * 1024
    until(lambda: engine.open == 0, 2, "the engine was let go")
    engine.close()


def test_a_reader_that_stops_for_ever_is_cut_off_after_the_stall_limit(make_cluster):
    def behave(handler, path, body):
        handler.begin_stream()
        filler = "x" * 65536
        while True:
            handler.send_event(chunk(filler))
    engine = FakeEngine(behave)
    cluster = make_cluster(workers=1, config={"limits": {"write_stall_ms": 500}}).start()
    cluster.start_node("a", engine=engine.url)

    async def run():
        slow = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                  chat_body("slow", 100000, model=FAKE),
                                  {"x-request-id": "stalled"})
        await slow.read_head()
        slow.reader._transport.pause_reading()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: until(lambda: cluster.access_line("stalled"),
                                                       15, "the stalled client is cut off"))
        slow.abort()
    asyncio.run(asyncio.wait_for(run(), 60 * SLOW))
    assert cluster.access_line("stalled")["outcome"] == "client_gone"
    until(lambda: engine.open == 0, 2, "the engine was let go")
    engine.close()


def test_a_reader_of_a_few_bytes_at_a_time_is_cut_off_and_one_on_a_bad_line_is_not(make_cluster):
    """It would hold a slot for days: 128 bytes a second are the least."""
    def behave(handler, path, body):
        handler.begin_stream()
        filler = "x" * 65536
        while True:
            handler.send_event(chunk(filler))
    engine = FakeEngine(behave)
    cluster = make_cluster(workers=1, config={"limits": {"write_stall_ms": 8000}}).start()
    cluster.start_node("a", engine=engine.url)
    rates = {"trickle": 40, "slow": 800}  # bytes a second
    taken = dict.fromkeys(rates, 0)
    with contextlib.ExitStack() as stack:
        readers = {}
        for name in rates:
            readers[name] = sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)  # so that reading is seen
            sock.connect(cluster.api)
            sock.sendall(make_request("POST", "/v1/chat/completions", chat_body(
                name, 100000, model=FAKE), {"x-request-id": name}))
        begun = time.monotonic()
        # Both would be cut off at the same time.
        while (s := time.monotonic() - begun) < 11 or not cluster.access_lines() and s < 20 * SLOW:
            for name, sock in readers.items():
                if (due := int(s * rates[name]) - taken[name]) > 0:
                    taken[name] += len(sock.recv(due))
            time.sleep(0.05)
        assert cluster.access_line("trickle")["outcome"] == "client_gone"
        assert len(cluster.access_lines()) == 1, "the other one reads, slowly"
    assert "event=write_stall" in cluster.master.log()
    until(lambda: engine.open == 0, 2, "the engine was let go")
    engine.close()


def test_chunks_arrive_as_they_are_made_not_in_one_piece_at_the_end(make_cluster):
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", "slots=4,rate=10")

    async def run():
        loop = asyncio.get_running_loop()
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("pace", 12))
        await answer.read_head()
        times = []
        async for event in answer.events():
            times.append(loop.time())
        answer.close()
        return times
    times = asyncio.run(asyncio.wait_for(run(), 30 * SLOW))
    # Twelve tokens at ten a second: 1.1 s between the first and the last.
    assert 0.8 <= times[-1] - times[0] <= 3 * SLOW
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert sum(gap > 0.05 for gap in gaps) >= 6, gaps


ODD_BODY = (b'{ "messages" : [ {"role":"user","content":"caf\\u00e9 \\ud83d\\ude00 \xc3\xa9",'
            b'"x":null} ],\r\n\t"model":"fake-model" , "temperature": 0.700 ,"big":12345678901234'
            b'567890, "exp":1e+3,"future_option":{"a":[1,2.50,{}],"z":"\\/"},"seed":-0 }')


# The node's prefix of a chat body, so that it can count tokens as they come and give
# the client one whole answer in the end.  Nothing else may differ.
STREAMED = b'{"stream":true,"stream_options":{"include_usage":true},'


def test_a_body_reaches_the_engine_byte_for_byte(make_cluster):
    engine = FakeEngine(lambda handler, path, body: handler.answer(200, {"data": []}))
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    answer = fetch_now(cluster.api, "POST", "/v1/embeddings", ODD_BODY)
    assert answer.status == 200, answer.body
    (path, headers, body), = engine.posts()
    assert path == "/v1/embeddings"
    assert body == ODD_BODY
    assert {k.lower(): v for k, v in headers.items()}["content-type"] == "application/json"
    engine.close()


@pytest.mark.parametrize("stream", [b"", b'"stream":false,', b'"stream":true,'],
                         ids=["absent", "false", "true"])
def test_a_chat_reaches_the_engine_byte_for_byte_behind_what_drover_adds(make_cluster, stream):
    engine = FakeEngine()
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    sent = b"{" + stream + ODD_BODY[1:]
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", sent)
    assert answer.status == 200, answer.body
    body = engine.posts()[0][2]
    if stream:
        assert body == (b'{"stream_options":{"include_usage":true},'
                        + sent[1:].replace(b'"stream":false', b'"stream":true'))
    else:
        assert body == STREAMED + ODD_BODY[1:]
    engine.close()


def test_an_alias_changes_the_model_and_nothing_else_in_the_body(make_cluster):
    engine = FakeEngine()
    cluster = make_cluster(config={"aliases": [{"name": "gpt-x", "model": FAKE}]}).start()
    cluster.start_node("a", engine=engine.url)
    sent = ODD_BODY.replace(b"fake-model", b"gpt-x")
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", sent)
    assert answer.status == 200, answer.body
    assert engine.posts()[0][2] == STREAMED + ODD_BODY[1:]
    engine.close()


def test_a_stream_asks_the_engine_for_usage_and_hides_it_from_a_client_that_did_not(
        make_cluster):
    engine = FakeEngine()
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    quiet = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                      b'{"model":"fake-model","stream":true,"messages":[],"n":1.0}',
                      {"x-request-id": "quiet"})
    body = engine.posts()[0][2]
    assert json.loads(body)["stream_options"] == {"include_usage": True}
    assert body == (b'{"stream_options":{"include_usage":true},'
                    b'"model":"fake-model","stream":true,"messages":[],"n":1.0}')
    assert b'"usage"' not in quiet.body
    assert b'"choices": []' not in quiet.body and b'"choices":[]' not in quiet.body
    assert quiet.body.count(b"data: ") == 5  # three words, the finish, [DONE]
    line = cluster.access_line("quiet")
    assert (line["prompt_tokens"], line["output_tokens"]) == (3, 3)

    asked = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                      b'{"model":"fake-model","stream":true,"messages":[],'
                      b'"stream_options":{"include_usage":true}}')
    assert b'"usage"' in asked.body
    engine.close()


def test_an_answer_that_is_not_a_stream_arrives_byte_for_byte(make_cluster):
    document = (b'{ "id":"x",\n  "choices":[{"index":0,"message":{"role":"assistant",'
                b'"content":"caf\\u00e9"},"finish_reason":"stop"}],"odd":1.0 }\n')
    engine = FakeEngine(lambda handler, path, body: handler.answer(200, document))
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", ODD_BODY)
    assert answer.body == document
    assert answer.headers["content-length"] == str(len(document))
    engine.close()


def test_a_large_body_and_a_large_answer_pass(make_cluster):
    image = "A" * (6 * 1024 * 1024)
    engine = FakeEngine(lambda handler, path, body: handler.answer(
        200, {"choices": [{"index": 0}], "echo": len(body), "fill": "y" * (3 * 1024 * 1024)}))
    cluster = make_cluster().start()
    cluster.start_node("a", engine=engine.url)
    body = json.dumps({"model": FAKE, "messages": [], "image": image}).encode()
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", body)
    assert answer.status == 200, answer.body[:300]
    assert answer.json()["echo"] == len(STREAMED) - 1 + len(body)
    assert len(answer.json()["fill"]) == 3 * 1024 * 1024
    engine.close()


def multipart(model, boundary="XyZ"):
    audio = bytes(range(256)) * 100
    return (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
            f'Content-Type: audio/wav\r\n\r\n').encode() + audio + (
                f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
                f'{model}\r\n--{boundary}--\r\n').encode()


def test_a_multipart_upload_is_routed_by_its_model_field(make_cluster):
    cluster = make_cluster().start()
    cluster.start_node("a", "models=whisper;other")
    cluster.wait_models_known()
    for boundary in ("XyZ", "-" * 60):
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = fetch_now(cluster.api, "POST", "/v1/audio/transcriptions",
                           multipart("whisper", boundary), kind)
        assert answer.status == 200, answer.body
        assert answer.json()["text"]
        unknown = fetch_now(cluster.api, "POST", "/v1/audio/transcriptions",
                            multipart("unknown-model", boundary), kind)
        assert unknown.status == 404 and b"unknown-model" in unknown.body
    cut = fetch_now(cluster.api, "POST", "/v1/audio/transcriptions",
                    multipart("whisper")[:-300], {"Content-Type": "multipart/form-data; boundary=XyZ"})
    assert cut.status == 400


@pytest.mark.parametrize("resumes,status", [(0, 200), (1, 503)])
def test_a_body_is_held_only_as_long_as_another_node_may_need_it(make_cluster, resumes, status):
    body = chat_body("x" * 700_000, 400, drover_sim={"prompt_tokens": 4})
    cluster = make_cluster(workers=1, config={"limits": {
        "max_body_bytes": 1 << 20, "max_body_total_bytes": 1 << 20,
        "max_resumes": resumes}}).start()
    cluster.start_node("a", "slots=4,rate=20")

    async def go():
        first = await open_request(cluster.api, "POST", "/v1/chat/completions", body)
        await first.read_head()
        seen = 0
        async for _ in first.events():
            seen += 1
            if seen == 4:
                break
        second = await fetch(cluster.api, "POST", "/v1/chat/completions",
                             {**body, "max_tokens": 2})
        first.close()
        return second
    second = asyncio.run(go())
    assert second.status == status
    if status == 503:
        assert second.headers["x-drover-reason"] == "overloaded"
    cluster.wait_idle()
    lines = until(lambda: [line for line in cluster.access_lines()
                           if line["outcome"] == "client_gone"], 5)
    assert lines[0]["bytes_in"] > 700_000
