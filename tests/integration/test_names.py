"""Static nodes by host name: looked up again, and as many nodes as the name has addresses.

The names are made up in an /etc/hosts of the coordinator's own, in a mount namespace.
"""

import asyncio
import shutil
import signal
import subprocess

import pytest

from harness import SLOW, Cluster, Process, free_port, program, until
from load import chat_body, fetch_now, open_request, text_of

CHAT = "/v1/chat/completions"
NAME = "gpu.drover.test"


def may_unshare():
    return shutil.which("unshare") is not None and subprocess.run(
        ["unshare", "-m", "--propagation", "private", "true"], check=False,
        stderr=subprocess.DEVNULL).returncode == 0


pytestmark = pytest.mark.skipif(not may_unshare(), reason="only root can make a mount namespace")


class Named(Cluster):
    """A cluster that reads self.hosts as its /etc/hosts, and has one node `gpu` by name."""

    def __init__(self, name, **options):
        super().__init__(name=name, workers=1, **options)
        self.port = free_port()
        self.hosts = self.dir / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.settings["nodes"] = [{"name": "gpu", "address": f"{NAME}:{self.port}"}]
        self.settings["health"]["resolve_ms"] = 200

    def launch(self):
        self.master = Process(
            ["unshare", "-m", "--propagation", "private", "sh", "-c",
             'mount --bind "$1" /etc/hosts && exec "$2" -c "$3"', "sh", str(self.hosts),
             program("drover"), str(self.config_path)], self.dir / "drover.log")
        self.wait_started()

    def resolve_to(self, *addresses):
        # In place: a mount stays with the file it was made of.
        self.hosts.write_text("127.0.0.1 localhost\n" +
                              "".join(f"{address} {NAME}\n" for address in addresses))

    def serve_at(self, address, behaviour="slots=2,speed=10"):
        return self.start_node(address.replace(".", "-"), behaviour, join=False,
                               wait=False, extra=["--listen", f"{address}:{self.port}"])

    def shown(self):
        return {row["name"]: row["state"] for row in self.ctl_rows("nodes")
                if row["state"] != "GONE"}


@pytest.fixture
def named(request):
    made = Named(request.node.name)
    yield made
    report = getattr(request.node, "report_call", None)
    made.finish(report is None or report.failed)


def until_shown(cluster, **wanted):
    wanted = {name.replace("_", "-", 1).replace("_", "."): state
              for name, state in wanted.items()}
    until(lambda: cluster.shown() == wanted, 10,
          f"{wanted}; it is {cluster.shown()}\n{cluster.tails()}")


def test_a_name_is_as_many_nodes_as_it_has_addresses(named):
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        named.serve_at(address)
    named.start()
    until_shown(named, gpu="JOINING")
    until(lambda: "event=node_unresolved" in named.master.log(), 10)
    named.resolve_to("127.0.0.2")
    until_shown(named, gpu="UP")
    assert named.node_row("gpu")["address"] == f"127.0.0.2:{named.port}"
    named.resolve_to("127.0.0.3", "127.0.0.2")
    until_shown(named, **{"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"})
    three = named.node_row("gpu-127.0.0.3")
    # One goes, one comes, and the third is left in peace.
    named.resolve_to("127.0.0.4", "127.0.0.3")
    until_shown(named, **{"gpu_127_0_0_3": "UP", "gpu_127_0_0_4": "UP"})
    assert named.node_row("gpu-127.0.0.3")["generation"] == three["generation"]
    answer = fetch_now(named.api, "POST", CHAT, chat_body("hello", 4))
    assert answer.status == 200 and answer.headers["x-drover-node"].startswith("gpu-127.0.0.")
    text_of(answer.body)
    # The name of one address is the one that the configuration gives.
    named.resolve_to("127.0.0.4")
    until_shown(named, gpu="UP")


def test_without_an_answer_the_last_addresses_stay(named):
    for address in ("127.0.0.2", "127.0.0.3"):
        named.serve_at(address)
    named.resolve_to("127.0.0.2", "127.0.0.3")
    named.start()
    both = {"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"}
    until_shown(named, **both)
    named.resolve_to()
    until(lambda: "event=node_unresolved" in named.master.log(), 10, "no answer")
    until_shown(named, **both)
    assert fetch_now(named.api, "POST", CHAT, chat_body("hello", 4)).status == 200
    named.resolve_to("127.0.0.2")
    until_shown(named, gpu="UP")


def test_a_node_that_moves_keeps_its_name_and_another_host_is_another_node(named):
    for address in ("127.0.0.2", "127.0.0.3"):
        named.serve_at(address)
    named.resolve_to("127.0.0.2")
    named.start()
    until_shown(named, gpu="UP")
    named.resolve_to("127.0.0.3")
    until(lambda: named.node_row("gpu")["address"] == f"127.0.0.3:{named.port}", 10, "it moved")
    until_shown(named, gpu="UP")
    named.write_config(nodes=[{"name": "gpu", "address": f"localhost:{named.port}"}])
    named.serve_at("127.0.0.1")
    named.ctl("reload")
    until(lambda: named.node_row("gpu")["address"] == f"127.0.0.1:{named.port}", 10, "another")
    until_shown(named, gpu="UP")
    named.write_config(nodes=[])
    named.ctl("reload")
    until(lambda: named.shown() == {}, 10, "none is left")


