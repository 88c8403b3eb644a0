"""frozen.py - requests held still in each phase of their life, so that a fault can strike there.

No hook in the product is needed: what a request waits for (its own client, a place, the network, the
engine) is in the test's hands.  Each phase has a model of its own, served by a node that is made
for it, so a request's model says where it will stop.

    S1 reading     half of the body was sent
    S2 waiting     every place is taken
    S4 sent        the wire to the node is stalled: sent, not accepted
    S5 accepted    the engine is in a prefill that takes minutes
    S7 streaming   the engine writes slowly
    S8 flushing    the client does not read a long answer
"""

import json
import socket
import struct

from harness import until
from load import make_request

PHASES = ("reading", "waiting", "sent", "accepted", "streaming", "flushing")
SPECS = {
    "waiting": "slots=1,rate=20,models=waiting",
    "accepted": "slots=64,prefill=1,models=accepted",
    "streaming": "slots=64,rate=20,models=streaming",
    "flushing": "slots=64,rate=20000,ctx=10000000,models=flushing",
}


class Client:
    """A request on a raw socket."""

    def __init__(self, address, phase, name, tokens=100000, model=None):
        self.phase = phase
        self.name = name
        self.sock = socket.socket()
        if phase == "flushing":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(30)
        self.sock.connect(address)
        body = json.dumps({"model": model or phase, "stream": True, "max_tokens": tokens,
                           "messages": [{"role": "user", "content": "hold still"}]}).encode()
        data = make_request("POST", "/v1/chat/completions", body, {"x-request-id": name})
        self.sock.sendall(data[:-10] if phase == "reading" else data)

    def ended(self, bound_s):
        """Whether the other side ends the connection within the bound."""
        self.sock.settimeout(bound_s)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except TimeoutError:
            return False
        except OSError:
            return True

    def alive(self):
        """Not ended: nothing was said about an end so far."""
        self.sock.setblocking(False)
        try:
            while data := self.sock.recv(65536):
                if b'"error"' in data:
                    return False
            return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self, reset=False):
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


# The static node whose wire is stalled: run.start(static=frozen.STATIC).
STATIC = {"sent": "slots=64,models=sent"}


class Frozen:
    """`each` requests in every phase of `phases`."""

    def __init__(self, run, phases=PHASES, each=6):
        self.run = run
        self.phases = phases
        self.clients = []
        cluster = run.cluster
        for phase in phases:
            if phase in SPECS:
                extra = ("--queue", "0") if phase == "waiting" else ()
                cluster.start_node(phase, SPECS[phase], extra=extra)
        if "waiting" in phases:
            self.clients.append(Client(cluster.api, "waiting", "holder"))
            until(lambda: cluster.gauges()["waiting"][0] == 1, 5, "the only place is taken")
        for phase in phases:
            if phase == "sent":
                run.wires["sent"].stall()
            for number in range(each):
                self.clients.append(Client(cluster.api, phase, f"{phase}-{number}"))

        def arrived():
            seen = [row["id"] for row in cluster.open_requests()]
            return all(client.name in seen for client in self.clients
                       if client.phase != "reading")
        until(arrived, 10, "every request is where it should be")

    def workers(self):
        """{name of the request: slot of the worker that has it}; those being read are unknown."""
        return {row["id"]: row["worker"] for row in self.run.cluster.open_requests()}

    def close(self, reset=False):
        for client in self.clients:
            client.close(reset)
