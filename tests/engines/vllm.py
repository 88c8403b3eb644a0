"""vllm.py - a scripted vLLM.

From the source of vllm-project/vllm (v1 engine, main of 2026), file by file:
  entrypoints/openai/api_server.py       /health (empty 200), /version, /ping, /v1/models; uvicorn's
                                         `server` header, FastAPI's {"detail":"Not Found"}
  entrypoints/openai/models/protocol.py  owned_by vllm, root, parent, max_model_len
  entrypoints/openai/chat_completion     the head of a stream goes out at once, the role chunk with
                                         the first output; usage in a chunk of its own if asked for
  .../protocol.py (check_logprobs)       `prompt_logprobs` are not available when `stream=True`: 400
  entrypoints/openai/engine/serving.py   ErrorResponse {"error": {message, type, param, code}};
                                         `This model's maximum context length is`: 400
  entrypoints/anthropic/api_router.py    /v1/messages, /v1/messages/count_tokens
  v1/core/sched/scheduler.py             max_num_seqs; KV blocks of 16 tokens; when none is left the
                                         one that came last is preempted: it waits first in the
                                         queue, and all its tokens are read again
  v1/metrics/loggers.py                  names of /metrics; `gpu_cache_usage_perc` before 0.10
Seen in the field: vllm-project/vllm#21254 (an image URL that cannot be fetched: 500).

Knobs: max_num_seqs, kv_tokens (None: no bound), batch_cost (what each further sequence costs of a
sequence's pace, as a part), old_names (metrics of before 0.10), metrics (False: 404), those of
openai_api.py; context is max_model_len.
"""

import math

from machine import Machine
from openai_api import CREATED, ChatWriter, MessagesWriter, OpenAi, ResponsesWriter, TextWriter
from scripted import main

BLOCK = 16


class VllmMachine(Machine):
    """Bound by sequences and by KV blocks."""

    def __init__(self):
        super().__init__(slots=256, tokens_per_s=100.0, prompt_tokens_per_s=50000.0)
        self.kv_tokens = None
        self.batch_cost = 0.01
        self.preemptions = 0

    @property
    def blocks(self):
        return None if self.kv_tokens is None else self.kv_tokens // BLOCK

    def blocks_of(self, work):
        return math.ceil((work.prompt_tokens + work.decoded + 1) / BLOCK)

    def blocks_used(self):
        return sum(self.blocks_of(work) for work in self.running)

    def usage(self):
        return 0.0 if self.blocks is None else min(1.0, self.blocks_used() / self.blocks)

    def has_room(self, work):
        if len(self.running) >= self.slots:
            return False
        return self.blocks is None or self.blocks_used() + self.blocks_of(work) <= self.blocks

    def pace(self, batch):
        return self.tokens_per_s / (1 + self.batch_cost * (batch - 1))

    def before_step(self, now_s):
        while self.blocks is not None and len(self.running) > 1 and self.blocks_used() > self.blocks:
            work = self.running.pop()
            work.state, work.processed, work.credit = "queued", 0.0, 0.0
            work.reread = work.decoded
            work.preempted += 1
            self.preemptions += 1
            self.queue.insert(0, work)


def full_usage(prompt, completion, cached):
    usage = {"prompt_tokens": prompt, "total_tokens": prompt + completion,
             "completion_tokens": completion}
    if cached:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return usage


class VllmChat(ChatWriter):
    def usage(self, prompt, completion, cached):
        return full_usage(prompt, completion, cached)

    def delta(self, choice, delta, reason=None):
        return self.event(self.chunk([{"index": choice.index, "delta": delta, "logprobs": None,
                                       "finish_reason": reason, "token_ids": None}]))

    def last(self, choice):
        delta = {"content": ""} if not choice.calls else {}
        return self.event(self.chunk([{
            "index": choice.index, "delta": delta, "logprobs": None,
            "finish_reason": self.finish_reason(choice), "stop_reason": None, "token_ids": None}]))

    def call(self, choice, at):
        name, arguments = choice.calls[at]
        return {"id": f"chatcmpl-tool-{self.number}{at}", "type": "function", "index": at,
                "function": {"name": name, "arguments": arguments}}

    def document(self):
        document = super().document()
        for choice in document["choices"]:
            choice["logprobs"], choice["stop_reason"] = None, None
        document["prompt_logprobs"] = [None] if self.body.get("prompt_logprobs") else None
        return document


class VllmText(TextWriter):
    def usage(self, prompt, completion, cached):
        return full_usage(prompt, completion, cached)


