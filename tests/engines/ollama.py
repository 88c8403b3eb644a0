"""ollama.py - a scripted Ollama.

From the source of ollama/ollama (fb30760, 2026-08-21), file by file:
  server/routes.go       the routes; `Ollama is running`; NDJSON of streamResponse, streams unless
                         `"stream": false`; /api/ps lists what is loaded, with context_length; 404
                         `model "x" not found, try pulling it first`; an empty prompt only loads
                         (`done_reason` load), with keep_alive 0 it unloads; 401 with signin_url
  server/sched.go        a load runs as long as the request that began it: its client leaves, the
                         load is thrown away; num_ctx other than the loaded one: a new load, once
                         the runner is idle; OLLAMA_NUM_PARALLEL places a runner (1 unless set), the
                         rest waits without a byte; OLLAMA_MAX_QUEUE (512): 503 `server busy`;
                         OLLAMA_MAX_LOADED_MODELS
  server/cloud_proxy.go  models of the cloud: 401 with signin_url until signed in
  openai/openai.go       chunks of /v1 (`fp_ollama`; usage only if asked for; tool calls whole)
  types/model            `x` is `x:latest`; owned_by is the namespace, `library`
Seen in the field: ollama/ollama#15457 (index 0 for each tool call: `call_index_zero`), #12879 (the
stream of a cloud model comes as text/plain).

Knobs: models {name: capabilities}, num_parallel, max_loaded, max_queue, load_s, context (default
num_ctx), trained (the model's own), cloud (names), signed_in, call_index_zero, big_context; those of openai_api.py.
Counts: loads, loads_lost, reloads.
"""

import json
import threading
import time

from machine import count_tokens
from openai_api import (CREATED, ChatWriter, MessagesWriter, OpenAi, ResponsesWriter, TextWriter,
                        Writer, has_part, vector_of)
from scripted import Gone, main

STAMP = "2026-11-23T09:47:12.000000Z"
SIGNIN = "https://ollama.com/connect?name=scripted&key=none"


class OllamaChat(Writer):
    """/api/chat."""

    content_type = "application/x-ndjson"
    done = b""

    def event(self, document):
        return self.engine.dump(document) + b"\n"

    def line(self, message, done=False, **more):
        return {"model": self.model, "created_at": STAMP,
                "message": {"role": "assistant", "content": "", **message}, "done": done, **more}

    def metrics(self, choice):
        prompt, completion, _ = choice.usage()
        work = choice.work
        first, end = work.first_s or work.came_s, time.monotonic()
        return {"total_duration": nanoseconds(end - work.came_s),
                "load_duration": nanoseconds(getattr(work, "load_s", 0.0) or 0.001),
                "prompt_eval_count": prompt,
                "prompt_eval_duration": nanoseconds(first - work.came_s),
                "eval_count": completion, "eval_duration": nanoseconds(end - first)}

    def reason(self, choice):
        return "stop" if choice.reason == "tool_calls" else choice.reason

    def text(self, choice, text):
        return self.event(self.line({"content": text}))

    def calls(self, choice):
        return [{"id": f"call_{self.number}{at}", "function": {
            "index": at, "name": name, "arguments": json.loads(arguments)}}
            for at, (name, arguments) in enumerate(choice.calls)]

    def tools(self, choice):
        return self.event(self.line({"tool_calls": self.calls(choice)}))

    def last(self, choice):
        return self.event(self.line({}, True, done_reason=self.reason(choice),
                                    **self.metrics(choice)))

    def tail(self):
        return b""

    def error(self, document):
        return self.event(document)

    def document(self):
        choice = self.choices[0]
        message = {"content": choice.text}
        if choice.calls:
            message["tool_calls"] = self.calls(choice)
        return self.line(message, True, done_reason=self.reason(choice), **self.metrics(choice))


class OllamaGenerate(OllamaChat):
    """/api/generate: the last line carries `context`."""

    def line(self, message, done=False, **more):
        out = {"model": self.model, "created_at": STAMP, "response": message.get("content", ""),
               "done": done}
        reason = more.pop("done_reason", None)
        if reason is not None:
            out["done_reason"] = reason
            out["context"] = list(range(self.engine.big_context or 8))
        return {**out, **more}


