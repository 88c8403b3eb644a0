"""llama_swap.py - a scripted llama-swap in front of llama-servers.

From the source of mostlygeek/llama-swap (0bdb372, 2026-08-22), file by file:
  internal/server/server.go    the routes: /v1/models, /running, /health (`OK`), /api/version with
                               version, commit and build_date, /upstream/MODEL/...; no /api/tags,
                               /api/ps, /version, /slots; /props wants ?model=; /metrics is its own
  internal/server/api.go       owned_by llama-swap, `status` {value: loaded | unloaded}, `meta`
                               {n_ctx, llamaswap}, context_length if configured; /running
  internal/swaputil/httperror.go   {src: llama-swap, error: {message, type, param, code}}; 429
                               concurrency_limit with Retry-After 1
  internal/router/scheduler/fifo.go   ten requests a model unless configured; another model waits until
                               the one that runs is idle, then it is stopped; in order of arrival
  internal/router/loading.go   with sendLoadingState a stream says reasoning_content while it loads

Knobs: load_s, concurrency, together (models that may be loaded at once), loading_state, contexts
{name: n_ctx}, listed (names that are shown; None: all); those of llama_server.py for what is behind.
Counts: loads, swaps.
"""

import threading

from llama_server import LlamaServer
from scripted import Gone, main


