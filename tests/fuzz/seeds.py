#!/usr/bin/env python3
"""seeds.py - writes the fuzz targets' seed corpora, tests/fuzz/corpus/NAME/*.

The seeds are in git; this says where they come from and makes them again.  They have the shapes
of real traffic in our own words, each as small as still shows its shape.
"""
import gzip
import json
import pathlib
import struct
import sys
import zlib

import hpack

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
from wire import *  # noqa: E402,F403

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
PROXY_V1 = b"PROXY TCP4 198.51.100.7 10.0.0.1 4711 8080\r\n"
PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00\x01\x12\x67\x1f\x90"


def seed(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


# ---- protobuf, by hand -------------------------------------------------------------------------

def pb(**fields):
    """pb(f3=1, f4=b"x"): field 3 as a varint, field 4 as bytes."""
    out = b""
    for name, value in fields.items():
        number = int(name[1:].split("_")[0])
        if isinstance(value, float):
            out += varint(number << 3 | 5) + struct.pack("<f", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value if isinstance(value, bytes) else value.encode()
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


LOAD = pb(f1=3, f2=1, f3=2, f4=1, f11=0.5)
MODEL = pb(f1="tiny", f2="tiny:latest", f3=1, f4=4096, f5=b"\1\2\6")
CAPACITY = pb(f1=4, f2=2, f3=900.0, f4=40.0, f5=1 << 24)
INFER = pb(f1="req-1", f3=1, f4="tiny", f5='{"model":"tiny"}', f6=1, f7=bytes(16),
           f8=pb(f1="other", f2=1), f9=pb(f1="accept", f2="*/*"), f10="application/json",
           f15=pb(f1="so far", f2=2, f3="id-1", f4=7, f5=b"\1\2"), f16=1)


def wire_seeds():
    for name, data in {"one": framed(b"hello"), "three": framed(b"") + framed(b"a" * 40) + framed(b"b"),
                       "compressed": framed(b"x", 1), "flag": framed(b"x", 2),
                       "huge": b"\0\xff\xff\xff\xff", "cut": framed(b"hello")[:7]}.items():
        seed("frame", name, b"\x08\x03" + data)
    for name, text in {"timeout": b"grpc-timeout\x00100m", "long": b"grpc-timeout\x0099999999H",
                       "message": b"grpc-message\0100%25 \xe2\x98\xba%zz%4", "status": b"grpc-status\x0014",
                       "bin": b"x-trace-bin\0AAEC,AwQ=", "plain": b"x-trace\0some text"}.items():
        seed("grpc_text", name, text)
    messages = {
        0: INFER, 1: pb(f3=pb(f1="data: {}\n\n", f2=1, f3=1, f4="hi", f6=b"\1")),
        2: b"", 3: pb(f1="box1", f2=bytes(16), f3=1, f4="b1", f6=CAPACITY, f7=MODEL, f8=LOAD), 4: pb(f1=500),
        5: LOAD, 6: pb(f1=pb(f1="box1", f2=bytes(16), f3=bytes(32), f4=bytes(32), f6=9090, f11=CAPACITY, f12=MODEL)),
        7: pb(f2=pb(f1=bytes(32), f2=10000, f3=2000)), 8: pb(f1="drover.v1.Inference"), 9: pb(f1=1),
    }
    for kind, body in messages.items():
        seed("message", f"kind-{kind:02}", bytes([kind]) + body)
    seed("message", "head", b"\1" + pb(f2=pb(f1=200, f2="text/event-stream", f3=pb(f1="x-a", f2="b"), f4=1)))
    seed("message", "finish", b"\1" + pb(f4=pb(f2=pb(f1=9, f3=2), f6=10)))
    seed("message", "unknown", b"\x05" + LOAD + pb(f99=1, f98="later"))

    def control(kind, body):
        return bytes([kind, 0]) + struct.pack(">I", len(body)) + body

    seed("control", "drain", control(0, b"\x83\xa1v\x01\xa2op\xa5drain\xa4node\xa4box1"))
    seed("control", "scale", control(0, b"\x83\xa1v\x01\xa2op\xa5scale\xa7workers\x04"))
    seed("control", "stop", control(0, b"\x83\xa1v\x01\xa2op\xa4stop\xa5quick\xc3"))
    seed("control", "reload", control(0, b"\x82\xa1v\x01\xa2op\xa6reload") * 2)
    seed("control", "good", control(1, b"\x83\xa1v\x01\xa2ok\xc3\xa4text\xa4done"))
    seed("control", "bad", control(1, b"\x83\xa1v\x01\xa2ok\xc2\xa5error\xa7no node"))
    seed("control", "progress", control(1, b"\x82\xa1v\x01\xa8progress\xa72 open."))


# ---- content codings -----------------------------------------------------------------------------

# The text, nothing, and 8 MiB of zeros with a window of 16 MiB, as the zstd program encodes them.
ZSTD_TEXT = bytes.fromhex("28b52ffd0458150100d87b226d6f64656c223a226d222c226d65737361676573223a5b5d7d0100cfcf3906ab9141b6")
ZSTD_NONE = bytes.fromhex("28b52ffd240001000099e9d851")
ZSTD_WIDE = bytes.fromhex("28b52ffd00705400001000000100fbff39c0020200100002001000020010000200100002001000020010000200100002")


def decoder_seeds():
    text = b'{"model":"m","messages":[]}' * 3
    packed = zlib.compress(text)
    one = gzip.compress(text, mtime=0)
    for name, kind, data in [
            ("gzip", 0, one), ("gzip-two", 0, one + one), ("gzip-cut", 0, one[:-3]), ("gzip-behind", 0, one + b"x"),
            ("zlib", 1, packed), ("raw", 1, packed[2:-4]), ("zlib-sum", 1, packed[:-1] + b"x"),
            ("zstd", 2, ZSTD_TEXT), ("zstd-two", 2, ZSTD_TEXT + ZSTD_TEXT), ("zstd-none", 2, ZSTD_NONE),
            ("zstd-skip", 2, struct.pack("<II", 0x184D2A50, 3) + b"abc" + ZSTD_TEXT), ("zstd-wide", 2, ZSTD_WIDE)]:
        seed("decoder", name, bytes([kind, 6, 40]) + data)


# ---- HTTP/2 --------------------------------------------------------------------------------------

def record(kind, flags=0, stream=0, body=b""):
    return bytes([kind, flags, stream]) + struct.pack(">H", len(body)) + body


def h2_seeds():
    encoder = hpack.Encoder()
    base = {":method": "POST", ":scheme": "http", ":authority": "x", "te": "trailers",
            "content-type": "application/grpc"}

    def head(path, **more):
        # Each seed stands alone: nothing of an earlier one may be in the table.
        fields = list({**base, ":path": path}.items())
        fields = [f for f in fields if f[0][0] == ":"] + [f for f in fields if f[0][0] != ":"]
        return hpack.Encoder().encode(fields + [(k.replace("_", "-"), v) for k, v in more.items()])

    assert encoder is not None
    call = record(HEADERS, END_HEADERS, 1, head("/f.F/Echo")) + record(DATA, 0, 1, framed(b"hi"))
    seeds = {
        "echo": call + record(DATA, END_STREAM, 1),
        "one": record(HEADERS, END_HEADERS, 1, head("/f.F/One", grpc_timeout="10S", x_any_bin="AAE"))
        + record(DATA, END_STREAM, 1, framed(b"hi")),
        "pour": record(HEADERS, END_HEADERS, 1, head("/f.F/Pour")) + record(DATA, END_STREAM, 1, framed(b""))
        + record(WINDOW, 0, 1, struct.pack(">I", 65536)) + record(WINDOW, 0, 0, struct.pack(">I", 65536)),
        "health": record(HEADERS, END_HEADERS, 1, head("/grpc.health.v1.Health/Watch"))
        + record(DATA, END_STREAM, 1, framed(b"")),
        "reset": call + record(RST, 0, 1, struct.pack(">I", 8)) + record(PING, 0, 0, bytes(8)),
        "windows": record(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 0, 5, 16384)) + call
        + record(SETTINGS, ACK) + record(WINDOW, 0, 1, struct.pack(">I", 0x7fffffff)),
        "continued": record(HEADERS, 0, 1, head("/f.F/Echo")[:9]) + record(CONTINUATION, END_HEADERS, 1, head("/f.F/Echo")[9:])
        + record(DATA, PADDED | END_STREAM, 1, b"\3" + framed(b"hi") + bytes(3)),
        "bye": call + record(GOAWAY, 0, 0, struct.pack(">II", 0, 0)) + record(PRIORITY, 0, 3, bytes(5)),
        "deadline": record(HEADERS, END_HEADERS, 1, head("/f.F/Echo", grpc_timeout="1n")) + record(DATA, 0, 1, framed(b"hi")),
    }
    for name, data in seeds.items():
        seed("h2_server", name, b"\0" + data)
    raw = struct.pack(">I", len(head("/f.F/One")))[1:] + bytes([HEADERS, END_HEADERS, 0, 0, 0, 1]) + head("/f.F/One")
    seed("h2_server", "raw", b"\1" + raw)

    def answer(*fields):
        return hpack.Encoder().encode(list(fields))

    begin = record(SETTINGS, ACK) + record(HEADERS, END_HEADERS, 1, answer(
        (":status", "200"), ("content-type", "application/grpc"), ("x-any-bin", "AAE")))
    good = answer(("grpc-status", "0"))
    seeds = {
        "good": begin + record(DATA, 0, 1, framed(b"yes")) + record(HEADERS, END_HEADERS | END_STREAM, 1, good),
        "second": begin + record(HEADERS, END_HEADERS, 3, answer((":status", "200"), ("content-type", "application/grpc")))
        + record(DATA, 0, 3, framed(b"a") + framed(b"b" * 100)) + record(HEADERS, END_HEADERS | END_STREAM, 3, good),
        "only": record(HEADERS, END_HEADERS | END_STREAM, 1, answer(
            (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14"),
            ("grpc-message", "no%20room"), ("grpc-retry-pushback-ms", "250"))),
        "html": record(HEADERS, END_HEADERS, 1, answer((":status", "503"), ("content-type", "text/html")))
        + record(DATA, END_STREAM, 1, b"<html>"),
        "early": record(HEADERS, END_HEADERS, 1, answer((":status", "103"))) + begin,
        "refused": record(RST, 0, 1, struct.pack(">I", 7)) + record(RST, 0, 3, struct.pack(">I", 0)),
        "away": record(GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"bye") + begin,
        "limits": record(SETTINGS, 0, 0, struct.pack(">HIHIHI", 3, 0, 4, 0, 1, 0)) + record(PING, 0, 0, bytes(8)) + begin,
        "push": record(PUSH, END_HEADERS, 1, struct.pack(">I", 2) + answer((":path", "/"))),
        "nothing": begin + record(DATA, END_STREAM, 1),
    }
    for name, data in seeds.items():
        seed("h2_client", name, b"\0" + data)


# ---- text ----------------------------------------------------------------------------------------

CHAT = {"model": "tiny", "stream": True, "messages": [{"role": "system", "content": "Be brief."},
                                                      {"role": "user", "content": "Why is the sky blue?"}]}
BODIES = {
    1: [CHAT, {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}], "n": 2, "max_tokens": 5,
               "stream_options": {"include_usage": True}, "user": "u1"}],
    2: [{"model": "tiny", "prompt": "Once", "max_tokens": 9, "stream": True, "echo": True},
        {"model": "tiny", "prompt": [1, 2, 3], "logprobs": 2}],
    3: [{"model": "tiny", "input": ["a", "b"]}],
    4: [{"model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
         "stream": True, "max_output_tokens": 4}],
    5: [{"model": "tiny", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}],
    6: [{"model": "tiny", "system": [{"type": "text", "text": "s"}], "max_tokens": 8, "stream": True,
         "messages": [{"role": "user", "content": "hi"}], "metadata": {"user_id": "u"}}],
    7: [{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}],
    9: [{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "options": {"num_predict": 3}}],
    10: [{"model": "tiny", "prompt": "hi", "stream": False, "raw": True, "format": "json"}],
    11: [{"model": "tiny", "input": "hi"}],
    13: [{"name": "tiny"}],
}
FORM = ("--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ntiny\r\n--xyz\r\nContent-Disposition: "
        "form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--xyz--\r\n")


