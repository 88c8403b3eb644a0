/*
 * request.h - an inference request from the moment it is valid to its last byte.
 *
 * A request waits for a node with room, claims a place in the gauges, runs attempts until one
 * gives content, relays the answer, and writes one line of access log.  Nothing of an answer is
 * shown to the client before its first content byte (or its end): until then a failed attempt
 * is followed by another on a node not yet tried, and the client sees only time.  After it, a
 * plain text goes on elsewhere from where it stopped.
 */
#ifndef DROVER_WORKER_REQUEST_H
#define DROVER_WORKER_REQUEST_H

#include <stddef.h>

struct client_request;
struct worker_context;

/* Before the first request, on an initialised context. */
void request_init(struct worker_context *context);

/* Takes a valid request; the answer is the request's business from here on. */
void request_start(struct worker_context *context, struct client_request *client);

/* How many are not freed yet. */
size_t request_open_count(const struct worker_context *context);

/* The shutdown grace is over: ends every request with 503, or with an error event if it has
 * begun. */
void request_stop_all(struct worker_context *context);

#endif
