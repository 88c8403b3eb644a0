/*
 * request.c - the state machine of a request, from the moment it is valid to its last byte.
 *
 * Only this file writes a request's state (set_state; the table is in request_state.h).  Events
 * of the client, of the nodes and of the timer come here; the files below do one thing each and
 * return what happened.  retry_decide() chooses the next step, and obey() takes it.
 *
 * The client's side (`client`, NULL once the responder is done or gone) and the nodes' (an
 * attempt that has not ended) can outlive each other.  A request is freed when both are over,
 * in free_if_over(), which every path calls last.  A request is accounted for when the client's
 * side ends, because that is when its memory goes.
 */
#include "worker/request/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "policy/fault/empty.h"
#include "policy/fault/retry.h"
#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/http/reject.h"
#include "worker/http/responder.h"
#include "worker/request/account.h"
#include "worker/request/attempt.h"
#include "worker/request/hedge.h"
#include "worker/request/limits.h"
#include "worker/request/request_state.h"
#include "worker/request/response.h"
#include "worker/request/retry_facts.h"
#include "worker/select/enqueue.h"
#include "worker/select/lacks.h"
#include "worker/select/select.h"
#include "worker/upstreams/node_call.h"
#include "worker/upstreams/servable.h"
#include "worker/upstreams/upstreams.h"

/* After its answer is whole a node has so long to end the call. */
#define END_US (2 * US_PER_S)

static const struct node_call_events node_events;
static void on_timer(struct timer *timer);
static void place(struct request *req);

/* ---- the state ------------------------------------------------------------------------- */

/* The one writer of `state`, and of what the scoreboard shows of it between attempts. */
static void set_state(struct request *req, enum request_state state)
{
    const struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);

    req->state = state;
    switch (state) {
    case REQUEST_STATE_QUEUED:
    case REQUEST_STATE_WAIT_NODE:
        requests_phase(context->board, context->worker, req->attempt->row, REQUEST_QUEUED, now);
        return;
    case REQUEST_STATE_FLUSHING:
        requests_phase(context->board, context->worker, req->attempt->row, REQUEST_FLUSH, now);
        return;
    case REQUEST_STATE_NEW:
    case REQUEST_STATE_RUNNING: /* the attempt says how far it is */
    case REQUEST_STATE_DONE:
        return;
    }
}

/* Progress pushes limits back without touching the timer; it looks again when it fires. */
static void arm(struct request *req)
{
    uint64_t now = loop_now_us(req->context->loop), due = limits_look_mono_us(req);

    timer_start(req->context->loop, &req->timer, due > now ? due - now : 0, on_timer);
}

/* ---- the end --------------------------------------------------------------------------- */

static void free_if_over(struct request *req)
{
    struct worker_context *context = req->context;

    if (req->client != NULL || req->attempt->stage != ATTEMPT_ENDED || req->hedge != NULL)
        return;
    timer_stop(context->loop, &req->timer);
    if (req->prev != NULL)
        req->prev->next = req->next;
    else
        context->first = req->next;
    if (req->next != NULL)
        req->next->prev = req->prev;
    else
        context->last = req->prev;
    context->open_count--;
    requests_close(context->board, context->worker, req->attempt->row);
    select_finish(req);
    for (size_t i = 0; i < ARRAY_LEN(req->pair); i++) {
        buf_finish(&req->pair[i].headers);
        buf_finish(&req->pair[i].held);
    }
    buf_finish(&req->text);
    buf_finish(&req->ids);
    buf_finish(&req->refusal.body);
    buf_finish(&req->refusal.headers);
    free(req);
}

/* Cancels the attempts that still run; no node is blamed. */
static void end_attempts(struct request *req, enum stats_counter outcome)
{
    for (size_t i = 0; i < ARRAY_LEN(req->pair); i++) {
        if (req->pair[i].stage == ATTEMPT_ENDED)
            continue;
        attempt_end(&req->pair[i], outcome);
        if (&req->pair[i] == req->hedge)
            (void)hedge_leave(&req->pair[i]);
    }
}

/* ---- the client ------------------------------------------------------------------------ */

/* The answer is an error: a whole one, or the end of the one that has begun. */
static void answer_error(struct request *req, enum api_error error, const char *message,
                         unsigned retry_after_s)
{
    timer_stop(req->context->loop, &req->timer);
    set_state(req, REQUEST_STATE_FLUSHING);
    response_error(req, error, message, retry_after_s);
}

