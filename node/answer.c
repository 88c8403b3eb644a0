/*
 * answer.c - the engine's answer on its way to the caller.
 *
 * Whole events are gathered over one turn of the loop and leave as one chunk, so a turn that
 * brings ten tokens costs one message.  The head goes out with the first bytes: until then
 * nothing binds the caller to this node, and an error that comes as the first event can still
 * be told as what it is.
 */
#include "node/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "node/engine/exec.h"
#include "node/engine/judge.h"

#define CHUNK_MAX_BYTES (256 * 1024)
#define QUEUE_MAX_BYTES (256 * 1024) /* above it the engine is paused */
#define ERROR_MAX_BYTES (256 * 1024) /* of an error body that is kept */
#define WHOLE_MAX_BYTES (1024 * 1024)
#define TELL_US         US_PER_S /* between signs of progress of an assembled answer */

/* ---- sending --------------------------------------------------------------------------- */

static bool send_head(struct exec *exec)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__ResponseHead head = DROVER__V1__RESPONSE_HEAD__INIT;
    Drover__V1__Header headers[HEADERS_MAX], *list[HEADERS_MAX];

    if (exec->head_sent)
        return true;
    exec->head_sent = true;
    for (size_t i = 0; i < exec->response_headers_count; i++) {
        drover__v1__header__init(&headers[i]);
        /* protobuf-c knows no const */
        headers[i].name = (char *)(uintptr_t)exec->response_headers[i].name;
        headers[i].value = (char *)(uintptr_t)exec->response_headers[i].value;
        list[i] = &headers[i];
    }
    head.http_status = exec->http_status;
    head.content_type = exec->content_type;
    head.n_headers = exec->response_headers_count;
    head.headers = list;
    head.event_stream = exec->mode == ANSWER_EVENTS;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_HEAD;
    event.head = &head;
    return exec_send(exec, &event);
}

/* The plain text gathered this turn, if there is any that a protobuf string can hold.  After a
 * finish reason there is nothing to continue, and after half an event nobody can. */
static void add_text(struct exec *exec, Drover__V1__Chunk *chunk, bool whole)
{
    struct observer *o = &exec->observer;

    if (!exec->want_text || exec->mode != ANSWER_EVENTS)
        return;
    if (!text_is_utf8(buf_head(&o->text), buf_size(&o->text)))
        o->plain = false;
    chunk->resumable = exec->resumable && o->plain && !o->finished && whole;
    if (exec->resumable && o->plain && buf_size(&o->text) != 0) {
        chunk->text = (char *)(uintptr_t)buf_cstr(&o->text);
        chunk->token_ids =
            (uint32_t *)(uintptr_t)token_ids_of_text(&exec->ids, &chunk->n_token_ids);
        chunk->vocabulary = chunk->n_token_ids == 0 ? 0 : exec->vocabulary;
    }
    if (!exec->content_sent && exec->out_content) {
        chunk->response_id = o->response_id;
        chunk->created = o->created;
    }
}

/* Sends the first `n` of the gathered bytes, after the head.  False: the call has ended. */
static bool send_chunk(struct exec *exec, size_t n)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Chunk chunk = DROVER__V1__CHUNK__INIT;

    if (!send_head(exec))
        return false;
    chunk.data.data = buf_head(&exec->out);
    chunk.data.len = n;
    chunk.tokens = exec->out_tokens;
    chunk.content = exec->out_content;
    chunk.next_sequence = exec->observer.next_sequence;
    add_text(exec, &chunk, n == buf_size(&exec->out));
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_CHUNK;
    event.chunk = &chunk;
    if (!exec_send(exec, &event))
        return false;
    exec->body_bytes += n;
    exec->content_sent |= exec->out_content;
    exec->out_tokens = 0;
    exec->out_content = false;
    buf_reset(&exec->observer.text);
    token_ids_taken(&exec->ids);
    return true;
}

