"""Our client against @grpc/grpc-js's server, and its client against our server."""
import os
import subprocess

import pytest

from conftest import CASES, HERE, Server, assert_case, read_line


def node(npm, *args, **more):
    return subprocess.Popen(["node", str(HERE / "peer.js"), *args], env={**os.environ, "DROVER_NPM": npm},
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


@pytest.fixture(name="theirs", scope="module")
def fixture_theirs(npm):
    process = node(npm, "server", str(HERE / "test.proto"))
    yield "127.0.0.1:" + read_line(process).removeprefix("port=")
    process.stdin.close()
    assert process.wait(20) == 0


@pytest.mark.parametrize("case", CASES)
def test_our_client_and_their_server(theirs, case):
    assert_case(theirs, case)


def test_their_client_and_our_server(npm):
    with Server() as server:
        process = node(npm, "client", str(HERE / "test.proto"), server.address)
        out, _ = process.communicate(timeout=120)
    print(out)
    assert process.returncode == 0, out
    assert out.count("pass ") == 13
