/*
 * resolve.h - "HOST:PORT" to addresses without blocking the loop.
 *
 * A numeric address is parsed on the spot.  A name is looked up by getaddrinfo(3) in a thread
 * of its own, because libc's resolver may block for as long as it likes.
 */
#ifndef DROVER_BASE_RESOLVE_H
#define DROVER_BASE_RESOLVE_H

#include <stddef.h>

#include "base/attrs.h"
#include "base/io/net.h"

struct error;
struct loop;
struct resolve; /* opaque: one question under way */

#define RESOLVE_MAX 128u /* addresses of one name */

/* `rc` is 0, and `n` at least 1, or net_resolve_all()'s error with its reason in `why`.  The
 * question is over and is freed afterwards. */
typedef void resolve_cb(int rc, const struct net_addr *list, size_t n, const char *why,
                        void *data);

/* Asks for "HOST:PORT".  `cb` runs once, from the loop.  DRV_ENOMEM, DRV_ESYS. */
MUST_CHECK int resolve_start(struct resolve **out, struct loop *loop, const char *text,
                             resolve_cb *cb, void *data, struct error *err);

/* `cb` will not run.  NULL is allowed. */
void resolve_cancel(struct resolve *resolve);

#endif
