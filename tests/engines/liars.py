"""liars.py - engines that are fast and wrong.

lie(engine, kind) makes a liar of any scripted engine: its lists, its health and its other pages stay
as they are, and each inference is answered at once by a lie of that kind.  REFUSALS are statuses that
blame the client, EMPTY a whole answer without content, ABSURD a 200 that is no answer at all.

  error        finish_reason "error", as vLLM's where its core fails       html     a login page
  object, null `{}` and `null`                                             nothing  an empty body
  cut          half a document                                             coded    gzip, unasked
"""

import gzip
import json

REFUSALS = ("400", "402", "413", "422")
EMPTY = ("empty",)
ABSURD = ("error", "object", "null", "html", "nothing", "cut", "coded")
LIES = REFUSALS + EMPTY + ABSURD

PAGE = "<!doctype html><html><body><form>Sign in</form></body></html>"
WORDS = {"400": "bad request", "402": "payment required", "413": "too large", "422": "unprocessable"}


def sse(*documents, name=None):
    head = f"event: {name}\n" if name else ""
    return "".join(f"{head}data: {d if isinstance(d, str) else json.dumps(d)}\n\n" for d in documents)


def chat(model, stream, reason="stop"):
    head = {"id": "chatcmpl-1", "created": 1, "model": model}
    if stream:
        def event(delta, finish=None):
            return {**head, "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return sse(event({"role": "assistant", "content": ""}), event({}, reason), "[DONE]")
    return {**head, "object": "chat.completion", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": reason}]}


def text(model, stream, reason="stop"):
    document = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model,
                "choices": [{"index": 0, "text": "", "finish_reason": reason}]}
    return sse(document, "[DONE]") if stream else document


def responses(model, stream, _reason):
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed",
             "model": model, "output": []}
    if not stream:
        return whole
    return (sse({"type": "response.created", "sequence_number": 0, "response": {
                **whole, "status": "in_progress"}}, name="response.created") +
            sse({"type": "response.completed", "sequence_number": 1, "response": whole},
                name="response.completed"))


def messages(model, stream, _reason):
    whole = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": [],
             "stop_reason": None if stream else "end_turn", "stop_sequence": None,
             "usage": {"input_tokens": 3, "output_tokens": 1}}
    if not stream:
        return whole
    return "".join(sse(event, name=event["type"]) for event in (
        {"type": "message_start", "message": whole},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
         "usage": {"output_tokens": 1}},
        {"type": "message_stop"}))


def ollama(part):
    def make(model, stream, _reason):
        document = {"model": model, "created_at": "2026-01-01T00:00:00Z", **part, "done": True,
                    "done_reason": "stop"}
        return json.dumps(document) + "\n" if stream else document
    return make


APIS = {"/v1/chat/completions": chat, "/v1/completions": text, "/v1/responses": responses,
        "/v1/messages": messages,
        "/api/chat": ollama({"message": {"role": "assistant", "content": ""}}),
        "/api/generate": ollama({"response": ""})}


def answer_wrongly(kind, reply, request):
    body = json.loads(request.body)
    path = request.path
    streams = body.get("stream", path.startswith("/api/"))
    make = APIS[path]
    if kind in REFUSALS:
        return reply.answer(int(kind), {"error": {"message": WORDS[kind], "type": "error"}})
    if kind in ("object", "null", "nothing"):
        return reply.answer(200, {"object": "{}", "null": "null", "nothing": ""}[kind])
    if kind == "html":
        return reply.answer(200, PAGE, content_type="text/html")
    answer = make(body["model"], streams, "error" if kind == "error" else "stop")
    if kind == "cut":
        return reply.answer(200, '{"id": "chatcmpl-1", "choices": [{"index": 0, "mess')
    if kind == "coded":
        data = (answer if streams else json.dumps(answer)).replace('"content": ""', '"content": "coded"')
        return reply.answer(200, gzip.compress(data.encode()), [("Content-Encoding", "gzip")])
    kinds = ("application/x-ndjson" if path.startswith("/api/") else "text/event-stream")
    return reply.answer(200, answer, content_type=kinds if streams else "application/json")


def lie(engine, kind, paths=tuple(APIS)):
    """The engine, which lies from now on; honest(engine) ends it."""
    for path in paths:
        engine.on["POST", path] = lambda reply, request: answer_wrongly(kind, reply, request)
    return engine


def honest(engine):
    for path in APIS:
        engine.on.pop(("POST", path), None)
    return engine
