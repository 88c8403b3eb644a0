/* hedge.c - a second attempt beside one that is slow. */
#include "worker/request/hedge.h"

#include "base/clock.h"
#include "base/config/config.h"
#include "base/histogram.h"
#include "base/io/loop.h"
#include "shm/facts/requests.h"
#include "shm/share/budget.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/request/attempt.h"
#include "worker/request/request_state.h"
#include "worker/select/enqueue.h"
#include "worker/select/select.h"

/* A hedge that found no free slot or no budget looks again after this long. */
#define LOOK_AGAIN_US (100 * US_PER_MS)
/* A larger body is not sent twice at once. */
#define MAX_BODY_BYTES ((size_t)1 << 20)

uint64_t hedge_delay_us(const struct config_hedge *config, const struct histogram *ttft,
                        uint32_t attempts_left)
{
    uint64_t quantile_us, floor_us = config->floor_ms * US_PER_MS;

    if (!config->enabled || attempts_left == 0 || ttft->count < config->min_samples)
        return 0;
    quantile_us = histogram_quantile_us(ttft, HEDGE_QUANTILE);
    return quantile_us > floor_us ? quantile_us : floor_us;
}

void hedge_plan(struct request *req)
{
    const struct config_hedge *config = config_hedge_for(req->context->config, req->model);
    uint32_t most = req->context->config->limits.max_attempts;
    const struct attempt *attempt = req->attempt;
    struct histogram ttft;
    uint64_t delay_us;

    req->hedge_due_mono_us = UINT64_MAX;
    if (!config->enabled || req->hedged || req->shown == SHOWN_CONTENT ||
        req->client->body_len > MAX_BODY_BYTES ||
        req->engines_died != 0) /* two engines are the most that may die with it */
        return;
    stats_read_histogram(req->context->board, attempt->node, STATS_TTFT, &ttft);
    delay_us = hedge_delay_us(config, &ttft, req->attempts < most ? most - req->attempts : 0);
    if (delay_us != 0)
        req->hedge_due_mono_us = attempt->dispatch_mono_us + delay_us;
}

void hedge_earn(struct request *req)
{
    const struct config_hedge *config = config_hedge_for(req->context->config, req->model);

    if (config->enabled)
        budget_save(req->context->board, req->model_hash, loop_now_us(req->context->loop),
                    config->budget_pct * (BUDGET_HEDGE_MILLI / 100));
}

static struct attempt *other(struct request *req)
{
    return req->attempt == &req->pair[0] ? &req->pair[1] : &req->pair[0];
}

/* Claims a place for a second attempt.  False: there is none to be had now. */
static bool claim(struct request *req, struct attempt *attempt, struct upstream **node)
{
    struct worker_context *context = req->context;
    uint64_t now = loop_now_us(context->loop);
    struct queue_rights rights;

    if (!budget_allows(context->board, req->model_hash) ||
        !budget_spend(context->board, req->model_hash, now))
        return false;
    if (select_node(attempt, enqueue_rights(req, true, &rights), node) == SELECT_CLAIMED)
        return true;
    budget_save(context->board, req->model_hash, now, BUDGET_HEDGE_MILLI);
    return false;
}

void hedge_try(struct request *req, const struct node_call_events *events)
{
    struct worker_context *context = req->context;
    struct attempt *attempt = other(req);
    struct upstream *node;

    req->hedge_due_mono_us = loop_now_us(context->loop) + LOOK_AGAIN_US;
    attempt->is_hedge = true;
    if (!claim(req, attempt, &node))
        return;
    req->hedge_due_mono_us = UINT64_MAX;
    req->hedged = true;
    req->hedge = attempt;
    attempt->row =
        requests_open(context->board, context->worker, req->client->id,
                      req->client->client_model, req->prompt_estimate, req->started_mono_us);
    stats_count(context->board, attempt->node, attempt->generation, STATS_HEDGES, 1);
    if (attempt_start(attempt, node, events) != 0)
        (void)hedge_leave(attempt);
}

void hedge_adopt(struct attempt *attempt)
{
    struct request *req = attempt->request;
    struct attempt *loser = other(req);

    req->hedge_due_mono_us = UINT64_MAX;
    if (req->hedged && attempt->is_hedge && !req->hedge_won) {
        req->hedge_won = true;
        stats_count(req->context->board, attempt->node, attempt->generation, STATS_HEDGES_WON,
                    1);
    }
    if (req->hedge == NULL)
        return;
    if (attempt == loser)
        loser = req->attempt;
    attempt_end(loser, STATS_OVERTAKEN);
    (void)hedge_leave(loser);
}

bool hedge_leave(struct attempt *attempt)
{
    struct request *req = attempt->request;

    if (req->hedge == NULL)
        return false;
    if (attempt == req->attempt)
        req->attempt = req->hedge;
    req->hedge = NULL;
    requests_close(req->context->board, req->context->worker, attempt->row);
    attempt->row = -1;
    return true;
}
