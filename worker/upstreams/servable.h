/* servable.h - whether any node could serve a request, those that are full or away included. */
#ifndef DROVER_WORKER_UPSTREAMS_SERVABLE_H
#define DROVER_WORKER_UPSTREAMS_SERVABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "worker/api/surface.h"

struct buf;
struct client_request;
struct upstream_model;
struct upstreams;

/* Has a node of the model this operation?  One that is away counts, but where another serves
 * the model and lacks it, none that drains: the operator took that out. */
MUST_CHECK bool servable_operation(const struct upstream_model *model, int operation);

/* API_ERROR_NONE: one could, or the models of one are not known yet.  Else the client's error,
 * which no wait would change; its text is added to `message`. */
MUST_CHECK enum api_error servable_check(struct upstreams *upstreams,
                                         const struct client_request *request,
                                         uint64_t message_bytes, struct buf *message);

/* Why a request that waited for any node gets API_ERROR_NO_NODE; static. */
const char *servable_nobody(struct upstreams *upstreams, const struct client_request *request);

#endif
