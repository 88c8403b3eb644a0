"""Shared by the interop tests: where the programs are, messages made by protoc, certificates.

DROVER_BUILD names the cmake build directory, DROVER_NPM the node_modules directory with
@grpc/grpc-js and @grpc/proto-loader (default: tests/npm/node_modules).
"""
import importlib
import os
import pathlib
import select
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "peers"))
CASES = [
    "empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
    "custom_metadata", "status_code_and_message", "special_status_message", "unimplemented_method",
    "unimplemented_service", "cancel_after_begin", "cancel_after_first_response",
    "timeout_on_sleeping_server", "concurrent_large_unary", "rpc_soak",
]


def program(name):
    build = os.environ.get("DROVER_BUILD")
    if not build:
        pytest.skip("DROVER_BUILD is not set")
    path = pathlib.Path(build) / "tests" / "interop" / name
    assert path.exists(), f"{path} has not been built"
    return str(path)


def read_line(process, seconds=20):
    """One line of a process's standard output, or a failure that shows what it said."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    line = process.stdout.readline() if ready else ""
    assert line, f"the process said nothing: {process.args}"
    return line.strip()


def run_client(address, case, *more, seconds=60):
    return subprocess.run([program("interop_client"), "--address", address, "--case", case, *more],
                          capture_output=True, text=True, timeout=seconds, check=False)


def assert_case(address, case, *more):
    done = run_client(address, case, *more)
    assert done.returncode == 0, done.stderr


def report(address, *more):
    """The outcome of large unary calls as dicts, one a call."""
    done = run_client(address, "report", *more)
    assert done.returncode == 0, done.stderr
    rows = []
    for line in done.stdout.splitlines():
        head, text = line.split(" text=", 1)
        row = dict(part.split("=", 1) for part in head.split())
        row["text"] = text
        rows.append(row)
    return rows


class Server:
    """interop_server as a process; leaving the block stops it and checks how it ended."""

    def __init__(self, *args):
        self.args = args

    def __enter__(self):
        self.process = subprocess.Popen([program("interop_server"), *self.args], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.port = int(read_line(self.process).removeprefix("port="))
        self.address = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        try:
            code = self.process.wait(20)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
        if exc == (None, None, None):
            assert code == 0, f"interop_server ended with {code}"


@pytest.fixture(scope="session")
def messages(tmp_path_factory):
    """The module that protoc makes of test.proto."""
    out = tmp_path_factory.mktemp("proto")
    subprocess.run(["protoc", f"--proto_path={HERE}", f"--python_out={out}", "test.proto"], check=True)
    sys.path.insert(0, str(out))
    return importlib.import_module("test_pb2")


@pytest.fixture(scope="session")
def npm():
    path = pathlib.Path(os.environ.get("DROVER_NPM", HERE.parent / "npm" / "node_modules"))
    if not (path / "@grpc" / "grpc-js").exists():
        pytest.skip(f"no @grpc/grpc-js in {path}")
    return str(path)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A CA, and a certificate by it for node.test and 127.0.0.1."""
    out = tmp_path_factory.mktemp("tls")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=out, check=True, capture_output=True)

    openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=test-ca", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", *curve, "-subj", "/CN=node.test", "-keyout", "node.key", "-out", "node.csr")
    (out / "ext").write_text("subjectAltName=DNS:node.test,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "ext", "-out", "node.pem")
    return out
