"""tgi.py - a scripted text-generation-inference (TGI) router.

From the source of huggingface/text-generation-inference (router/src, January 2026), file by file:
  lib.rs           Info: model_id, max_concurrent_requests, max_input_tokens, max_total_tokens, version
  server.rs        /info; /health; /metrics (tgi_batch_current_size, tgi_queue_size); /v1/models with
                   the model as its own owner, created 0; /v1/chat/completions, /v1/completions;
                   a wrong key is 401 without a body, the lists need none; a stream's events are `data:`
                   and the JSON without a blank, and [DONE] comes after an error, too
  server.rs (From<InferError>)   429 overloaded, 422 validation, 424 when its own server failed
  infer/mod.rs     {error, error_type}; into_openai_event: {error: {message, http_status_code: 422}}
                   whatever the error was
  validation.rs    prompt and answer together over max_total_tokens: 422; without max_tokens the answer
                   gets what the prompt leaves, so the prompt alone is over max_input_tokens

Knobs: max_concurrent_requests; those of openai_api.py; context is max_total_tokens, slots what runs at once.
"""

from openai_api import ChatWriter, OpenAi, TextWriter
from scripted import main


class TgiChat(ChatWriter):
    done = b"data: [DONE]\n\n"

    def event(self, document):
        return b"data:" + self.engine.dump(document) + b"\n\n"

    def more(self, _chunk):
        return {"system_fingerprint": "3.3.6-native"}

    def first(self, choice):
        return b""

    def text(self, choice, text):
        return self.delta(choice, {"role": "assistant", "content": text})

    def chunk(self, choices, **more):
        return super().chunk(choices, **{"usage": None, **more})

    def error(self, document):
        return b"data:" + self.engine.dump({"error": {
            "message": "Request failed during generation: Server error: CUDA error",
            "http_status_code": 422}}) + b"\n\n"


class Tgi(OpenAi):
    """A TGI router."""

    writers = {"chat": TgiChat, "completions": TextWriter}
    routes = {
        ("GET", "/info"): "info", ("GET", "/health"): "health", ("GET", "/ping"): "health",
        ("GET", "/metrics"): "get_metrics", ("GET", "/v1/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
    }

    def setup(self):
        super().setup()
        self.models = ["meta-llama/Llama-3.1-8B-Instruct"]
        self.version = "3.3.6"
        self.slots = 32
        self.max_concurrent_requests = 128

    def no_route(self, reply, _request):
        return reply.answer(404, b"", content_type=None)

    def health(self, reply, _request):
        return reply.answer(200, b"", content_type=None)

    def info(self, reply, _request):
        return reply.answer(200, {
            "model_id": self.models[0], "model_sha": None, "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": self.max_concurrent_requests, "max_best_of": 2,
            "max_stop_sequences": 4, "max_input_tokens": self.context - 1,
            "max_total_tokens": self.context, "validation_workers": 2, "max_client_batch_size": 4,
            "router": "text-generation-router", "version": self.version, "sha": None,
            "docker_label": None})

    def get_metrics(self, reply, _request):
        return reply.answer(200, "# TYPE tgi_batch_current_size gauge\n"
                            f"tgi_batch_current_size {len(self.machine.running)}\n"
                            "# TYPE tgi_queue_size gauge\n"
                            f"tgi_queue_size {len(self.machine.queue)}\n", content_type="text/plain")

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": name}
            for name in self.models]})

    def model_of(self, body):
        return self.models[0]      # whatever was asked for

    def bad_json(self, reply, error):
        return reply.answer(422, f"Failed to parse the request body as JSON: {error}",
                            content_type="text/plain; charset=utf-8")

    def refuse(self, body, kind):
        if len(self.machine.running) + len(self.machine.queue) >= self.max_concurrent_requests:
            return 429, {"error": "Model is overloaded", "error_type": "overloaded"}
        return None

    def refuse_context(self, prompt_tokens, max_tokens):
        if max_tokens is None:
            if prompt_tokens < self.context:
                return None
            return 422, {"error": f"Input validation error: `inputs` must have less than "
                                  f"{self.context - 1} tokens. Given: {prompt_tokens}",
                         "error_type": "validation"}
        wanted = max_tokens
        if prompt_tokens + wanted <= self.context:
            return None
        return 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
                              f"{self.context}. Given: {prompt_tokens} `inputs` tokens and {wanted} "
                              "`max_new_tokens`", "error_type": "validation"}


if __name__ == "__main__":
    main(Tgi)
