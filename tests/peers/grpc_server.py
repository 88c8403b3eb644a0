"""grpc_server.py - a server of grpcio's with the methods that a test gives it."""

from concurrent import futures

import grpc

from messages import health


def encode(message):
    return message.SerializeToString()


def unary(function, request):
    """A method with one answer; `request` is the class of its message."""
    return grpc.unary_unary_rpc_method_handler(function, request.FromString, encode)


def stream(function, request):
    """A method that answers with a stream."""
    return grpc.unary_stream_rpc_method_handler(function, request.FromString, encode)


def duplex(function, request):
    """A method with a stream each way."""
    return grpc.stream_stream_rpc_method_handler(function, request.FromString, encode)


class GrpcServer:
    """Serves {service: {method: handler}}, and a health service that is well unless it is given."""

    def __init__(self, services, port=0):
        serving = health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)
        services = {"grpc.health.v1.Health": {
            "Check": unary(lambda request, context: serving, health.HealthCheckRequest)}, **services}
        self.server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers(tuple(
            grpc.method_handlers_generic_handler(*service) for service in services.items()))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def stop(self):
        self.server.stop(0).wait()
