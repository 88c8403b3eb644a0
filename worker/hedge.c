/*
 * hedge.c - a second attempt beside one that is slow.
 *
 * A hedge is never more than one for a request, only before its first content, only where a
 * slot is free at that moment and nobody waits in line for it, and only as long as there is
 * budget: so much percent of the answers that were given, over all workers, and none while
 * retries are throttled.  The first leg to give content is the client's; the other is cancelled
 * in the same turn, and that is no failure of its node.  Nothing of either was shown before, so
 * the client gets one attempt's bytes alone.
 *
 * A leg that fails leaves the other to go on alone, as if it had been the only one.
 */
#include "worker/hedge.h"

#include "base/clock.h"
#include "base/config/config.h"
#include "base/histogram.h"
#include "base/loop.h"
#include "shm/routing/budget.h"
#include "shm/routing/requests.h"
#include "worker/attempt.h"
#include "worker/exchange_private.h"
#include "worker/http/request.h"
#include "worker/routing/choose.h"

/* A hedge that found no free slot or no budget looks again after this long. */
#define LOOK_AGAIN_US (100 * US_PER_MS)

uint64_t hedge_delay_us(const struct config_hedge *config, const struct histogram *ttft,
                        uint32_t attempts_left)
{
    uint64_t quantile_us, floor_us = config->floor_ms * US_PER_MS;

    if (!config->enabled || attempts_left == 0 || ttft->count < config->min_samples)
        return 0;
    quantile_us = histogram_quantile_us(ttft, HEDGE_QUANTILE);
    return quantile_us > floor_us ? quantile_us : floor_us;
}

void hedge_plan(struct exchange *x)
{
    const struct config_hedge *config = config_hedge_for(x->core->config, x->model);
    uint32_t most = x->core->config->limits.max_attempts;
    const struct leg *leg = x->leg;
    struct histogram ttft;
    uint64_t delay_us;

    x->hedge_due_mono_us = UINT64_MAX;
    if (!config->enabled || x->hedged || x->content_shown)
        return;
    stats_read_histogram(x->core->board, leg->node, STATS_TTFT, &ttft);
    delay_us = hedge_delay_us(config, &ttft, x->attempts < most ? most - x->attempts : 0);
    if (delay_us != 0)
        x->hedge_due_mono_us = leg->dispatch_mono_us + delay_us;
}

void hedge_earn(struct exchange *x)
{
    const struct config_hedge *config = config_hedge_for(x->core->config, x->model);

    if (config->enabled)
        budget_save(x->core->board, x->model_hash, loop_now_us(x->core->loop),
                    config->budget_pct * (BUDGET_HEDGE_MILLI / 100));
}

static struct leg *other(struct exchange *x)
{
    return x->leg == &x->legs[0] ? &x->legs[1] : &x->legs[0];
}

/* Claims a place for a second leg.  False: there is none to be had now. */
static bool claim(struct exchange *x, struct leg *leg, struct fleet_node **node)
{
    struct exchange_core *core = x->core;
    uint64_t now = loop_now_us(core->loop);

    if (waiting_has_line(x) || !budget_allows(core->board, x->model_hash) ||
        !budget_spend(core->board, x->model_hash, now))
        return false;
    if (choose_node(leg, false, node) == CHOOSE_CLAIMED)
        return true;
    budget_save(core->board, x->model_hash, now, BUDGET_HEDGE_MILLI);
    return false;
}

void hedge_try(struct exchange *x)
{
    struct exchange_core *core = x->core;
    struct leg *leg = other(x);
    struct fleet_node *node;

    x->hedge_due_mono_us = loop_now_us(core->loop) + LOOK_AGAIN_US;
    leg->is_hedge = true;
    if (!claim(x, leg, &node))
        return;
    x->hedge_due_mono_us = UINT64_MAX;
    x->hedged = true;
    x->hedge = leg;
    leg->status = 0;
    buf_reset(&leg->headers);
    buf_reset(&leg->held);
    leg->row = requests_open(core->board, core->slot, x->request->id, x->request->client_model,
                             x->prompt_estimate, x->started_mono_us);
    stats_count(core->board, leg->node, leg->generation, STATS_HEDGES, 1);
    if (exchange_begin_attempt(leg, node) != 0)
        (void)hedge_leave(leg);
}

void hedge_adopt(struct leg *leg)
{
    struct exchange *x = leg->x;
    struct leg *loser = other(x);

    x->hedge_due_mono_us = UINT64_MAX;
    if (x->hedged && leg->is_hedge && !x->hedge_won) {
        x->hedge_won = true;
        stats_count(x->core->board, leg->node, leg->generation, STATS_HEDGES_WON, 1);
    }
    if (x->hedge == NULL)
        return;
    if (leg == loser)
        loser = x->leg;
    attempt_cancel(loser->attempt);
    loser->attempt = NULL;
    choose_release(loser, STATS_OVERTAKEN);
    (void)hedge_leave(loser);
}

bool hedge_leave(struct leg *leg)
{
    struct exchange *x = leg->x;

    if (x->hedge == NULL)
        return false;
    if (leg == x->leg)
        x->leg = x->hedge;
    x->hedge = NULL;
    requests_close(x->core->board, x->core->slot, leg->row);
    leg->row = -1;
    return true;
}
