"""Another program file takes over under load: no request fails, and no failure of it matters."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess

import pytest

import harness
from harness import Process, alive, children_of, program, until
from load import Load, chat_body, fetch_now, open_request
from test_responses import Store, follow, make

LOAD = dict(concurrency=16, tokens=24)
PR_SET_CHILD_SUBREAPER = 36


class Adopted(Process):
    """A process that another one started; it came to us when that one ended."""

    def __init__(self, pid, log_path):  # pylint: disable=super-init-not-called
        self.argv = ["drover"]
        self.log_path = log_path
        self.pid = pid
        self.popen = self
        self.returncode = None

    def poll(self):
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # its parent is not gone yet
                return None if alive(self.pid) else 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, bound_s=10.0):
        until(lambda: self.poll() is not None, bound_s, "end of the new master")
        return self.returncode


class Upgradable:
    """A cluster whose master runs from a file of its own, which tests replace."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.file = cluster.dir / "bin" / "drover"
        self.file.parent.mkdir()
        shutil.copy(program("drover"), self.file)

    def launch(self):
        cluster = self.cluster
        cluster.write_config()
        cluster.master = Process([str(self.file), "-c", str(cluster.config_path)],
                                 cluster.dir / "drover.log", cluster.environment)
        cluster.wait_started()
        return self

    def replace(self, path=None, text=None, mode=0o755):
        """As a package manager does it: a new file under the old name."""
        new = self.file.with_suffix(".new")
        if text is None:
            shutil.copy(path or program("drover"), new)
        else:
            new.write_text(text)
        new.chmod(mode)
        new.rename(self.file)

    def follow(self):
        """The successor is the cluster's master from now on."""
        old = self.cluster.master
        pid = int((self.cluster.runtime / "drover.lock").read_text())
        assert pid != old.pid
        self.cluster.others.append(old)
        self.cluster.master = Adopted(pid, old.log_path)
        # kill_all() and the search for leftovers go by session, which they share.
        return old


@pytest.fixture(autouse=True)
def reaper():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture
def up(make_cluster):
    made = make_cluster()
    rig = Upgradable(made).launch()
    for name in ("a", "b"):
        made.start_node(name, "slots=32,rate=100", wait=False)
    for node in made.nodes:
        made.wait_up(node.name, node)
    return rig


def assert_clean(load, at_least=20):
    assert not load.failures, f"{len(load.failures)} failed: {load.failures[:3]}"
    assert load.done >= at_least, f"only {load.done} requests were made"


def test_an_upgrade_under_load_fails_no_request(up):
    cluster = up.cluster
    with Load(cluster.api, **LOAD) as load:
        load.more(10)
        for _ in range(2):
            api = cluster.api
            up.replace()
            done = cluster.ctl("upgrade")
            assert "serves" in done.stdout, done.stdout
            old = up.follow()
            assert cluster.api == api
            load.more(20)
            assert old.wait(30) == 0, old.log()
    assert_clean(load)
    assert set(cluster.worker_pids()) <= set(children_of(cluster.master.pid))
    for name in ("a", "b"):
        cluster.wait_up(name)
    log = cluster.master.log()
    assert log.count("event=upgraded ") == 2
    assert not [name for name in os.listdir(cluster.runtime)
                if name.endswith((".old", ".next"))]


def test_follow_ups_reach_their_node_after_an_upgrade(make_cluster):
    stores = {name: Store(name) for name in "ab"}
    cluster = make_cluster()
    rig = Upgradable(cluster).launch()
    for name, store in stores.items():
        cluster.start_node(name, engine=store.url)
    made = make(cluster, 8)
    cluster.ctl("upgrade")
    rig.follow()
    follow(cluster, made)
    for store in stores.values():
        store.close()


def test_a_stream_that_began_before_an_upgrade_ends_whole_on_the_old_program(up):
    cluster = up.cluster
    with Load(cluster.api, concurrency=1, tokens=400, prompts=1) as load:
        until(cluster.open_requests, 5, "the stream is open")
        cluster.ctl("upgrade")
        old = up.follow()
        assert old.running()
        load.more(2)
        assert old.wait(30) == 0
    assert_clean(load, 2)