def test_the_nodes_of_a_name_outlive_the_health_process(named):
    for address in ("127.0.0.2", "127.0.0.3"):
        named.serve_at(address)
    named.resolve_to("127.0.0.2", "127.0.0.3")
    named.start()
    both = {"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"}
    until_shown(named, **both)
    before = {row["name"]: row["generation"] for row in named.ctl_rows("nodes")}
    old = named.health_pid()
    subprocess.run(["kill", f"-{int(signal.SIGKILL)}", str(old)], check=True)
    until(lambda: named.health_pid() not in (None, old), 10, "another health process")
    named.resolve_to("127.0.0.3", "127.0.0.2")
    until_shown(named, **both)
    assert {row["name"]: row["generation"] for row in named.ctl_rows("nodes")} == before


def test_a_drained_machine_stays_drained_when_its_node_gets_another_name(named):
    for address in ("127.0.0.2", "127.0.0.3"):
        named.serve_at(address)
    named.resolve_to("127.0.0.2")
    named.start()
    until_shown(named, gpu="UP")
    named.ctl("drain", "gpu")
    until_shown(named, gpu="DRAINING")
    named.resolve_to("127.0.0.2", "127.0.0.3")
    until_shown(named, **{"gpu_127_0_0_2": "DRAINING", "gpu_127_0_0_3": "UP"})
    named.ctl("undrain", "gpu-127.0.0.2")
    until_shown(named, **{"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"})


def while_streaming(named, act):
    """Calls act() while both of two nodes with two slots each have two streams open."""
    async def go():
        streams = [await open_request(named.api, "POST", CHAT, chat_body("a long story", 8000))
                   for _ in range(4)]
        for stream in streams:  # they take what time is needed, and then are broken off
            await stream.read_head()
        await asyncio.to_thread(
            until, lambda: all(row["inflight"] == 2 for row in named.ctl_rows("nodes")), 10,
            "both are busy")
        await asyncio.to_thread(act)
        for stream in streams:
            stream.abort()
    asyncio.run(asyncio.wait_for(go(), 120 * SLOW))


def test_a_drained_machine_stays_drained_when_its_entry_is_taken_out_and_put_back(named):
    for address in ("127.0.0.2", "127.0.0.3"):
        named.serve_at(address, "slots=2,rate=20")
    named.resolve_to("127.0.0.2", "127.0.0.3")
    named.start()
    until_shown(named, **{"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"})
    entry = named.settings["nodes"]

    def leave_and_come_back():
        named.ctl("drain", "gpu-127.0.0.2")
        named.write_config(nodes=[])
        named.ctl("reload")
        until(lambda: set(named.shown().values()) == {"DRAINING"}, 10, "they are leaving")
        named.write_config(nodes=entry)
        named.ctl("reload")
        until_shown(named, **{"gpu_127_0_0_2": "DRAINING", "gpu_127_0_0_3": "UP"})
        assert named.node_row("gpu-127.0.0.2")["reason"] == "operator"
        # As when its certificates are others: the next look-up shows which node is which.
        entry[0]["tls"] = {"enabled": False, "server_name": "gpu"}
        named.write_config(nodes=entry)
        named.ctl("reload")
        until_shown(named, **{"gpu_127_0_0_2": "DRAINING", "gpu_127_0_0_3": "UP"})
        until(lambda: named.node_row("gpu-127.0.0.2")["reason"] == "operator", 10)
        named.ctl("undrain", "gpu-127.0.0.2")
    while_streaming(named, leave_and_come_back)


def test_a_name_that_is_taken_is_logged_once(named):
    for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
        named.serve_at(address)
    holder = named.start_node("holder", "slots=2", join=False, wait=False)
    named.resolve_to("127.0.0.2", "127.0.0.3")
    entry = named.settings["nodes"]
    named.write_config(nodes=entry + [{"name": "gpu-127.0.0.2", "address": holder.address()}])
    named.launch()
    both = {"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"}
    until_shown(named, **both)
    told = 'event=node_not_added node="gpu-127.0.0.2"'
    until(lambda: told in named.master.log(), 10, "it is told")
    for _ in range(3):  # at least one look-up each
        named.resolve_to("127.0.0.2", "127.0.0.3", "127.0.0.4")
        until_shown(named, gpu_127_0_0_4="UP", **both)
        named.resolve_to("127.0.0.2", "127.0.0.3")
        until_shown(named, **both)
    assert named.master.log().count(told) == 1, named.master.log()
    assert named.node_row("gpu-127.0.0.2")["address"] == holder.address()
    named.write_config(nodes=entry)
    named.ctl("reload")
    until(lambda: (named.node_row("gpu-127.0.0.2") or {}).get("address")
          == f"127.0.0.2:{named.port}", 10, "the name is free")
    until_shown(named, **both)


def test_a_name_that_is_back_before_its_nodes_have_gone_has_them_again(named):
    for address in ("127.0.0.2", "127.0.0.3"):
        named.serve_at(address, "slots=2,rate=20")
    named.resolve_to("127.0.0.2", "127.0.0.3")
    named.start()
    both = {"gpu_127_0_0_2": "UP", "gpu_127_0_0_3": "UP"}
    until_shown(named, **both)
    entry = named.settings["nodes"]

    def leave_and_come_back():
        named.write_config(nodes=[])
        named.ctl("reload")
        until(lambda: set(named.shown().values()) == {"DRAINING"}, 10, "they are leaving")
        named.write_config(nodes=entry)
        named.ctl("reload")
        until_shown(named, **both)
    while_streaming(named, leave_and_come_back)
    assert "event=node_not_added" not in named.master.log()
