/*
 * reply.h - an answer of Drover's own, as a value.  Pure.
 *
 * api/ builds a reply; worker/http/reject.h sends it.  A reply knows no connection.
 */
#ifndef DROVER_WORKER_API_REPLY_H
#define DROVER_WORKER_API_REPLY_H

#include <stddef.h>

#include "base/text/buf.h"
#include "worker/api/surface.h"

#define REPLY_MAX_HEADERS  4
#define REPLY_HEADER_BYTES 32 /* of a value, with NUL */

struct reply_header {
    const char *name; /* static, lower case */
    char value[REPLY_HEADER_BYTES];
};

struct reply {
    enum api_error error; /* API_ERROR_NONE: the answer that the client asked for */
    unsigned status;
    const char *content_type; /* static */
    struct buf body;          /* owned; `failed` = out of memory, the reply must not be sent */
    struct reply_header headers[REPLY_MAX_HEADERS];
    size_t headers_count;
};

#define REPLY_INIT ((struct reply){0})

/* Frees the body. */
void reply_finish(struct reply *reply);

/*
 * Makes an error in the surface's shape, with x-drover-reason, x-should-retry and retry-after
 * (retry_after_s 0: without it; clamped to 60).  `param`: the wrong member of the request, or
 * NULL.  `out` is REPLY_INIT.
 */
void reply_error(struct reply *out, enum surface surface, enum api_error error,
                 const char *message, const char *param, unsigned retry_after_s,
                 const char *request_id);

#endif