def test_an_upgrade_with_every_slot_taken_and_a_queue_fails_no_request(make_cluster):
    """Old and new workers do not see each other's requests; the nodes' own admission does."""
    cluster = make_cluster()
    rig = Upgradable(cluster).launch()
    for name in ("a", "b"):
        cluster.start_node(name, "slots=3,rate=100")
    with Load(cluster.api, concurrency=24, tokens=24) as load:
        until(lambda: len([row for row in cluster.open_requests() if not row["node"]]) >= 8, 20,
              "a line has formed")
        for _ in range(2):
            rig.replace()
            cluster.ctl("upgrade")
            old = rig.follow()
            load.more(24)
            assert old.wait(60) == 0
    assert_clean(load)


def test_usr2_upgrades_too_and_static_nodes_are_probed_first(make_cluster):
    cluster = make_cluster(token=False)
    nodes = [cluster.start_node(name, "slots=32,rate=100", join=False, wait=False)
             for name in ("a", "b")]
    cluster.settings["nodes"] = [{"name": node.name, "address": node.address()}
                                 for node in nodes]
    rig = Upgradable(cluster).launch()
    for node in nodes:
        cluster.wait_up(node.name)
    with Load(cluster.api, **LOAD) as load:
        load.more(10)
        cluster.master.signal(signal.SIGUSR2)
        until(lambda: "event=upgraded " in cluster.master.log(), 15, "the upgrade")
        old = rig.follow()
        load.more(20)
        assert old.wait(30) == 0
    assert_clean(load)


def test_a_drained_node_and_a_scale_outlive_an_upgrade(up):
    cluster = up.cluster
    cluster.ctl("drain", "a")
    cluster.ctl("scale", "3")
    until(lambda: len(cluster.worker_pids()) == 3, 10)
    cluster.ctl("upgrade")
    up.follow()
    until(lambda: cluster.node_state("a") == "DRAINING", 10, "a is drained with the new one")
    assert len(cluster.worker_pids()) == 3
    cluster.ctl("undrain", "a")
    cluster.wait_up("a")


def successor_of(up):
    """The pid of the new master, as long as the old one is there."""
    cluster = up.cluster
    return next(pid for pid in children_of(cluster.master.pid)
                if str(up.file) in (line := open(f"/proc/{pid}/cmdline").read())
                or "master" in line)


def begun(up):
    """An upgrade whose new master stands still: it has read the old one's message."""
    cluster = up.cluster
    cluster.master.signal(signal.SIGUSR2)
    until(lambda: "event=taking_over" in cluster.master.log(), 15, "the new one is there")
    pid = successor_of(up)
    os.kill(pid, signal.SIGSTOP)
    return pid


def test_a_command_during_an_upgrade_is_not_lost(up):
    cluster = up.cluster
    pid = begun(up)
    for command in (("scale", "4"), ("drain", "a"), ("undrain", "a")):
        told = cluster.ctl(*command, check=False)
        assert told.returncode == 1 and "an upgrade is under way; try again" in told.stderr
    cluster.master.signal(signal.SIGTTIN)
    until(lambda: len(cluster.worker_pids()) == 3, 10, "one more at once")
    cluster.write_config(log={"level": "debug"})
    cluster.master.signal(signal.SIGHUP)
    cluster.master.signal(signal.SIGUSR1)
    until(lambda: "event=logs_reopened" in cluster.master.log(), 5, "the signals were taken")
    os.kill(pid, signal.SIGCONT)
    until(lambda: "event=upgraded " in cluster.master.log(), 15, "the upgrade")
    old = up.follow()
    until(lambda: "event=reloaded" in old.log(), 15, "the new one reads the configuration again")
    until(lambda: len(cluster.worker_pids()) == 3, 10, "and has as many workers")
    assert old.log().count("event=logs_reopened") == 2
    assert old.wait(30) == 0


