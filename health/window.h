/*
 * window.h - what a node did in the last minute, from figures that only ever grow.  Pure.
 *
 * Every few seconds the caller takes a sample of the node's histograms and counters; the window
 * keeps what each step added, for the last WINDOW_STEPS steps.
 */
#ifndef DROVER_HEALTH_WINDOW_H
#define DROVER_HEALTH_WINDOW_H

#include <stdint.h>

#include "base/histogram.h"
#include "shm/nodes.h"
#include "shm/stats.h"

#define WINDOW_STEPS   12u
#define WINDOW_STEP_US UINT64_C(5000000)

/* Totals since the node took its slot. */
struct window_sample {
    struct histogram ttft, tpot;
    uint64_t counter[STATS_COUNTERS];
};

/* One step's additions.  Counts of 5 s fit 32 bits; larger ones saturate. */
struct window_step {
    uint32_t ttft[HISTOGRAM_BUCKETS], tpot[HISTOGRAM_BUCKETS];
    uint64_t counter[STATS_COUNTERS];
    uint64_t length_us; /* 0 = not yet used */
};

struct window {
    struct window_sample last;
    uint64_t last_mono_us;
    unsigned next; /* the step that the next sample fills */
    struct window_step step[WINDOW_STEPS];
};

/* Begins with a node's totals as they are now: none of it counts as recent. */
void window_init(struct window *window, const struct window_sample *now, uint64_t now_mono_us);

/* Ends a step.  Totals that shrank (the slot was zeroed) count as zero. */
void window_advance(struct window *window, const struct window_sample *now,
                    uint64_t now_mono_us);

/* Fills ttft_p50_us .. success_fraction of *out and nothing else. */
void window_figures(const struct window *window, struct node_status *out);

#endif
