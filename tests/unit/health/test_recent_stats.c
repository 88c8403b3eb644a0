/* test_recent_stats.c - a minute of a node's work, from totals. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "health/nodes/recent_stats.h"

static struct recent_stats *recent_stats;
static struct recent_stats_sample *sample;
static uint64_t now;

static void begin(void)
{
    recent_stats = malloc(sizeof(*recent_stats));
    sample = calloc(1, sizeof(*sample));
    cr_assert(recent_stats != NULL && sample != NULL);
    now = 100 * US_PER_S;
    recent_stats_init(recent_stats, sample, now);
}

static void end(void)
{
    free(recent_stats);
    free(sample);
}

static void note(struct histogram *h, uint64_t us, uint64_t times)
{
    h->bucket[histogram_bucket(us)] += times;
    h->count += times;
    h->sum_us += us * times;
}

static void advance(void)
{
    now += RECENT_STATS_STEP_US;
    recent_stats_advance(recent_stats, sample, now);
}

static bool about(double value, double wanted, double tolerance)
{
    return fabs(value - wanted) <= wanted * tolerance;
}

TestSuite(recent_stats, .init = begin, .fini = end);

Test(recent_stats, without_traffic_all_is_zero_and_success_is_one)
{
    struct node_status f = {.ttft_p50_us = 7, .success_fraction = 0.5f};

    advance();
    recent_stats_figures(recent_stats, &f);
    cr_assert_eq(f.ttft_p50_us, 0);
    cr_assert_eq(f.ttft_p99_us, 0);
    cr_assert(f.requests_per_s == 0.0f);
    cr_assert(f.success_fraction == 1.0f);
}

Test(recent_stats, before_the_first_step_there_are_no_rates)
{
    struct node_status f = {0};

    recent_stats_figures(recent_stats, &f);
    cr_assert(f.requests_per_s == 0.0f);
    cr_assert(f.tokens_per_s == 0.0f);
}

Test(recent_stats, samples_from_before_the_start_are_not_recent)
{
    struct node_status f = {0};

    note(&sample->ttft, 50000, 10);
    sample->counter[STATS_OK] = 10;
    recent_stats_init(recent_stats, sample, now);
    advance();
    recent_stats_figures(recent_stats, &f);
    cr_assert_eq(f.ttft_p50_us, 0);
    cr_assert(f.requests_per_s == 0.0f);
}

Test(recent_stats, rates_quantiles_and_success_are_those_of_the_steps)
{
    struct node_status f = {0};

    /* 98 first tokens at 100 ms and 2 at 2 s in 10 s: median 100 ms, 99th percentile 2 s. */
    note(&sample->ttft, 100000, 90);
    note(&sample->tpot, 20000, 50);
    sample->counter[STATS_OK] = 80;
    sample->counter[STATS_OUTPUT_TOKENS] = 4000;
    advance();
    note(&sample->ttft, 100000, 8);
    note(&sample->ttft, 2000000, 2);
    sample->counter[STATS_OK] += 8;
    sample->counter[STATS_CLIENT_ERROR] += 2; /* good: the node answered */
    sample->counter[STATS_NODE_ERROR] += 6;
    sample->counter[STATS_TIMEOUT] += 2;
    sample->counter[STATS_CONNECT_FAILED] += 2;
    sample->counter[STATS_CLIENT_GONE] += 20; /* neither good nor bad, but finished */
    sample->counter[STATS_FULL] += 50;
    advance();
    recent_stats_figures(recent_stats, &f);
    cr_assert(about(f.ttft_p50_us, 100000, 0.05), "%u", f.ttft_p50_us);
    cr_assert(about(f.ttft_p99_us, 2000000, 0.05), "%u", f.ttft_p99_us);
    cr_assert(about(f.tpot_p50_us, 20000, 0.05), "%u", f.tpot_p50_us);
    cr_assert(about(f.requests_per_s, 12.0, 1e-6), "120 in 10 s, not %f",
              (double)f.requests_per_s);
    cr_assert(about(f.tokens_per_s, 400.0, 1e-6));
    cr_assert(about(f.success_fraction, 0.9, 1e-6), "90 of 100");
}

Test(recent_stats, samples_older_than_a_minute_are_forgotten)
{
    struct node_status f = {0};

    sample->counter[STATS_OK] = 60;
    note(&sample->ttft, 100000, 60);
    advance();
    for (unsigned i = 1; i < RECENT_STATS_STEPS; i++)
        advance();
    recent_stats_figures(recent_stats, &f);
    cr_assert(about(f.requests_per_s, 1.0, 1e-6), "60 in 60 s");
    advance();
    recent_stats_figures(recent_stats, &f);
    cr_assert(f.requests_per_s == 0.0f);
    cr_assert_eq(f.ttft_p50_us, 0);
}

Test(recent_stats, totals_that_shrank_count_as_nothing)
{
    struct node_status f = {0};

    sample->counter[STATS_OK] = 5;
    note(&sample->ttft, 100000, 5);
    advance();
    *sample = (struct recent_stats_sample){0};
    advance();
    recent_stats_figures(recent_stats, &f);
    cr_assert(about(f.requests_per_s, 0.5, 1e-6), "5 in 10 s");
}