def test_two_commands_for_an_upgrade_at_once_both_get_its_result(up):
    argv = [program("droverctl"), "--runtime-dir", str(up.cluster.runtime), "upgrade"]
    asked = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)]
    until(lambda: "event=taking_over" in up.cluster.master.log(), 15, "the new one is there")
    pid = successor_of(up)
    os.kill(pid, signal.SIGSTOP)
    asked.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    until(lambda: up.cluster.master.log().count("event=operator op=upgrade") == 2, 10, "asked")
    os.kill(pid, signal.SIGCONT)
    for one in asked:
        out, err = one.communicate(timeout=30 * harness.SLOW)
        assert one.returncode == 0 and "serves" in out, out + err
    assert up.follow().wait(30) == 0


def test_an_upgrade_may_come_with_other_nodes_altogether(make_cluster):
    """Those of before never come: after six seconds, any node that serves is enough."""
    cluster = make_cluster(token=False)
    one, two = [cluster.start_node(name, "slots=4", join=False, wait=False)
                for name in ("one", "two")]
    cluster.settings["nodes"] = [{"name": "one", "address": one.address()}]
    rig = Upgradable(cluster).launch()
    cluster.wait_up("one")
    cluster.write_config(nodes=[{"name": "two", "address": two.address()}])
    cluster.ctl("upgrade")
    assert rig.follow().wait(30) == 0
    cluster.wait_up("two")
    assert "event=nodes_missing up=0 of=1" in cluster.master.log()


def test_an_upgrade_brings_back_a_scoreboard_that_was_removed(up):
    cluster = up.cluster
    with Load(cluster.api, **LOAD) as load:
        load.more(5)
        (cluster.runtime / "scoreboard").unlink()
        assert cluster.ctl("status", check=False).returncode != 0
        cluster.master.signal(signal.SIGUSR2)
        until(lambda: "event=upgraded " in cluster.master.log(), 15, "the upgrade")
        old = up.follow()
        load.more(10)
        assert old.wait(30) == 0
    assert_clean(load)
    cluster.ctl("status")


def test_an_upgrade_names_a_runtime_dir_that_is_gone(up):
    cluster, api = up.cluster, up.cluster.api
    shutil.rmtree(cluster.runtime)
    cluster.master.signal(signal.SIGUSR2)
    until(lambda: f'event=upgrade_failed error="{cluster.runtime}/drover.lock is gone: ' in cluster.master.log(), 20)
    assert fetch_now(api, "POST", "/v1/chat/completions", chat_body("hi", 2)).status == 200
    cluster.master.signal(signal.SIGTERM)
    assert cluster.master.wait(20) == 0


def test_workers_that_were_all_sent_home_stay_there_in_an_upgrade(up):
    cluster = up.cluster
    cluster.master.signal(signal.SIGWINCH)
    until(lambda: not cluster.worker_rows_all(), 15, "no worker is left")
    cluster.ctl("upgrade")
    old = up.follow()
    assert old.wait(30) == 0
    assert not cluster.worker_rows_all()
    cluster.ctl("scale", "2")
    load_one = fetch_now(cluster.api, "POST", "/v1/chat/completions",
                         chat_body("hello", 2, stream=False))
    assert load_one.status == 200


@pytest.mark.parametrize("order", (signal.SIGTERM, signal.SIGQUIT))
def test_an_order_to_the_new_master_that_is_ready_before_go_ends_both(make_cluster, order):
    """The lock file names it, so an operator signals it."""
    cluster = make_cluster(token=False, config={"shutdown_grace_ms": 300})
    node = cluster.start_node("a", "slots=4,rate=20", join=False, wait=False)
    cluster.settings["nodes"] = [{"name": "a", "address": node.address()}]
    rig = Upgradable(cluster).launch()
    cluster.wait_up("a")
    lock = cluster.runtime / "drover.lock"
    old = cluster.master

    def end_it():
        old.signal(signal.SIGUSR2)
        until(lambda: "event=taking_over" in old.log(), 15, "the new one is there")
        old.signal(signal.SIGSTOP)
        until(lambda: int(lock.read_text()) != old.pid, 15, "the new one is ready")
        rig.follow()
        cluster.master.signal(order)
        until(lambda: "event=ending order=" in old.log(), 10, "it has heard the order")
        assert "event=upgraded" not in old.log()
        old.signal(signal.SIGCONT)

    async def go():
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("long", 100000 if order == signal.SIGTERM else 60))
        await answer.read_head()
        seen = []
        async for event in answer.events():
            seen.append(event)
            if len(seen) == 3:
                await asyncio.to_thread(end_it)
        answer.close()
        return seen
    seen = asyncio.run(asyncio.wait_for(go(), 30 * harness.SLOW))
    assert seen[-1] == b"data: [DONE]"
    assert (b'"error"' in seen[-2]) == (order == signal.SIGTERM), seen[-2:]
    assert old.wait(10) == 0
    assert cluster.master.wait(10) == 0


