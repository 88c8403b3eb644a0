/*
 * sse.h - cuts the body of a streamed answer into whole server-sent events, or NDJSON lines.
 *
 * Lines of events may end in \n, \r\n or \r (HTML Living Standard, 9.2.6), those of NDJSON end
 * in \n and a \r is white space; a byte-order mark at the very start is dropped, and an event
 * of more than SSE_MAX_EVENT_BYTES is an error: an engine that never ends an event must not
 * fill the memory.  Pure; allocates the buffer only.
 */
#ifndef DROVER_NODE_STREAM_SSE_H
#define DROVER_NODE_STREAM_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"

#define SSE_MAX_EVENT_BYTES (64 * 1024 * 1024) /* as of an answer that is put together */

enum sse_mode {
    SSE_EVENTS = 0, /* text/event-stream */
    SSE_LINES,      /* application/x-ndjson: every non-empty line is an event */
};

struct sse {
    enum sse_mode mode;
    struct buf in;     /* owned: bytes not yet given out */
    size_t scanned;    /* bytes from the head of `in` known to hold no end of an event */
    size_t line_start; /* where the line being scanned begins, from the head of `in` */
    size_t given;      /* bytes of the event given out last; dropped by the next call */
    struct buf joined; /* owned: data of an event with several data lines */
    bool started;      /* the first bytes were looked at for a byte-order mark */
    bool saw_lf;       /* the stream uses \n, so a \r at the end of the input may be half a \r\n
                        */
    bool skip_lf;      /* the last event ended in \r: a \n that follows belongs to it */
};

/* One event.  All pointers are good until the next call with the same struct sse. */
struct sse_event {
    const uint8_t *raw; /* as the engine sent it, blank line included */
    size_t raw_len;
    const char *data; /* data lines joined by \n, or the NDJSON line; not terminated */
    size_t data_len;
    const char *name; /* of the event field; "" (length 0) when there is none */
    size_t name_len;
    bool comment; /* no data: comments (pings), or a `silent` one */
    bool silent; /* no data, but fields that clients read (id, retry, event): by the standard it
                    is no event, and the usual client libraries fail on it */
    bool cut;    /* sse_end(): the event lacks its blank line */
};

void sse_init(struct sse *sse, enum sse_mode mode);
void sse_finish(struct sse *sse);

/* Adds bytes of the body.  DRV_ENOMEM. */
MUST_CHECK int sse_feed(struct sse *sse, const void *bytes, size_t n);

/* The next whole event: 1 and *event, 0 when there is none yet, DRV_ETOOBIG, DRV_ENOMEM. */
MUST_CHECK int sse_next(struct sse *sse, struct sse_event *event);

/* At the end of the body, after sse_next() gave 0: the rest, if any, as an event that was
 * cut short (an NDJSON line without its newline is whole all the same).  1, 0, DRV_ENOMEM.
 */
MUST_CHECK int sse_end(struct sse *sse, struct sse_event *event);

#endif
