"""machine.py - what a scripted engine computes with: texts, tokens, and the time they take.

A token is a word with the blanks before it.  The text is a function of the prompt: a prompt that
ends in a part of the answer is continued from there.  Work waits for a place, has its prompt
read, and then gives tokens, all by one thread in ticks: what a tick brings depends on the time
since the last one, so a busy machine makes ticks coarser and the engine no slower.
"""

import hashlib
import re
import select
import threading
import time
import traceback


class Gone(Exception):
    """The client closed the connection."""


WORDS = ("the node keeps its slots and a queue holds every request until one is free so that "
         "no work is lost when an engine stops and the answer goes on from where it was").split()


def tokens_of(text):
    return re.findall(r"\s*\S+", text)


def count_tokens(text):
    return len(tokens_of(text))


def word_of(prompt, index):
    """Token `index` of the answer to a prompt."""
    seed = hashlib.blake2b(f"{prompt}\0{index}".encode(), digest_size=4).digest()
    word = WORDS[int.from_bytes(seed, "big") % len(WORDS)]
    return word if index == 0 else " " + word


def text_of(prompt, count, start=0):
    return "".join(word_of(prompt, i) for i in range(start, start + count))


class Work:
    """One sequence: a prompt to read and words to give."""

    def __init__(self, prompt_tokens, words, sink=None, sock=None, pauses=None):
        self.prompt_tokens = prompt_tokens
        self.words = words
        self.sink = sink           # called by the machine with the words of a tick, a list
        self.sock = sock           # looked at for a client that leaves
        self.pauses = dict(pauses or {})   # tokens given -> seconds of silence before the next
        self.cached = 0            # tokens of the prompt that need not be read
        self.reread = 0            # tokens given before, to be read again after a preemption
        self.processed = 0.0       # tokens of the prompt read so far
        self.decoded = 0           # words given
        self.credit = 0.0
        self.quiet_until_s = 0.0
        self.state = "new"         # queued, prefill, decode, done, cancelled, failed
        self.gone_s = None         # instant at which the client was seen to have left
        self.came_s = self.started_s = self.first_s = self.ended_s = None
        self.on_start = None       # called by the machine when the work gets its place
        self.on_prefill = None     # called by the machine as the prompt is read
        self.preempted = 0
        self.ended = threading.Event()

    @property
    def to_read(self):
        return self.prompt_tokens - self.cached + self.reread

    @property
    def text(self):
        return "".join(self.words[:self.decoded])


