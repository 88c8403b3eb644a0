/* waiting.h - a request's place in the queue of its model, over all workers. */
#ifndef DROVER_WORKER_WAITING_H
#define DROVER_WORKER_WAITING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct request;
struct worker_context;

/* Does any request wait for this model, in any worker? */
bool waiting_has_line(const struct request *req);
/* Is the queue too long for it?  Never for one that was let in before.  See
 * policy/route/admission.h. */
bool waiting_refuses(const struct request *req);
/* The row of its model in shm/share/model_queues.h, for req->queue_row. */
uint32_t waiting_row(const struct request *req);
/* Puts it in the queue, and counts it in its queue_row; false when memory is short. */
MUST_CHECK bool waiting_add(struct request *req);
void waiting_remove(struct request *req); /* fine when not in the queue */
/* How many requests go before it, which is in the queue: over all workers, and over all models
 * on its nodes; about. */
unsigned waiting_position(const struct request *req);
/* How long one of the model's queue may wait at present. */
uint64_t waiting_limit_us(const struct request *req);
/* Seconds until it, which is in the queue, is likely to be served: 1..60. */
unsigned waiting_eta_s(const struct request *req);
/* It is rejected: notes that the queue is too long, and gives the seconds for Retry-After. */
unsigned waiting_turn_away(struct request *req);
/* It found a place without waiting: no request that was rejected wanted it. */
void waiting_not_needed(const struct request *req);
/* A place for a model of some node came free: wakes the worker that is first in the queue. */
void waiting_released(struct worker_context *context);
/* Something about the nodes, or a place elsewhere, changed: looks at the waiting requests at
 * the end of this turn. */
void waiting_wake(struct worker_context *context);

#endif
