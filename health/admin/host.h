/*
 * host.h - is a request's Host header ours?  A guard against DNS rebinding.  Pure.
 *
 * A web page can make its own name resolve to 127.0.0.1 and then read from a listener there as
 * if it were its own server; the browser's user need only look at the page.  Such a request
 * still carries the page's name in its Host header, which addresses and "localhost" are not.
 */
#ifndef DROVER_HEALTH_HOST_H
#define DROVER_HEALTH_HOST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

/* Is this Host header, with or without a port, an address or "localhost"? */
MUST_CHECK bool host_is_local(const char *host, size_t n);

#endif
