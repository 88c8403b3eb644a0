/*
 * service.h - drover-node's gRPC service: drover.v1.Inference in front of one engine, and
 * grpc.health.v1.
 */
#ifndef DROVER_NODE_SERVICE_H
#define DROVER_NODE_SERVICE_H

#include "base/attrs.h"
#include "proto/rpc/grpc/server.h"

struct agent;
struct error;
struct service; /* opaque */

#define SERVICE_METHODS 5

/* `agent` is borrowed and outlives the service.  DRV_ENOMEM. */
MUST_CHECK int service_create(struct service **out, struct agent *agent, struct error *err);

/* After the server that serves its methods.  NULL is allowed. */
void service_destroy(struct service *service);

/* SERVICE_METHODS of them, for a server. */
const struct server_method *service_methods(const struct service *service);

#endif
