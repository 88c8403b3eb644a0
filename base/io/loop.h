/*
 * loop.h - one process's event loop: libh2o's, plus what libh2o lacks.
 *
 *   timers    on CLOCK_MONOTONIC with microsecond resolution.
 *   deferred  callbacks that run once at the end of the present turn, after every socket
 *             callback.  This is how many small events become one write per connection.
 *   watches   readability of a descriptor that is not a byte-stream socket of h2o's
 *             (signalfd, eventfd, an epoll set of another library).
 *   a clock   for libh2o, which compares its deadlines with gettimeofday(): after a step of
 *             the wall clock connections would end or wait for hours.  A program with this
 *             module therefore has a gettimeofday() of its own, for the whole process.  It runs
 *             with CLOCK_MONOTONIC and takes a step of the wall clock over only between two
 *             turns, together with libh2o's timers.  Right to a second, which is what libh2o's
 *             Date header needs.
 *
 * A turn: wait, socket callbacks, timers, deferred callbacks.  Everything here is for one
 * thread. A callback may stop, start or free any timer, deferred or watch, its own included.
 * Registering never calls back.
 */
#ifndef DROVER_BASE_LOOP_H
#define DROVER_BASE_LOOP_H

#include <h2o.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/clock.h"

struct error;
struct loop;

struct timer {
    void (*cb)(struct timer *timer);
    uint64_t due_mono_us;
    size_t index; /* place in the loop's heap, plus 1; 0 iff not running */
};

struct deferred {
    void (*cb)(struct deferred *deferred);
    TAILQ_ENTRY(deferred) link; /* in loop->queue iff queued */
    bool queued;
};

struct watch; /* opaque: one watched descriptor */

struct loop {
    h2o_loop_t *h2o;       /* owned */
    uint64_t h2o_ahead_us; /* what libh2o's clock was ahead of the monotonic one last turn */
    uint64_t now_mono_us;  /* 0 = not read since the wait; see loop_now_us() */
    struct timer **heap;   /* owned; binary heap by due_mono_us */
    size_t heap_len, heap_cap; /* cap grows in timer_start(), which aborts when out of memory */
    TAILQ_HEAD(, deferred) queue;
    int timer_fd;              /* fires at the earliest timer, for sub-millisecond accuracy */
    uint64_t armed_mono_us;    /* what timer_fd is set to; 0 = disarmed */
    struct watch *timer_watch; /* owned */
    struct watch *dead;        /* stopped watches, freed at the end of the turn */
};

/* Makes the loop.  Call after fork(), never before.  DRV_ESYS, DRV_ENOMEM. */
MUST_CHECK int loop_init(struct loop *loop, struct error *err);
void loop_finish(struct loop *loop);

/* One turn, waiting at most `max_wait_us` for something to happen. */
void loop_turn(struct loop *loop, uint64_t max_wait_us);

/* The turn's idea of now: read from the clock at its first use after the wait, so it is cheap,
 * and exact enough for anything but measuring this turn itself. */
static inline uint64_t loop_now_us(struct loop *loop)
{
    if (loop->now_mono_us == 0)
        loop->now_mono_us = clock_mono_us();
    return loop->now_mono_us;
}

/* (Re)starts a timer `delay_us` from now; `cb` runs once.  timer_stop() on an idle one is fine.
 */
void timer_start(struct loop *loop, struct timer *timer, uint64_t delay_us,
                 void (*cb)(struct timer *timer));
void timer_stop(struct loop *loop, struct timer *timer);
static inline bool timer_running(const struct timer *timer)
{
    return timer->index != 0;
}

/* Queues `cb` for the end of this turn; queueing twice is the same as once. */
void loop_defer(struct loop *loop, struct deferred *deferred,
                void (*cb)(struct deferred *deferred));
void loop_undefer(struct loop *loop, struct deferred *deferred);

/*
 * Calls `cb` in each turn in which `fd` is readable.  `fd` stays the caller's: the watch works
 * on a duplicate.  Returns NULL with `err` set when a descriptor cannot be had.
 */
MUST_CHECK struct watch *watch_start(struct loop *loop, int fd,
                                     void (*cb)(struct watch *watch, void *data), void *data,
                                     struct error *err);
void watch_stop(struct watch *watch); /* NULL is allowed */

#endif
