"""plain_openai.py - a scripted server of the OpenAI API that is nobody in particular.

Nothing but /v1/models and /v1/chat/completions, as OpenAI's API reference has them; what servers
do differently is a knob, each seen with some server in the field:
  list_models_at   None: no list at all (404)       owned_by          of the list
  version          a text at /version: taken for vLLM by careless clients
  api_key          401 without it
  stream_type      content type of streams (text/plain, application/json, None: none)
  done             False: no [DONE] (Azure, several proxies)
  after_done       end | open (never ends the body, openai/openai-python#3440) | close (no last chunk)
  framing          chunked | close (the body ends with the connection, HTTP/1.0 style)
  gzip             compresses documents unasked; gzip_list the list, gzip_streams streams
  finish           spelling of a finish that is none yet: None, "", "null"   (sglang#3912, koboldcpp)
  stop             spelling of the end: stop, STOP, eos, end_turn, ...
  error_in_200     a document {"error": ...} with status 200
  empty            nothing but the end: no content
  big_event        so many bytes in one event more (SamSaffron/term-llm#347)
  comments         a comment line before each event    crlf   lines end with CRLF
  ignores_stream   answers one document although a stream was asked for
  odd_paths        {path: (status, content type, body)} for all else
  index            False: choices without an index (old servers)
Knobs of openai_api.py apply; slots is how many run at once.
"""

import gzip as compression

from openai_api import CREATED, ChatWriter, OpenAi
from scripted import main


class PlainChat(ChatWriter):
    @property
    def done(self):
        return b"data: [DONE]\n\n" if self.engine.done else b""

    def event(self, document):
        out = super().event(document)
        if self.engine.comments:
            out = b": still here\n\n" + out
        return out.replace(b"\n", b"\r\n") if self.engine.crlf else out

    def finish_reason(self, choice):
        return self.engine.stop_word if choice.reason == "stop" else choice.reason

    def delta(self, choice, delta, reason=None):
        entry = {"index": choice.index, "delta": delta,
                 "finish_reason": self.engine.finish if reason is None else reason}
        if not self.engine.index:
            del entry["index"]
        return self.event(self.chunk([entry]))

    def first(self, choice):
        out = super().first(choice)
        if self.engine.big_event:
            out += self.delta(choice, {"content": "", "audio": {"data": "A" * self.engine.big_event}})
        return out


class PlainOpenAi(OpenAi):
    """A server of the OpenAI API."""

    writers = {"chat": PlainChat}
    routes = {("POST", "/v1/chat/completions"): "chat", ("GET", "/version"): "get_version"}

    def setup(self):
        super().setup()
        self.models = ["plain-model"]
        self.slots = 6
        self.list_models_at = "/v1/models"
        self.owned_by = "organization_owner"
        self.version = None
        self.api_key = None
        self.stream_type = "text/event-stream"
        self.done = True
        self.after_done = "end"
        self.framing = "chunked"
        self.gzip = False
        self.gzip_list = False
        self.gzip_streams = False
        self.finish = None
        self.stop_word = "stop"
        self.error_in_200 = False
        self.empty = False
        self.big_event = 0
        self.comments = False
        self.crlf = False
        self.ignores_stream = False
        self.odd_paths = {}
        self.index = True

    def handle(self, reply, request):
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is not None and given != self.api_key:
            return reply.answer(401, {"error": {
                "message": "Incorrect API key provided.", "type": "invalid_request_error",
                "param": None, "code": "invalid_api_key"}})
        if request.path in self.odd_paths:
            status, kind, body = self.odd_paths[request.path]
            return reply.answer(status, body, content_type=kind)
        if request.path == self.list_models_at and request.path not in self.on:
            return self.list_models(reply, request)
        return super().handle(reply, request)

    def no_route(self, reply, request):
        return reply.answer(404, {"error": {
            "message": f"Unknown request URL: {request.method} {request.path}.",
            "type": "invalid_request_error", "param": None, "code": "unknown_url"}})

    def get_version(self, reply, request):
        if self.version is None:
            return self.no_route(reply, request)
        return reply.answer(200, {"version": self.version})

    def list_models(self, reply, _request):
        return self.answer_maybe_zipped(reply, self.gzip_list, {"object": "list", "data": [
            {"id": name, "object": "model", "created": CREATED, "owned_by": self.owned_by}
            for name in self.models]})

    def answer_maybe_zipped(self, reply, zipped, document):
        if not zipped:
            return reply.answer(200, document)
        return reply.answer(200, compression.compress(self.dump(document)),
                            [("Content-Encoding", "gzip")])

    def is_stream(self, body, kind):
        return super().is_stream(body, kind) and not self.ignores_stream

    def natural_tokens(self, body):
        return 0 if self.empty else self.answer_tokens

    def generate(self, reply, request, kind):
        if self.error_in_200:
            self.count["begun"] += 1
            return reply.answer(200, {"error": {"message": "upstream is out of memory",
                                                "type": "server_error", "code": 500}})
        return super().generate(reply, request, kind)

    def answer_whole(self, reply, writer):
        return self.answer_maybe_zipped(reply, self.gzip, writer.document())

    def begin(self, reply, writer):
        headers = [("Content-Encoding", "gzip")] if self.gzip_streams else []
        reply.begin_stream(self.stream_type, headers, framing=self.framing)
        if self.gzip_streams:
            zipper = compression.zlib.compressobj(wbits=31)
            plain = reply.frame

            def frame(data):
                return plain(zipper.compress(data) + zipper.flush(compression.zlib.Z_SYNC_FLUSH))
            reply.frame = frame

    def end(self, reply, writer):
        reply.send_piece(writer.tail())
        if self.after_done == "open":
            reply.wait_gone(3600)
            return False
        if self.after_done == "close":
            return reply.drop()
        return reply.end_stream()


if __name__ == "__main__":
    main(PlainOpenAi)
