/*
 * offers.h - "node N has room, and your request is first": one bit per worker and node.
 *
 * Any process sets a bit for the worker whose request should have the place, and then writes
 * that worker's eventfd; the worker reads the eventfd empty and then takes its bits.  In this
 * order nothing is lost: a bit that the worker misses was set after it took them, and so the
 * write that follows it wakes the worker again.  An eventfd that is too full to be written is
 * readable.
 *
 * An offer is a hint and no claim: the place may be gone when the worker looks.
 */
#ifndef DROVER_SHM_QUEUE_OFFERS_H
#define DROVER_SHM_QUEUE_OFFERS_H

#include <stdint.h>

#include "shm/share/node_set.h"

struct scoreboard;

/* Sets the bit of `node` for `worker`.  Any process.  Ignored out of range and read-only. */
void offers_set(struct scoreboard *board, unsigned worker, unsigned node);

/* W: the worker.  Adds its bits to `nodes` and clears them. */
void offers_take(struct scoreboard *board, unsigned worker, struct node_set *nodes);

/* W: master, for a worker that is gone. */
void offers_clear_worker(struct scoreboard *board, unsigned worker);

#endif