class Machine:
    """Places, a queue in order of arrival, and speeds.  A subclass bounds it by other things."""

    def __init__(self, slots=4, tokens_per_s=500.0, prompt_tokens_per_s=20000.0, tick_s=0.01):
        self.slots = slots
        self.tokens_per_s = tokens_per_s
        self.prompt_tokens_per_s = prompt_tokens_per_s
        self.prompt_s = None       # a prompt takes this long, whatever its length
        self.tick_s = tick_s
        self.frozen = False        # nothing moves
        self.queue = []
        self.running = []
        self.most_running = 0
        self.most_queued = 0
        self.tokens_given = 0
        self.prompt_tokens_read = 0.0
        self.steps = 0
        self.cancelled = 0
        self.changed = threading.Condition(threading.RLock())
        self.closed = False
        self.poller = select.poll()
        self.watched = {}          # file descriptor -> work
        threading.Thread(target=self._run, daemon=True).start()

    # ---- what a subclass may change ---------------------------------------------------------

    def has_room(self, _work):
        return len(self.running) < self.slots

    def pace(self, _batch):
        """Tokens a second of one sequence when so many run."""
        return self.tokens_per_s

    def when_gone(self, work, _now_s):
        """The client has left; asked again in each tick until the work has ended."""
        self.cancel(work)

    def before_step(self, _now_s):
        pass

    # ---- use ------------------------------------------------------------------------------

    def submit(self, work):
        with self.changed:
            work.state, work.came_s = "queued", time.monotonic()
            self.queue.append(work)
            if work.sock is not None and work.sock.fileno() >= 0:
                self.watched[work.sock.fileno()] = work
                self.poller.register(work.sock.fileno(), select.POLLRDHUP)
            self.most_queued = max(self.most_queued, len(self.queue))
            self.changed.notify()

    def cancel(self, work):
        with self.changed:
            if not work.ended.is_set():
                self.cancelled += 1
                self.finish(work, "cancelled")

    def fail_all(self):
        with self.changed:
            for work in self.running + self.queue:
                self.finish(work, "failed")

    def close(self):
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.fail_all()

    def finish(self, work, state):
        if work.ended.is_set():
            return
        if work in self.running:
            self.running.remove(work)
        if work in self.queue:
            self.queue.remove(work)
        for number, watched in list(self.watched.items()):
            if watched is work:
                del self.watched[number]
                self.poller.unregister(number)
        work.state, work.ended_s = state, time.monotonic()
        work.ended.set()

    # ---- the thread -------------------------------------------------------------------------

    def _run(self):
        last_s = time.monotonic()
        while True:
            with self.changed:
                if self.closed:
                    return
                if not self.queue and not self.running:
                    self.changed.wait()
                    last_s = time.monotonic()
                    continue
                now_s = time.monotonic()
                self._notice_gone(now_s)
                if not self.frozen:
                    self.step(now_s, now_s - last_s)
                last_s = now_s
            time.sleep(self.tick_s)

    def _notice_gone(self, now_s):
        for number, _ in self.poller.poll(0):
            work = self.watched.pop(number, None)
            self.poller.unregister(number)
            if work is not None:
                work.gone_s = now_s
        for work in [w for w in self.queue + self.running if w.gone_s is not None]:
            self.when_gone(work, now_s)

    def step(self, now_s, past_s):
        self.steps += 1
        self.before_step(now_s)
        self.admit(now_s)
        self.most_running = max(self.most_running, len(self.running))
        decoding = [w for w in self.running if w.state == "decode"]
        self.read_prompts(now_s, past_s)
        if decoding:
            self.decode(decoding, now_s, past_s)

    def admit(self, now_s):
        while self.queue and self.has_room(self.queue[0]):
            work = self.queue.pop(0)
            self.running.append(work)
            work.state, work.started_s = "prefill", now_s
            if work.on_start is not None:
                self._call(work, work.on_start)

    def read_prompts(self, now_s, past_s):
        left = self.prompt_tokens_per_s * past_s
        for work in [w for w in self.running if w.state == "prefill"]:
            todo = work.to_read
            if self.prompt_s is not None:
                part = min(1.0, (now_s - work.started_s) / self.prompt_s) if self.prompt_s else 1.0
                took = part * todo - work.processed
            else:
                took = min(left, todo - work.processed)
                left -= took
            work.processed += took
            self.prompt_tokens_read += took
            if work.on_prefill is not None:
                self._call(work, work.on_prefill)
            if work.state == "prefill" and work.processed >= todo - 1e-6:
                work.state = "decode"
                work.processed = todo
                if not work.words:
                    self.finish(work, "done")
                elif self.pause(work, now_s) == 0:
                    self.give(work, 1, now_s)   # the first token comes out of the prompt's last batch

    def pause(self, work, now_s):
        """Seconds of silence that are left before the next token."""
        seconds = work.pauses.pop(work.decoded, 0)
        if seconds:
            work.quiet_until_s = now_s + seconds
        return max(0.0, work.quiet_until_s - now_s)

    def decode(self, decoding, now_s, past_s):
        each = self.pace(len(decoding)) * past_s
        for work in decoding:
            if work.state != "decode" or self.pause(work, now_s) > 0:
                continue
            work.credit += each
            count = int(work.credit)
            work.credit -= count
            stops = [at for at in work.pauses if at > work.decoded]
            if stops and count > min(stops) - work.decoded:
                count = min(stops) - work.decoded
            if count > 0:
                self.give(work, min(count, len(work.words) - work.decoded), now_s)

    def give(self, work, count, now_s):
        words = work.words[work.decoded:work.decoded + count]
        work.decoded += len(words)
        self.tokens_given += len(words)
        if work.first_s is None:
            work.first_s = now_s
        if work.sink is not None and not self._call(work, work.sink, words):
            return
        if work.decoded >= len(work.words):
            self.finish(work, "done")

    def _call(self, work, function, *arguments):
        """A sink that cannot write has a client that left; any other error ends the work."""
        try:
            function(*arguments)
            return True
        except (OSError, Gone):
            if work.gone_s is None:
                work.gone_s = time.monotonic()
            self.cancel(work)
        except Exception:  # pylint: disable=broad-except
            traceback.print_exc()
            self.finish(work, "failed")
        return False
