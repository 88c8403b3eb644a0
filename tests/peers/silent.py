"""Strangers at a registry: they open Attach streams and say nothing, or hold connections, without end."""
import contextlib
import select
import threading

from h2raw import Raw
from wire import END_HEADERS, HEADERS, frame

ATTACH = "/drover.v1.Registry/Attach"
STREAMS = 16  # of one connection, as the registry allows


class Silent(threading.Thread):
    """Holds `held` silent streams from each address: what ends is opened again, what closes is made again."""

    def __init__(self, port, addresses, held):
        super().__init__(daemon=True)
        self.port, self.held, self.addresses = port, held, addresses
        self.connections = {}  # by file: (Raw, its address, open streams, the next stream's number)
        self.ended = 0         # streams that the registry has ended
        self.over = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.join()
        for each in list(self.connections.values()):
            each[0].sock.close()

    def open_streams(self, address):
        return sum(len(each[2]) for each in list(self.connections.values()) if each[1] == address)

    def is_full(self):
        return all(self.open_streams(address) >= self.held for address in self.addresses)

    def run(self):
        while not self.over.is_set():
            for address in self.addresses:
                self.fill(address)
            files = list(self.connections)
            for ready in select.select(files, [], [], 0.05)[0]:
                self.hear(ready)

    def fill(self, address):
        mine = [each for each in self.connections.values() if each[1] == address]
        while len(mine) * STREAMS < self.held:
            with contextlib.suppress(OSError):
                raw = Raw(self.port, source=address)
                mine.append(self.connections.setdefault(raw.sock, [raw, address, set(), 1]))
                continue
            return
        for each in mine:
            while len(each[2]) < STREAMS and not self.over.is_set():
                try:
                    each[0].send(frame(HEADERS, END_HEADERS, each[3], each[0].head(ATTACH)))
                except OSError:
                    self.drop(each[0].sock)
                    break
                each[2].add(each[3])
                each[3] += 2

    def hear(self, sock):
        each = self.connections.get(sock)
        if each is None:
            return
        raw = each[0]
        try:
            if raw.read_frame() is None:
                self.drop(sock)
                return
            while len(raw.buffer) >= 9 and len(raw.buffer) >= 9 + int.from_bytes(raw.buffer[:3], "big"):
                raw.read_frame()
        except OSError:
            self.drop(sock)
            return
        for stream in [s for s in each[2] if raw.streams.get(s, {}).get("end")
                       or raw.streams.get(s, {}).get("reset") is not None]:
            each[2].discard(stream)
            raw.streams.pop(stream)
            self.ended += 1

    def drop(self, sock):
        self.connections.pop(sock, None)
        sock.close()
