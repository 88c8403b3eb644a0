/*
 * forwarded.h - the client of a request that came through proxies: X-Forwarded-For.  Pure.
 *
 * Each proxy adds the address of its peer at the right.  So only the part that trusted proxies
 * added is known: from the right, the first hop that is none of them is the client; a client
 * may have written everything to the left of it.
 */
#ifndef DROVER_WORKER_HTTP_FRAMING_FORWARDED_H
#define DROVER_WORKER_HTTP_FRAMING_FORWARDED_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"
#include "base/secure/proxies.h"

/* Goes over the hops of one header line, from the right, as long as *hop is a trusted proxy:
 * *hop becomes the one before it.  At first it is the peer.  False: *hop is the client, because
 * it is no proxy or the next hop is no address; true: an earlier line may go on. */
MUST_CHECK bool forwarded_walk(struct peer_address *hop, const char *value, size_t n,
                               const struct proxy_net *trusted, unsigned trusted_count);

#endif
