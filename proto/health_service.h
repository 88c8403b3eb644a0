/*
 * health_service.h - grpc.health.v1, ready to be put into a server's method table.
 *
 * Check answers once; Watch answers once and then on every change of the status.
 */
#ifndef DROVER_PROTO_HEALTH_SERVICE_H
#define DROVER_PROTO_HEALTH_SERVICE_H

#include <stdbool.h>

#include "base/attrs.h"
#include "proto/rpc/grpc/server.h"

struct error;
struct health_service; /* opaque */

MUST_CHECK int health_service_create(struct health_service **out, struct error *err);
void health_service_destroy(struct health_service *service); /* after the server */

/* Sets a service's status ("" = the server); watchers hear of it.  Up to 16 names. */
void health_service_set(struct health_service *service, const char *name, bool serving);

/* Fills two entries (Check and Watch). */
void health_service_methods(struct health_service *service, struct server_method out[2]);

#endif
