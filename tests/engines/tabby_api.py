"""tabby_api.py - a scripted TabbyAPI.

From the source of theroyallab/tabbyAPI (August 2026), file by file:
  endpoints/OAI/router.py    /v1/chat/completions, /v1/completions, /v1/embeddings; pings in a stream are
                             sse-starlette's comments
  endpoints/core/router.py   /v1/models (all folders for an admin key, the loaded one else), owned_by
                             tabbyAPI; /v1/model with parameters {max_seq_len, max_batch_size, cache_size,
                             use_vision}; /props with total_slots and n_ctx; /health {status, issues}
  endpoints/OAI/utils/common_.py   the name of a request is not looked at, unless models are loaded inline
  endpoints/OAI/utils/chat_completion.py   images are left out in silence without use_vision
  common/auth.py             every call wants a key (x-api-key or Authorization): 401 {"detail": ...}
  common/errors.py           a prompt that is too long: 400 with code context_length_exceeded
  common/model.py            no model in memory: 503 {"detail": "No models are currently loaded."}
  common/networking.py       an error in a stream is an event {"error": {message, trace}}

Knobs: api_key (None: no authentication), max_batch_size (slots); those of openai_api.py.
"""

from openai_api import CREATED, ChatWriter, OpenAi, TextWriter
from scripted import main


class TabbyChat(ChatWriter):
    def delta(self, choice, delta, reason=None):
        entry = {"index": choice.index, "delta": delta}
        return self.event(self.chunk([{**entry, **({"finish_reason": reason} if reason else {})}]))

    def first(self, choice):
        return self.delta(choice, {"role": "assistant"})


class TabbyApi(OpenAi):
    """A TabbyAPI."""

    server = "uvicorn"
    writers = {"chat": TabbyChat, "completions": TextWriter}
    routes = {
        ("GET", "/health"): "health", ("GET", "/v1/models"): "list_models",
        ("GET", "/v1/model/list"): "list_models", ("GET", "/v1/model"): "one_model",
        ("GET", "/props"): "props",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/embeddings"): "embeddings",
    }

    def setup(self):
        super().setup()
        self.models = ["Meta-Llama-3-8B-exl3"]
        self.api_key = None
        self.slots = 8

    def handle(self, reply, request):
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is not None and request.path != "/health":
            if self.api_key not in (given, request.headers.get("x-api-key")):
                detail = "Invalid API key" if given else "Please provide an API key"
                return reply.answer(401, {"detail": detail})
        return super().handle(reply, request)

    def no_route(self, reply, _request):
        return reply.answer(404, {"detail": "Not Found"})

    def health(self, reply, _request):
        return reply.answer(200, {"status": "healthy", "issues": []})

    def card(self, name):
        return {"id": name, "object": "model", "created": CREATED, "owned_by": "tabbyAPI"}

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [self.card(n) for n in self.models]})

    def one_model(self, reply, _request):
        return reply.answer(200, {**self.card(self.models[0]), "parameters": {
            "max_seq_len": self.context, "cache_size": self.context, "cache_mode": "FP16",
            "max_batch_size": self.slots, "chunk_size": 2048, "use_vision": self.vision}})

    def props(self, reply, _request):
        return reply.answer(200, {"total_slots": self.slots, "chat_template": "",
                                  "default_generation_settings": {"n_ctx": self.context}})

    def model_of(self, body):
        return self.models[0]      # without inline loading the name is not looked at

    def bad_json(self, reply, error):
        return reply.answer(422, {"detail": [{"type": "json_invalid", "msg": str(error)}]})

    def refuse_context(self, prompt_tokens, max_tokens):
        if prompt_tokens <= self.context:
            return None
        return 400, {"error": {
            "message": f"Prompt length {prompt_tokens} exceeds the available context size of "
                       f"{self.context} tokens",
            "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}}

    def error_in_stream(self):
        return {"error": {"message": "Chat completion aborted. Please check the server console.",
                          "trace": None}}


if __name__ == "__main__":
    main(TabbyApi)