def delta(**what):
    choice = {"index": 0, "delta": what, "finish_reason": None}
    return "data: " + json.dumps({"id": "c1", "object": "chat.completion.chunk", "created": 7,
                                  "model": "tiny", "choices": [choice]}) + "\n\n"


def text_seeds():
    for name, text in {"object": json.dumps(CHAT), "numbers": "[0,-1.5e-3,12345678901234567890,1e999]",
                       "escapes": r'{"mod\u0065l":"\ud83d\ude00\ud800","":"\n\u0000"}', "nested": "[" * 60 + "]" * 60,
                       "too-deep": "[" * 70, "twice": '{"model":"a","model":"b","n":1}', "words": "[true,false,null]",
                       "broken": '{"a":1,}', "empty": "{}"}.items():
        seed("json", name, "\x01" + text)
    for operation, bodies in BODIES.items():
        for i, body in enumerate(bodies):
            seed("body", f"op-{operation:02}-{i}", bytes([operation, 27]) + json.dumps(body).encode())
            seed("sim_request", f"op-{operation:02}-{i}", bytes([operation]) + json.dumps(body).encode())
    seed("body", "form", b"\x08\x01" + FORM.encode())
    seed("sim_request", "settings", "\x00slots=4,prefill=1000,decode=50,models=a@64;b@64@5,fail=die@3")
    config = pathlib.Path(__file__).resolve().parents[2] / "docs" / "drover.example.yaml"
    seed("config", "example", "".join(line + "\n" for line in config.read_text().splitlines()
                                      if line and not line.lstrip().startswith("#")))
    seed("config", "least", "workers: 1\napi:\n  listen: 127.0.0.1:0\n")
    seed("config", "flow", "workers: 2\napi: {listen: \"[::1]:80\"}\nnodes: [{name: a, address: \"b:1\", slots: 2}]\n")
    seed("config", "aliases", "api: {listen: unix:/tmp/x}\nalias: &a {name: x, model: y}\naliases: [*a, {<<: *a}]\n")
    seed("config", "wrong", "workers: many\nunknown: 1\nlimits: {max_attempts: -1}\n")

    end = "data: " + json.dumps({"id": "c1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}})
    chat = delta(role="assistant", content=None) + delta(content="Hel") + delta(content="lo")
    seed("events", "chat", b"\0\7" + (chat + end + "\n\ndata: [DONE]\n\n").encode())
    seed("events", "tools", b"\0\0" + delta(tool_calls=[{"index": 0, "id": "t", "function": {
        "name": "f", "arguments": "{}"}}]).encode())
    seed("events", "reasoning", b"\0\5" + delta(reasoning_content="hm").replace("\n\n", "\r\n\r\n").encode())
    seed("events", "again", b"\0\3" + (delta(role="assistant", content="Hello \u263a") + delta(content=" there")).encode())
    seed("events", "python", b"\0\0" + delta(content="a").replace('"a"', '"a","p":NaN,"q":[-Infinity]').encode())
    seed("events", "error", b"\0\0" + b'data: {"error":{"code":503,"message":"no slot"}}\n\n')
    seed("events", "token-ids", b"\1\5" + b'data: {"choices":[{"text":" ex","index":0,"logprobs":{"content":[{"id":372,"token":" ex",'
         b'"bytes":[32,101,120],"logprob":-1.09,"top_logprobs":[]}]},"finish_reason":null}]}\n\n')
    seed("events", "odd-lines", b"\1\2" + b'\xef\xbb\xbf: ping\r\revent: x\rdata: {"choices":[{"index":0,"text":"a"}]}\r\rdata: a\ndata:b\n\n')
    seed("events", "prompts", b"\1\4" + b"data: null\n\n" + b"".join(
        b"data: " + json.dumps({"id": "c1", "choices": [{"index": i, "text": said, "finish_reason": end}],
                                **({"usage": {"prompt_tokens": 3 + i, "completion_tokens": 1, "total_tokens": 4 + i,
                                              "prompt_tokens_details": {"cached_tokens": 1}}} if end else {})}).encode() + b"\n\n"
        for i, said, end in [(1, "a", None), (0, "b", None), (1, "", "stop"), (0, "", "length")]) + b"data: [DONE]\n\n")
    seed("events", "calls", b"\0\6" + "".join(delta(tool_calls=[call]) for call in [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":'}},
        {"index": 0, "function": {"arguments": '"}"}'}}, {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        {"function": {"name": "h", "arguments": {}}}]).encode())
    seed("events", "old-call", b"\0\5" + (delta(function_call={"name": "f", "arguments": ""}) + delta(
        function_call={"arguments": "{}"}) + delta(audio={"id": "a", "data": "QUJD"}) + delta(audio={"data": "REVG"})).encode())
    seed("events", "reasons", b"\0\3" + b"".join(b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":'
                                                 + reason + b"}]}\n\n" for reason in (b'""', b'"null"', b"{}", b'{"type":"stop"}')))
    seed("events", "list", b"\0\3" + b'data: [{"choices":[{"index":0,"delta":{"content":"a"}}]},null,{"error":{}}]\n\n')
    seed("events", "error-lines", b"\4\2" + b'{"error":"no such model"}\n')
    seed("events", "page", b"\0\1" + b"<!DOCTYPE html>\n<html>")
    seed("events", "pretty", b"\0\2" + b'{\n  "choices": [\n  ]\n}\n')
    seed("events", "chat-lines", b"\0\t" + b'{"choices":[{"index":0,"delta":{"content":"a"}}]}\n')
    seed("events", "responses", b"\2\t" + b"".join(
        b"event: " + kind.encode() + b"\ndata: " + json.dumps({"type": kind, **more}).encode() + b"\n\n" for kind, more in [
            ("response.created", {"response": {"id": "r1", "created_at": 7, "status": "in_progress"}}),
            ("response.output_item.added", {"item": {"type": "message", "id": "m1", "content": []}, "sequence_number": 1}),
            ("response.output_text.delta", {"item_id": "m1", "delta": "Hi"}),
            ("response.output_item.done", {"item": {"type": "message", "id": "m1", "content": [{"text": "Hi"}]}}),
            ("response.completed", {"response": {"id": "r1", "output": [], "usage": {"input_tokens": 2, "output_tokens": 1}}})]))
    seed("events", "messages", b"\3\0" + b"".join(
        b"event: " + body["type"].encode() + b"\ndata: " + json.dumps(body).encode() + b"\n\n" for body in [
            {"type": "message_start", "message": {"id": "m1", "content": [], "usage": {"input_tokens": 3}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"}]))
    seed("events", "ollama-chat", b"\4\6" + b'{"model":"m","message":{"role":"assistant","content":"Hi"},"done":false}\n'
         b'{"model":"m","message":{"content":""},"done":true,"done_reason":"stop","eval_count":1}\n')
    seed("events", "ollama-generate", b"\5\0" + b'{"model":"m","response":"Hi","done":false}\n{"done":true,"context":[1]}')
    seed("events", "whole-chat", b"\0\2" + b'{"id":"c","choices":[{"message":{"content":"Hi","tool_calls":[{"id":"a"}]}}],'
         b'"usage":{"prompt_tokens":3}}')
    seed("events", "whole-messages", b"\3\2" + b'{"content":[{"type":"thinking","thinking":"hm","signature":"s"},'
         b'{"type":"tool_use","input":{"a":1}},\n{"type":"text","text":"Hi"}],"usage":{}}')
    seed("events", "whole-responses", b"\2\2" + b'{"status":"incomplete","output":[{"type":"message","id":"m","content":['
         b'{"text":"Hi"},{"refusal":"no"}]},{"type":"function_call","arguments":"{}"}]}')

    def answers(*bodies):
        return b"".join(bytes([0, 1]) + struct.pack(">H", len(b)) + b.encode() for b in bodies)

    models = json.dumps({"object": "list", "data": [{"id": "tiny", "owned_by": "llamacpp", "meta": {"n_ctx_train": 4096}}],
                         "models": [{"name": "tiny"}]})
    seed("facts", "llama", answers(models, '{"total_slots":4,"build_info":"b1","default_generation_settings":{"n_ctx":4096}}',
                                   '[{"id":0,"is_processing":true,"n_ctx":4096}]',
                                   "# TYPE x gauge\nllamacpp:requests_processing 1\nllamacpp:requests_deferred{a=\"b\"} 2\n"))
    seed("facts", "ollama", answers('{"data":[{"id":"tiny:latest","owned_by":"library"}]}', '{"version":"0.5.1"}',
                                    '{"models":[{"name":"tiny:latest","details":{"family":"qwen"}}]}',
                                    '{"models":[{"name":"tiny:latest","context_length":4096,"size_vram":1}]}'))
    seed("facts", "vllm", answers('{"data":[{"id":"tiny","owned_by":"vllm","max_model_len":4096}]}', '{"version":"0.8.0"}',
                                  "vllm:num_requests_running{model_name=\"tiny\"} 3.0\nvllm:kv_cache_usage_perc 0.5\n"))
    seed("facts", "error", answers('{"error":{"code":400,"message":"the prompt is too long","type":"invalid_request_error"}}'))
    for i, line in enumerate(["POST /v1/chat/completions", "GET /v1/models/a%2Fb", "GET /api/tags", "PUT /v1/messages",
                              "POST /rerank", "HEAD /", "GET /healthz"]):
        seed("surface", f"route-{i}", bytes([i * 7, i]) + line.encode())
    seed("surface", "head", b"\x83\1" + b"POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-A:  b \r\n\r\n{}")
    seed("surface", "forwarded", b"\0\0" + b'6.6.6.6, "[2001:db8::5]:4711",10.0.0.2:80 , fd00::1')
    seed("surface", "proxy-v1", b"\0\0" + PROXY_V1 + b"GET / HTTP/1.1")
    seed("surface", "proxy-v2", b"\0\0" + PROXY_V2)
    seed("surface", "chunked", b"\4\2" + b"\r\nGET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")


def system_seeds():
    def post(body, path="/v1/chat/completions", more=""):
        return (f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"{more}\r\n{body}")

    chunked = ("POST /v1/messages HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
               "10\r\n{\"model\":\"echo\",\r\ne;x=y\r\n\"messages\":[]}\r\n0\r\nX-T: 1\r\n\r\n")
    seeds = {
        "get": "GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "echo": post('{"model":"echo"}'), "stream": post('{"model":"stream","stream":true}', more="X-Request-Id: abc\r\n"),
        "two": post('{"model":"gpt"}') + post('{"model":"none"}', "/api/chat"), "chunked": chunked,
        "wait": post('{"model":"wait"}'), "twice": post('{"model":"a","model":"b"}'),
        "old": "GET / HTTP/1.0\r\n\r\n", "continue": post('{"model":"echo"}', more="Expect: 100-continue\r\n"),
        "head": "HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /api/version HTTP/1.1\r\nHost: a\r\n\r\n",
        "folded": "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "upgrade":
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        "options": "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "lengths": "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    }
    for name, text in seeds.items():
        seed("http", name, b"\0" + text.encode())
        seed("http", name + "-cut", b"\1" + text.encode()) if name in ("chunked", "two") else None
    seed("http", "proxy-v1", b"\0" + PROXY_V1 + post('{"model":"echo"}').encode())
    seed("http", "proxy-v2-cut", b"\1" + PROXY_V2 + post('{"model":"echo"}', more="X-Forwarded-For: ::1, 10.0.0.2\r\n").encode())
    seed("http", "form", b"\2" + (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=xyz\r\n"
        f"Content-Length: {len(FORM)}\r\n\r\n{FORM}").encode())
    seed("scoreboard", "sound", b"\0")
    for offset in (0, 8, 16, 24, 64, 128):
        seed("scoreboard", f"head-{offset}", b"\0" + struct.pack(">I", 0x800000 | offset)[1:] + b"\4\xff\xff\xff\xff")
    for offset in (1000, 5000, 20000, 100000, 300000):
        seed("scoreboard", f"at-{offset}", b"\0" + struct.pack(">I", offset)[1:] + b"\x10" + b"\x1b\xff" * 8)
    seed("scoreboard", "short", b"\1" + b"short")


if __name__ == "__main__":
    wire_seeds()
    decoder_seeds()
    h2_seeds()
    text_seeds()
    system_seeds()
    files = [f for f in CORPUS.rglob("*") if f.is_file()]
    print(f"{len(files)} seeds, {sum(f.stat().st_size for f in files)} bytes")
