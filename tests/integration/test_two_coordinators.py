"""Two coordinators and one node: its own admission keeps its slots right between them."""

import threading
import time

import pytest

from fake_engine import MODEL as FAKE, FakeEngine
from harness import SLOW, until
from load import chat_body, fetch_now

CHAT = "/v1/chat/completions"
SLOTS, QUEUE = 2, 1


class Busy(FakeEngine):
    """An engine that takes a while, and notes at how many requests it worked at once.

    A slot is free from the engine's last byte, which the next request may follow at once.
    """

    def __init__(self):
        super().__init__(behave=self.work)
        self.working = self.most = 0

    def work(self, handler, _, body):
        with self.lock:
            self.working += 1
            self.most = max(self.most, self.working)
        time.sleep(0.03)  # the work itself
        with self.lock:
            self.working -= 1
        handler.chat(body)


@pytest.fixture
def engine():
    made = Busy()
    yield made
    made.close()


def test_two_coordinators_share_a_node_fairly_and_never_overload_it(make_cluster, engine):
    clusters = [make_cluster(workers=2).start() for _ in range(2)]
    extra = ["--slots", str(SLOTS), "--queue", str(QUEUE),
             "--coordinator", "%s:%d" % clusters[1].address("registry")]
    clusters[0].start_node("a", engine=engine.url, extra=extra)
    clusters[1].wait_up("a")
    done, failures, stop = [0, 0], [], threading.Event()

    def client(side, number):
        while not stop.is_set():
            answer = fetch_now(clusters[side].api, "POST", CHAT, chat_body(
                f"{side} {number}", 4, model=FAKE))
            if answer.status != 200:
                failures.append((answer.status, answer.body))
                return
            with engine.lock:
                done[side] += 1

    threads = [threading.Thread(target=client, args=(side, n), daemon=True)
               for side in range(2) for n in range(6)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: failures or sum(done) > 200, 60, "the load runs")
    finally:
        stop.set()
        for thread in threads:
            thread.join(30 * SLOW)
    assert not failures, failures
    assert engine.most == SLOTS, "what waits, waits in the node or with a coordinator"
    share = done[0] / sum(done)
    assert 0.25 < share < 0.75, done
    for cluster in clusters:
        cluster.wait_idle()
        rows = cluster.ctl_rows("nodes")
        assert [(row["name"], row["slots"]) for row in rows] == [("a", SLOTS)]
    # A coordinator's loss is its own: the other one goes on.
    clusters[0].stop_master()
    assert fetch_now(clusters[1].api, "POST", CHAT,
                     chat_body("after", 4, model=FAKE)).status == 200
