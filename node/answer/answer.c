/*
 * answer.c - the engine's answer on its way to the caller.
 *
 * Whole events are gathered over one turn of the loop and leave as one chunk, so a turn that
 * brings ten tokens costs one message.  The head goes out with the first bytes: until then
 * nothing binds the caller to this node, and an error inside of a 200 is treated as one that
 * has a status of its own.  Its first bytes say what the body is (node/stream/framing.h); a
 * document is held until it is whole and known to be an answer, and is a stream then for a
 * client that asked for one, from the beginning or from where another node left off.
 */
#include "node/answer/answer.h"

#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/json.h"
#include "node/answer/as_stream.h"
#include "node/answer/document.h"
#include "node/answer/doubt.h"
#include "node/answer/patience.h"
#include "node/answer/refused.h"
#include "node/answer/sender.h"
#include "node/body/reported.h"
#include "node/engine/errors.h"
#include "node/node_request.h"

#define ERROR_MAX_BYTES (1000 * 1024)      /* of an error body that is kept */
#define WHOLE_MAX_BYTES (16 * 1024 * 1024) /* of a document that is held */

/* ---- what the engine sends ------------------------------------------------------------- */

static void on_head(void *data, unsigned status, const char *content_type, bool encoded,
                    const struct engine_header *headers, size_t count)
{
    struct node_request *req = data;

    req->http_status = status;
    if (headers_value_ok(content_type))
        (void)strlcpy(req->content_type, content_type, sizeof(req->content_type));
    req->claimed = framing_claimed(content_type);
    sender_keep_headers(req, headers, count);
    if (status < 200 || (status >= 300 && status < 400) || status > 599) {
        node_request_fail(req, GRPC_INTERNAL, "the engine answered with HTTP status %u",
                          status);
        return;
    }
    if (status >= 400) {
        req->mode = ANSWER_ERROR;
        return;
    }
    if (encoded) {
        node_request_fail(
            req, GRPC_INTERNAL,
            "the engine's answer has a content coding, without being asked for one");
        return;
    }
    node_request_answered(req);
    req->mode = ANSWER_BEGUN;
    if (meter_streams(req->operation))
        return;
    /* The streams of other operations are not known here, and their documents may be text. */
    req->mode = req->claimed == FRAMING_UNDECIDED ? ANSWER_PLAIN : ANSWER_EVENTS;
    req->too_large = req->mode == ANSWER_PLAIN && document_flows(req);
    sse_init(&req->sse, req->claimed == FRAMING_LINES ? SSE_LINES : SSE_EVENTS);
}

/* Begins to read events or lines.  False: the call has ended. */
static bool begin_stream(struct node_request *req, enum framing framing)
{
    sse_init(&req->sse, framing == FRAMING_LINES ? SSE_LINES : SSE_EVENTS);
    if (req->stream) {
        req->mode = ANSWER_EVENTS;
        if (framing != req->claimed)
            (void)strlcpy(req->content_type,
                          framing == FRAMING_LINES ? "application/x-ndjson"
                                                   : "text/event-stream",
                          sizeof(req->content_type));
        return true;
    }
    req->mode = ANSWER_ASSEMBLED;
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    req->assembler = assembler_create(req->operation);
    if (req->assembler == NULL)
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
    return req->assembler != NULL;
}

static bool take_events(struct node_request *req);

/* Looks at the first bytes; `whole`: there are no more.  False: it is not known yet what the
 * answer is, or the call has ended. */
static bool recognise(struct node_request *req, bool whole)
{
    enum framing framing = framing_of(req->operation, buf_head(&req->whole),
                                      buf_size(&req->whole), whole, req->claimed);

    switch (framing) {
    case FRAMING_UNDECIDED:
        return false;
    case FRAMING_PAGE:
        node_request_fail(req, GRPC_INTERNAL, "the engine answered with a web page");
        return false;
    case FRAMING_DOCUMENT:
        req->mode = ANSWER_PLAIN;
        return true;
    case FRAMING_EVENTS:
    case FRAMING_LINES:
        break;
    }
    if (!begin_stream(req, framing))
        return false;
    if (sse_feed(&req->sse, buf_head(&req->whole), buf_size(&req->whole)) != 0) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    buf_finish(&req->whole);
    return take_events(req);
}

