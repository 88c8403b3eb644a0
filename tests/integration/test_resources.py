"""Resources run out: descriptors, room for logs, memory, places in the accept queue.  Each costs what it must
and no more, and all is as before when there is enough again."""

import asyncio
import importlib.machinery
import importlib.util
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

import pressure
from harness import ROOT, SLOW, program, until
from load import chat_body, fetch, fetch_now, make_request, open_request, text_of
from pressure import anonymous_bytes

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"


def metric(cluster, name):
    """The sum over all labels."""
    text = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                  timeout=10 * SLOW).read().decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M))


def failures_of(cluster, node):
    text = urllib.request.urlopen("http://%s:%d/metrics" % cluster.address("admin"),
                                  timeout=10 * SLOW).read().decode()
    return {outcome: float(value) for outcome, value in re.findall(
        rf'^drover_node_attempts_total{{node="{node}",outcome="(\w+)"}} (\S+)$', text, re.M)}


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", "rb") as f:
        fields = f.read().rsplit(b")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def chat(cluster, prompt="hello", tokens=4):
    return fetch_now(cluster.api, "POST", CHAT, chat_body(prompt, tokens))


class Descriptors:
    """with Descriptors(pid): the process cannot open one more."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        self.before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        # The limit is on the number of a descriptor, so gaps below the highest are left...
        taken = {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}
        lowest = next(number for number in range(1 << 20) if number not in taken)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (lowest, self.before[1]))

    def __exit__(self, *exc):
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, self.before)


def connect_and_say(address, data):
    s = socket.create_connection(address, 30 * SLOW)
    s.sendall(data)
    return s


def read_all(s):
    data = b""
    while True:
        try:
            piece = s.recv(65536)
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece


def test_without_descriptors_streams_go_on_and_newcomers_get_a_quick_503(make_cluster):
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", "slots=64,rate=20")
    worker = cluster.worker_pids()[0]
    request = make_request("POST", CHAT, chat_body("new", 4))

    async def go():
        streams = [await open_request(cluster.api, "POST", CHAT, chat_body(f"long {i}", 100))
                   for i in range(10)]
        for stream in streams:
            await stream.read_head()
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(None, exhausted)
        for stream in streams:
            await stream.read()
            stream.close()
            assert text_of(stream.body)
        return seen

    def exhausted():
        with Descriptors(worker):
            begun, used = time.monotonic(), cpu_s(worker)
            late = [connect_and_say(cluster.api, request) for _ in range(5)]
            answers = [read_all(s) for s in late]
            took = time.monotonic() - begun
            # A log that cannot be opened again stays as it is.
            os.kill(worker, signal.SIGUSR1)
            until(lambda: "event=log_reopen_failed" in cluster.master.log(), 5)
            # A node that comes now cannot be reached from this worker, for no fault of its own.
            cluster.start_node("b", "slots=64,rate=20")
            until(lambda: re.search(r"event=node_connection_failed node=b", cluster.master.log()), 5)
            begun_idle, used_idle = time.monotonic(), cpu_s(worker)
            waiting = connect_and_say(cluster.api, request)
            answers.append(read_all(waiting))
            idle = (cpu_s(worker) - used_idle) / (time.monotonic() - begun_idle)
        return answers, took, (cpu_s(worker) - used), idle
    answers, took, _, idle = asyncio.run(go())
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: " in head, answer
        assert json.loads(body)["error"]["code"] == "overloaded"
    assert took < 3 * SLOW, "a second of patience, and then all at once"
    assert idle < 0.3, f"the worker spins: {idle:.0%} of a processor for ten streams"
    assert chat(cluster).status == 200
    assert cluster.node_state("b") == "UP"
    for node in "ab":
        counts = failures_of(cluster, node)
        assert counts and counts["connect_failed"] == counts["node_error"] == 0, counts

    def used_b():
        chat(cluster)
        return failures_of(cluster, "b")["ok"] > 0
    until(used_b, 10, "b is used once it can be reached")
    assert cluster.access_lines(), "the access log went on"


def test_a_crowd_of_idle_connections_gives_way(make_cluster):
    cluster = make_cluster(workers=2, config={"limits": {"max_connections": 20}}).start()
    cluster.start_node("a")
    held = [socket.create_connection(cluster.api, 10) for _ in range(45)]
    until(lambda: metric(cluster, "drover_worker_connections") == 40, 10)
    for _ in range(5):
        late = connect_and_say(cluster.api, make_request("GET", "/livez", headers={"Connection": "close"}))
        assert read_all(late).startswith(b"HTTP/1.1 200 ")
    assert chat(cluster).status == 200
    assert metric(cluster, "drover_process_connections_gave_way_total") > 0
    for s in held:
        s.close()


def test_a_client_of_a_full_worker_waits_a_second_for_another_to_leave(make_cluster):
    """Those that are served do not give way."""
    cluster = make_cluster(workers=1, config={"limits": {"max_connections": 4}}).start()
    cluster.start_node("a")
    body = json.dumps(chat_body("hi", 4000) | {"stream": True}).encode()
    held = [connect_and_say(cluster.api, make_request("POST", "/v1/chat/completions", body)) for _ in range(4)]
    until(lambda: len(cluster.ctl_rows("requests")) == 4, 10)
    refused = connect_and_say(cluster.api, make_request("GET", "/livez"))
    assert read_all(refused).startswith(b"HTTP/1.1 503 "), "nobody left in time"
    late = connect_and_say(cluster.api, make_request("GET", "/livez",
                                                     headers={"Connection": "close"}))
    assert not select.select([late], [], [], 0.1)[0], "refused without a wait"
    held.pop().close()
    assert read_all(late).startswith(b"HTTP/1.1 200 ")
    for s in held:
        s.close()


# ---- file systems ----

@pytest.fixture
def make_disk(tmp_path):
    """Makes small file systems."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount one")
    mounts = []

    def make(size):
        mount = tmp_path / f"small{len(mounts)}"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "drover-test", str(mount)], check=True)
        mounts.append(mount)
        return mount
    yield make
    for mount in mounts:
        subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.fixture
