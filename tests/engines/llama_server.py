"""llama_server.py - a scripted llama-server, single model or router.

From the source of llama.cpp (tools/server, build b10573) and from recordings of that build, file
by file:
  server-http.cpp     the `Server` header, `Keep-Alive: timeout=5, max=100`, `Connection: close`
                      after errors and streams; 503 `Loading model` on every path while it loads;
                      404 `File Not Found`; 401 `Invalid API Key` (not for /health)
  server-context.cpp  handle_completions_impl: a client that leaves before its first token, or of
                      an unstreamed request, is noticed only after a whole second
                      (HTTP_POLLING_SECONDS) in which no result was posted for anyone
                      (server-queue.cpp, recv_with_timeout); /slots and /metrics post results,
                      /health, /props and /v1/models do not; the head of a stream goes out when
                      its prompt begins; each prompt after the first begins with an event
                      `data: null`; /slots with n_prompt_tokens_processed and
                      next_token[].n_decoded; /metrics is 501 without --metrics; sleeping; no
                      request is ever refused for load, the queue has no end
  server-task.cpp     members of chunks and their order; role and first content in one write,
                      finish and usage in one; `timings` in the usage event (in the last one
                      without); the usage of /v1/completions in the last event of each prompt,
                      with its index; `prompt_progress`
  server-common.cpp   exceed_context_size_error with n_prompt_tokens and n_ctx; `image input is
                      not supported`: 500
  server-models.cpp   router mode: the status of each model, max_instances; a model that is busy
                      may be unloaded for another, its requests get 500 and a plain text
                      `proxy error: ...` (as measured with --models-max 1 and three models at once);
                      one that is being unloaded is listed as loaded, and its requests get such a
                      500 until it has ended; to a stream that has begun the text is appended,
                      which ends well then; one whose server crashed is `unloaded` and `failed`
                      in the list until the next request starts another

Knobs: metrics (--metrics), slots_endpoint, loading, api_key, batch_s (how long a batch takes:
cancels and questions wait for its end), deaf_s (the second of recv_with_timeout), sleep_idle_s,
wake_s, vision (--mmproj), embeddings_on, batch, alias (False: the model's id is its path), n_vocab; of
the router: router (names), max_instances, load_s, unload_s, fatal (bytes in a request that crash
the model's server), fatal_after (tokens); those of openai_api.py.  slots is -np, context
is of a slot.
Counts: posted (results), wakes, loads, unloads, crashes, unconnected (requests to a model that is
being unloaded), shown_VALUE (a model's status in a list), shown_failed.
"""

import json
import threading
import time

from machine import Machine, count_tokens
from openai_api import (CREATED, ChatWriter, MessagesWriter, OpenAi, ResponsesWriter, TextWriter,
                        has_part)
from scripted import Gone, main

BUILD = "b10573-d775b8967"
JSON = "application/json; charset=utf-8"
REASONING = {"chat_format": "peg-native", "reasoning_format": "deepseek"}


class LlamaMachine(Machine):
    """Slots; deaf to a client that leaves while results are posted."""

    def __init__(self):
        super().__init__(slots=4)
        self.batch_s = 0.0
        self.deaf_s = 1.0
        self.posted_s = 0.0        # instant of the last posted result
        self.posted = 0
        self.decode_calls = 0
        self.tasks = 0             # numbers given to tasks
        self.born_s = time.monotonic()

    def submit(self, work):
        with self.changed:
            work.task = self.tasks
            self.tasks += 1
        super().submit(work)

    def post(self):
        with self.changed:
            self.posted += 1
            self.posted_s = time.monotonic()

    def batch_end(self, now_s):
        """Whether the batch that runs ends before the next tick."""
        if not self.batch_s:
            return True
        return (now_s - self.born_s) % self.batch_s < 2 * self.tick_s

    def when_gone(self, work, now_s):
        since_s = max(self.posted_s, work.came_s)
        waits = int((now_s - since_s) / self.deaf_s)
        heard = waits >= 1 and since_s + waits * self.deaf_s >= work.gone_s
        if (heard or work.state == "queued" and heard) and self.batch_end(now_s):
            self.cancel(work)

    def read_prompts(self, now_s, past_s):
        self.decode_calls += any(w.state == "prefill" for w in self.running)
        super().read_prompts(now_s, past_s)

    def give(self, work, count, now_s):
        if work.gone_s is not None and work.streams:
            self.cancel(work)      # the next write fails
            return
        self.decode_calls += count
        if work.streams:
            self.post()
        super().give(work, count, now_s)
        if work.ended.is_set():
            self.post()