/* The same, for a request that this worker rejects by itself. */
static void reject(struct request *req, enum api_error error, const char *message,
                   unsigned retry_after_s)
{
    req->outcome = REQUEST_OUTCOME_REJECTED;
    procs_count(req->context->board, req->context->worker, PROC_REQUESTS_REJECTED, 1);
    answer_error(req, error, message, retry_after_s);
}

static void reject_queue_full(struct request *req)
{
    reject(req, API_ERROR_QUEUE_FULL,
           "too many requests are waiting for this model: come back later",
           enqueue_reject(req));
}

static void client_over(struct request *req, bool gone)
{
    enqueue_remove(req);
    account_request(req, gone);
    req->client = NULL;
    set_state(req, REQUEST_STATE_DONE);
}

static void on_gone(void *data)
{
    struct request *req = data;

    client_over(req, !req->cut);
    if (req->attempt->stage != ATTEMPT_FINISHED)
        end_attempts(req, STATS_CLIENT_GONE);
    free_if_over(req);
}

static void on_done(void *data)
{
    struct request *req = data;

    client_over(req, false);
    free_if_over(req);
}

static void on_drain(void *data, size_t n)
{
    struct request *req = data;

    (void)n;
    response_release_if_low(req->attempt);
}

static const struct responder_events client_events = {
    .on_drain = on_drain,
    .on_gone = on_gone,
    .on_done = on_done,
};

/* ---- after an attempt ------------------------------------------------------------------ */

/* Tries again, on another node or on one whose pause is over. */
static void place_again(struct request *req)
{
    if (req->shown != SHOWN_CONTENT)
        response_forget_unseen(req);
    place(req);
}

static void count_retried(const struct attempt *attempt)
{
    stats_count(attempt->request->context->board, attempt->node, attempt->generation,
                STATS_RETRIED, 1);
}

static void resume(struct request *req, const struct attempt *ended)
{
    req->resumes++;
    req->resumed_tokens = req->output_tokens;
    log_info("event=resuming id=%s execution=%s node=%s tokens=%u reason=%s", req->client->id,
             req->client->execution_id, ended->node_name, req->output_tokens,
             api_error_reason(req->last_error));
    count_retried(ended);
    place_again(req);
}

static void wait_for_node(struct request *req)
{
    if (req->wait_node_mono_us == 0)
        req->wait_node_mono_us = loop_now_us(req->context->loop) + LIMITS_NO_NODE_US;
    set_state(req, REQUEST_STATE_WAIT_NODE);
    arm(req);
}

/* No engine has failed, but there is one that was not there, and may take the request later. */
static bool is_for_later(const struct request *req)
{
    if (req->last_error != API_ERROR_NONE)
        return false;
    return (req->away != 0 && req->blamed == 0) || (req->refusals != 0 && lacks_is_away(req));
}

/* An answer that the client may have, as far as it has seen nothing else. */
static bool has_kept(const struct request *req)
{
    return req->refusal.is_answer && req->shown != SHOWN_CONTENT;
}

/* The client gets the refusal, or the answer without output, that is kept. */
static void show_kept(struct request *req)
{
    timer_stop(req->context->loop, &req->timer);
    set_state(req, REQUEST_STATE_FLUSHING);
    if (req->attempts == 0)
        req->attempts = 1; /* whose words these are */
    req->outcome =
        req->refusal.status < 400 ? REQUEST_OUTCOME_OK : REQUEST_OUTCOME_CLIENT_ERROR;
    response_show_refusal(req);
}

static void answer_failure(struct request *req)
{
    if (has_kept(req)) {
        show_kept(req);
    } else if (is_for_later(req)) {
        reject(req, API_ERROR_NO_NODE, "no node that can take this request is up", 5);
    } else if (req->last_error != API_ERROR_NONE || req->refusal.status == 0) {
        answer_error(req, req->last_error, req->last_message, 0);
    } else {
        show_kept(req);
    }
}

/* An attempt that cost nothing there. */
static bool is_uncounted(enum retry_end end)
{
    return end == RETRY_END_FULL || end == RETRY_END_LACKS || end == RETRY_END_AWAY ||
           end == RETRY_END_UNSURE || end == RETRY_END_EMPTY || end == RETRY_END_NO_ANSWER;
}

