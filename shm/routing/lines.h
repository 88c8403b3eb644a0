/*
 * lines.h - who waits for a place, over all workers.
 *
 * A request that no node has room for waits in its worker.  So that all workers together serve
 * one queue, each publishes a line per model: how many wait, and the key of the first.  Keys
 * order all waiting requests of the machine: smaller goes first.  (A worker makes them from
 * the priority class and CLOCK_MONOTONIC, which is one clock for all processes, so no counter
 * has to be shared.)
 *
 * W: the worker, its own lines; the master clears a dead worker's.
 *
 * Who publishes a line and then looks for a place, and who gives a place back and then looks
 * at the lines, cannot miss one another: at least one sees what the other did.
 */
#ifndef DROVER_SHM_LINES_H
#define DROVER_SHM_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define LINES_PER_WORKER 16u
/* A worker whose last heartbeat is older has stopped: its line is passed over until it moves,
 * so that it does not hold up the others. */
#define LINES_STALE_US UINT64_C(1000000)

/*
 * `count` requests for the model wait here, the first of them has this key.  0 removes the
 * line.  False when the worker has LINES_PER_WORKER other models waiting: the line is not
 * published, and whoever waits in it depends on trying again from time to time.  A read-only
 * handle and a worker out of range give false too.
 */
bool lines_set(struct scoreboard *board, unsigned worker, uint64_t model_hash, uint64_t key,
               uint32_t count);

/*
 * The worker that has the smallest key among those waiting for the model (the lower number if
 * two are equal).  Only workers that are RUNNING or DRAINING and have shown a heartbeat within
 * LINES_STALE_US count.  False: nobody waits.  `worker` and `key` may be NULL.
 */
MUST_CHECK bool lines_first(const struct scoreboard *board, uint64_t model_hash,
                            uint64_t now_mono_us, unsigned *worker, uint64_t *key);

/*
 * Somebody was turned away from the model's line, because it is too long already.  Remembered
 * while this worker has a line to spare for the model, with anybody in it or not.
 */
void lines_press(struct scoreboard *board, unsigned worker, uint64_t model_hash,
                 uint64_t now_mono_us);
/* When any worker last turned somebody away; 0 = never, as far as is remembered. */
uint64_t lines_pressed(const struct scoreboard *board, uint64_t model_hash);

/* How many wait for the model; how many wait at all.  All workers count, stopped ones too. */
uint32_t lines_waiting(const struct scoreboard *board, uint64_t model_hash);
uint32_t lines_waiting_total(const struct scoreboard *board);

/* Does anybody wait?  One cache line for up to 16 workers: cheap enough for every release. */
bool lines_any(const struct scoreboard *board);

/* The different models that anybody waits for, at most `max` of them; returns how many. */
uint32_t lines_models(const struct scoreboard *board, uint64_t *model_hashes, uint32_t max);

/* W: master, for a worker that is gone; the worker itself, to start afresh. */
void lines_clear_worker(struct scoreboard *board, unsigned worker);

#endif
