/*
 * origins.h - which web pages a browser may let use the API.  Pure.
 *
 * A browser says by an Origin header which page a request comes from, and asks the server
 * before it shows that page the answer.  An unknown page must not reach a coordinator
 * that asks for no key: it would run on the desk of whoever opened it.
 *
 * A pattern is SCHEME://HOST or SCHEME://HOST:PORT, as a browser writes an origin, where
 *
 *   HOST   may be "*" for any host, or begin with "*." for any host below a domain
 *   PORT   may be "*" for any port; without one it is the scheme's own, or any after HOST "*"
 *
 * or one of these words:
 *
 *   loopback   http and https pages of this machine: localhost, *.localhost, 127.x.x.x and
 *              [::1], any port
 *   null       pages that have no origin of their own: files, sandboxed frames
 *   *          all
 *
 * Scheme and host are compared as RFC 6454 has them: upper and lower case alike, and a port
 * that is the scheme's own is as none.
 */
#ifndef DROVER_BASE_ORIGINS_H
#define DROVER_BASE_ORIGINS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct error;

/* The default of api.cors_origins. */
#define ORIGINS_LOOPBACK "loopback"

/* DRV_EINVAL: not a pattern; `err` says what is wrong with it. */
MUST_CHECK int origin_pattern_check(const char *pattern, struct error *err);

/* Is the value of an Origin header, of `n` bytes, one of these? */
MUST_CHECK bool origin_is_listed(const char *const *patterns, size_t count, const char *origin,
                                 size_t n);

#endif
