"""The join token is replaced while requests run: nodes first, then the coordinator."""

import asyncio
import signal

from harness import SLOW, until
from load import Load, chat_body, open_request

OLD = "the-old-token-0123456789abcdef0123456789"
NEW = "the-new-token-0123456789abcdef0123456789"


def set_tokens(path, *tokens):
    path.write_text("".join(token + "\n" for token in tokens))
    path.chmod(0o600)


def test_the_token_is_replaced_without_a_failed_request(make_cluster):
    cluster = make_cluster()
    old = cluster.token_path.read_text().strip()
    nodes_file, coordinators_file = cluster.token_path, cluster.dir / "coordinator-token"
    set_tokens(coordinators_file, old)
    cluster.settings["registry"]["token_file"] = str(coordinators_file)
    cluster.start()
    names = iter("abcdef")

    def start_one():
        return cluster.start_node(next(names), "slots=8,speed=10")

    def hup_nodes():
        for node in cluster.nodes:
            if not node.process.running():
                continue
            before = node.process.log().count("event=reloaded")
            node.process.signal(signal.SIGHUP)
            until(lambda: node.process.log().count("event=reloaded") > before, 5, "reloaded")

    start_one()
    start_one()
    with Load(cluster.api, concurrency=6) as load:
        set_tokens(nodes_file, NEW, old)
        hup_nodes()
        third = start_one()  # it is let in by the old one
        set_tokens(coordinators_file, NEW, old)
        cluster.ctl("reload")
        start_one()
        set_tokens(nodes_file, NEW)
        hup_nodes()
        set_tokens(coordinators_file, NEW)
        cluster.ctl("reload")
        start_one()
        assert cluster.stop_node(third) == 0
        before = load.done
        until(lambda: load.failures or load.done > before + 20, 20, "all goes on")
    assert not load.failures, load.failures[:3]
    states = [row["state"] for row in cluster.ctl_rows("nodes")]
    assert states.count("UP") == 4, cluster.tails()
    logs = cluster.master.log() + "".join(node.process.log() for node in cluster.nodes)
    assert old not in logs and NEW not in logs, "a token is never logged"


def test_a_node_that_knows_the_previous_token_only_reports_its_load(make_cluster, tmp_path):
    """The stream that health watches reports the load of others at a configured node."""
    old, both = tmp_path / "old", tmp_path / "both"
    set_tokens(old, OLD)
    set_tokens(both, NEW, OLD)
    clusters = [make_cluster(token=False, config={
        "node_token_file": str(both), "health": {"interval_ms": 60000}}) for _ in range(2)]
    argv = clusters[0].node_argv("a", clusters[0].start_engine("slots=4")[1], ["--token-file", str(old)])
    node = clusters[0].run_node("a", argv)
    for cluster in clusters:
        cluster.settings["nodes"] = [{"name": "a", "address": node.address()}]
        cluster.start()
        cluster.wait_up("a")

    def running():
        return clusters[0].ctl_json("node", "a").get("reported", {}).get("running")

    async def hold():
        held = await open_request(clusters[1].api, "POST", "/v1/chat/completions", chat_body(
            "x", 4, drover_sim={"fault": "hang", "after_tokens": 1}))
        await held.read_head()
        await asyncio.to_thread(until, lambda: running() == 1, 10, "the other one is told")
        held.abort()
    asyncio.run(asyncio.wait_for(hold(), 30 * SLOW))
    until(lambda: running() == 0, 10, "and that it is over")
