"""pressure.py - more work than the nodes can do: an open-loop load, and a watch on its effects.

The load is Poisson arrivals at a given rate, whatever becomes of them; each is one streamed chat on a
connection of its own.  Watcher is a process of its own, so that its latencies are not those of the
load's event loop: it asks for /livez and /metrics all the time and looks at the workers' memory.
"""

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from load import BadAnswer, chat_body, open_request

CHAT = "/v1/chat/completions"
PROBE_PERIOD_S = 0.05


@dataclass
class Outcome:
    at_s: float                 # since the load began
    status: int = 0             # 0: no whole answer
    ttft_s: float = 0.0
    total_s: float = 0.0
    queue_s: float = 0.0        # as x-drover-queue-ms has it
    retry_after_s: int = 0
    failure: str = ""
    returned: "Outcome" = None  # what came of the second try, after Retry-After


async def one_chat(address, body, begun):
    outcome = Outcome(time.monotonic() - begun)
    sent = time.monotonic()
    try:
        answer = await open_request(address, "POST", CHAT, body)
    except OSError as failure:
        outcome.failure = str(failure)
        return outcome
    try:
        await answer.read_head()
        if answer.status == 200:
            outcome.queue_s = int(answer.headers.get("x-drover-queue-ms", 0)) / 1000
            async for event in answer.events():
                if outcome.ttft_s == 0 and b'"content":"' in event:
                    outcome.ttft_s = time.monotonic() - sent
            if not answer.body.endswith(b"data: [DONE]\n\n"):
                raise BadAnswer(f"ends in {answer.body[-80:]!r}")
        else:
            await answer.read()
            outcome.retry_after_s = int(answer.headers.get("retry-after", 0))
        outcome.status = answer.status
    except (BadAnswer, OSError) as failure:
        outcome.failure = str(failure)
    finally:
        outcome.total_s = time.monotonic() - sent
        answer.abort()
    return outcome


async def offer(address, rate, seconds, tokens, prompt_words=40, seed=1, come_back=0.0):
    """`rate` chats a second for `seconds`; the outcomes.  So large a part of those who are refused
    (`come_back`) tries once more, when Retry-After says."""
    rng = random.Random(seed)
    begun = time.monotonic()
    tasks = []

    async def visit(number):
        body = chat_body(f"{number} " + "please " * prompt_words, tokens)
        outcome = await one_chat(address, body, begun)
        if outcome.status in (429, 503) and outcome.retry_after_s and rng.random() < come_back:
            await asyncio.sleep(outcome.retry_after_s)
            outcome.returned = await one_chat(address, body, begun)
        return outcome

    due = 0.0
    while True:
        due += rng.expovariate(rate)
        if due >= seconds:
            break
        await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
        tasks.append(asyncio.create_task(visit(len(tasks))))
    return await asyncio.gather(*tasks)


async def capacity(address, clients, seconds, tokens):
    """Chats a second that the nodes do when there is always one more to do."""
    begun = time.monotonic()
    ends = []  # of those that ended in the last three quarters of the time

    async def client(number):
        turn = 0
        while time.monotonic() - begun < seconds:
            outcome = await one_chat(address, chat_body(f"{number} {turn}", tokens), begun)
            turn += 1
            if outcome.status == 200 and seconds / 4 <= time.monotonic() - begun < seconds:
                ends.append(outcome)
    await asyncio.gather(*(client(i) for i in range(clients)))
    return len(ends) / (seconds * 3 / 4)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def summary(outcomes, seconds):
    served = [o for o in outcomes if o.status == 200]
    refused = [o for o in outcomes if o.status in (429, 503)]
    odd = [o for o in outcomes if o.status not in (200, 429, 503)]
    back = [o.returned for o in refused if o.returned]
    return {
        "offered": len(outcomes), "served": len(served), "refused": len(refused),
        "failed": len(odd), "failures": sorted({o.failure or str(o.status) for o in odd})[:5],
        "served_per_s": len(served) / seconds,
        "ttft_p50_s": percentile([o.ttft_s for o in served], 0.5),
        "ttft_p99_s": percentile([o.ttft_s for o in served], 0.99),
        "engine_p99_s": percentile([o.ttft_s - o.queue_s for o in served], 0.99),
        "queue_p99_s": percentile([o.queue_s for o in served], 0.99),
        "refusal_p99_s": percentile([o.total_s for o in refused], 0.99),
        "refusal_p50_s": percentile([o.total_s for o in refused], 0.5),
        "without_retry_after": sum(o.retry_after_s == 0 for o in refused),
        "retry_after_p50_s": statistics.median([o.retry_after_s for o in refused] or [0]),
        "came_back": len(back), "came_back_served": sum(o.status == 200 for o in back),
    }


# ---- watching ----

def anonymous_bytes(pid):
    """The memory of a process that it shares with no process and no file."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


class Watcher:
    """with Watcher({"livez": (host, port, "/livez"), ...}, pids) as watcher: ...; watcher.report"""

    def __init__(self, targets, pids):
        self.argv = [sys.executable, os.path.abspath(__file__), json.dumps(targets), json.dumps(pids)]
        self.report = None

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()  # it has begun
        return self

    def __exit__(self, *exc):
        out, _ = self.process.communicate()  # the end of its input ends it
        self.report = json.loads(out)


async def watch(targets, pids):
    """Until standard input ends: {"latencies": {name: {...}}, "memory": {pid: [first, most]}}."""
    from load import fetch  # pylint: disable=import-outside-toplevel
    seen = {name: [] for name in targets}
    bad = {name: 0 for name in targets}
    memory = {pid: [anonymous_bytes(pid)] * 2 for pid in pids}
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)

    async def probe(name, host, port, path):
        while not stop.is_set():
            begun = time.monotonic()
            try:
                answer = await fetch((host, port), "GET", path, timeout_s=5)
                bad[name] += answer.status != 200
            except (OSError, BadAnswer, asyncio.TimeoutError):
                bad[name] += 1
            took = time.monotonic() - begun
            seen[name].append(took)
            await asyncio.sleep(max(0.0, PROBE_PERIOD_S - took))

    async def look():
        while not stop.is_set():
            for pid, pair in memory.items():
                memory[pid] = [pair[0], max(pair[1], anonymous_bytes(pid))]
            await asyncio.sleep(0.2)

    print("begun", flush=True)
    await asyncio.gather(look(), *(probe(name, *target) for name, target in targets.items()))
    return {"latencies": {name: {"count": len(values), "bad": bad[name], "max_s": max(values),
                                 "p99_s": percentile(values, 0.99)}
                          for name, values in seen.items()},
            "memory": {str(pid): pair for pid, pair in memory.items()}}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(watch(json.loads(sys.argv[1]), json.loads(sys.argv[2])))))
