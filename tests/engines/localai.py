"""localai.py - a scripted LocalAI.

From the source of mudler/LocalAI (82c191a, 2026-08-22), file by file:
  core/http/endpoints/openai/list.go     /v1/models: {id, object} alone, no owned_by, no created
  core/http/endpoints/ollama/models.go   /api/version 0.9.0; /api/tags and /api/ps add `:latest` to
                                         each name; `Ollama is running` at /
  core/http/routes/                      /v1/messages, /v1/rerank, /v1/audio/transcriptions,
                                         /v1/responses, /version, /readyz, /healthz; /system and /metrics
                                         are for the admin
  core/http/endpoints/openai/chat.go     `model` as the client wrote it; usage only if asked for
  core/http/endpoints/ollama/chat.go     NDJSON; a name is taken with and without its tag; the reason is
                                         always stop; an error is a last line with `done_reason: error`
  core/http/app.go                       {"error": {code, message, type}}
Its OpenAI API knows the plain names only: `gpt-4:latest` is no model there.

Knobs: models (plain names), load_s (of the first use), ollama (False: those routes are off); those
of openai_api.py.
"""

import threading

from openai_api import ChatWriter, MessagesWriter, OpenAi, ResponsesWriter, TextWriter
from ollama import OllamaChat, OllamaGenerate
from scripted import main


class LocalChat(ChatWriter):
    def chunk(self, choices, **more):
        return {"created": 1795427232, "object": "chat.completion.chunk", "id": str(self.number),
                "model": self.body.get("model"), "choices": choices, **more}

    def delta(self, choice, delta, reason=None):
        return self.event(self.chunk([{"index": choice.index, "finish_reason": reason,
                                       "delta": delta}]))

    def first(self, choice):
        return self.delta(choice, {"role": "assistant", "content": None})


class LocalText(TextWriter):
    def piece(self, choice, text, reason=None):
        return self.event(self.chunk([{"index": choice.index, "finish_reason": reason,
                                       "text": text}]))


class LocalOllama(OllamaChat):
    """Always `stop`, whatever the reason; an error is a last line like any other."""

    def reason(self, choice):
        return "stop"

    def error(self, document):
        return self.event(self.line({}, True, done_reason="error"))


class LocalGenerate(OllamaGenerate):
    def error(self, document):
        return self.event(self.line({}, True, done_reason="error"))


class LocalAi(OpenAi):
    """A LocalAI."""

    writers = {"chat": LocalChat, "completions": LocalText, "responses": ResponsesWriter,
               "messages": MessagesWriter, "ollama_chat": LocalOllama,
               "ollama_generate": LocalGenerate}
    routes = {
        ("GET", "/"): "root", ("GET", "/api/version"): "api_version", ("GET", "/version"): "version_",
        ("GET", "/api/tags"): "tags", ("GET", "/api/ps"): "ps", ("POST", "/api/show"): "show",
        ("POST", "/api/chat"): "api_chat", ("POST", "/api/generate"): "api_generate",
        ("GET", "/readyz"): "empty", ("GET", "/healthz"): "empty",
        ("GET", "/v1/models"): "list_models", ("GET", "/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/responses"): "responses", ("POST", "/v1/messages"): "messages",
        ("POST", "/v1/embeddings"): "embeddings", ("POST", "/v1/rerank"): "rerank",
        ("POST", "/v1/audio/transcriptions"): "transcribe",
    }
    big_context = 0

    def setup(self):
        super().setup()
        self.models = ["gpt-4"]
        self.load_s = 0.0
        self.ollama = True
        self.loaded = {}           # name -> Event, set once it is there

    def handle(self, reply, request):
        if not self.ollama and (request.path.startswith("/api/") or request.path == "/"):
            return self.no_route(reply, request)
        return super().handle(reply, request)

    def fault(self, status, message):
        return status, {"error": {"code": status, "message": message, "type": ""}}

    def no_route(self, reply, _request):
        return reply.answer(*self.fault(404, "Resource not found"))

    def bad_json(self, reply, error):
        return reply.answer(*self.fault(400, str(error)))

    def unknown_model(self, body):
        return self.fault(404, f"model \"{body.get('model')}\" not found. To see available models, "
                               "call GET /v1/models")

    def root(self, reply, _request):
        return reply.answer(200, "Ollama is running", content_type="text/plain; charset=UTF-8")

    def empty(self, reply, _request):
        return reply.answer(200, b"", content_type=None)

    def api_version(self, reply, _request):
        return reply.answer(200, {"version": "0.9.0"})

    def version_(self, reply, _request):
        return reply.answer(200, {"version": "v3.4.0 (82c191a)"})

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [{"id": name, "object": "model"}
                                                             for name in self.models]})

    def entry(self, name):
        tagged = name if ":" in name else name + ":latest"
        return {"name": tagged, "model": tagged, "modified_at": "2026-11-23T09:47:12Z", "size": 0,
                "digest": "sha256:00", "details": {"format": "gguf", "family": "llama-cpp",
                                                   "families": ["llama-cpp"]},
                "capabilities": ["completion"]}

    def tags(self, reply, _request):
        return reply.answer(200, {"models": [self.entry(name) for name in self.models]})

    def ps(self, reply, _request):
        return reply.answer(200, {"models": [
            {**self.entry(name), "expires_at": "2026-11-24T09:47:12Z", "size_vram": 0}
            for name, ready in self.loaded.items() if ready.is_set()] or None})

    def show(self, reply, request):
        name = request.json.get("name") or request.json.get("model") or ""
        if name.split(":")[0] not in self.models:
            return reply.answer(404, {"error": f"model '{name}' not found"})
        return reply.answer(200, {"modelfile": f"FROM {name}", "parameters": "", "template": "",
                                  "details": self.entry(name)["details"],
                                  "model_info": {"general.context_length": self.context},
                                  "capabilities": ["completion"]})

    def api_chat(self, reply, request):
        return self.generate(reply, request, "ollama_chat")

    def api_generate(self, reply, request):
        return self.generate(reply, request, "ollama_generate")

    def is_stream(self, body, kind):
        if kind.startswith("ollama"):
            return body.get("stream") is not False
        return bool(body.get("stream"))

    def prompts_of(self, body, kind):
        if kind == "ollama_generate":
            return super().prompts_of({"prompt": body.get("prompt", "")}, "completions")
        return super().prompts_of(body, "chat" if kind == "ollama_chat" else kind)

    def generate(self, reply, request, kind):
        try:
            name = request.json.get("model") or ""
        except (ValueError, AttributeError):
            return super().generate(reply, request, kind)
        if kind.startswith("ollama"):
            name = name.split(":")[0]
        if name not in self.models:
            self.count["refused"] += 1
            return reply.answer(*self.unknown_model({"model": name}))
        with self.lock:
            ready = self.loaded.get(name)
            mine = ready is None
            if mine:
                ready = self.loaded[name] = threading.Event()
                self.count["loads"] += 1
        if mine:
            self.stopping.wait(self.load_s)
            ready.set()
        ready.wait()
        return super().generate(reply, request, kind)

    def model_of(self, body):
        return body.get("model")   # generate() has looked already

    def rerank(self, reply, request):
        documents = request.json.get("documents", [])
        return reply.answer(200, {"model": request.json.get("model"), "usage": {"total_tokens": 1},
                                  "results": [{"index": i, "relevance_score": 1.0 / (i + 1),
                                               "document": {"text": text}}
                                              for i, text in enumerate(documents)]})

    def transcribe(self, reply, _request):
        return reply.answer(200, {"text": "the node keeps its slots"})


if __name__ == "__main__":
    main(LocalAi)
