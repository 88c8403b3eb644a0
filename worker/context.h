/*
 * context.h - the state that all parts of a worker process share.
 *
 * Owned by worker.c, which fills in the borrowed parts before worker_context_init().
 */
#ifndef DROVER_WORKER_CONTEXT_H
#define DROVER_WORKER_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/io/loop.h"
#include "policy/route/times.h"
#include "proto/wire.h"
#include "worker/queue/queue.h"
#include "worker/select/demand.h"

struct config;
struct holders;
struct upstreams;
struct log_sink;
struct request;
struct scoreboard;

enum request_try {
    REQUEST_TRY_STARTED = 0, /* an attempt runs, or the request has ended */
    REQUEST_TRY_PLANNED,     /* it waits on, with a plan */
    REQUEST_TRY_NO_ROOM,     /* nodes could serve it, none may take it now */
    REQUEST_TRY_LOST,        /* one could now, and another worker was faster */
};

struct worker_context {
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    struct holders *holders;
    unsigned worker; /* own column of the gauges */
    struct upstreams *upstreams;
    struct log_sink *access_log;
    struct wire_arena arena;
    const int *wake_fds; /* an eventfd per worker; borrowed */

    /* private to request/request.c */
    struct request *first, *last; /* all */
    size_t open_count;

    uint64_t hold_us;     /* as config_hold_us() has it */
    struct queue queue;   /* requests that wait for a place: see select/enqueue.h */
    struct demand demand; /* private to select/enqueue.c */

    /* Tries to start a request that waits; `rights` as in select_node().  Set by
     * request/request.c, for enqueue.c. */
    enum request_try (*try_start)(struct request *req, const struct queue_rights *rights);

    struct route_times times; /* of config->testing.speedup */
    uint64_t random;          /* state of the tie-breaker: select/select.c */
};

void worker_context_init(struct worker_context *context);
void worker_context_finish(struct worker_context *context);

#endif
