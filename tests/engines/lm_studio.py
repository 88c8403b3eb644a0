"""lm_studio.py - a scripted LM Studio server.

From its documentation (lmstudio-ai/docs), page by page, and from what users met:
  1_developer/2_rest/endpoints    /api/v0/models with type, state (loaded, not-loaded),
                                  max_context_length; loaded_context_length of what is loaded
  1_developer/2_rest/list         /api/v1/models with loaded_instances[].config.context_length and
                                  capabilities {vision, trained_for_tool_use}
  1_developer/0_core/ttl-and-auto-evict   a model is loaded when it is asked for (JIT), another that was
                                  loaded so is evicted
  1_developer/3_openai-compat, 4_anthropic-compat   chat, completions, embeddings, responses, messages
Seen in the field: an unknown path is 200 with {"error": "Unexpected endpoint or method. ..."};
owned_by organization_owner; lmstudio-bug-tracker#2055 (/v1/messages without count_tokens); the
refusal of a prompt that is too long; an error in a stream comes as `event: error`.

Knobs: models {name: type}, load_s, jit (False: only what is loaded is listed and served), parallel
(slots), max_context, loaded_context; those of openai_api.py.
"""

import threading

from openai_api import (ChatWriter, MessagesWriter, OpenAi, ResponsesWriter, TextWriter,
                        has_part)
from scripted import main


class LmChat(ChatWriter):
    def more(self, _chunk):
        return {"system_fingerprint": self.model}

    def first(self, choice):
        return b""

    def text(self, choice, text):
        return self.delta(choice, {"role": "assistant", "content": text})

    def delta(self, choice, delta, reason=None):
        return self.event(self.chunk([{"index": choice.index, "delta": delta, "logprobs": None,
                                       "finish_reason": reason}]))

    def error(self, document):
        return b"event: error\n" + self.event(document)

    def document(self):
        return {**super().document(), "stats": {}, "system_fingerprint": self.model}


class LmStudio(OpenAi):
    """An LM Studio."""

    head_at = "arrival"
    writers = {"chat": LmChat, "completions": TextWriter, "responses": ResponsesWriter,
               "messages": MessagesWriter}
    routes = {
        ("GET", "/v1/models"): "list_models", ("GET", "/api/v0/models"): "v0_models",
        ("GET", "/api/v1/models"): "v1_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/responses"): "responses", ("POST", "/v1/messages"): "messages",
        ("POST", "/v1/embeddings"): "embeddings",
    }

    def setup(self):
        super().setup()
        self.models = {"qwen/qwen3-4b": "llm", "text-embedding-nomic-embed-text-v1.5": "embeddings"}
        self.slots = 4
        self.jit = True
        self.load_s = 0.0
        self.max_context = 32768
        self.context = 4096        # of what is loaded
        self.loaded = None         # the name that was loaded last
        self.load_lock = threading.Lock()

    def no_route(self, reply, request):
        return reply.answer(200, {"error": f"Unexpected endpoint or method. ({request.method} "
                                           f"{request.target})"})

    def shown(self):
        return [name for name in self.models if self.jit or name == self.loaded]

    def list_models(self, reply, _request):
        return reply.answer(200, {"data": [
            {"id": name, "object": "model", "owned_by": "organization_owner"}
            for name in self.shown()], "object": "list"}, content_type="application/json; charset=utf-8")

    def v0_models(self, reply, _request):
        data = []
        for name, kind in self.models.items():
            entry = {"id": name, "object": "model", "type": kind, "publisher": "lmstudio-community",
                     "arch": "qwen3", "compatibility_type": "gguf", "quantization": "Q4_K_M",
                     "state": "loaded" if name == self.loaded else "not-loaded",
                     "max_context_length": self.max_context}
            if kind != "embeddings":
                entry["capabilities"] = ["tool_use"]
            if name == self.loaded:
                entry["loaded_context_length"] = self.context
            data.append(entry)
        return reply.answer(200, {"object": "list", "data": data})

    def v1_models(self, reply, _request):
        out = []
        for name, kind in self.models.items():
            here = [{"id": name, "config": {"context_length": self.context}}]
            entry = {"type": "embedding" if kind == "embeddings" else "llm",
                     "publisher": "lmstudio-community", "key": name, "display_name": name,
                     "quantization": {"name": "Q4_K_M", "bits_per_weight": 4}, "size_bytes": 1,
                     "params_string": "4B", "loaded_instances": here if name == self.loaded else [],
                     "max_context_length": self.max_context, "format": "gguf"}
            if kind != "embeddings":
                entry["capabilities"] = {"vision": kind == "vlm", "trained_for_tool_use": True}
            out.append(entry)
        return reply.answer(200, {"models": out})

    def fault(self, status, message):
        return status, {"error": {"message": message, "type": "invalid_request_error",
                                  "param": "model", "code": "model_not_found"}}

    def unknown_model(self, body):
        return self.fault(404, f"Model \"{body.get('model')}\" not found. Please specify a valid "
                               "model.")

    def bad_json(self, reply, error):
        return reply.answer(400, {"error": str(error)})

    def refuse(self, body, kind):
        if has_part(body, "image_url", "image") and self.models[body["model"]] != "vlm":
            return 400, {"error": "Model does not support images. Please use a model that does."}
        return None

    def refuse_context(self, prompt_tokens, max_tokens):
        if prompt_tokens < self.context:
            return None
        return 400, {"error": "The number of tokens to keep from the initial prompt is greater than "
                              "the context length. Try to load the model with a larger context "
                              "length, or provide a shorter input"}

    def model_of(self, body):
        name = body.get("model")
        return name if name in self.shown() and self.models[name] != "embeddings" else None

    def generate(self, reply, request, kind):
        try:
            name = self.model_of(request.json)
        except (ValueError, AttributeError):
            name = None
        if name is not None:
            with self.load_lock:
                if self.loaded != name:
                    self.count["loads"] += 1
                    self.stopping.wait(self.load_s)
                    self.loaded = name
        return super().generate(reply, request, kind)


if __name__ == "__main__":
    main(LmStudio)
