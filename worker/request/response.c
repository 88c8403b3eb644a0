/* response.c - a node's answer, on its way to the client. */
#include "worker/request/response.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/hash.h"
#include "base/io/loop.h"
#include "base/kinds.h"
#include "base/log.h"
#include "base/text/text.h"
#include "proto/operations.h"
#include "shm/facts/requests.h"
#include "shm/share/holders.h"
#include "shm/share/taught.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/http/reject.h"
#include "worker/http/responder.h"
#include "worker/request/attempt.h"
#include "worker/request/request_state.h"
#include "worker/select/enqueue.h"
#include "worker/select/lacks.h"
#include "worker/select/select.h"
#include "worker/upstreams/node_call.h"

/* An answer without content yet (role events, or one JSON document) is held up to here. */
#define HOLD_BYTES     (1024 * 1024)
#define MAX_ECHO_BYTES ((size_t)8 * 1024 * 1024)
/* With less than this on its way to the client, the node may send more. */
#define LOW_WATER_BYTES (64 * 1024)
/* ... but not for every token: so much is given back at once. */
#define RELEASE_BYTES (16 * 1024)
/* Limits of the headers that pass from an engine to the client. */
#define MAX_HEADERS           16
#define MAX_HEADER_BYTES      1024
#define MAX_HEADER_NAME_BYTES 64
/* A longer text is not kept for going on elsewhere. */
#define TEXT_BYTES (1024 * 1024)
/* A larger body is not kept for going on elsewhere either. */
#define KEPT_BODY_BYTES ((size_t)16 * 1024 * 1024)
/* A stream that has begun and is silent gets a comment this often. */
#define COMMENT_US (5 * US_PER_S)

/* Bytes of the answer are due to be released to the node. */
static bool has_unreleased(const struct attempt *attempt)
{
    return attempt->call != NULL && attempt->request->client != NULL &&
           node_call_unreleased(attempt->call) >= RELEASE_BYTES;
}

/* Enough bytes are on their way to the client. */
static bool is_high(const struct request *req)
{
    return req->shown != SHOWN_NOTHING &&
           responder_pending(req->client->responder) >= LOW_WATER_BYTES;
}

bool response_client_lags(const struct attempt *attempt)
{
    return has_unreleased(attempt) && is_high(attempt->request);
}

void response_release_if_low(struct attempt *attempt)
{
    if (!has_unreleased(attempt) || is_high(attempt->request))
        return;
    node_call_release(attempt->call);
    attempt_note_release(attempt);
}

/* ---- the head -------------------------------------------------------------------------- */

static void add_headers(struct request *req)
{
    struct responder *r = req->client->responder;
    const char *session = select_session_text(req);
    const char *model = client_request_own_model(req->client, req->attempt->model);
    char number[32];

    if (req->attempt->node_name[0] != '\0')
        responder_header(r, "x-drover-node", req->attempt->node_name);
    (void)snprintf(number, sizeof(number), "%llu",
                   (unsigned long long)(req->waited_us / US_PER_MS));
    responder_header(r, "x-drover-queue-ms", number);
    (void)snprintf(number, sizeof(number), "%u", req->attempts);
    responder_header(r, "x-drover-attempts", number);
    responder_header(r, "x-drover-policy",
                     policy_name(config_policy_for(req->context->config, req->model)));
    if (session != NULL)
        responder_header(r, "x-drover-session", session);
    if (model != NULL)
        responder_header(r, "x-drover-model", model);
}

static bool speaks_events(int operation)
{
    switch (operation) {
    case DROVER__V1__OPERATION__OPERATION_CHAT_COMPLETIONS:
    case DROVER__V1__OPERATION__OPERATION_COMPLETIONS:
    case DROVER__V1__OPERATION__OPERATION_RESPONSES:
    case DROVER__V1__OPERATION__OPERATION_MESSAGES:
        return true;
    default:
        return false;
    }
}

