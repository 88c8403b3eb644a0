/* stats.c - histograms, counters and learned speeds of the nodes. */
#include "shm/facts/stats.h"

#include <math.h>
#include <string.h>

#include "shm/segment.h"

static_assert(STATS_AVERAGES == SB_AVERAGES, "new layout version");
static_assert(STATS_HISTOGRAMS == SB_HISTOGRAMS, "new layout version");
static_assert(STATS_COUNTERS == SB_COUNTERS, "new layout version");

#define AVERAGE_TRIES 8

const char *stats_histogram_name(enum stats_histogram which)
{
    switch (which) {
    case STATS_TTFT:
        return "ttft";
    case STATS_TPOT:
        return "tpot";
    case STATS_E2E:
        return "e2e";
    case STATS_CONNECT:
        return "connect";
    case STATS_HISTOGRAMS:
        break;
    }
    return "unknown";
}

const char *stats_counter_name(enum stats_counter which)
{
    switch (which) {
    case STATS_DISPATCHED:
        return "dispatched";
    case STATS_OK:
        return "ok";
    case STATS_CLIENT_ERROR:
        return "client_error";
    case STATS_CLIENT_GONE:
        return "client_gone";
    case STATS_NODE_ERROR:
        return "node_error";
    case STATS_TIMEOUT:
        return "timeout";
    case STATS_OVERTAKEN:
        return "overtaken";
    case STATS_FULL:
        return "full";
    case STATS_CONNECT_FAILED:
        return "connect_failed";
    case STATS_RETRIED:
        return "retried";
    case STATS_HEDGES:
        return "hedges";
    case STATS_HEDGES_WON:
        return "hedges_won";
    case STATS_PROMPT_TOKENS:
        return "prompt_tokens";
    case STATS_CACHED_TOKENS:
        return "cached_tokens";
    case STATS_OUTPUT_TOKENS:
        return "output_tokens";
    case STATS_COUNTERS:
        break;
    }
    return "unknown";
}

/* The stats of a node's row for adding, if `generation` is still the row's.  A sample that is
 * under way while the row changes hands may land with the new node: one, and harmless. */
static struct sb_stats *stats_for(struct scoreboard *board, unsigned node, uint32_t generation)
{
    const struct sb_hot *hot = segment_hot(board, node);

    if (!board->writable || hot == NULL || segment_generation(hot) != generation)
        return NULL;
    return segment_stats(board, node);
}

void stats_note(struct scoreboard *board, unsigned node, uint32_t generation,
                enum stats_histogram which, uint64_t us)
{
    struct sb_stats *stats = stats_for(board, node, generation);

    if (stats == NULL || (unsigned)which >= STATS_HISTOGRAMS)
        return;
    atomic_fetch_add_explicit(&stats->histogram[which].bucket[histogram_bucket(us)], 1,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&stats->histogram[which].sum_us, us, memory_order_relaxed);
}

void stats_count(struct scoreboard *board, unsigned node, uint32_t generation,
                 enum stats_counter which, uint64_t add)
{
    struct sb_stats *stats = stats_for(board, node, generation);

    if (stats == NULL || (unsigned)which >= STATS_COUNTERS)
        return;
    atomic_fetch_add_explicit(&stats->counter[which], add, memory_order_relaxed);
}

static double from_bits(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof(value));
    return isfinite(value) ? value : 0;
}

static uint64_t to_bits(double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

void stats_average(struct scoreboard *board, unsigned node, uint32_t generation,
                   enum stats_average which, double sample, double alpha)
{
    struct sb_hot *hot = segment_hot(board, node);
    uint64_t bits;

    if (!board->writable || hot == NULL || segment_generation(hot) != generation ||
        (unsigned)which >= STATS_AVERAGES || !isfinite(sample))
        return;
    bits = atomic_load_explicit(&hot->average[which], memory_order_relaxed);
    for (int i = 0; i < AVERAGE_TRIES; i++) {
        double now = from_bits(bits);
        double next = bits == 0 ? sample : now + alpha * (sample - now);

        if (atomic_compare_exchange_weak_explicit(&hot->average[which], &bits, to_bits(next),
                                                  memory_order_relaxed, memory_order_relaxed))
            return;
    }
}

void stats_read_histogram(const struct scoreboard *board, unsigned node,
                          enum stats_histogram which, struct histogram *out)
{
    struct sb_stats *stats = segment_stats(board, node);

    *out = (struct histogram){0};
    if (stats == NULL || (unsigned)which >= STATS_HISTOGRAMS)
        return;
    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++) {
        out->bucket[b] =
            atomic_load_explicit(&stats->histogram[which].bucket[b], memory_order_relaxed);
        out->count += out->bucket[b];
    }
    out->sum_us = atomic_load_explicit(&stats->histogram[which].sum_us, memory_order_relaxed);
}

uint64_t stats_read_counter(const struct scoreboard *board, unsigned node,
                            enum stats_counter which)
{
    struct sb_stats *stats = segment_stats(board, node);

    if (stats == NULL || (unsigned)which >= STATS_COUNTERS)
        return 0;
    return atomic_load_explicit(&stats->counter[which], memory_order_relaxed);
}

double stats_read_average(const struct scoreboard *board, unsigned node,
                          enum stats_average which)
{
    const struct sb_hot *hot = segment_hot(board, node);

    if (hot == NULL || (unsigned)which >= STATS_AVERAGES)
        return 0;
    return from_bits(atomic_load_explicit(&hot->average[which], memory_order_relaxed));
}

void stats_zero(struct scoreboard *board, unsigned node)
{
    struct sb_stats *stats = segment_stats(board, node);

    if (!board->writable || stats == NULL)
        return;
    for (unsigned h = 0; h < STATS_HISTOGRAMS; h++) {
        for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
            atomic_store_explicit(&stats->histogram[h].bucket[b], 0, memory_order_relaxed);
        atomic_store_explicit(&stats->histogram[h].sum_us, 0, memory_order_relaxed);
    }
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        atomic_store_explicit(&stats->counter[c], 0, memory_order_relaxed);
    for (unsigned a = 0; a < STATS_AVERAGES; a++)
        atomic_store_explicit(&segment_hot(board, node)->average[a], 0, memory_order_relaxed);
}
