"""conftest.py - fixtures of the integration tests, and how two runs share them."""

import itertools
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
for folder in ("engines", "peers"):
    sys.path.insert(1, os.path.join(os.path.dirname(__file__), "..", folder))

from harness import Cluster, finish_all  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--claims", metavar="FOLDER", help="run only the files that no other run with "
                     "this folder has claimed, each claimed when its turn comes")


def pytest_configure(config):
    config.addinivalue_line("markers", "plain: needs programs that were built without sanitizers")
    config.addinivalue_line("markers", "alone: measures time or fills the machine, so nothing may "
                            "run beside it")


def claims(folder, path, held):
    """Takes a file, by its path from the root, for this run, which holds `held`; false: another run has it."""
    if path not in held:
        try:
            os.close(os.open(os.path.join(folder, path.replace("/", "%")), os.O_CREAT | os.O_EXCL))
            held.add(path)
        except FileExistsError:
            return False
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    folder = session.config.option.claims
    if folder is None or session.config.option.collectonly or session.testsfailed:
        return None  # pytest's own loop
    held = set()
    for path, items in itertools.groupby(session.items, lambda item: item.nodeid.split("::")[0]):
        if claims(folder, path, held):
            items = list(items)
            for item, following in zip(items, [*items[1:], None]):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
    return True


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
