/*
 * splice.h - makes the events of a continued answer fit the stream that the client already
 * reads: the same id and time, no second beginning, nothing said twice, usage as of one answer.
 *
 * Each event goes through splice_event() before the meter sees it, so that the meter counts
 * what the client gets, and through splice_check() after.  Members are replaced where
 * they stand in the engine's bytes; the rest of an event is kept as it is.  Pure.
 */
#ifndef DROVER_NODE_STREAM_SPLICE_H
#define DROVER_NODE_STREAM_SPLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"

struct stream_meter;
struct seen;
struct sse_event;

struct splice_config {
    int operation;          /* enum drover.v1.Operation */
    const char *id;         /* to keep; "" = the engine's */
    uint64_t created;       /* to keep; 0 = the engine's */
    uint32_t tokens;        /* output tokens that were given */
    const char *text;       /* the text that was given */
    size_t text_len;        /* 0: none */
    bool repeats;           /* this engine says the given text again, however short it is */
    const char *item_id;    /* of a response's message, to keep; "" = the engine's */
    uint32_t next_sequence; /* of a response's next event */
};

struct splice {
    int operation;
    uint32_t tokens;
    bool repeats;
    bool compared;                  /* the first text was looked at for the given one */
    bool begun;                     /* new text was seen */
    uint32_t next_sequence;         /* of the next event that is shown */
    size_t fresh_bytes;             /* of the text that this engine has streamed */
    struct buf id, created, text;   /* owned: the first two as JSON, empty = keep */
    struct buf item_id;             /* owned: likewise */
    struct buf number, full;        /* owned: a sequence number; all of the answer's text */
    struct buf usage, inner, piece; /* owned: members as they are to be */
    struct buf out, joined;         /* owned: the changed event */
};

enum splice_step {
    SPLICE_SHOW = 0,
    SPLICE_HIDE, /* a beginning, or empty: the client has it */
    SPLICE_ANEW, /* the engine did not go on from the text, it began something else */
};

/* DRV_ENOMEM.  Release with splice_finish() in any case. */
MUST_CHECK int splice_init(struct splice *r, const struct splice_config *config);
void splice_finish(struct splice *r);

/* The event as the client should see it; *out borrows from `in` and from `r` until the next
 * call.  An event of another format is left as it is.  DRV_ENOMEM. */
MUST_CHECK int splice_event(struct splice *r, const struct sse_event *in,
                            struct sse_event *out);

/* The next step for that event, which the meter has just seen; the meter's next_sequence
 * becomes that of the stream that the client reads. */
MUST_CHECK enum splice_step splice_check(struct splice *r, struct stream_meter *o,
                                         const struct seen *seen);

/* Takes the tokens that were given away from a count of the prompt: from the newly
 * read ones first, then from the cached ones. */
void splice_less(uint32_t tokens, uint64_t *fresh, uint64_t *cached);

#endif
