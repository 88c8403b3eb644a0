"""benchload.py - the load of scripts/bench-routing: traces, generated sessions, bound, figures.

Pure: no processes, no clocks; all randomness comes from a seed.  Times are seconds of trace time
unless a name says otherwise.
"""

import gzip
import hashlib
import json
import math
import random
import statistics
from datetime import datetime
from typing import NamedTuple

BLOCK_TOKENS = 512
KEY_BLOCKS = 2          # a prefix key stands for so many first blocks
WARM_UP = 0.1           # of the requests, not counted
TPOT_LIMIT_S = 0.1
TTFT_LIMIT_S = 5.0      # where prompts share prefixes (and are long)
TTFT_LIMIT_PLAIN_S = 1.0


class Request(NamedTuple):
    at_s: float
    prompt: int         # tokens
    output: int
    blocks: tuple       # one number for each block of the prompt, the last may be a part; () = unknown


class BadTrace(ValueError):
    pass


# ---- traces ----------------------------------------------------------------------------------

def load_trace(path):
    """Reads either format, plain or gzipped; requests in order of arrival, the first at 0."""
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig") as f:
        lines = [(number, line.strip()) for number, line in enumerate(f, 1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise BadTrace(f"{path}: empty")
    parse = parse_mooncake if lines[0][1].startswith("{") else parse_azure
    if parse is parse_azure and lines[0][1].lower().startswith("timestamp,"):
        del lines[0]
    requests = []
    for number, line in lines:
        try:
            requests.append(parse(line))
        except (ValueError, KeyError, TypeError) as problem:
            raise BadTrace(f"{path}:{number}: not a request ({problem})") from problem
    if not requests:
        raise BadTrace(f"{path}: no request")
    # A request of no tokens (there are some) becomes one of one token.
    return from_zero(r._replace(prompt=max(r.prompt, 1), output=max(r.output, 1)) for r in requests)


def parse_azure(line):
    stamp, prompt, output = line.split(",")
    # Seven digits behind the point are one more than datetime reads.
    whole, _, part = stamp.strip().partition(".")
    at = datetime.fromisoformat(whole).timestamp() + (float("0." + part) if part.isdigit() else 0)
    return Request(at, int(prompt), int(output), ())


def parse_mooncake(line):
    record = json.loads(line)
    blocks = tuple(int(number) for number in record["hash_ids"])
    if any(number < 0 for number in blocks):
        raise ValueError("a negative hash id")
    return Request(record["timestamp"] / 1000, int(record["input_length"]),
                   int(record["output_length"]), blocks)


def from_zero(requests):
    ordered = sorted(requests, key=lambda r: r.at_s)
    begin = ordered[0].at_s
    return [r._replace(at_s=r.at_s - begin) for r in ordered]


def rounding_s(requests):
    """The step that a trace's times are rounded to, when that is a second or more; else 0.  (Not the
    greatest common divisor: a few times in the Mooncake traces are off by a millisecond.)"""
    distinct = sorted({r.at_s for r in requests})
    if len(distinct) < 2 or len(distinct) * 2 > len(requests):
        return 0.0
    step = statistics.median(b - a for a, b in zip(distinct, distinct[1:]))
    return step if step >= 1 else 0.0


def take_slice(requests, count, seed):
    """`count` requests in a row, from a place that the seed chooses, the first at 0.  Times that
    the trace has rounded are spread over what they were rounded to: as they stand they would
    come in bursts that never were."""
    rng = random.Random(f"slice {seed}")
    step = rounding_s(requests)
    begin = rng.randrange(len(requests) - count + 1) if count < len(requests) else 0
    taken = requests[begin:begin + count]
    return from_zero(r._replace(at_s=r.at_s + rng.uniform(0, step)) for r in taken)


# ---- generated sessions ----------------------------------------------------------------------

# The lengths give prompts about as long as those of Mooncake's conversation trace.
SESSIONS = {
    "rate": 5.0,                # requests/s at factor 1
    "system_prompts": 24,       # Zipf, exponent 1
    "system_tokens": (300, 2048),   # evenly over the logarithms, in an order without meaning
    "turns": (3, 10),           # uniform
    "user_tokens": (800, 1.5, 64000),   # log-normal: median, sigma; at most
    "answer_tokens": (250, 0.8, 1500),
    "think_s": 20.0,            # exponential, after the answer is read
    "read_s_per_token": 0.03,   # the answer comes and is read
}
UNSHARED = {
    "rate": 10.0,
    "prompt_tokens": (900, 0.8, 8000),
    "answer_tokens": (140, 0.8, 1000),
}

SYSTEM_BLOCK = 1 << 40
SESSION_BLOCK = 1 << 41
BLOCKS_A_SESSION = 4096


def log_normal(rng, median, sigma, most):
    return max(1, min(most, round(rng.lognormvariate(math.log(median), sigma))))


def one_session(rng, number, begin_s, system, p):
    """The requests of one conversation.  Every prompt is the one before, its answer and a new
    message.  Blocks that lie in the system prompt are shared by all who have it."""
    which, tokens = system
    shared = tokens // BLOCK_TOKENS
    at = begin_s
    for _ in range(rng.randint(*p["turns"])):
        tokens += log_normal(rng, *p["user_tokens"])
        answer = log_normal(rng, *p["answer_tokens"])
        blocks = tuple(SYSTEM_BLOCK + which * 64 + i if i < shared
                       else SESSION_BLOCK + number * BLOCKS_A_SESSION + i
                       for i in range(-(-tokens // BLOCK_TOKENS)))
        yield Request(at, tokens, answer, blocks)
        tokens += answer
        at += answer * p["read_s_per_token"] + rng.expovariate(1 / p["think_s"])


def generate_sessions(count, seed, p=None):
    """`count` requests of sessions that begin at random times.  Taken from the middle of a longer
    stretch, so that there are new and old sessions from the first request on."""
    p = p or SESSIONS
    rng = random.Random(f"sessions {seed}")
    low, high = (math.log(n) for n in p["system_tokens"])
    many = p["system_prompts"]
    lengths = [round(math.exp(low + (high - low) * i / (many - 1))) for i in range(many)]
    random.Random("system prompts").shuffle(lengths)  # the same whatever the seed
    systems = list(enumerate(lengths))
    weights = [1 / (i + 1) for i in range(many)]
    sessions_a_second = p["rate"] / statistics.mean(p["turns"])
    before_s = 2 * p["turns"][1] * p["think_s"]  # most sessions are over by then
    stop_s = before_s + 1.3 * count / p["rate"] + 10 * p["think_s"]
    requests, begin_s, number = [], 0.0, 0
    while begin_s < stop_s:
        system = rng.choices(systems, weights)[0]
        requests += one_session(rng, number, begin_s, system, p)
        number += 1
        begin_s += rng.expovariate(sessions_a_second)
    requests.sort(key=lambda r: r.at_s)
    return at_rate(from_zero([r for r in requests if r.at_s >= before_s][:count]), p["rate"])


def at_rate(requests, rate):
    """Stretches the times so that all seeds offer the same number of requests a second."""
    stretch = len(requests) / rate / requests[-1].at_s
    return [r._replace(at_s=r.at_s * stretch) for r in requests]


def generate_unshared(count, seed, p=None):
    """`count` requests of their own, at random times."""
    p = p or UNSHARED
    rng = random.Random(f"unshared {seed}")
    requests, at = [], 0.0
    for _ in range(count):
        requests.append(Request(at, log_normal(rng, *p["prompt_tokens"]),
                                log_normal(rng, *p["answer_tokens"]), ()))
        at += rng.expovariate(p["rate"])
    return at_rate(requests, p["rate"])


LONG = {"part": 0.05, "tokens": (30000, 100000)}    # evenly over the logarithms
BURSTS = {"rate": 10.0, "size": (20, 80), "within_s": 1.0}
FAN_OUTS = {
    "rate": 5.0,
    "siblings": (4, 12),
    "within_s": 0.5,
    "shared_tokens": (4000, 32000),     # evenly over the logarithms
    "own_tokens": (300, 0.8, 4000),
    "answer_tokens": (200, 0.8, 1500),
    "rounds": (1, 4),                   # the same beginning, longer by the answers, comes again
    "pause_s": 15.0,
}
FAN_OUT_BLOCK = 1 << 42


def even_log(rng, low, high):
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def generate_mixed(count, seed):
    """Unshared requests of which a few are very long."""
    rng = random.Random(f"mixed {seed}")
    return [r._replace(prompt=even_log(rng, *LONG["tokens"])) if rng.random() < LONG["part"] else r
            for r in generate_unshared(count, seed)]


def generate_bursts(count, seed):
    """Unshared requests that come many at once."""
    rng = random.Random(f"bursts {seed}")
    sizes, requests, at = BURSTS["size"], generate_unshared(count, seed), 0.0
    i = 0
    while i < count:
        size = rng.randint(*sizes)
        for j in range(i, min(i + size, count)):
            requests[j] = requests[j]._replace(at_s=at + rng.uniform(0, BURSTS["within_s"]))
        i += size
        at += rng.expovariate(BURSTS["rate"] / statistics.mean(sizes))
    return at_rate(from_zero(requests), BURSTS["rate"])


def one_fan_out(rng, number, at, p):
    """Siblings that have a long beginning in common and come together; what they answered is the
    end of the beginning of the next round."""
    shared = even_log(rng, *p["shared_tokens"])
    base = FAN_OUT_BLOCK + number * BLOCKS_A_SESSION
    for turn in range(rng.randint(*p["rounds"])):
        siblings = rng.randint(*p["siblings"])
        for sibling in range(siblings):
            tokens = shared + log_normal(rng, *p["own_tokens"])
            own = base + (1 << 30) + (turn << 20) + (sibling << 12)
            blocks = tuple(base + i if (i + 1) * BLOCK_TOKENS <= shared else own + i
                           for i in range(-(-tokens // BLOCK_TOKENS)))
            yield Request(at + rng.uniform(0, p["within_s"]), tokens,
                          log_normal(rng, *p["answer_tokens"]), blocks)
        shared += siblings * 200
        at += p["pause_s"] + rng.expovariate(1 / p["pause_s"])


def generate_fan_outs(count, seed, p=None):
    p = p or FAN_OUTS
    rng = random.Random(f"fan-outs {seed}")
    requests, at, number = [], 0.0, 0
    a_fan_out = statistics.mean(p["siblings"]) * statistics.mean(p["rounds"])
    while len(requests) < 1.2 * count:
        requests += one_fan_out(rng, number, at, p)
        number += 1
        at += rng.expovariate(p["rate"] / a_fan_out)
    return at_rate(from_zero(sorted(requests, key=lambda r: r.at_s)[:count]), p["rate"])


# ---- what can be known before ----------------------------------------------------------------

def cache_bound(requests):
    """For each request, the prompt tokens that a cache of infinite size, common to all nodes,
    that knows a prompt as soon as it comes, would have: no choice of nodes can find more."""
    seen, hits = set(), []
    for r in requests:
        whole = min(len(r.blocks), r.prompt // BLOCK_TOKENS)
        n = 0
        while n < whole and r.blocks[n] in seen:
            n += 1
        hits.append(min(n * BLOCK_TOKENS, r.prompt - 1))
        seen.update(r.blocks[:whole])
    return hits


def describe(requests):
    """Means of a slice, for the output."""
    span = requests[-1].at_s or 1e-9
    prompt = sum(r.prompt for r in requests)
    return {"requests": len(requests), "span_s": span, "rate": len(requests) / span,
            "prompt_mean": prompt / len(requests),
            "output_mean": sum(r.output for r in requests) / len(requests),
            "bound": sum(cache_bound(requests)) / prompt}


def prefix_key(index, request):
    """The hint of a client that knows its prompt, for a balancer: a hash of its first blocks.
    A prompt of which nothing is known shares nothing."""
    text = ",".join(map(str, request.blocks[:KEY_BLOCKS])) or f"request {index}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def schedule_lines(requests, speedup):
    """The load client's input; `speedup` divides all arrival times."""
    for index, r in enumerate(requests):
        blocks = ",".join(map(str, r.blocks)) or "-"
        yield (f"{round(r.at_s / speedup * 1e6)} {r.prompt} {r.output} "
               f"{prefix_key(index, r)} {blocks}\n")


# ---- what came out ---------------------------------------------------------------------------

class Result(NamedTuple):
    outcome: str
    status: int
    late_s: float       # real time
    ttft_s: float       # trace time, as are the next two
    last_s: float
    e2e_s: float
    events: int
    prompt: int
    cached: int
    output: int
    node: str

    @property
    def tpot_s(self):
        return (self.last_s - self.ttft_s) / (self.events - 1) if self.events > 1 else 0.0


def parse_result(line, compress):
    fields = line.rstrip("\n").split(",", 10)
    status, late, first, last, end, events, prompt, cached, output = map(int, fields[1:10])
    scale = compress / 1e6
    # nginx lists every node it tried, the last of them answered.
    return Result(fields[0], status, late / 1e6, first * scale, last * scale, end * scale, events,
                  prompt, cached, output, fields[10].split(",")[-1].strip())


def quantile(values, q):
    """The smallest value that q of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)] if ordered else 0.0


def figures(requests, results, ttft_limit_s):
    """All figures of one run, without its warm-up."""
    skip = int(len(requests) * WARM_UP)
    bound = cache_bound(requests)
    counted = list(zip(requests, results, bound))[skip:]
    good = [(r, b) for _, r, b in counted if r.outcome == "ok"]
    ttft = [r.ttft_s for r, _ in good]
    nodes = {}
    for r, _ in good:
        nodes[r.node] = nodes.get(r.node, 0) + 1
    outcomes = {}
    for _, r, _ in counted:
        if r.outcome != "ok":
            name = f"{r.outcome}_{r.status}" if r.outcome == "status" else r.outcome
            outcomes[name] = outcomes.get(name, 0) + 1
    within = sum(r.ttft_s <= ttft_limit_s and r.tpot_s <= TPOT_LIMIT_S for r, _ in good)
    cached = sum(r.cached for r, _ in good)
    possible = sum(b for _, b in good)
    return {
        "ttft_mean_s": statistics.fmean(ttft) if ttft else math.inf,
        "ttft_p50_s": quantile(ttft, 0.5), "ttft_p90_s": quantile(ttft, 0.9),
        "ttft_p99_s": quantile(ttft, 0.99) if ttft else math.inf,
        "e2e_mean_s": statistics.fmean(r.e2e_s for r, _ in good) if good else math.inf,
        "e2e_p99_s": quantile([r.e2e_s for r, _ in good], 0.99),
        "tpot_p50_s": quantile([r.tpot_s for r, _ in good], 0.5),
        "tpot_p99_s": quantile([r.tpot_s for r, _ in good], 0.99),
        "goodput": within / len(counted),
        "hit": cached / max(1, sum(r.prompt for r, _ in good)),
        "hit_of_bound": cached / possible if possible else None,
        "share": {name: n / len(good) for name, n in sorted(nodes.items())},
        "errors": len(counted) - len(good), "outcomes": outcomes,
        "late_p99_s": quantile([r.late_s for r in results], 0.99),
        "wrong_tokens": sum(r.prompt != q.prompt or r.output != q.output
                            for q, r, _ in counted if r.outcome == "ok"),
    }
