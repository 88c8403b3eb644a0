"""Our client against grpcio's server, and grpcio's client against our server."""
import threading
import time
from concurrent import futures

import grpc
import pytest

from conftest import CASES, Server, assert_case, report

SERVICE = "grpc.testing.TestService"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


# ---- their server ------------------------------------------------------------------------------

def send_metadata(context):
    """Answers with the metadata received, in a status."""
    fields = dict(context.invocation_metadata())
    if INITIAL in fields:
        context.abort(grpc.StatusCode.ABORTED, f"{fields[INITIAL]} {fields[TRAILING].hex()}")


def make_handlers(m):
    def payload(size):
        return m.Payload(body=bytes(size))

    def unary(request, context):
        send_metadata(context)
        if request.response_status.code:
            context.set_code(next(c for c in grpc.StatusCode if c.value[0] == request.response_status.code))
            context.set_details(request.response_status.message)
        return m.SimpleResponse(payload=payload(request.response_size))

    def stream_input(requests, context):
        return m.StreamingInputCallResponse(aggregated_payload_size=sum(len(r.payload.body) for r in requests))

    def stream_output(request, context):
        for parameters in request.response_parameters:
            yield m.StreamingOutputCallResponse(payload=payload(parameters.size))

    def duplex(requests, context):
        send_metadata(context)
        for request in requests:
            if request.response_status.code:
                context.set_code(next(c for c in grpc.StatusCode if c.value[0] == request.response_status.code))
                context.set_details(request.response_status.message)
                return
            yield from stream_output(request, context)

    def of(kind, function, request):
        return kind(function, request_deserializer=request.FromString,
                    response_serializer=lambda response: response.SerializeToString())

    return grpc.method_handlers_generic_handler(SERVICE, {
        "EmptyCall": of(grpc.unary_unary_rpc_method_handler, lambda r, c: m.Empty(), m.Empty),
        "UnaryCall": of(grpc.unary_unary_rpc_method_handler, unary, m.SimpleRequest),
        "StreamingInputCall": of(grpc.stream_unary_rpc_method_handler, stream_input, m.StreamingInputCallRequest),
        "StreamingOutputCall": of(grpc.unary_stream_rpc_method_handler, stream_output,
                                  m.StreamingOutputCallRequest),
        "FullDuplexCall": of(grpc.stream_stream_rpc_method_handler, duplex, m.StreamingOutputCallRequest),
    })


class Theirs:
    def __init__(self, m, credentials=None, compression=None, options=()):
        self.server = grpc.server(futures.ThreadPoolExecutor(16), compression=compression, options=options)
        self.server.add_generic_rpc_handlers((make_handlers(m),))
        if credentials is None:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *exc):
        self.server.stop(0).wait()


@pytest.mark.parametrize("case", CASES)
def test_our_client_and_their_server(messages, case):
    with Theirs(messages) as server:
        assert_case(server.address, case)


