/* recent_stats.c - what a node did in the last minute. */
#include "health/nodes/recent_stats.h"

#include <string.h>

void recent_stats_init(struct recent_stats *recent_stats, const struct recent_stats_sample *now,
                       uint64_t now_mono_us)
{
    memset(recent_stats, 0, sizeof(*recent_stats));
    recent_stats->last = *now;
    recent_stats->last_mono_us = now_mono_us;
}

static uint64_t grown(uint64_t now, uint64_t before)
{
    return now > before ? now - before : 0;
}

static void step_histogram(uint32_t *out, const struct histogram *now,
                           const struct histogram *before)
{
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        uint64_t added = grown(now->bucket[b], before->bucket[b]);

        out[b] = added > UINT32_MAX ? UINT32_MAX : (uint32_t)added;
    }
}

void recent_stats_advance(struct recent_stats *recent_stats,
                          const struct recent_stats_sample *now, uint64_t now_mono_us)
{
    struct recent_stats_step *step = &recent_stats->step[recent_stats->next];

    step_histogram(step->ttft, &now->ttft, &recent_stats->last.ttft);
    step_histogram(step->tpot, &now->tpot, &recent_stats->last.tpot);
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        step->counter[c] = grown(now->counter[c], recent_stats->last.counter[c]);
    step->length_us = grown(now_mono_us, recent_stats->last_mono_us);
    recent_stats->last = *now;
    recent_stats->last_mono_us = now_mono_us;
    recent_stats->next = (recent_stats->next + 1) % RECENT_STATS_STEPS;
}

static void sum_histogram(struct histogram *into, const uint32_t *step)
{
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        into->bucket[b] += step[b];
        into->count += step[b];
    }
}

static uint32_t quantile(const struct histogram *h, double fraction)
{
    uint64_t us = histogram_quantile_us(h, fraction);

    return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

void recent_stats_figures(const struct recent_stats *recent_stats, struct node_status *out)
{
    struct histogram ttft = {0}, tpot = {0};
    uint64_t counter[STATS_COUNTERS] = {0};
    uint64_t length_us = 0;
    uint64_t good, bad, finished;
    double seconds;

    for (unsigned s = 0; s < RECENT_STATS_STEPS; s++) {
        const struct recent_stats_step *step = &recent_stats->step[s];

        if (step->length_us == 0)
            continue;
        sum_histogram(&ttft, step->ttft);
        sum_histogram(&tpot, step->tpot);
        for (unsigned c = 0; c < STATS_COUNTERS; c++)
            counter[c] += step->counter[c];
        length_us += step->length_us;
    }
    /* A client's mistake, a client that left, and a node that said it is full are no failures
     * of the node; nor is FULL a success. */
    good = counter[STATS_OK] + counter[STATS_CLIENT_ERROR];
    bad = counter[STATS_NODE_ERROR] + counter[STATS_TIMEOUT] + counter[STATS_CONNECT_FAILED];
    finished = good + bad + counter[STATS_CLIENT_GONE];
    seconds = (double)length_us / 1e6;

    out->ttft_p50_us = quantile(&ttft, 0.50);
    out->ttft_p99_us = quantile(&ttft, 0.99);
    out->tpot_p50_us = quantile(&tpot, 0.50);
    out->requests_per_s = length_us == 0 ? 0.0f : (float)((double)finished / seconds);
    out->tokens_per_s =
        length_us == 0 ? 0.0f : (float)((double)counter[STATS_OUTPUT_TOKENS] / seconds);
    out->success_fraction =
        good + bad == 0 ? 1.0f : (float)((double)good / (double)(good + bad));
}