/* Bytes of the answer go to the client as they are.  A correct node sends whole events. */
static void pass(struct request *req, const uint8_t *bytes, size_t n)
{
    if (n == 0)
        return;
    event_end_note(&req->end, bytes, n);
    req->torn = !event_end_is_here(&req->end, !speaks_events(req->client->operation));
    if (req->torn)
        req->resumable = false; /* the events of another node would go on inside this one */
    responder_write(req->client->responder, bytes, n);
}

static void add_held_headers(struct responder *r, const struct buf *headers)
{
    const char *p = (const char *)buf_head(headers);
    size_t left = buf_size(headers);

    while (left != 0) {
        const char *value = p + strlen(p) + 1;
        size_t n = (size_t)(value - p) + strlen(value) + 1;

        responder_header(r, p, value);
        p += n;
        left -= n;
    }
}

void response_show(struct request *req, bool whole)
{
    struct responder *r = req->client->responder;
    struct attempt *attempt = req->attempt;

    req->status = attempt->status;
    if (req->shown == SHOWN_NOTHING) {
        add_headers(req);
        add_held_headers(r, &attempt->headers);
        responder_start(r, req->status, attempt->content_type,
                        whole && !attempt->event_stream ? (int64_t)buf_size(&attempt->held)
                                                        : -1);
        req->shown = SHOWN_HEAD;
    }
    req->shown = SHOWN_CONTENT;
    if (buf_size(&attempt->held) != 0)
        pass(req, buf_head(&attempt->held), buf_size(&attempt->held));
    buf_finish(&attempt->held);
    buf_finish(&attempt->headers);
}

/* A client that hears nothing for comment_after_ms gets a comment, where comments exist and the
 * bytes it has do not end inside an event. */
static bool is_comment_due(const struct request *req)
{
    const struct client_request *client = req->client;
    uint64_t after_us =
        config_queue_for(req->context->config, req->model)->comment_after_ms * US_PER_MS;
    uint64_t now = loop_now_us(req->context->loop);
    uint64_t since = req->content_mono_us == 0 ? req->started_mono_us : req->content_mono_us;

    return after_us != 0 && now - since >= after_us &&
           now - req->comment_mono_us >= COMMENT_US && client->stream &&
           speaks_events(client->operation) && !req->torn;
}

/*
 * With the first comment the status is 200, and what goes wrong can only be said in the stream.
 * So this is done late, for a request that was checked as far as it can be here.
 */
static void comment(struct request *req, const char *text)
{
    struct responder *r = req->client->responder;

    if (req->shown == SHOWN_NOTHING) {
        add_headers(req);
        responder_start(r, 200, "text/event-stream", -1);
        req->shown = SHOWN_HEAD;
    }
    req->comment_mono_us = loop_now_us(req->context->loop);
    responder_write(r, text, strlen(text));
}

void response_show_waiting(struct request *req)
{
    unsigned ahead, eta_s;
    char text[96];

    if (!is_comment_due(req))
        return;
    enqueue_estimate(req, &ahead, &eta_s);
    (void)snprintf(text, sizeof(text), ": drover queued pos=%u eta=%us\n\n", ahead + 1, eta_s);
    comment(req, text);
}

void response_show_running(struct request *req)
{
    const struct attempt *attempt = req->attempt;

    if (!is_comment_due(req) || (attempt->status != 0 && !attempt->event_stream))
        return; /* a document comes: an error, say */
    if (req->shown != SHOWN_NOTHING && responder_pending(req->client->responder) != 0)
        return; /* the silence is the client's */
    comment(req, attempt->content_mono_us != 0 ? ": drover decode\n\n"
                 : attempt->loading            ? ": drover load\n\n"
                                               : ": drover prefill\n\n");
}

/* ---- headers of a node's answer -------------------------------------------------------- */

static bool is_printable(const char *text, size_t max_bytes)
{
    size_t n = strlen(text);

    return n <= max_bytes && text_is_printable(text, n);
}

/* drover-node lets no others through.  But a node may run other software, and a header could
 * end the head, frame the body anew, or speak in our name. */