def server_credentials(certificates, mutual=False):
    pair = ((certificates / "node.key").read_bytes(), (certificates / "node.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (certificates / "ca.pem").read_bytes() if mutual else None, mutual)


@pytest.mark.parametrize("case", ["empty_unary", "large_unary", "ping_pong", "concurrent_large_unary"])
def test_our_client_and_their_tls_server(messages, certificates, case):
    with Theirs(messages, server_credentials(certificates)) as server:
        assert_case(server.address, case, "--ca", str(certificates / "ca.pem"), "--name", "node.test")


def test_our_client_shows_its_certificate(messages, certificates):
    ca, cert, key = (str(certificates / name) for name in ("ca.pem", "node.pem", "node.key"))
    with Theirs(messages, server_credentials(certificates, mutual=True)) as server:
        assert_case(server.address, "large_unary", "--ca", ca, "--name", "node.test", "--cert", cert, "--key", key)
        (row,) = report(server.address, "--ca", ca, "--name", "node.test")
        assert row["status"] == "UNAVAILABLE"


def test_a_compressed_answer_is_an_internal_error(messages):
    # A C-core server configured to compress does so whatever the client's grpc-accept-encoding says.
    with Theirs(messages, compression=grpc.Compression.Gzip) as server:
        (row,) = report(server.address)
        assert (row["status"], row["end"], row["messages"]) == ("INTERNAL", "protocol", "0")
        assert "compressed" in row["text"]


def test_our_client_keeps_to_their_stream_limit(messages):
    with Theirs(messages, options=(("grpc.max_concurrent_streams", 1),)) as server:
        rows = report(server.address, "--calls", "20", "--parallel", "20")
        assert [row["status"] for row in rows] == ["OK"] * 20


def test_our_keepalive_is_no_more_than_their_server_puts_up_with(messages):
    """By default it disconnects a silent client at its third PING within five minutes."""
    with Theirs(messages) as server:
        assert_case(server.address, "silence", "--keepalive-ms", "50")


# ---- their client ------------------------------------------------------------------------------

class Stub:
    def __init__(self, m, channel):
        def method(kind, name, answer):
            return kind(f"/{SERVICE}/{name}", request_serializer=lambda request: request.SerializeToString(),
                        response_deserializer=answer.FromString)

        self.empty = method(channel.unary_unary, "EmptyCall", m.Empty)
        self.unary = method(channel.unary_unary, "UnaryCall", m.SimpleResponse)
        self.input = method(channel.stream_unary, "StreamingInputCall", m.StreamingInputCallResponse)
        self.output = method(channel.unary_stream, "StreamingOutputCall", m.StreamingOutputCallResponse)
        self.duplex = method(channel.stream_stream, "FullDuplexCall", m.StreamingOutputCallResponse)
        self.unimplemented = method(channel.unary_unary, "UnimplementedCall", m.Empty)
        self.no_service = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall",
                                              request_serializer=lambda request: request.SerializeToString(),
                                              response_deserializer=m.Empty.FromString)


@pytest.fixture(name="ours", scope="module")
def fixture_ours(messages):
    with Server() as server, grpc.insecure_channel(server.address) as channel:
        yield Stub(messages, channel)


def output_request(m, sizes, payload=0, **more):
    return m.StreamingOutputCallRequest(
        response_parameters=[m.ResponseParameters(size=size) for size in sizes],
        payload=m.Payload(body=bytes(payload)), **more)


def large_request(m):
    return m.SimpleRequest(response_size=314159, payload=m.Payload(body=bytes(271828)))


def test_empty_unary(messages, ours):
    assert ours.empty(messages.Empty(), timeout=10) == messages.Empty()


def test_large_unary(messages, ours):
    assert len(ours.unary(large_request(messages), timeout=10).payload.body) == 314159


def test_client_streaming(messages, ours):
    requests = (messages.StreamingInputCallRequest(payload=messages.Payload(body=bytes(n)))
                for n in (27182, 8, 1828, 45904))
    assert ours.input(requests, timeout=10).aggregated_payload_size == 74922


def test_server_streaming(messages, ours):
    sizes = [31415, 9, 2653, 58979]
    answers = ours.output(output_request(messages, sizes), timeout=10)
    assert [len(answer.payload.body) for answer in answers] == sizes


class Turns:
    """Requests that are sent one by one, as the test goes on."""

    def __init__(self):
        self.ready, self.queue, self.closed = threading.Condition(), [], False

    def put(self, request):
        with self.ready:
            self.queue.append(request)
            self.ready.notify()

    def close(self):
        with self.ready:
            self.closed = True
            self.ready.notify()

    def __iter__(self):
        while True:
            with self.ready:
                self.ready.wait_for(lambda: self.queue or self.closed)
                if not self.queue:
                    return
                request = self.queue.pop(0)
            yield request


def test_ping_pong(messages, ours):
    turns = Turns()
    answers = ours.duplex(iter(turns), timeout=10)
    for size, payload in zip((31415, 9, 2653, 58979), (27182, 8, 1828, 45904)):
        turns.put(output_request(messages, [size], payload))
        assert len(next(answers).payload.body) == size
    turns.close()
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def test_empty_stream(ours):
    answers = ours.duplex(iter(()), timeout=10)
    assert list(answers) == []
    assert answers.code() == grpc.StatusCode.OK


def test_custom_metadata(messages, ours):
    metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
    for call in (lambda: ours.unary(large_request(messages), metadata=metadata, timeout=10),
                 lambda: next(ours.duplex(iter([output_request(messages, [1], 1)]), metadata=metadata,
                                          timeout=10))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.ABORTED
        assert caught.value.details() == "test_initial_metadata_value ababab"


@pytest.mark.parametrize("text", [
    "test status message",
    "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n",
])
def test_status_and_message(messages, ours, text):
    status = messages.EchoStatus(code=2, message=text)
    with pytest.raises(grpc.RpcError) as caught:
        ours.unary(messages.SimpleRequest(response_status=status), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    assert caught.value.details() == text
    answers = ours.duplex(iter([output_request(messages, [], response_status=status)]), timeout=10)
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert (answers.code(), answers.details()) == (grpc.StatusCode.UNKNOWN, text)


@pytest.mark.parametrize("method", ["unimplemented", "no_service"])
def test_unimplemented(messages, ours, method):
    with pytest.raises(grpc.RpcError) as caught:
        getattr(ours, method)(messages.Empty(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_cancel_after_begin(ours):
    turns = Turns()
    call = ours.input.future(iter(turns), timeout=10)
    call.cancel()
    assert call.code() == grpc.StatusCode.CANCELLED
    turns.close()


def test_cancel_after_first_response(messages, ours):
    turns = Turns()
    answers = ours.duplex(iter(turns), timeout=10)
    turns.put(output_request(messages, [31415], 27182))
    assert len(next(answers).payload.body) == 31415
    answers.cancel()
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert answers.code() == grpc.StatusCode.CANCELLED
    turns.close()


def test_timeout_on_sleeping_server(messages, ours):
    turns = Turns()
    turns.put(output_request(messages, [], 27182))
    answers = ours.duplex(iter(turns), timeout=0.001)
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert answers.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    turns.close()


def test_the_server_itself_keeps_the_deadline(messages, ours):
    turns = Turns()
    request = output_request(messages, [1, 1])
    request.response_parameters[0].interval_us = 5000000
    turns.put(request)
    begin = time.monotonic()
    answers = ours.duplex(iter(turns), timeout=0.2)
    with pytest.raises(grpc.RpcError):
        list(answers)
    assert answers.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 4
    turns.close()


def test_compressed_requests_are_rejected(messages, ours):
    with pytest.raises(grpc.RpcError) as caught:
        ours.unary(large_request(messages), compression=grpc.Compression.Gzip, timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_request_that_is_no_message_is_an_internal_error(ours, messages):
    class Garbage:
        def SerializeToString(self):
            return b"\x1a\xff\xff\xff\xff\x0f"

    with pytest.raises(grpc.RpcError) as caught:
        ours.unary(Garbage(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


def test_many_calls_at_once(messages, ours):
    calls = [ours.unary.future(large_request(messages), timeout=30) for _ in range(100)]
    assert {len(call.result().payload.body) for call in calls} == {314159}


def test_more_calls_than_streams(messages):
    with Server("--max-streams", "2") as server, grpc.insecure_channel(server.address) as channel:
        stub = Stub(messages, channel)
        stub.empty(messages.Empty(), timeout=10)
        calls = [stub.unary.future(large_request(messages), timeout=30) for _ in range(30)]
        assert {len(call.result().payload.body) for call in calls} == {314159}


def test_a_message_over_the_limit_is_refused(messages, ours):
    with pytest.raises(grpc.RpcError) as caught:
        ours.unary(messages.SimpleRequest(payload=messages.Payload(body=bytes(5 << 20))), timeout=10)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_tls_and_mutual_tls(messages, certificates):
    ca, cert, key = ((certificates / name).read_bytes() for name in ("ca.pem", "node.pem", "node.key"))
    files = ["--cert", str(certificates / "node.pem"), "--key", str(certificates / "node.key")]
    options = (("grpc.ssl_target_name_override", "node.test"),)
    with Server(*files) as server:
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca), options) as channel:
            stub = Stub(messages, channel)
            assert len(stub.unary(large_request(messages), timeout=10).payload.body) == 314159
    with Server(*files, "--ca", str(certificates / "ca.pem")) as server:
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca, key, cert), options) as channel:
            assert len(Stub(messages, channel).unary(large_request(messages), timeout=10).payload.body) == 314159
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(ca), options) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                Stub(messages, channel).empty(messages.Empty(), timeout=5)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_stopping_server_finishes_open_calls(messages):
    server = Server()
    with server, grpc.insecure_channel(server.address) as channel:
        stub = Stub(messages, channel)
        turns = Turns()
        answers = stub.duplex(iter(turns), timeout=10)
        turns.put(output_request(messages, [10]))
        assert len(next(answers).payload.body) == 10
        server.process.stdin.close()
        turns.put(output_request(messages, [20]))
        assert len(next(answers).payload.body) == 20
        turns.close()
        assert list(answers) == []
        assert answers.code() == grpc.StatusCode.OK
