/*
 * strict_head.h - checks the form of an HTTP/1 head before anything acts on it.  Pure.
 *
 * libh2o reads leniently: of two Content-Lengths it takes the first, it prefers
 * Transfer-Encoding, it takes bare line feeds and folded lines.  Behind another proxy that
 * reads differently, each of these smuggles a request.  So the raw head is read again,
 * strictly, and a request that any server might frame otherwise is refused and its connection
 * closed.
 */
#ifndef DROVER_WORKER_HTTP_FRAMING_STRICT_HEAD_H
#define DROVER_WORKER_HTTP_FRAMING_STRICT_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

#define STRICT_HEAD_MAX_BYTES (32 * 1024)
#define STRICT_HEAD_MAX_LINES 100 /* behind the request line; libh2o reads no more */

/* The word that the client waits for before it sends the body. */
enum strict_expect {
    STRICT_EXPECT_NONE = 0,
    STRICT_EXPECT_CONTINUE, /* "100-continue" */
    STRICT_EXPECT_OTHER,    /* something else, or two of them */
};

struct strict_head {
    size_t head_len;           /* request line to the empty line, inclusive */
    bool chunked;              /* the body came in chunks */
    uint64_t content_length;   /* of the body otherwise; 0 = there is none */
    size_t framing_at;         /* where the name of either's line begins; 0 = there is none */
    bool padded;               /* white space stands behind the length */
    enum strict_expect expect; /* what is to be met: HTTP/1.0 does not know 100-continue */
    bool expects;              /* such a line is there */
    /* Of a head that is refused: */
    bool incomplete; /* nothing is wrong so far, and its end may come */
    bool too_large;
};

/*
 * Checks the head that begins at bytes[0); more may follow it.  Returns NULL and fills *out
 * when it is unambiguous, otherwise the error, fit for the client, with all else in *out 0.
 * Header names may have been put in lower case.
 */
MUST_CHECK const char *strict_head_check(struct strict_head *out, const char *bytes, size_t n);

#endif