/* Is the event for the client?  *ended: the call has ended instead. */
static bool is_shown(struct node_request *req, const struct seen *seen, bool *ended)
{
    *ended = false;
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

static void on_refusal(struct deferred *deferred);

/* Looks at the error that was found in the answer when the turn is over: the engine must not be
 * asked again from inside of its own callback. */
static void refuse_soon(struct node_request *req)
{
    req->mode = ANSWER_ERROR;
    req->refused = true;
    loop_undefer(req->agent->loop, &req->flush);
    loop_defer(req->agent->loop, &req->flush, on_refusal);
}

/* Keeps what fits of an error's body: some engines repeat all of the request in it. */
static void keep_error(struct node_request *req, const void *bytes, size_t n)
{
    size_t room = ERROR_MAX_BYTES - buf_size(&req->out);

    req->too_large |= n > room;
    buf_add(&req->out, bytes, n > room ? room : n);
}

/* The stream makes no answer.  Some engines stream wrongly what they give right in a document.
 */
static void fail_stream(struct node_request *req, enum grpc_status status, const char *words)
{
    if (refused_unusable(req))
        refuse_soon(req);
    else
        node_request_fail(req, status, "%s", words);
}

/*
 * The engine reports an error inside of a 200.  Before content it is an answer of that
 * status; else earlier events go to the client, and the status of the call carries the
 * error itself, so that the caller can put it into the client's own format.
 */
static void take_error(struct node_request *req, uint32_t status, const char *words,
                       const void *body, size_t n)
{
    struct engine_error error;

    if (req->head_sent || (req->mode != ANSWER_PLAIN && req->content_us != 0)) {
        engine_error_event(&error, status, body, n);
        req->no_answer = true;
        req->of_model = error.of_model;
        if (sender_flush(req) && node_request_cause(req, error.cause, &error.refusal))
            node_request_fail(req,
                              error.engine_error_action == ENGINE_ERROR_FAIL
                                  ? error.status
                                  : GRPC_INVALID_ARGUMENT,
                              "the engine reported: %s", words);
        return;
    }
    req->http_status = status == 0 ? 500 : status;
    req->last_brace = 0;
    req->out_content = false;
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    buf_reset(&req->out);
    keep_error(req, body, n);
    refuse_soon(req);
}

/* One event.  False: the call has ended, or nothing more of it is read. */
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
    req->slot_run.over = req->meter.finished;
    switch (seen.kind) {
    case SEEN_ERROR:
        take_error(req, seen.error_status, seen.error_text, event->data, event->data_len);
        return false;
    case SEEN_GARBAGE:
        if (!meter_streams(req->operation) && !event->cut)
            break; /* the stream of a transcription: its format is not known here */
        if (!sender_flush(req))
            return false;
        if (event->cut)
            node_request_fail(req, GRPC_DATA_LOSS, "the engine's stream ended inside an event");
        else
            fail_stream(req, GRPC_INTERNAL, "the engine sent an event that is not JSON");
        return false;
    case SEEN_DONE:
        if (!meter_streams(req->operation) ||
            (req->meter.finished && !meter_is_empty(&req->meter)))
            break;
        if (meter_is_empty(&req->meter) || sender_flush(req))
            fail_stream(req, GRPC_DATA_LOSS, "the engine's stream ended before its answer did");
        return false;
    case SEEN_CONTENT:
    case SEEN_NOTHING:
        break;
    }
    if (seen.ignored)
        return true;
    doubt_check(req, &seen.root);
    shown = is_shown(req, &seen, &ended);
    if (ended)
        return false;
    if (seen.kind == SEEN_CONTENT)
        patience_content(req, 1);
    else if (!meter_streams(req->operation) && !event->comment)
        patience_content(req,
                         0); /* the stream of a transcription: its format is not known here */
    if (req->mode == ANSWER_ASSEMBLED) {
        if (seen.root.type == JSON_NONE)
            return true;
        rc = assembler_add(req->assembler, &seen.root);
        if (rc == 0)
            return true;
        if (rc == DRV_ENOMEM)
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        else
            fail_stream(req, GRPC_INTERNAL,
                        "the engine's stream cannot be made into one answer");
        return false;
    }
    if (!shown || event->silent)
        return true;
    if (seen.usage_only && req->usage_added)
        return sender_add_unasked(req, &seen.root);
    if (event->comment && !req->head_sent && buf_size(&req->out) == 0)
        return true; /* a ping must not bind the caller to this node */
    if (!sender_add_event(req, event, &seen.root))
        return false;
    if (event->cut)
        return sender_add(req, "\n\n", req->sse.mode == SSE_LINES ? 1 : 2);
    sender_note_end(req, event, &seen);
    return true;
}

