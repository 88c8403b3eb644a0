/*
 * relay.c - what the node says, on its way to the client.
 *
 * Until content comes everything is held, so that a node that fails first leaves no trace.  A
 * single document (no event stream) is held until it is whole.  Afterwards a chunk goes to the
 * responder as it is: nothing is parsed, and nothing is allocated per token.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/loop.h"
#include "proto/rpc/grpc/client.h"
#include "shm/outcomes.h"
#include "shm/routing/budget.h"
#include "shm/routing/requests.h"
#include "shm/stats.h"
#include "worker/attempt.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/request.h"
#include "worker/http/responder.h"
#include "worker/http/server.h"

/* An answer without content yet (role events, or one JSON document) is held up to here. */
#define HOLD_BYTES (1024 * 1024)
/* With less than this on its way to the client, the node may send more. */
#define LOW_WATER_BYTES (64 * 1024)
/* ... but not for every token: so much is given back at once. */
#define RELEASE_BYTES (16 * 1024)
/* Of the headers that pass from an engine to the client. */
#define MAX_HEADERS           16
#define MAX_HEADER_BYTES      1024
#define MAX_HEADER_NAME_BYTES 64
/* A longer text is not kept for going on elsewhere. */
#define TEXT_BYTES (1024 * 1024)
/* After its answer is whole a node has so long to end the stream. */
#define END_US (2 * US_PER_S)
/* A waiting stream that has begun is told its place this often. */
#define COMMENT_US (5 * US_PER_S)

void relay_release_if_low(struct leg *leg)
{
    const struct exchange *x = leg->x;

    if (leg->attempt == NULL || x->request == NULL ||
        attempt_unreleased(leg->attempt) < RELEASE_BYTES)
        return;
    if (x->head_shown && responder_pending(x->request->responder) >= LOW_WATER_BYTES)
        return;
    attempt_release(leg->attempt);
}

/* ---- the head -------------------------------------------------------------------------- */

