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
struct registration;
struct error;

struct registration_config {
    const char *coordinator; /* HOST:PORT; copied */
    const char *host; /* numeric address to advertise, "" = as the stream comes; copied */
    uint16_t port;    /* where this node serves Inference */
    bool tls;         /* it serves it over TLS */
    SSL_CTX *coordinator_tls; /* borrowed; NULL = cleartext */
};

/* Begins to join, and to stay joined. */
MUST_CHECK int registration_create(struct registration **out, struct agent *agent,
                                   const struct registration_config *config, struct error *err);

/* Breaks the stream and forgets.  NULL is allowed. */
void registration_destroy(struct registration *registration);

/* The agent has other tokens: unless it has joined it tries them at once. */
void registration_tokens_changed(struct registration *registration);

/* Says goodbye: the coordinator sends no more work and answers when nothing is open there. */
void registration_leave(struct registration *registration, const char *reason,
                        uint32_t drain_ms);

/* After registration_leave(): the coordinator has answered, or there is none to wait for. */
MUST_CHECK bool registration_left(const struct registration *registration);

#endif