def usage_of(prompt, completion, cached):
    return {"completion_tokens": completion, "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached}}


def timings_of(work):
    read = max(1, work.prompt_tokens - work.cached)
    read_ms = max(0.001, ((work.first_s or 0) - (work.started_s or 0)) * 1e3)
    ms = max(0.001, (time.monotonic() - (work.first_s or time.monotonic())) * 1e3)
    return {"cache_n": work.cached, "prompt_n": read, "prompt_ms": round(read_ms, 3),
            "prompt_per_token_ms": read_ms / read, "prompt_per_second": read / read_ms * 1e3,
            "predicted_n": work.decoded, "predicted_ms": round(ms, 3),
            "predicted_per_token_ms": ms / max(1, work.decoded),
            "predicted_per_second": work.decoded / ms * 1e3}


class LlamaChat(ChatWriter):
    def usage(self, prompt, completion, cached):
        return usage_of(prompt, completion, cached)

    def identity(self):
        return f"{self.prefix}{self.number:032d}"

    def chunk(self, choices, **more):
        return {"choices": choices, "created": CREATED, "id": self.identity(),
                "model": self.model, "system_fingerprint": BUILD,
                "object": "chat.completion.chunk", **more}

    def delta(self, choice, delta, reason=None, **more):
        return self.event(self.chunk([{"finish_reason": reason, "index": choice.index,
                                       "delta": delta}], **more))

    def first(self, choice):
        return self.delta(choice, {"role": "assistant", "content": None})

    def call(self, choice, at):
        name, arguments = choice.calls[at]
        return {"index": at, "id": f"{self.number:031d}{at}", "type": "function",
                "function": {"name": name, "arguments": arguments}}

    def last(self, choice):
        times = {"timings": self.timings(choice)}
        if not self.wants_usage:
            return self.delta(choice, {}, self.finish_reason(choice), **times)
        return self.delta(choice, {}, self.finish_reason(choice)) + self.event(
            self.chunk([], usage=self.usage(*choice.usage()), **times))

    def tail(self):
        return self.done

    def timings(self, choice):
        return timings_of(choice.work)

    def progress(self, choice):
        """An event of return_progress."""
        work = choice.work
        body = self.chunk([{"finish_reason": None, "index": choice.index,
                            "delta": {"role": "assistant", "content": None}}])
        body["prompt_progress"] = {
            "total": work.prompt_tokens, "cache": work.cached,
            "processed": int(work.cached + work.processed),
            "time_ms": int((time.monotonic() - work.started_s) * 1e3)}
        return self.event(body)

    def document(self):
        return {"choices": [{"finish_reason": self.finish_reason(c), "index": c.index,
                             "message": self.message(c)} for c in self.choices],
                "created": CREATED, "model": self.model, "system_fingerprint": BUILD,
                "object": "chat.completion", "usage": self.usage(*self.choices[0].usage()),
                "id": self.identity(), "timings": self.timings(self.choices[0])}


class LlamaText(LlamaChat):
    """/v1/completions: `data: null` first when there are several prompts; usage is never added up."""

    def chunk(self, choices, **more):
        return {"choices": choices, "created": CREATED, "model": self.model,
                "system_fingerprint": BUILD, "object": "text_completion", **more,
                "id": self.identity()}

    def piece(self, choice, text, reason=None, **more):
        return self.event(self.chunk([{"text": text, "index": choice.index, "logprobs": None,
                                       "finish_reason": reason}], **more))

    def first(self, choice):
        return b""

    def text(self, choice, text):
        return self.piece(choice, text)

    def last(self, choice):
        body = self.chunk([{"text": "", "index": choice.index, "logprobs": None,
                            "finish_reason": self.finish_reason(choice)}],
                          usage=self.usage(*choice.usage()))
        body["timings"] = self.timings(choice)
        return self.event(body)

    def document(self):
        document = self.chunk([{"text": c.text, "index": c.index, "logprobs": None,
                                "finish_reason": self.finish_reason(c)} for c in self.choices],
                              usage=self.usage(*self.choices[0].usage()))
        document["timings"] = self.timings(self.choices[0])
        return document


class LlamaMessages(MessagesWriter):
    def usage(self, prompt, completion, cached):
        return {"cache_read_input_tokens": cached, "input_tokens": prompt - cached,
                "output_tokens": completion}

    def envelope(self, content, reason, usage):
        return {"id": f"chatcmpl-{self.number:032d}", "type": "message", "role": "assistant",
                "content": content, "model": self.model, "stop_reason": reason,
                "stop_sequence": None, "usage": usage}


class LlamaResponses(ResponsesWriter):
    """Without sequence_number and output_index, and `completed` whatever the reason."""

    def named(self, name, **document):
        for member in ("output_index", "content_index"):
            document.pop(member, None)
        if name == "response.content_part.added":
            document["part"].pop("annotations")
        elif name == "response.content_part.done":
            document["part"] = self.part(document["part"]["text"])
        return b"event: " + name.encode() + b"\n" + self.event({"type": name, **document})

    def part(self, text):
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}

    def item(self, choice, status):
        identity = f"msg_{self.number:032d}"
        if status != "completed":
            return {"content": [], "id": identity, "role": "assistant", "status": status,
                    "type": "message"}
        return {"type": "message", "status": status, "id": identity,
                "content": [self.part(choice.text)], "role": "assistant"}

    def status(self, choice):
        return "completed"

    def response(self, status, choice=None):
        identity = f"resp_{self.number:032d}"
        if choice is None:
            return {"id": identity, "object": "response", "status": status}
        whole = super().response(status, choice)
        return {"id": identity, "object": "response", "created_at": CREATED, "status": status,
                "model": self.model, "output": whole["output"], "usage": whole["usage"]}

    def last(self, choice):
        head, event, data = super().last(choice).rpartition(b"event: response.completed\ndata: ")
        document = {**json.loads(data), "timings": timings_of(choice.work)}
        return head + event + self.engine.dump(document) + b"\n\n"

    def document(self):
        """As the event, with the members in alphabetic order."""
        choice = self.choices[0]
        whole = self.response("completed", choice)
        output = [{"content": item["content"], "id": item["id"], "role": "assistant",
                   "status": "completed", "type": "message"} if item["type"] == "message" else item
                  for item in whole["output"]]
        return {"completed_at": CREATED, "created_at": CREATED, "id": whole["id"],
                "model": self.model, "object": "response", "output": output,
                "status": "completed", "usage": whole["usage"]}