static bool may_pass(const Drover__V1__Header *header)
{
    const char *name = header->name;

    if (!is_printable(header->value, MAX_HEADER_BYTES))
        return false;
    if (strcmp(name, "retry-after") == 0)
        return true;
    return strncmp(name, "openai-", 7) == 0 && strlen(name) <= MAX_HEADER_NAME_BYTES &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(name);
}

/* ---- the node's events ----------------------------------------------------------------- */

static bool fail(struct attempt_failure *out, enum api_error error, enum stats_counter counter,
                 const char *message)
{
    *out = (struct attempt_failure){.error = error, .counter = counter};
    (void)snprintf(out->message, sizeof(out->message), "%s", message);
    return false;
}

static bool fail_status(struct attempt *attempt, struct attempt_failure *out, unsigned status)
{
    char message[256];

    if (api_error_of_status(status) == API_ERROR_LOOP) {
        attempt->excused = true; /* its engine is to blame, not the node */
        api_loop_text(message, sizeof(message), attempt->node_name);
        return fail(out, API_ERROR_LOOP, STATS_CLIENT_ERROR, message);
    }
    (void)snprintf(message, sizeof(message), "the engine answered HTTP %u", status);
    return status == 429 ? fail(out, API_ERROR_QUEUE_FULL, STATS_FULL, message)
                         : fail(out, API_ERROR_NODE_FAILED, STATS_NODE_ERROR, message);
}

/* Is it a document where comments have begun a stream?  An error can be said there. */
static bool is_late(const struct attempt *attempt)
{
    return attempt->request->shown == SHOWN_HEAD && !attempt->event_stream;
}

/* The engine has answered, and each further one would begin the work anew. */
static bool fail_late(struct attempt *attempt, struct attempt_failure *out)
{
    attempt->excused = true;
    (void)fail(out, API_ERROR_NODE_FAILED, STATS_CLIENT_ERROR,
               "the node gave a document where a stream has begun");
    out->silent = true;
    return false;
}

/* Holds the headers that may pass, as long as there is a head to show them in. */
static void hold_headers(struct attempt *attempt, const Drover__V1__ResponseHead *head)
{
    unsigned passed = 0;

    for (size_t i = 0; i < head->n_headers && passed < MAX_HEADERS; i++) {
        if (!may_pass(head->headers[i]))
            continue;
        passed++;
        buf_add(&attempt->headers, head->headers[i]->name, strlen(head->headers[i]->name) + 1);
        buf_add(&attempt->headers, head->headers[i]->value,
                strlen(head->headers[i]->value) + 1);
    }
    if (attempt->headers.failed)
        buf_finish(&attempt->headers);
}

bool response_take_head(struct attempt *attempt, const Drover__V1__ResponseHead *head,
                        struct attempt_failure *out)
{
    struct request *req = attempt->request;

    /* A 501 with a cause is the engine's word for an operation that it does not have. */
    if (head->http_status == 429 ||
        (head->http_status >= 500 &&
         !(head->http_status == 501 && attempt_is_refused(attempt))))
        return fail_status(attempt, out, head->http_status);
    attempt->status = head->http_status;
    if (req->shown == SHOWN_CONTENT && (attempt->status != 200 || !head->event_stream)) {
        attempt->excused = true; /* what it was given came from another node */
        return fail(out, API_ERROR_NODE_FAILED, STATS_NODE_ERROR,
                    "the next node would not go on with the answer");
    }
    /* A non-streaming client never gets a stream, even if the node sends one. */
    attempt->event_stream = head->event_stream && req->client != NULL && req->client->stream;
    if (is_late(attempt) && attempt->status < 400)
        return fail_late(attempt, out);
    (void)snprintf(attempt->content_type, sizeof(attempt->content_type), "%s",
                   head->content_type[0] != '\0' &&
                           is_printable(head->content_type, sizeof(attempt->content_type) - 1)
                       ? head->content_type
                       : "application/json");
    if (req->shown == SHOWN_NOTHING)
        hold_headers(attempt, head);
    return true;
}

