"""HTTP/2 as raw frames over a socket: clients that do what no library would."""
import socket

import hpack

from wire import ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST, SETTINGS, WINDOW, frame, framed


class Raw:
    """A client that writes the frames it is given and collects the answers."""

    def __init__(self, port, greet=True, source="127.0.0.1"):
        self.sock = socket.create_connection(("127.0.0.1", port), 10, (source, 0))
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.buffer = b""
        self.streams = {}
        self.goaways = []
        self.pings = 0
        self.windows = {0: 65535}  # what may still be sent; SETTINGS of the server change nothing here
        if greet:
            self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def head(self, path="/grpc.testing.TestService/EmptyCall", more=(), **instead):
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers",
                  "content-type": "application/grpc"}
        fields.update({name.replace("_", "-") if name[0] != "_" else ":" + name[1:]: value
                       for name, value in instead.items()})
        return self.encoder.encode([(k, v) for k, v in fields.items() if v is not None] + list(more))

    def request(self, stream, body=framed(b""), end=True, **kwargs):
        self.send(frame(HEADERS, END_HEADERS, stream, self.head(**kwargs))
                  + frame(DATA, END_STREAM if end else 0, stream, body))

    def send_data(self, stream, data):
        """As DATA frames, as fast as the server's windows allow; less when it ends the stream."""
        self.windows.setdefault(stream, 65535)
        while data:
            room = min(16384, self.windows[0], self.windows[stream])
            over = self.streams.get(stream, {"end": False, "reset": None})
            if over["end"] or over["reset"] is not None:
                return
            if room > 0:
                self.send(frame(DATA, 0, stream, data[:room]))
                data = data[room:]
                self.windows[0] -= room
                self.windows[stream] -= room
            elif self.read_frame() is None:
                raise AssertionError("the connection ended first")

    def read_frame(self):
        """Takes in one frame; None when the connection has ended."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self.buffer += data
        size = int.from_bytes(self.buffer[:3], "big")
        kind, flags = self.buffer[3], self.buffer[4]
        stream = int.from_bytes(self.buffer[5:9], "big")
        body, self.buffer = self.buffer[9:9 + size], self.buffer[9 + size:]
        got = self.streams.setdefault(stream, {"headers": {}, "data": b"", "end": False, "reset": None})
        if kind == HEADERS:
            got["headers"].update(self.decoder.decode(body))
        elif kind == DATA:
            got["data"] += body
        elif kind == RST:
            got["reset"] = int.from_bytes(body, "big")
        elif kind == GOAWAY:
            self.goaways.append((int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big"), body[8:]))
        elif kind == WINDOW:
            self.windows[stream] = self.windows.get(stream, 65535) + int.from_bytes(body, "big")
        elif kind == PING and flags & ACK:
            self.pings += 1
        elif kind == PING:
            self.send(frame(PING, ACK, 0, body))
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            got["end"] = True
        return kind

    def until(self, condition):
        while not condition():
            if self.read_frame() is None:
                raise AssertionError("the connection ended first")

    def answer(self, stream):
        """The response of a stream, when it is over."""
        self.until(lambda: stream in self.streams
                   and (self.streams[stream]["end"] or self.streams[stream]["reset"] is not None))
        return self.streams[stream]

    def drain(self):
        """Reads until the server closes."""
        while self.read_frame() is not None:
            pass

    def flood(self, piece, limit=64 << 20):
        """Sends the same bytes until the server has had enough; returns how many it took."""
        total = 0
        self.sock.settimeout(20)
        try:
            while total < limit:
                self.sock.sendall(piece)
                total += len(piece)
        except OSError:
            pass
        return total
