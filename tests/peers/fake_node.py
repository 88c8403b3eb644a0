"""fake_node.py - a node made of grpcio: it serves what a test wants it to, and attaches by hand."""

import os
import queue
import threading
import time

import grpc

from grpc_server import GrpcServer, stream, unary
from harness import SLOW
from messages import common, health, inference, proof, registry

CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


class FakeNode:
    """Serves Health, Describe, WatchLoad and Infer; every answer can be changed at any time."""

    def __init__(self, name, port=0, instance=None):
        self.name = name
        self.instance = instance or os.urandom(16)
        self.serving = True
        self.silent = threading.Event()  # set: checks get no answer until it is cleared
        self.load = dict(engine_reachable=True)
        self.seq = 0
        self.slots = 4
        self.queue = 2
        self.models = ["fake-model"]
        self.operations = []    # of each; [] = what a node that does not say has
        self.infer_gate = threading.Event()  # requests finish once it is set
        self.infer_started = threading.Semaphore(0)
        self.watchers = []
        self.checks = 0
        self.port = port
        self.server = None
        self.start()

    def start(self):
        self.server = GrpcServer({
            "grpc.health.v1.Health": {"Check": unary(self.check, health.HealthCheckRequest)},
            "drover.v1.Inference": {
                "Describe": unary(self.describe, inference.DescribeRequest),
                "WatchLoad": stream(self.watch_load, inference.WatchLoadRequest),
                "Infer": self.infer_method()}}, self.port)
        self.port = self.server.port
        return self

    def infer_method(self):
        return stream(self.infer, inference.InferRequest)

    def stop(self):
        for watcher in self.watchers:
            watcher.put(None)
        self.watchers = []
        self.infer_gate.set()
        self.silent.clear()
        self.server.stop()

    def restart(self, instance=None):
        self.instance = instance or os.urandom(16)
        self.seq = 0
        self.infer_gate.clear()
        return self.start()

    # ---- what it says ----

    def report(self):
        self.seq += 1
        return common.LoadReport(seq=self.seq, **self.load)

    def set_load(self, **fields):
        """Changes the load and reports it to every watcher."""
        self.load = dict(engine_reachable=True)
        self.load.update(fields)
        for watcher in self.watchers:
            watcher.put(self.report())

    def capacity(self):
        return common.Capacity(slots=self.slots, queue=self.queue)

    def model_list(self):
        return [common.Model(id=name, state=common.MODEL_STATE_READY, max_context_tokens=4096,
                             operations=self.operations)
                for name in self.models]

    def check(self, request, context):
        self.checks += 1
        while self.silent.is_set() and context.is_active():
            context_wait(context)
        kind = health.HealthCheckResponse
        return kind(status=kind.SERVING if self.serving else kind.NOT_SERVING)

    def describe(self, request, context):
        return inference.DescribeResponse(
            node_id=self.name, instance_id=self.instance,
            engine=common.ENGINE_KIND_SIMULATED, engine_version="fake 1", agent_version="0",
            capacity=self.capacity(), models=self.model_list(), load=self.report())

    def watch_load(self, request, context):
        watcher = queue.Queue()
        watcher.put(self.report())
        self.watchers.append(watcher)
        context.add_callback(lambda: watcher.put(None))
        while True:
            load = watcher.get()
            if load is None:
                return
            yield load

    def infer(self, request, context):
        body = b'{"id":"x","object":"chat.completion","choices":[]}'
        yield inference.InferEvent(accepted=inference.Accepted())
        self.infer_started.release()
        while not self.infer_gate.is_set() and context.is_active():
            self.infer_gate.wait(0.05)
        yield inference.InferEvent(head=inference.ResponseHead(
            http_status=200, content_type="application/json"))
        yield inference.InferEvent(chunk=inference.Chunk(data=body, tokens=1, content=True))
        yield inference.InferEvent(finish=inference.Finish(
            usage=inference.Usage(prompt_tokens=1, output_tokens=1),
            body_bytes=len(body)))


def context_wait(context):
    threading.Event().wait(0.02)


class Attachment:
    """One Attach stream, driven frame by frame."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.outgoing = queue.Queue()
        self.frames = queue.Queue()
        self.status = None  # (code, details) once it has ended
        self.hello = None
        attach = self.channel.stream_stream(
            "/drover.v1.Registry/Attach",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=registry.CoordinatorFrame.FromString)
        self.call = attach(iter(self.outgoing.get, None))
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for frame in self.call:
                self.frames.put(frame)
        except grpc.RpcError:
            pass
        self.status = (self.call.code(), self.call.details())
        self.frames.put(None)

    def next(self, bound_s=10):
        """The next frame, None at the end of the stream."""
        return self.frames.get(timeout=bound_s * SLOW)

    def expect(self, kind, bound_s=10):
        """The next frame of that kind; acknowledgements in between are skipped."""
        deadline = time.monotonic() + bound_s * SLOW
        while True:
            frame = self.next(max((deadline - time.monotonic()) / SLOW, 0.001))
            assert frame is not None, f"ended with {self.status} before {kind}"
            if frame.WhichOneof("frame") == kind:
                return getattr(frame, kind)
            assert frame.WhichOneof("frame") in ("heartbeat_ack", "drain"), frame

    def ended(self, bound_s=10):
        """The status code with which the stream ends, whatever comes before."""
        while self.next(bound_s) is not None:
            pass
        return self.status[0]

    def send(self, **frame):
        self.outgoing.put(registry.NodeFrame(**frame))

    def greet(self):
        self.hello = self.expect("hello")
        assert len(self.hello.server_nonce) == 32
        return self.hello

    def registration(self, node, token, **changes):
        message = registry.Register(
            node_id=node.name, instance_id=node.instance, node_nonce=os.urandom(32), host="",
            port=node.port, engine=common.ENGINE_KIND_SIMULATED, engine_version="fake 1",
            agent_version="0", capacity=node.capacity(), models=node.model_list(),
            load=node.report())
        for key, value in changes.items():
            setattr(message, key, value)
        message.join_proof = proof("drover.v1 join", token, self.hello.server_nonce, message)
        return message

    def register(self, node, token, **changes):
        """Greets, registers and expects to be let in; checks the coordinator's own proof."""
        if self.hello is None:
            self.greet()
        message = self.registration(node, token, **changes)
        self.send(register=message)
        answer = self.expect("registered")
        assert answer.coordinator_proof == proof("drover.v1 coordinator", token,
                                                 self.hello.server_nonce, message)
        assert answer.heartbeat_ms * 3 <= answer.lease_ms
        return answer

    def heartbeat(self, node):
        self.send(heartbeat=registry.Heartbeat(load=node.report()))

    def break_off(self):
        """As when the process dies: the connection is just gone."""
        self.call.cancel()
        self.channel.close()

    def close(self):
        self.outgoing.put(None)
        self.call.cancel()
        self.channel.close()


class Heart:
    """Sends heartbeats on an attachment until it is stopped."""

    def __init__(self, attachment, node, every_s=0.2):
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(attachment, node, every_s),
                                       daemon=True)
        self.thread.start()

    def run(self, attachment, node, every_s):
        while not self.stopped.wait(every_s) and attachment.status is None:
            attachment.heartbeat(node)

    def stop(self):
        self.stopped.set()
        self.thread.join()
