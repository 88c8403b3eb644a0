"""openai_api.py - what engines of the OpenAI family have in common: requests read, answers written.

A Writer turns the words of the machine into the bytes of one API.  Engines differ in members and
in their order: they subclass a writer and change what differs.  OpenAi is the engine: it reads a
request, lets the engine refuse it, has the machine work, and writes what comes.
"""

import hashlib
import itertools
import json
import threading

from machine import Machine, Work, count_tokens, tokens_of, word_of
from scripted import Engine, Gone

CREATED = 1795427232               # one instant for all: answers can be compared byte for byte


def parts_text(content):
    """The text of a message's content, whatever shape it has."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return ""


def has_part(body, *kinds):
    """Whether any message has a part of such a type."""
    for message in body.get("messages") or body.get("input") or []:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            if any(isinstance(part, dict) and part.get("type") in kinds for part in content):
                return True
    return False


def conversation(messages, system=None):
    """(key of the prompt, its tokens, text of the answer that is there already)."""
    turns = [("system", parts_text(system))] if system else []
    turns += [(m.get("role"), parts_text(m.get("content"))) for m in messages
              if isinstance(m, dict)]
    begun = turns.pop()[1] if turns and turns[-1][0] == "assistant" else ""
    prompt = "\n".join(f"{role}: {text}" for role, text in turns)
    return prompt, sum(count_tokens(text) + 4 for _, text in turns), begun


def unfinished(prompt):
    """A plain prompt that ends in the beginning of its own answer, cut in two there."""
    tokens = tokens_of(prompt)
    for count in range(min(len(tokens) - 1, 300), 0, -1):
        head = "".join(tokens[:-count])
        key = key_of(head)
        if all(tokens[i - count].strip() == word_of(key, i).strip() for i in range(count)):
            return head, prompt[len(head):]
    return prompt, ""


def key_of(prompt):
    return hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()


class Choice:
    """One choice of an answer: the words of its work, and how they end."""

    def __init__(self, index, prompt_index, work, text_words, calls, reason):
        self.index = index
        self.prompt_index = prompt_index
        self.work = work
        self.text_words = text_words   # the first so many words are text, the rest are calls
        self.calls = calls             # (name, arguments) each
        self.reason = reason           # stop, length or tool_calls
        self.shown = 0                 # words that the sink has had

    @property
    def text(self):
        return "".join(self.work.words[:min(self.text_words, self.work.decoded)])

    def usage(self):
        return (self.work.prompt_tokens, self.work.decoded, self.work.cached)


class Writer:
    """One answer in one API."""

    content_type = "text/event-stream"
    done = b"data: [DONE]\n\n"

    def __init__(self, engine, body, model, number):
        self.engine = engine
        self.body = body
        self.model = model
        self.number = number       # of the request, for ids
        self.choices = []

    def event(self, document):
        return b"data: " + self.engine.dump(document) + b"\n\n"

    @property
    def wants_usage(self):
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    def total(self):
        """(prompt, completion, cached) tokens; a prompt of several choices counts once."""
        prompts = {}
        for choice in self.choices:
            prompts[choice.prompt_index] = choice.work
        return (sum(w.prompt_tokens for w in prompts.values()),
                sum(c.work.decoded for c in self.choices),
                sum(w.cached for w in prompts.values()))

    # bytes of a stream; each may be empty
    def head(self):
        return b""

    def first(self, _choice):
        return b""

    def text(self, choice, text):
        raise NotImplementedError

    def tools(self, choice):
        return b""

    def last(self, _choice):
        return b""

    def tail(self):
        return self.done

    def error(self, document):
        return self.event(document)

    def document(self):
        """The whole answer."""
        raise NotImplementedError


def usage_of(prompt, completion, _cached):
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion,
            "completion_tokens": completion}


class ChatWriter(Writer):
    """/v1/chat/completions."""

    prefix = "chatcmpl-"

    def finish_reason(self, choice):
        return choice.reason

    def usage(self, prompt, completion, cached):
        return usage_of(prompt, completion, cached)

    def more(self, _chunk):
        """Further members of a chunk or a document."""
        return {}

    def chunk(self, choices, **more):
        return {"id": f"{self.prefix}{self.number}", "object": "chat.completion.chunk",
                "created": CREATED, "model": self.model, **self.more(True), "choices": choices,
                **more}

    def delta(self, choice, delta, reason=None):
        return self.event(self.chunk([{"index": choice.index, "delta": delta,
                                       "finish_reason": reason}]))

    def first(self, choice):
        return self.delta(choice, {"role": "assistant", "content": ""})

    def text(self, choice, text):
        return self.delta(choice, {"content": text})

    def call_id(self, choice, at):
        return f"call_{self.number}{choice.index}{at}"

    def call(self, choice, at):
        name, arguments = choice.calls[at]
        return {"id": self.call_id(choice, at), "type": "function", "index": at,
                "function": {"name": name, "arguments": arguments}}

    def tools(self, choice):
        return b"".join(self.delta(choice, {"tool_calls": [self.call(choice, at)]})
                        for at in range(len(choice.calls)))

    def last(self, choice):
        return self.delta(choice, {}, self.finish_reason(choice))

    def tail(self):
        out = b""
        if self.wants_usage:
            out = self.event(self.chunk([], usage=self.usage(*self.total())))
        return out + self.done

    def message(self, choice):
        message = {"role": "assistant", "content": choice.text}
        if choice.calls:
            message["content"] = choice.text or None
            message["tool_calls"] = [
                {k: v for k, v in self.call(choice, at).items() if k != "index"}
                for at in range(len(choice.calls))]
        return message

    def document(self):
        return {"id": f"{self.prefix}{self.number}", "object": "chat.completion",
                "created": CREATED, "model": self.model, **self.more(False),
                "choices": [{"index": c.index, "message": self.message(c),
                             "finish_reason": self.finish_reason(c)} for c in self.choices],
                "usage": self.usage(*self.total())}


class TextWriter(ChatWriter):
    """/v1/completions."""

    prefix = "cmpl-"

    def chunk(self, choices, **more):
        return {"id": f"{self.prefix}{self.number}", "object": "text_completion",
                "created": CREATED, "model": self.model, **self.more(True), "choices": choices,
                **more}

    def piece(self, choice, text, reason=None):
        return self.event(self.chunk([{"index": choice.index, "text": text, "logprobs": None,
                                       "finish_reason": reason}]))

    def first(self, choice):
        return b""

    def text(self, choice, text):
        return self.piece(choice, text)

    def tools(self, choice):
        return b""

    def last(self, choice):
        return self.piece(choice, "", self.finish_reason(choice))

    def document(self):
        document = self.chunk([{"index": c.index, "text": c.text, "logprobs": None,
                                "finish_reason": self.finish_reason(c)} for c in self.choices])
        document["usage"] = self.usage(*self.total())
        return document


class MessagesWriter(Writer):
    """Anthropic's /v1/messages."""

    done = b""
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

    def named(self, name, **document):
        return (b"event: " + name.encode() + b"\n" + self.event({"type": name, **document}))

    def usage(self, prompt, completion, _cached):
        return {"input_tokens": prompt, "output_tokens": completion}

    def envelope(self, content, reason, usage):
        return {"id": f"msg_{self.number}", "type": "message", "role": "assistant",
                "content": content, "model": self.model, "stop_reason": reason,
                "stop_sequence": None, "usage": usage}

    def first(self, choice):
        prompt, _, cached = choice.usage()
        out = self.named("message_start",
                         message=self.envelope([], None, self.usage(prompt, 0, cached)))
        if choice.text_words:
            out += self.named("content_block_start", index=0,
                              content_block={"type": "text", "text": ""})
        return out

    def text(self, choice, text):
        return self.named("content_block_delta", index=0,
                          delta={"type": "text_delta", "text": text})

    def use(self, choice, at):
        name, arguments = choice.calls[at]
        return {"type": "tool_use", "id": f"toolu_{self.number}{at}", "name": name,
                "input": json.loads(arguments)}

    def tools(self, choice):
        out, base = b"", 0
        if choice.text_words:
            out, base = self.named("content_block_stop", index=0), 1
        for at in range(len(choice.calls)):
            block = {**self.use(choice, at), "input": {}}
            out += self.named("content_block_start", index=base + at, content_block=block)
            out += self.named("content_block_delta", index=base + at,
                              delta={"type": "input_json_delta",
                                     "partial_json": choice.calls[at][1]})
            out += self.named("content_block_stop", index=base + at)
        return out

    def last(self, choice):
        out = b""
        if choice.text_words and not choice.calls:
            out = self.named("content_block_stop", index=0)
        _, completion, _ = choice.usage()
        return out + self.named("message_delta", delta={
            "stop_reason": self.reasons[choice.reason], "stop_sequence": None},
            usage={"output_tokens": completion}) + self.named("message_stop")

    def error(self, document):
        return b"event: error\n" + self.event({"type": "error", **document})

    def document(self):
        choice = self.choices[0]
        content = [{"type": "text", "text": choice.text}] if choice.text_words else []
        content += [self.use(choice, at) for at in range(len(choice.calls))]
        return self.envelope(content, self.reasons[choice.reason], self.usage(*choice.usage()))