static void forget_ids(struct request *req)
{
    req->ids_lost = true;
    buf_finish(&req->ids);
}

/* Keeps the token ids of the text so far, for as long as all are known and of one vocabulary.
 * A token has at least one byte of text, so there are never more ids than bytes. */
static void keep_ids(struct request *req, const Drover__V1__Chunk *chunk)
{
    size_t known = buf_size(&req->ids) / sizeof(uint32_t);

    if (req->ids_lost || chunk->text[0] == '\0')
        return;
    if (req->vocabulary == 0)
        req->vocabulary = chunk->vocabulary;
    if (chunk->n_token_ids == 0 || chunk->vocabulary == 0 ||
        chunk->vocabulary != req->vocabulary ||
        chunk->n_token_ids > buf_size(&req->text) - known) {
        forget_ids(req);
        return;
    }
    buf_add(&req->ids, chunk->token_ids, chunk->n_token_ids * sizeof(uint32_t));
    if (req->ids.failed)
        forget_ids(req);
}

/* No other node can go on with this answer. */
static void forget_text(struct request *req)
{
    req->resumable = false;
    buf_finish(&req->text);
    forget_ids(req);
}

/* The ids with which another node would go on.  False: they cannot be kept. */
static bool keep_response_id(struct request *req, const Drover__V1__Chunk *chunk)
{
    if (req->response_id[0] != '\0' || chunk->response_id[0] == '\0')
        return true;
    if (strlen(chunk->response_id) >= sizeof(req->response_id) ||
        strlen(chunk->item_id) >= sizeof(req->item_id))
        return false;
    (void)strlcpy(req->response_id, chunk->response_id, sizeof(req->response_id));
    (void)strlcpy(req->item_id, chunk->item_id, sizeof(req->item_id));
    req->created = chunk->created;
    return true;
}

/* Keeps the text so far, for as long as it is all there is.  A document is never gone on with:
 * it is shown when it is whole. */
static void keep_text(struct attempt *attempt, const Drover__V1__Chunk *chunk)
{
    struct request *req = attempt->request;
    size_t n;

    if (!chunk->content)
        return;
    n = strnlen(chunk->text, TEXT_BYTES + 1);
    if (!attempt->event_stream || !chunk->resumable ||
        req->client->body_len > KEPT_BODY_BYTES ||
        (req->shown == SHOWN_CONTENT && !req->resumable) ||
        n > TEXT_BYTES - buf_size(&req->text) || !keep_response_id(req, chunk)) {
        forget_text(req);
        return;
    }
    buf_add(&req->text, chunk->text, n);
    keep_ids(req, chunk);
    req->resumable = !req->text.failed;
}

/* Shown already: the hot path of a token. */
static void pass_on(struct attempt *attempt, const Drover__V1__Chunk *chunk)
{
    struct request *req = attempt->request;

    pass(req, chunk->data.data, chunk->data.len);
    if (!response_may_resume(req) && node_call_unsent(attempt->call) == 0)
        http_drop_body(req->client);
    response_release_if_low(attempt);
}

/* An answer without end: the next engine would only do the same. */
static bool fail_endless(struct attempt *attempt, struct attempt_failure *out)
{
    struct request *req = attempt->request;
    uint32_t limit = req->context->config->limits.max_answer_bytes;
    char message[96];

    log_warn("event=answer_too_long id=%s node=%s limit=%u", req->client->id,
             attempt->node_name, limit);
    (void)snprintf(message, sizeof(message),
                   "the answer is longer than limits.max_answer_bytes (%u)", limit);
    forget_text(req);
    attempt->excused = true; /* the prompt may be the cause */
    (void)fail(out, API_ERROR_NODE_FAILED, STATS_CLIENT_ERROR, message);
    out->silent = true;
    return false;
}

/* Sound is played while it comes. */
static bool flows(const struct attempt *attempt)
{
    return attempt->status == 200 &&
           attempt->request->client->operation == DROVER__V1__OPERATION__OPERATION_SPEECH;
}

