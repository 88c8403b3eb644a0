/*
 * as_stream.h - makes the events that an engine streams from the answer that it gives in one
 * document, where a client asked for a stream and the engine took no notice or has none: the
 * reverse of node/stream/assemble.h.
 *
 * Values keep their bytes, but for line ends between them; each text comes in one piece.  Pure.
 */
#ifndef DROVER_NODE_ANSWER_AS_STREAM_H
#define DROVER_NODE_ANSWER_AS_STREAM_H

#include <stdbool.h>

#include "base/attrs.h"

struct buf;
struct json_value;

/* Appends an answer to an operation that streams (framing_is_answer() holds) as its events, or
 * as its NDJSON line, with the end that its format has.  `usage`: the client of a chat or a
 * completion asked for the event that has it.  DRV_EINVAL: it is not at its end, or cannot be
 * a stream; DRV_ENOMEM. */
MUST_CHECK int as_stream_write(struct buf *out, int operation, const struct json_value *root,
                               bool usage);

#endif
