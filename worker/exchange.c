/*
 * exchange.c - how an exchange begins and ends, and what its client does.
 *
 * Two things can outlive each other here and are let go of separately: the client's side
 * (`request`, NULL once the responder is done or gone) and the nodes' (`attempt` of each leg,
 * NULL once it has ended).  An exchange is freed when all are NULL, in
 * exchange_release_if_over(), which every path calls last.
 *
 * The access-log line is written when the client's side ends, because that is when its memory
 * goes.
 */
#include "worker/exchange.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/hash.h"
#include "shm/procs.h"
#include "shm/routing/requests.h"
#include "shm/scoreboard.h"
#include "shm/stats.h"
#include "shm/usage.h"
#include "worker/attempt.h"
#include "worker/exchange_private.h"
#include "worker/fleet.h"
#include "worker/http/access_log.h"
#include "worker/http/request.h"
#include "worker/http/responder.h"
#include "worker/http/server.h"
#include "worker/routing/choose.h"

/* ---- ends ------------------------------------------------------------------------------ */

void exchange_release_if_over(struct exchange *x)
{
    struct exchange_core *core = x->core;

    if (x->request != NULL || x->leg->attempt != NULL || x->hedge != NULL)
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
    requests_close(core->board, core->slot, x->leg->row);
    free(x->windows);
    for (size_t i = 0; i < ARRAY_LEN(x->legs); i++) {
        buf_finish(&x->legs[i].headers);
        buf_finish(&x->legs[i].held);
    }
    buf_finish(&x->text);
    buf_finish(&x->ids);
    free(x);
}

static void log_access(struct exchange *x, bool gone)
{
    const struct infer_request *request = x->request;
    const struct access_record record = {
        .id = request->id,
        .client = request->client,
        .key = request->key_name,
        .method = "POST",
        .path = request->path,
        .model = request->client_model,
        .node = x->leg->node_name[0] == '\0' ? NULL : x->leg->node_name,
        .policy = policy_name(config_policy_for(x->core->config, x->model)),
        .outcome = gone ? "client_gone" : x->outcome,
        .reason = x->told == API_ERROR_NONE ? NULL : api_error_reason(x->told),
        .status = gone ? 499 : x->status,
        .attempts = x->attempts,
        .hedge = !x->hedged     ? NULL
                 : x->hedge_won ? "won"
                                : "lost",
        .stream = request->stream,
        .bytes_in = responder_read(request->responder),
        .bytes_out = responder_written(request->responder),
        .prompt_tokens = x->prompt_tokens,
        .cached_tokens = x->cached_tokens,
        .output_tokens = x->output_tokens,
        .queue_us = x->waited_us,
        .ttft_us = x->ttft_us,
        .total_us = loop_now_us(x->core->loop) - x->started_mono_us,
    };

    access_log_write(x->core->access_log, &record);
    usage_add(x->core->board, request->usage_row, USAGE_PROMPT_TOKENS, x->prompt_tokens);
    usage_add(x->core->board, request->usage_row, USAGE_OUTPUT_TOKENS, x->output_tokens);
}

static void on_gone(void *data)
{
    struct exchange *x = data;

    waiting_remove(x);
    x->phase = EXCHANGE_ANSWERED;
    log_access(x, !x->cut);
    x->request = NULL;
    if (!x->finished)
        exchange_stop_legs(x, STATS_CLIENT_GONE);
    exchange_release_if_over(x);
}

static void on_done(void *data)
{
    struct exchange *x = data;

    log_access(x, false);
    x->request = NULL;
    exchange_release_if_over(x);
}

static void on_drain(void *data, size_t n)
{
    struct exchange *x = data;

    (void)n;
    relay_release_if_low(x->leg);
}

static const struct responder_events client_events = {
    .on_drain = on_drain,
    .on_gone = on_gone,
    .on_done = on_done,
};