void relay_add_headers(struct exchange *x)
{
    struct responder *r = x->request->responder;
    const char *session = choose_session_text(x);
    char number[32];

    if (x->leg->node_name[0] != '\0')
        responder_header(r, "x-drover-node", x->leg->node_name);
    (void)snprintf(number, sizeof(number), "%llu",
                   (unsigned long long)(x->waited_us / US_PER_MS));
    responder_header(r, "x-drover-queue-ms", number);
    (void)snprintf(number, sizeof(number), "%u", x->attempts);
    responder_header(r, "x-drover-attempts", number);
    responder_header(r, "x-drover-policy",
                     policy_name(config_policy_for(x->core->config, x->model)));
    if (session != NULL)
        responder_header(r, "x-drover-session", session);
    if (x->request->aliased)
        responder_header(r, "x-drover-model", x->model);
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

/* Bytes of the answer go to the client as they are.  Honest nodes send whole events. */
static void pass(struct exchange *x, const uint8_t *bytes, size_t n)
{
    if (n == 0)
        return;
    x->torn = bytes[n - 1] != '\n' || (speaks_events(x->request->operation) && n > 1 &&
                                       bytes[n - 2] != '\n' && bytes[n - 2] != '\r');
    if (x->torn)
        x->resumable = false; /* the events of another node would go on inside this one */
    responder_write(x->request->responder, bytes, n);
}

/* Shows the client the head and what was held.  `whole`: nothing follows. */
static void show(struct exchange *x, bool whole)
{
    struct responder *r = x->request->responder;
    struct leg *leg = x->leg;
    const char *p = (const char *)buf_head(&leg->headers);
    size_t left = buf_size(&leg->headers);

    x->status = leg->status;
    if (!x->head_shown) {
        relay_add_headers(x);
        while (left != 0) {
            const char *value = p + strlen(p) + 1;
            size_t n = (size_t)(value - p) + strlen(value) + 1;

            responder_header(r, p, value);
            p += n;
            left -= n;
        }
        responder_start(r, x->status, leg->content_type,
                        whole && !leg->event_stream ? (int64_t)buf_size(&leg->held) : -1);
        x->head_shown = true;
    }
    x->content_shown = true;
    if (buf_size(&leg->held) != 0)
        pass(x, buf_head(&leg->held), buf_size(&leg->held));
    buf_finish(&leg->held);
    buf_finish(&leg->headers);
}

/*
 * From here on the status is 200, and what goes wrong can only be said in the stream.  So this
 * is done late (comment_after_ms), for a request that was checked as far as it can be here, and
 * only where comments exist.
 */
void relay_show_waiting(struct exchange *x)
{
    uint64_t after_us =
        config_queue_for(x->core->config, x->model)->comment_after_ms * US_PER_MS;
    uint64_t now = loop_now_us(x->core->loop);
    uint64_t waited = now - x->wait_mono_us + x->waited_us;
    unsigned position;
    char comment[96];
    int n;

    if (after_us == 0 || waited < after_us || !x->request->stream ||
        !speaks_events(x->request->operation) ||
        (x->head_shown && now - x->comment_mono_us < COMMENT_US))
        return;
    if (!x->head_shown) {
        relay_add_headers(x);
        responder_start(x->request->responder, 200, "text/event-stream", -1);
        x->head_shown = true;
    }
    x->comment_mono_us = now;
    position = waiting_position(x) + 1;
    n = snprintf(comment, sizeof(comment), ": drover queued pos=%u eta=%us\n\n", position,
                 waiting_eta_s(x));
    if (n > 0)
        responder_write(x->request->responder, comment, (size_t)n);
}

/* ---- what a node may say in the head --------------------------------------------------- */

static bool is_printable(const char *text, size_t max_bytes)
{
    size_t n = 0;

    for (; text[n] != '\0'; n++)
        if (text[n] < 0x20 || text[n] > 0x7e)
            return false;
    return n <= max_bytes;
}

/* drover-node lets no others through.  But a node may be anybody's, and a header could end the
 * head, frame the body anew, or speak in our name. */
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

/* ---- what the node says ---------------------------------------------------------------- */

static void on_accepted(void *data, const Drover__V1__Accepted *accepted)
{
    struct leg *leg = data;
    struct exchange *x = leg->x;
    uint64_t now = loop_now_us(x->core->loop);

    bool moved_up = accepted->queue_position < leg->queue_position;

    /* Saying it again must not hold the client for ever. */
    if (!moved_up &&
        (accepted->queue_position > leg->queue_position || accepted->work <= leg->node_work))
        return;
    leg->queue_position = accepted->queue_position;
    leg->node_work = accepted->work;
    leg->progress_mono_us = now;
    if (moved_up && accepted->queue_position == 0)
        requests_phase(x->core->board, x->core->slot, leg->row, REQUEST_PREFILL, now);
}

static void on_head(void *data, const Drover__V1__ResponseHead *head)
{
    struct leg *leg = data;
    struct exchange *x = leg->x;
    unsigned passed = 0;

    leg->progress_mono_us = loop_now_us(x->core->loop);
    if (head->http_status == 429 || head->http_status >= 500) {
        char message[64];

        (void)snprintf(message, sizeof(message), "the engine answered HTTP %u",
                       head->http_status);
        if (head->http_status == 429)
            recover_abandon(leg, API_ERROR_QUEUE_FULL, STATS_FULL, message);
        else
            recover_abandon(leg, API_ERROR_NODE_FAILED, STATS_NODE_ERROR, message);
        return;
    }
    leg->status = head->http_status;
    if (x->content_shown && (leg->status != 200 || !head->event_stream)) {
        leg->excused = true; /* what it was given came from another node */
        recover_abandon(leg, API_ERROR_NODE_FAILED, STATS_NODE_ERROR,
                        "the next node would not go on with the answer");
        return;
    }
    /* Who asked for one document gets it whole or from another node, whatever this one says. */
    leg->event_stream = head->event_stream && x->request != NULL && x->request->stream;
    (void)snprintf(leg->content_type, sizeof(leg->content_type), "%s",
                   head->content_type[0] != '\0' &&
                           is_printable(head->content_type, sizeof(leg->content_type) - 1)
                       ? head->content_type
                       : "application/json");
    for (size_t i = 0; i < head->n_headers && passed < MAX_HEADERS && !x->head_shown; i++) {
        if (!may_pass(head->headers[i]))
            continue;
        passed++;
        buf_add(&leg->headers, head->headers[i]->name, strlen(head->headers[i]->name) + 1);
        buf_add(&leg->headers, head->headers[i]->value, strlen(head->headers[i]->value) + 1);
    }
    if (leg->headers.failed)
        buf_finish(&leg->headers);
}

static void note_content(struct leg *leg)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    x->content_mono_us = now;
    if (x->ttft_us == 0)
        x->ttft_us = now - x->started_mono_us;
    choose_note_content(leg);
    requests_phase(core->board, core->slot, leg->row, REQUEST_DECODE, now);
}

