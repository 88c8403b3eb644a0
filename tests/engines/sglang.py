"""sglang.py - a scripted SGLang.

From the source of sgl-project/sglang (python/sglang/srt), file by file:
  entrypoints/http_server.py     /health generates one token and takes a second at least; /server_info
                                 (before: /get_server_info) with max_running_requests and
                                 internal_states; /v1/loads (before: /get_load); /model_info;
                                 /v1/models with max_model_len; FastAPI's {"detail": "Not Found"}
  entrypoints/openai/protocol.py errors are flat: {object: error, message, type, param, code}
  entrypoints/openai/serving_chat.py   chunks with `usage: null` and matched_stop
  managers/scheduler.py          max_running_requests; when the token pool is full, running requests
                                 are retracted and read again
  managers/tokenizer_manager.py  `The input (N tokens) is longer than the model's context length`: 400
  observability/metrics_collector.py   /metrics, with --enable-metrics only
Seen in the field: sgl-project/sglang#3912 (`finish_reason: ""` in each chunk: knob empty_finish).

Knobs: max_running_requests, kv_tokens (the token pool), metrics, old_paths (/get_server_info and
/get_load only), health_generates, empty_finish; those of openai_api.py.
"""

import time

from openai_api import (CREATED, ChatWriter, MessagesWriter, OpenAi, ResponsesWriter, TextWriter,
                        has_part)
from scripted import main
from vllm import VllmMachine, full_usage


class SglangChat(ChatWriter):
    def usage(self, prompt, completion, cached):
        return {**full_usage(prompt, completion, 0), "reasoning_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": cached} if cached else None}

    def finish_reason(self, choice):
        return choice.reason

    def delta(self, choice, delta, reason=None):
        if reason is None and self.engine.empty_finish:
            reason = ""
        matched = {"matched_stop": 151645 if reason == "stop" else None}
        return self.event(self.chunk([{
            "index": choice.index, "delta": delta, "logprobs": None, "finish_reason": reason,
            **matched}], usage=None))

    def text(self, choice, text):
        return self.delta(choice, {"role": None, "content": text, "reasoning_content": None,
                                   "tool_calls": None})

    def document(self):
        document = super().document()
        for choice in document["choices"]:
            choice["logprobs"], choice["matched_stop"] = None, 151645
            choice["message"] = {"reasoning_content": None, "tool_calls": None, **choice["message"]}
        return {**document, "metadata": {"weight_version": "default"}}


class SglangText(TextWriter):
    def usage(self, prompt, completion, cached):
        return full_usage(prompt, completion, cached)


