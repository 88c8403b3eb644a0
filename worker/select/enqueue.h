/*
 * enqueue.h - a request's place in the queue (worker/queue/): its key, its need, what it may
 * take now, and whether it may wait at all.
 */
#ifndef DROVER_WORKER_SELECT_ENQUEUE_H
#define DROVER_WORKER_SELECT_ENQUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct queue_rights;
struct request;
struct worker_context;

/* Makes the worker's queue, and takes it away; it is empty by then. */
void enqueue_init(struct worker_context *context);
void enqueue_finish(struct worker_context *context);

/* The places that a request outside the queue may take now: into *rights, or NULL when nothing
 * waits.  A hedge may take only places that no request waits for. */
const struct queue_rights *enqueue_rights(const struct request *req, bool is_hedge,
                                          struct queue_rights *rights);

/* Does any request wait for this model, in any worker? */
MUST_CHECK bool enqueue_any(const struct request *req);
/* Is the queue too long for it?  Never for one that was let in before, or has a plan.  See
 * policy/queue/admission.h. */
MUST_CHECK bool enqueue_refuses(const struct request *req);
/* Puts it in the queue; false when memory is short: it has no plan then. */
MUST_CHECK bool enqueue_add(struct request *req);
/* Its plan is dropped.  Fine when not in the queue. */
void enqueue_remove(struct request *req);
/* States or connections of nodes are others now, so plans may be void; `models`: so are the
 * nodes themselves, and requests that were alike may no longer be. */
void enqueue_renew(struct worker_context *context, bool models);
/* It is in the queue: have all nodes that could serve it failed for it?  Then it has left. */
MUST_CHECK bool enqueue_look(struct request *req);

/* How many requests go before it, which is in the queue, on its nodes, of all models and
 * workers; and the seconds until it is likely to be served: 1..60.  About. */
void enqueue_estimate(const struct request *req, unsigned *ahead, unsigned *eta_s);
/* When it has waited for as long as it may: queue.max_wait_ms or less without a plan, and up to
 * limits.first_token_ms with one. */
uint64_t enqueue_due_mono_us(const struct request *req);
/* It is rejected: notes that the queue is too long, and gives the seconds for Retry-After. */
MUST_CHECK unsigned enqueue_reject(struct request *req);
/* It found a place without waiting: no request that was rejected wanted it. */
void enqueue_not_needed(const struct request *req);

#endif