def small_disk(make_disk):
    return make_disk("64k")


def fill(folder):
    """Another program's file takes all that is left."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as f:
        try:
            while True:
                f.write(b"x" * 4096)
        except OSError:
            pass
    return filler


FEW = {"limits": {"max_nodes": 8, "max_connections": 256}, "prefix": {"entries": 1024}}


def test_another_program_fills_the_runtime_dir(make_disk, make_cluster):
    disk = make_disk("12m")
    cluster = make_cluster(workers=2, config={**FEW, "runtime_dir": str(disk)})
    cluster.runtime = disk
    cluster.start().start_node("a", "slots=64,speed=50")
    assert chat(cluster).status == 200
    before = set(cluster.worker_pids()) | {cluster.health_pid()}
    filler = fill(disk)

    for i in range(40):
        assert chat(cluster, f"request {i}").status == 200
    refused = cluster.ctl("scale", "8", check=False)
    assert refused.returncode != 0 and "no room for" in refused.stderr + refused.stdout, refused
    assert "scale_refused" in cluster.master.log()
    reload = cluster.ctl("reload", check=False)
    assert reload.returncode != 0 and "no room for" in reload.stderr + reload.stdout, reload
    assert "No space left on device" in reload.stderr + reload.stdout
    cluster.start_node("b", wait=False)
    until(lambda: 'event=models_left_out node="b"' in cluster.master.log(), 10)
    assert set(cluster.worker_pids()) | {cluster.health_pid()} == before, "somebody died"
    killed = cluster.worker_pids()[0]
    os.kill(killed, signal.SIGKILL)  # its place has room already
    until(lambda: killed not in cluster.worker_pids() and len(cluster.worker_pids()) == 2, 10)
    os.kill(cluster.health_pid(), signal.SIGKILL)
    until(lambda: cluster.node_state("a") == "UP", 20)
    assert chat(cluster).status == 200

    filler.unlink()
    cluster.wait_up("b")
    assert "workers" in cluster.ctl("scale", "3").stdout
    assert cluster.ctl("reload").returncode == 0
    assert chat(cluster).status == 200
    assert "signal=7" not in cluster.master.log()


def test_a_start_without_room_says_so_in_one_line(make_disk, make_cluster):
    disk = make_disk("1m")
    cluster = make_cluster(config={**FEW, "runtime_dir": str(disk)})
    cluster.write_config()
    argv = [program("drover"), "-c", str(cluster.config_path)]
    tested = subprocess.run([*argv, "-t"], capture_output=True, text=True, timeout=60)
    assert tested.returncode == 0
    assert re.search(rf"warning: runtime_dir {disk} has \d+ KiB of room; a start and a reload take up to \d+ KiB",
                     tested.stderr), tested.stderr
    started = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert started.returncode == 1
    assert re.search(rf"^drover: .*{disk}/scoreboard: no room for \d+ KiB .*: No space left on device$",
                     started.stderr, re.M), started.stderr
    assert [f.name for f in disk.iterdir()] == ["drover.lock"], "what it began with is gone"


def test_a_state_dir_without_room_is_done_without(make_disk, make_cluster):
    disk = make_disk("64k")
    fill(disk)
    cluster = make_cluster(workers=1, config={**FEW, "state_dir": str(disk)}).start()
    cluster.start_node("a")
    assert "event=state_not_kept" in cluster.master.log()
    assert "No space left on device" in cluster.master.log()
    assert chat(cluster).status == 200


# ---- logs ----



def alarms(cluster):
    return re.findall(r"event=log_lines_lost log=\S+ lines=\d+", cluster.master.log())


def test_a_full_disk_loses_log_lines_and_nothing_else(make_cluster, small_disk):
    cluster = make_cluster(workers=1, config={"log": {
        "file": str(small_disk / "drover.log"), "access": str(small_disk / "access.log")}})
    cluster.access_log_path = small_disk / "access.log"
    cluster.start().start_node("a", "slots=64,speed=50")
    assert chat(cluster).status == 200
    filler = fill(small_disk)

    def lost():
        assert chat(cluster).status == 200
        return metric(cluster, "drover_process_log_lines_lost_total") > 20
    until(lost, 20, "lines are lost")
    # The log itself is full as well: it says so on standard error, and only once.
    os.kill(cluster.worker_pids()[0], signal.SIGUSR1)
    assert len(alarms(cluster)) <= 3, alarms(cluster)
    filler.unlink()

    def logged():
        assert chat(cluster, "again").status == 200
        return len(cluster_lines(small_disk / "access.log")) > before
    before = len(cluster_lines(small_disk / "access.log"))
    until(logged, 10, "the log goes on")
    for line in cluster_lines(small_disk / "access.log"):
        assert line.startswith("{")
    (small_disk / "access.log").write_text("")


def cluster_lines(path):
    return [line for line in path.read_text().splitlines() if line]


def test_no_request_waits_for_a_log_whose_reader_is_stuck(make_cluster, tmp_path):
    pipe = tmp_path / "access.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    cluster = make_cluster(workers=1, config={"log": {"access": str(pipe)}}).start()
    cluster.start_node("a", "slots=64,speed=50")

    async def many():
        answers = []
        for _ in range(20):
            answers += await asyncio.gather(*(fetch(cluster.api, "GET", "/v1/models")
                                              for _ in range(25)))
        return answers
    answers = asyncio.run(many())
    assert {answer.status for answer in answers} == {200}
    assert metric(cluster, "drover_process_log_lines_lost_total") > 0, "64 KiB do not hold 500 lines"
    until(lambda: alarms(cluster), 5, "the log says that the access log loses lines")
    assert len(alarms(cluster)) == 1, "one alarm a minute"
    got = os.read(reader, 1 << 20)
    assert chat(cluster, "after").status == 200

    def came():
        nonlocal got
        try:
            got += os.read(reader, 1 << 16)
        except BlockingIOError:
            return False
        return b'"path":"/v1/chat/completions"' in got
    until(came, 5, "lines come again")
    assert all(json.loads(line) for line in got.splitlines())
    os.close(reader)


def test_a_log_without_a_reader_is_an_error_at_start_and_not_a_wait(make_cluster, tmp_path):
    pipe = tmp_path / "log.pipe"
    os.mkfifo(pipe)
    cluster = make_cluster(config={"log": {"file": str(pipe)}})
    with pytest.raises(AssertionError, match="log file"):
        cluster.start()


# ---- memory ----

def use_little_memory(monkeypatch):
    """A sanitizer keeps what was freed; here it is to give it back."""
    monkeypatch.setenv("ASAN_OPTIONS", ":".join(filter(None, [
        os.environ.get("ASAN_OPTIONS"), "quarantine_size_mb=1", "thread_local_quarantine_size_kb=64",
        "allocator_release_to_os_interval_ms=100", "allocator_may_return_null=1"])))


def big_chat(mebibytes):
    return chat_body("x" * (mebibytes << 20), 4)


def test_a_worker_at_its_memory_limit_refuses_newcomers_until_there_is_room(make_cluster, monkeypatch):
    use_little_memory(monkeypatch)
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", "slots=64,ctx=1000000000,prefill=1000")
    assert chat(cluster).status == 200
    old = cluster.worker_pids()
    cluster.write_config(limits={"worker_memory_bytes": anonymous_bytes(old[0]) + (64 << 20)})
    cluster.ctl("reload")
    until(lambda: (now := set(cluster.worker_pids())) and not now & set(old), 10, "a new worker")

    async def go():
        opened = []
        while len(opened) < 16:  # each is a body here and one on its way to the node
            opened.append(await open_request(cluster.api, "POST", CHAT, big_chat(12)))
            head = asyncio.create_task(opened[-1].read_head())
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, until, lambda: head.done()
                                       or len(cluster.open_requests()) == len(opened), 20, "it is taken")
            if head.done():
                break
            head.cancel()
        refused = await opened[-1].read()
        alive = await fetch(cluster.api, "GET", "/livez")
        for answer in opened:
            answer.abort()
        return refused, alive
    refused, alive = asyncio.run(go())
    assert refused.status == 503 and "memory" in refused.json()["error"]["message"], refused.body
    assert refused.headers["retry-after"] and refused.headers["x-drover-reason"] == "overloaded"
    assert alive.status == 200
    until(lambda: chat(cluster).status == 200, 10, "there is room again")
    until(lambda: "event=memory_short" not in cluster.master.log()
          or "event=memory_enough" in cluster.master.log(), 10)
    assert cluster.worker_pids() != old and len(cluster.worker_pids()) == 1, "nobody died"


def test_a_worker_that_gets_no_memory_is_replaced_at_worst(make_cluster, monkeypatch):
    use_little_memory(monkeypatch)
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a", "slots=64,ctx=1000000000,prefill=1000")
    worker, health = cluster.worker_pids()[0], cluster.health_pid()
    with open(f"/proc/{worker}/status", encoding="ascii") as f:
        data = int(re.search(r"VmData:\s+(\d+)", f.read()).group(1)) * 1024
    resource.prlimit(worker, resource.RLIMIT_DATA, (data + (8 << 20), resource.RLIM_INFINITY))

    async def go():
        results = await asyncio.gather(*(
            asyncio.wait_for(fetch(cluster.api, "POST", CHAT, big_chat(12)), 5)
            for _ in range(4)), return_exceptions=True)
        return [getattr(result, "status", type(result).__name__) for result in results]
    results = asyncio.run(go())
    assert 200 not in results, results
    try:
        resource.prlimit(worker, resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
    except ProcessLookupError:
        pass  # it is gone: the master has a new one
    until(lambda: cluster.worker_pids() and chat(cluster).status == 200, 15, "served again")
    assert cluster.master.running() and cluster.health_pid() == health


# ---- connections ----

def test_ten_thousand_idle_connections_are_in_nobodys_way(make_cluster):
    count = 10000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 4096), hard))
    cluster = make_cluster(workers=2).start()
    cluster.start_node("a", "slots=64,speed=20")
    before = {pid: anonymous_bytes(pid) for pid in cluster.worker_pids()}
    idle = []
    try:
        for _ in range(count):
            idle.append(socket.create_connection(cluster.api, 30 * SLOW))
        until(lambda: metric(cluster, "drover_worker_connections") >= count, 20)
        grown = sum(anonymous_bytes(pid) - held for pid, held in before.items())
        assert grown / count < 16 << 10, f"{grown / count:.0f} bytes for an idle connection"

        async def some():
            answers = []
            for _ in range(10):
                answers += await asyncio.gather(*(
                    pressure.one_chat(cluster.api, chat_body(f"{i}", 4), 0) for i in range(10)))
            return answers
        answers = asyncio.run(some())
        assert {answer.status for answer in answers} == {200}
        assert pressure.percentile([answer.ttft_s for answer in answers], 0.99) < 0.2 * SLOW
    finally:
        for s in idle:
            s.close()
    until(lambda: metric(cluster, "drover_worker_connections") < 20, 20, "all are counted out")


def test_those_whom_a_full_accept_queue_kept_out_are_served_later(make_cluster):
    cluster = make_cluster(workers=1).start()
    cluster.start_node("a")
    worker, flood = cluster.worker_pids()[0], []
    request = make_request("GET", "/livez", headers={"Connection": "close"})
    with open("/proc/sys/net/core/somaxconn", encoding="ascii") as f:
        count = min(int(f.read()), 4096) + 300
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 4096), hard))
    os.kill(worker, signal.SIGSTOP)
    try:
        for _ in range(count):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(cluster.api)
            flood.append(s)
        # The health process has a listener of its own.
        assert metric(cluster, "drover_process_running") >= 1
    finally:
        os.kill(worker, signal.SIGCONT)
    for s in flood:
        s.settimeout(30 * SLOW)
        s.sendall(request)
    assert all(read_all(s).startswith(b"HTTP/1.1 200 ") for s in flood)
    for s in flood:
        s.close()
    assert chat(cluster).status == 200


def stream_s(cluster, prompt, tokens):
    begun = time.monotonic()
    answer = chat(cluster, prompt, tokens)
    assert answer.status == 200 and text_of(answer.body)
    return time.monotonic() - begun


def test_a_hundred_clients_that_do_not_read_hold_up_no_other(make_cluster, monkeypatch):
    use_little_memory(monkeypatch)
    cluster = make_cluster(workers=1, config={"limits": {"write_stall_ms": int(1000 * SLOW)}}).start()
    cluster.start_node("a", "slots=256,rate=400,spread=16,ctx=1000000")
    worker = cluster.worker_pids()[0]
    usual = stream_s(cluster, "usual", 200)
    before = anonymous_bytes(worker)
    request = make_request("POST", CHAT, chat_body("slow", 100000))
    slow = []
    for _ in range(100):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(cluster.api)
        s.sendall(request)
        slow.append(s)
    until(lambda: cluster.gauges()["a"][0] == 100, 10)
    meanwhile = stream_s(cluster, "meanwhile", 200)
    assert meanwhile < 1.5 * usual + 0.5 * SLOW, (usual, meanwhile)
    until(lambda: "event=write_stall" in cluster.master.log(), 10, "the first are given up")
    grown = anonymous_bytes(worker) - before
    assert grown < 100 << 20, f"{grown / 100:.0f} bytes for each"
    until(lambda: cluster.gauges()["a"] == (0, 0), 20, "all are given up, and the node knows")
    for s in slow:
        s.close()


def test_two_thousand_streams_that_break_off_at_once_are_cancelled_at_once(make_cluster):
    count = 2000
    cluster = make_cluster(workers=2).start()
    cluster.start_node("a", f"slots={count + 96},rate=1,spread=64,ctx=1000000")

    async def go():
        streams = []
        for start in range(0, count, 200):
            streams += await asyncio.gather(*(
                open_request(cluster.api, "POST", CHAT, chat_body(f"{i % 20}", 10000))
                for i in range(start, start + 200)))
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, until, lambda: cluster.gauges()["a"][0] == count, 20,
                                   "all are under way")
        for stream in streams:
            stream.abort()
        begun = time.monotonic()
        await loop.run_in_executor(None, until, lambda: cluster.gauges()["a"] == (0, 0), 5)
        return time.monotonic() - begun
    with pressure.Watcher({"livez": (*cluster.api, "/livez")}, cluster.worker_pids()) as watcher:
        took = asyncio.run(go())
    assert took < 1 * SLOW, f"{took:.2f} s until the last was cancelled"
    assert watcher.report["latencies"]["livez"]["bad"] == 0
    until(lambda: cluster.node_row("a")["inflight"] == 0, 5)


def soft_limit(pid):
    with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
        return int(next(line for line in limits if line.startswith("Max open files")).split()[3])


def test_nodes_and_simulated_engines_may_have_more_files_open_than_the_usual_1024(make_cluster):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cluster = make_cluster(workers=1).start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        node = cluster.start_node("a")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for pid in (node.pid, *(sim.pid for sim in cluster.engines)):
        assert soft_limit(pid) > 1024


# ---- for long ----

@pytest.mark.plain
def test_many_requests_leave_nothing_behind():
    """A short run of scripts/soak-leak; by hand it sends a million."""
    done = subprocess.run([ROOT / "scripts/soak-leak", "--requests", "20000", "--minutes", "3"], check=False,
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stdout.endswith("soak-leak: PASS\n"), done.stdout + done.stderr


def soak_leak():
    """The script as a module."""
    loader = importlib.machinery.SourceFileLoader("soak_leak", str(ROOT / "scripts/soak-leak"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("soak_leak", loader))
    loader.exec_module(module)
    return module


def memory(cluster):
    """KiB of each process that carries tokens."""
    pids = {f"worker {row['process']}": row["pid"] for row in cluster.worker_rows()}
    pids |= {f"node {node.name}": node.pid for node in cluster.nodes}
    return {name: anonymous_bytes(pid) // 1024 for name, pid in pids.items()}


@pytest.mark.plain
def test_memory_is_given_back_after_many_streams(make_cluster):
    soak = soak_leak()
    cluster = make_cluster(workers=2, config={"limits": {"max_connections": 2048}}).start()
    cluster.start_node("a", f"{soak.SPEC},models={';'.join(soak.MODELS)}")
    cluster.settings["aliases"] = [{"name": f"alias-{n}", "model": soak.MODELS[n]} for n in range(20)]
    cluster.settings["aliases"].append({"name": "wild-*", "model": soak.MODELS[30:33]})
    cluster.write_config()
    cluster.ctl("reload")
    cluster.wait_models_known()
    crowd = soak.Crowd(cluster.api, soak.Requests(3), 8)
    assert crowd.run(200, time.monotonic() + 60)
    before = memory(cluster)
    crowd.clients = 600
    assert crowd.run(20000, time.monotonic() + 120) and not crowd.wrongs, crowd.examples
    until(lambda: all(kib < before[name] + 10240 for name, kib in memory(cluster).items()), 30,
          f"memory is given back, {before} before")


@pytest.mark.plain
def test_clients_that_hardly_read_cost_their_window(make_cluster):
    cluster = make_cluster(workers=1, config={"limits": {"write_stall_ms": 600000}}).start()
    cluster.start_node("a", "slots=128,base_ms=0,slope_ms=0,speed=1000,tokens=60000,length=limit")
    assert chat(cluster).status == 200
    before = memory(cluster)
    clients = []
    for n in range(100):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(cluster.api)
        s.sendall(make_request("POST", CHAT, chat_body(f"long {n}", 60000)))
        clients.append(s)
    until(lambda: len(cluster.open_requests()) == 100, 20)
    for _ in range(5):  # a byte a second
        for s in clients:
            s.recv(1)
        time.sleep(1)
    # 320 KiB on the way, and the text of that and of what the kernel took, for a resume.
    for name, kib in memory(cluster).items():
        assert kib < before[name] + 100 * 768, f"{name}: {before[name]} KiB became {kib} KiB"
    assert chat(cluster).status == 200
    for s in clients:
        s.close()