static void forget_ids(struct exchange *x)
{
    x->ids_lost = true;
    buf_finish(&x->ids);
}

/* Keeps the token ids of the text so far, for as long as all are known and of one vocabulary.
 * A token has at least one byte of text, so there are never more ids than bytes. */
static void keep_ids(struct exchange *x, const Drover__V1__Chunk *chunk)
{
    size_t known = buf_size(&x->ids) / sizeof(uint32_t);

    if (x->ids_lost || chunk->text[0] == '\0')
        return;
    if (x->vocabulary == 0)
        x->vocabulary = chunk->vocabulary;
    if (chunk->n_token_ids == 0 || chunk->vocabulary != x->vocabulary ||
        chunk->n_token_ids > buf_size(&x->text) - known) {
        forget_ids(x);
        return;
    }
    buf_add(&x->ids, chunk->token_ids, chunk->n_token_ids * sizeof(uint32_t));
    if (x->ids.failed)
        forget_ids(x);
}

/* No other node can go on with this answer. */
static void forget_text(struct exchange *x)
{
    x->resumable = false;
    buf_finish(&x->text);
    forget_ids(x);
}

/* The id with which another node would go on.  False: it cannot be kept. */
static bool keep_response_id(struct exchange *x, const Drover__V1__Chunk *chunk)
{
    size_t n;

    if (x->response_id[0] != '\0' || chunk->response_id[0] == '\0')
        return true;
    n = strnlen(chunk->response_id, sizeof(x->response_id));
    if (n == sizeof(x->response_id))
        return false;
    memcpy(x->response_id, chunk->response_id, n + 1);
    x->created = chunk->created;
    return true;
}

/* Keeps the text so far, for as long as it is all there is.  A document is never gone on with:
 * it is shown when it is whole. */
static void keep_text(struct leg *leg, const Drover__V1__Chunk *chunk)
{
    struct exchange *x = leg->x;
    size_t n;

    if (!chunk->content)
        return;
    n = strnlen(chunk->text, TEXT_BYTES + 1);
    if (!leg->event_stream || !chunk->resumable || (x->content_shown && !x->resumable) ||
        n > TEXT_BYTES - buf_size(&x->text) || !keep_response_id(x, chunk)) {
        forget_text(x);
        return;
    }
    buf_add(&x->text, chunk->text, n);
    keep_ids(x, chunk);
    x->resumable = !x->text.failed;
}

static uint32_t add_tokens(uint32_t sum, uint32_t more)
{
    return more > UINT32_MAX - sum ? UINT32_MAX : sum + more;
}

static void on_chunk(void *data, const Drover__V1__Chunk *chunk)
{
    struct leg *leg = data;
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;

    if (chunk->content) {
        hedge_adopt(leg);
        leg->progress_mono_us = loop_now_us(core->loop);
        outcomes_progress(core->board, leg->node, leg->generation, leg->progress_mono_us);
        if (x->content_mono_us == 0)
            note_content(leg);
    }
    if (chunk->tokens != 0) {
        x->output_tokens = add_tokens(x->output_tokens, chunk->tokens);
        requests_tokens(core->board, core->slot, leg->row, x->output_tokens);
    }
    if (x->request == NULL)
        return;
    if (chunk->next_sequence != 0)
        x->next_sequence = chunk->next_sequence;
    keep_text(leg, chunk);
    if (x->content_shown) {
        pass(x, chunk->data.data, chunk->data.len);
        if (!recover_may_resume(x))
            http_drop_body(x->request);
        relay_release_if_low(leg);
        return;
    }
    buf_add(&leg->held, chunk->data.data, chunk->data.len);
    if (leg->held.failed) {
        recover_abandon(leg, API_ERROR_INTERNAL, STATS_CLIENT_GONE, "out of memory");
        return;
    }
    if (buf_size(&leg->held) > HOLD_BYTES && x->head_shown && !leg->event_stream) {
        recover_abandon(leg, API_ERROR_NODE_FAILED, STATS_NODE_ERROR,
                        "the node refuses at too great length");
        return;
    }
    if ((leg->event_stream && chunk->content) || buf_size(&leg->held) > HOLD_BYTES) {
        hedge_adopt(leg);
        show(x, false);
    }
    relay_release_if_low(leg);
}