def nanoseconds(seconds):
    return max(1, int(seconds * 1e9))


class V1Chat(ChatWriter):
    def more(self, _chunk):
        return {"system_fingerprint": "fp_ollama"}

    def first(self, choice):
        return b""                 # the role comes with the first content

    def text(self, choice, text):
        role = {"role": "assistant"} if choice.shown == 1 else {}
        return self.delta(choice, {**role, "content": text})

    def call(self, choice, at):
        call = super().call(choice, at)
        if self.engine.call_index_zero:
            call["index"] = 0
        return {key: call[key] for key in ("id", "index", "type", "function")}

    def tools(self, choice):
        role = {"role": "assistant"} if choice.text_words == 0 else {}
        return b"".join(self.delta(choice, {**role, "content": "",
                                            "tool_calls": [self.call(choice, at)]})
                        for at in range(len(choice.calls)))


class V1Text(TextWriter):
    def more(self, _chunk):
        return {"system_fingerprint": "fp_ollama"}


class Loaded:
    def __init__(self, machine, num_ctx):
        self.machine = machine
        self.num_ctx = num_ctx
        self.users = 0
        self.loading = True
        self.expires_s = time.time() + 300


class Ollama(OpenAi):
    """An Ollama."""

    writers = {"chat": V1Chat, "completions": V1Text, "responses": ResponsesWriter,
               "messages": MessagesWriter, "ollama_chat": OllamaChat,
               "ollama_generate": OllamaGenerate}
    head_at = "first"
    routes = {
        ("GET", "/"): "root", ("GET", "/api/version"): "api_version",
        ("GET", "/api/tags"): "tags", ("GET", "/api/ps"): "ps", ("POST", "/api/show"): "show",
        ("POST", "/api/chat"): "api_chat", ("POST", "/api/generate"): "api_generate",
        ("POST", "/api/embed"): "api_embed", ("POST", "/api/embeddings"): "api_embeddings",
        ("GET", "/v1/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/embeddings"): "embeddings", ("POST", "/v1/responses"): "responses",
        ("POST", "/v1/messages"): "messages",
    }

    def setup(self):
        self.loaded = {}           # full name -> Loaded
        self.changed = threading.Condition(self.lock)
        super().setup()
        self.models = {"llama3.2:latest": ["completion", "tools"]}
        self.version = "0.23.1"
        self.num_parallel = 1
        self.max_loaded = 3
        self.max_queue = 512
        self.load_s = 0.0
        self.trained = 131072      # the model's own context; 0: an older version, not listed
        self.cloud = ()            # names that run at ollama.com
        self.signed_in = False
        self.call_index_zero = True
        self.big_context = 0       # numbers in the `context` of /api/generate's last line
        self.waiting = 0

    # ---- names ------------------------------------------------------------------------------

    def full(self, name):
        """The name as it is listed, or None: tags default to latest, case does not matter."""
        if not name:
            return None
        wanted = (name if ":" in name else name + ":latest").lower()
        return next((m for m in self.models if m.lower() == wanted), None)

    def model_of(self, body):
        return body["model"] if self.full(body.get("model") or body.get("name")) else None

    def unknown_model(self, body):
        return 404, f'model "{body.get("model")}" not found, try pulling it first'

    def is_cloud(self, name):
        return name in self.cloud or self.full(name) in self.cloud

    # ---- looks ------------------------------------------------------------------------------

    def json_answer(self, reply, status, document):
        return reply.answer(status, document, content_type="application/json; charset=utf-8")

    def no_route(self, reply, _request):
        return reply.answer(404, "404 page not found", content_type="text/plain")

    def root(self, reply, _request):
        return reply.answer(200, "Ollama is running", content_type="text/plain; charset=utf-8")

    def api_version(self, reply, _request):
        return self.json_answer(reply, 200, {"version": self.version})

    def details(self):
        return {"parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
                "parameter_size": "3.2B", "quantization_level": "Q4_K_M",
                **({"context_length": self.trained} if self.trained else {})}

    def tags(self, reply, _request):
        return self.json_answer(reply, 200, {"models": [
            {"name": name, "model": name, "modified_at": STAMP, "size": 2019393189,
             "digest": digest_of(name), "details": self.details(),
             "capabilities": capabilities} for name, capabilities in self.models.items()]})

    def ps(self, reply, _request):
        with self.lock:
            loaded = [(n, e) for n, e in self.loaded.items() if not e.loading]
        return self.json_answer(reply, 200, {"models": [
            {"name": name, "model": name, "size": 3212345678, "digest": digest_of(name),
             "details": self.details(), "expires_at": STAMP, "size_vram": 3212345678,
             "context_length": entry.num_ctx} for name, entry in loaded]})

    def show(self, reply, request):
        body = request.json
        name = self.full(body.get("model") or body.get("name"))
        if name is None:
            return self.json_answer(reply, 404, {"error": f"model '{body.get('model')}' not found"})
        return self.json_answer(reply, 200, {
            "modelfile": f"FROM {name}", "template": "{{ .Prompt }}", "details": self.details(),
            "model_info": {"general.architecture": "llama", "llama.context_length": self.trained or 131072},
            "capabilities": self.models[name], "modified_at": STAMP})

    def list_models(self, reply, _request):
        return self.json_answer(reply, 200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "library"}
            for name in self.models]})

    # ---- generation -----------------------------------------------------------------------

    def api_chat(self, reply, request):
        return self.generate(reply, request, "ollama_chat")

    def api_generate(self, reply, request):
        return self.generate(reply, request, "ollama_generate")

    def is_stream(self, body, kind):
        if kind.startswith("ollama"):
            return body.get("stream") is not False
        return bool(body.get("stream"))

    def bad_json(self, reply, error):
        return self.answer_refusal(reply, "", 400, str(error))

    def answer_refusal(self, reply, kind, status, document):
        """A text becomes the error of the API that was asked."""
        self.count["refused"] += 1
        if isinstance(document, str):
            v1 = reply.request.path.startswith("/v1/")
            types = {400: "invalid_request_error", 404: "not_found_error"}
            document = {"error": document} if not v1 else {"error": {
                "message": document, "type": types.get(status, "api_error"), "param": None,
                "code": None}}
            if kind == "messages":
                document = {"type": "error", "error": {
                    "type": document["error"]["type"], "message": document["error"]["message"]}}
        return self.json_answer(reply, status, document)

    def refuse(self, body, kind):
        name = self.full(body["model"])
        if self.is_cloud(body["model"]) and not self.signed_in:
            return 401, {"error": "unauthorized", "signin_url": SIGNIN}
        able = self.models[name]
        if "completion" not in able:
            return 400, f'"{body["model"]}" does not support {"generate" if "generate" in kind else "chat"}'
        if body.get("tools") and "tools" not in able:
            return 400, f"registry.ollama.ai/library/{name} does not support tools"
        images = body.get("images") or any(m.get("images") for m in body.get("messages") or []
                                           if isinstance(m, dict))
        if (images or has_part(body, "image_url", "image")) and "vision" not in able:
            return 400, f"registry.ollama.ai/library/{name} does not support vision"
        if self.waiting >= self.max_queue:
            return 503, "server busy, please try again.  maximum pending requests exceeded"
        return None

    def prompts_of(self, body, kind):
        if kind == "ollama_chat":
            kind = "chat"
        if kind == "ollama_generate":
            prompt = body.get("prompt") or ""
            return [(f"user: {prompt}", count_tokens(prompt) + 4, "")]
        out = super().prompts_of(body, kind)
        return [(key, min(tokens, self.num_ctx_of(body)), begun) for key, tokens, begun in out]

    def limit_of(self, body):
        options = body.get("options") or {}
        if isinstance(options.get("num_predict"), int) and options["num_predict"] >= 0:
            return options["num_predict"]
        return super().limit_of(body)

    def num_ctx_of(self, body):
        wanted = (body.get("options") or {}).get("num_ctx") or self.context
        return min(wanted, self.trained or 131072)

    def room_after(self, _prompt_tokens, body):
        """A full context is shifted, so the prompt takes no room from the answer."""
        return 10 * self.num_ctx_of(body)

    def machine_of(self, model):
        with self.lock:
            entry = self.loaded.get(self.full(model))
        return entry.machine if entry is not None else self.machine

    def generate(self, reply, request, kind):
        """Loads first; the load belongs to the request that began it."""
        try:
            body = request.json
            name = self.full(body.get("model"))
            taken = name is not None and self.refuse(body, kind) is None
        except (ValueError, AttributeError, KeyError):
            return super().generate(reply, request, kind)
        if not taken or self.is_cloud(body["model"]):
            return super().generate(reply, request, kind)
        empty = kind == "ollama_chat" and not body.get("messages")
        empty = empty or (kind == "ollama_generate" and not body.get("prompt"))
        if empty and body.get("keep_alive") in (0, "0"):
            with self.changed:
                self.loaded.pop(name, None)
                self.changed.notify_all()
            return self.only(reply, body, kind, "unload")
        with self.changed:
            self.waiting += 1
        try:
            entry = self.load(reply, name, self.num_ctx_of(body))
        finally:
            with self.changed:
                self.waiting -= 1
        try:
            if empty:
                return self.only(reply, body, kind, "load")
            return super().generate(reply, request, kind)
        finally:
            with self.changed:
                entry.users -= 1
                if body.get("keep_alive") in (0, "0") and entry.users == 0:
                    self.loaded.pop(name, None)
                self.changed.notify_all()

    def only(self, reply, body, kind, reason):
        writer = self.writers[kind](self, body, body["model"], 0)
        return self.json_answer(reply, 200, writer.line({}, True, done_reason=reason))

    def load(self, reply, name, num_ctx):
        """The runner of a model with such a context, with one more user."""
        with self.changed:
            while True:
                entry = self.loaded.get(name)
                if entry is not None and not entry.loading:
                    if entry.num_ctx == num_ctx:
                        entry.users += 1
                        return entry
                    if entry.users == 0:
                        del self.loaded[name]
                        self.count["reloads"] += 1
                        entry = None
                if entry is None and self.make_room():
                    break
                self.wait_change(reply)
            entry = self.loaded[name] = Loaded(self.new_machine(), num_ctx)
            entry.machine.slots = self.num_parallel
            self.count["loads"] += 1
        gone = reply.wait_gone(self.load_s) if self.load_s else False
        with self.changed:
            self.changed.notify_all()
            if gone or self.stopping.is_set():
                self.loaded.pop(name, None)
                self.count["loads_lost"] += 1
                raise Gone()
            entry.loading = False
            entry.users += 1
            return entry

    def make_room(self):
        if len(self.loaded) < self.max_loaded:
            return True
        for name, entry in self.loaded.items():
            if not entry.loading and entry.users == 0:
                del self.loaded[name]
                return True
        return False

    def wait_change(self, reply):
        self.changed.wait(0.05)
        if reply.is_gone() or self.stopping.is_set():
            reply.request.gone = True
            raise Gone()

    def begin(self, reply, writer):
        kind = writer.content_type
        if self.is_cloud(writer.model) and kind == "application/x-ndjson":
            kind = "text/plain; charset=utf-8"
        reply.begin_stream(kind)

    def answer_whole(self, reply, writer):
        return self.json_answer(reply, 200, writer.document())

    def stop(self):
        super().stop()
        with self.changed:
            self.loaded.clear()

    # ---- embeddings -----------------------------------------------------------------------

    def api_embed(self, reply, request):
        body = request.json
        if self.full(body.get("model")) is None:
            return self.answer_refusal(reply, "", *self.unknown_model(body))
        texts = body.get("input", "")
        texts = texts if isinstance(texts, list) else [texts]
        return self.json_answer(reply, 200, {
            "model": body["model"], "embeddings": [vector_of(text) for text in texts],
            "total_duration": 1000, "load_duration": 1,
            "prompt_eval_count": sum(count_tokens(text) for text in texts)})

    def api_embeddings(self, reply, request):
        body = request.json
        if self.full(body.get("model")) is None:
            return self.answer_refusal(reply, "", *self.unknown_model(body))
        return self.json_answer(reply, 200, {"embedding": vector_of(body.get("prompt", ""))})


def digest_of(name):
    return "".join(f"{byte:02x}" for byte in name.encode()).ljust(64, "0")[:64]


if __name__ == "__main__":
    main(Ollama)