class LlamaServer(OpenAi):
    """A llama-server."""

    server = "llama.cpp"
    head_at = "start"
    writers = {"chat": LlamaChat, "completions": LlamaText, "messages": LlamaMessages,
               "responses": LlamaResponses}
    on_machine = OpenAi.on_machine + ("batch_s", "deaf_s")
    routes = {
        ("GET", "/health"): "health", ("GET", "/v1/health"): "health",
        ("GET", "/v1/models"): "list_models", ("GET", "/models"): "list_models",
        ("GET", "/props"): "props", ("GET", "/slots"): "get_slots",
        ("GET", "/metrics"): "get_metrics",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/chat/completions"): "chat",
        ("POST", "/v1/completions"): "completions", ("POST", "/v1/responses"): "responses",
        ("POST", "/v1/messages"): "messages",
        ("POST", "/v1/messages/count_tokens"): "count_tokens",
        ("POST", "/v1/embeddings"): "embeddings", ("POST", "/v1/rerank"): "rerank",
        ("POST", "/tokenize"): "tokenize",
    }
    open_paths = ("/health", "/v1/health", "/")

    def setup(self):
        super().setup()
        self.metrics = False
        self.slots_endpoint = True
        self.loading = False
        self.api_key = None
        self.alias = True
        self.vision = False
        self.embeddings_on = False
        self.batch = 512           # of embeddings (-ub)
        self.n_vocab = 1259
        self.sleep_idle_s = None
        self.wake_s = 0.0
        self.touched_s = time.monotonic()   # instant of the last task
        self.router = ()           # names: a router of these models
        self.max_instances = 4
        self.load_s = 0.0
        self.unload_s = 0.0        # between the end of its work and its own
        self.instances = {}        # name -> Instance, least used first
        self.unloading = set()      # names of models that are being unloaded
        self.crashed = set()        # ... whose last server ended by itself
        self.fatal = None
        self.fatal_after = 0
        self.changed = threading.Condition(self.lock)

    def make_machine(self):
        return LlamaMachine()

    # ---- HTTP ------------------------------------------------------------------------------

    def head_of(self, reply, status, headers):
        first = [("Server", "llama.cpp"), ("Access-Control-Allow-Origin", "")]
        if status >= 400:
            reply.keep = False
        last = [("Keep-Alive", "timeout=5, max=100")] if reply.keep else []
        # X-Accel-Buffering comes before the type
        return first + sorted(headers, key=lambda h: h[0] != "X-Accel-Buffering") + last

    def handle(self, reply, request):
        if self.loading:
            return self.fail(reply, 503, "Loading model", "unavailable_error", late=True)
        if self.api_key is not None and request.path not in self.open_paths:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if self.api_key not in (given, request.headers.get("x-api-key")):
                return self.fail(reply, 401, "Invalid API Key", "authentication_error", late=True)
        return super().handle(reply, request)

    def fault(self, status, message, kind, late=False, **more):
        """late: the order of members that server-http.cpp uses."""
        if late:
            return {"error": {"message": message, "type": kind, "code": status}}
        return {"error": {"code": status, "message": message, "type": kind, **more}}

    def fail(self, reply, status, message, kind, late=False, **more):
        return reply.answer(status, self.fault(status, message, kind, late, **more),
                            content_type=JSON)

    def json_answer(self, reply, document):
        return reply.answer(200, document, content_type=JSON)

    def no_route(self, reply, _request):
        return self.fail(reply, 404, "File Not Found", "not_found_error", late=True)

    # ---- sleep -----------------------------------------------------------------------------

    @property
    def is_sleeping(self):
        if self.sleep_idle_s is None or self.machine.running or self.machine.queue:
            return False
        return time.monotonic() - self.touched_s > self.sleep_idle_s

    def touch(self, reply):
        """A task: it wakes the model, and the idle time begins anew."""
        if self.is_sleeping:
            self.count["wakes"] += 1
            if self.wake_s:
                reply.sleep(self.wake_s)
        self.touched_s = time.monotonic()

    # ---- looks ------------------------------------------------------------------------------

    def health(self, reply, _request):
        return self.json_answer(reply, {"status": "ok"})

    def name(self):
        return self.models[0] if self.alias else f"/home/user/models/{self.models[0]}.gguf"

    def meta(self):
        return {"vocab_type": 2, "n_vocab": self.n_vocab, "n_ctx": self.context,
                "n_ctx_train": 32768, "n_embd": 192, "n_params": 2058048, "size": 8232192,
                "ftype": "all F32"}

    def list_models(self, reply, _request):
        if self.router:
            return self.json_answer(reply, self.router_models())
        name = self.name()
        able = ["completion"] + (["multimodal"] if self.vision else [])
        return self.json_answer(reply, {
            "models": [{"name": name, "model": name, "modified_at": "", "size": "", "digest": "",
                        "type": "model", "description": "", "tags": [""], "capabilities": able,
                        "parameters": "", "details": {
                            "parent_model": "", "format": "gguf", "family": "", "families": [""],
                            "parameter_size": "", "quantization_level": ""}}],
            "object": "list",
            "data": [{"id": name, "aliases": self.models if self.alias else [], "tags": [],
                      "object": "model", "created": CREATED, "owned_by": "llamacpp",
                      "meta": self.meta()}]})

    def props(self, reply, _request):
        if self.router:
            return self.json_answer(reply, {
                "role": "router", "max_instances": self.max_instances, "models_autoload": True,
                "model_alias": "llama-server", "model_path": "none",
                "default_generation_settings": {"params": None, "n_ctx": 0}, "ui_settings": {},
                "build_info": BUILD, "cors_proxy_enabled": False})
        return self.json_answer(reply, {
            "default_generation_settings": {"params": self.params({}), "n_ctx": self.context},
            "total_slots": self.slots, "model_alias": self.name(), "model_ftype": "all F32",
            "model_path": f"models/{self.models[0]}.gguf",
            "modalities": {"vision": self.vision, "video": False, "audio": False},
            "media_marker": "<__media__>", "endpoint_slots": self.slots_endpoint,
            "endpoint_props": False, "endpoint_metrics": self.metrics, "ui": False,
            "ui_settings": {}, "chat_template": "{{ messages }}",
            "chat_template_caps": {
                "supports_object_arguments": False, "supports_parallel_tool_calls": bool(self.calls),
                "supports_preserve_reasoning": False, "supports_reasoning_effort": False,
                "supports_string_content": True, "supports_system_role": True,
                "supports_tool_calls": bool(self.calls), "supports_tools": bool(self.calls),
                "supports_typed_content": False},
            "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "build_info": BUILD,
            "is_sleeping": self.is_sleeping, "cors_proxy_enabled": False})

    def params(self, body):
        limit = self.limit_of(body)
        return {"seed": 4294967295, "temperature": 0.800000011920929, "max_tokens": limit or -1,
                "n_predict": limit or -1, "n_keep": 0, "ignore_eos": bool(body.get("ignore_eos")),
                "stream": bool(body.get("stream")), **REASONING, "timings_per_token": False,
                "lora": []}

    def question(self, reply, machine):
        """Of the main loop: it answers between batches, and posts a result."""
        self.touch(reply)
        while machine.batch_s and machine.running and not machine.batch_end(time.monotonic()):
            reply.sleep(machine.tick_s)
        machine.post()
        self.count["posted"] = machine.posted

    def get_slots(self, reply, request):
        machine = self.machine
        if self.router:
            machine = self.routed_machine(reply, request)
            if machine is None:
                return None
        if not self.slots_endpoint:
            return self.fail(reply, 501, "This server does not support slots endpoint. Start it "
                             "with `--slots`", "not_supported_error")
        self.question(reply, machine)
        if "fail_on_no_slot" in request.query and len(machine.running) >= self.slots:
            return self.fail(reply, 503, "no slot available", "unavailable_error")
        return self.json_answer(reply, self.slot_list(machine))

    def slot_list(self, machine):
        with machine.changed:
            running = list(machine.running)
        out = []
        for number in range(machine.slots):
            slot = {"id": number, "n_ctx": self.context, "speculative": False,
                    "is_processing": number < len(running)}
            if number == len(running) and machine.tasks:
                slot["id_task"] = machine.tasks - 1    # its last
            if number < len(running):
                work = running[number]
                slot |= {"id_task": work.task, "n_prompt_tokens": work.prompt_tokens,
                         "n_prompt_tokens_processed": int(work.processed),
                         "n_prompt_tokens_cache": work.cached, "params": self.params({}),
                         "next_token": [{"has_next_token": True, "has_new_line": False,
                                         "n_remain": len(work.words) - work.decoded,
                                         "n_decoded": work.decoded}]}
            out.append(slot)
        return out

    def get_metrics(self, reply, request):
        machine = self.machine
        if self.router:
            machine = self.routed_machine(reply, request)
            if machine is None:
                return None
        if not self.metrics:
            return self.fail(reply, 501, "This server does not support metrics endpoint. Start it "
                             "with `--metrics`", "not_supported_error")
        self.question(reply, machine)
        values = [("prompt_tokens_total", "counter", int(machine.prompt_tokens_read)),
                  ("tokens_predicted_total", "counter", machine.tokens_given),
                  ("n_decode_total", "counter", machine.decode_calls +
                   int(machine.prompt_tokens_read / 64)),
                  ("requests_processing", "gauge", len(machine.running)),
                  ("requests_deferred", "gauge", len(machine.queue))]
        lines = []
        for name, kind, value in values:
            lines += [f"# HELP llamacpp:{name} {name}", f"# TYPE llamacpp:{name} {kind}",
                      f"llamacpp:{name} {value}"]
        return reply.answer(200, "\n".join(lines) + "\n", [("Process-Start-Time-Unix", "1564441004")],
                            content_type="text/plain; version=0.0.4")

    def tokenize(self, reply, request):
        count = count_tokens(str(request.json.get("content", "")))
        return self.json_answer(reply, {"tokens": list(range(count))})

    def count_tokens(self, reply, request):
        tokens = self.prompts_of(request.json, "messages")[0][1]
        return self.json_answer(reply, {"input_tokens": tokens})

    def embeddings(self, reply, request):
        if not self.embeddings_on:
            return self.fail(reply, 501, "This server does not support embeddings. Start it with "
                             "`--embeddings`", "not_supported_error")
        tokens = count_tokens(str(request.json.get("input", "")))
        if tokens > self.batch:
            return self.fail(reply, 500, f"input ({tokens} tokens) is too large to process. increase "
                             f"the physical batch size (current batch size: {self.batch})",
                             "server_error")
        return super().embeddings(reply, request)

    def rerank(self, reply, _request):
        return self.fail(reply, 501, "This server does not support reranking. Start it with "
                         "`--reranking`", "not_supported_error")

    # ---- generation -----------------------------------------------------------------------

    def model_of(self, body):
        if self.router:
            return body.get("model") if body.get("model") in self.router else None
        return self.name()         # whatever was asked for

    def unknown_model(self, body):
        name = body.get("model")
        text = f"model '{name}' not found" if name else "model name is missing from the request"
        return 400, self.fault(400, text, "invalid_request_error")

    def bad_json(self, reply, error):
        return self.fail(reply, 500, "[json.exception.parse_error.101] parse error at line 1, column "
                         f"1: {error}", "server_error")

    def answer_refusal(self, reply, _kind, status, document):
        self.count["refused"] += 1
        return reply.answer(status, document, content_type=JSON)

    def refuse(self, body, kind):
        if kind in ("chat", "messages") and not isinstance(body.get("messages"), list):
            if kind == "messages":
                return 500, self.fault(500, "'messages' is required", "server_error")
            text = "Expected 'messages' to be an array" if "messages" in body else \
                "'messages' is required"
            return 400, self.fault(400, text, "invalid_request_error")
        if kind == "completions" and "prompt" not in body:
            return 400, self.fault(400, "[json.exception.out_of_range.403] key 'prompt' not found",
                                   "invalid_request_error")
        if has_part(body, "image_url", "image", "input_image") and not self.vision:
            return 500, self.fault(500, "image input is not supported - hint: if this is unexpected, "
                                   "you may need to provide the mmproj", "server_error")
        if "(" in str(body.get("grammar", "")).split("::=")[-1] and \
                ")" not in str(body.get("grammar")):
            return 400, self.fault(400, "Failed to initialize samplers: failed to parse grammar",
                                   "invalid_request_error")
        if body.get("stream") and body.get("tools") and body.get("logprobs"):
            return 400, self.fault(400, "logprobs is not supported with tools + stream",
                                   "invalid_request_error")
        return None

    def refuse_context(self, prompt_tokens, max_tokens):
        if prompt_tokens < self.context:
            return None
        return 400, self.fault(400, f"request ({prompt_tokens} tokens) exceeds the available context "
                               f"size ({self.context} tokens), try increasing it",
                               "exceed_context_size_error", n_prompt_tokens=prompt_tokens,
                               n_ctx=self.context)

    def make_work(self, machine, *arguments):
        work = super().make_work(machine, *arguments)
        work.streams = bool(arguments[-1].get("stream"))
        return work

    def generate(self, reply, request, kind):
        self.touch(reply)
        try:
            if self.router:
                return self.route(reply, request, kind)
            return super().generate(reply, request, kind)
        finally:
            self.touched_s = time.monotonic()

    def stream_headers(self):
        return [("X-Accel-Buffering", "no")]

    def begin(self, reply, writer):
        reply.begin_stream(writer.content_type, headers=self.stream_headers())
        machine = self.machine_of(writer.model)
        machine.post()
        reply.push(writer.head())
        if writer.body.get("return_progress") and hasattr(writer, "progress"):
            for choice in writer.choices:
                choice.work.on_prefill = self.progress_of(reply, writer, choice, machine)

    def next_start(self, reply, writer, choice):
        """The first result of a further prompt says nothing, and is written as an event."""
        self.machine_of(writer.model).post()
        if choice.prompt_index == 0:
            return                 # a further choice of one prompt has no such result
        reply.push(b"data: null\n\n")

    def progress_of(self, reply, writer, choice, machine):
        said = []

        def on_prefill():
            now = int(choice.work.processed)
            if not said or said[-1] < now:
                said.append(now)
                machine.post()
                reply.push(writer.progress(choice))
        return on_prefill

    def end(self, reply, writer):
        """It announces Keep-Alive, and closes all the same."""
        super().end(reply, writer)
        return False

    def answer_whole(self, reply, writer):
        return self.json_answer(reply, writer.document())

    # ---- router ----------------------------------------------------------------------------

    def router_models(self):
        out = []
        for name in self.router:
            instance = self.instances.get(name)
            value = "unloaded" if instance is None else instance.status
            if name in self.unloading:
                value = "loaded"
            args = ["llama-server", "--host", "127.0.0.1", "--port", "0", "--alias", name,
                    "--ctx-size", str(self.context * self.slots), "--model", f"models/{name}.gguf",
                    "--parallel", str(self.slots)]
            self.count["shown_" + value] += 1
            entry = {"id": name, "aliases": [], "tags": [], "object": "model",
                     "owned_by": "llamacpp", "created": CREATED,
                     "status": {"value": value, "args": args, "preset": f"[{name}]\n"},
                     "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
                     "source": "models_dir", "can_remove": False}
            if value == "unloaded" and name in self.crashed:
                entry["status"] |= {"exit_code": 1, "failed": True}
                self.count["shown_failed"] += 1
            if value == "loaded":
                entry["meta"] = self.meta()
            out.append(entry)
        return {"data": out, "object": "list"}

    def routed_machine(self, reply, request):
        """The machine of the model that a question names; None: the question is answered."""
        name = request.query.get("model")
        if name is None:
            self.fail(reply, 400, "model name is missing from the request",
                      "invalid_request_error")
            return None
        if name not in self.router:
            self.fail(reply, 400, f"model '{name}' not found", "invalid_request_error")
            return None
        instance = self.instances.get(name)
        if instance is None or instance.status != "loaded":
            if request.query.get("autoload") not in ("false", "0"):
                self.count["loads_by_question"] += 1
            self.fail(reply, 400, "model is not loaded", "invalid_request_error")
            return None
        return instance.machine

    def machine_of(self, model):
        instance = self.instances.get(model) if self.router else None
        return instance.machine if instance is not None else self.machine

    def make_room(self):
        """Unloads models until another has a place; their names, if that takes a while."""
        stopped = set()
        while len(self.instances) >= self.max_instances:
            idle = [n for n, i in self.instances.items() if not i.is_busy()]
            name = (idle or list(self.instances))[0]
            self.count["unloads"] += 1
            self.instances.pop(name).unload()
            if self.unload_s:
                stopped.add(name)
        self.unloading |= stopped
        return stopped

    def crash(self, name):
        """The server of a model ends by itself."""
        with self.changed:
            self.count["crashes"] += 1
            self.crashed.add(name)
            self.instances.pop(name).unload()

    def crash_amid(self, name, machine, tokens):
        while not (machine.running and machine.tokens_given >= tokens + self.fatal_after):
            time.sleep(machine.tick_s)
        self.crash(name)

    def lose(self, reply):
        """What a client gets whose model's server ended amid its answer."""
        words = b"proxy error: Failed to read connection"
        if reply.framing is None:
            return reply.answer(500, words, content_type=None)
        reply.send_piece(words)
        reply.end_stream()
        return False

    def cannot_connect(self, reply):
        return reply.answer(500, "proxy error: Could not establish connection", content_type=None)

    def route(self, reply, request, kind):
        """To the instance of the model, which is loaded first; what it unloads fails there."""
        try:
            name = self.model_of(json.loads(request.body))
        except (ValueError, AttributeError):
            name = None
        if name is None:
            return super().generate(reply, request, kind)
        with self.changed:
            if name in self.unloading:
                self.count["unconnected"] += 1
                return self.cannot_connect(reply)
            instance = self.instances.get(name)
            mine = instance is None
            if mine:
                stopped = self.make_room()
                self.count["loads"] += 1
                self.crashed.discard(name)
                instance = Instance(self.new_machine())
                if stopped:
                    instance.status = "unloaded"    # until the other has ended
            else:
                del self.instances[name]
            self.instances[name] = instance   # the last used is last
        if mine:
            if stopped:
                time.sleep(self.unload_s)
                self.unloading -= stopped
                instance.status = "loading"
            instance.ready.wait(self.load_s)
            if not instance.dead:
                instance.status = "loaded"
                instance.ready.set()
        instance.ready.wait()
        if instance.dead:
            return self.cannot_connect(reply)
        if self.fatal and self.fatal in request.body:
            threading.Thread(target=self.crash_amid, daemon=True,
                             args=(name, instance.machine, instance.machine.tokens_given)).start()
        try:
            return super().generate(reply, request, kind)
        except Gone:
            if instance.dead and not reply.is_gone():
                return self.lose(reply)
            raise


class Instance:
    """A llama-server that the router started."""

    def __init__(self, machine):
        self.machine = machine
        self.status = "loading"
        self.ready = threading.Event()
        self.dead = False

    def is_busy(self):
        return not self.ready.is_set() or bool(self.machine.running or self.machine.queue)

    def unload(self):
        self.dead = True
        self.ready.set()
        self.machine.fail_all()


if __name__ == "__main__":
    main(LlamaServer)
