/*
 * answer.c - the engine's answer on its way to the caller.
 *
 * Whole events are gathered over one turn of the loop and leave as one chunk, so a turn that
 * brings ten tokens costs one message.  The head goes out with the first bytes: until then
 * nothing binds the caller to this node, and an error that comes as the first event can still
 * get its own status.  node/silence.h decides how long the engine may be silent; the timer that
 * asks it is here.
 */
#include "node/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/json.h"
#include "base/text/text.h"
#include "node/engine/errors.h"
#include "node/node_request.h"

#define CHUNK_MAX_BYTES (256 * 1024)
#define QUEUE_MAX_BYTES (256 * 1024) /* above it the engine is paused */
#define ERROR_MAX_BYTES (256 * 1024) /* of an error body that is kept */
#define WHOLE_MAX_BYTES (1024 * 1024)
#define TELL_US         US_PER_S         /* between signs of progress of an assembled answer */
#define LAST_US         (50 * US_PER_MS) /* for what may follow the end that an engine has said */
#define MORE_US         (2 * US_PER_S)   /* ... or for that end, after the last content */
#define STATE_LOADABLE  DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE
#define STATE_LOADING   DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING

/* ---- sending --------------------------------------------------------------------------- */

static bool send_head(struct node_request *req)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__ResponseHead head = DROVER__V1__RESPONSE_HEAD__INIT;
    Drover__V1__Header headers[HEADERS_MAX], *list[HEADERS_MAX];

    if (req->head_sent)
        return true;
    req->head_sent = true;
    for (size_t i = 0; i < req->response_headers_count; i++) {
        drover__v1__header__init(&headers[i]);
        /* protobuf-c knows no const */
        headers[i].name = (char *)(uintptr_t)req->response_headers[i].name;
        headers[i].value = (char *)(uintptr_t)req->response_headers[i].value;
        list[i] = &headers[i];
    }
    head.http_status = req->http_status;
    head.content_type = req->content_type;
    head.n_headers = req->response_headers_count;
    head.headers = list;
    head.event_stream = req->mode == ANSWER_EVENTS;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_HEAD;
    event.head = &head;
    return node_request_send(req, &event);
}

/* The plain text gathered this turn, if there is any that a protobuf string can hold.  After a
 * finish reason there is nothing to continue, and after half an event no node can. */
static void add_text(struct node_request *req, Drover__V1__Chunk *chunk, bool whole)
{
    struct stream_meter *o = &req->meter;

    if (!req->want_text || req->mode != ANSWER_EVENTS)
        return;
    if (!text_is_utf8(buf_head(&o->text), buf_size(&o->text)))
        o->plain = false;
    chunk->resumable = req->resumable && o->plain && !o->finished && whole;
    if (req->resumable && o->plain && buf_size(&o->text) != 0) {
        chunk->text = (char *)(uintptr_t)buf_cstr(&o->text);
        chunk->token_ids =
            (uint32_t *)(uintptr_t)token_ids_of_text(&req->ids, &chunk->n_token_ids);
        chunk->vocabulary = chunk->n_token_ids == 0 ? 0 : req->vocabulary;
    }
    if (!req->content_sent && req->out_content) {
        chunk->response_id = o->response_id;
        chunk->created = o->created;
    }
}

/* Sends the first `n` of the gathered bytes, after the head.  False: the call has ended. */
static bool send_chunk(struct node_request *req, size_t n)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Chunk chunk = DROVER__V1__CHUNK__INIT;

    if (!send_head(req))
        return false;
    chunk.data.data = buf_head(&req->out);
    chunk.data.len = n;
    chunk.tokens = req->out_tokens;
    chunk.content = req->out_content;
    chunk.next_sequence = req->meter.next_sequence;
    add_text(req, &chunk, n == buf_size(&req->out));
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_CHUNK;
    event.chunk = &chunk;
    if (!node_request_send(req, &event))
        return false;
    req->body_bytes += n;
    if (req->out_content)
        req->signs_told = silence_signs_of_life(&req->silence);
    req->content_sent |= req->out_content;
    req->out_tokens = 0;
    req->out_content = false;
    buf_reset(&req->meter.text);
    token_ids_taken(&req->ids);
    return true;
}