static void obey(struct request *req, const struct attempt *ended,
                 const struct retry_facts *facts)
{
    switch (retry_decide(facts)) {
    case RETRY_DONE:
        free_if_over(req);
        return;
    case RETRY_FAIL:
        select_settle_doubts(req, facts->end == RETRY_END_NO_NODE_LEFT);
        end_attempts(req, STATS_OVERTAKEN);
        answer_failure(req);
        return;
    case RETRY_AGAIN:
        count_retried(ended);
        place_again(req);
        return;
    case RETRY_RESUME:
        resume(req, ended);
        return;
    case RETRY_PAUSE:
    case RETRY_ELSEWHERE:
        req->attempts--; /* it cost nothing there */
        place_again(req);
        return;
    case RETRY_OTHER_GOES_ON:
        /* For this node it counts as a retried attempt, unless the node was full. */
        if (is_uncounted(facts->end))
            req->attempts--;
        else
            count_retried(ended);
        arm(req);
        return;
    case RETRY_WAIT_NODE:
        wait_for_node(req);
        return;
    }
}

/* The attempt has failed; its place is still held. */
static void attempt_failed(struct attempt *attempt, struct attempt_failure *failure)
{
    const struct retry_facts facts = retry_facts_failed(attempt, failure);

    obey(attempt->request, attempt, &facts);
}

/* ---- the nodes' events ----------------------------------------------------------------- */

static void on_accepted(void *data, const Drover__V1__Accepted *accepted)
{
    attempt_take_accepted(data, accepted);
}

static void on_head(void *data, const Drover__V1__ResponseHead *head)
{
    struct attempt *attempt = data;
    struct attempt_failure failure = {0};

    attempt_take_head(attempt);
    if (!response_take_head(attempt, head, &failure))
        attempt_failed(attempt, &failure);
}

static void first_content(struct attempt *attempt)
{
    struct request *req = attempt->request;

    hedge_adopt(attempt);
    attempt_absolve(attempt);
    if (req->ttft_us == 0)
        req->ttft_us = attempt->content_mono_us - req->started_mono_us;
}

static uint32_t add_tokens(uint32_t sum, uint32_t more)
{
    return more > UINT32_MAX - sum ? UINT32_MAX : sum + more;
}

/* The answer is whole, and its call is over as well. */
static void end_whole(struct attempt *attempt)
{
    const struct retry_facts facts = retry_facts_answered(attempt);

    obey(attempt->request, attempt, &facts);
}

/* Is it an answer without output that neither its request nor its end explains? */
static bool is_empty(const struct request *req, const Drover__V1__Finish *finish)
{
    return finish != NULL && finish->empty[0] != '\0' && req->shown != SHOWN_CONTENT &&
           !empty_is_explained(&req->client->root, finish->empty,
                               finish->usage == NULL ? 0 : finish->usage->output_tokens);
}

/* An HTTP error, or an answer without output, that is no answer yet: another node may serve the
 * request.  `finish`: NULL = its end is not waited for. */
static bool take_refusal(struct attempt *attempt, const Drover__V1__Finish *finish)
{
    struct attempt_failure failure = {.error = API_ERROR_BAD_REQUEST,
                                      .counter = STATS_CLIENT_ERROR};

    if (attempt->request->client == NULL)
        return false;
    if (attempt->status < 400) {
        failure.counter = STATS_OK; /* until another node contradicts it */
        if (!is_empty(attempt->request, finish))
            return false;
        attempt->cause.kind = ATTEMPT_CAUSE_EMPTY;
        attempt_note_usage(attempt, finish);
    } else if (!attempt_is_refused(attempt)) {
        attempt->cause.kind = ATTEMPT_CAUSE_UNSURE;
    }
    (void)snprintf(failure.message, sizeof(failure.message), "the engine answered HTTP %u%s",
                   attempt->status, attempt->status < 400 ? " without output" : "");
    response_keep_refusal(attempt);
    attempt_failed(attempt, &failure);
    return true;
}

