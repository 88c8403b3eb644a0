/*
 * recover.c - what fails, what takes too long, and what is done about it.
 *
 *   nothing shown yet     another node, under the retry budget and max_attempts
 *   plain text shown      another node goes on from the text, at most max_resumes times; when
 *                         all have failed, a moment's wait for one that comes back
 *   anything else         an error: an answer if none has begun, else the stream's last event
 *
 * A node that says it is full has not failed: it is passed over for a moment, and that is no
 * attempt.  That goes for all who wait here, or they would be refused there one after the
 * other.
 *
 * Silence is judged by phase: in line, before the first content, between tokens.  Bytes without
 * content are not progress.  A node that the health process has found to be out of reach is not
 * given that time: what is silent there goes on elsewhere, if it can.
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "base/loop.h"
#include "shm/nodes.h"
#include "shm/routing/budget.h"
#include "shm/routing/requests.h"
#include "shm/stats.h"
#include "worker/attempt.h"
#include "worker/exchange_private.h"
#include "worker/http/request.h"
#include "worker/routing/choose.h"

/* How long a request waits when no node of its model is up: a node that restarts, or one that
 * has just joined, should not cost anybody an error. */
#define NO_NODE_GRACE_US (2 * US_PER_S)
/* While all nodes have failed for it, an answer that has begun looks again this often. */
#define HOPE_LOOK_US (100 * US_PER_MS)
/* A request that meets full nodes again and again pauses twice as long each time, so often. */
#define MAX_DOUBLINGS 3
/* The node judges silence itself and knows better; this is for a node that is frozen. */
#define SILENCE_SLACK_US (2 * US_PER_S)
/* ... and so long when the health process has found that it is, or that it is gone. */
#define LOST_SILENCE_US (2 * US_PER_S)
/* A running request looks this often whether that has happened. */
#define LOOK_US US_PER_S

/* ---- failures -------------------------------------------------------------------------- */

static void exclude(const struct leg *leg, uint64_t until_mono_us)
{
    exclusions_add(&leg->x->excluded, leg->node, leg->generation, until_mono_us,
                   loop_now_us(leg->x->core->loop));
}

/* What makes a node say that it is full may be something about this request, so after a while
 * it lets others try. */
static uint64_t pause_us(struct exchange *x)
{
    uint32_t doublings = x->bounces < MAX_DOUBLINGS ? x->bounces : MAX_DOUBLINGS;

    x->bounces++;
    return EXCHANGE_FULL_PAUSE_US << doublings;
}

bool recover_may_resume(const struct exchange *x)
{
    return x->resumable && x->resumes < x->core->config->limits.max_resumes;
}

/* What an attempt said that nobody was shown is not for the next one to go on from. */
static void forget_unseen(struct exchange *x)
{
    x->next_sequence = 0;
    buf_reset(&x->text);
    buf_reset(&x->ids);
    x->ids_lost = false;
    x->vocabulary = 0;
    x->response_id[0] = '\0';
    x->created = 0;
}

/* Another try, on another node. */
static void go_on(struct exchange *x)
{
    if (!x->content_shown)
        forget_unseen(x);
    x->leg->status = 0;
    buf_reset(&x->leg->held);
    buf_reset(&x->leg->headers);
    exchange_place(x);
}

static void retry(struct exchange *x)
{
    if (x->attempts >= x->core->config->limits.max_attempts ||
        !budget_allows(x->core->board, x->model_hash)) {
        exchange_answer_error(x, x->last_error, x->last_message, 0);
        return;
    }
    stats_count(x->core->board, x->leg->node, x->leg->generation, STATS_RETRIED, 1);
    go_on(x);
}

static void resume(struct exchange *x)
{
    x->resumes++;
    x->resumed_tokens = x->output_tokens;
    log_info("event=resuming id=%s node=%s tokens=%u reason=%s", x->request->id,
             x->leg->node_name, x->output_tokens, api_error_reason(x->last_error));
    stats_count(x->core->board, x->leg->node, x->leg->generation, STATS_RETRIED, 1);
    go_on(x);
}