/* Sends the gathered events.  False: the call has ended. */
static bool flush(struct node_request *req)
{
    loop_undefer(req->agent->loop, &req->flush);
    if (req->tell_progress && buf_size(&req->out) == 0 && !send_chunk(req, 0))
        return false;
    req->tell_progress = false;
    while (buf_size(&req->out) != 0) {
        size_t n = buf_size(&req->out);

        if (n > CHUNK_MAX_BYTES)
            n = CHUNK_MAX_BYTES; /* one huge event, or a long plain answer */
        if (!send_chunk(req, n))
            return false;
        buf_consume(&req->out, n);
    }
    buf_shrink(&req->out, 64 * 1024);
    if (!req->paused && req->run != NULL && server_call_queued(req->call) > QUEUE_MAX_BYTES) {
        req->paused = true;
        silence_pause(&req->silence, true, loop_now_us(req->agent->loop));
        engine_pause(req->run, true);
    }
    return true;
}

static void on_flush(struct deferred *deferred)
{
    (void)flush(CONTAINER_OF(deferred, struct node_request, flush));
}

void answer_writable(struct node_request *req)
{
    if (!req->paused)
        return;
    req->paused = false;
    silence_pause(&req->silence, false, loop_now_us(req->agent->loop));
    if (req->run != NULL)
        engine_pause(req->run, false);
}

/* Adds bytes to the next chunk.  False: the call has ended. */
static bool gather(struct node_request *req, const void *bytes, size_t n)
{
    if (buf_size(&req->out) != 0 && buf_size(&req->out) + n > CHUNK_MAX_BYTES && !flush(req))
        return false;
    buf_add(&req->out, bytes, n);
    if (req->out.failed) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    loop_defer(req->agent->loop, &req->flush, on_flush);
    return true;
}

/* ---- silence --------------------------------------------------------------------------- */

static void on_silence(struct timer *timer);
static void end_answer(struct node_request *req, bool whole, const char *why);

/* The engine's state, as it concerns the request. */
static struct silence_signs signs_of(const struct node_request *req)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);
    const struct engine_model *model = facts_model(facts, req->model);

    return (struct silence_signs){
        .work = facts->progress,
        .read_mono_us = facts->progress_mono_us,
        .loading = facts->loading || (model != NULL && (model->state == STATE_LOADABLE ||
                                                        model->state == STATE_LOADING)),
    };
}

/* Passes the engine's life on to the caller, where no content does.  False: the call has ended.
 */
static bool tell_life(struct node_request *req)
{
    uint32_t signs = silence_signs_of_life(&req->silence);
    bool loading = silence_is_loading(&req->silence);

    if (req->out_content || (signs == req->signs_told && loading == req->loading_told))
        return true;
    req->signs_told = signs;
    req->loading_told = loading;
    return node_request_accepted(req, 0);
}

/* Is the body one JSON document that is whole? */
static bool is_document(const struct node_request *req)
{
    const struct buf *body = req->mode == ANSWER_PLAIN ? &req->whole : &req->out;
    struct json_value root;

    return !body->failed && buf_size(body) != 0 &&
           json_check(&root, buf_head(body), buf_size(body), NULL) == 0;
}

/* When the answer is over if nothing follows, as the engine has said its end, and only its
 * connection stays open; UINT64_MAX: it has not. */
static uint64_t over_mono_us(const struct node_request *req)
{
    switch (req->mode) {
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (req->meter.done)
            return req->done_us + LAST_US;
        return req->meter.finished && req->one_choice ? req->heard_us + MORE_US : UINT64_MAX;
    case ANSWER_PLAIN:
    case ANSWER_ERROR:
        return is_document(req) ? req->heard_us + LAST_US : UINT64_MAX;
    case ANSWER_UNKNOWN:
        break;
    }
    return UINT64_MAX;
}

static void look(struct node_request *req)
{
    const struct silence_signs signs = signs_of(req);
    uint64_t now = loop_now_us(req->agent->loop), over = over_mono_us(req);
    struct silence_result result;

    result = silence_look(&req->silence, &signs, now);
    if (now >= over || (result.verdict != SILENCE_BORNE && req->meter.finished)) {
        node_request_drop_run(req);
        end_answer(req, true, "");
        return;
    }
    if (result.verdict != SILENCE_BORNE) {
        node_request_fail(
            req, result.verdict == SILENCE_STALLED ? GRPC_DEADLINE_EXCEEDED : GRPC_ABORTED,
            "the engine gave no %s for %u ms", silence_missing(&req->silence),
            (unsigned)(result.limit_us / US_PER_MS));
        return;
    }
    if (result.again_us > over - now)
        result.again_us = over - now;
    if (tell_life(req))
        timer_start(req->agent->loop, &req->silence_timer, result.again_us, on_silence);
}