/* The engine refused a request whose stream we had to begin early: its own words, as an error
 * event. */
static void refuse_late(struct exchange *x)
{
    struct leg *leg = x->leg;
    char message[256];

    (void)snprintf(message, sizeof(message), "the engine answered HTTP %u: %.180s", leg->status,
                   buf_cstr(&leg->held));
    exchange_answer_error(x, API_ERROR_BAD_REQUEST, message, 0);
}

/* ---- how it ends ----------------------------------------------------------------------- */

static void answered(struct leg *leg)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);
    /* The node has the last word on the sum, which may be less than what others had counted. */
    uint32_t here =
        x->output_tokens > x->resumed_tokens ? x->output_tokens - x->resumed_tokens : 0;

    budget_success(core->board, x->model_hash, now);
    hedge_earn(x);
    if (leg->status >= 400) {
        choose_release(leg, STATS_CLIENT_ERROR);
        return;
    }
    stats_note(core->board, leg->node, leg->generation, STATS_E2E, now - leg->dispatch_mono_us);
    if (here > 1)
        stats_note(core->board, leg->node, leg->generation, STATS_TPOT,
                   (now - x->content_mono_us) / (here - 1));
    stats_count(core->board, leg->node, leg->generation, STATS_PROMPT_TOKENS, x->prompt_tokens);
    stats_count(core->board, leg->node, leg->generation, STATS_CACHED_TOKENS, x->cached_tokens);
    stats_count(core->board, leg->node, leg->generation, STATS_OUTPUT_TOKENS, here);
    choose_release(leg, STATS_OK);
}

/* The answer was whole, but the stream does not end: the place is needed. */
static void on_end_overdue(struct timer *timer)
{
    struct exchange *x = CONTAINER_OF(timer, struct exchange, timer);

    if (x->leg->attempt == NULL)
        return;
    attempt_cancel(x->leg->attempt);
    x->leg->attempt = NULL;
    answered(x->leg);
    exchange_release_if_over(x);
}

static void on_finish(void *data, const Drover__V1__Finish *finish)
{
    struct leg *leg = data;
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;

    hedge_adopt(leg);
    x->finished = true;
    if (finish->usage != NULL) {
        x->prompt_tokens = finish->usage->prompt_tokens;
        x->cached_tokens = finish->usage->cached_prompt_tokens;
        if (finish->usage->output_tokens != 0)
            x->output_tokens = finish->usage->output_tokens;
    }
    if (x->content_mono_us == 0)
        note_content(leg);
    x->outcome = leg->status >= 400 ? "client_error" : "ok";
    x->phase = EXCHANGE_ANSWERED;
    requests_phase(core->board, core->slot, leg->row, REQUEST_FLUSH, loop_now_us(core->loop));
    if (x->request != NULL && x->head_shown && !x->content_shown && !leg->event_stream) {
        refuse_late(x);
    } else if (x->request != NULL) {
        if (!x->content_shown)
            show(x, true);
        responder_end(x->request->responder);
    }
    timer_start(core->loop, &x->timer, END_US, on_end_overdue);
}

/* What gRPC libraries take unless they are told otherwise; they answer a larger message as they
 * answer when they are full. */
#define USUAL_MESSAGE_BYTES (UINT64_C(4) * 1024 * 1024)

/*
 * RESOURCE_EXHAUSTED: the node is full, and then it says when to come back.  Without that word
 * it may as well be the size of the message, which does not change by waiting.
 */
