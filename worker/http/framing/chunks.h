/*
 * chunks.h - takes the framing of chunks off a body that comes piece by piece.  Pure.
 *
 * Strict, as strict_head.h is and for its reason: a line ends with CRLF, a size is hexadecimal
 * digits, and what may follow it or the last chunk is passed over, if it is short.  A body
 * with an extension, a trailer or a size that begins with 0 is `odd`: these are allowed, but
 * some read them otherwise, so nothing behind it should be taken for a request.
 */
#ifndef DROVER_WORKER_HTTP_FRAMING_CHUNKS_H
#define DROVER_WORKER_HTTP_FRAMING_CHUNKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

/* Of extensions and trailers, in a whole body. */
#define CHUNKS_MAX_IGNORED (64 * 1024)

enum chunks_state {
    CHUNKS_SIZE = 0,   /* digits come */
    CHUNKS_EXTENSION,  /* behind them, to the CR */
    CHUNKS_SIZE_LF,    /* the line feed */
    CHUNKS_DATA,       /* `left` bytes of the body */
    CHUNKS_DATA_CR,    /* the line break behind them */
    CHUNKS_DATA_LF,    /* */
    CHUNKS_TRAILER,    /* the beginning of a line behind the last chunk */
    CHUNKS_IN_TRAILER, /* ... which is not empty */
    CHUNKS_TRAILER_LF, /* the end of that line */
    CHUNKS_LAST_LF,    /* the end of the empty line */
};

/* Zero at first. */
struct chunks {
    enum chunks_state state;
    bool odd;
    unsigned digits;
    uint64_t left;  /* of the present chunk; of its size as far as it has come */
    size_t ignored; /* bytes of extensions and trailers */
};

enum chunks_result {
    CHUNKS_MORE = 0,
    CHUNKS_END, /* the body is whole */
    CHUNKS_BAD, /* that is no chunk */
};

/* Moves the bytes of the body that are in bytes[0..n) to its front: *body of them.  With
 * CHUNKS_END the last *rest bytes belong to what follows the body, and are where they were. */
MUST_CHECK enum chunks_result chunks_take(struct chunks *chunks, uint8_t *bytes, size_t n,
                                          size_t *body, size_t *rest);

#endif