void exchange_answer_error(struct exchange *x, enum api_error error, const char *message,
                           unsigned retry_after_s)
{
    struct infer_request *request = x->request;
    struct buf event = BUF_INIT;

    x->phase = EXCHANGE_ANSWERED;
    x->told = error;
    timer_stop(x->core->loop, &x->timer);
    requests_phase(x->core->board, x->core->slot, x->leg->row, REQUEST_FLUSH,
                   loop_now_us(x->core->loop));
    if (!x->head_shown) {
        x->status = api_error_status(error, request->surface);
        relay_add_headers(x);
        http_reply_error(request, error, message, retry_after_s);
        return;
    }
    x->status = 200; /* as the client saw it */
    if (!request->stream) {
        x->cut = true;
        responder_abort(request->responder);
        return;
    }
    /* What a node left unfinished must not swallow our own event. */
    if (x->torn)
        buf_str(&event, "\n\n");
    surface_error_event(&event, request->surface, request->operation, error, message,
                        request->id, x->next_sequence);
    responder_write(request->responder, buf_head(&event), buf_size(&event));
    responder_end(request->responder);
    buf_finish(&event);
}

void exchange_reject(struct exchange *x, enum api_error error, const char *message,
                     unsigned retry_after_s)
{
    x->outcome = "rejected";
    procs_count(x->core->board, x->core->slot, PROC_REQUESTS_REJECTED, 1);
    exchange_answer_error(x, error, message, retry_after_s);
}

/* ---- attempts -------------------------------------------------------------------------- */

void exchange_stop_legs(struct exchange *x, enum stats_counter outcome)
{
    for (size_t i = 0; i < ARRAY_LEN(x->legs); i++) {
        struct leg *leg = &x->legs[i];

        if (leg->attempt == NULL)
            continue;
        attempt_cancel(leg->attempt);
        leg->attempt = NULL;
        choose_release(leg, outcome);
        if (leg == x->hedge)
            (void)hedge_leave(leg);
    }
}

int exchange_begin_attempt(struct leg *leg, struct fleet_node *node)
{
    struct exchange *x = leg->x;
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);
    uint64_t limit_us = core->config->limits.request_timeout_ms * US_PER_MS;
    uint64_t spent_us = now > x->started_mono_us ? now - x->started_mono_us : 0;
    struct attempt_options options = {
        .number = x->attempts,
        .timeout_us = limit_us > spent_us ? limit_us - spent_us : 1,
        .prompt_tokens = x->prompt_estimate,
        .config = core->config,
        .arena = &core->arena,
    };
    struct error err = {0};
    int rc;

    if (x->content_shown) {
        options.resume_text = buf_cstr(&x->text);
        options.resume_tokens = x->resumed_tokens;
        if (!x->ids_lost && buf_size(&x->ids) != 0) {
            /* Only added to, so the head is where malloc() put it. */
            options.resume_ids = (const uint32_t *)(const void *)buf_head(&x->ids);
            options.resume_ids_count = buf_size(&x->ids) / sizeof(uint32_t);
            options.vocabulary = x->vocabulary;
        }
        options.response_id = x->response_id;
        options.created = x->created;
    }
    x->placed = true;
    leg->number = x->attempts++;
    leg->progress_mono_us = now;
    leg->queue_position = UINT32_MAX;
    requests_node(core->board, core->slot, leg->row, node->slot, leg->number);
    requests_phase(core->board, core->slot, leg->row, REQUEST_SENT, now);
    stats_count(core->board, leg->node, leg->generation, STATS_DISPATCHED, 1);
    rc = attempt_start(&leg->attempt, node, x->request, &options, &relay_events, leg, &err);
    if (rc != 0)
        choose_release(leg, STATS_CLIENT_GONE); /* our trouble, not the node's */
    return rc;
}

static void begin(struct exchange *x, struct fleet_node *node)
{
    if (!x->content_shown)
        x->output_tokens = 0;
    x->content_mono_us = 0;
    x->hope_mono_us = 0;
    x->lost_mono_us = 0;
    x->phase = EXCHANGE_RUNNING;
    if (exchange_begin_attempt(x->leg, node) != 0) {
        exchange_answer_error(x, API_ERROR_INTERNAL, "out of memory", 0);
        return;
    }
    hedge_plan(x);
    recover_arm(x);
}

enum exchange_try exchange_try_start(struct exchange *x, bool beyond_slots)
{
    struct fleet_node *node = NULL;