class ResponsesWriter(Writer):
    """/v1/responses."""

    done = b""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sequence = itertools.count()

    def named(self, name, **document):
        return b"event: " + name.encode() + b"\n" + self.event(
            {"type": name, "sequence_number": next(self.sequence), **document})

    def item(self, choice, status):
        content = []
        if status == "completed":
            content = [{"type": "output_text", "text": choice.text, "annotations": []}]
        return {"type": "message", "id": f"msg_{self.number}", "role": "assistant",
                "status": status, "content": content}

    def call_item(self, choice, at):
        name, arguments = choice.calls[at]
        return {"type": "function_call", "id": f"fc_{self.number}{at}",
                "call_id": f"call_{self.number}{at}", "name": name, "arguments": arguments,
                "status": "completed"}

    def output(self, choice):
        out = [self.item(choice, "completed")] if choice.text_words else []
        return out + [self.call_item(choice, at) for at in range(len(choice.calls))]

    def response(self, status, choice=None):
        out = {"id": f"resp_{self.number}", "object": "response", "created_at": CREATED,
               "model": self.model, "status": status, "output": []}
        if choice is not None:
            prompt, completion, cached = choice.usage()
            out["output"] = self.output(choice)
            out["usage"] = {"input_tokens": prompt, "output_tokens": completion,
                            "total_tokens": prompt + completion,
                            "input_tokens_details": {"cached_tokens": cached}}
            if choice.reason == "length":
                out["incomplete_details"] = {"reason": "max_output_tokens"}
        return out

    def status(self, choice):
        return "incomplete" if choice.reason == "length" else "completed"

    def first(self, choice):
        out = self.named("response.created", response=self.response("in_progress"))
        out += self.named("response.in_progress", response=self.response("in_progress"))
        if choice.text_words:
            out += self.named("response.output_item.added", output_index=0,
                              item=self.item(choice, "in_progress"))
            out += self.named("response.content_part.added", output_index=0, content_index=0,
                              item_id=f"msg_{self.number}",
                              part={"type": "output_text", "text": "", "annotations": []})
        return out

    def text(self, choice, text):
        return self.named("response.output_text.delta", output_index=0, content_index=0,
                          item_id=f"msg_{self.number}", delta=text)

    def tools(self, choice):
        out, base = b"", 1 if choice.text_words else 0
        for at, (_, arguments) in enumerate(choice.calls):
            item = self.call_item(choice, at)
            out += self.named("response.output_item.added", output_index=base + at,
                              item={**item, "arguments": "", "status": "in_progress"})
            out += self.named("response.function_call_arguments.delta", output_index=base + at,
                              item_id=item["id"], delta=arguments)
            out += self.named("response.function_call_arguments.done", output_index=base + at,
                              item_id=item["id"], arguments=arguments)
            out += self.named("response.output_item.done", output_index=base + at, item=item)
        return out

    def last(self, choice):
        out = b""
        if choice.text_words:
            part = {"type": "output_text", "text": choice.text, "annotations": []}
            out += self.named("response.output_text.done", output_index=0, content_index=0,
                              item_id=f"msg_{self.number}", text=choice.text)
            out += self.named("response.content_part.done", output_index=0, content_index=0,
                              item_id=f"msg_{self.number}", part=part)
            out += self.named("response.output_item.done", output_index=0,
                              item=self.item(choice, "completed"))
        status = self.status(choice)
        return out + self.named(f"response.{status}", response=self.response(status, choice))

    def document(self):
        choice = self.choices[0]
        return self.response(self.status(choice), choice)