void recover_failed(struct leg *leg, enum api_error error, enum stats_counter counter,
                    const char *message)
{
    struct exchange *x = leg->x;
    uint64_t now = loop_now_us(x->core->loop);
    bool survives, spared;

    if (counter == STATS_FULL && x->content_mono_us != 0) {
        counter = STATS_NODE_ERROR; /* who has begun has room */
        error = API_ERROR_NODE_FAILED;
    }
    choose_release(leg, counter);
    survives = hedge_leave(leg);
    if (x->request == NULL) {
        exchange_release_if_over(x);
        return;
    }
    /* It was full, or there was no descriptor here to reach it with: no fault of its.  In the
     * middle of an answer that is one lost all the same. */
    spared = (error == API_ERROR_QUEUE_FULL || error == API_ERROR_OVERLOADED) &&
             x->content_mono_us == 0;
    exclude(leg, spared ? now + pause_us(x) : UINT64_MAX);
    log_debug("event=attempt_failed id=%s node=%s attempt=%u reason=%s message=%s",
              x->request->id, leg->node_name, leg->number, api_error_reason(error),
              log_quote(message));
    if (error == API_ERROR_BAD_REQUEST) {
        /* The client's fault: no other node will like it better. */
        x->outcome = "client_error";
        exchange_stop_legs(x, STATS_OVERTAKEN);
        exchange_answer_error(x, error, message, 0);
        return;
    }
    if (!spared) {
        x->last_error = error;
        (void)snprintf(x->last_message, sizeof(x->last_message), "%s", message);
    }
    if (survives) {
        /* The other leg goes on; of this node it counts as any attempt followed by another. */
        if (spared)
            x->attempts--;
        else
            stats_count(x->core->board, leg->node, leg->generation, STATS_RETRIED, 1);
        recover_arm(x);
        return;
    }
    if (spared) {
        x->attempts--; /* it cost nothing there */
        go_on(x);
        return;
    }
    x->outcome = error == API_ERROR_NODE_TIMEOUT ? "timeout"
                 : error == API_ERROR_TOO_LARGE  ? "client_error"
                                                 : "node_error";
    /* One bad node among good ones is what retries are for.  What must not multiply is the load
     * when they do not help, so the bucket is emptied by attempts that failed after another
     * had. */
    if (x->attempts > 1 && error != API_ERROR_TOO_LARGE)
        budget_failure(x->core->board, x->model_hash, now);
    if (!x->content_shown)
        retry(x);
    else if (recover_may_resume(x) && buf_size(&x->text) != 0)
        resume(x);
    else
        exchange_answer_error(x, error, message, 0);
}

void recover_abandon(struct leg *leg, enum api_error error, enum stats_counter counter,
                     const char *message)
{
    attempt_cancel(leg->attempt);
    leg->attempt = NULL;
    recover_failed(leg, error, counter, message);
}

bool recover_hope(struct exchange *x)
{
    uint64_t now = loop_now_us(x->core->loop);

    if (!x->content_shown)
        return false;
    if (x->hope_mono_us == 0)
        x->hope_mono_us = now + NO_NODE_GRACE_US;
    if (now >= x->hope_mono_us)
        return false;
    x->phase = EXCHANGE_HOPING;
    requests_phase(x->core->board, x->core->slot, x->leg->row, REQUEST_QUEUED, now);
    recover_arm(x);
    return true;
}

/* ---- limits of time -------------------------------------------------------------------- */

static uint64_t deadline_mono_us(const struct exchange *x)
{
    return x->started_mono_us + x->core->config->limits.request_timeout_ms * US_PER_MS;
}

/* When the present wait is over.  Without any node up it ends early, as nobody is working on
 * it, but not before a node that restarts has had its time. */
static uint64_t wait_limit_mono_us(struct exchange *x)
{
    uint64_t limit = waiting_limit_us(x);
    uint64_t due = x->wait_mono_us + (limit > x->waited_us ? limit - x->waited_us : 0);

    if (choose_any_up(x)) {
        x->lost_mono_us = 0;
        return due;
    }
    if (x->lost_mono_us == 0)
        x->lost_mono_us = loop_now_us(x->core->loop);
    return due < x->lost_mono_us + NO_NODE_GRACE_US ? due : x->lost_mono_us + NO_NODE_GRACE_US;
}

uint64_t recover_silence_us(const struct exchange *x)
{
    const struct config_limits *limits = &x->core->config->limits;

    return (x->content_mono_us == 0 ? limits->first_token_ms : limits->idle_token_ms) *
           US_PER_MS;
}

/* Is the node, or the engine behind it, out of reach or standing still, so that nothing more
 * is to be hoped for?  A node that drains, or that says it cannot serve, still finishes what it
 * has. */
static bool node_is_lost(const struct leg *leg)
{
    struct node_status status;

    if (!nodes_status(leg->x->core->board, leg->node, &status) ||
        status.generation != leg->generation)
        return true; /* its row has been given away */
    switch (status.state) {
    case NODE_DOWN:
    case NODE_GONE:
        return status.reason == NODE_REASON_CONNECT_FAILED ||
               status.reason == NODE_REASON_PROBE_TIMEOUT ||
               status.reason == NODE_REASON_ENGINE_DOWN ||
               status.reason == NODE_REASON_LEASE_LOST;
    case NODE_EJECTED:
    case NODE_TRIAL:
        return status.reason == NODE_REASON_NO_PROGRESS;
    case NODE_NONE:
    case NODE_JOINING:
    case NODE_UP:
    case NODE_DRAINING:
        return false;
    }
    return false;
}

