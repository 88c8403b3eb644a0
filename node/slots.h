/*
 * slots.h - which requests run now, which wait, which are refused.
 *
 * The node is the last authority on its own slots.  A slot counts as taken by
 *   active     runs of ours;
 *   lingering  runs of ours that were cancelled, until the engine shows that it noticed: it may
 *              go on for a while after its connection has closed;
 *   foreign    requests of others that the engine shows, when two looks in a row agree.
 * Waiters run by priority, and first come first served within one.  Where the engine holds only
 * so many models at once (a llama-server that routes), the next waiter has to wait until its
 * model is among them, and no other overtakes it: otherwise one model's clients would keep the
 * others out.  A model that is loaded where all places are taken unloads another, which for a
 * while still looks loaded and refuses what it gets: until the new one answers or is seen to
 * have its place, only models that run get more requests.  Which one has gone only a look
 * shows: until then any that does not run may have to be loaded.  And no such load begins while
 * a request may still be on its way to a model, which the engine takes for idle.
 *
 * A question (proto/operations.h) needs no slot and never waits; only so many run at once that
 * they cannot become a load of their own.  Pure.
 */
#ifndef DROVER_NODE_SLOTS_H
#define DROVER_NODE_SLOTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"

/* No engine hides a run that long after its connection closed. */
#define SLOTS_LINGER_MAX_US (120 * UINT64_C(1000000))

/* Questions in the engine at once. */
#define SLOTS_MAX_QUESTIONS 32u

/* A request, waiting or active. */
struct waiter {
    int32_t priority; /* higher runs first */
    uint64_t model;   /* equal numbers, equal model */
    bool loads;       /* its model has no place in memory, as far as is known */
    bool seen;        /* it runs, and the models have been looked at */
    bool arrived;     /* it runs, and has been answered, or two such looks have ended */
    bool waits;       /* `link` is among the waiters */
    bool runs;        /* `link` is among those that run */
    TAILQ_ENTRY(waiter) link;
};

struct slots {
    uint32_t slots;         /* at least 1 */
    uint32_t queue;         /* how many may wait */
    uint32_t models;        /* how many models may be active at once; 0 = any */
    uint32_t in_memory;     /* how many the engine has, as far as is known */
    bool doubted;           /* one of them has gone, it is not known which */
    uint64_t known_mono_us; /* as of when: of the last look, or of a load since */
    uint32_t active, lingering, foreign, queued;
    uint32_t questions;                  /* under way; they count nowhere else */
    uint32_t foreign_seen;               /* by the last look alone */
    uint64_t lingered_mono_us;           /* when the last run began to linger */
    TAILQ_HEAD(waiters, waiter) waiters; /* in the order in which they run */
    struct waiters running;              /* the active ones */
};

enum slots_admit {
    SLOTS_ADMIT_FULL = 0, /* refused */
    SLOTS_ADMIT_NOW,      /* has a slot: `active` counts it */
    SLOTS_ADMIT_QUEUED,   /* waits */
};

void slots_init(struct slots *a, uint32_t slots, uint32_t queue);
void slots_resize(struct slots *a, uint32_t slots, uint32_t queue);

/* Would slots_ask() refuse it now? */
MUST_CHECK bool slots_is_full(const struct slots *a, const struct waiter *waiter);

MUST_CHECK enum slots_admit slots_ask(struct slots *a, struct waiter *waiter);

/* The next waiter, now active, or NULL when none waits or no slot is free. */
MUST_CHECK struct waiter *slots_next(struct slots *a);

/* The engine has begun to answer an active run: its model is in memory.  True: others may
 * have room now. */
MUST_CHECK bool slots_answered(struct slots *a, struct waiter *waiter, uint64_t now_mono_us);

/* The engine keeps `models` at once (0 = any), and had `in_memory` when asked at
 * `asked_mono_us`.  True: that is news, and each of its models is due for slots_model(). */
MUST_CHECK bool slots_models(struct slots *a, uint32_t models, uint32_t in_memory,
                             uint64_t asked_mono_us);

/* A model has a place in the engine's memory, be it still loading, or has none. */
void slots_model(struct slots *a, uint64_t model, bool in_memory);

/* A waiter gives up.  Not waiting is fine. */
void slots_leave(struct slots *a, struct waiter *waiter);

/* An active run has ended; `lingers`: the engine may not know it yet. */
void slots_end(struct slots *a, struct waiter *waiter, bool lingers, uint64_t now_mono_us);

/* Takes the slot again that slots_end() gave back this instant. */
void slots_retake(struct slots *a, struct waiter *waiter);

/* A question begins, whatever the slots do.  False: SLOTS_MAX_QUESTIONS are under way. */
MUST_CHECK bool slots_question(struct slots *a);
void slots_question_end(struct slots *a);

/* The engine showed `running` requests when asked at `asked_mono_us`. */
void slots_looked(struct slots *a, uint32_t running, uint64_t asked_mono_us);

/* Slots in use, for reports: active and lingering and foreign ones. */
uint32_t slots_busy(const struct slots *a);

/* A waiter's position in the queue, from 1. */
uint32_t slots_position(const struct slots *a, const struct waiter *waiter);

#endif
