"""watch.py - what an attack costs: CPU, memory and log lines of its target, and other people's time."""
import http.client
import json
import os
import threading
import time

from harness import MODEL, SLOW

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CHAT = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Are you there?"}]}


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * PAGE / 1e6


def chat(address, timeout=20 * SLOW, stream=False):
    """One honest request; its status."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": stream}),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


class Watch:
    """with Watch(cluster, pid) as watch: ... the attack ...  and then what it cost.

    Meanwhile an honest client asks for one thing after the other (`serve` is called, and says
    whether it got what it wanted).
    """

    def __init__(self, cluster, pid, log=None, serve=None):
        self.cluster, self.pid = cluster, pid
        self.log = log or cluster.master.log
        self.serve = serve or (lambda: chat(cluster.api) == 200)
        self.times, self.refused, self.stop = [], [], threading.Event()

    def _honest(self):
        while not self.stop.is_set():
            begin = time.monotonic()
            try:
                if not self.serve():
                    self.refused.append("refused")
            except OSError as problem:
                self.refused.append(repr(problem))
            self.times.append(time.monotonic() - begin)
            self.stop.wait(0.05)

    def __enter__(self):
        self.lines = self.log().count("\n")
        self.rss = rss_mb(self.pid)
        self.cpu = cpu_s(self.pid)
        self.begin = time.monotonic()
        self.thread = threading.Thread(target=self._honest)
        self.thread.start()
        return self

    def __exit__(self, *exc):
        # At least one request must have begun after the attack had.
        while self.thread.is_alive() and len(self.times) < 2 and exc == (None, None, None):
            time.sleep(0.01)
        self.seconds = time.monotonic() - self.begin
        self.stop.set()
        self.thread.join()
        self.cpu = cpu_s(self.pid) - self.cpu
        self.rss = rss_mb(self.pid) - self.rss
        self.lines = self.log().count("\n") - self.lines

    def expect(self, cpu=2.0, memory=64, lines=8):
        """At most so many CPU-seconds beyond a tenth of the time, MB, and log lines; and the
        honest client got everything it asked for, in good time."""
        assert os.path.exists(f"/proc/{self.pid}"), "it did not survive"
        assert not self.refused, f"others were refused: {self.refused[:3]}"
        assert max(self.times) < 2 * SLOW, f"others waited {max(self.times):.1f} s"
        spent = self.cpu - 0.1 * self.seconds - 0.02 * len(self.times)
        assert spent < cpu * max(1, SLOW / 3), f"{self.cpu:.2f} CPU-seconds in {self.seconds:.1f} s"
        assert self.rss < memory, f"{self.rss:.0f} MB more"
        assert self.lines <= lines, f"{self.lines} log lines"
