"""Our client against servers that do what the book allows but few do, or what it forbids.

The first seven are gRPC's own list of misbehaving servers; the server is hyper-h2.
"""
import socket
import struct
import threading
import traceback

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from conftest import report
from wire import framed, varint

ANSWER = 314159
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def answer(size=ANSWER):
    """A framed SimpleResponse with a payload of `size` bytes."""
    payload = b"\x12" + varint(size) + bytes(size)
    return framed(b"\x0a" + varint(len(payload)) + payload)


class Odd:
    """A server for one connection after another; a subclass says what it does with a request."""

    settings = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 100}

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connections = 0
        self.requests = 0
        self.acks = 0
        self.resets = []
        self.trouble = None

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.listener.close()
        if exc == (None, None, None):
            assert self.trouble is None, self.trouble

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.run, args=(sock, self.connections), daemon=True).start()

    def run(self, sock, number):
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        conn = h2.connection.H2Connection(config)
        conn.number = number
        conn.pending = {}  # stream -> [bytes left, trailers or None, padding]
        conn.local_settings = h2.settings.Settings(client=False, initial_values=self.settings)
        conn.initiate_connection()
        self.begin(conn)
        sock.sendall(conn.data_to_send())
        try:
            while data := sock.recv(65536):
                for event in conn.receive_data(data):
                    self.on_event(conn, event)
                self.pump(conn)
                sock.sendall(conn.data_to_send())
                if getattr(conn, "hang_up", False):
                    break
        except OSError:
            pass
        except Exception:  # shown by __exit__
            self.trouble = traceback.format_exc()
        sock.close()

    def begin(self, conn):
        pass

    def on_event(self, conn, event):
        if isinstance(event, h2.events.RequestReceived):
            self.requests += 1
            self.on_request(conn, event.stream_id)
        elif isinstance(event, h2.events.DataReceived):
            conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.on_data(conn, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.on_end(conn, event.stream_id)
        elif isinstance(event, h2.events.PingAckReceived):
            self.acks += 1
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.error_code)
            conn.pending.pop(event.stream_id, None)

    def on_request(self, conn, stream):
        pass

    def on_data(self, conn, stream):
        pass

    def on_end(self, conn, stream):
        self.respond(conn, stream)

    def respond(self, conn, stream, body=None, trailers=OK, padding=None, piece=16384):
        conn.send_headers(stream, HEADERS)
        conn.pending[stream] = [answer() if body is None else body, trailers, padding, piece]

    def after(self, conn, stream):
        """The last byte of a response is out."""

    def pump(self, conn):
        """Sends what flow control lets through."""
        for stream, item in list(conn.pending.items()):
            body, trailers, padding, piece = item
            extra = 0 if padding is None else padding + 1
            while body:
                room = min(conn.local_flow_control_window(stream), conn.max_outbound_frame_size) - extra
                n = min(len(body), piece, room)
                if n <= 0:
                    break
                conn.send_data(stream, body[:n], pad_length=padding)
                body = body[n:]
            item[0] = body
            if not body:
                del conn.pending[stream]
                if trailers is not None:
                    conn.send_headers(stream, trailers, end_stream=True)
                self.after(conn, stream)


def goaway(conn, last):
    """By hand: hyper-h2 would not go on after its own close_connection()."""
    conn._data_to_send += struct.pack(">IBIII", 8 << 8 | 7, 0, 0, last, 0)


def run(server_class, *args):
    with server_class() as server:
        rows = report(server.address, *args)
    return server, rows


def ok(row):
    return (row["status"], row["messages"], row["size"]) == ("OK", "1", str(ANSWER))


# ---- gRPC's list -------------------------------------------------------------------------------

def test_goaway():
    class GoAway(Odd):
        def after(self, conn, stream):
            goaway(conn, stream)

    server, rows = run(GoAway, "--calls", "2")
    assert [ok(row) for row in rows] == [True, True], rows
    assert server.connections == 2


def test_goaway_leaves_calls_in_flight_alone_and_refuses_those_above_it():
    class GoAwayEarly(Odd):
        def on_end(self, conn, stream):
            if conn.number > 1:
                self.respond(conn, stream)
            elif stream == 5:  # the third call: the first two are processed, it and later ones are not
                goaway(conn, 3)
                self.respond(conn, 1)
                self.respond(conn, 3)

    server, rows = run(GoAwayEarly, "--calls", "5", "--parallel", "5")
    assert [ok(row) for row in rows[:2]] == [True, True], rows
    for row in rows[2:]:
        assert (row["status"], row["end"]) == ("UNAVAILABLE", "refused"), rows


def test_rst_after_header():
    class Reset(Odd):
        def on_end(self, conn, stream):
            conn.send_headers(stream, HEADERS)
            conn.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)

    _, (row,) = run(Reset)
    assert (row["status"], row["end"]) == ("INTERNAL", "status")


