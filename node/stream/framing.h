/*
 * framing.h - what the body of an answer is, by its first bytes: server-sent events, a JSON
 * value on each line, one document, or a web page.
 *
 * The content type does not say it: engines, and the proxies before them, send streams as
 * text/plain, application/json or with no type at all, and errors as text/event-stream.  Pure.
 */
#ifndef DROVER_NODE_STREAM_FRAMING_H
#define DROVER_NODE_STREAM_FRAMING_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct json_value;

enum framing {
    FRAMING_UNDECIDED = 0, /* more bytes are needed */
    FRAMING_EVENTS,        /* text/event-stream */
    FRAMING_LINES,         /* NDJSON */
    FRAMING_DOCUMENT,      /* one JSON value, or text */
    FRAMING_PAGE,          /* HTML or XML: no answer of an engine */
};

/* Looks at the bytes so far; `whole`: nothing follows.  For operations that stream
 * (meter_streams()).  `claimed`: what the content type says, or FRAMING_UNDECIDED. */
MUST_CHECK enum framing framing_of(int operation, const void *bytes, size_t n, bool whole,
                                   enum framing claimed);

/* The framing that a content type promises; FRAMING_UNDECIDED for any that promises no stream.
 */
MUST_CHECK enum framing framing_claimed(const char *content_type);

/* The document's bytes without a byte-order mark and white space at either end. */
const char *framing_trim(const void *bytes, size_t *n);

/* Is it a whole answer to `operation`, or the engine's refusal to give one? */
MUST_CHECK bool framing_is_whole(int operation, const struct json_value *root);

/* Has the document what an answer to `operation` must have? */
MUST_CHECK bool framing_is_answer(int operation, const struct json_value *root);

#endif