class Vllm(OpenAi):
    """A vLLM server."""

    server = "uvicorn"
    writers = {"chat": VllmChat, "completions": VllmText, "responses": ResponsesWriter,
               "messages": MessagesWriter}
    on_machine = OpenAi.on_machine + ("kv_tokens", "batch_cost")
    routes = {
        ("GET", "/health"): "health", ("GET", "/ping"): "health", ("GET", "/version"): "get_version",
        ("GET", "/metrics"): "get_metrics", ("GET", "/v1/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/responses"): "responses", ("POST", "/v1/messages"): "messages",
        ("POST", "/v1/messages/count_tokens"): "count_tokens", ("POST", "/tokenize"): "tokenize",
    }

    def setup(self):
        super().setup()
        self.models = ["Qwen/Qwen3-8B"]
        self.version = "0.11.2"
        self.context = 32768
        self.metrics = True
        self.old_names = False

    def make_machine(self):
        return VllmMachine()

    def __getattr__(self, name):
        return super().__getattr__("slots" if name == "max_num_seqs" else name)

    def __setattr__(self, name, value):
        super().__setattr__("slots" if name == "max_num_seqs" else name, value)

    def no_route(self, reply, _request):
        return reply.answer(404, {"detail": "Not Found"})

    def health(self, reply, _request):
        return reply.answer(200, b"", content_type=None)

    def get_version(self, reply, _request):
        return reply.answer(200, {"version": self.version})

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "vllm", "root": name,
             "parent": None, "max_model_len": self.context,
             "permission": [{"id": f"modelperm-{i}", "object": "model_permission",
                             "created": CREATED, "allow_sampling": True, "organization": "*"}]}
            for i, name in enumerate(self.models)]})

    def get_metrics(self, reply, request):
        if not self.metrics:
            return self.no_route(reply, request)
        machine = self.machine
        with machine.changed:
            values = [("num_requests_running", "gauge", len(machine.running)),
                      ("num_requests_waiting", "gauge", len(machine.queue)),
                      ("gpu_cache_usage_perc" if self.old_names else "kv_cache_usage_perc",
                       "gauge", machine.usage()),
                      ("num_preemptions_total", "counter", machine.preemptions),
                      ("prompt_tokens_total", "counter", int(machine.prompt_tokens_read)),
                      ("generation_tokens_total", "counter", machine.tokens_given)]
        lines = []
        for name, kind, value in values:
            full = "vllm:" + name
            lines += [f"# HELP {full} {name}", f"# TYPE {full} {kind}",
                      f'{full}{{engine="0",model_name="{self.models[0]}"}} {float(value)}']
        return reply.answer(200, "\n".join(lines) + "\n",
                            content_type="text/plain; version=0.0.4; charset=utf-8")

    def tokenize(self, reply, request):
        prompt, tokens, _ = self.prompts_of(request.json, "chat" if "messages" in request.json
                                            else "completions")[0]
        return reply.answer(200, {"count": tokens, "max_model_len": self.context,
                                  "tokens": list(range(tokens)), "token_strs": None,
                                  "prompt": None} | ({} if prompt else {}))

    # ---- refusals -------------------------------------------------------------------------

    def fault(self, status, message, kind="BadRequestError", param=None):
        return status, {"error": {"message": message, "type": kind, "param": param, "code": status}}

    def unknown_model(self, body):
        return self.fault(404, f"The model `{body.get('model')}` does not exist.", "NotFoundError",
                          "model")

    def model_of(self, body):
        """A request without a model gets the first."""
        name = body.get("model")
        return self.models[0] if not name else (name if name in self.models else None)

    def bad_json(self, reply, error):
        return reply.answer(*self.fault(400, f"[{{'type': 'json_invalid', 'msg': '{error}'}}]",
                                        "Bad Request"))

    def refuse(self, body, kind):
        logprobs = body.get("prompt_logprobs")
        if body.get("stream") and isinstance(logprobs, int) and (logprobs > 0 or logprobs == -1):
            return self.fault(400, "`prompt_logprobs` are not available when `stream=True`.",
                              param="prompt_logprobs")
        if body.get("stream_options") and not body.get("stream"):
            return self.fault(400, "Stream options can only be defined when `stream=True`.",
                              param="stream_options")
        for url in image_urls(body):
            if not self.vision:
                return self.fault(400, f"{self.models[0]} is not a multimodal model")
            if ".invalid" in url:
                return self.fault(500, f"Cannot connect to host {url.split('/')[2]}:80 ssl:default "
                                       "[Name or service not known]", "InternalServerError")
        return None

    def refuse_context(self, prompt_tokens, max_tokens):
        wanted = max_tokens or 0
        if prompt_tokens + wanted <= self.context and prompt_tokens < self.context:
            return None
        least = min(prompt_tokens, self.context - wanted + 1)   # it stops counting there
        return self.fault(
            400, f"This model's maximum context length is {self.context} tokens. However, you "
            f"requested {wanted} output tokens and your prompt contains at least {least} "
            f"input tokens, for a total of at least {least + wanted} tokens. Please reduce "
            "the length of the input prompt or the number of requested output tokens. "
            f"(parameter=input_tokens, value={least})", param="input_tokens")

    def answer_refusal(self, reply, kind, status, document):
        if kind == "messages":
            error = document["error"]
            document = {"type": "error", "error": {"type": error["type"],
                                                   "message": error["message"]}}
        return super().answer_refusal(reply, kind, status, document)

    def begin(self, reply, writer):
        reply.begin_stream("text/event-stream; charset=utf-8")


def image_urls(body):
    for message in body.get("messages") or []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") == "image_url":
                yield (part.get("image_url") or {}).get("url", "")


if __name__ == "__main__":
    main(Vllm)
