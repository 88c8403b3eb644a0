/*
 * event_end.h - does what a client has of a stream end between two events?  Pure.
 *
 * Only there a comment or an error of our own may follow: elsewhere it would become a part of
 * the event, or the event's rest a part of it.
 */
#ifndef DROVER_WORKER_API_EVENT_END_H
#define DROVER_WORKER_API_EVENT_END_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

/* The last bytes of a stream; all zero before the first. */
struct event_end {
    char last[3];
    uint8_t count; /* of `last`, whose first byte is the oldest */
};

void event_end_note(struct event_end *end, const void *bytes, size_t n);

/* After an empty line, whose line ends are \n, \r\n or \r; of `lines` (NDJSON): after a \n.
 * True before the first byte. */
MUST_CHECK bool event_end_is_here(const struct event_end *end, bool lines);

#endif
