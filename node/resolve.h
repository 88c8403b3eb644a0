/*
 * resolve.h - "HOST:PORT" to an address without ever blocking the loop.
 *
 * Numeric addresses are parsed on the spot; names are looked up by getaddrinfo(3) in a
 * short-lived thread, because it may block for as long as the resolver likes.
 */
#ifndef DROVER_NODE_RESOLVE_H
#define DROVER_NODE_RESOLVE_H

#include "base/attrs.h"
#include "base/net.h"

struct error;
struct loop;
struct resolve;

/* Starts.  `on_done` runs exactly once, from the loop: addr is NULL when there is none, and
 * `why` says why.  DRV_ENOMEM, DRV_ESYS. */
MUST_CHECK int resolve_start(struct resolve **out, struct loop *loop, const char *text,
                             void (*on_done)(void *data, const struct net_addr *addr,
                                             const char *why),
                             void *data, struct error *err);

/* Forgets it before it is done; on_done does not run.  NULL is allowed.  (Once on_done runs,
 * the handle is gone.) */
void resolve_cancel(struct resolve *resolve);

#endif
