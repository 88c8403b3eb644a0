/*
 * exchange.c - an inference request from the moment it is valid to its last byte.
 *
 * Two things can outlive each other here and are let go of separately: the client's side
 * (`request`, NULL once the responder is done or gone) and the node's (`attempt`, NULL once it
 * has ended).  An exchange is freed when both are NULL, in release_if_over(), which every path
 * calls last.
 *
 * The access-log line is written when the client's side ends, because that is when its memory
 * goes.
 */
#include "worker/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config.h"
#include "base/error.h"
#include "base/log.h"
#include "shm/gauges.h"
#include "shm/procs.h"
#include "shm/requests.h"
#include "shm/scoreboard.h"
#include "shm/stats.h"
#include "worker/attempt.h"
#include "worker/choose.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/access_log.h"
#include "worker/http/request.h"
#include "worker/http/responder.h"
#include "worker/http/server.h"

/* How long a request waits when no node of its model is up: a node that restarts, or one that
 * has just joined, should not cost anybody an error. */
#define NO_NODE_GRACE_US (2 * US_PER_S)
/* A node that said it is full is not asked again for this long. */
#define FULL_PAUSE_US (50 * US_PER_MS)
/* The node judges silence itself and knows better; this is for a node that is frozen. */
#define SILENCE_SLACK_US (2 * US_PER_S)
/* An answer without content yet (role events, or one JSON document) is held up to here. */
#define HOLD_BYTES (1024 * 1024)
/* With less than this on its way to the client, the node may send more. */
#define LOW_WATER_BYTES (64 * 1024)

static void start_or_wait(struct exchange *x);

/* ---- ends ----------------------------------------------------------------------------------
 */

static void release_if_over(struct exchange *x)
{
    struct exchange_core *core = x->core;

    if (x->request != NULL || x->attempt != NULL)
        return;
    timer_stop(core->loop, &x->timer);
    if (x->prev != NULL)
        x->prev->next = x->next;
    else
        core->first = x->next;
    if (x->next != NULL)
        x->next->prev = x->prev;
    else
        core->last = x->prev;
    core->open_count--;
    requests_close(core->board, core->slot, x->row);
    buf_finish(&x->headers);
    buf_finish(&x->held);
    free(x);
}

static void log_access(struct exchange *x, bool gone)
{
    const struct infer_request *request = x->request;
    uint64_t now = loop_now_us(x->core->loop);
    const struct access_record record = {
        .id = request->id,
        .client = request->client,
        .method = "POST",
        .path = request->path,
        .model = request->client_model,
        .node = x->node_name[0] == '\0' ? NULL : x->node_name,
        .policy = policy_name(config_policy_for(x->core->config, request->model)),
        .outcome = gone ? "client_gone" : x->outcome,
        .reason = x->told == API_ERROR_NONE ? NULL : api_error_reason(x->told),
        .status = gone ? 499 : x->status,
        .attempts = x->attempts,
        .stream = request->stream,
        .bytes_in = request->body_len,
        .bytes_out = responder_written(request->responder),
        .prompt_tokens = x->prompt_tokens,
        .cached_tokens = x->cached_tokens,
        .output_tokens = x->output_tokens,
        .queue_us = x->waited_us,
        .ttft_us = x->content_mono_us == 0 ? 0 : x->content_mono_us - x->started_mono_us,
        .total_us = now - x->started_mono_us,
    };

    access_log_write(x->core->access_log, &record);
}

/* Gives back the place on the node, and says how the attempt there went. */
static void release_claim(struct exchange *x, enum stats_counter outcome)
{
    struct exchange_core *core = x->core;

    if (!x->claimed)
        return;
    x->claimed = false;
    gauges_release(core->board, core->slot, x->node, x->generation, x->pending_tokens);
    x->pending_tokens = 0;
    stats_count(core->board, x->node, x->generation, outcome, 1);
    stats_average(core->board, x->node, x->generation, STATS_AVG_HOLD_S,
                  (double)(loop_now_us(core->loop) - x->dispatch_mono_us) / (double)US_PER_S,
                  0.1);
    waiting_released(core);
}

static void on_gone(void *data)
{
    struct exchange *x = data;

    if (x->phase == EXCHANGE_WAITING)
        waiting_remove(x);
    x->phase = EXCHANGE_ANSWERED;
    log_access(x, true);
    x->request = NULL;
    if (x->attempt != NULL && !x->finished) {
        attempt_cancel(x->attempt);
        x->attempt = NULL;
        release_claim(x, STATS_CLIENT_GONE);
    }
    release_if_over(x);
}