/* Could another node take it without the client noticing? */
static bool may_move(const struct exchange *x)
{
    if (x->content_shown ? !recover_may_resume(x)
                         : x->attempts >= x->core->config->limits.max_attempts)
        return false;
    return choose_any_up(x);
}

static uint64_t silence_limit_mono_us(const struct leg *leg)
{
    uint64_t limit = recover_silence_us(leg->x) + SILENCE_SLACK_US;

    if (limit > LOST_SILENCE_US && node_is_lost(leg) && may_move(leg->x))
        limit = LOST_SILENCE_US;
    return leg->progress_mono_us + limit;
}

static void wait_is_over(struct exchange *x)
{
    waiting_remove(x);
    if (choose_any_up(x))
        exchange_reject(x, API_ERROR_QUEUE_TIMEOUT, "waited too long for a free slot",
                        waiting_turn_away(x));
    else if (x->last_error != API_ERROR_NONE)
        exchange_answer_error(x, x->last_error, x->last_message, 0);
    else
        exchange_reject(x, API_ERROR_NO_NODE,
                        "no node that serves this model is up at the moment", 5);
}

static void time_is_up(struct exchange *x)
{
    waiting_remove(x);
    exchange_stop_legs(x, STATS_TIMEOUT);
    x->outcome = "timeout";
    exchange_answer_error(x, API_ERROR_DEADLINE,
                          "the request took longer than request_timeout_ms", 0);
}

static void give_up(struct leg *leg)
{
    recover_abandon(leg, API_ERROR_NODE_TIMEOUT, STATS_TIMEOUT,
                    leg->x->content_mono_us == 0 ? "the node gave no first token in time"
                                                 : "the node stopped giving tokens");
}

static void on_timer(struct timer *timer)
{
    struct exchange *x = CONTAINER_OF(timer, struct exchange, timer);
    uint64_t now = loop_now_us(x->core->loop);

    if (x->request == NULL)
        return;
    if (now >= deadline_mono_us(x)) {
        time_is_up(x);
        return;
    }
    switch (x->phase) {
    case EXCHANGE_WAITING:
        if (now >= wait_limit_mono_us(x)) {
            wait_is_over(x);
            return;
        }
        relay_show_waiting(x);
        break;
    case EXCHANGE_HOPING:
        exchange_place(x);
        return;
    case EXCHANGE_RUNNING:
        if (x->hedge != NULL && now >= silence_limit_mono_us(x->hedge))
            give_up(x->hedge);
        if (now >= silence_limit_mono_us(x->leg)) {
            give_up(x->leg); /* where another leg survives, it has armed the timer */
            return;
        }
        if (now >= x->hedge_due_mono_us)
            hedge_try(x);
        break;
    case EXCHANGE_ANSWERED:
        return;
    }
    recover_arm(x);
}

/* Progress pushes limits back without touching the timer; it looks again when it fires, which
 * is at least once a second: limits depend on the state of the node as well. */
void recover_arm(struct exchange *x)
{
    uint64_t now = loop_now_us(x->core->loop);
    uint64_t due = deadline_mono_us(x);
    uint64_t phase_due = 0;

    switch (x->phase) {
    case EXCHANGE_WAITING:
        phase_due = wait_limit_mono_us(x);
        /* The limit depends on the fleet, so look at least every half second; and there may be
         * something to tell. */
        if (phase_due > now + US_PER_S / 2)
            phase_due = now + US_PER_S / 2;
        break;
    case EXCHANGE_HOPING:
        phase_due = now + HOPE_LOOK_US;
        break;
    case EXCHANGE_RUNNING:
        phase_due = silence_limit_mono_us(x->leg);
        if (x->hedge_due_mono_us < phase_due)
            phase_due = x->hedge_due_mono_us;
        if (x->hedge != NULL && silence_limit_mono_us(x->hedge) < phase_due)
            phase_due = silence_limit_mono_us(x->hedge);
        if (phase_due > now + LOOK_US)
            phase_due = now + LOOK_US;
        break;
    case EXCHANGE_ANSWERED:
        return;
    }
    if (phase_due < due)
        due = phase_due;
    timer_start(x->core->loop, &x->timer, due > now ? due - now : 0, on_timer);
}
