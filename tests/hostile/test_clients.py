"""Malicious clients, in raw sockets, against a worker.

Whatever they send: the right status or a closed connection, never an answer to a request that
was smuggled; bounded CPU, memory and log lines; and others are served meanwhile.
"""
import json
import random
import re
import socket
import time

import pytest

from harness import MODEL, SLOW, until
from watch import Watch, chat, rss_mb

CONFIG = {"limits": {"header_timeout_ms": 3000, "idle_timeout_ms": 3000, "write_stall_ms": 3000}}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = json.dumps({"model": MODEL, "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}).encode()


@pytest.fixture(name="worker")
def fixture_worker(cluster):
    return cluster.worker_pids()[0]


def dial(cluster, timeout=10 * SLOW):
    return socket.create_connection(cluster.api, timeout)


def read_all(sock, data=b""):
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionError:
        pass
    return data


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) if status != b"100"]


def say(cluster, data):
    """Sends all of it and reads until the server hangs up."""
    with dial(cluster) as sock:
        try:
            sock.sendall(data)
        except ConnectionError:
            pass
        return read_all(sock)


def post(body=BODY, path="/v1/chat/completions", more=b"", close=True):
    return (f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            + ("Connection: close\r\n" if close else "")).encode() + more + b"\r\n" + body


# ---- smuggling -----------------------------------------------------------------------------------

def head(*lines, target=b"/v1/chat/completions", version=b"HTTP/1.1", end=b"\r\n"):
    return end.join((b"POST " + target + b" " + version, b"Host: x", *lines)) + end + end


