/*
 * proxy_line.h - the PROXY line with which a balancer begins a connection, to say whose it is:
 * versions 1 and 2 of the protocol that HAProxy's documentation describes.  Pure.
 */
#ifndef DROVER_WORKER_HTTP_FRAMING_PROXY_LINE_H
#define DROVER_WORKER_HTTP_FRAMING_PROXY_LINE_H

#include <stddef.h>

#include "base/attrs.h"

struct peer_address;

enum proxy_line {
    PROXY_LINE_NONE = 0, /* the connection begins with something else */
    PROXY_LINE_MORE,     /* its end has not come */
    PROXY_LINE_BAD,
    PROXY_LINE_CLIENT, /* it names a client */
    PROXY_LINE_OWN,    /* the balancer speaks for itself, or does not know */
};

/* Reads the bytes that have come.  *len is set with the last two: the bytes of the line. */
MUST_CHECK enum proxy_line proxy_line_parse(struct peer_address *client, size_t *len,
                                            const char *bytes, size_t n);

#endif
