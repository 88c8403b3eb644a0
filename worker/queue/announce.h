/*
 * announce.h - the signals between a worker's queue and the other processes.
 *
 * The words of shm/queue/queue_heads.h, the bits of shm/queue/offers.h and the eventfds: one
 * object a worker, owned by its queue.  It knows nodes, keys and workers, and no request.
 */
#ifndef DROVER_WORKER_ANNOUNCE_H
#define DROVER_WORKER_ANNOUNCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "shm/share/node_set.h"

struct queue_head;
struct route_times;
struct scoreboard;

struct announce {
    struct scoreboard *board;
    unsigned worker;
    const int *wake_fds; /* borrowed: an eventfd per worker; NULL = no worker can be woken */
    uint64_t hold_us;    /* as config_hold_us() has it */
    const struct route_times *times; /* borrowed */
    struct node_set published;
    uint64_t key[NODE_SET_NODES]; /* as published; for the nodes in `published` */
    uint32_t generation[NODE_SET_NODES];
    uint32_t total;
};

/* The least keys that wait here, as announce_heads() takes them. */
struct announce_heads {
    struct node_set nodes;        /* for which something waits */
    uint64_t key[NODE_SET_NODES]; /* of these; not 0 */
    uint32_t generation[NODE_SET_NODES];
};

/* Publishes the words that changed since the last time, then the total.  Adds to `look` the
 * nodes that something waits for and whose word changed: the caller looks at those now. */
void announce_heads(struct announce *announce, const struct announce_heads *heads,
                    uint32_t waiting, struct node_set *look);

/* Is the node open, by what all processes see of it?  `generation` gets its node's. */
MUST_CHECK bool announce_open(const struct announce *announce, unsigned node,
                              uint64_t now_mono_us, uint32_t *generation);

/* The least key that waits for the node in the other workers.  False: nothing does. */
MUST_CHECK bool announce_least_other(const struct announce *announce, unsigned node,
                                     uint32_t generation, uint64_t now_mono_us,
                                     struct queue_head *out);
/* Does anything wait in another worker? */
MUST_CHECK bool announce_any_other(const struct announce *announce);

/* Offers the node to a worker and wakes it. */
void announce_offer(const struct announce *announce, unsigned node, unsigned worker);
/* Adds to `look` what was offered to this worker, after its eventfd was read. */
void announce_take_offers(const struct announce *announce, struct node_set *look);

#endif
