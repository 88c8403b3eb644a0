"""scripts/bench-routing: what it makes of traces, and a small run of the whole."""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from harness import BUILD, ROOT, SLOW

sys.path.insert(0, str(ROOT / "scripts"))

import benchload  # noqa: E402
import benchlib  # noqa: E402
from benchload import Request  # noqa: E402

pytestmark = pytest.mark.alone

SCRIPT = ROOT / "scripts/bench-routing"
PEERS = [name for name in ("nginx-least_conn", "haproxy-chash") if shutil.which(name.split("-")[0])]


@pytest.fixture(scope="module")
def routing():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("bench_routing", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def write(path, text):
    path.write_text(text)
    return path


def test_an_azure_trace_is_read_with_all_digits_of_its_times(tmp_path):
    path = write(tmp_path / "t.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                 "2023-11-16 18:15:59.7500000,374,44\r\n"
                 "2023-11-16 18:16:01.0000005,396,0\r\n")
    first, second = benchload.load_trace(path)
    assert first == Request(0, 374, 44, ())
    assert second.at_s == pytest.approx(1.2500005, abs=5e-7)
    assert (second.prompt, second.output) == (396, 1)


def test_a_mooncake_trace_is_read_in_order_of_arrival(tmp_path):
    path = write(tmp_path / "t.jsonl",
                 '{"timestamp": 4500, "input_length": 600, "output_length": 7, "hash_ids": [0, 3]}\n'
                 '{"timestamp": 3000, "input_length": 20, "output_length": 5, "hash_ids": [9]}\n')
    assert benchload.load_trace(path) == [Request(0, 20, 5, (9,)), Request(1.5, 600, 7, (0, 3))]


@pytest.mark.parametrize("text", [
    "", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "2023-11-16 18:15:59,12\n",
    '{"timestamp": 1}\n', '{"timestamp": 1, "input_length": 5, "output_length": 5, "hash_ids": [-1]}\n',
])
def test_a_text_that_is_no_trace_is_refused(tmp_path, text):
    with pytest.raises(benchload.BadTrace):
        benchload.load_trace(write(tmp_path / "t", text))


def test_only_times_that_were_rounded_are_spread():
    rounded = [Request(3.0 * (i // 10), 10, 10, ()) for i in range(100)]
    taken = benchload.take_slice(rounded, 100, 1)
    assert len({r.at_s for r in taken}) == 100
    assert taken == benchload.take_slice(rounded, 100, 1)
    assert taken != benchload.take_slice(rounded, 100, 2)
    assert taken[-1].at_s < 30
    exact = [Request(i * 0.75, 10, 10, ()) for i in range(100)]
    assert benchload.take_slice(exact, 100, 1) == exact


def test_a_slice_is_so_many_requests_in_a_row_from_zero():
    trace = [Request(i * 0.75, i + 1, 10, ()) for i in range(100)]
    taken = benchload.take_slice(trace, 30, 5)
    first = taken[0].prompt
    assert [r.prompt for r in taken] == list(range(first, first + 30))
    assert taken[0].at_s == 0 and taken[-1].at_s == 29 * 0.75


def test_the_bound_counts_whole_leading_blocks_seen_before():
    requests = [
        Request(0, 1100, 1, (1, 2, 3)),     # nothing before it
        Request(1, 1600, 1, (1, 2, 3, 4)),  # 1 and 2: block 3 was a part then
        Request(2, 1536, 1, (1, 2, 3)),     # all three are cached now, but one token is worked on
        Request(3, 1536, 1, (9, 2, 3)),     # a chain that begins anew
        Request(4, 700, 1, ()),
    ]
    assert benchload.cache_bound(requests) == [0, 1024, 1535, 0, 0]


def test_generated_sessions_grow_and_share():
    requests = benchload.generate_sessions(500, 3)
    assert requests == benchload.generate_sessions(500, 3) != benchload.generate_sessions(500, 4)
    assert len(requests) == 500 and requests[0].at_s == 0
    assert all(a.at_s <= b.at_s for a, b in zip(requests, requests[1:]))
    assert all(len(r.blocks) == -(-r.prompt // 512) for r in requests)
    assert 0.4 < benchload.describe(requests)["bound"] < 0.8
    sessions = {}
    for r in requests:
        sessions.setdefault(r.blocks[-1] // benchload.BLOCKS_A_SESSION, []).append(r)
    long = [turns for turns in sessions.values() if len(turns) > 2 and turns[0].blocks[0] >= 1 << 41]
    assert long
    for turns in long:
        for a, b in zip(turns, turns[1:]):
            assert b.prompt > a.prompt and b.blocks[:len(a.blocks)] == a.blocks


def test_the_prefix_key_is_that_of_the_first_two_blocks():
    def key(index, blocks):
        return benchload.prefix_key(index, Request(0, 5000, 1, blocks))
    assert key(0, (1, 2, 3)) == key(7, (1, 2, 4))
    assert key(0, (1, 2, 3)) != key(0, (1, 3, 3))
    assert key(0, ()) != key(1, ())


def test_a_schedule_line_has_the_time_sped_up():
    line, = benchload.schedule_lines([Request(3.0, 700, 9, (5, 6))], 20)
    fields = line.split()
    assert fields[:3] == ["150000", "700", "9"] and fields[4] == "5,6"


def test_figures_leave_out_the_warm_up_and_count_failures_against_goodput():
    requests = [Request(i, 1024, 11, (1, 2)) for i in range(10)]
    # late, first, last, end (us, real time): at 10 times the speed 1 s, 2 s, 2.1 s of trace time.
    fine = "ok,200,5,100000,200000,210000,11,1024,512,11,a1"
    slow = "ok,200,5,100000,201000,210000,11,1024,512,11,b1"    # 101 ms a token
    late = "ok,200,5,500010,600000,610000,11,1024,512,11,b1"    # 5.0001 s
    lines = [late] + [fine] * 6 + [slow, late, "cut,200,5,0,0,900000,0,0,0,0,b1"]
    out = benchload.figures(requests, [benchload.parse_result(line, 10) for line in lines], 5)
    assert out["goodput"] == pytest.approx(6 / 9)
    assert out["errors"] == 1 and out["outcomes"] == {"cut": 1}
    assert out["ttft_p50_s"] == 1 and out["ttft_p99_s"] == pytest.approx(5.0001)
    assert out["share"] == {"a1": 6 / 8, "b1": 2 / 8}
    # Eight answers with 512 of the 1023 tokens that an infinite cache has after the first request.
    assert out["hit_of_bound"] == pytest.approx(512 / 1023)
    assert out["wrong_tokens"] == 0


def test_nginx_lists_the_nodes_it_tried_and_the_last_one_counts():
    line = "ok,200,0,1,2,3,2,10,0,2,127.0.0.1:5, 127.0.0.1:6"
    assert benchload.parse_result(line, 1).node == "127.0.0.1:6"


def run_of(balancer, seed, p99_s, goodput, busy=0.5, mean_s=1.0):
    return {"balancer": balancer, "seed": seed, "ttft_p99_s": p99_s, "goodput": goodput,
            "ttft_mean_s": mean_s, "machine_cpu": busy}


def test_seeds_are_compared_each_with_its_own_best_peer(routing):
    runs = [run_of("fastest", 1, 6, 0.9), run_of("nginx-random2", 1, 10, 0.7), run_of("haproxy-chash", 1, 20, 0.8),
            run_of("fastest", 2, 4, 0.9), run_of("nginx-random2", 2, 20, 0.6), run_of("haproxy-chash", 2, 8, 0.5),
            run_of("fastest", 3, 9, 0.9), run_of("nginx-random2", 3, 9, 0.9), run_of("haproxy-chash", 3, 10, 0.8),
            run_of("least_conn", 1, 1, 1.0)]    # a policy of ours is no peer
    assert routing.paired(runs, "p99 TTFT") == [
        (pytest.approx(0.6), "nginx-random2"), (pytest.approx(0.5), "haproxy-chash"),
        (pytest.approx(1), "nginx-random2")]
    assert [ratio for ratio, _ in routing.paired(runs, "lost goodput")] == pytest.approx([0.5, 0.25, 1])
    text, met = routing.verdict(runs, "p99 TTFT", 0.65)
    assert met and "is 0.60 of" in text and "3 seeds" in text
    assert not routing.verdict(runs, "lost goodput", 0.45)[1]


def test_a_seed_with_a_run_on_a_busy_machine_is_not_judged(routing):
    runs = [run_of("fastest", 1, 6, 0.9), run_of("nginx-random2", 1, 10, 0.7, busy=0.81),
            run_of("fastest", 2, 9, 0.9), run_of("nginx-random2", 2, 10, 0.8)]
    assert len(routing.paired(runs, "p99 TTFT")) == 1
    assert not routing.verdict(runs, "p99 TTFT", 0.65)[1]
    text, met = routing.verdict(runs[:2], "p99 TTFT", 0.65)
    assert met is None and "80%" in text


def test_of_a_peer_that_loses_nothing_there_is_no_part(routing):
    assert routing.ratio_of(0, 0) == 0
    assert routing.ratio_of(0.01, 0) > 1000


def test_drover_gets_the_speed_of_time(routing, tmp_path, monkeypatch):
    begun = {}
    monkeypatch.setattr(benchlib.Drover, "start", lambda self, *args: begun.update(config=args[2]))
    drover = routing.Drover(BUILD, tmp_path, "fastest")
    drover.begin([], argparse.Namespace(compress=15.0, workers=2))
    assert "testing: {speedup: 15}" in begun["config"]


def bench(tmp_path, *args):
    out = tmp_path / "out.json"
    done = subprocess.run([str(SCRIPT), "--build", str(BUILD), "--seeds", "1", "--json", str(out),
                           *map(str, args)], capture_output=True, text=True, timeout=120 * SLOW,
                          check=False)
    assert out.exists(), done.stdout + done.stderr
    return json.loads(out.read_text()), done


def test_thirty_sessions_on_two_nodes_are_answered_through_every_balancer(tmp_path):
    report, done = bench(tmp_path, "--nodes", "1x16:200000:4:0.1:3000,1x8:100000:4:0.1:1000",
                         "--requests", 30, "--factor", 2, "--compress", 2, "--policies", "least_conn",
                         "--peers", ",".join(PEERS))
    assert [run["balancer"] for run in report["runs"]] == ["least_conn", *PEERS], done.stdout
    for run in report["runs"]:
        assert run["errors"] == 0, (run, done.stderr)
        assert run["wrong_tokens"] == 0
        assert set(run["share"]) <= {"a1", "b1"} and sum(run["share"].values()) == pytest.approx(1)
        assert 0 < run["ttft_p50_s"] <= run["ttft_p90_s"] <= run["ttft_p99_s"]
    for name in ("least_conn", *PEERS):
        assert name in done.stdout


def test_on_one_node_the_engine_finds_exactly_what_the_bound_says(tmp_path):
    """So the client's texts share just the blocks that the trace says they share.

    No prompt ends within three tokens behind a block: the engine's own end of the prompt, which
    no longer prompt shares, would lie in that block."""
    trace = tmp_path / "trace.jsonl"
    chains = [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 6], [7], [1, 2, 3, 4, 5, 8, 9]]
    with open(trace, "w", encoding="ascii") as f:
        for i in range(30):
            blocks = chains[i % 5]
            f.write(json.dumps({"timestamp": i * 400, "input_length": len(blocks) * 512 - 30 - i % 2 * 77,
                                "output_length": 3, "hash_ids": blocks}) + "\n")
    report, done = bench(tmp_path, trace, "--nodes", "1x8:2000000:1:0.1:1000", "--requests", 30,
                         "--factor", 1, "--compress", 4, "--policies", "least_conn", "--peers", "")
    run, = report["runs"]
    assert run["errors"] == 0 and run["wrong_tokens"] == 0, done.stderr
    assert run["hit_of_bound"] == 1.0
    assert run["hit"] > 0.7  # 13 of 18 blocks


def test_a_node_that_is_killed_comes_back(tmp_path):
    report, done = bench(tmp_path, "unshared", "--nodes", "2x16:200000:4:0.1:3000", "--requests", 60,
                         "--factor", 3, "--compress", 1, "--policies", "round_robin", "--peers", "",
                         "--event", "kill:a1@0.3-0.5")
    run, = report["runs"]
    assert run["share"]["a1"] > 0 and run["share"]["a2"] > 0, (run, done.stderr)
    assert run["errors"] <= 16, done.stderr  # those that had begun: at most its slots


def test_a_node_that_is_made_slow_stands_still_most_of_the_time_and_fails_no_request(tmp_path):
    report, done = bench(tmp_path, "unshared", "--nodes", "2x16:200000:4:0.1:3000", "--requests", 60,
                         "--factor", 3, "--compress", 1, "--policies", "fastest", "--peers", "",
                         "--event", "slow:a1@0.2-0.8")
    run, = report["runs"]
    assert report["event"] == "slow:a1@0.2-0.8"
    assert 0.7 < run["event_stopped"] <= 1, (run, done.stderr)
    assert run["errors"] == 0, done.stderr


@pytest.mark.parametrize("args", [
    ["--nodes", "3y"], ["--event", "slow:z9@0.1-0.2"], ["--event", "slow:a1@0.5-0.2"],
    ["--peers", "caddy"], ["--policies", "best"],
])
def test_wrong_options_are_named(args):
    done = subprocess.run([str(SCRIPT), *args], capture_output=True, text=True, timeout=30 * SLOW,
                          check=False, env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
    assert done.returncode == 2
    assert args[0][2:] in done.stderr