static void on_done(void *data)
{
    struct exchange *x = data;

    log_access(x, false);
    x->request = NULL;
    release_if_over(x);
}

/* Tells the client that it went wrong: a whole error answer, or the end of the one that has
 * begun. */
static void answer_error(struct exchange *x, enum api_error error, const char *message,
                         unsigned retry_after_s)
{
    struct infer_request *request = x->request;
    struct buf event = BUF_INIT;

    x->phase = EXCHANGE_ANSWERED;
    x->told = error;
    timer_stop(x->core->loop, &x->timer);
    requests_phase(x->core->board, x->core->slot, x->row, REQUEST_FLUSH,
                   loop_now_us(x->core->loop));
    if (!x->committed) {
        x->status = api_error_status(error, request->surface);
        http_reply_error(request, error, message, retry_after_s);
        return;
    }
    if (!x->event_stream) {
        responder_abort(request->responder);
        return;
    }
    surface_error_event(&event, request->surface, request->operation, error, message,
                        request->id);
    responder_write(request->responder, buf_head(&event), buf_size(&event));
    responder_end(request->responder);
    buf_finish(&event);
}

static void reject(struct exchange *x, enum api_error error, const char *message,
                   unsigned retry_after_s)
{
    x->outcome = "rejected";
    procs_count(x->core->board, x->core->slot, PROC_REQUESTS_REJECTED, 1);
    answer_error(x, error, message, retry_after_s);
}

/* ---- relaying ------------------------------------------------------------------------------
 */

/* Opens the node's window again once little is left on its way to the client. */
static void release_if_low(struct exchange *x)
{
    if (x->attempt == NULL || x->request == NULL)
        return;
    if (x->committed && responder_pending(x->request->responder) >= LOW_WATER_BYTES)
        return;
    attempt_release(x->attempt);
}

static void on_drain(void *data, size_t n)
{
    (void)n;
    release_if_low(data);
}

static const struct responder_events client_events = {
    .on_drain = on_drain,
    .on_gone = on_gone,
    .on_done = on_done,
};

static void drover_headers(struct exchange *x)
{
    struct responder *r = x->request->responder;
    char number[32];

    if (x->node_name[0] != '\0')
        responder_header(r, "x-drover-node", x->node_name);
    (void)snprintf(number, sizeof(number), "%llu",
                   (unsigned long long)(x->waited_us / US_PER_MS));
    responder_header(r, "x-drover-queue-ms", number);
    (void)snprintf(number, sizeof(number), "%u", x->attempts);
    responder_header(r, "x-drover-attempts", number);
    responder_header(r, "x-drover-policy",
                     policy_name(config_policy_for(x->core->config, x->request->model)));
    if (x->request->aliased)
        responder_header(r, "x-drover-model", x->request->model);
}

/* Shows the client the head and what was held.  `whole`: nothing follows. */
static void commit(struct exchange *x, bool whole)
{
    struct responder *r = x->request->responder;
    const char *p = (const char *)buf_head(&x->headers);
    size_t left = buf_size(&x->headers);

    x->committed = true;
    drover_headers(x);
    while (left != 0) {
        const char *value = p + strlen(p) + 1;
        size_t n = (size_t)(value - p) + strlen(value) + 1;

        responder_header(r, p, value);
        p += n;
        left -= n;
    }
    if (x->event_stream) {
        responder_header(r, "cache-control", "no-cache");
        responder_header(r, "x-accel-buffering", "no");
    }
    responder_start(r, x->status, x->content_type,
                    whole && !x->event_stream ? (int64_t)buf_size(&x->held) : -1);
    responder_write(r, buf_head(&x->held), buf_size(&x->held));
    buf_finish(&x->held);
    buf_finish(&x->headers);
}

static void note_first_content(struct exchange *x)
{
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    x->content_mono_us = now;
    gauges_prefill_done(core->board, core->slot, x->node, x->generation, x->pending_tokens);
    x->pending_tokens = 0;
    stats_note(core->board, x->node, x->generation, STATS_TTFT, now - x->dispatch_mono_us);
    requests_phase(core->board, core->slot, x->row, REQUEST_DECODE, now);
}

