/*
 * buf.h - a growable byte buffer with a read offset.
 *
 * The bytes in use are data[off .. len).  Out of memory is reported, never fatal: every
 * appending function is MUST_CHECK or latches `failed`, so that a sequence of appends needs one
 * check.
 */
#ifndef DROVER_BASE_BUF_H
#define DROVER_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct buf {
    uint8_t *data; /* owned; NULL iff cap == 0 */
    size_t off;    /* start of the unread bytes */
    size_t len;    /* end of the bytes written; off <= len <= cap */
    size_t cap;    /* bytes allocated */
    bool failed;   /* an append ran out of memory; bytes are missing */
};

#define BUF_INIT ((struct buf){0})

/* Frees the memory; the buffer is empty and usable afterwards. */
void buf_finish(struct buf *b);

/* Forgets the content, keeps the memory, clears `failed`. */
void buf_reset(struct buf *b);

/* Forgets the content and gives memory above `keep_bytes` back. */
void buf_shrink(struct buf *b, size_t keep_bytes);

/* Bytes not yet consumed, and where they start. */
static inline size_t buf_size(const struct buf *b)
{
    return b->len - b->off;
}
static inline uint8_t *buf_head(const struct buf *b)
{
    return b->data == NULL ? NULL : b->data + b->off; /* NULL + 0 is undefined in C17 */
}

/* Drops the first n unread bytes; n <= buf_size(). */
void buf_consume(struct buf *b, size_t n);

/* Makes room for n more bytes and returns where they go, or NULL (and latches `failed`).  The
 * caller writes at most n bytes there and adds what it wrote to b->len. */
MUST_CHECK uint8_t *buf_reserve(struct buf *b, size_t n);

/* Appends bytes, a string, or formatted text.  Latches `failed` when out of memory. */
void buf_add(struct buf *b, const void *p, size_t n);
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Appends a NUL that buf_size() does not count, and returns the text from the head.  "" when
 * the buffer is empty or memory ran out. */
const char *buf_cstr(struct buf *b);

#endif
