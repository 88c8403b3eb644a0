"""mlx_lm.py - a scripted mlx_lm.server.

From ml-explore/mlx-lm, mlx_lm/server.py (August 2026): Python's own http.server, so HTTP/1.0, no
chunks, and the body of a stream ends with the connection; /health {status: ok}; /v1/models lists the
folder of downloads without owned_by, `created` when it started; comments `: keepalive READ/ALL` while a
prompt is read; an unknown path is 404 with a text that its header calls JSON; whatever goes wrong before
the first token is 404 {error: text}, an image among it.

Knobs: keepalives; those of openai_api.py.
"""

from machine import Machine
from openai_api import CREATED, ChatWriter, OpenAi, TextWriter, has_part
from scripted import main


class MlxChat(ChatWriter):
    def more(self, _chunk):
        return {"system_fingerprint": "0.28.3-0.29.3-macOS-15"}

    def first(self, choice):
        return b""

    def text(self, choice, text):
        return self.delta(choice, {"role": "assistant", "content": text})


class MlxLm(OpenAi):
    """An mlx_lm.server."""

    server = "BaseHTTP/0.6 Python/3.12.8"
    http_version = "HTTP/1.0"
    writers = {"chat": MlxChat, "completions": TextWriter}
    routes = {
        ("GET", "/health"): "health", ("GET", "/v1/models"): "list_models",
        ("POST", "/v1/chat/completions"): "chat", ("POST", "/v1/completions"): "completions",
    }

    def setup(self):
        super().setup()
        self.models = ["mlx-community/Llama-3.2-3B-Instruct-4bit"]
        self.keepalives = True

    def make_machine(self):
        return Machine(slots=1)

    def handle(self, reply, request):
        reply.keep = False
        return super().handle(reply, request)

    def head_of(self, reply, status, headers):
        return super().head_of(reply, status, [h for h in headers if h[0] != "Connection"])

    def no_route(self, reply, _request):
        return reply.answer(404, "Not Found", content_type="application/json")

    def health(self, reply, _request):
        return reply.answer(200, {"status": "ok"})

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": CREATED} for name in self.models]})

    def model_of(self, body):
        return body.get("model") or self.models[0]

    def refuse(self, body, kind):
        if has_part(body, "image_url", "input_audio"):
            return 404, {"error": "Only 'text' content type is supported."}
        return None

    def begin(self, reply, writer):
        reply.begin_stream("text/event-stream", [("Cache-Control", "no-cache")], framing="close")
        if self.keepalives:
            for choice in writer.choices:
                choice.work.on_prefill = lambda work=choice.work: reply.push(
                    b": keepalive %d/%d\n\n" % (work.processed, work.prompt_tokens))


if __name__ == "__main__":
    main(MlxLm)