/* False: the call has ended. */
static bool take_events(struct node_request *req)
{
    struct sse_event event;
    int rc;

    while ((rc = sse_next(&req->sse, &event)) > 0)
        if (!take_event(req, &event))
            return false;
    if (rc < 0) {
        node_request_fail(req, GRPC_INTERNAL, "the engine sent an event of more than %d bytes",
                          SSE_MAX_EVENT_BYTES);
        return false;
    }
    if (req->meter.done && req->done_us == 0) {
        req->done_us = req->heard_us;
        patience_ends(req);
    }
    return true;
}

/* Bytes were added to an answer that is held, and is no stream as far as is known. */
static void document_grew(struct node_request *req)
{
    if (req->mode == ANSWER_PLAIN)
        patience_content(req, 0);
    if (req->phase != NODE_REQUEST_ENDED && document_may_be_whole(req))
        patience_ends(req);
}

/* A document's client asked for a stream: it becomes one when it is whole. */
static bool is_to_be_stream(const struct node_request *req)
{
    return req->stream && meter_streams(req->operation);
}

/* A document's bytes.  One that is too large to be held passes as it comes, though its client
 * asked for a stream: another node would only do the same work. */
static void take_document(struct node_request *req, const uint8_t *bytes, size_t n)
{
    if (!req->too_large && buf_size(&req->whole) + n <= WHOLE_MAX_BYTES) {
        buf_add(&req->whole, bytes, n);
        if (req->whole.failed)
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        else
            document_grew(req);
        return;
    }
    if (req->continues) {
        node_request_fail(req, GRPC_INTERNAL,
                          "the engine's document is too large to go on with");
        return;
    }
    patience_content(req, 0);
    if (!req->too_large) {
        req->too_large = true;
        if (!sender_add(req, buf_head(&req->whole), buf_size(&req->whole)))
            return;
        buf_finish(&req->whole);
    }
    if (!sender_add(req, bytes, n))
        return; /* the call has ended */
}

static void on_body(void *data, const uint8_t *bytes, size_t n)
{
    struct node_request *req = data;

    req->heard_us = loop_now_us(req->agent->loop);
    silence_heard(&req->silence, false, req->heard_us);
    switch (req->mode) {
    case ANSWER_BEGUN:
        buf_add(&req->whole, bytes, n);
        if (req->whole.failed)
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        else if (recognise(req, false) ? req->mode == ANSWER_PLAIN : req->mode == ANSWER_BEGUN)
            document_grew(req);
        if (req->mode == ANSWER_BEGUN && req->phase != NODE_REQUEST_ENDED &&
            document_is_too_blank(req))
            node_request_fail(req, GRPC_INTERNAL,
                              "the engine's answer begins with white space, and no more");
        return;
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (sse_feed(&req->sse, bytes, n) != 0)
            node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        else
            (void)take_events(req);
        return;
    case ANSWER_PLAIN:
        take_document(req, bytes, n);
        return;
    case ANSWER_ERROR:
        if (!req->refused)
            keep_error(req, bytes, n);
        return;
    case ANSWER_UNKNOWN:
        break;
    }
    node_request_fail(req, GRPC_INTERNAL, "the engine sent a body before a head");
}