def test_a_health_process_that_dies_while_its_nodes_move_takes_none_back(up):
    """The new master's health process stands still meanwhile: there is no other to join."""
    cluster = up.cluster
    health = cluster.health_pid()
    with Load(cluster.api, **LOAD) as load:
        load.more(5)
        late = next(node.pid for node in cluster.nodes if node.name == "b")
        os.kill(late, signal.SIGSTOP)  # it comes when there is no other to join
        try:
            cluster.master.signal(signal.SIGUSR2)
            until(lambda: "event=leaving_nodes" in cluster.master.log(), 15, "nodes are let go")
            other = children_of(successor_of(up))[0]
            os.kill(health, signal.SIGKILL)
            until(lambda: cluster.health_pid() not in (None, health), 15, "another one")
            os.kill(other, signal.SIGSTOP)
        finally:
            os.kill(late, signal.SIGCONT)
        load.more(30)
        joined = cluster.master.log().count('event=node_joined node="b"')
        os.kill(other, signal.SIGCONT)
        until(lambda: "event=upgraded " in cluster.master.log(), 15, "the upgrade")
        old = up.follow()
        for name in ("a", "b"):
            cluster.wait_up(name)
        load.more(20)
        assert old.wait(30) == 0
    assert_clean(load)
    assert joined == 1, "it joined a master that goes"


def test_a_drained_node_that_was_away_during_two_upgrades_is_drained_when_it_is_back(up):
    cluster = up.cluster
    away = next(node.pid for node in cluster.nodes if node.name == "a")
    cluster.ctl("drain", "a")
    os.kill(away, signal.SIGSTOP)
    try:
        for _ in range(2):
            cluster.ctl("upgrade")
            assert up.follow().wait(30) == 0
        assert cluster.node_row("a") is None
    finally:
        os.kill(away, signal.SIGCONT)
    until(lambda: cluster.node_state("a") == "DRAINING", 15, "it is back, and drained")
    cluster.ctl("undrain", "a")
    cluster.wait_up("a")


