"""fake_engine.py - an OpenAI-speaking server that misbehaves on demand, over tests/engines/scripted.py.

drover-node is put in front of it with --engine http://...; so a test sees the exact bytes that an
engine would get.  For a real engine's ways use the engines of tests/engines.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engines"))

import scripted  # noqa: E402

MODEL = "fake-model"


def chunk(content=None, finish=None, usage=None, **more):
    delta = {} if content is None else {"content": content}
    document = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1,
                "model": MODEL, "system_fingerprint": "fake",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    if usage:
        document.update(choices=[], usage=usage)
    return document


class Handler(scripted.Reply):
    def chat(self, body, words=("Hello", " there", ".")):
        request = json.loads(body)
        usage = {"prompt_tokens": 3, "completion_tokens": len(words),
                 "total_tokens": 3 + len(words)}
        if not request.get("stream"):
            self.answer(200, {
                "id": "chatcmpl-fake", "object": "chat.completion", "created": 1,
                "model": MODEL, "usage": usage,
                "choices": [{"index": 0, "finish_reason": "stop", "message": {
                    "role": "assistant", "content": "".join(words)}}]})
            return
        self.begin_stream()
        for word in words:
            self.send_event(chunk(word))
        self.send_event(chunk(finish="stop"))
        if request.get("stream_options", {}).get("include_usage"):
            self.send_event(chunk(usage=usage))
        self.send_event(b"[DONE]")
        self.end_stream()


class FakeEngine(scripted.Engine):
    """`behave(handler, path, body)` answers a POST; handler.begin_stream() and others help it."""

    reply_class = Handler
    routes = {("GET", "/v1/models"): "list_models", ("GET", "/health"): "health"}

    def __init__(self, behave=None, models=(MODEL,), about=None):
        self.behave = behave or (lambda handler, path, body: handler.chat(body))
        self.models = models
        self.about = about or {}
        super().__init__()

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": model, "object": "model", "created": 1, "owned_by": "fake", **self.about}
            for model in self.models]})

    def health(self, reply, _request):
        return reply.answer(200, {"status": "ok"})

    def handle(self, reply, request):
        if request.method == "POST":
            self.behave(reply, request.path, request.body)
            return reply.keep
        return super().handle(reply, request)
