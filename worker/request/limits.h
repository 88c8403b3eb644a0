/*
 * limits.h - the time limits of a request.
 *
 * Silence has a limit per phase: while the model loads, before the first content, and between
 * tokens.  The node knows the engine and reports each sign of life; so these limits are for a
 * node that reports nothing.  A node that the health process reports as out of reach gets less
 * time: a silent request there continues elsewhere, if it can.  While the client does not read,
 * no limit of the node runs.
 */
#ifndef DROVER_WORKER_LIMITS_H
#define DROVER_WORKER_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct attempt;
struct request;

/* How long a request waits when no node of its model is up, and how long an answer that has
 * begun waits for a node to come back. */
#define LIMITS_NO_NODE_US UINT64_C(2000000)

/* The request has been without content for request_timeout_ms, since its arrival or its last
 * content. */
MUST_CHECK bool limits_deadline_passed(const struct request *req);
/* QUEUED: it has waited for as long as it may. */
MUST_CHECK bool limits_wait_passed(struct request *req);
/* The node has been silent for too long. */
MUST_CHECK bool limits_silence_passed(const struct attempt *attempt);

/* When to look at all of these again, for the state it is in. */
uint64_t limits_look_mono_us(struct request *req);

#endif