/* Is it a stream whose first content is known by sight? */
static bool holds_events(const struct attempt *attempt)
{
    return attempt->event_stream && attempt->status < 400 &&
           operation_class(attempt->request->client->operation) == OP_CLASS_GENERATION;
}

/* Are so many events without content held as no answer begins with?  Those of Responses repeat
 * what the client sent, some of them more than once. */
static bool is_hollow(const struct attempt *attempt)
{
    size_t body = attempt->request->client->body_len;
    size_t echo = body < MAX_ECHO_BYTES / 4 ? 4 * body : MAX_ECHO_BYTES;

    return buf_size(&attempt->held) > HOLD_BYTES + echo;
}

/* Is it time to show what is held? */
static bool is_due(const struct attempt *attempt, const Drover__V1__Chunk *chunk)
{
    if ((attempt->event_stream || flows(attempt)) && chunk->content)
        return true;
    return buf_size(&attempt->held) > HOLD_BYTES && !holds_events(attempt);
}

enum response_step response_take_chunk(struct attempt *attempt, const Drover__V1__Chunk *chunk,
                                       struct attempt_failure *out)
{
    struct request *req = attempt->request;
    uint32_t limit = req->context->config->limits.max_answer_bytes;
    bool late = is_late(attempt);

    attempt->answer_bytes += chunk->data.len;
    if (limit != 0 && attempt->answer_bytes > limit) {
        (void)fail_endless(attempt, out);
        return RESPONSE_FAILED;
    }
    if (late && attempt->status < 400) { /* of one of two attempts, the other had comments */
        (void)fail_late(attempt, out);
        return RESPONSE_FAILED;
    }
    if (chunk->kept_id[0] != '\0' && !req->client->unkept)
        holders_note(req->context->holders, chunk->kept_id, hash_text(attempt->node_name),
                     req->client->owner);
    if (chunk->next_sequence != 0)
        req->next_sequence = chunk->next_sequence;
    keep_text(attempt, chunk);
    if (req->shown == SHOWN_CONTENT) {
        pass_on(attempt, chunk);
        return RESPONSE_TAKEN;
    }
    /* Only the first words of an error are shown in a stream. */
    if (late && buf_size(&attempt->held) >= HOLD_BYTES)
        return RESPONSE_REFUSED;
    buf_add(&attempt->held, chunk->data.data, chunk->data.len);
    if (attempt->held.failed) {
        (void)fail(out, API_ERROR_INTERNAL, STATS_CLIENT_GONE, "out of memory");
        return RESPONSE_FAILED;
    }
    if (!late && is_due(attempt, chunk))
        return RESPONSE_TO_SHOW;
    if (holds_events(attempt) && is_hollow(attempt)) {
        (void)fail(out, API_ERROR_NODE_FAILED, STATS_NODE_ERROR,
                   "the engine sends events without content and without end");
        return RESPONSE_FAILED;
    }
    response_release_if_low(attempt);
    return RESPONSE_TAKEN;
}

bool response_may_resume(const struct request *req)
{
    return req->resumable && req->resumes < req->context->config->limits.max_resumes;
}

void response_forget_unseen(struct request *req)
{
    req->next_sequence = 0;
    buf_reset(&req->text);
    buf_reset(&req->ids);
    req->ids_lost = false;
    req->vocabulary = 0;
    req->response_id[0] = '\0';
    req->item_id[0] = '\0';
    req->created = 0;
}

/* ---- errors ---------------------------------------------------------------------------- */

/* The end of an answer that has begun. */
static void end_with_error(struct request *req, enum api_error error, const char *message)
{
    struct client_request *client = req->client;
    struct buf event = BUF_INIT;

    req->status = 200; /* as the client saw it */
    if (!client->stream) {
        req->cut = true;
        responder_abort(client->responder);
        return;
    }
    /* A node's unfinished event must not swallow our own. */
    if (req->torn)
        buf_str(&event, "\n\n");
    surface_error_event(&event, client->surface, client->operation, error, message, client->id,
                        req->next_sequence);
    if (event.failed) { /* a part of it could be taken for the rest of the answer */
        req->cut = true;
        responder_abort(client->responder);
    } else {
        responder_write(client->responder, buf_head(&event), buf_size(&event));
        responder_end(client->responder);
    }
    buf_finish(&event);
}

