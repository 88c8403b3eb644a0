"""The join token is replaced while requests run: nodes first, then the coordinator."""

import signal

from harness import until
from load import Load

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