/* An error after comments, of which enough came: its end may never do. */
static void refuse_late(struct attempt *attempt)
{
    struct request *req = attempt->request;

    if (take_refusal(attempt, NULL))
        return;
    hedge_adopt(attempt);
    timer_stop(req->context->loop, &req->timer);
    req->outcome = REQUEST_OUTCOME_CLIENT_ERROR;
    set_state(req, REQUEST_STATE_FLUSHING);
    response_refuse_late(req);
    end_whole(attempt);
}

static void on_chunk(void *data, const Drover__V1__Chunk *chunk)
{
    struct attempt *attempt = data;
    struct request *req = attempt->request;
    struct attempt_failure failure = {0};

    if (chunk->content) {
        req->content_mono_us = loop_now_us(req->context->loop);
        if (attempt_take_content(attempt))
            first_content(attempt);
    }
    if (chunk->tokens != 0) {
        req->output_tokens = add_tokens(req->output_tokens, chunk->tokens);
        requests_tokens(req->context->board, req->context->worker, attempt->row,
                        req->output_tokens);
    }
    if (req->client == NULL)
        return;
    switch (response_take_chunk(attempt, chunk, &failure)) {
    case RESPONSE_TAKEN:
        return;
    case RESPONSE_TO_SHOW:
        hedge_adopt(attempt);
        response_show(req, false);
        response_release_if_low(attempt);
        return;
    case RESPONSE_FAILED:
        attempt_failed(attempt, &failure);
        return;
    case RESPONSE_REFUSED:
        refuse_late(attempt);
        return;
    }
}

/* The answer was whole, but the call does not end: the place is needed. */
static void on_end_overdue(struct timer *timer)
{
    struct request *req = CONTAINER_OF(timer, struct request, timer);

    if (req->attempt->stage == ATTEMPT_FINISHED)
        end_whole(req->attempt);
}

static void on_cause(void *data, const Drover__V1__Cause *cause)
{
    attempt_take_cause(data, cause);
}

static void on_finish(void *data, const Drover__V1__Finish *finish)
{
    struct attempt *attempt = data;
    struct request *req = attempt->request;

    if (take_refusal(attempt, finish))
        return;
    hedge_adopt(attempt);
    attempt_take_finish(attempt, finish);
    if (req->ttft_us == 0)
        req->ttft_us = attempt->content_mono_us - req->started_mono_us;
    req->outcome = attempt->status >= 400 ? REQUEST_OUTCOME_CLIENT_ERROR : REQUEST_OUTCOME_OK;
    if (req->client != NULL) {
        set_state(req, REQUEST_STATE_FLUSHING);
        if (req->shown == SHOWN_HEAD && !attempt->event_stream) {
            response_refuse_late(req);
        } else {
            if (req->shown != SHOWN_CONTENT)
                response_show(req, true);
            responder_end(req->client->responder);
        }
    }
    timer_start(req->context->loop, &req->timer, END_US, on_end_overdue);
}

static void on_end(void *data, const struct call_result *result)
{
    struct attempt *attempt = data;
    struct attempt_failure failure = {0};

    attempt_call_ended(attempt);
    if (attempt->stage == ATTEMPT_FINISHED) {
        end_whole(attempt); /* how the call is closed after it changes nothing */
        return;
    }
    attempt_classify(attempt, result, &failure);
    attempt_failed(attempt, &failure);
}

static const struct node_call_events node_events = {
    .on_accepted = on_accepted,
    .on_head = on_head,
    .on_chunk = on_chunk,
    .on_cause = on_cause,
    .on_finish = on_finish,
    .on_end = on_end,
};

/* ---- a place on a node ----------------------------------------------------------------- */

static void run(struct request *req, struct upstream *node)
{
    if (req->shown != SHOWN_CONTENT)
        req->output_tokens = 0;
    req->wait_node_mono_us = 0;
    req->no_node_mono_us = 0;
    req->was_dispatched = true;
    set_state(req, REQUEST_STATE_RUNNING);
    if (attempt_start(req->attempt, node, &node_events) != 0) {
        answer_error(req, API_ERROR_INTERNAL, "out of memory", 0);
        return;
    }
    hedge_plan(req);
    arm(req);
}

static void refuse_poison(struct request *req)
{
    log_info("event=poison_refused id=%s model=%s", req->client->id,
             log_quote(req->client->client_model));
    reject(req, API_ERROR_NODE_FAILED,
           "engines ended under this request a moment ago: it is sent to no other", 0);
}