AMBIGUOUS = {
    "length twice": head(b"Content-Length: 4", b"Content-Length: 4") + b"{}  ",
    "lengths differ": head(b"Content-Length: 4", b"Content-Length: 44") + b"{}  ",
    "length list": head(b"Content-Length: 4, 4") + b"{}  ",
    "length with a plus": head(b"Content-Length: +4") + b"{}  ",
    "length in hex": head(b"Content-Length: 0x4") + b"{}  ",
    "negative length": head(b"Content-Length: -4"),
    "length of two words": head(b"Content-Length: 4 4") + b"{}  ",
    "length of 20 digits": head(b"Content-Length: 99999999999999999999"),
    "length that wraps": head(b"Content-Length: 18446744073709551620") + b"{}  ",
    "empty length": head(b"Content-Length:"),
    "length and chunked": head(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunked and length": head(b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"0\r\n\r\n",
    "encoding twice": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "identity then chunked": head(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "encoding list": head(b"Transfer-Encoding: identity, chunked") + b"0\r\n\r\n",
    "chunked not last": head(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "unknown encoding": head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "encoding after a tab": head(b"Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n",
    "encoding in quotes": head(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
    "space before the colon": head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "chunked in 1.0": head(b"Transfer-Encoding: chunked", version=b"HTTP/1.0") + b"0\r\n\r\n",
    "folded encoding": head(b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n",
    "folded length": head(b"X: a", b"\tContent-Length: 4") + b"{}  ",
    "first line folded": head(b" X: a", b"Content-Length: 2") + b"{}",
    "bare LF": head(b"Content-Length: 2", end=b"\n") + b"{}",
    "one bare LF": head(b"X: a\nContent-Length: 40") + b"{}",
    "bare CR": head(b"X: a\rContent-Length: 40") + b"{}",
    "CR before CRLF": head(b"X: a\r", b"Content-Length: 2") + b"{}",
    "NUL in a value": head(b"X: a\0b", b"Content-Length: 2") + b"{}",
    "NUL in a name": head(b"X\0: a", b"Content-Length: 2") + b"{}",
    "no colon": head(b"Content-Length 4", b"X: a"),
    "no name": head(b": a", b"Content-Length: 2") + b"{}",
    "name in brackets": head(b"(X): a", b"Content-Length: 2") + b"{}",
    "name in UTF-8": head("Cöntent-Length: 2".encode(), b"Content-Length: 2") + b"{}",
    "two hosts": head(b"Host: y", b"Content-Length: 2") + b"{}",
    "no host": b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "host with a path": b"GET /v1/models HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "host with an at sign": b"GET /v1/models HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "absolute target": head(b"Content-Length: 2", target=b"ftp://y/v1/chat/completions") + b"{}",
    "authority as target": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk as target": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": head(b"Content-Length: 2", target=b" /v1/models") + b"{}",
    "tab for a space": b"GET\t/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes in the target": head(b"Content-Length: 2", target="/v1/mödels".encode()) + b"{}",
    "version 1.2": head(b"Content-Length: 2", version=b"HTTP/1.2") + b"{}",
    "version 2.0": head(b"Content-Length: 2", version=b"HTTP/2.0") + b"{}",
    "version 1.1.1": head(b"Content-Length: 2", version=b"HTTP/1.11") + b"{}",
    "no version": b"GET /v1/models\r\n\r\n",
    "version in lower case": head(b"Content-Length: 2", version=b"http/1.1") + b"{}",
    "words after the version": head(b"Content-Length: 2", version=b"HTTP/1.1 x") + b"{}",
    "only line breaks": b"\r\n" * 40,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_body_that_two_readers_may_frame_differently_is_refused(cluster, name):
    answer = say(cluster, AMBIGUOUS[name] + SMUGGLED)
    assert statuses(answer) in ([], [400], [404], [405], [501], [505]), answer[:300]
    assert b"smuggled" not in answer


CHUNK = b'{"model":"none"}'
CHUNKS = {
    "hex with 0x": b"0x10\r\n" + CHUNK + b"\r\n0\r\n\r\n", "a plus": b"+10\r\n" + CHUNK + b"\r\n0\r\n\r\n",
    "negative": b"-1\r\n" + CHUNK + b"\r\n0\r\n\r\n", "of 17 digits": b"10000000000000010\r\n" + CHUNK + b"\r\n0\r\n\r\n",
    "of sixteen Fs": b"ffffffffffffffff\r\n" + CHUNK, "of 2^63": b"8000000000000000\r\n" + CHUNK,
    "no size": b"\r\n" + CHUNK + b"\r\n0\r\n\r\n", "bare LF": b"10\n" + CHUNK + b"\n0\n\n",
    "no break after": b"10\r\n" + CHUNK + b"0\r\n\r\n", "too long": b"10\r\n" + CHUNK * 2 + b"\r\n0\r\n\r\n",
    "space before": b" 10\r\n" + CHUNK + b"\r\n0\r\n\r\n", "NUL": b"10\0\r\n" + CHUNK + b"\r\n0\r\n\r\n",
    "extension": b"10;a=\"\r\n" + CHUNK + b"\r\n0\r\n\r\n", "extension with LF": b"10;a\nb\r\n" + CHUNK + b"\r\n0\r\n\r\n",
    "trailers": b"10\r\n" + CHUNK + b"\r\n0\r\nContent-Length: 9\r\nHost: y\r\n\r\n",
    "last of two zeros": b"10\r\n" + CHUNK + b"\r\n00\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
def test_nothing_follows_a_body_in_chunks(cluster, name):
    """However its chunks are read: one answer at most, and the connection is closed."""
    answer = say(cluster, head(b"Transfer-Encoding: chunked") + CHUNKS[name] + SMUGGLED)
    assert len(statuses(answer)) <= 1, answer
    assert b"smuggled" not in answer


def test_no_smuggled_request_was_ever_seen(cluster):
    assert not [line for line in cluster.access_lines() if "smuggled" in line["path"]]


# ---- too much ------------------------------------------------------------------------------------

LIMIT = 16 << 30


def flood(sock, piece, limit=LIMIT):
    sent = 0
    try:
        while sent < limit:
            sock.sendall(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    return sent


ENDLESS = {
    "header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"v" * 65536),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-Many: v\r\n" * 6000),
    "name": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"n" * 65536),
    "target": (b"GET /", b"a" * 65536),
    "method": (b"", b"G" * 65536),
    "empty lines": (b"", b"\r\n" * 32768),
    "chunk extension": (head(b"Transfer-Encoding: chunked") + b"1;", b"e" * 65536),
    "chunk size": (head(b"Transfer-Encoding: chunked"), b"0" * 65536),
    "trailers": (head(b"Transfer-Encoding: chunked") + b"0\r\n", b"X-T: v\r\n" * 8000),
    "chunks of one byte": (head(b"Transfer-Encoding: chunked"), b"1\r\n \r\n" * 10000),
    "body in chunks": (head(b"Transfer-Encoding: chunked"), b"10000\r\n" + b"[" * 65536 + b"\r\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_request_that_never_ends_is_ended(cluster, worker, name):
    begin, piece = ENDLESS[name]
    with Watch(cluster, worker) as watch:
        with dial(cluster) as sock:
            sock.sendall(begin)
            sent = flood(sock, piece)
            answer = read_all(sock) if sent < LIMIT else b""
    assert sent < LIMIT, "it took all of it"
    assert statuses(answer) in ([], [400], [413], [431]), answer[:300]
    watch.expect(memory=80)


BOMBS = {
    "opening brackets": b"[" * 10_000_000,
    "opening objects": b'{"a":' * 2_000_000,
    "a million keys": b'{"model":1,' + b",".join(b'"k%d":1' % n for n in range(1_000_000)) + b"}",
    "a million escapes": b'{"model":"' + b"\\u0041" * 1_000_000 + b'"}',
    "one long string": b'{"model":"' + b"a" * 10_000_000 + b'"}',
    "spaces": b" " * 10_000_000,
    "a long number": b'{"model":' + b"1" * 10_000_000 + b"}",
    "many messages": b'{"messages":[' + b",".join([b'{"role":"user","content":"a"}'] * 200_000) + b"]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_json_bomb_is_a_bad_request(cluster, worker, name):
    with Watch(cluster, worker) as watch:
        for _ in range(3):
            answer = say(cluster, post(BOMBS[name]))
            assert statuses(answer) == [400], answer[:200]
            json.loads(answer.partition(b"\r\n\r\n")[2])
    watch.expect(memory=100)


@pytest.mark.parametrize("body", [
    b"", b"null", b"[]", b'"model"', b'{"model":"m"} x', b'\xef\xbb\xbf{"model":"m"}', b'{"model":"m"}\0', b'{"model":1}',
    b'{"model":null,"model":"m"}', b'{"model":"a","model":"b"}', b'{"model":"a","mod\\u0065l":"b"}',
    b'{"model":"m","stream":true,"stream":false}', b'{"model":"m","stream":"true"}', b'{"model":"m","stream":1}',
    b'{"model":"\\ud800"}', b'{"model":"a\\u0000b"}', b'{"model":"a\\r\\nSet-Cookie: b"}', b'{"model":"\xff\xfe"}',
    b'{"model":"m","x":NaN}', b'{"model":"m","x":1e}', b'{"model":"m","x":01}', b"{'model':'m'}", b'{"model":"m",}',
    b'{"model":"' + b"m" * 128 + b'"}', b'{"model":"m","messages":[' + b"[" * 64 + b"]" * 64 + b"]}",
], ids=range(25))
def test_a_body_that_means_two_things_or_nothing_is_refused(cluster, body):
    answer = say(cluster, post(body))
    assert statuses(answer) in ([400], [404]), answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["message"] and error["src"] == "drover"


def test_names_from_outside_reach_neither_a_header_nor_a_line_of_the_log(cluster):
    evil = 'no\u001b[31msuch\u2028model"\\'
    cluster.wait_idle()
    lines = len(cluster.access_lines())
    answer = say(cluster, post(json.dumps({"model": evil, "messages": []}).encode(), more=b"X-Request-Id: a b\r\n"))
    assert statuses(answer) in ([400], [404])
    assert b"\x1b" not in answer
    until(lambda: len(cluster.access_lines()) > lines, 5)  # each is JSON, and a line


@pytest.mark.parametrize("path", ["/v1/models/" + "%0d%0a" * 20, "/" + "a/" * 4000, "/%00", "/v1/models/%zz", "/..%2f..%2fetc",
                                  "/v1//chat/completions", "/v1/chat/completions?" + "q" * 5000, "/v1/chat/completions%20"],
                         ids=range(8))
def test_odd_paths_are_not_found(cluster, path):
    answer = say(cluster, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert statuses(answer) in ([400], [404], [405]), answer
    assert b"\r\nset-cookie" not in answer.lower()


# ---- too slow ------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [head(b"Content-Length: 100", b"X: " + b"a" * 400), head(b"Content-Length: 1000") + b" " * 900,
                                  head(b"Transfer-Encoding: chunked") + b"1\r\n \r\n" * 100],
                         ids=["head", "body", "chunks"])
def test_a_request_in_drops_is_given_up_and_others_are_served(cluster, worker, text):
    crowd = [dial(cluster) for _ in range(100)]
    with Watch(cluster, worker) as watch:
        begin = time.monotonic()
        sent, open_ = 0, list(crowd)
        while open_:
            assert time.monotonic() - begin < 4 * SLOW, f"{len(open_)} are still read after {time.monotonic() - begin:.1f} s"
            for sock in list(open_):
                try:
                    sock.send(text[sent:sent + 1] or b" ")
                    sock.setblocking(False)
                    if b"" == sock.recv(4096):
                        open_.remove(sock)
                except BlockingIOError:
                    pass
                except OSError:
                    open_.remove(sock)
            sent += 1
            time.sleep(0.05)  # the drip itself
        assert time.monotonic() - begin > 2
    watch.expect(memory=40, lines=10)
    for sock in crowd:
        sock.close()


def test_readers_that_stop_are_given_up_and_cost_no_memory(cluster, worker):
    body = json.dumps({"model": MODEL, "stream": True, "max_tokens": 8000,
                       "messages": [{"role": "user", "content": "Talk."}]}).encode()
    crowd = []
    with Watch(cluster, worker) as watch:
        for _ in range(8):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(30)
            sock.connect(cluster.api)
            sock.sendall(post(body))
            crowd.append(sock)
        until(lambda: sum(row["phase"] == "decode" for row in cluster.open_requests()) >= 1, 10)
    watch.expect(memory=40)
    for sock in crowd:
        sock.close()
    cluster.wait_idle()


# ---- too many ------------------------------------------------------------------------------------

def test_a_thousand_requests_at_once_on_one_connection_are_answered_in_order(cluster, worker):
    with Watch(cluster, worker) as watch, dial(cluster) as sock:
        sock.sendall(b"".join(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: r%d\r\n\r\n" % n for n in range(999))
                     + b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: r999\r\nConnection: close\r\n\r\n")
        answer = read_all(sock)
    assert statuses(answer) == [200] * 1000
    assert re.findall(rb"(?i)^x-request-id: r(\d+)", answer, re.M) == [b"%d" % n for n in range(1000)]
    watch.expect(cpu=4)


def test_connections_that_say_nothing_are_closed_and_no_client_waits(cluster, worker):
    with Watch(cluster, worker) as watch:
        crowd = [dial(cluster) for _ in range(500)]
        begin = time.monotonic()
        assert not any(read_all(sock) for sock in crowd)
        assert time.monotonic() - begin < 4 * SLOW
    watch.expect(memory=40)
    for sock in crowd:
        sock.close()


@pytest.mark.parametrize("expectation, wanted", [(b"100-continue", [200]), (b"100-continue, 100-continue", None),
                                                 (b"200-ok", None), (b"", None)])
def test_expectations(cluster, expectation, wanted):
    with dial(cluster) as sock:
        text = post(more=b"Expect: " + expectation + b"\r\n")
        sock.sendall(text[:-len(BODY)])
        data = b""
        if wanted:
            while b"\r\n\r\n" not in data:
                data += sock.recv(4096)
            assert data.startswith(b"HTTP/1.1 100 ")
        try:
            sock.sendall(BODY)
        except ConnectionError:
            pass
        got = statuses(read_all(sock, data))
    assert got == wanted if wanted else got in ([200], [400], [417])


def test_an_expectation_whose_body_never_comes_is_given_up(cluster):
    with dial(cluster) as sock:
        sock.sendall(post(more=b"Expect: 100-continue\r\n")[:-len(BODY)])
        begin = time.monotonic()
        read_all(sock)
        assert 2 < time.monotonic() - begin < 4 * SLOW


# ---- anything ------------------------------------------------------------------------------------

SEEDS = [post(), post(close=False) * 2, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
         head(b"Transfer-Encoding: chunked") + b"10\r\n" + CHUNK + b"\r\n0\r\n\r\n",
         post(b'{"model":"none","stream":true}', "/api/chat", b"X-Request-Id: abc\r\nExpect: 100-continue\r\n")]
PIECES = [b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\xff",
          b"HTTP/1.0", b"0\r\n\r\n", b"\t", b'"', b"{", b"%", b"Connection: keep-alive\r\n"]


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        choice = rng.randrange(4)
        if choice == 0:
            data[at:at + rng.randrange(1, 20)] = b""
        elif choice == 1:
            data[at:at] = rng.choice(PIECES)
        elif choice == 2 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            data[at:at] = data[at:at + rng.randrange(1, 40)]
    return bytes(data)


def test_two_thousand_mutated_requests_harm_no_other_client(cluster, worker):
    seed = 20261124
    rng = random.Random(seed)
    with Watch(cluster, worker) as watch:
        for n in range(2000):
            with dial(cluster) as sock:
                text = mutate(rng, rng.choice(SEEDS))
                try:
                    sock.sendall(text)
                    if rng.randrange(8) == 0:
                        continue  # leaves without a word
                    sock.shutdown(socket.SHUT_WR)
                except ConnectionError:
                    continue
                answer = read_all(sock)
                assert answer == b"" or answer.startswith(b"HTTP/1.1 "), (seed, n, text, answer)
    watch.expect(cpu=12, memory=40, lines=20)
    cluster.wait_idle()


def test_after_all_this_the_worker_is_the_same_and_no_larger_than_it_may_be(cluster, worker):
    assert chat(cluster.api) == 200
    assert cluster.worker_pids() == [worker]
    assert "event=child_died" not in cluster.master.log()
    assert rss_mb(worker) < 600
