/*
 * sim_http.h - the simulated engine as a plain HTTP/1.1 server, beside the gRPC of its node.
 *
 * The same engine and the same slots, for peers that speak HTTP to a node: so that Drover and
 * other balancers can be measured on one engine.  All that /v1 and /api offer that the engine
 * has, and GET /v1/models, /health, /props.
 */
#ifndef DROVER_SIM_HTTP_H
#define DROVER_SIM_HTTP_H

#include "base/attrs.h"

struct engine;
struct error;
struct loop;
struct sim_http; /* opaque */

/*
 * Serves `sim`, an engine of sim_engine_create(), at `address` (see net_listen()).  SIGPIPE is
 * ignored from then on: libh2o needs it so.
 * DRV_EINVAL, DRV_ENOENT, DRV_ESYS, DRV_ENOMEM, with `err` set.
 */
MUST_CHECK int sim_http_open(struct sim_http **out, struct engine *sim, struct loop *loop,
                             const char *address, struct error *err);

/* The address that it listens at. */
const char *sim_http_address(const struct sim_http *http);

/* Stops listening, breaks the connections off and frees `http`.  Turns the loop meanwhile, so
 * the engine and all that hangs on the loop must still be there.  NULL is allowed. */
void sim_http_close(struct sim_http *http);

#endif
