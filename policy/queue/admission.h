/*
 * admission.h - may one more request join the queue?  Pure.
 *
 * A request that would wait longer than the operator allows is rejected at once, with a time to
 * come back.  Little's law gives the expected wait: the slots of the model's nodes, each held
 * for so many seconds on average, come free at a rate of sum(slots / seconds).
 *
 * Two limits.  `max_wait_us` is for bursts, which a long queue absorbs.  A queue that has grown
 * to that is no burst: it rejects as many as a short queue would, and the others only wait
 * longer.  So from the first rejection until ADMISSION_CALM_US after the last, the limit is the
 * time a slot is held, or a second if that is more: enough that no free slot stays idle, and
 * that clients that come back at the same whole second find room.  (A long queue without
 * rejections, such as a fixed number of agents keeps, stays as it is.)
 *
 * Averages say little about the next few, so a queue shorter than the slots always admits.
 */
#ifndef DROVER_POLICY_QUEUE_ADMISSION_H
#define DROVER_POLICY_QUEUE_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

#define ADMISSION_CALM_US  UINT64_C(5000000)
#define ADMISSION_SHORT_US UINT64_C(1000000)

/* The queue of one model, over all workers. */
struct admission_queue {
    uint32_t max_waiting; /* configured */
    uint64_t max_wait_us; /* configured */
    uint32_t waiting;
    double ahead;        /* requests, for this and other models on its nodes, that go first */
    uint32_t slots;      /* of the nodes that serve the model now */
    double places_per_s; /* that come free there; 0 = not known yet */
    bool overloaded;     /* a request was rejected in the last ADMISSION_CALM_US */
};

/*
 * Models share nodes, so what waits for one model may be before a request for another.  A
 * waiting request counts on each of the nodes that serve its model by 1/nodes: of many, each
 * node will get so large a part.  `load` has a sum for each node; `nodes` are numbers in it.
 *
 * Adds the requests that wait for a model; a model that no node serves adds nothing.
 */
void admission_spread(double *load, const uint16_t *nodes, size_t count, double waiting);
/* The requests that wait for the nodes of a model, over all models. */
double admission_sum(const double *load, const uint16_t *nodes, size_t count);

/*
 * How many go before a request, of those that wait for its nodes.  Each key is seen only in the
 * own worker: there `own` wait, and `own_before` of these have a lower key.  The `others`, in
 * other workers, are taken to be like them; the caller leaves out those of which not even the
 * first goes before.
 */
double admission_ahead(double others, double own, double own_before);

MUST_CHECK bool admission_allows(const struct admission_queue *queue);

/* The longest wait now.  A queued request that has waited longer is rejected, too. */
uint64_t admission_limit_us(const struct admission_queue *queue);

/* From now until the request would be served; 0 = not known. */
uint64_t admission_wait_us(const struct admission_queue *queue);

/*
 * When a request rejected now should come back: once the queue is short enough again, and each
 * rejected request after the one before, as far apart as places come free.  `share`: this
 * caller's part of all rejections.  `last_return_mono_us` is its memory from one to the next.
 * Returns seconds for Retry-After, 1..60.
 */
unsigned admission_return_s(const struct admission_queue *queue, uint64_t now_mono_us,
                            double share, uint64_t *last_return_mono_us);

/* As whole seconds for people: rounded up, 1..3600. */
unsigned admission_seconds(uint64_t us);

#endif