static void on_accepted(void *data, uint32_t queue_position)
{
    struct exchange *x = data;
    uint64_t now = loop_now_us(x->core->loop);

    x->progress_mono_us = now;
    if (queue_position == 0)
        requests_phase(x->core->board, x->core->slot, x->row, REQUEST_PREFILL, now);
}

/* ---- failures ------------------------------------------------------------------------------
 */

static void exclude(struct exchange *x, uint64_t until_mono_us)
{
    struct exchange_excluded *e = NULL;
    uint64_t now = loop_now_us(x->core->loop);

    for (uint32_t i = 0; i < x->excluded_count && e == NULL; i++) {
        if (x->excluded[i].until_mono_us <= now)
            e = &x->excluded[i]; /* a pause that is over makes room */
    }
    if (e == NULL && x->excluded_count < EXCHANGE_MAX_EXCLUDED)
        e = &x->excluded[x->excluded_count++];
    if (e == NULL)
        e = &x->excluded[0];
    e->node = x->node;
    e->generation = x->generation;
    e->until_mono_us = until_mono_us;
}

/* The node failed, and the answer has not begun: try another, or give up. */
static void retry_or_fail(struct exchange *x)
{
    bool full = x->last_error == API_ERROR_QUEUE_FULL;

    exclude(x, full ? loop_now_us(x->core->loop) + FULL_PAUSE_US : UINT64_MAX);
    x->status = 0;
    buf_reset(&x->held);
    buf_reset(&x->headers);
    if (full)
        x->attempts--; /* it cost nothing there: a full node is no attempt */
    if (!full && x->attempts >= x->core->config->limits.max_attempts) {
        answer_error(x, x->last_error, x->last_message, 0);
        return;
    }
    if (!full)
        stats_count(x->core->board, x->node, x->generation, STATS_RETRIED, 1);
    start_or_wait(x);
}

/* What one attempt's failure means.  The claim has been released. */
static void attempt_failed(struct exchange *x, enum api_error error, const char *message)
{
    x->last_error = error;
    (void)snprintf(x->last_message, sizeof(x->last_message), "%s", message);
    x->outcome = error == API_ERROR_NODE_TIMEOUT ? "timeout" : "node_error";
    if (x->request == NULL) {
        release_if_over(x);
        return;
    }
    log_debug("event=attempt_failed id=%s node=%s attempt=%u reason=%s message=%s",
              x->request->id, x->node_name, x->attempts - 1, api_error_reason(error),
              log_quote(message));
    if (x->committed)
        answer_error(x, error, message, 0);
    else
        retry_or_fail(x);
}

/* Which error a status stands for, if no other node helps; and how it counts for the node. */
static enum api_error classify(const struct call_result *result, enum stats_counter *counter)
{
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
        return API_ERROR_QUEUE_FULL;
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

static void attempt_over(struct exchange *x)
{
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);
    uint64_t took_us = now - x->dispatch_mono_us;

    if (x->status >= 400) {
        release_claim(x, STATS_CLIENT_ERROR);
    } else {
        stats_note(core->board, x->node, x->generation, STATS_E2E, took_us);
        if (x->content_mono_us != 0 && x->output_tokens > 1)
            stats_note(core->board, x->node, x->generation, STATS_TPOT,
                       (now - x->content_mono_us) / (x->output_tokens - 1));
        stats_count(core->board, x->node, x->generation, STATS_PROMPT_TOKENS, x->prompt_tokens);
        stats_count(core->board, x->node, x->generation, STATS_CACHED_TOKENS, x->cached_tokens);
        stats_count(core->board, x->node, x->generation, STATS_OUTPUT_TOKENS, x->output_tokens);
        release_claim(x, STATS_OK);
    }
}

static void on_end(void *data, const struct call_result *result)
{
    struct exchange *x = data;
    enum stats_counter counter;
    enum api_error error;

    x->attempt = NULL;
    if (x->finished) {
        /* The answer was whole; how the stream was closed after it changes nothing. */
        attempt_over(x);
        release_if_over(x);
        return;
    }
    error = classify(result, &counter);
    release_claim(x, counter);
    if (error == API_ERROR_BAD_REQUEST && x->request != NULL && !x->committed) {
        x->outcome = "client_error";
        answer_error(x, error, result->message, 0);
        return;
    }
    attempt_failed(x, error,
                   result->message[0] == '\0' ? grpc_status_name(result->status)
                                              : result->message);
}

