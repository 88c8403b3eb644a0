"""mangler.py - a TCP proxy that harms what passes, on command: the network faults of the fault table.

It stands between two programs (a coordinator and a node, a node and its engine, a client and the
coordinator) and needs no privileges.  A Way is one direction; its fields may be changed at any
moment and hold for the bytes that pass from then on.  The mangler keeps the bytes of one
connection in order, as TCP does; `reorder` moves whole HTTP/2 DATA frames of different streams past
each other, which a peer must not notice.

    with Mangler(("127.0.0.1", 9090)) as wire:
        ... connect to wire.address ...
        wire.down.delay_s = 0.2       # from the target to the caller
        wire.half_open()              # all is swallowed, no side gets a FIN
        wire.heal()
"""

import asyncio
import random
import socket
import struct
import threading
import time

HELD_BYTES = 1 << 16  # waiting in one direction; beyond it the sender is held back
SLICE = 1 << 14       # read at once
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA = 0


class Way:
    """The treatment of the bytes of one direction."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.delay_s = 0.0        # each byte arrives so much later
        self.jitter_s = 0.0       # and up to so much more, never out of order
        self.rate = 0             # bytes a second; 0: no limit
        self.stalled = False      # nothing passes, the sender is held back
        self.swallow = False      # bytes are taken and thrown away
        self.swallow_after = None   # bytes that still pass before that, over all connections
        self.reset_after = None     # the connection is reset after so many more bytes
        self.truncate_after = None  # the receiver sees an orderly end (FIN) after so many more
        self.reorder = False      # HTTP/2 DATA frames are moved past those of other streams
        self.split = 0            # at most so many bytes in one piece; 0: as they came
        self.passed = 0           # bytes delivered


class Frames:
    """Cuts one direction of HTTP/2 into frames and swaps neighbours of different streams."""

    def __init__(self, has_preface):
        self.kept = b""
        self.preface = PREFACE if has_preface else b""
        self.held = None  # a DATA frame that waits to be overtaken

    def feed(self, data):
        """The bytes to send on now, in their new order."""
        self.kept += data
        out = []
        if self.preface:
            if len(self.kept) < len(self.preface):
                return b""
            out.append(self.kept[:len(self.preface)])
            self.kept = self.kept[len(self.preface):]
            self.preface = b""
        while len(self.kept) >= 9:
            size = 9 + int.from_bytes(self.kept[:3], "big")
            if len(self.kept) < size:
                break
            frame, self.kept = self.kept[:size], self.kept[size:]
            out.append(self.place(frame))
        return b"".join(out)

    def place(self, frame):
        if self.held is None:
            if frame[3] == DATA:
                self.held = frame
                return b""
            return frame
        held, self.held = self.held, None
        if frame[3] == DATA and frame[5:9] != held[5:9]:
            return frame + held
        return held + frame

    def flush(self):
        """The bytes still held for reordering."""
        held, self.held = self.held or b"", None
        return held


class Link:
    """One connection through the mangler."""

    def __init__(self, mangler, caller, target):
        self.mangler = mangler
        self.ends = {"up": (caller, target), "down": (target, caller)}
        self.tasks = []

    def start(self):
        for name in ("up", "down"):
            (reader, _), (_, writer) = self.ends[name]
            queue = asyncio.Queue()
            way = getattr(self.mangler, name)
            self.tasks.append(asyncio.ensure_future(self.take(way, reader, queue, name == "up")))
            self.tasks.append(asyncio.ensure_future(self.give(way, writer, queue)))

    async def take(self, way, reader, queue, has_preface):
        """Reads, and says when each piece is due."""
        frames, due = Frames(has_preface), 0.0
        try:
            while True:
                while way.stalled or sum(len(d) for _, d in queue._queue) > HELD_BYTES:
                    await asyncio.sleep(0.005)
                try:
                    wait = 0.01 if frames.held else None
                    data = await asyncio.wait_for(reader.read(SLICE), wait)
                except asyncio.TimeoutError:
                    data = frames.flush()
                else:
                    if not data:
                        queue.put_nowait((due, frames.flush() + frames.kept))
                        queue.put_nowait((due, None))
                        return
                    data = frames.feed(data) if way.reorder else self.unframed(frames, data)
                if data:
                    lag = way.delay_s + self.mangler.random.random() * way.jitter_s
                    due = max(due, time.monotonic() + lag)
                    queue.put_nowait((due, data))
        except (ConnectionError, OSError):
            queue.put_nowait((0.0, None))

    @staticmethod
    def unframed(frames, data):
        """Bytes as they are; a mangler that reorders must do so from the first byte on."""
        return frames.flush() + data

    async def give(self, way, writer, queue):
        try:
            while True:
                due, data = await queue.get()
                if data is None:
                    await self.until_open(way)
                    writer.write_eof()
                    return
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                while data:
                    await self.until_open(way)
                    piece = data[:way.split] if way.split else data
                    if way.rate:
                        piece = piece[:max(1, way.rate // 50)]
                    data = data[len(piece):]
                    if not await self.pass_on(way, writer, piece):
                        return
        except (ConnectionError, OSError, RuntimeError):
            self.reset()

    @staticmethod
    async def until_open(way):
        while way.stalled:
            await asyncio.sleep(0.005)

    async def pass_on(self, way, writer, piece):
        """False once this direction is over."""
        for limit in ("swallow_after", "reset_after", "truncate_after"):
            left = getattr(way, limit)
            if left is None:
                continue
            setattr(way, limit, max(0, left - len(piece)))
            if len(piece) < left:
                continue
            if limit == "swallow_after":
                way.swallow = True
                way.swallow_after = None
            writer.write(piece[:left])
            way.passed += left
            if limit == "reset_after":
                setattr(way, limit, None)
                self.reset()
                return False
            if limit == "truncate_after":
                setattr(way, limit, None)
                writer.write_eof()
                return False
            return True
        if way.swallow:
            return True
        writer.write(piece)
        way.passed += len(piece)
        await writer.drain()
        if way.rate:
            await asyncio.sleep(len(piece) / way.rate)
        elif way.split:
            await asyncio.sleep(0)
        return True

    def reset(self):
        """Both ends get an RST."""
        self.mangler.links.discard(self)
        for _, writer in (self.ends["up"][0], self.ends["down"][0]):
            sock = writer.get_extra_info("socket")
            if sock is not None:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
            writer.transport.abort()
        self.end_tasks()

    def close(self):
        """Both ends get a FIN."""
        self.mangler.links.discard(self)
        for _, writer in (self.ends["up"][0], self.ends["down"][0]):
            writer.close()
        self.end_tasks()

    def end_tasks(self):
        current = asyncio.current_task(self.mangler.loop)
        for task in self.tasks:
            if task is not current:
                task.cancel()


class Mangler:
    """Forwards connections made to `address` to `target`, and mangles them."""

    def __init__(self, target, seed=0, host="127.0.0.1"):
        self.target = target
        self.host = host
        self.up = Way()      # caller -> target
        self.down = Way()    # target -> caller
        self.random = random.Random(seed)
        self.links = set()
        self.accepted = 0
        self.refusing = False  # new connections are reset
        self.address = None
        self.loop = None
        self.server = None
        self.started = threading.Event()
        self.thread = threading.Thread(target=self.main, name="mangler", daemon=True)
        self.thread.start()
        self.started.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    @property
    def url(self):
        return "%s:%d" % self.address

    # ---- commands, from any thread ----

    def reset(self):
        """Every connection is reset, now."""
        self.call(lambda: [link.reset() for link in list(self.links)])

    def close(self):
        """Every connection is closed in order, now."""
        self.call(lambda: [link.close() for link in list(self.links)])

    def half_open(self):
        """Everything is swallowed; the connections stay, and new ones are accepted but not served."""
        self.up.swallow = self.down.swallow = True

    def stall(self):
        self.up.stalled = self.down.stalled = True

    def refuse(self, refusing=True):
        self.refusing = refusing

    def heal(self, break_old=False):
        """Bytes pass again.  Connections that lost bytes must not go on: break_old resets them."""
        if break_old:
            self.reset()
        self.up.clear()
        self.down.clear()
        self.refusing = False

    def stop(self):
        if self.loop is not None and self.thread.is_alive():
            self.call(self.loop.stop)
            self.thread.join(10)

    # ---- inside ----

    def call(self, function):
        done = threading.Event()

        def run():
            try:
                function()
            finally:
                done.set()
        self.loop.call_soon_threadsafe(run)
        done.wait(10)

    def main(self):
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(lambda *_: None)  # an abort in mid-write is our trade
        self.server = self.loop.run_until_complete(
            asyncio.start_server(self.accept, self.host, 0, limit=HELD_BYTES))
        self.address = self.server.sockets[0].getsockname()
        self.started.set()
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self.end())
            self.loop.close()

    async def end(self):
        self.server.close()
        for link in list(self.links):
            link.reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def accept(self, reader, writer):
        if self.refusing:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        self.accepted += 1
        try:
            target = await asyncio.open_connection(*self.target, limit=HELD_BYTES)
        except OSError:
            writer.transport.abort()
            return
        link = Link(self, (reader, writer), target)
        self.links.add(link)
        link.start()