static enum request_try try_start(struct request *req, const struct queue_rights *rights)
{
    struct upstream *node = NULL;
    struct retry_facts facts;

    if (req->shown != SHOWN_CONTENT &&
        attempt_is_poison(req->attempt)) { /* others have shown it meanwhile */
        enqueue_remove(req);
        refuse_poison(req);
        return REQUEST_TRY_STARTED;
    }
    req->attempt->is_hedge = false;
    switch (select_node(req->attempt, rights, &node)) {
    case SELECT_CLAIMED:
        if (req->queued.list == NULL)
            enqueue_not_needed(req);
        enqueue_remove(req);
        run(req, node);
        return REQUEST_TRY_STARTED;
    case SELECT_PLANNED:
        return REQUEST_TRY_PLANNED;
    case SELECT_ALL_FAILED:
        enqueue_remove(req);
        facts = retry_facts_no_node_left(req);
        obey(req, NULL, &facts);
        return REQUEST_TRY_STARTED;
    case SELECT_LOST:
        return REQUEST_TRY_LOST;
    case SELECT_FULL:
    case SELECT_NOBODY:
        break; /* the wait's own limits decide how long it waits */
    }
    return REQUEST_TRY_NO_ROOM;
}

/* Rejects a request that no wait could help.  True: answered. */
static bool refuse_at_once(struct request *req)
{
    struct buf message = BUF_INIT;
    enum api_error error =
        servable_check(req->context->upstreams, req->client, req->envelope_bytes, &message);

    if (error != API_ERROR_NONE)
        reject(req, error, buf_cstr(&message), 0);
    buf_finish(&message);
    return error != API_ERROR_NONE;
}

/* Likewise one whose model is there, but whose operation no node of it has any more: that was
 * learned since the request came. */
static bool refuse_lost_operation(struct request *req)
{
    const struct upstream_model *model = upstreams_find(req->context->upstreams, req->model);

    return req->shown == SHOWN_NOTHING && model != NULL &&
           !servable_operation(model, req->client->operation) && refuse_at_once(req);
}

/* Tries the nodes, or gets in the queue, with a plan or without.  A retry and a resume have the
 * key of their arrival, and so their old place. */
static void place(struct request *req)
{
    struct queue_rights rights;

    if (!queue_is_idle(&req->context->queue))
        select_size(req); /* for its key, which requests of other models are compared with */
    if (try_start(req, enqueue_rights(req, false, &rights)) == REQUEST_TRY_STARTED ||
        refuse_lost_operation(req))
        return;
    select_size(req);
    if (enqueue_refuses(req)) {
        reject_queue_full(req);
        return;
    }
    if (!enqueue_add(req)) {
        reject(req, API_ERROR_OVERLOADED, "out of memory", 1);
        return;
    }
    set_state(req, REQUEST_STATE_QUEUED);
    arm(req);
}

/* ---- time ------------------------------------------------------------------------------ */

/* Only of a model that was unknown it may be known by now that no wait helps.  The nodes of
 * another have gone meanwhile, and may come back. */
static void wait_is_over(struct request *req)
{
    enqueue_remove(req);
    if (has_kept(req)) {
        show_kept(req);
        return;
    }
    if (refuse_lost_operation(req))
        return;
    if (select_any_up(req))
        reject(req, API_ERROR_QUEUE_TIMEOUT, "waited too long for a free slot",
               enqueue_reject(req));
    else if (req->last_error != API_ERROR_NONE)
        answer_error(req, req->last_error, req->last_message, 0);
    else if (req->model_known || req->was_dispatched || !refuse_at_once(req))
        reject(req, API_ERROR_NO_NODE, servable_nobody(req->context->upstreams, req->client),
               5);
}

static void deadline_is_over(struct request *req)
{
    enqueue_remove(req);
    for (size_t i = 0; i < ARRAY_LEN(req->pair); i++)
        req->pair[i].excused = true; /* each did what it could */
    end_attempts(req, STATS_TIMEOUT);
    if (has_kept(req)) {
        show_kept(req);
        return;
    }
    req->outcome = REQUEST_OUTCOME_TIMEOUT;
    answer_error(req, API_ERROR_DEADLINE,
                 req->content_mono_us == 0 ? "no content within request_timeout_ms"
                                           : "no further content within request_timeout_ms",
                 0);
}