/* Ends the attempt from our side, as a failure of the node. */
static void abandon_attempt(struct exchange *x, enum api_error error,
                            enum stats_counter counter, const char *message)
{
    attempt_cancel(x->attempt);
    x->attempt = NULL;
    release_claim(x, counter);
    attempt_failed(x, error, message);
}

static void on_head(void *data, const Drover__V1__ResponseHead *head)
{
    struct exchange *x = data;

    x->progress_mono_us = loop_now_us(x->core->loop);
    if (head->http_status == 429 || head->http_status >= 500) {
        char message[64];

        (void)snprintf(message, sizeof(message), "the engine answered HTTP %u",
                       head->http_status);
        if (head->http_status == 429)
            abandon_attempt(x, API_ERROR_QUEUE_FULL, STATS_FULL, message);
        else
            abandon_attempt(x, API_ERROR_NODE_FAILED, STATS_NODE_ERROR, message);
        return;
    }
    x->status = head->http_status;
    x->event_stream = head->event_stream;
    (void)snprintf(x->content_type, sizeof(x->content_type), "%s",
                   head->content_type[0] == '\0' ? "application/json" : head->content_type);
    for (size_t i = 0; i < head->n_headers; i++) {
        buf_add(&x->headers, head->headers[i]->name, strlen(head->headers[i]->name) + 1);
        buf_add(&x->headers, head->headers[i]->value, strlen(head->headers[i]->value) + 1);
    }
    if (x->headers.failed)
        buf_finish(&x->headers);
}

static void on_chunk(void *data, const Drover__V1__Chunk *chunk)
{
    struct exchange *x = data;
    struct exchange_core *core = x->core;

    if (chunk->content || chunk->tokens != 0) {
        x->progress_mono_us = loop_now_us(core->loop);
        x->output_tokens += chunk->tokens;
        if (x->content_mono_us == 0)
            note_first_content(x);
        requests_tokens(core->board, core->slot, x->row, x->output_tokens);
    }
    if (x->request == NULL)
        return;
    if (x->committed) {
        responder_write(x->request->responder, chunk->data.data, chunk->data.len);
        release_if_low(x);
        return;
    }
    buf_add(&x->held, chunk->data.data, chunk->data.len);
    if (x->held.failed) {
        abandon_attempt(x, API_ERROR_INTERNAL, STATS_OK, "out of memory");
        return;
    }
    /* Content in a stream commits.  A single document is held until it is whole, so that it too
     * can be had from another node; a very large one is not. */
    if ((x->event_stream && chunk->content) || buf_size(&x->held) > HOLD_BYTES)
        commit(x, false);
    release_if_low(x);
}

static void on_finish(void *data, const Drover__V1__Finish *finish)
{
    struct exchange *x = data;
    struct exchange_core *core = x->core;

    x->finished = true;
    if (finish->usage != NULL) {
        x->prompt_tokens = finish->usage->prompt_tokens;
        x->cached_tokens = finish->usage->cached_prompt_tokens;
        if (finish->usage->output_tokens != 0)
            x->output_tokens = finish->usage->output_tokens;
    }
    if (x->content_mono_us == 0)
        note_first_content(x);
    x->outcome = x->status >= 400 ? "client_error" : "ok";
    x->phase = EXCHANGE_ANSWERED;
    timer_stop(core->loop, &x->timer);
    requests_phase(core->board, core->slot, x->row, REQUEST_FLUSH, loop_now_us(core->loop));
    if (x->request == NULL)
        return;
    if (!x->committed)
        commit(x, true);
    responder_end(x->request->responder);
}

static const struct attempt_events node_events = {
    .on_accepted = on_accepted,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_finish = on_finish,
    .on_end = on_end,
};

/* ---- limits of time ------------------------------------------------------------------------
 */

static uint64_t deadline_mono_us(const struct exchange *x)
{
    return x->started_mono_us + x->core->config->limits.request_timeout_ms * US_PER_MS;
}

/* When the present wait is over.  Without any node up it ends early: nobody is working on it.
 */
static uint64_t wait_limit_mono_us(struct exchange *x)
{
    uint64_t limit = x->core->config->queue.max_wait_ms * US_PER_MS;

    if (!choose_any_up(x->core, x->request->model) && limit > NO_NODE_GRACE_US)
        limit = NO_NODE_GRACE_US;
    return x->wait_mono_us + (limit > x->waited_us ? limit - x->waited_us : 0);
}

