"""fake_coordinator.py - a registry made of grpcio, for drover-node to join."""

import os
import threading

import grpc

from grpc_server import GrpcServer, duplex
from messages import proof, registry


class FakeCoordinator(GrpcServer):
    """Knows the token, and remembers each frame that it gets."""

    terms = dict(lease_ms=3000, heartbeat_ms=200, reconnect_spread_ms=50)

    def __init__(self, token="join-token", port=0, left=True, acks=True):
        self.token, self.left, self.acks = token, left, acks
        self.frames, self.registers = [], []
        self.verdict = None               # an Evicted to send instead of Registered
        self.welcome = threading.Event()  # when to send Registered
        self.welcome.set()
        self.refusal = grpc.StatusCode.UNAUTHENTICATED
        super().__init__({"drover.v1.Registry": {"Attach": duplex(self.attach, registry.NodeFrame)}},
                         port)

    def proof(self, label, nonce, register):
        return proof(label, self.token, nonce, register)

    def attach(self, frames, context):
        nonce = os.urandom(32)
        yield registry.CoordinatorFrame(hello=registry.Hello(server_nonce=nonce, coordinator_id="box/7"))
        for frame in frames:
            kind = frame.WhichOneof("frame")
            self.frames.append(frame)
            if kind == "register":
                r = frame.register
                self.registers.append(r)
                if r.join_proof != self.proof("drover.v1 join", nonce, r):
                    context.abort(self.refusal, "bad proof")
                if self.verdict is not None:
                    yield registry.CoordinatorFrame(evicted=self.verdict)
                    return
                self.welcome.wait(20)
                yield registry.CoordinatorFrame(registered=registry.Registered(
                    coordinator_proof=self.proof("drover.v1 coordinator", nonce, r),
                    **self.terms))
            elif kind == "heartbeat" and self.acks:
                yield registry.CoordinatorFrame(heartbeat_ack=registry.HeartbeatAck(
                    load_seq=frame.heartbeat.load.seq))
            elif kind == "leave" and self.left:
                yield registry.CoordinatorFrame(left=registry.Left())

    def of(self, kind):
        return [getattr(f, kind) for f in self.frames if f.WhichOneof("frame") == kind]
