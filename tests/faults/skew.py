"""skew.py - nodes and coordinators of other versions of the protocol, made of grpcio.

There is no other release, so these say what one could: a later minor version has fields, values
and kinds of messages that ours does not know, an earlier one leaves out what it never knew, and
another major version is another package.
"""

import os

import grpc

from fake_coordinator import FakeCoordinator
from fake_node import FakeNode
from grpc_server import GrpcServer
from messages import common, inference, proof, registry
from wire import varint

LATER = 77  # a value of an enum that is not there yet


def later(message, number=900):
    """The same message with two fields of a later minor version: a text and a number."""
    message.MergeFromString(varint(number << 3 | 2) + b"\x05later" + varint((number + 1) << 3)
                            + b"\x07")
    return message


def kind_of_later(kind):
    """A message whose oneof has something that ours does not know."""
    return later(kind(), 9)


class LaterNode(FakeNode):
    """Speaks a later minor version."""

    def report(self):
        return later(super().report())

    def model_list(self):
        models = [later(model) for model in super().model_list()]
        models[0].operations.extend([common.OPERATION_CHAT_COMPLETIONS, 30])
        models.append(common.Model(id="later-kind", state=LATER))
        return models

    def describe(self, request, context):
        answer = later(super().describe(request, context))
        answer.engine = LATER
        return answer

    def infer(self, request, context):
        for event in super().infer(request, context):
            yield kind_of_later(inference.InferEvent)
            yield later(event)


class EarlierNode(FakeNode):
    """Knows nothing but what it cannot do without."""

    def describe(self, request, context):
        return inference.DescribeResponse(node_id=self.name, instance_id=self.instance,
                                          models=[common.Model(id=self.models[0])])

    def watch_load(self, request, context):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "what is that?")

    def infer(self, request, context):
        body = b'{"id":"x","object":"chat.completion","choices":[]}'
        yield inference.InferEvent(head=inference.ResponseHead(http_status=200))
        yield inference.InferEvent(chunk=inference.Chunk(data=body))
        yield inference.InferEvent(finish=inference.Finish(body_bytes=len(body)))


def join_later(attachment, node, token):
    """Registers as a later minor version does; returns the attachment."""
    attachment.greet()
    message = later(attachment.registration(node, token, engine=LATER))
    attachment.send(register=message)
    attachment.expect("registered")
    attachment.outgoing.put(kind_of_later(registry.NodeFrame))
    attachment.outgoing.put(registry.NodeFrame(heartbeat=later(registry.Heartbeat(
        load=node.report()))))
    attachment.expect("heartbeat_ack")
    return attachment


def join_earlier(attachment, node, token):
    attachment.greet()
    message = registry.Register(node_id=node.name, instance_id=node.instance,
                                node_nonce=os.urandom(32), port=node.port,
                                models=[common.Model(id=node.models[0])])
    message.join_proof = proof("drover.v1 join", token, attachment.hello.server_nonce, message)
    attachment.send(register=message)
    attachment.expect("registered")
    attachment.send(heartbeat=registry.Heartbeat())
    attachment.expect("heartbeat_ack")
    return attachment


def ask_major(address, method):
    """The answer to a caller of another major version, as (code, details)."""
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(method)(iter((b"",)))
        return call.code(), call.details()


def major_node():
    return GrpcServer({"drover.v2.Inference": {"Describe": grpc.unary_unary_rpc_method_handler(
        lambda request, context: b"")}})


def major_coordinator():
    return GrpcServer({"drover.v2.Registry": {"Attach": grpc.stream_stream_rpc_method_handler(
        lambda frames, context: iter(()))}})


class LaterCoordinator(FakeCoordinator):
    """Speaks a later minor version: more fields, and kinds of frames that ours does not know."""

    def attach(self, frames, context):
        for said in super().attach(frames, context):
            yield later(said)
            if not said.HasField("hello"):
                yield kind_of_later(registry.CoordinatorFrame)


class EarlierCoordinator(FakeCoordinator):
    """Knows nothing but what it cannot do without."""

    terms = {}

    def __init__(self, token):
        super().__init__(token, acks=False)