void response_error(struct request *req, enum api_error error, const char *message,
                    unsigned retry_after_s)
{
    req->reported = error;
    if (req->shown != SHOWN_NOTHING) {
        end_with_error(req, error, message);
        return;
    }
    req->status = api_error_status(error, req->client->surface);
    add_headers(req);
    http_reply_error(req->client, error, message, retry_after_s);
}

/* An answer says more than a refusal, and of those the one with a figure does. */
static bool is_better(const struct attempt *attempt, const struct refusal_kept *kept)
{
    if ((attempt->status < 400) != (kept->status < 400))
        return attempt->status < 400;
    return attempt->cause.limit > kept->limit;
}

void response_keep_refusal(struct attempt *attempt)
{
    struct refusal_kept *kept = &attempt->request->refusal;

    if (kept->status != 0 && !is_better(attempt, kept))
        return;
    kept->status = attempt->status;
    kept->is_answer = attempt_is_unsure(attempt);
    kept->event_stream = attempt->event_stream;
    kept->ability = attempt->cause.ability;
    kept->limit = attempt->cause.limit;
    (void)strlcpy(kept->content_type, attempt->content_type, sizeof(kept->content_type));
    buf_finish(&kept->body);
    kept->body = attempt->held;
    attempt->held = (struct buf)BUF_INIT;
    buf_finish(&kept->headers);
    kept->headers = attempt->headers;
    attempt->headers = (struct buf)BUF_INIT;
}

/* Has another node a larger context than the one that this refusal names?  Some engines keep a
 * few tokens for themselves.  Of operations that generate nothing it is the size of a batch. */
static bool is_exceeded(const struct request *req, uint32_t most)
{
    const struct refusal_kept *kept = &req->refusal;

    return kept->ability == ABILITY_CONTEXT && kept->limit != 0 &&
           req->op_class == OP_CLASS_GENERATION &&
           most > kept->limit + kept->limit / TAUGHT_FIGURE_PART;
}

/* The engine's own words, as an error event of their status. */
static void refuse_in_stream(struct request *req, unsigned status, struct buf *body)
{
    char message[256];

    (void)snprintf(message, sizeof(message), "the engine answered HTTP %u: %.180s", status,
                   buf_cstr(body));
    response_error(req, api_error_of_status(status), message, 0);
}

void response_show_refusal(struct request *req)
{
    struct refusal_kept *kept = &req->refusal;
    struct responder *r = req->client->responder;
    uint32_t most = lacks_most_context(req);
    char message[256];

    if (is_exceeded(req, most)) {
        (void)snprintf(message, sizeof(message),
                       "This model's maximum context length is %" PRIu32
                       " tokens. However, your request has at least %" PRIu64 " tokens.",
                       most, req->need.least_tokens);
        response_error(req, API_ERROR_CONTEXT_LENGTH, message, 0);
        return;
    }
    if (req->shown != SHOWN_NOTHING && !kept->event_stream) {
        refuse_in_stream(req, kept->status, &kept->body);
        return;
    }
    req->status = kept->status;
    if (req->shown != SHOWN_NOTHING) {
        responder_write(r, buf_head(&kept->body), buf_size(&kept->body));
        responder_end(r);
        return;
    }
    req->shown = SHOWN_CONTENT;
    add_headers(req);
    add_held_headers(r, &kept->headers);
    if (kept->status >= 500)
        responder_header(r, "x-should-retry", "false"); /* no node has it */
    responder_start(r, kept->status, kept->content_type, (int64_t)buf_size(&kept->body));
    responder_write(r, buf_head(&kept->body), buf_size(&kept->body));
    responder_end(r);
}

void response_refuse_late(struct request *req)
{
    refuse_in_stream(req, req->attempt->status, &req->attempt->held);
}