/* ---- how it ends ----------------------------------------------------------------------- */

static void apply_error(struct node_request *req)
{
    if (refused_apply(req))
        answer_start(req);
}

/* The end of the turn in which the engine reported an error inside of a 200. */
static void on_refusal(struct deferred *deferred)
{
    struct node_request *req = CONTAINER_OF(deferred, struct node_request, flush);

    if (req->run != NULL)
        node_request_drop_run(req);
    apply_error(req);
}

static void end_assembled(struct node_request *req)
{
    struct error err = {0};
    int rc;

    if (meter_sum_usage(&req->meter))
        assembler_set_usage(req->assembler, &req->meter.usage);
    rc = assembler_write(req->assembler, &req->out, &err);
    if (rc == DRV_ENOMEM) {
        node_request_fail(req, GRPC_UNAVAILABLE, "%s", err.text);
        return;
    }
    if (rc != 0) {
        fail_stream(req, GRPC_INTERNAL, err.text);
        return;
    }
    (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    req->out_content = !node_request_is_empty(req);
    sender_pass(req);
}

/* The last bytes of an event stream may lack their blank line.  False: the call has ended. */
static bool take_rest(struct node_request *req)
{
    struct sse_event event;
    int rc = sse_end(&req->sse, &event);
    size_t n;

    if (rc < 0) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    n = rc == 0 ? 0 : engine_error_appended(event.raw, event.raw_len);
    if (n != 0) {
        take_error(req, 500, "the model's server has ended", event.raw + event.raw_len - n, n);
        return false;
    }
    return rc == 0 || event.comment || take_event(req, &event);
}

static void pass_document(struct node_request *req)
{
    buf_finish(&req->out);
    req->out = req->whole;
    req->whole = BUF_INIT;
    sender_pass(req);
}

static void pass_json(struct node_request *req)
{
    if (strcasestr(req->content_type, "json") == NULL)
        (void)strlcpy(req->content_type, "application/json", sizeof(req->content_type));
    pass_document(req);
}

/* The client gets the document as the stream that it asked for, by way of all that an engine's
 * own events go through: it may be the rest of an answer that another node began, too.  One
 * that cannot be a stream (a response in the background) passes. */
static void stream_document(struct node_request *req, const struct json_value *root)
{
    enum framing framing = meter_is_ndjson(req->operation) ? FRAMING_LINES : FRAMING_EVENTS;
    struct buf events = BUF_INIT;
    int rc = as_stream_write(&events, req->operation, root, req->usage_asked);

    if (rc == DRV_EINVAL) {
        buf_finish(&events);
        if (req->continues)
            node_request_fail(req, GRPC_INTERNAL,
                              "the engine's document is no rest of a stream");
        else
            pass_json(req);
        return;
    }
    buf_finish(&req->whole);
    req->meter.plain &=
        req->continues; /* all of it comes at once: nothing is left to continue */
    if (rc != 0 || !begin_stream(req, framing) ||
        sse_feed(&req->sse, buf_head(&events), buf_size(&events)) != 0)
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
    buf_finish(&events);
    if (req->phase == NODE_REQUEST_ENDED || !take_events(req))
        return;
    if (req->meter.done)
        sender_pass(req);
    else
        node_request_fail(req, GRPC_DATA_LOSS, "the engine's document has no end");
}

/* The document is whole, as HTTP sees it: is it an answer? */
static void end_document(struct node_request *req)
{
    size_t n = buf_size(&req->whole);
    const char *text = framing_trim(buf_head(&req->whole), &n);
    struct json_value root;
    char words[256];
    uint32_t status;
    bool is_json = json_check_lenient(&root, text, n);

    if (document_may_be_text(req) && (!is_json || root.type != JSON_OBJECT)) {
        pass_document(req); /* "42" is JSON, and nothing is a transcript of silence */
        return;
    }
    if (n == 0 || !is_json) {
        node_request_fail(req, GRPC_DATA_LOSS, "the engine's answer is %s",
                          n == 0 ? "empty" : "not JSON, or not whole");
        return;
    }
    if (!document_is_kept(req, &root) &&
        (reported_in(&root, words, sizeof(words), &status) ||
         reported_in_choices(&root, words, sizeof(words), &status))) {
        take_error(req, status, words, text, n);
        return;
    }
    if (!framing_is_answer(req->operation, &root)) {
        node_request_fail(req, GRPC_INTERNAL, "the engine's JSON is no answer");
        return;
    }
    doubt_check(req, &root);
    if (!refused_note_unstreamed(req))
        return;
    if (!req->continues) /* its usage is that of one answer only after the splice */
        meter_answer(&req->meter, &root);
    req->out_content = !node_request_is_empty(req);
    if (is_to_be_stream(req)) {
        stream_document(req, &root);
        return;
    }
    pass_json(req);
}

/* The engine's run is over, by itself or because nothing follows its answer; the slot is free
 * already.  The call may have ended afterwards.  `why`: what a broken connection said. */
static void answer_end(struct node_request *req, enum engine_end end, const char *why)
{
    bool whole = end == ENGINE_END_OK;

    if (req->mode == ANSWER_BEGUN && !recognise(req, true)) {
        /* At the end the first bytes decide always: the call has ended, or is about to. */
        return;
    }
    switch (req->mode) {
    case ANSWER_UNKNOWN:
    case ANSWER_BEGUN:
        break;
    case ANSWER_ERROR:
        apply_error(req); /* even of a body that was cut: the status says most */
        return;
    case ANSWER_PLAIN:
        /* JSON has an end of its own, wherever HTTP's is. */
        if (!req->too_large && (whole || document_is_whole(req))) {
            end_document(req);
            return;
        }
        if (whole && !req->out_content && req->body_bytes == 0) {
            node_request_fail(req, GRPC_DATA_LOSS, "the engine's answer is empty");
            return;
        }
        if (whole) {
            sender_pass(req);
            return;
        }
        break;
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (whole && !req->meter.done && !take_rest(req))
            return;
        if (whole)
            meter_settle(&req->meter);
        /* A connection that breaks after the end of each choice took no output with it. */
        if (!req->meter.done && !req->meter.finished &&
            (!whole || meter_streams(req->operation))) {
            if (!sender_flush(req) || !whole)
                break;
            node_request_fail(req, GRPC_DATA_LOSS,
                              "the engine's stream ended before its answer did");
            return;
        }
        if (!whole && !sender_add_last(req))
            return;
        if (req->mode == ANSWER_ASSEMBLED)
            end_assembled(req);
        else
            sender_pass(req);
        return;
    }
    if (req->phase == NODE_REQUEST_ENDED)
        return;
    if (node_request_cause(req,
                           end == ENGINE_END_DIED ? DROVER__V1__CAUSE__KIND__KIND_ENGINE_DIED
                                                  : DROVER__V1__CAUSE__KIND__KIND_ENGINE_ERROR,
                           NULL))
        node_request_fail(req, GRPC_UNAVAILABLE, "the connection to the engine broke: %s", why);
}

static void on_end(void *data, enum engine_end end, const char *why)
{
    struct node_request *req = data;

    node_request_run_over(req);
    switch (end) {
    case ENGINE_END_OK:
    case ENGINE_END_LOST:
    case ENGINE_END_DIED:
        answer_end(req, end, why);
        break;
    case ENGINE_END_UNREACHABLE:
        if (!node_request_cause(req, DROVER__V1__CAUSE__KIND__KIND_ENGINE_AWAY, NULL))
            return;
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
        patience_start(req, answer_end);
}

void answer_last(struct node_request *req)
{
    req->mode = ANSWER_EVENTS;
    req->http_status = 200;
    (void)strlcpy(req->content_type, "text/event-stream", sizeof(req->content_type));
    if (req->out.failed)
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
    else
        sender_pass(req);
}