class LlamaSwap(LlamaServer):
    """A llama-swap."""

    server = None
    routes = {
        ("GET", "/health"): "ok", ("GET", "/v1/models"): "list_models",
        ("GET", "/models"): "list_models", ("GET", "/running"): "get_running",
        ("GET", "/api/version"): "api_version", ("GET", "/unload"): "unload",
        ("GET", "/"): "root", ("GET", "/props"): "props", ("GET", "/metrics"): "own_metrics",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/responses"): "responses", ("POST", "/v1/messages"): "messages",
        ("POST", "/v1/messages/count_tokens"): "count_tokens",
        ("POST", "/v1/embeddings"): "embeddings", ("POST", "/v1/rerank"): "rerank",
    }

    def setup(self):
        self.swapping = threading.Condition()
        self.ready = {}            # name -> users, in order of loading
        self.loading_names = set()
        self.waiting = []          # names wanted, in order of arrival
        super().setup()
        self.models = ["a"]
        self.load_s = 0.0
        self.concurrency = 10
        self.together = 1
        self.loading_state = False
        self.contexts = {}
        self.listed = None
        self.inflight = {}

    def head_of(self, _reply, _status, headers):
        return list(headers)

    def handle(self, reply, request):
        own = self.on.get((request.method, request.path)) or self.on.get(request.path)
        if own is None and request.path.startswith("/upstream/"):
            return self.answer_error(reply, 404, "no router for requested model")
        return super().handle(reply, request)

    def answer_error(self, reply, status, message, code=None, headers=()):
        types = {400: ("invalid_request_error", "bad_request"),
                 404: ("invalid_request_error", "not_found"),
                 429: ("rate_limit_error", "rate_limit_exceeded")}
        kind, default = types.get(status, ("server_error", "internal_error"))
        return reply.answer(status, {"src": "llama-swap", "error": {
            "message": message, "type": kind, "param": None, "code": code or default}}, headers)

    def no_route(self, reply, _request):
        return reply.answer(404, "404 page not found\n", content_type="text/plain; charset=utf-8")

    def ok(self, reply, _request):
        return reply.answer(200, "OK", content_type="text/plain; charset=utf-8")

    def root(self, reply, _request):
        return reply.answer(302, b"", [("Location", "/ui/")], content_type=None)

    def api_version(self, reply, _request):
        return reply.answer(200, {"version": "v229", "commit": "0bdb372",
                                  "build_date": "2026-08-22T16:29:57Z"})

    def own_metrics(self, reply, _request):
        return reply.answer(200, "# TYPE llamaswap_requests_total counter\n"
                            f"llamaswap_requests_total {self.count['begun']}\n",
                            content_type="text/plain; version=0.0.4; charset=utf-8")

    def props(self, reply, request):
        if request.query.get("model") not in self.models:
            return self.answer_error(reply, 404, "no model id could be identified")
        return super().props(reply, request)

    def list_models(self, reply, _request):
        out = []
        for name in self.models if self.listed is None else self.listed:
            record = {"id": name, "object": "model", "created": 1795427232,
                      "owned_by": "llama-swap"}
            if name in self.contexts:
                record |= {"context_length": self.contexts[name],
                           "meta": {"n_ctx": self.contexts[name]}}
            value = "loaded" if name in self.ready else "unloaded"
            out.append({**record, "status": {"value": value}})
        return reply.answer(200, {"data": out, "object": "list"})

    def get_running(self, reply, _request):
        with self.swapping:
            states = [(n, "ready") for n in self.ready] + [(n, "starting")
                                                           for n in self.loading_names]
        return reply.answer(200, {"running": [
            {"model": name, "state": state, "cmd": f"llama-server -m {name}.gguf",
             "proxy": "http://localhost:5800", "ttl": 0, "name": "", "description": ""}
            for name, state in sorted(states)]})

    def unload(self, reply, _request):
        with self.swapping:
            self.ready = {name: users for name, users in self.ready.items() if users}
        return reply.answer(200, "OK", content_type="text/plain; charset=utf-8")

    def name(self):
        return self.models[0]

    def model_of(self, body):
        name = body.get("model")
        return name if name in self.models else None

    def generate(self, reply, request, kind):
        try:
            name = request.json.get("model")
        except (ValueError, AttributeError):
            return self.answer_error(reply, 400, "could not parse the request body")
        if name not in self.models:
            return self.answer_error(reply, 404, "no router for requested model" if name else
                                     "no model id could be identified")
        with self.swapping:
            if self.inflight.get(name, 0) >= self.concurrency:
                return self.answer_error(reply, 429, "Too many requests", "concurrency_limit",
                                         [("Retry-After", "1")])
            self.inflight[name] = self.inflight.get(name, 0) + 1
        try:
            self.acquire(reply, request, kind, name)
            try:
                return super().generate(reply, request, kind)
            finally:
                with self.swapping:
                    self.ready[name] -= 1
                    self.swapping.notify_all()
        finally:
            with self.swapping:
                self.inflight[name] -= 1

    def acquire(self, reply, request, kind, name):
        """Until the model is there; what is idle is stopped for it."""
        with self.swapping:
            ticket = [name]
            self.waiting.append(ticket)
            try:
                while name not in self.ready:
                    if self.waiting[0] is ticket and self.make_way() and not self.loading_names:
                        break
                    self.swapping.wait(0.05)
                    if reply.is_gone() or self.stopping.is_set():
                        raise Gone()
            finally:
                self.waiting.remove(ticket)
                self.swapping.notify_all()
            if name in self.ready:
                self.ready[name] += 1
                return
            self.loading_names.add(name)
            self.count["loads"] += 1
        if self.loading_state and kind == "chat" and request.json.get("stream"):
            reply.begin_stream("text/event-stream")
            reply.send_event({"choices": [{"delta": {
                "reasoning_content": f"llama-swap loading model: {name}"}}]})
        self.stopping.wait(self.load_s)   # the load goes on when its client leaves
        with self.swapping:
            self.loading_names.discard(name)
            self.ready[name] = 1
            self.swapping.notify_all()

    def make_way(self):
        while len(self.ready) >= self.together:
            idle = [name for name, users in self.ready.items() if users == 0]
            if not idle:
                return False
            del self.ready[idle[0]]
            self.count["swaps"] += 1
        return True

    def begin(self, reply, writer):
        if reply.framing is None:  # a loading state has begun it already
            super().begin(reply, writer)
        else:
            reply.push(writer.head())


if __name__ == "__main__":
    main(LlamaSwap)
