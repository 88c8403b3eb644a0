/*
 * registration.h - keeps this node joined to one coordinator: the node's side of
 * drover.v1.Registry.Attach.
 *
 * The stream is the lease.  It is made again whenever it breaks, after a pause that is spread
 * so that a hundred nodes do not come back in the same millisecond.
 */
#ifndef DROVER_NODE_REPORT_REGISTRATION_H
#define DROVER_NODE_REPORT_REGISTRATION_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct agent;
struct attach;
struct error;

struct attach_config {
    const char *coordinator; /* HOST:PORT; copied */
    const char *host; /* numeric address to advertise, "" = as the stream comes; copied */
    uint16_t port;    /* where this node serves Inference */
    bool tls;         /* it serves it over TLS */
    SSL_CTX *coordinator_tls; /* borrowed; NULL = cleartext */
};

/* Begins to join, and to stay joined. */
MUST_CHECK int attach_create(struct attach **out, struct agent *agent,
                             const struct attach_config *config, struct error *err);

/* Breaks the stream and forgets.  NULL is allowed. */
void attach_destroy(struct attach *attach);

/* Says goodbye: the coordinator sends no more work and answers when nothing is open there. */
void attach_leave(struct attach *attach, const char *reason, uint32_t drain_ms);

/* After attach_leave(): the coordinator has answered, or there is none to wait for. */
MUST_CHECK bool attach_left(const struct attach *attach);

#endif
