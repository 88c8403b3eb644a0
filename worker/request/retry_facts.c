/* retry_facts.c - the end of an attempt, for its request and for retry_decide(). */
#include "worker/request/retry_facts.h"

#include <stdio.h>

#include "base/config/config.h"
#include "base/log.h"
#include "shm/share/budget.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/attempt.h"
#include "worker/request/hedge.h"
#include "worker/request/request_state.h"

/* A request that meets full nodes again and again pauses twice as long each time, so often. */
#define MAX_DOUBLINGS 3

static struct retry_facts facts_of(const struct request *req, enum retry_end end,
                                   bool other_runs)
{
    const struct config_limits *limits = &req->context->config->limits;
    uint64_t until = req->wait_node_mono_us;

    return (struct retry_facts){
        .end = end,
        .client_gone = req->client == NULL,
        .other_runs = other_runs,
        .content_shown = req->shown == SHOWN_CONTENT,
        .resumable = req->resumable && buf_size(&req->text) != 0,
        .wait_left = until == 0 || loop_now_us(req->context->loop) < until,
        .budget_allows = budget_allows(req->context->board, req->model_hash),
        .all_away = req->away != 0 && req->blamed == 0 && req->refusals == 0 &&
                    req->unsure == 0 && req->last_error == API_ERROR_NONE,
        .attempts = req->attempts,
        .max_attempts = limits->max_attempts,
        .resumes = req->resumes,
        .max_resumes = limits->max_resumes,
        .refusals = req->refusals + req->away_nodes,
        .unsure = req->unsure,
        .trusted = req->trusted,
        .blamed = req->blamed,
        .engines_died = req->engines_died,
    };
}

static enum request_outcome outcome_of(enum api_error error)
{
    if (error == API_ERROR_BAD_REQUEST || error == API_ERROR_CONTEXT_LENGTH ||
        error == API_ERROR_TOO_LARGE)
        return REQUEST_OUTCOME_CLIENT_ERROR;
    return error == API_ERROR_NODE_TIMEOUT ? REQUEST_OUTCOME_TIMEOUT
                                           : REQUEST_OUTCOME_NODE_ERROR;
}

/* The client's error if no other node helps.  A refusal without a document, like a key that the
 * engine does not take, says least; and so does a node that cannot continue an answer. */
static void keep_failure(const struct attempt *attempt, const struct attempt_failure *failure,
                         enum retry_end end, bool other_runs)
{
    struct request *req = attempt->request;
    bool continued = req->shown == SHOWN_CONTENT && attempt->content_mono_us == 0;

    if (end == RETRY_END_UNSURE || end == RETRY_END_EMPTY)
        return; /* its words are kept, or better ones */
    if (end == RETRY_END_AWAY)
        return; /* nothing failed there: see answer_failure() */
    if ((end == RETRY_END_LACKS || continued) && req->last_error != API_ERROR_NONE)
        return;
    if ((end == RETRY_END_LACKS || end == RETRY_END_BLAMED) && req->refusal.status != 0)
        return; /* the engine's document is kept */
    req->last_error = failure->error;
    (void)snprintf(req->last_message, sizeof(req->last_message), "%s", failure->message);
    if (!other_runs || failure->error == API_ERROR_BAD_REQUEST)
        req->outcome = outcome_of(failure->error);
}

/* A property of this request may be why nodes report that they are full, so each pause is
 * longer and lets other requests try. */
static uint64_t pause_until(struct request *req)
{
    uint32_t doublings = req->full_nodes < MAX_DOUBLINGS ? req->full_nodes : MAX_DOUBLINGS;

    req->full_nodes++;
    return loop_now_us(req->context->loop) + (ATTEMPT_FULL_PAUSE_US << doublings);
}

static struct excluded_node exclude(const struct attempt *attempt, enum retry_end end)
{
    struct request *req = attempt->request;
    struct excluded_node excluded = {.node = attempt->node,
                                     .generation = attempt->generation,
                                     .until_mono_us = UINT64_MAX,
                                     .away = end == RETRY_END_AWAY};

    if (end == RETRY_END_FULL)
        excluded.until_mono_us = pause_until(req);
    else if (end == RETRY_END_AWAY)
        excluded.until_mono_us = retry_away_until(req->away, loop_now_us(req->context->loop));
    return excluded;
}

/* The failure, for a request that has a client. */
static void note_failure(const struct attempt *attempt, const struct attempt_failure *failure,
                         enum retry_end end, bool other_runs)
{
    struct request *req = attempt->request;
    uint64_t now = loop_now_us(req->context->loop);

    req->away_nodes += exclusions_add(&req->excluded, exclude(attempt, end), now);
    log_debug("event=attempt_failed id=%s execution=%s node=%s attempt=%u reason=%s message=%s",
              req->client->id, req->client->execution_id, attempt->node_name, attempt->number,
              api_error_reason(failure->error), log_quote(failure->message));
    if (end != RETRY_END_FULL)
        keep_failure(attempt, failure, end, other_runs);
    /* Retries are for one bad node among good ones, and must not multiply the load when they do
     * not help.  So only a failure after the first attempt spends budget. */
    if (end == RETRY_END_FAILED && !other_runs && req->attempts > 1 &&
        failure->error != API_ERROR_TOO_LARGE)
        budget_failure(req->context->board, req->model_hash, now);
}

struct retry_facts retry_facts_failed(struct attempt *attempt, struct attempt_failure *failure)
{
    struct request *req = attempt->request;
    enum retry_end end = attempt_retry_end(attempt, failure);
    bool other_runs;

    if (failure->counter == STATS_FULL && attempt->status != 0) {
        failure->counter = STATS_NODE_ERROR;
        failure->error = API_ERROR_NODE_FAILED;
    }
    req->full_unhinted = failure->unhinted;
    attempt_end(attempt, failure->counter);
    if (req->client != NULL)
        attempt_note_cause(attempt, end);
    other_runs = hedge_leave(attempt);
    if (req->client != NULL)
        note_failure(attempt, failure, end, other_runs);
    return facts_of(req, end, other_runs);
}

struct retry_facts retry_facts_answered(struct attempt *attempt)
{
    struct request *req = attempt->request;

    budget_success(req->context->board, req->model_hash, loop_now_us(req->context->loop));
    hedge_earn(req);
    attempt_end_whole(attempt);
    return facts_of(req, RETRY_END_ANSWERED, false);
}

struct retry_facts retry_facts_no_node_left(const struct request *req)
{
    return facts_of(req, RETRY_END_NO_NODE_LEFT, false);
}