def refused(up, words, timeout=40):
    """An upgrade that fails: said, and nothing has changed."""
    cluster = up.cluster
    master, workers = cluster.master.pid, set(cluster.worker_pids())
    done = cluster.ctl("upgrade", check=False, timeout=timeout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert words in done.stderr, done.stderr
    until(lambda: words in cluster.master.log(), 5, words)
    assert cluster.master.running() and cluster.master.pid == master
    assert set(cluster.worker_pids()) == workers
    assert int((cluster.runtime / "drover.lock").read_text()) == master
    assert not [name for name in os.listdir(cluster.runtime)
                if name.endswith((".old", ".next"))]


def test_a_program_that_cannot_run_is_refused_and_nothing_changes(up):
    cluster = up.cluster
    with Load(cluster.api, **LOAD) as load:
        load.more(5)
        up.file.unlink()
        refused(up, "No such file")
        up.replace(text="this is no program")
        refused(up, "Exec format error")
        up.replace(mode=0o644)
        refused(up, "Permission denied")
        up.replace(text="#!/bin/sh\nexit 7\n")
        refused(up, "status 7")
        up.replace(text="#!/bin/sh\nkill -SEGV $$\n")
        refused(up, "signal 11")
        up.replace()
        cluster.config_path.write_text(cluster.config_path.read_text() + "nonsense: 1\n")
        refused(up, "nonsense")
        load.more(10)
        cluster.write_config()
        cluster.ctl("upgrade")
        up.follow()
        load.more(10)
    assert_clean(load)


def test_an_upgrade_may_move_a_listener_and_is_refused_a_port_in_use(up):
    cluster = up.cluster
    old_api = cluster.api
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cluster.write_config(api={"listen": "127.0.0.1:%d" % taken.getsockname()[1]})
        refused(up, "api.listen")
        until(lambda: "Address already in use" in cluster.master.log(), 5)
        assert cluster.api == old_api
    cluster.write_config(api={"listen": "127.0.0.2:0"})
    cluster.ctl("upgrade")
    up.follow()
    assert cluster.api[0] == "127.0.0.2"
    assert fetch_now(cluster.api, "GET", "/livez").status == 200


def test_a_program_that_hangs_is_given_up_after_ten_seconds(up):
    cluster = up.cluster
    with Load(cluster.api, **LOAD) as load:
        load.more(5)
        up.replace(text="#!/bin/sh\nexec sleep 1000\n")
        refused(up, "not ready within 10 s")
        load.more(10)
    assert_clean(load)
    assert not [pid for pid in children_of(cluster.master.pid)
                if "sleep" in open(f"/proc/{pid}/cmdline").read()]


def test_a_program_that_does_not_know_upgrades_finds_the_lock_and_leaves(up):
    """As an older one would: it knows neither the descriptors nor the channel."""
    real = up.file.with_name("older")
    shutil.copy(program("drover"), real)
    up.replace(text=f'#!/bin/sh\nunset LISTEN_FDS LISTEN_PID LISTEN_FDNAMES\nexec {real} "$@"\n')
    refused(up, "status 1")
    until(lambda: "already running" in up.cluster.master.log(), 5)


def test_a_failure_after_the_nodes_were_let_go_brings_them_back(up):
    cluster = up.cluster
    health = cluster.health_pid()
    with Load(cluster.api, **LOAD) as load:
        load.more(5)
        before = set(children_of(cluster.master.pid))
        # A node that stands still does not come back, so the new program cannot be ready yet.
        os.kill(cluster.nodes[1].pid, signal.SIGSTOP)
        try:
            cluster.master.signal(signal.SIGUSR2)
            until(lambda: "event=leaving_nodes" in cluster.master.log(), 15, "nodes are let go")
            (victim,) = set(children_of(cluster.master.pid)) - before
            os.kill(victim, signal.SIGKILL)
            until(lambda: "event=upgrade_failed" in cluster.master.log(), 15, "it has failed")
        finally:
            os.kill(cluster.nodes[1].pid, signal.SIGCONT)
        load.more(10)
    assert_clean(load)
    until(lambda: (pid := cluster.health_pid()) and pid != health, 15, "a new health process")
    until(lambda: cluster.master.log().count("event=node_joined") >= 4, 15, "nodes are back")
    for name in ("a", "b"):
        cluster.wait_up(name)


def test_the_new_master_goes_on_when_the_old_one_is_killed_half_way(up):
    cluster = up.cluster
    with Load(cluster.api, **LOAD) as load:
        load.more(5)
        cluster.master.signal(signal.SIGUSR2)
        until(lambda: "event=taking_over" in cluster.master.log(), 15, "the new one is there")
        cluster.master.signal(signal.SIGKILL)
        until(lambda: "event=took_over" in cluster.master.log(), 20, "the new one is the master")
        old = up.follow()
        assert old.wait(5) == -signal.SIGKILL
        load.more(10)
    assert_clean(load)


def test_the_new_master_answers_when_the_old_one_and_all_nodes_are_gone(up):
    cluster = up.cluster
    begun(up)
    pid = successor_of(up)
    for process in (cluster.master, *(node.process for node in cluster.nodes)):
        process.signal(signal.SIGKILL)
        process.wait(5)
    cluster.others += [node.process for node in cluster.nodes]
    cluster.nodes.clear()
    os.kill(pid, signal.SIGCONT)
    until(lambda: "event=took_over" in cluster.master.log(), 20, "the new one is the master")
    up.follow()
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions",
                     chat_body("hello", 2, stream=False)).status == 503


