"""What the processes of a running Drover may do, and what of it can be seen from outside."""

from pathlib import Path

import pytest

from harness import children_of
from load import chat_body, fetch_now


def status_of(pid):
    """/proc/PID/status as a dict of texts."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict((key, value.strip()) for key, value in (line.split(":", 1) for line in lines))


def serve_one(cluster):
    answer = fetch_now(cluster.api, "POST", "/v1/chat/completions", chat_body("hi", 4))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("mode,filtered", [(None, "2"), ("log", "2"), ("off", "0")])
def test_the_children_serve_under_a_filter_of_system_calls(make_cluster, mode, filtered):
    cluster = make_cluster(config={"seccomp": mode} if mode else {}).start()
    cluster.start_node("a")
    serve_one(cluster)
    children = children_of(cluster.master.pid)
    assert len(children) == 3
    assert {status_of(pid)["Seccomp"] for pid in children} == {filtered}
