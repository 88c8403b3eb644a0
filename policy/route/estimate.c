/* estimate.c - learns a node's speed and predicts the next request's cost. */
#include "policy/route/estimate.h"

#include <math.h>

#define ALPHA         0.1f /* of the moving averages */
#define FAILURE_TIMES 10.0f
#define MOST_CHARGE_US \
    600000000u /* many fit a 32-bit sum; a node that slow is the last anyway */

/* The growth of the regret of a speed trial, per microsecond without one. */
#define REGRET_S_PER_US (0.25 / 60e6)

/* ---- learning -------------------------------------------------------------------------- */

enum estimate_lesson estimate_lesson(const struct estimate_end *end)
{
    if (!op_class_holds_slot(end->op_class))
        return ESTIMATE_NOTHING;
    if (end->node_failed)
        return end->before ? ESTIMATE_FAILURE : ESTIMATE_NOTHING;
    return end->content && end->status < 400 && end->had_slot ? ESTIMATE_ANSWER
                                                              : ESTIMATE_NOTHING;
}

struct estimate_speed estimate_sample(uint32_t uncached_tokens, double left_s, double p,
                                      double took_s)
{
    return (struct estimate_speed){.tokens = (float)(uncached_tokens + left_s * p),
                                   .seconds = (float)took_s};
}

struct estimate_speed estimate_failure(struct estimate_speed usual, struct estimate_speed sent,
                                       const struct route_times *times)
{
    float least_s = (float)times->failure_least_s;

    if (usual.seconds > 0)
        return (struct estimate_speed){
            .tokens = usual.tokens, .seconds = fmaxf(least_s, FAILURE_TIMES * usual.seconds)};
    return (struct estimate_speed){.tokens = sent.tokens,
                                   .seconds = fmaxf(least_s, sent.seconds)};
}

struct estimate_speed estimate_learn(struct estimate_speed now, struct estimate_speed sample)
{
    if (!isfinite(sample.tokens) || !isfinite(sample.seconds) || !(sample.seconds > 0))
        return now;
    if (!(now.seconds > 0))
        return sample;
    now.tokens += ALPHA * (sample.tokens - now.tokens);
    now.seconds += ALPHA * (sample.seconds - now.seconds);
    return now;
}

/* ---- knowing --------------------------------------------------------------------------- */

uint32_t estimate_charge_us(double uncached_tokens, double tokens_per_s)
{
    double us = uncached_tokens / tokens_per_s * 1e6;

    if (!(us >= 1))
        return 1;
    return us < MOST_CHARGE_US ? (uint32_t)us : MOST_CHARGE_US;
}

/* ---- trying ---------------------------------------------------------------------------- */

double estimate_regret_s(uint64_t tried_us, bool busy, uint64_t now_us,
                         const struct route_times *times)
{
    uint64_t idle_us = now_us > tried_us ? now_us - tried_us : 0;

    if (idle_us < (busy ? times->trial_busy_us : times->trial_idle_us))
        return -1;
    return times->regret_s + REGRET_S_PER_US * (double)idle_us;
}
