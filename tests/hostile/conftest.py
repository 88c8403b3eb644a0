"""conftest.py - what the hostile tests share: a few nodes, and a watch on them.

A test does its worst to one process while a Watch measures: what the process used of CPU and
memory, how many lines it logged, and whether others were served meanwhile.
"""
import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "integration", HERE.parent / "peers"):
    sys.path.insert(0, str(folder))
# Freed memory that the sanitizer keeps for a while would look like a leak.
os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=4"

from harness import Cluster  # noqa: E402


@pytest.fixture(name="cluster", scope="module")
def fixture_cluster(request):
    """One worker and one quick simulated node, for all tests of a module: none may harm it."""
    cluster = Cluster(name=request.module.__name__, workers=1, config=getattr(request.module, "CONFIG", None))
    failed = True
    try:
        cluster.start()
        cluster.start_node("a", "rate=2000,slots=16")
        yield cluster
        failed = request.session.testsfailed != 0
    finally:
        cluster.finish(failed)