def test_rst_during_data():
    class Reset(Odd):
        def on_end(self, conn, stream):
            self.respond(conn, stream, body=answer()[:ANSWER // 2], trailers=None)

        def after(self, conn, stream):
            conn.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)

    _, (row,) = run(Reset)
    assert (row["status"], row["messages"]) == ("INTERNAL", "0")


def test_rst_after_data():
    class Reset(Odd):
        def on_end(self, conn, stream):
            self.respond(conn, stream, trailers=None)

        def after(self, conn, stream):
            conn.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)

    _, (row,) = run(Reset)
    assert (row["status"], row["messages"]) == ("INTERNAL", "1")


def test_ping():
    class Pinger(Odd):
        pings = 0

        def ping(self, conn):
            conn.ping(struct.pack(">Q", self.pings))
            self.pings += 1

        def begin(self, conn):
            self.ping(conn)

        def on_request(self, conn, stream):
            self.ping(conn)

        def on_data(self, conn, stream):
            self.ping(conn)

        def after(self, conn, stream):
            self.ping(conn)

    with Pinger() as server:
        rows = report(server.address, "--calls", "2")
        assert [ok(row) for row in rows] == [True, True], rows
    assert server.pings > 10
    assert server.acks >= server.pings - 1  # the client may leave before the last


def test_max_streams():
    class OneStream(Odd):
        settings = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1}
        most = 0

        def on_request(self, conn, stream):
            self.most = max(self.most, conn.open_inbound_streams)

    server, rows = run(OneStream, "--calls", "15", "--parallel", "15")
    assert [ok(row) for row in rows] == [True] * 15, rows
    assert server.most == 1
    assert server.connections == 1


@pytest.mark.parametrize("padding", [None, 0, 255])
def test_data_frame_padding(padding):
    class Padded(Odd):
        def on_end(self, conn, stream):
            self.respond(conn, stream, padding=padding, piece=5)

    _, (row,) = run(Padded)
    assert ok(row), row


# ---- more ------------------------------------------------------------------------------------

def test_one_byte_a_frame():
    class Dribble(Odd):
        def on_end(self, conn, stream):
            self.respond(conn, stream, body=answer(300), piece=1)

    _, (row,) = run(Dribble)
    assert (row["status"], row["size"]) == ("OK", "300")


class Says(Odd):
    """Answers with these headers alone."""

    fields = []

    def on_end(self, conn, stream):
        conn.send_headers(stream, self.fields, end_stream=True)


@pytest.mark.parametrize("fields, status, end, text", [
    (HEADERS + [("grpc-status", "5"), ("grpc-message", "no%20such")], "NOT_FOUND", "status", "no such"),
    (HEADERS + [("grpc-status", "99")], "UNKNOWN", "status", ""),
    (HEADERS + [("grpc-status", "05")], "UNKNOWN", "status", ""),
    (HEADERS, "UNKNOWN", "protocol", None),
    ([(":status", "404"), ("content-type", "text/html")], "UNIMPLEMENTED", "protocol", None),
    ([(":status", "503")], "UNAVAILABLE", "protocol", None),
    ([(":status", "401")], "UNAUTHENTICATED", "protocol", None),
    ([(":status", "503"), ("content-type", "application/grpc"), ("grpc-status", "8")],
     "RESOURCE_EXHAUSTED", "status", ""),
    (HEADERS + [("grpc-status", "7"), ("grpc-message", "bad %ff %zz")], "PERMISSION_DENIED", "status",
     "bad ? %zz"),
    (HEADERS + [("x-big", "v" * 9000), ("grpc-status", "0")], "RESOURCE_EXHAUSTED", "protocol", None),
    (HEADERS + [("x-many", str(i)) for i in range(70)], "RESOURCE_EXHAUSTED", "protocol", None),
], ids=range(11))
def test_trailers_only(fields, status, end, text):
    _, (row,) = run(type("Case", (Says,), {"fields": fields}))
    assert (row["status"], row["end"]) == (status, end), row
    if text is not None:
        assert row["text"] == text


def test_a_63_kb_header_fails_the_call_and_not_the_connection():
    class Big(Says):
        def on_end(self, conn, stream):
            if stream == 1:
                # hyper-h2 respects our limit on header lists; this server does not.
                conn.send_headers(stream, HEADERS + [("x-big", "v" * 63000)], end_stream=True)
            else:
                self.respond(conn, stream)

    server, rows = run(Big, "--calls", "2")
    assert rows[0]["status"] == "RESOURCE_EXHAUSTED"
    assert ok(rows[1]), rows
    assert server.connections == 1


