/*
 * open_node.h - may a request that waits be sent to this node now?  Pure.
 *
 * Every process gets the same result, because all inputs are shared: health writes the node's
 * state and slots, `sent` is the sum of the node's gauges.  The facts that only one worker
 * knows of a node (its connection, a pause, a request's exclusions) are no input: a worker
 * publishes no queue head for a node that it could not use (see shm/queue/queue_heads.h).
 *
 *   UP          open while fewer requests run there than it has slots now, and its window is
 *               open (hold.h)
 *   probation   open for one request, and closed from its end until health has drawn its
 *               conclusion from it
 *   else        closed
 *
 * Places beyond the slots are not meant: a node that has only those left is closed.
 */
#ifndef DROVER_POLICY_QUEUE_OPEN_NODE_H
#define DROVER_POLICY_QUEUE_OPEN_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct open_node {
    bool up;
    bool on_probation;
    bool verdict_pending; /* on probation: a request of it has ended and has no verdict yet */
    uint32_t slots_now;   /* 0 counts as 1: every node that serves has a place */
    uint32_t sent;        /* in flight, over all workers */
    double left_s;        /* of the prefill that was sent; 0 = none awaits its first token */
    uint64_t hold_us;     /* 0 = windows are always open */
};

/* Places that are free: 0 = the node is closed. */
MUST_CHECK uint32_t open_node_places(const struct open_node *node);

#endif
