/*
 * times.h - the time constants of routing.  Pure.
 *
 * They are measured in the time of people and engines: a second of silence, ten seconds without
 * a request.  Where engines run faster than real ones, as scripts/bench-routing's do, routing
 * keeps its meaning only if its constants shrink by the same factor.  A worker makes them once,
 * from `testing.speedup`.
 *
 * Admission and the queue's own timers are not here: they deal with clients and processes,
 * which are as fast as ever.  `hold_ms` is a setting: config_hold_us() divides it.
 */
#ifndef DROVER_POLICY_TIMES_H
#define DROVER_POLICY_TIMES_H

#include <stdint.h>

struct route_times {
    /* estimate.h */
    double guess_tokens_per_s; /* of a node of which nothing is known */
    double silence_us;         /* a first token may take this long on any node */
    double failure_least_s;    /* the sample of a failure is at least this long */
    uint64_t event_us;         /* failures of one node no further apart are one event */
    uint64_t trial_idle_us;    /* without a request, before an idle node is tried again */
    uint64_t trial_busy_us;    /* ... before a node with other requests is */
    /* So much counts of a time in which no request came at all: enough for a few requests a day
     * to find a node that has recovered, too little for a night to send a long prompt to a slow
     * one. */
    uint64_t trial_gap_us;
    double regret_s; /* of a trial at first; it grows by a part of the time without */
    /* order.h: a key is later by this */
    uint64_t default_class_us;
    uint64_t bulk_class_us;
    double most_prefill_us;
    /* A place beyond the slots is not for a key that is later by more than this than one that
     * waits for the node. */
    uint64_t overcommit_us;
    /* hold.h */
    double better_s;     /* a plan moves to a node that is better by more */
    uint64_t overdue_us; /* ... and chooses anew so long after the instant it promised */
    uint64_t look_us;    /* a request that waits looks at all nodes so often */
};

/* For engines that are `speedup` times as fast as real ones; 0 counts as 1. */
struct route_times route_times(uint32_t speedup);

#endif
