/*
 * demand.h - how many requests wait for each node, over all models and workers.
 *
 * Models share nodes, so a newcomer has before it what waits for any model on the nodes of its
 * own.  A waiting request counts on each node of its model by an equal part
 * (admission_spread()).  The counts are shared words (shm/queue/model_queues.h): every worker
 * works out the same, and anew after DEMAND_RENEW_US.
 */
#ifndef DROVER_WORKER_SELECT_DEMAND_H
#define DROVER_WORKER_SELECT_DEMAND_H

#include <stddef.h>
#include <stdint.h>

#include "shm/share/node_set.h"

struct upstream_model;
struct scoreboard;

#define DEMAND_RENEW_US UINT64_C(20000)

/* One per worker; all zero = never measured. */
struct demand {
    uint64_t measured_mono_us;
    double all[NODE_SET_NODES]; /* requests that wait for the node */
    double own[NODE_SET_NODES]; /* ... in this worker */
};

/* Sums up the counts of all models, if the last sums are older than DEMAND_RENEW_US. */
void demand_renew(struct demand *demand, const struct scoreboard *board, unsigned worker,
                  struct upstream_model *models, size_t models_count, uint64_t now_mono_us);

/* Looks which nodes serve the model now, and what they can do, if the last look is older than
 * DEMAND_RENEW_US. */
void demand_measure(struct upstream_model *model, const struct scoreboard *board,
                    uint64_t now_mono_us);

/* Requests that wait for the nodes: in all workers, in this one. */
double demand_on(const struct demand *demand, const struct node_set *nodes);
double demand_own(const struct demand *demand, const struct node_set *nodes);

/* Which of the model's nodes have a waiting request in another worker whose key is lower than
 * `key`.  On the others nothing in another worker goes before `key`.  The model has been
 * measured. */
void demand_outranked(const struct upstream_model *model, const struct scoreboard *board,
                      unsigned worker, uint64_t key, uint64_t now_mono_us,
                      struct node_set *out);

/* The part of a request for `other` that counts on the nodes of `model`: 0..1.  Both have been
 * measured. */
double demand_part(const struct upstream_model *other, const struct upstream_model *model);

#endif
