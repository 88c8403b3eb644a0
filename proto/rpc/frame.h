/*
 * frame.h - cuts a gRPC byte stream into messages.  Pure.
 *
 * A message is one flag byte, four bytes of big-endian length, and that many bytes.  DATA frame
 * boundaries mean nothing, so this is a state machine that takes bytes as they come.  A message
 * that lies whole in one input is delivered from there, without a copy.
 */
#ifndef DROVER_PROTO_RPC_FRAME_H
#define DROVER_PROTO_RPC_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"

enum frame_result {
    FRAME_MORE = 0,   /* all input taken, no message complete */
    FRAME_MESSAGE,    /* one message complete; call again with the rest of the input */
    FRAME_TOO_BIG,    /* the length is over the limit (seen before anything is buffered) */
    FRAME_COMPRESSED, /* flag 1: we never offer compression */
    FRAME_BAD_FLAG,   /* flag byte other than 0 and 1 */
    FRAME_NO_MEMORY,
};

struct frame_reader {
    uint8_t prefix[5];
    uint8_t prefix_len; /* bytes of the prefix seen; 5 = in the message */
    uint32_t want;      /* length of the message, once the prefix is complete */
    size_t max_bytes;   /* limit for `want` */
    struct buf partial; /* the message so far, when it is split */
};

void frame_reader_init(struct frame_reader *reader, size_t max_bytes);
void frame_reader_finish(struct frame_reader *reader);

/*
 * Takes bytes from *in (advancing *in and *n) until a message is complete or the input ends.
 * With FRAME_MESSAGE, *msg and *msg_len are valid until the next call.  After any result from
 * FRAME_TOO_BIG on the reader is done.
 */
MUST_CHECK enum frame_result frame_read(struct frame_reader *reader, const uint8_t **in,
                                        size_t *n, const uint8_t **msg, size_t *msg_len);

/* Gives back the memory of the message that frame_read() delivered last, if that came in
 * pieces. */
void frame_reader_trim(struct frame_reader *reader);

/* In the middle of a message? A stream that ends so is broken. */
MUST_CHECK int frame_reader_partial(const struct frame_reader *reader);

/* Writes the prefix of an uncompressed message of `n` bytes. */
void frame_prefix(uint8_t out[5], uint32_t n);

#endif