static uint64_t silence_limit_mono_us(const struct exchange *x)
{
    const struct config_limits *limits = &x->core->config->limits;
    uint32_t ms = x->content_mono_us == 0 ? limits->first_token_ms : limits->idle_token_ms;

    return x->progress_mono_us + ms * US_PER_MS + SILENCE_SLACK_US;
}

static void on_timer(struct timer *timer);

/* Progress pushes limits back without touching the timer; it looks again when it fires. */
static void arm(struct exchange *x)
{
    uint64_t now = loop_now_us(x->core->loop);
    uint64_t due = deadline_mono_us(x);
    uint64_t phase_due = 0;

    switch (x->phase) {
    case EXCHANGE_WAITING:
        phase_due = wait_limit_mono_us(x);
        break;
    case EXCHANGE_RUNNING:
        phase_due = silence_limit_mono_us(x);
        break;
    case EXCHANGE_ANSWERED:
        return;
    }
    if (phase_due < due)
        due = phase_due;
    /* A wait's limit depends on the fleet, so look at least every half second. */
    if (x->phase == EXCHANGE_WAITING && due > now + US_PER_S / 2)
        due = now + US_PER_S / 2;
    timer_start(x->core->loop, &x->timer, due > now ? due - now : 0, on_timer);
}

static void wait_is_over(struct exchange *x)
{
    waiting_remove(x);
    if (choose_any_up(x->core, x->request->model))
        reject(x, API_ERROR_QUEUE_TIMEOUT, "waited too long for a free slot",
               waiting_retry_after_s(x->core));
    else if (x->last_error != API_ERROR_NONE && x->last_error != API_ERROR_QUEUE_FULL)
        answer_error(x, x->last_error, x->last_message, 0);
    else
        reject(x, API_ERROR_NO_NODE, "no node that serves this model is up at the moment", 5);
}

static void on_timer(struct timer *timer)
{
    struct exchange *x = CONTAINER_OF(timer, struct exchange, timer);
    uint64_t now = loop_now_us(x->core->loop);

    if (x->request == NULL)
        return;
    if (now >= deadline_mono_us(x)) {
        if (x->phase == EXCHANGE_WAITING)
            waiting_remove(x);
        if (x->attempt != NULL) {
            attempt_cancel(x->attempt);
            x->attempt = NULL;
            release_claim(x, STATS_TIMEOUT);
        }
        x->outcome = "timeout";
        answer_error(x, API_ERROR_DEADLINE, "the request took longer than request_timeout_ms",
                     0);
        return;
    }
    if (x->phase == EXCHANGE_WAITING && now >= wait_limit_mono_us(x)) {
        wait_is_over(x);
        return;
    }
    if (x->phase == EXCHANGE_RUNNING && now >= silence_limit_mono_us(x)) {
        abandon_attempt(x, API_ERROR_NODE_TIMEOUT, STATS_TIMEOUT,
                        x->content_mono_us == 0 ? "the node gave no first token in time"
                                                : "the node stopped giving tokens");
        return;
    }
    arm(x);
}

/* ---- attempts ------------------------------------------------------------------------------
 */

static void begin_attempt(struct exchange *x, struct fleet_node *node)
{
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);
    struct attempt_options options = {
        .number = x->attempts,
        .timeout_us = deadline_mono_us(x) - now,
        .config = core->config,
        .arena = &core->arena,
    };
    struct error err = {0};

    x->claimed = true;
    x->node = node->slot;
    x->generation = node->info.generation;
    x->pending_tokens = x->request->est_prompt_tokens;
    (void)strlcpy(x->node_name, node->info.name, sizeof(x->node_name));
    x->dispatch_mono_us = now;
    x->progress_mono_us = now;
    x->content_mono_us = 0;
    x->output_tokens = 0;
    x->attempts++;
    x->phase = EXCHANGE_RUNNING;
    requests_node(core->board, core->slot, x->row, node->slot, options.number);
    requests_phase(core->board, core->slot, x->row, REQUEST_SENT, now);
    stats_count(core->board, x->node, x->generation, STATS_DISPATCHED, 1);
    if (attempt_start(&x->attempt, node, x->request, &options, &node_events, x, &err) != 0) {
        release_claim(x, STATS_FULL); /* our trouble, not the node's */
        answer_error(x, API_ERROR_INTERNAL, err.text, 0);
        return;
    }
    arm(x);
}

enum exchange_try exchange_try_start(struct exchange *x)
{
    struct fleet_node *node = NULL;

