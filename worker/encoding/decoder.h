/*
 * decoder.h - takes the content coding off a body, piece by piece: gzip, deflate, zstd.  Pure:
 * what goes in and comes out is the caller's, and so are all limits but that of the memory that
 * a decoder needs itself (a window of 8 MiB at most, for zstd).
 */
#ifndef DROVER_WORKER_ENCODING_DECODER_H
#define DROVER_WORKER_ENCODING_DECODER_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct error;
struct decoder;

enum body_encoding {
    ENCODING_IDENTITY = 0, /* the body is as it is */
    ENCODING_GZIP,         /* RFC 1952; several members one after the other are one body */
    ENCODING_DEFLATE, /* RFC 1950, or RFC 1951 alone, which some clients send by that name */
    ENCODING_ZSTD,    /* RFC 8878 and 9659; several frames are one body */
    ENCODING_OTHER,   /* none of these, or more than one of them */
};

/* The Accept-Encoding of an answer 415. */
#define ENCODINGS_ACCEPTED "gzip, deflate, zstd"

/* Reads the value of a Content-Encoding header, where `before` is what the headers of that name
 * before it said (at first ENCODING_IDENTITY): they count as one list. */
enum body_encoding encoding_parse(enum body_encoding before, const char *value, size_t n);
/* As in a header. */
const char *encoding_name(enum body_encoding encoding);

/* For gzip, deflate or zstd.  NULL: no memory. */
MUST_CHECK struct decoder *decoder_create(enum body_encoding encoding);
void decoder_destroy(struct decoder *decoder); /* NULL is allowed */

/* Memory that it holds by now, in bytes. */
size_t decoder_memory(const struct decoder *decoder);

struct decoder_io {
    const uint8_t *in; /* moved on by what has been read */
    size_t in_left;
    uint8_t *out; /* moved on by what has been written */
    size_t out_left;
};

/*
 * Goes on until all of `in` is read or all of `out` is written.  While nothing of `out` is left
 * there may be more to come, even without more to read.  After an error only
 * decoder_destroy() may follow.
 *
 *   DRV_EINVAL   the data are damaged, or not what they are said to be, or something follows
 *                their end; `err` is fit for the client
 *   DRV_ETOOBIG  the window of zstd is too large; `err` is fit for the client
 *   DRV_ENOMEM
 */
MUST_CHECK int decoder_feed(struct decoder *decoder, struct decoder_io *io, struct error *err);

/* All has been read and room of `out` was left: is that the end of the data?  DRV_EINVAL: they
 * are cut off. */
MUST_CHECK int decoder_end(const struct decoder *decoder, struct error *err);

#endif
