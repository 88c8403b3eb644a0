"""conftest.py - fixtures of the integration tests."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
for folder in ("engines", "peers"):
    sys.path.insert(1, os.path.join(os.path.dirname(__file__), "..", folder))

from harness import Cluster, finish_all  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "plain: needs programs that were built without sanitizers")


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "report_" + call.when, outcome.get_result())


@pytest.fixture
def make_cluster(request):
    """Makes clusters that are stopped, and checked for leftovers, when the test ends."""
    made = []

    def make(**options):
        cluster = Cluster(name=request.node.name, **options)
        made.append(cluster)
        return cluster

    yield make
    finish_all(request, made)


@pytest.fixture
def cluster(make_cluster):
    """Two workers and two quick simulated nodes, `a` and `b`, joined by token."""
    made = make_cluster().start()
    for name in ("a", "b"):
        made.start_node(name, wait=False)
    for node in made.nodes:
        made.wait_up(node.name, node)
    return made


@pytest.fixture
def paced(make_cluster):
    """As `cluster`, with nodes slow enough that every change hits streams in the middle."""
    made = make_cluster().start()
    for name in ("a", "b"):
        made.start_node(name, "slots=32,rate=100", wait=False)
    for node in made.nodes:
        made.wait_up(node.name, node)
    return made
