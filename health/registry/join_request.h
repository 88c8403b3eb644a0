/*
 * join_request.h - what a node that wants to join claims, and whether it proves it.  Pure.
 *
 * Until the proof is good the peer is a stranger: only the form of its message counts.
 */
#ifndef DROVER_HEALTH_JOIN_REQUEST_H
#define DROVER_HEALTH_JOIN_REQUEST_H

#include <stdint.h>

#include "base/attrs.h"
#include "base/io/net.h"
#include "proto/drover_registry.pb-c.h"

struct error;
struct join_facts;

#define JOIN_REQUEST_TOKENS 2 /* newest first; NULL = none */

/* Takes what the proof is about.  NULL, or why its form is wrong.  The texts of *facts are
 * borrowed from `said`. */
const char *join_request_facts(struct join_facts *facts, const Drover__V1__Register *said);

/* The token that was proven, or NULL.  All are always tried, so that the time does not
 * reveal which one it was. */
const char *join_request_token(char *const tokens[JOIN_REQUEST_TOKENS],
                               const struct join_facts *facts, const uint8_t *proof);

/* The address at which the node says it serves; without a host, `peer`'s with its port.
 * DRV_EINVAL. */
MUST_CHECK int join_request_address(struct net_addr *out, const Drover__V1__Register *said,
                                    const struct net_addr *peer, struct error *err);

#endif
