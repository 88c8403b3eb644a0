/*
 * admission.h - who may use the engine now, who waits, who is refused.
 *
 * The node is the last authority on its own slots.  A slot counts as taken by
 *   active     runs of ours;
 *   lingering  runs of ours that were cancelled, until the engine shows that it noticed: it may
 *              go on for a while after its connection has closed;
 *   foreign    requests of others that the engine shows, when two looks in a row agree.
 * Waiters run by priority, and first come first served within one.
 *
 * A question (proto/operations.h) needs no slot and never waits; only so many run at once that
 * they cannot become a load of their own.  Pure.
 */
#ifndef DROVER_NODE_ADMISSION_H
#define DROVER_NODE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"

/* No engine hides a run that long after its connection closed. */
#define ADMISSION_LINGER_MAX_US (120 * UINT64_C(1000000))

/* Questions in the engine at once. */
#define ADMISSION_MAX_QUESTIONS 32u

struct waiter {
    int32_t priority; /* higher runs first */
    bool waits;       /* `link` is in the list */
    TAILQ_ENTRY(waiter) link;
};

struct admission {
    uint32_t slots; /* at least 1 */
    uint32_t queue; /* how many may wait */
    uint32_t active, lingering, foreign, queued;
    uint32_t questions;                  /* under way; they count nowhere else */
    uint32_t foreign_seen;               /* by the last look alone */
    uint64_t lingered_mono_us;           /* when the last run began to linger */
    TAILQ_HEAD(waiters, waiter) waiters; /* in the order in which they run */
};

enum admit {
    ADMIT_FULL = 0, /* refused */
    ADMIT_NOW,      /* has a slot: `active` counts it */
    ADMIT_QUEUED,   /* waits */
};

void admission_init(struct admission *a, uint32_t slots, uint32_t queue);
void admission_resize(struct admission *a, uint32_t slots, uint32_t queue);

MUST_CHECK enum admit admission_ask(struct admission *a, struct waiter *waiter);

/* The next waiter, now active, or NULL when none waits or no slot is free. */
MUST_CHECK struct waiter *admission_next(struct admission *a);

/* A waiter gives up.  Not waiting is fine. */
void admission_leave(struct admission *a, struct waiter *waiter);

/* An active run has ended; `lingers`: the engine may not know it yet. */
void admission_end(struct admission *a, bool lingers, uint64_t now_mono_us);

/* A question begins, whatever the slots do.  False: ADMISSION_MAX_QUESTIONS are under way. */
MUST_CHECK bool admission_question(struct admission *a);
void admission_question_end(struct admission *a);

/* The engine showed `running` requests when asked at `asked_mono_us`. */
void admission_looked(struct admission *a, uint32_t running, uint64_t asked_mono_us);

/* Slots in use, for reports: active and lingering and foreign ones. */
uint32_t admission_busy(const struct admission *a);

/* Where in the queue a waiter stands, from 1. */
uint32_t admission_position(const struct admission *a, const struct waiter *waiter);

#endif