static void give_up(struct attempt *attempt)
{
    struct attempt_failure failure = {.error = API_ERROR_NODE_TIMEOUT,
                                      .counter = STATS_TIMEOUT};

    (void)snprintf(failure.message, sizeof(failure.message), "%s",
                   attempt->content_mono_us == 0 ? "the node gave no first token in time"
                                                 : "the node stopped giving tokens");
    attempt_failed(attempt, &failure);
}

static void look_at_running(struct request *req)
{
    attempt_note_sent(req->attempt);
    if (req->hedge != NULL && limits_silence_passed(req->hedge))
        give_up(req->hedge);
    if (limits_silence_passed(req->attempt)) {
        give_up(req->attempt); /* where another attempt goes on, it has armed the timer */
        return;
    }
    if (loop_now_us(req->context->loop) >= req->hedge_due_mono_us)
        hedge_try(req, &node_events);
    response_show_running(req);
    arm(req);
}

static void on_timer(struct timer *timer)
{
    struct request *req = CONTAINER_OF(timer, struct request, timer);

    if (req->client == NULL)
        return;
    if (limits_deadline_passed(req)) {
        deadline_is_over(req);
        return;
    }
    switch (req->state) {
    case REQUEST_STATE_QUEUED:
        if (enqueue_look(req))
            return;
        if (limits_wait_passed(req)) {
            wait_is_over(req);
            return;
        }
        response_show_waiting(req);
        arm(req);
        return;
    case REQUEST_STATE_WAIT_NODE:
        place(req);
        return;
    case REQUEST_STATE_RUNNING:
        look_at_running(req);
        return;
    case REQUEST_STATE_NEW:
    case REQUEST_STATE_FLUSHING:
    case REQUEST_STATE_DONE:
        return;
    }
}

/* ---- the beginning --------------------------------------------------------------------- */

static struct request *create(struct worker_context *context, struct client_request *client)
{
    struct request *req = calloc(1, sizeof(*req));

    if (req == NULL)
        return NULL;
    req->context = context;
    req->client = client;
    req->started_mono_us = client->received_mono_us;
    for (size_t i = 0; i < ARRAY_LEN(req->pair); i++) {
        req->pair[i].request = req;
        req->pair[i].row = -1;
    }
    req->attempt = &req->pair[0];
    (void)strlcpy(req->model, client->model, sizeof(req->model));
    req->model_hash = hash_text(req->model);
    req->caller = client->caller;
    /* One session may use several models, and their caches have nothing in common. */
    req->session_hash =
        client->session == NULL ? 0 : hash_text(client->session) * 31 + req->model_hash;
    req->prev = context->last;
    if (context->last != NULL)
        context->last->next = req;
    else
        context->first = req;
    context->last = req;
    context->open_count++;
    return req;
}

void request_start(struct worker_context *context, struct client_request *client)
{
    struct request *req = create(context, client);

    if (req == NULL) {
        http_reject(client, API_ERROR_INTERNAL, "out of memory", NULL, 0);
        return;
    }
    responder_set_events(client->responder, &client_events, req);
    upstreams_renew(context->upstreams); /* another worker may have learned something */
    /* A rejection must be cheap: before the prompt is looked at. */
    if (enqueue_any(req) && enqueue_refuses(req)) {
        reject_queue_full(req);
        return;
    }
    select_read_prompt(req);
    req->envelope_bytes = node_call_message_bytes(client);
    req->attempt->row =
        requests_open(context->board, context->worker, client->id, client->client_model,
                      req->prompt_estimate, loop_now_us(context->loop));
    if (refuse_at_once(req))
        return;
    req->model_known = upstreams_find(context->upstreams, req->model) != NULL;
    place(req);
}

void request_stop_all(struct worker_context *context)
{
    struct request *req, *next;

    for (req = context->first; req != NULL; req = next) {
        next = req->next;
        if (req->state == REQUEST_STATE_FLUSHING || req->state == REQUEST_STATE_DONE)
            continue;
        enqueue_remove(req);
        end_attempts(req, STATS_CLIENT_GONE);
        reject(req, API_ERROR_SHUTTING_DOWN, "the coordinator is shutting down", 1);
    }
}

size_t request_open_count(const struct worker_context *context)
{
    return context->open_count;
}

void request_init(struct worker_context *context)
{
    context->try_start = try_start;
}