/* Sends what was gathered.  False: the call has ended. */
static bool flush(struct exec *exec)
{
    loop_undefer(exec->agent->loop, &exec->flush);
    if (exec->tell_progress && buf_size(&exec->out) == 0 && !send_chunk(exec, 0))
        return false;
    exec->tell_progress = false;
    while (buf_size(&exec->out) != 0) {
        size_t n = buf_size(&exec->out);

        if (n > CHUNK_MAX_BYTES)
            n = CHUNK_MAX_BYTES; /* one huge event, or a long plain answer */
        if (!send_chunk(exec, n))
            return false;
        buf_consume(&exec->out, n);
    }
    buf_shrink(&exec->out, 64 * 1024);
    if (!exec->paused && exec->run != NULL &&
        server_call_queued(exec->call) > QUEUE_MAX_BYTES) {
        exec->paused = true;
        engine_pause(exec->run, true);
    }
    return true;
}

static void on_flush(struct deferred *deferred)
{
    (void)flush(CONTAINER_OF(deferred, struct exec, flush));
}

void answer_writable(struct exec *exec)
{
    if (!exec->paused)
        return;
    exec->paused = false;
    exec->last_content_us = loop_now_us(exec->agent->loop); /* the silence was ours */
    if (exec->run != NULL)
        engine_pause(exec->run, false);
}

