/*
 * sim_http.h - the simulated engine as an HTTP/1.1 server.
 *
 * The paths of all the operations that /v1 and /api offer and the engine has, and GET
 * /v1/models, /props, /metrics, /health.
 */
#ifndef DROVER_SIM_HTTP_H
#define DROVER_SIM_HTTP_H

#include <stdbool.h>

#include "base/attrs.h"

struct error;
struct loop;
struct sim_engine;
struct sim_http; /* opaque */

/*
 * Serves `engine` at `address` (see net_listen()); it must outlive the server.  SIGPIPE is
 * ignored from then on: libh2o needs it so.
 * DRV_EINVAL, DRV_ENOENT, DRV_ESYS, DRV_ENOMEM, with `err` set.
 */
MUST_CHECK int sim_http_open(struct sim_http **out, struct sim_engine *engine,
                             struct loop *loop, const char *address, struct error *err);

/* The address that it listens at. */
const char *sim_http_address(const struct sim_http *http);

/* Stops listening, breaks the connections off and frees `http`.  Turns the loop meanwhile, so
 * the engine and all that hangs on the loop must still be there.  False: connections are left
 * after 2 s; nothing is freed, and nothing may be that they use.  NULL is allowed. */
MUST_CHECK bool sim_http_close(struct sim_http *http);

#endif