    switch (choose_node(x, &node)) {
    case CHOOSE_CLAIMED:
        if (x->phase == EXCHANGE_WAITING)
            waiting_remove(x);
        begin_attempt(x, node);
        return EXCHANGE_TRY_STARTED;
    case CHOOSE_ALL_FAILED:
        /* Waiting will not help. */
        if (x->phase == EXCHANGE_WAITING)
            waiting_remove(x);
        answer_error(x, x->last_error, x->last_message, 0);
        return EXCHANGE_TRY_STARTED;
    case CHOOSE_FULL:
    case CHOOSE_NOBODY:
        break; /* the wait's own limits decide how long to hope */
    }
    return EXCHANGE_TRY_NO_ROOM;
}

static void start_or_wait(struct exchange *x)
{
    struct exchange_core *core = x->core;

    x->phase = EXCHANGE_RUNNING; /* not in line, as exchange_try_start() is told by this */
    if (!waiting_has_line(core, x) && exchange_try_start(x) == EXCHANGE_TRY_STARTED)
        return;
    if (!waiting_add(x)) {
        reject(x, API_ERROR_QUEUE_FULL, "too many requests are waiting for this model",
               waiting_retry_after_s(core));
        return;
    }
    requests_phase(core->board, core->slot, x->row, REQUEST_QUEUED, loop_now_us(core->loop));
    arm(x);
}

/* ---- beginning -----------------------------------------------------------------------------
 */

/* Refuses what no amount of waiting can serve.  True: answered. */
static bool refuse_at_once(struct exchange *x)
{
    struct fleet_model *model = fleet_find(x->core->fleet, x->request->model);
    char message[NODE_MODEL_BYTES + 64];

    if (model == NULL && fleet_size(x->core->fleet) == 0)
        return false; /* nodes may be about to join */
    if (model == NULL) {
        (void)snprintf(message, sizeof(message), "The model '%s' does not exist",
                       x->request->client_model);
        reject(x, API_ERROR_MODEL_NOT_FOUND, message, 0);
        return true;
    }
    if ((model->operations & (UINT32_C(1) << x->request->operation)) == 0) {
        (void)snprintf(message, sizeof(message), "No node serves this API for the model '%s'",
                       x->request->client_model);
        reject(x, API_ERROR_NOT_SUPPORTED, message, 0);
        return true;
    }
    return false;
}

void exchange_start(struct exchange_core *core, struct infer_request *request)
{
    struct exchange *x = calloc(1, sizeof(*x));

    if (x == NULL) {
        http_reply_error(request, API_ERROR_INTERNAL, "out of memory", 0);
        return;
    }
    x->core = core;
    x->request = request;
    x->started_mono_us = request->received_mono_us;
    x->outcome = "node_error";
    x->phase = EXCHANGE_RUNNING;
    for (const char *p = request->model; *p != '\0'; p++)
        x->model_hash = x->model_hash * 131 + (unsigned char)*p;
    x->prev = core->last;
    if (core->last != NULL)
        core->last->next = x;
    else
        core->first = x;
    core->last = x;
    core->open_count++;
    x->row = requests_open(core->board, core->slot, request->id, request->client_model,
                           request->est_prompt_tokens, loop_now_us(core->loop));
    responder_set_events(request->responder, &client_events, x);
    if (!refuse_at_once(x))
        start_or_wait(x);
}

void exchange_stop_all(struct exchange_core *core)
{
    struct exchange *x, *next;

    for (x = core->first; x != NULL; x = next) {
        next = x->next;
        if (x->phase == EXCHANGE_ANSWERED || x->request == NULL)
            continue;
        if (x->phase == EXCHANGE_WAITING)
            waiting_remove(x);
        if (x->attempt != NULL) {
            attempt_cancel(x->attempt);
            x->attempt = NULL;
            release_claim(x, STATS_CLIENT_GONE);
        }
        reject(x, API_ERROR_SHUTTING_DOWN, "the coordinator is shutting down", 1);
    }
}

size_t exchange_open(const struct exchange_core *core)
{
    return core->open_count;
}

void exchange_core_init(struct exchange_core *core)
{
    wire_arena_init(&core->arena);
    core->random = ((uint64_t)arc4random() << 32) | arc4random();
}

void exchange_core_finish(struct exchange_core *core)
{
    timer_stop(core->loop, &core->wake_timer);
    loop_undefer(core->loop, &core->wake);
    wire_arena_finish(&core->arena);
}
