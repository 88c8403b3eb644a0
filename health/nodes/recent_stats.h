/*
 * recent_stats.h - what a node did in the last minute, from figures that only ever grow.  Pure.
 *
 * Every few seconds the caller takes a sample of the node's histograms and counters; the window
 * keeps what each step added, for the last RECENT_STATS_STEPS steps.
 */
#ifndef DROVER_HEALTH_NODES_RECENT_STATS_H
#define DROVER_HEALTH_NODES_RECENT_STATS_H

#include <stdint.h>

#include "base/histogram.h"
#include "shm/facts/nodes.h"
#include "shm/facts/stats.h"

#define RECENT_STATS_STEPS   12u
#define RECENT_STATS_STEP_US UINT64_C(5000000)

/* Totals since the node took its row. */
struct recent_stats_sample {
    struct histogram ttft, tpot;
    uint64_t counter[STATS_COUNTERS];
};

/* One step's additions.  Counts of 5 s fit 32 bits; larger ones saturate. */
struct recent_stats_step {
    uint32_t ttft[HISTOGRAM_BUCKETS], tpot[HISTOGRAM_BUCKETS];
    uint64_t counter[STATS_COUNTERS];
    uint64_t length_us; /* 0 = not yet used */
};

struct recent_stats {
    struct recent_stats_sample last;
    uint64_t last_mono_us;
    unsigned next; /* the step that the next sample fills */
    struct recent_stats_step step[RECENT_STATS_STEPS];
};

/* Begins with a node's totals as they are now: none of it counts as recent. */
void recent_stats_init(struct recent_stats *recent_stats, const struct recent_stats_sample *now,
                       uint64_t now_mono_us);

/* Ends a step.  Totals that shrank (the slot was zeroed) count as zero. */
void recent_stats_advance(struct recent_stats *recent_stats,
                          const struct recent_stats_sample *now, uint64_t now_mono_us);

/* Fills ttft_p50_us .. success_fraction of *out and nothing else. */
void recent_stats_figures(const struct recent_stats *recent_stats, struct node_status *out);

#endif