static void on_silence(struct timer *timer)
{
    look(CONTAINER_OF(timer, struct node_request, silence_timer));
}

static void watch_silence(struct node_request *req)
{
    const struct silence_limits limits = {
        .load_us = req->load_ms * US_PER_MS,
        .first_us = req->first_token_ms * US_PER_MS,
        .idle_us = req->idle_token_ms * US_PER_MS,
    };
    const struct silence_signs signs = signs_of(req);

    silence_start(&req->silence, &limits, &signs, req->started_us);
    req->signs_told = 0;
    req->loading_told = false;
    look(req);
}

/* Output came.  The limit changes with the first of it. */
static void note_content(struct node_request *req, uint32_t tokens)
{
    uint64_t now = loop_now_us(req->agent->loop);
    bool first = req->content_us == 0;

    req->out_content = true;
    req->out_tokens += tokens;
    req->agent->output_tokens += tokens;
    silence_heard(&req->silence, true, now);
    if (req->streaming && slot_limit_content(&req->agent->limit, &req->slot_run, now))
        agent_resize(req->agent);
    if (first) {
        req->content_us = now;
        look(req);
    }
    /* An answer that is put together here shows nothing until it is whole: an empty chunk shows
     * the caller when the first token came, and then that the engine makes progress. */
    if (req->mode == ANSWER_ASSEMBLED && (first || now - req->reported_us >= TELL_US)) {
        req->reported_us = now;
        req->tell_progress = true;
        loop_defer(req->agent->loop, &req->flush, on_flush);
    }
}

/* ---- what the engine sends ------------------------------------------------------------- */

static bool starts(const char *text, const char *with)
{
    return strncasecmp(text, with, strlen(with)) == 0;
}

static void keep_headers(struct node_request *req, const struct engine_header *headers,
                         size_t count)
{
    const char *at;

    req->response_headers_count = 0;
    buf_reset(&req->response_text);
    for (size_t i = 0; i < count && req->response_headers_count < HEADERS_MAX; i++) {
        if (!headers_to_client(headers[i].name, headers[i].value))
            continue;
        buf_add(&req->response_text, headers[i].name, strlen(headers[i].name) + 1);
        buf_add(&req->response_text, headers[i].value, strlen(headers[i].value) + 1);
        req->response_headers_count++;
    }
    if (req->response_text.failed) {
        req->response_headers_count = 0;
        return;
    }
    at = (const char *)buf_head(&req->response_text);
    for (size_t i = 0; i < req->response_headers_count; i++) {
        req->response_headers[i].name = at;
        at += strlen(at) + 1;
        req->response_headers[i].value = at;
        at += strlen(at) + 1;
    }
}

static void on_head(void *data, unsigned status, const char *content_type,
                    const struct engine_header *headers, size_t count)
{
    struct node_request *req = data;
    bool events = starts(content_type, "text/event-stream");
    bool lines = starts(content_type, "application/x-ndjson");

    req->http_status = status;
    if (headers_value_ok(content_type))
        (void)strlcpy(req->content_type, content_type, sizeof(req->content_type));
    keep_headers(req, headers, count);
    if (status < 200 || (status >= 300 && status < 400) || status > 599) {
        node_request_fail(req, GRPC_INTERNAL, "the engine answered with HTTP status %u",
                          status);
        return;
    }
    if (status >= 400) {
        req->mode = ANSWER_ERROR;
        return;
    }
    if (!events && req->continues) {
        node_request_fail(req, GRPC_INTERNAL,
                          "the engine was asked for a stream and gave none");
        return;
    }
    if (!events && !lines) {
        req->mode = ANSWER_PLAIN;
        return;
    }
    sse_init(&req->sse, lines ? SSE_LINES : SSE_EVENTS);
    if (req->stream || !req->streaming) {
        req->mode = ANSWER_EVENTS;
        return;
    }
    req->mode = ANSWER_ASSEMBLED;
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    req->assembler = assembler_create(req->operation);
    if (req->assembler == NULL)
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
}