static enum api_error classify_full(struct exchange *x, const struct call_result *result,
                                    bool again)
{
    if (result->pushback_ms >= 0)
        return API_ERROR_QUEUE_FULL;
    x->full_unhinted = !again;
    if (x->envelope_bytes > USUAL_MESSAGE_BYTES)
        return API_ERROR_TOO_LARGE;
    return again ? API_ERROR_NODE_FAILED : API_ERROR_QUEUE_FULL;
}

/* What a status stands for if no other node helps, and how it counts for this one. */
static enum api_error classify(struct exchange *x, const struct call_result *result,
                               enum stats_counter *counter)
{
    bool again = x->full_unhinted;

    x->full_unhinted = false;
    if (result->end == CALL_END_LOCAL) {
        *counter = STATS_CLIENT_GONE; /* our trouble, not the node's */
        return API_ERROR_OVERLOADED;
    }
    *counter = STATS_NODE_ERROR;
    switch (result->status) {
    case GRPC_INVALID_ARGUMENT:
    case GRPC_OUT_OF_RANGE:
        *counter = STATS_CLIENT_ERROR;
        return API_ERROR_BAD_REQUEST;
    case GRPC_RESOURCE_EXHAUSTED:
        if (result->end == CALL_END_PROTOCOL)
            break; /* a message over our limit, not a full node */
        *counter = STATS_FULL;
        return classify_full(x, result, again);
    case GRPC_DEADLINE_EXCEEDED:
        *counter = STATS_TIMEOUT;
        return API_ERROR_NODE_TIMEOUT;
    case GRPC_NOT_FOUND:
        return API_ERROR_MODEL_NOT_FOUND;
    case GRPC_UNIMPLEMENTED:
        return API_ERROR_NOT_SUPPORTED;
    case GRPC_OK:
    case GRPC_CANCELLED:
    case GRPC_UNKNOWN:
    case GRPC_ALREADY_EXISTS:
    case GRPC_PERMISSION_DENIED:
    case GRPC_FAILED_PRECONDITION:
    case GRPC_ABORTED:
    case GRPC_INTERNAL:
    case GRPC_UNAVAILABLE:
    case GRPC_DATA_LOSS:
    case GRPC_UNAUTHENTICATED:
        break;
    }
    if (result->end == CALL_END_CONNECT)
        *counter = STATS_CONNECT_FAILED;
    return API_ERROR_NODE_FAILED;
}

/*
 * Does this end say nothing of how well the node does?  What a client can bring about by asking
 * for something else than the node has, must not cost the node its traffic.  And a node that
 * breaks its connections fails once, however many requests and workers were on them.
 */
static bool is_excused(const struct leg *leg, const struct call_result *result)
{
    if (result->status == GRPC_NOT_FOUND || result->status == GRPC_UNIMPLEMENTED ||
        result->status == GRPC_FAILED_PRECONDITION)
        return true;
    if (result->end != CALL_END_LOST && result->end != CALL_END_REFUSED &&
        result->end != CALL_END_CONNECT)
        return false;
    return !outcomes_note_loss(leg->x->core->board, leg->node, leg->generation,
                               loop_now_us(leg->x->core->loop));
}

/* The node has no room at all: it says when to come back, which a refusal of this one message
 * does not.  A place that we give back there makes some. */
static void pause_node(const struct leg *leg)
{
    const struct exchange_core *core = leg->x->core;
    struct fleet_node *node = fleet_at(core->fleet, leg->node, leg->generation);

    if (node != NULL)
        node->full_mono_us = loop_now_us(core->loop) + EXCHANGE_FULL_PAUSE_US;
}

static void on_end(void *data, const struct call_result *result)
{
    struct leg *leg = data;
    struct exchange *x = leg->x;
    enum stats_counter counter;
    enum api_error error;

    leg->attempt = NULL;
    if (x->finished) {
        /* The answer was whole; how the stream was closed after it changes nothing. */
        answered(leg);
        exchange_release_if_over(x);
        return;
    }
    error = classify(x, result, &counter);
    leg->excused = is_excused(leg, result);
    if (counter == STATS_FULL && result->pushback_ms >= 0)
        pause_node(leg);
    recover_failed(leg, error, counter,
                   result->message[0] == '\0' ? grpc_status_name(result->status)
                                              : result->message);
}

const struct attempt_events relay_events = {
    .on_accepted = on_accepted,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_finish = on_finish,
    .on_end = on_end,
};