def test_term_during_an_upgrade_ends_both(up):
    cluster = up.cluster
    up.replace(text="#!/bin/sh\nexec sleep 1000\n")
    cluster.master.signal(signal.SIGUSR2)
    until(lambda: "event=upgrade_started" in cluster.master.log(), 5)
    assert cluster.stop_master(signal.SIGTERM) == 0
    assert "error=\"drover is stopping\"" in cluster.master.log()


def test_term_to_the_new_master_ends_the_streams_of_the_old_one_within_the_grace(make_cluster):
    cluster = make_cluster(config={"shutdown_grace_ms": 300})
    rig = Upgradable(cluster).launch()
    cluster.start_node("a", "slots=4,rate=20")

    async def go():
        answer = await open_request(cluster.api, "POST", "/v1/chat/completions",
                                    chat_body("long", 100000))
        await answer.read_head()
        last, before, events = b"", b"", 0
        async for event in answer.events():
            events += 1
            if events == 3:
                await asyncio.to_thread(cluster.ctl, "upgrade")
                old = rig.follow()
                cluster.master.signal(signal.SIGTERM)
            last, before = event, last
        answer.close()
        return old, before, last
    old, before, last = asyncio.run(asyncio.wait_for(go(), 30 * harness.SLOW))
    assert b'"error"' in before
    assert last == b"data: [DONE]"
    assert old.wait(10) == 0
    assert cluster.master.wait(10) == 0


def test_a_program_with_another_layout_of_the_scoreboard_takes_over(up):
    other = harness.BUILD / "tests" / "drover_other_layout"
    cluster = up.cluster
    with Load(cluster.api, **LOAD) as load:
        load.more(10)
        up.replace(path=other)
        done = cluster.ctl("upgrade")
        old = up.follow()
        assert "serves" in done.stdout
        load.more(20)
        assert old.wait(30) == 0
        # droverctl of this build cannot read it, and says so.
        unreadable = cluster.ctl("nodes", check=False)
        assert unreadable.returncode == 1 and "layout version" in unreadable.stderr
        # And back again, as after a mistake.
        up.replace()
        cluster.ctl("upgrade")
        old = up.follow()
        load.more(20)
        assert old.wait(30) == 0
    assert_clean(load)
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions",
                     chat_body("hello", 2, stream=False)).status == 200


def test_paths_and_variables_mean_the_same_after_a_reload_and_an_upgrade(make_cluster):
    """They are those of the file's folder, and of the environment that the master was started with."""
    cluster = make_cluster(config={"runtime_dir": "./run", "log": {"access": "~/access.log"},
                                   "registry": {"token_file": "${JOIN}"}})
    cluster.environment = {"JOIN": "token", "HOME": str(cluster.dir), "OTHER": "s3cr3t"}
    rig = Upgradable(cluster).launch()
    cluster.start_node("desk")
    assert fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4)).status == 200
    until(lambda: "/v1/chat" in cluster.access_log_path.read_text(), 5, "the access log is at home")
    cluster.write_config(registry={"token_file": "./${JOIN}"})
    assert "reloaded" in cluster.ctl("reload").stdout
    until(lambda: "event=reloaded nodes=" in cluster.master.log(), 10, "health has read it again")
    good = cluster.config_path.read_text()
    for token, told in ("${OTHER}", "cannot read '${OTHER}'"), ("${UNSET}", "UNSET is not set"):
        cluster.write_config(registry={"token_file": token})
        done = cluster.ctl("reload", check=False)
        assert done.returncode == 1 and told in done.stderr and "drover.yaml:" in done.stderr
    cluster.config_path.write_text(good)
    cluster.ctl("upgrade")
    rig.follow()
    cluster.start_node("tower")
    assert "s3cr3t" not in cluster.master.log()
