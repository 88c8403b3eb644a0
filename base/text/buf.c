/* buf.c - a growable byte buffer with a read offset. */
#include "base/text/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_finish(struct buf *b)
{
    free(b->data);
    *b = BUF_INIT;
}

void buf_reset(struct buf *b)
{
    b->off = 0;
    b->len = 0;
    b->failed = false;
}

void buf_shrink(struct buf *b, size_t keep_bytes)
{
    if (b->cap > keep_bytes)
        buf_finish(b);
    else
        buf_reset(b);
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= buf_size(b));
    b->off += n;
    if (b->off == b->len) {
        b->off = 0;
        b->len = 0;
    }
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    size_t used = buf_size(b);
    size_t cap;
    uint8_t *grown;

    if (n <= b->cap - b->len && b->cap != 0)
        return b->data + b->len;
    if (n > SIZE_MAX / 4 || used > SIZE_MAX / 4) {
        b->failed = true;
        return NULL;
    }
    /* Moving the unread bytes down is cheaper than growing, once enough has been consumed. */
    if (b->cap != 0 && used + n <= b->cap && b->off >= b->cap / 2) {
        memmove(b->data, b->data + b->off, used);
        b->off = 0;
        b->len = used;
        return b->data + b->len;
    }
    for (cap = b->cap < 256 ? 256 : b->cap; cap < used + n;)
        cap *= 2;
    grown = malloc(cap);
    if (grown == NULL) {
        b->failed = true;
        return NULL;
    }
    if (used != 0)
        memcpy(grown, b->data + b->off, used);
    free(b->data);
    b->data = grown;
    b->cap = cap;
    b->off = 0;
    b->len = used;
    return b->data + b->len;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    uint8_t *to;

    if (n == 0)
        return;
    to = buf_reserve(b, n);
    if (to == NULL)
        return;
    memcpy(to, p, n);
    b->len += n;
}

void buf_str(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n;
    uint8_t *to;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
        return;
    }
    to = buf_reserve(b, (size_t)n + 1);
    if (to == NULL)
        return;
    va_start(ap, fmt);
    (void)vsnprintf((char *)to, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
}

const char *buf_cstr(struct buf *b)
{
    uint8_t *to = buf_reserve(b, 1);

    if (to == NULL)
        return "";
    *to = '\0';
    return (const char *)buf_head(b);
}