class OpenAi(Engine):
    """An engine that generates.  Routes lead to chat, completions, responses and messages."""

    writers = {"chat": ChatWriter, "completions": TextWriter, "responses": ResponsesWriter,
               "messages": MessagesWriter}
    head_at = "arrival"            # a stream's head goes out at: arrival, start, first (token)
    on_machine = ("slots", "tokens_per_s", "prompt_tokens_per_s", "prompt_s", "tick_s", "frozen")

    def setup(self):
        self.models = ["tiny"]     # names it lists
        self.speeds = {}           # what was set of on_machine, for machines to come
        self.machines = []
        self.machine = self.new_machine()
        self.context = 4096        # tokens of prompt and answer together
        self.answer_tokens = 16    # of an answer that ends by itself
        self.calls = []            # (name, arguments as JSON text): the answer to a request with tools
        self.call_tokens = 8       # tokens that each call costs
        self.pauses = {}           # tokens given -> seconds of silence before the next
        self.break_after = None    # (tokens given, drop | reset | end | error | stall)
        self.vision = False
        self.numbers = itertools.count(1)

    def make_machine(self):
        return Machine()

    def new_machine(self):
        machine = self.make_machine()
        for name, value in self.speeds.items():
            setattr(machine, name, value)
        self.machines.append(machine)
        return machine

    def __getattr__(self, name):
        if name in type(self).on_machine:
            return getattr(self.__dict__["machine"], name)
        raise AttributeError(name)

    def __setattr__(self, name, value):
        if name in type(self).on_machine:
            self.speeds[name] = value
            for machine in self.machines:
                setattr(machine, name, value)
        else:
            super().__setattr__(name, value)

    def stop(self):
        super().stop()
        for machine in self.machines:
            machine.fail_all()

    def close(self):
        super().close()
        for machine in self.machines:
            machine.close()

    # ---- what an engine says ------------------------------------------------------------------

    def model_of(self, body):
        """The name it answers with; None: it has no such model."""
        name = body.get("model")
        return name if name in self.models else None

    def unknown_model(self, body):
        return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.",
                               "type": "NotFoundError", "param": "model", "code": 404}}

    def bad_json(self, reply, error):
        return reply.answer(400, {"error": {"message": str(error), "type": "Bad Request",
                                            "param": None, "code": 400}})

    def refuse(self, body, kind):
        """(status, document) when the request is not taken."""
        return None

    def refuse_context(self, prompt_tokens, max_tokens):
        """(status, document) when it does not fit; or None."""
        return None

    # ---- endpoints ------------------------------------------------------------------------

    def list_models(self, reply, _request):
        return reply.answer(200, {"object": "list", "data": [
            {"id": name, "object": "model", "created": CREATED, "owned_by": "organization_owner"}
            for name in self.models]})

    def chat(self, reply, request):
        return self.generate(reply, request, "chat")

    def completions(self, reply, request):
        return self.generate(reply, request, "completions")

    def responses(self, reply, request):
        return self.generate(reply, request, "responses")

    def messages(self, reply, request):
        return self.generate(reply, request, "messages")

    def count_tokens(self, reply, request):
        body = request.json
        _, tokens, _ = conversation(body.get("messages", []), body.get("system"))
        return reply.answer(200, {"input_tokens": tokens})

    def embeddings(self, reply, request):
        body = request.json
        texts = body.get("input", "")
        texts = texts if isinstance(texts, list) else [texts]
        tokens = sum(count_tokens(str(text)) for text in texts)
        return reply.answer(200, {"object": "list", "model": body.get("model"), "data": [
            {"object": "embedding", "index": i, "embedding": vector_of(str(text))}
            for i, text in enumerate(texts)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})

    # ---- generation -----------------------------------------------------------------------

    def prompts_of(self, body, kind):
        """[(key, prompt tokens, text that is there already)]"""
        if kind in ("chat", "messages"):
            return [conversation(body.get("messages") or [], body.get("system"))]
        if kind == "responses":
            given = body.get("input", "")
            turns = [{"role": "user", "content": given}] if isinstance(given, str) else given
            return [conversation(turns, body.get("instructions"))]
        prompts = body.get("prompt", "")
        if not isinstance(prompts, list) or (prompts and isinstance(prompts[0], int)):
            prompts = [prompts]
        out = []
        for prompt in prompts:
            if isinstance(prompt, list):
                out.append((f"ids {prompt}", len(prompt), ""))
            else:
                head, begun = unfinished(prompt)
                out.append((head, count_tokens(head), begun))
        return out

    def limit_of(self, body):
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if isinstance(body.get(name), int):
                return body[name]
        return None

    def natural_tokens(self, body):
        return self.answer_tokens

    def is_stream(self, body, _kind):
        return bool(body.get("stream"))

    def calls_of(self, body):
        return list(self.calls) if body.get("tools") or body.get("functions") else []

    def machine_of(self, _model):
        return self.machine

    def make_work(self, machine, key, prompt_tokens, start, words, sock, choice_index, body):
        """Words of one choice as work; start: words of it that are there already."""
        texts = [word_of(f"{key_of(key)}{choice_index or ''}", i)
                 for i in range(start, start + words)]
        return Work(prompt_tokens, texts, sock=sock, pauses=self.pauses)

    def room_after(self, prompt_tokens, _body):
        """Tokens that an answer may have."""
        return max(0, self.context - prompt_tokens)

    def choices_of(self, body, kind, model, sock):
        """[Choice], or (status, document) of a refusal."""
        out, limit = [], self.limit_of(body)
        calls = self.calls_of(body)
        machine = self.machine_of(model)
        for at, (key, prompt_tokens, begun) in enumerate(self.prompts_of(body, kind)):
            start = count_tokens(begun)
            prompt_tokens += start
            refusal = self.refuse_context(prompt_tokens, limit)
            if refusal is not None:
                return refusal
            natural = max(0, self.natural_tokens(body) - start)
            if body.get("ignore_eos"):
                natural = self.context
            room = self.room_after(prompt_tokens, body)
            words = min(x for x in (natural, limit, room) if x is not None)
            reason = "stop" if words == natural else "length"
            cost = len(calls) * self.call_tokens
            if calls:
                reason = "tool_calls"
            for copy in range(body.get("n") or 1):
                work = self.make_work(machine, key, prompt_tokens, start, words, sock, copy, body)
                words, reason = cut_at_stop(work, body, words, reason)
                work.words += ["" for _ in range(cost)]
                out.append(Choice(len(out), at, work, words, calls, reason))
        return out

    def generate(self, reply, request, kind):
        try:
            body = request.json
            if not isinstance(body, dict):
                raise ValueError("the body is no object")
        except ValueError as error:
            return self.bad_json(reply, error)
        model = self.model_of(body)
        refusal = self.unknown_model(body) if model is None else self.refuse(body, kind)
        if refusal is None:
            choices = self.choices_of(body, kind, model, reply.sock)
            refusal = choices if isinstance(choices, tuple) else None
        if refusal is not None:
            return self.answer_refusal(reply, kind, *refusal)
        writer = self.writers[kind](self, body, model, next(self.numbers))
        writer.choices = choices
        self.count["begun"] += 1
        if self.is_stream(body, kind):
            return self.stream(reply, writer, model)
        self.submit(choices, model)
        self.wait(reply, choices)
        return self.answer_whole(reply, writer)

    def answer_refusal(self, reply, _kind, status, document):
        self.count["refused"] += 1
        return reply.answer(status, document)

    def answer_whole(self, reply, writer):
        return reply.answer(200, writer.document())

    def submit(self, choices, model):
        for choice in choices:
            self.machine_of(model).submit(choice.work)

    def wait(self, reply, choices):
        """Until all have ended; raises Gone when the client has left or the engine stops."""
        for choice in choices:
            choice.work.ended.wait()
        states = {choice.work.state for choice in choices}
        if states != {"done"}:
            self.count["cancelled"] += "cancelled" in states
            reply.request.gone = "cancelled" in states
            raise Gone()
        self.count["finished"] += 1

    def begin(self, reply, writer):
        reply.begin_stream(writer.content_type, headers=self.stream_headers())
        reply.push(writer.head())

    def stream_headers(self):
        return ()

    def next_start(self, reply, writer, choice):
        """A further choice begins, when the head goes out at the start."""

    def stream(self, reply, writer, model):
        begun = threading.Event()
        broken = threading.Event()

        def begin():
            if not begun.is_set():
                begun.set()
                self.begin(reply, writer)

        def sink_of(choice):
            def sink(words):
                if broken.is_set():
                    return
                begin()
                if self.write_words(reply, writer, choice, words) == "broken":
                    broken.set()
            return sink

        def start_of(choice):
            def start():
                if begun.is_set():
                    self.next_start(reply, writer, choice)
                begin()
            return start

        for choice in writer.choices:
            choice.work.sink = sink_of(choice)
            if self.head_at == "start":
                choice.work.on_start = start_of(choice)
        if self.head_at == "arrival":
            begin()
        self.submit(writer.choices, model)
        self.wait(reply, writer.choices)
        if broken.is_set():
            return self.broken_end(reply, writer)
        begin()
        for choice in writer.choices:
            if not choice.work.words:
                reply.push(writer.first(choice) + writer.last(choice))
        return self.end(reply, writer)

    def end(self, reply, writer):
        reply.send_piece(writer.tail())
        return reply.end_stream()

    def write_words(self, reply, writer, choice, words):
        """The bytes of a tick's words, one event each, in one write."""
        out = b""
        for word in words:
            if self.break_after is not None and choice.shown >= self.break_after[0]:
                reply.push(out)
                return "broken"
            if choice.shown == 0:
                out += writer.first(choice)
            choice.shown += 1
            if choice.shown <= choice.text_words:
                out += writer.text(choice, word)
            if choice.shown == len(choice.work.words):
                if choice.calls:
                    out += writer.tools(choice)
                out += writer.last(choice)
        reply.push(out)
        return None

    def broken_end(self, reply, writer):
        how = self.break_after[1] if self.break_after else "drop"
        if how == "stall":
            reply.wait_gone(3600)
            return False
        if how == "error":
            reply.send_piece(writer.error(self.error_in_stream()))
        if how in ("error", "end"):
            return reply.end_stream()
        return reply.reset() if how == "reset" else reply.drop()

    def error_in_stream(self):
        return {"error": {"message": "the engine failed", "type": "InternalServerError",
                          "param": None, "code": 500}}


def cut_at_stop(work, body, words, reason):
    """The words before the first stop sequence."""
    stops = body.get("stop") or []
    text = "".join(work.words)
    ends = [text.find(s) for s in ([stops] if isinstance(stops, str) else stops) if s in text]
    if not ends:
        return words, reason
    kept, length = [], 0
    for word in work.words:
        if length + len(word) > min(ends):
            if min(ends) > length:
                kept.append(word[:min(ends) - length])
            break
        kept.append(word)
        length += len(word)
    work.words = kept
    return len(kept), "stop"


def vector_of(text, size=8):
    digest = hashlib.blake2b(text.encode(), digest_size=size).digest()
    return [round(byte / 255 - 0.5, 6) for byte in digest]