def test_an_informational_answer_is_skipped():
    class Early(Odd):
        def on_end(self, conn, stream):
            conn.send_headers(stream, [(":status", "103"), ("link", "x")])
            self.respond(conn, stream)

    _, (row,) = run(Early)
    assert ok(row), row


@pytest.mark.parametrize("body, trailers, status", [
    (answer()[:-1], OK, "INTERNAL"),                    # ends inside a message
    (b"\0\0\0", OK, "INTERNAL"),                        # ends inside a prefix
    (b"", OK, "UNIMPLEMENTED"),                         # no message in a unary response
    (answer(10) * 2, OK, "UNIMPLEMENTED"),              # two
    (b"\1\0\0\0\1x", OK, "INTERNAL"),                   # compressed
    (b"\2\0\0\0\1x", OK, "INTERNAL"),                   # bad flag
    (b"\0\xff\xff\xff\xff", OK, "RESOURCE_EXHAUSTED"),  # 4 GiB announced
    (answer(10), [("grpc-message", "x")], "UNKNOWN"),   # trailers without a status
    (answer(10)[:-1], [("grpc-status", "3")], "INVALID_ARGUMENT"),
], ids=range(9))
def test_broken_bodies(body, trailers, status):
    class Broken(Odd):
        def on_end(self, conn, stream):
            self.respond(conn, stream, body=body, trailers=trailers)

    _, (row,) = run(Broken)
    assert row["status"] == status, row


def test_a_body_without_trailers():
    class NoTrailers(Odd):
        def on_end(self, conn, stream):
            self.respond(conn, stream, body=answer(10), trailers=None)

        def after(self, conn, stream):
            conn.end_stream(stream)

    _, (row,) = run(NoTrailers)
    assert (row["status"], row["end"]) == ("UNKNOWN", "protocol")


@pytest.mark.parametrize("code, status, end", [
    (1, "INTERNAL", "status"), (7, "UNAVAILABLE", "refused"), (8, "CANCELLED", "status"),
    (11, "RESOURCE_EXHAUSTED", "status"), (12, "PERMISSION_DENIED", "status")])
def test_resets(code, status, end):
    class Reset(Odd):
        def on_request(self, conn, stream):
            conn.reset_stream(stream, code)

        def on_end(self, conn, stream):
            pass

        def on_data(self, conn, stream):
            pass

    _, (row,) = run(Reset)
    assert (row["status"], row["end"]) == (status, end), row


def test_an_answer_before_the_request_is_whole_ends_the_call():
    class Hasty(Odd):
        def on_request(self, conn, stream):
            conn.send_headers(stream, HEADERS + [("grpc-status", "8"), ("grpc-message", "busy")], end_stream=True)

        def on_end(self, conn, stream):
            pass

    _, (row,) = run(Hasty)
    assert (row["status"], row["text"]) == ("RESOURCE_EXHAUSTED", "busy")


def test_a_lost_connection_ends_the_call_and_the_next_one_connects_anew():
    class HangUp(Odd):
        def on_end(self, conn, stream):
            if conn.number == 1:
                conn.hang_up = True
            else:
                self.respond(conn, stream)

    with HangUp() as server:
        (row,) = report(server.address)
        assert (row["status"], row["end"]) == ("UNAVAILABLE", "lost")
        (row,) = report(server.address)
        assert ok(row)


def test_a_shrinking_window_stops_the_sender_until_it_opens():
    class Shrink(Odd):
        settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100}

        def on_event(self, conn, event):
            if isinstance(event, h2.events.DataReceived):
                conn.increment_flow_control_window(event.flow_controlled_length)
                self.resets.append(event.flow_controlled_length)
                conn.increment_flow_control_window(min(50000, 4 * event.flow_controlled_length),
                                                   event.stream_id)
                return
            super().on_event(conn, event)

    server, (row,) = run(Shrink)
    assert ok(row), row
    assert server.resets[0] == 100


def test_a_flood_of_empty_frames_ends_the_connection():
    class Flood(Odd):
        def run(self, sock, number):
            sock.sendall(b"\0\0\0\4\0\0\0\0\0")
            update = struct.pack(">IBII", 4 << 8 | 8, 0, 0, 1)[0:9] + struct.pack(">I", 1)
            self.sent = 0
            try:
                while self.sent < 256 << 20:
                    sock.sendall(update * 8192)
                    self.sent += 13 * 8192
            except OSError:
                pass

    server, (row,) = run(Flood)
    assert row["status"] == "UNAVAILABLE"
    assert server.sent < 64 << 20


def test_garbage_is_not_http2():
    class Garbage(Odd):
        def run(self, sock, number):
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 10)
            while sock.recv(65536):
                pass  # until it hangs up
            sock.close()

    _, (row,) = run(Garbage)
    assert (row["status"], row["end"]) in (("UNAVAILABLE", "connect"), ("UNAVAILABLE", "refused"))