    x->leg->is_hedge = false;
    switch (choose_node(x->leg, beyond_slots, &node)) {
    case CHOOSE_CLAIMED:
        if (x->line == NULL)
            waiting_not_needed(x);
        waiting_remove(x);
        begin(x, node);
        return EXCHANGE_TRY_STARTED;
    case CHOOSE_ALL_FAILED:
        waiting_remove(x);
        if (!recover_hope(x))
            exchange_answer_error(x, x->last_error, x->last_message, 0);
        return EXCHANGE_TRY_STARTED;
    case CHOOSE_FULL:
    case CHOOSE_NOBODY:
        break; /* the wait's own limits decide how long to hope */
    }
    return EXCHANGE_TRY_NO_ROOM;
}

static void turn_away(struct exchange *x)
{
    exchange_reject(x, API_ERROR_QUEUE_FULL,
                    "too many requests are waiting for this model: come back later",
                    waiting_turn_away(x));
}

void exchange_place(struct exchange *x)
{
    struct exchange_core *core = x->core;

    /* Who was already being served does not go to the end of the line again. */
    if ((x->attempts != 0 || !waiting_has_line(x)) &&
        exchange_try_start(x, false) == EXCHANGE_TRY_STARTED)
        return;
    if (waiting_refuses(x)) {
        turn_away(x);
        return;
    }
    if (!waiting_add(x)) {
        exchange_reject(x, API_ERROR_OVERLOADED, "out of memory", 1);
        return;
    }
    requests_phase(core->board, core->slot, x->leg->row, REQUEST_QUEUED,
                   loop_now_us(core->loop));
    recover_arm(x);
}

/* ---- beginning ------------------------------------------------------------------------- */

/* Refuses what no amount of waiting can serve.  True: answered. */
static bool refuse_at_once(struct exchange *x)
{
    struct fleet_model *model = fleet_find(x->core->fleet, x->model);
    struct buf message = BUF_INIT;

    if (model == NULL && fleet_size(x->core->fleet) == 0)
        return false; /* nodes may be about to join */
    if (model == NULL) {
        buf_printf(&message, "The model '%s' does not exist", x->request->client_model);
        exchange_reject(x, API_ERROR_MODEL_NOT_FOUND, buf_cstr(&message), 0);
    } else if ((model->operations & (UINT32_C(1) << x->request->operation)) == 0) {
        buf_printf(&message, "No node serves this API for the model '%s'",
                   x->request->client_model);
        exchange_reject(x, API_ERROR_NOT_SUPPORTED, buf_cstr(&message), 0);
    } else if (choose_is_too_large(x)) {
        buf_printf(&message, "A request of %zu bytes is larger than any node of '%s' takes",
                   x->request->body_len, x->request->client_model);
        exchange_reject(x, API_ERROR_TOO_LARGE, buf_cstr(&message), 0);
    } else {
        return false;
    }
    buf_finish(&message);
    return true;
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
    for (size_t i = 0; i < ARRAY_LEN(x->legs); i++) {
        x->legs[i].x = x;
        x->legs[i].row = -1;
    }
    x->leg = &x->legs[0];
    (void)strlcpy(x->model, request->model, sizeof(x->model));
    x->model_hash = hash_text(x->model);
    /* One session may use several models, and their caches have nothing in common. */
    x->session_hash =
        request->session == NULL ? 0 : hash_text(request->session) * 31 + x->model_hash;
    x->prev = core->last;
    if (core->last != NULL)
        core->last->next = x;
    else
        core->first = x;
    core->last = x;
    core->open_count++;
    responder_set_events(request->responder, &client_events, x);
    /* Turning away must be cheap: before the prompt is looked at. */
    if (waiting_has_line(x) && waiting_refuses(x)) {
        turn_away(x);
        return;
    }
    choose_read_prompt(x);
    x->envelope_bytes = attempt_message_bytes(request);
    x->leg->row = requests_open(core->board, core->slot, request->id, request->client_model,
                                x->prompt_estimate, loop_now_us(core->loop));
    if (!refuse_at_once(x))
        exchange_place(x);
}

void exchange_stop_all(struct exchange_core *core)
{
    struct exchange *x, *next;

    for (x = core->first; x != NULL; x = next) {
        next = x->next;
        if (x->phase == EXCHANGE_ANSWERED || x->request == NULL)
            continue;
        waiting_remove(x);
        exchange_stop_legs(x, STATS_CLIENT_GONE);
        exchange_reject(x, API_ERROR_SHUTTING_DOWN, "the coordinator is shutting down", 1);
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