/* Is the event for the client?  *ended: the call has ended instead. */
static bool is_shown(struct node_request *req, const struct seen *seen, bool *ended)
{
    *ended = false;
    if (seen->usage_only && req->usage_added)
        return false;
    if (!req->continues)
        return true;
    switch (splice_check(&req->splice, &req->meter, seen)) {
    case SPLICE_SHOW:
        return true;
    case SPLICE_HIDE:
        return false;
    case SPLICE_ANEW:
        break;
    }
    node_request_fail(req, GRPC_UNIMPLEMENTED, "the engine began anew instead of continuing");
    *ended = true;
    return false;
}

/* The head and what has been gathered are all of the answer. */
static void pass(struct node_request *req)
{
    if (!send_head(req) || !flush(req))
        return;
    node_request_succeed(req);
}

/* An error of the engine in a 400, because the fault is the client's. */
static void pass_as_400(struct node_request *req, const char *text)
{
    bool anthropic = req->operation == DROVER__V1__OPERATION__OPERATION_MESSAGES ||
                     req->operation == DROVER__V1__OPERATION__OPERATION_COUNT_TOKENS;

    req->mode = ANSWER_ERROR;
    req->http_status = 400;
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    buf_reset(&req->out);
    if (anthropic) {
        buf_str(
            &req->out,
            "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":");
        json_quote_str(&req->out, text);
        buf_str(&req->out, "}}");
    } else if (meter_is_ndjson(req->operation)) {
        buf_str(&req->out, "{\"error\":");
        json_quote_str(&req->out, text);
        buf_str(&req->out, "}");
    } else {
        buf_str(&req->out, "{\"error\":{\"message\":");
        json_quote_str(&req->out, text);
        buf_str(&req->out,
                ",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}");
    }
    pass(req);
}

/* An error of the engine, in a document of its own words. */
static void pass_document(struct node_request *req, unsigned http_status, const char *body,
                          size_t n)
{
    req->mode = ANSWER_ERROR;
    req->http_status = http_status;
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    buf_reset(&req->out);
    buf_add(&req->out, body, n);
    pass(req);
}

/*
 * An error in a stream of HTTP 200 ends the call.  As the first event it is the HTTP error that
 * the engine would have sent had it known in time.  Later, earlier events go to the client, and
 * the status carries the error, so that the caller can put it into the client's own format.
 */
static void take_error_event(struct node_request *req, const struct sse_event *event,
                             const struct seen *seen)
{
    struct engine_error error;
    bool first = !req->head_sent && buf_size(&req->out) == 0;

    engine_error_event(&error, seen->error_status, event->data, event->data_len);
    if (!first && !flush(req))
        return;
    if (!node_request_cause(req, error.cause, &error.refusal))
        return;
    if (first && !req->continues && !req->ids_asked &&
        error.engine_error_action != ENGINE_ERROR_FAIL) {
        if (error.engine_error_action == ENGINE_ERROR_PASS)
            pass_document(req, seen->error_status, event->data, event->data_len);
        else
            pass_as_400(req, error.text);
        return;
    }
    node_request_fail(req,
                      error.engine_error_action == ENGINE_ERROR_FAIL ? error.status
                                                                     : GRPC_INVALID_ARGUMENT,
                      "the engine reported: %s", seen->error_text);
}

/* One event.  False: the call has ended. */
static bool take_event(struct node_request *req, const struct sse_event *event)
{
    struct sse_event stripped, spliced;
    struct seen seen;
    bool shown, ended;
    int rc;

    if (req->ids_asked) {
        if (token_ids_event(&req->ids, event, &stripped) != 0) {
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
            return false;
        }
        event = &stripped;
    }
    if (req->continues) {
        if (splice_event(&req->splice, event, &spliced) != 0) {
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
            return false;
        }
        event = &spliced;
    }
    meter_event(&req->meter, event, &seen);
    switch (seen.kind) {
    case SEEN_ERROR:
        take_error_event(req, event, &seen);
        return false;
    case SEEN_GARBAGE:
        if (!flush(req))
            return false;
        node_request_fail(req, event->cut ? GRPC_DATA_LOSS : GRPC_INTERNAL,
                          event->cut ? "the engine's stream ended inside an event"
                                     : "the engine sent an event that is not JSON");
        return false;
    case SEEN_CONTENT:
    case SEEN_NOTHING:
    case SEEN_DONE:
        break;
    }
    shown = is_shown(req, &seen, &ended);
    if (ended)
        return false;
    if (seen.kind == SEEN_CONTENT)
        note_content(req, 1);
    else if (!meter_streams(req->operation) && !event->comment)
        note_content(req, 0); /* the stream of a transcription: its format is not known here */
    if (req->mode == ANSWER_ASSEMBLED) {
        if (seen.root.type == JSON_NONE)
            return true;
        rc = assembler_add(req->assembler, &seen.root);
        if (rc == 0)
            return true;
        node_request_fail(req, rc == DRV_ENOMEM ? GRPC_UNAVAILABLE : GRPC_INTERNAL,
                          "the engine's stream cannot be made into one answer (%s)",
                          error_name(rc));
        return false;
    }
    if (!shown || event->silent)
        return true;
    if (event->comment && !req->head_sent && buf_size(&req->out) == 0)
        return true; /* a ping must not bind the caller to this node */
    if (!gather(req, event->raw, event->raw_len))
        return false;
    if (event->cut)
        return gather(req, "\n\n", req->sse.mode == SSE_LINES ? 1 : 2);
    return true;
}

static void take_events(struct node_request *req)
{
    struct sse_event event;
    int rc;

    while ((rc = sse_next(&req->sse, &event)) > 0)
        if (!take_event(req, &event))
            return;
    if (rc < 0) {
        node_request_fail(req, GRPC_INTERNAL, "the engine sent an event of more than %d bytes",
                          SSE_MAX_EVENT_BYTES);
    } else if (req->meter.done && req->done_us == 0) {
        req->done_us = req->heard_us;
        timer_start(req->agent->loop, &req->silence_timer, LAST_US, on_silence);
    }
}

static void on_body(void *data, const uint8_t *bytes, size_t n)
{
    struct node_request *req = data;

    req->heard_us = loop_now_us(req->agent->loop);
    silence_heard(&req->silence, false, req->heard_us);
    switch (req->mode) {
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (sse_feed(&req->sse, bytes, n) != 0)
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        else
            take_events(req);
        return;
    case ANSWER_PLAIN:
        if (buf_size(&req->whole) + n <= WHOLE_MAX_BYTES)
            buf_add(&req->whole, bytes, n);
        else
            req->whole.failed = true; /* too long to read usage from */
        note_content(req, 0);
        (void)gather(req, bytes, n);
        return;
    case ANSWER_ERROR:
        if (buf_size(&req->out) + n <= ERROR_MAX_BYTES)
            buf_add(&req->out, bytes, n);
        return;
    case ANSWER_UNKNOWN:
        break;
    }
    node_request_fail(req, GRPC_INTERNAL, "the engine sent a body before a head");
}

/* ---- how it ends ----------------------------------------------------------------------- */

/* Forgets an answer that began, to ask again. */
static void reset(struct node_request *req)
{
    loop_undefer(req->agent->loop, &req->flush);
    req->mode = ANSWER_UNKNOWN;
    req->done_us = 0;
    buf_reset(&req->out);
    req->response_headers_count = 0;
    req->content_type[0] = '\0';
}

/* Asks again with one member less in the body. */
static void ask_without(struct node_request *req, const char *name)
{
    const struct json_edit edit = {.name = name, .value = NULL};
    struct buf body = BUF_INIT;
    struct json_value root;

    if (json_check(&root, buf_head(&req->body), buf_size(&req->body), NULL) != 0 ||
        json_edit(&body, &root, &edit, 1) != 0) {
        buf_finish(&body);
        node_request_fail(req, GRPC_INTERNAL, "the engine refuses %s", name);
        return;
    }
    buf_finish(&req->body);
    req->body = body;
    reset(req);
    node_request_retake(req);
    answer_start(req);
}

static void ask_without_usage(struct node_request *req)
{
    req->agent->no_stream_options = true;
    req->usage_added = false;
    ask_without(req, "stream_options");
}

static void apply_engine_error(struct node_request *req)
{
    struct engine_error verdict;

    engine_error_http(&verdict, req->http_status, buf_head(&req->out), buf_size(&req->out),
                      req->usage_added);
    if (req->ids_asked && verdict.engine_error_action != ENGINE_ERROR_FAIL) {
        /* It may be what we added that it does not like: the client's own request decides. */
        req->ids_asked = false;
        ask_without(req, "logprobs");
        return;
    }
    if (!node_request_cause(req, verdict.cause, &verdict.refusal))
        return;
    if (req->continues && verdict.engine_error_action != ENGINE_ERROR_FAIL &&
        verdict.engine_error_action != ENGINE_ERROR_WITHOUT_USAGE) {
        /* The client reads a stream that began well: an error page is no answer to it. */
        node_request_fail(req, GRPC_UNIMPLEMENTED,
                          "the engine refused to continue: HTTP status %u", req->http_status);
        return;
    }
    switch (verdict.engine_error_action) {
    case ENGINE_ERROR_PASS:
        pass(req);
        break;
    case ENGINE_ERROR_PASS_AS_400:
        pass_as_400(req, verdict.text);
        break;
    case ENGINE_ERROR_FAIL:
        node_request_fail(req, verdict.status, "%s", verdict.text);
        break;
    case ENGINE_ERROR_WITHOUT_USAGE:
        ask_without_usage(req);
        break;
    }
}

static void end_assembled(struct node_request *req)
{
    struct error err = {0};
    int rc;

    rc = assembler_write(req->assembler, &req->out, &err);
    if (rc != 0) {
        node_request_fail(req, rc == DRV_ENOMEM ? GRPC_UNAVAILABLE : GRPC_INTERNAL, "%s",
                          err.text);
        return;
    }
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    req->out_content = true;
    pass(req);
}

/* The last bytes of an event stream may lack their blank line.  False: the call has ended. */
static bool take_rest(struct node_request *req)
{
    struct sse_event event;
    int rc = sse_end(&req->sse, &event);

    if (rc < 0) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    return rc == 0 || event.comment || take_event(req, &event);
}

static void end_plain(struct node_request *req)
{
    struct json_value root;

    if (req->mode == ANSWER_PLAIN && !req->whole.failed &&
        json_check(&root, buf_head(&req->whole), buf_size(&req->whole), NULL) == 0)
        meter_answer(&req->meter, &root);
    pass(req);
}

/* The engine's run is over; the slot is free already. */
static void end_answer(struct node_request *req, bool whole, const char *why)
{
    switch (req->mode) {
    case ANSWER_UNKNOWN:
        break;
    case ANSWER_ERROR:
        apply_engine_error(req); /* even of a body that was cut: the status says most */
        return;
    case ANSWER_PLAIN:
        if (whole) {
            end_plain(req);
            return;
        }
        break;
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (whole && !req->meter.done && !take_rest(req))
            return;
        /* A connection that breaks after the last event took nothing with it. */
        if (!req->meter.done &&
            (!whole || (!req->meter.finished && meter_streams(req->operation)))) {
            if (!flush(req) || !whole)
                break;
            node_request_fail(req, GRPC_DATA_LOSS,
                              "the engine's stream ended before its answer did");
            return;
        }
        if (req->mode == ANSWER_ASSEMBLED)
            end_assembled(req);
        else
            pass(req);
        return;
    }
    if (req->phase == NODE_REQUEST_ENDED)
        return;
    if (req->mode == ANSWER_PLAIN && !flush(req))
        return;
    if (node_request_cause(req, DROVER__V1__CAUSE__KIND__KIND_ENGINE_DIED, NULL))
        node_request_fail(req, GRPC_UNAVAILABLE, "the connection to the engine broke: %s", why);
}

static void on_end(void *data, enum engine_end end, const char *why)
{
    struct node_request *req = data;

    node_request_run_over(req);
    switch (end) {
    case ENGINE_END_OK:
        end_answer(req, true, why);
        break;
    case ENGINE_END_LOST:
        end_answer(req, false, why);
        break;
    case ENGINE_END_UNREACHABLE:
        node_request_fail(req, GRPC_UNAVAILABLE, "cannot reach the engine: %s", why);
        break;
    case ENGINE_END_GARBAGE:
        node_request_fail(req, GRPC_INTERNAL, "the engine does not speak HTTP as it should: %s",
                          why);
        break;
    }
}

static const struct engine_events answer_events = {
    .on_head = on_head,
    .on_body = on_body,
    .on_end = on_end,
};

void answer_start(struct node_request *req)
{
    if (node_request_run(req, &answer_events))
        watch_silence(req);
}

void answer_last(struct node_request *req)
{
    req->mode = ANSWER_EVENTS;
    req->http_status = 200;
    (void)strlcpy(req->content_type, "text/event-stream", sizeof(req->content_type));
    if (req->out.failed)
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
    else
        pass(req);
}
