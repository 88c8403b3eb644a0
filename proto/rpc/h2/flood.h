/*
 * flood.h - limits on a peer's wasteful frames.  Pure.
 *
 * A connection counts events that cost the peer little and us something, and ends when there
 * are too many: PINGs, SETTINGS, streams over the limit, and faults that make us reset a stream
 * or ignore a frame (CVE-2025-8671), each within 10 s; and the share of bytes that carry
 * nothing (empty DATA, PRIORITY, WINDOW_UPDATE, frames of unknown types), after nginx's rule
 * for HTTP/2: an eighth of the bytes read must be useful, with 1 MiB to spare.  nghttp2 itself
 * bounds RST_STREAM, CONTINUATION, SETTINGS entries and its queue of answers.
 */
#ifndef DROVER_PROTO_RPC_H2_FLOOD_H
#define DROVER_PROTO_RPC_H2_FLOOD_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

#define FLOOD_SPAN_US UINT64_C(10000000)

/* Within FLOOD_SPAN_US. */
#define FLOOD_MAX_PINGS    100
#define FLOOD_MAX_SETTINGS 20
#define FLOOD_MAX_FAULTS   50
#define FLOOD_MAX_REFUSALS 2000 /* honest before our own SETTINGS arrive */

#define FLOOD_SPARE_BYTES   1048576
#define FLOOD_USELESS_RATIO 8

enum flood_event {
    FLOOD_PING = 0,
    FLOOD_SETTINGS,
    FLOOD_FAULT,   /* a frame that we ignored, or a stream that we reset for a fault */
    FLOOD_REFUSAL, /* a stream over the limit */
    FLOOD_EVENTS
};

struct flood {
    struct {
        uint64_t since_mono_us; /* 0 = none yet */
        unsigned count;
    } rate[FLOOD_EVENTS];
    uint64_t read_bytes;   /* all of them */
    uint64_t useful_bytes; /* of these, payload of HEADERS and DATA; and DATA sent */
};

/* One more.  NULL, or what there is too much of, in a word for the log and for GOAWAY. */
MUST_CHECK const char *flood_count(struct flood *f, enum flood_event event,
                                   uint64_t now_mono_us);

/* Are too few of the bytes read useful?  As flood_count(). */
MUST_CHECK const char *flood_waste(const struct flood *f);

/* The kind of our RST_STREAM with this error code; FLOOD_EVENTS: none, it is the ordinary end
 * of a stream. */
enum flood_event flood_of_reset(uint32_t h2_error_code);

#endif