/* Adds bytes to the next chunk.  False: the call has ended. */
static bool gather(struct exec *exec, const void *bytes, size_t n)
{
    if (buf_size(&exec->out) != 0 && buf_size(&exec->out) + n > CHUNK_MAX_BYTES && !flush(exec))
        return false;
    buf_add(&exec->out, bytes, n);
    if (exec->out.failed) {
        exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    loop_defer(exec->agent->loop, &exec->flush, on_flush);
    return true;
}

/* ---- the silence limits ---------------------------------------------------------------- */

static void on_silence(struct timer *timer);

/*
 * Before the first token: does a prefill advance?  It does when the engine's count of work has
 * grown while nobody here got a token; which of several prompts it works on cannot be told. The
 * caller is told by another `accepted`.  False: the call has ended.
 */
static bool look_at_prefill(struct exec *exec, uint64_t now)
{
    struct agent *agent = exec->agent;
    uint64_t progress = engine_facts(agent->engine)->progress;
    uint64_t tokens = agent->output_tokens;
    bool advances = now != exec->started_us && progress > exec->progress &&
                    tokens == exec->tokens_then && !exec->head_sent;

    exec->progress = progress;
    exec->tokens_then = tokens;
    if (!advances)
        return true;
    exec->moved_us = now;
    return exec_accepted(exec, 0);
}

/* Looks whether a limit of silence has passed, and when to look again. */
static void watch(struct exec *exec)
{
    uint64_t now = loop_now_us(exec->agent->loop);
    uint64_t limit_us, since, again_us;

    if (exec->content_us == 0) {
        if (!look_at_prefill(exec, now))
            return;
        limit_us = exec->first_token_ms * US_PER_MS;
        since = exec->moved_us > exec->started_us ? exec->moved_us : exec->started_us;
    } else {
        limit_us = exec->mode == ANSWER_PLAIN ? 0 : exec->idle_token_ms * US_PER_MS;
        since = exec->last_content_us;
    }
    if (limit_us == 0) {
        /* No limit now; but there may be one once content comes, and one look tells. */
        limit_us = exec->idle_token_ms * US_PER_MS;
        since = now;
        if (limit_us == 0)
            return;
    } else if (exec->paused) {
        since = now; /* the caller does not read: the engine is not to blame */
    } else if (now >= since + limit_us) {
        exec_fail(exec, GRPC_DEADLINE_EXCEEDED, "the engine gave no %s for %u ms",
                  exec->content_us == 0 ? "first token" : "token",
                  (unsigned)(limit_us / US_PER_MS));
        return;
    }
    again_us = since + limit_us - now;
    if (exec->content_us == 0 && again_us > limit_us / 4)
        again_us = limit_us / 4;
    timer_start(exec->agent->loop, &exec->silence, again_us, on_silence);
}

static void on_silence(struct timer *timer)
{
    watch(CONTAINER_OF(timer, struct exec, silence));
}

/* Output came.  The limit of silence changes with the first of it. */
static void note_content(struct exec *exec, uint32_t tokens)
{
    uint64_t now = loop_now_us(exec->agent->loop);
    bool first = exec->content_us == 0;

    exec->out_content = true;
    exec->out_tokens += tokens;
    exec->last_content_us = now;
    exec->agent->output_tokens += tokens;
    if (first) {
        exec->content_us = now;
        watch(exec);
    }
    /* An answer that is put together here shows nothing until it is whole: an empty chunk tells
     * the caller when the first token came, and then that the engine gets on. */
    if (exec->mode == ANSWER_ASSEMBLED && (first || now - exec->told_us >= TELL_US)) {
        exec->told_us = now;
        exec->tell_progress = true;
        loop_defer(exec->agent->loop, &exec->flush, on_flush);
    }
}

/* ---- what the engine sends ------------------------------------------------------------- */

static bool starts(const char *text, const char *with)
{
    return strncasecmp(text, with, strlen(with)) == 0;
}

static void keep_headers(struct exec *exec, const struct engine_header *headers, size_t count)
{
    const char *at;

    exec->response_headers_count = 0;
    buf_reset(&exec->response_text);
    for (size_t i = 0; i < count && exec->response_headers_count < HEADERS_MAX; i++) {
        if (!headers_to_client(headers[i].name, headers[i].value))
            continue;
        buf_add(&exec->response_text, headers[i].name, strlen(headers[i].name) + 1);
        buf_add(&exec->response_text, headers[i].value, strlen(headers[i].value) + 1);
        exec->response_headers_count++;
    }
    if (exec->response_text.failed) {
        exec->response_headers_count = 0;
        return;
    }
    at = (const char *)buf_head(&exec->response_text);
    for (size_t i = 0; i < exec->response_headers_count; i++) {
        exec->response_headers[i].name = at;
        at += strlen(at) + 1;
        exec->response_headers[i].value = at;
        at += strlen(at) + 1;
    }
}

static void on_head(void *data, unsigned status, const char *content_type,
                    const struct engine_header *headers, size_t count)
{
    struct exec *exec = data;
    bool events = starts(content_type, "text/event-stream");
    bool lines = starts(content_type, "application/x-ndjson");

    exec->http_status = status;
    if (headers_value_ok(content_type))
        (void)strlcpy(exec->content_type, content_type, sizeof(exec->content_type));
    keep_headers(exec, headers, count);
    if (status < 200 || (status >= 300 && status < 400) || status > 599) {
        exec_fail(exec, GRPC_INTERNAL, "the engine answered with HTTP status %u", status);
        return;
    }
    if (status >= 400) {
        exec->mode = ANSWER_ERROR;
        return;
    }
    if (!events && exec->continues) {
        exec_fail(exec, GRPC_INTERNAL, "the engine was asked for a stream and gave none");
        return;
    }
    if (!events && !lines) {
        exec->mode = ANSWER_PLAIN;
        return;
    }
    sse_init(&exec->sse, lines ? SSE_LINES : SSE_EVENTS);
    if (exec->stream || !exec->streaming) {
        exec->mode = ANSWER_EVENTS;
        return;
    }
    exec->mode = ANSWER_ASSEMBLED;
    (void)strlcpy(exec->content_type, "application/json", sizeof(exec->content_type));
    exec->assembler = assembler_create(exec->operation);
    if (exec->assembler == NULL)
        exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
}

/* Is the event for the client?  *ended: the call has ended instead. */
static bool is_shown(struct exec *exec, const struct seen *seen, bool *ended)
{
    *ended = false;
    if (seen->usage_only && exec->usage_added)
        return false;
    if (!exec->continues)
        return true;
    switch (rejoin_judge(&exec->rejoin, &exec->observer, seen)) {
    case REJOIN_SHOW:
        return true;
    case REJOIN_HIDE:
        return false;
    case REJOIN_ANEW:
        break;
    }
    exec_fail(exec, GRPC_UNIMPLEMENTED, "the engine began anew instead of continuing");
    *ended = true;
    return false;
}

/* One event.  False: the call has ended. */
static bool take_event(struct exec *exec, const struct sse_event *event)
{
    struct sse_event stripped, rejoined;
    struct seen seen;
    bool shown, ended;
    int rc;

    if (exec->ids_asked) {
        if (token_ids_event(&exec->ids, event, &stripped) != 0) {
            exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
            return false;
        }
        event = &stripped;
    }
    if (exec->continues) {
        if (rejoin_event(&exec->rejoin, event, &rejoined) != 0) {
            exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
            return false;
        }
        event = &rejoined;
    }
    observe_event(&exec->observer, event, &seen);
    switch (seen.kind) {
    case SEEN_ERROR:
        /* What came before it is the client's; the error itself is told by the status, so that
         * the caller can put it into the client's own format. */
        if (!flush(exec))
            return false;
        exec_fail(exec, judge_event(seen.error_status), "the engine reported: %s",
                  seen.error_text);
        return false;
    case SEEN_GARBAGE:
        if (!flush(exec))
            return false;
        exec_fail(exec, event->cut ? GRPC_DATA_LOSS : GRPC_INTERNAL,
                  event->cut ? "the engine's stream ended inside an event"
                             : "the engine sent an event that is not JSON");
        return false;
    case SEEN_CONTENT:
    case SEEN_NOTHING:
    case SEEN_DONE:
        break;
    }
    shown = is_shown(exec, &seen, &ended);
    if (ended)
        return false;
    if (seen.kind == SEEN_CONTENT)
        note_content(exec, 1);
    else if (!observe_streams(exec->operation) && !event->comment)
        note_content(exec, 0); /* a stream that nobody here can read, of a transcription */
    if (exec->mode == ANSWER_ASSEMBLED) {
        if (seen.root.type == JSON_NONE)
            return true;
        rc = assembler_add(exec->assembler, &seen.root);
        if (rc == 0)
            return true;
        exec_fail(exec, rc == DRV_ENOMEM ? GRPC_UNAVAILABLE : GRPC_INTERNAL,
                  "the engine's stream cannot be made into one answer (%s)", error_name(rc));
        return false;
    }
    if (!shown || event->silent)
        return true;
    if (event->comment && !exec->head_sent && buf_size(&exec->out) == 0)
        return true; /* a ping must not bind the caller to this node */
    if (!gather(exec, event->raw, event->raw_len))
        return false;
    if (event->cut)
        return gather(exec, "\n\n", exec->sse.mode == SSE_LINES ? 1 : 2);
    return true;
}

/* False: the call has ended. */
static bool take_events(struct exec *exec)
{
    struct sse_event event;
    int rc;

    while ((rc = sse_next(&exec->sse, &event)) > 0)
        if (!take_event(exec, &event))
            return false;
    if (rc < 0)
        exec_fail(exec, GRPC_INTERNAL, "the engine sent an event of more than %d bytes",
                  SSE_MAX_EVENT_BYTES);
    return rc == 0;
}

static void on_body(void *data, const uint8_t *bytes, size_t n)
{
    struct exec *exec = data;

    switch (exec->mode) {
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (sse_feed(&exec->sse, bytes, n) != 0)
            exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
        else
            (void)take_events(exec);
        return;
    case ANSWER_PLAIN:
        if (buf_size(&exec->whole) + n <= WHOLE_MAX_BYTES)
            buf_add(&exec->whole, bytes, n);
        else
            exec->whole.failed = true; /* too long to read usage from */
        note_content(exec, 0);
        (void)gather(exec, bytes, n);
        return;
    case ANSWER_ERROR:
        if (buf_size(&exec->out) + n <= ERROR_MAX_BYTES)
            buf_add(&exec->out, bytes, n);
        return;
    case ANSWER_UNKNOWN:
        break;
    }
    exec_fail(exec, GRPC_INTERNAL, "the engine sent a body before a head");
}

/* ---- how it ends ----------------------------------------------------------------------- */

static void pass(struct exec *exec)
{
    if (!send_head(exec) || !flush(exec))
        return;
    exec_succeed(exec);
}

/* An error of the engine's in a 400 that says whose fault it is. */
static void pass_as_400(struct exec *exec, const char *text)
{
    bool anthropic = exec->operation == DROVER__V1__OPERATION__OPERATION_MESSAGES ||
                     exec->operation == DROVER__V1__OPERATION__OPERATION_COUNT_TOKENS;

    exec->http_status = 400;
    (void)strlcpy(exec->content_type, "application/json", sizeof(exec->content_type));
    buf_reset(&exec->out);
    if (anthropic) {
        buf_str(
            &exec->out,
            "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":");
        json_quote_str(&exec->out, text);
        buf_str(&exec->out, "}}");
    } else if (observe_is_ndjson(exec->operation)) {
        buf_str(&exec->out, "{\"error\":");
        json_quote_str(&exec->out, text);
        buf_str(&exec->out, "}");
    } else {
        buf_str(&exec->out, "{\"error\":{\"message\":");
        json_quote_str(&exec->out, text);
        buf_str(&exec->out,
                ",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");
    }
    pass(exec);
}

/* Forgets an answer that began, to ask again. */
static void reset(struct exec *exec)
{
    loop_undefer(exec->agent->loop, &exec->flush);
    exec->mode = ANSWER_UNKNOWN;
    buf_reset(&exec->out);
    exec->response_headers_count = 0;
    exec->content_type[0] = '\0';
}

/* Asks again with one member less in the body. */
static void ask_without(struct exec *exec, const char *name)
{
    const struct json_edit edit = {.name = name, .value = NULL};
    struct buf body = BUF_INIT;
    struct json_value root;

    if (json_check(&root, buf_head(&exec->body), buf_size(&exec->body), NULL) != 0 ||
        json_edit(&body, &root, &edit, 1) != 0) {
        buf_finish(&body);
        exec_fail(exec, GRPC_INTERNAL, "the engine refuses %s", name);
        return;
    }
    buf_finish(&exec->body);
    exec->body = body;
    reset(exec);
    exec_retake(exec);
    answer_start(exec);
}

static void ask_without_usage(struct exec *exec)
{
    exec->agent->no_stream_options = true;
    exec->usage_added = false;
    ask_without(exec, "stream_options");
}

static void judge(struct exec *exec)
{
    struct verdict verdict;

    judge_http(&verdict, exec->http_status, buf_head(&exec->out), buf_size(&exec->out),
               exec->usage_added);
    if (exec->ids_asked && verdict.judgement != JUDGE_FAIL) {
        /* It may be what we added that it does not like: the client's own request decides. */
        exec->ids_asked = false;
        ask_without(exec, "logprobs");
        return;
    }
    if (exec->continues && verdict.judgement != JUDGE_FAIL &&
        verdict.judgement != JUDGE_WITHOUT_USAGE) {
        /* The client reads a stream that began well: an error page is no answer to it. */
        exec_fail(exec, GRPC_UNIMPLEMENTED, "the engine refused to continue: HTTP status %u",
                  exec->http_status);
        return;
    }
    switch (verdict.judgement) {
    case JUDGE_PASS:
        pass(exec);
        break;
    case JUDGE_PASS_AS_400:
        pass_as_400(exec, verdict.text);
        break;
    case JUDGE_FAIL:
        exec_fail(exec, verdict.status, "%s", verdict.text);
        break;
    case JUDGE_WITHOUT_USAGE:
        ask_without_usage(exec);
        break;
    }
}

static void end_assembled(struct exec *exec)
{
    struct error err = {0};
    int rc;

    rc = assembler_write(exec->assembler, &exec->out, &err);
    if (rc != 0) {
        exec_fail(exec, rc == DRV_ENOMEM ? GRPC_UNAVAILABLE : GRPC_INTERNAL, "%s", err.text);
        return;
    }
    (void)strlcpy(exec->content_type, "application/json", sizeof(exec->content_type));
    exec->out_content = true;
    pass(exec);
}

/* The last bytes of an event stream may lack their blank line.  False: the call has ended. */
static bool take_rest(struct exec *exec)
{
    struct sse_event event;
    int rc = sse_end(&exec->sse, &event);

    if (rc < 0) {
        exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    return rc == 0 || event.comment || take_event(exec, &event);
}

static void end_plain(struct exec *exec)
{
    struct json_value root;

    if (exec->mode == ANSWER_PLAIN && !exec->whole.failed &&
        json_check(&root, buf_head(&exec->whole), buf_size(&exec->whole), NULL) == 0)
        observe_answer(&exec->observer, &root);
    pass(exec);
}

/* The engine's run is over; the slot is free already. */
static void end_answer(struct exec *exec, bool whole, const char *why)
{
    switch (exec->mode) {
    case ANSWER_UNKNOWN:
        break;
    case ANSWER_ERROR:
        judge(exec); /* even of a body that was cut: the status says most */
        return;
    case ANSWER_PLAIN:
        if (whole) {
            end_plain(exec);
            return;
        }
        break;
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (whole && !take_rest(exec))
            return;
        /* A connection that breaks after the last event took nothing with it. */
        if (!exec->observer.done &&
            (!whole || (!exec->observer.finished && observe_streams(exec->operation)))) {
            if (!flush(exec) || !whole)
                break;
            exec_fail(exec, GRPC_DATA_LOSS, "the engine's stream ended before its answer did");
            return;
        }
        if (exec->mode == ANSWER_ASSEMBLED)
            end_assembled(exec);
        else
            pass(exec);
        return;
    }
    if (exec->phase == EXEC_ENDED)
        return;
    if (exec->mode == ANSWER_PLAIN && !flush(exec))
        return;
    exec_fail(exec, GRPC_UNAVAILABLE, "the connection to the engine broke: %s", why);
}

static void on_end(void *data, enum engine_end end, const char *why)
{
    struct exec *exec = data;

    exec_run_over(exec);
    switch (end) {
    case ENGINE_END_OK:
        end_answer(exec, true, why);
        break;
    case ENGINE_END_LOST:
        end_answer(exec, false, why);
        break;
    case ENGINE_END_UNREACHABLE:
        exec_fail(exec, GRPC_UNAVAILABLE, "cannot reach the engine: %s", why);
        break;
    case ENGINE_END_GARBAGE:
        exec_fail(exec, GRPC_INTERNAL, "the engine does not speak HTTP as it should: %s", why);
        break;
    }
}

static const struct engine_events answer_events = {
    .on_head = on_head,
    .on_body = on_body,
    .on_end = on_end,
};

void answer_start(struct exec *exec)
{
    if (exec_run(exec, &answer_events))
        watch(exec);
}

void answer_last(struct exec *exec)
{
    exec->mode = ANSWER_EVENTS;
    exec->http_status = 200;
    (void)strlcpy(exec->content_type, "text/event-stream", sizeof(exec->content_type));
    if (exec->out.failed)
        exec_fail(exec, GRPC_UNAVAILABLE, "the node is out of memory");
    else
        pass(exec);
}
