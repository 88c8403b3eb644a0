/*
 * resolve.h - names to addresses without blocking the loop: a thread of its own for each
 * question, because the resolver of libc has no other way.
 */
#ifndef DROVER_HEALTH_RESOLVE_H
#define DROVER_HEALTH_RESOLVE_H

#include <stddef.h>

#include "base/attrs.h"
#include "base/net.h"

struct error;
struct loop;
struct resolve; /* opaque: one question under way */

#define RESOLVE_MAX 128u /* addresses of one name */

/* rc is 0 or net_resolve_all()'s; the question is over and freed afterwards. */
typedef void resolve_cb(int rc, const struct net_addr *list, size_t n, const char *why,
                        void *data);

/* Asks for "HOST:PORT".  `cb` runs from the loop, once.  DRV_ENOMEM, DRV_ESYS. */
MUST_CHECK int resolve_start(struct resolve **out, struct loop *loop, const char *text,
                             resolve_cb *cb, void *data, struct error *err);

/* `cb` will not run.  NULL is allowed. */
void resolve_cancel(struct resolve *resolve);

#endif