class Sglang(OpenAi):
    """An SGLang server."""

    server = "uvicorn"
    writers = {"chat": SglangChat, "completions": SglangText, "responses": ResponsesWriter,
               "messages": MessagesWriter}
    on_machine = OpenAi.on_machine + ("kv_tokens", "batch_cost")
    routes = {
        ("GET", "/health"): "health", ("GET", "/health_generate"): "health",
        ("GET", "/server_info"): "server_info", ("GET", "/get_server_info"): "server_info",
        ("GET", "/v1/loads"): "loads", ("GET", "/get_load"): "old_load",
        ("GET", "/model_info"): "model_info", ("GET", "/get_model_info"): "model_info",
        ("GET", "/metrics"): "get_metrics", ("GET", "/v1/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
        ("POST", "/v1/responses"): "responses", ("POST", "/v1/messages"): "messages",
        ("POST", "/v1/messages/count_tokens"): "count_tokens",
        ("POST", "/v1/embeddings"): "embeddings",
    }

    def setup(self):
        super().setup()
        self.models = ["Qwen/Qwen3-8B"]
        self.version = "0.5.6"
        self.context = 32768
        self.metrics = False
        self.old_paths = False
        self.health_generates = True
        self.empty_finish = False
        self.max_running_requests = 48

    def make_machine(self):
        return VllmMachine()

    def __getattr__(self, name):
        return super().__getattr__("slots" if name == "max_running_requests" else name)

    def __setattr__(self, name, value):
        super().__setattr__("slots" if name == "max_running_requests" else name, value)

    def no_route(self, reply, _request):
        return reply.answer(404, {"detail": "Not Found"})

    def health(self, reply, _request):
        if self.health_generates:
            self.count["health_tokens"] += 1
            reply.sleep(1.0)
        return reply.answer(200, b"", content_type=None)

    def model_of(self, body):
        return body.get("model") or self.models[0]   # it does not look at the name

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "sglang", "root": name,
             "parent": None, "max_model_len": self.context} for name in self.models]})

    def model_info(self, reply, _request):
        return reply.answer(200, {"model_path": self.models[0], "tokenizer_path": self.models[0],
                                  "is_generation": True, "has_image_understanding": self.vision,
                                  "has_audio_understanding": False})

    def server_info(self, reply, request):
        if self.old_paths and request.path == "/server_info":
            return self.no_route(reply, request)
        return reply.answer(200, {
            "model_path": self.models[0], "context_length": self.context,
            "max_running_requests": self.max_running_requests, "max_queued_requests": None,
            "max_total_num_tokens": self.pool(), "max_req_input_len": self.context - 6,
            "internal_states": [{
                "effective_max_running_requests_per_dp": self.max_running_requests,
                "last_gen_throughput": 0.0, "memory_usage": {"token_capacity": self.pool()}}],
            "version": self.version})

    def pool(self):
        return self.machine.kv_tokens or 400000

    def loads(self, reply, request):
        if self.old_paths:
            return self.no_route(reply, request)
        return reply.answer(200, {"timestamp": "2026-11-23T09:47:12Z", "version": self.version,
                                  "dp_rank_count": 1, "loads": [self.one_load()]})

    def one_load(self):
        machine = self.machine
        with machine.changed:
            used = sum(w.prompt_tokens + w.decoded for w in machine.running)
            ahead = sum(w.prompt_tokens for w in machine.queue)
            return {"dp_rank": 0, "timestamp": time.time(), "num_running_reqs": len(machine.running),
                    "num_waiting_reqs": len(machine.queue), "num_used_tokens": used,
                    "num_total_tokens": used + ahead, "max_total_num_tokens": self.pool(),
                    "token_usage": round(used / self.pool(), 4), "gen_throughput": 0.0,
                    "cache_hit_rate": 0.0, "utilization": 0.0,
                    "max_running_requests": machine.slots}

    def old_load(self, reply, _request):
        load = self.one_load()
        return reply.answer(200, [{
            "dp_rank": 0, "num_reqs": load["num_running_reqs"] + load["num_waiting_reqs"],
            "num_waiting_reqs": load["num_waiting_reqs"], "num_tokens": load["num_total_tokens"],
            "ts_tic": load["timestamp"]}])

    def get_metrics(self, reply, request):
        if not self.metrics:
            return self.no_route(reply, request)
        load = self.one_load()
        values = {"num_running_reqs": load["num_running_reqs"],
                  "num_queue_reqs": load["num_waiting_reqs"], "token_usage": load["token_usage"],
                  "num_used_tokens": load["num_used_tokens"], "gen_throughput": 0.0}
        lines = []
        for name, value in values.items():
            lines += [f"# HELP sglang:{name} {name}", f"# TYPE sglang:{name} gauge",
                      f'sglang:{name}{{model_name="{self.models[0]}"}} {float(value)}']
        lines += ["# TYPE sglang:generation_tokens_total counter",
                  f'sglang:generation_tokens_total{{model_name="{self.models[0]}"}} '
                  f'{float(self.machine.tokens_given)}']
        return reply.answer(200, "\n".join(lines) + "\n",
                            content_type="text/plain; version=0.0.4; charset=utf-8")

    def fault(self, status, message, kind="BadRequestError"):
        return status, {"object": "error", "message": message, "type": kind, "param": None,
                        "code": status}

    def bad_json(self, reply, error):
        return reply.answer(*self.fault(400, str(error), "Bad Request"))

    def refuse(self, body, kind):
        if has_part(body, "image_url", "image") and not self.vision:
            return self.fault(400, f"{self.models[0]} is not a multimodal model")
        return None

    def refuse_context(self, prompt_tokens, max_tokens):
        if prompt_tokens >= self.context:
            return self.fault(400, f"The input ({prompt_tokens} tokens) is longer than the model's "
                                   f"context length ({self.context} tokens).")
        total = prompt_tokens + (max_tokens or 0)
        if total > self.context:
            return self.fault(
                400, f"Requested token count exceeds the model's maximum context length of "
                f"{self.context} tokens. You requested a total of {total} tokens: {prompt_tokens} "
                f"tokens from the input messages and {max_tokens} tokens for the completion. Please "
                "reduce the number of tokens in the input messages or the completion to fit within "
                "the limit.")
        return None

    def begin(self, reply, writer):
        reply.begin_stream("text/event-stream; charset=utf-8")


if __name__ == "__main__":
    main(Sglang)
