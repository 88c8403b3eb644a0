"""messages.py - our protocol's messages as Python classes, and the proofs of a join token.

protoc makes them of our .proto files when the tests run; nothing generated is kept.
"""

import atexit
import hashlib
import hmac
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("drover_common", "drover_inference", "drover_registry", "grpc_health_v1")


def load():
    out = tempfile.mkdtemp(prefix="drover-pb-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    subprocess.run(["protoc", f"--proto_path={ROOT}", f"--python_out={out}",
                    *(f"proto/{name}.proto" for name in NAMES)], check=True)
    (Path(out) / "proto" / "__init__.py").write_text("")
    sys.path.insert(0, out)
    from proto import (drover_common_pb2, drover_inference_pb2,  # pylint: disable=import-error
                       drover_registry_pb2, grpc_health_v1_pb2)
    return drover_common_pb2, drover_inference_pb2, drover_registry_pb2, grpc_health_v1_pb2


common, inference, registry, health = load()


def text16(text):
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def proof(label, token, server_nonce, register):
    """The proof that one side of a join knows the token."""
    message = (label.encode() + b"\0" + server_nonce + register.node_nonce
               + text16(register.node_id) + register.instance_id + text16(register.host)
               + struct.pack(">H", register.port))
    return hmac.new(token.encode(), message, hashlib.sha256).digest()


def call_proof(token, instance_id):
    """The proof that a caller of a node knows the token."""
    return hmac.new(token.encode(), b"drover.v1 call\0" + instance_id, hashlib.sha256).digest()
