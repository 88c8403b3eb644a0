/*
 * queue_heads.h - the least key that waits for each node, in each worker.
 *
 * Every worker keeps its own queue.  So that all workers together serve one queue, a worker
 * publishes one 8-byte word per node: the least key of its waiting requests that the node could
 * serve.  Keys order all waiting requests of the machine: the smaller goes first.  (A worker
 * makes them with policy/queue/order.h from CLOCK_MONOTONIC, which is one clock for all
 * processes, so no counter is shared.)  A word belongs to one generation of the node; a word of
 * another generation reads as empty.
 *
 * The worker checks only facts that other processes cannot see: models, abilities, exclusions,
 * pauses, its own connection.  The reader checks the node's state and its free places.
 *
 * W: the worker, its own words and total; the master once the worker is dead.
 *
 * A worker that has new requests for a node publishes the words, then the total, and then looks
 * for a free place.  A process that makes room stores that, then looks at the totals and the
 * words.  At least one of the two sees what the other did: see queue_heads.c.
 */
#ifndef DROVER_SHM_QUEUE_QUEUE_HEADS_H
#define DROVER_SHM_QUEUE_QUEUE_HEADS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

/* A worker whose last heartbeat is older is stalled: its words are skipped until it moves
 * again.  While a worker has waiting requests its heartbeats are at most 100 ms apart. */
#define QUEUE_HEADS_BEAT_US UINT64_C(250000)
#define QUEUE_HEADS_MAX_KEY ((UINT64_C(1) << 48) - 1)
#define QUEUE_HEADS_NOBODY  UINT32_MAX /* no worker */

struct queue_head {
    unsigned worker;
    uint64_t key;
};

/*
 * The least key of the worker's requests that could use the node; 0 = none.  A key is cut to
 * 1..QUEUE_HEADS_MAX_KEY.  After the last word of an update comes queue_heads_set_total(), even
 * if the total is what it was.  Ignored on a read-only handle and out of range.
 */
void queue_heads_set(struct scoreboard *board, unsigned worker, unsigned node,
                     uint32_t generation, uint64_t key);
/* How many requests wait in the worker, for any node. */
void queue_heads_set_total(struct scoreboard *board, unsigned worker, uint32_t waiting);

/* Does any request wait in a worker other than `except` (a worker, or QUEUE_HEADS_NOBODY)?
 * One cache line for up to 16 workers. */
MUST_CHECK bool queue_heads_any(const struct scoreboard *board, unsigned except);
/* How many requests wait, in all workers; stopped workers count too. */
uint32_t queue_heads_total(const struct scoreboard *board);

/*
 * The least key of the node's row; of equal keys the lower worker's.  Only words of the
 * generation count, and only those of workers that are RUNNING or DRAINING and beat within
 * QUEUE_HEADS_BEAT_US; the word of `except` does not.  False: nothing waits for the node.
 */
MUST_CHECK bool queue_heads_least(const struct scoreboard *board, unsigned node,
                                  uint32_t generation, unsigned except, uint64_t now_mono_us,
                                  struct queue_head *out);

/* W: master, for a worker that is gone. */
void queue_heads_clear_worker(struct scoreboard *board, unsigned worker);

#endif
