/*
 * splices.h - a long text with a few changes, read piece by piece and never copied as a whole.
 *
 * A splice takes bytes out at a place and puts others in.  Splices do not overlap; two at one
 * place keep the order in which they were added.  Pure.
 */
#ifndef DROVER_BASE_SPLICES_H
#define DROVER_BASE_SPLICES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"

#define SPLICES_MAX 16

struct splices {
    const uint8_t *text; /* borrowed */
    size_t n;
    struct splices_change {
        size_t at, removed;    /* of the text */
        size_t from, inserted; /* of `added` */
    } list[SPLICES_MAX];
    size_t count;
    struct buf added; /* owned: all that is put in */
};

/* Without a splice yet.  The text must stay as long as it is read. */
void splices_init(struct splices *s, const void *text, size_t n);
void splices_finish(struct splices *s);

/* DRV_EFULL: there are SPLICES_MAX; DRV_ENOMEM.  The text stays as it was before. */
MUST_CHECK int splices_add(struct splices *s, size_t at, size_t removed, const void *put,
                           size_t put_len);

/* The length of the changed text. */
size_t splices_size(const struct splices *s);

/* Reads the changed text from its beginning; a reader is zero there. */
struct splices_reader {
    size_t index; /* of the next splice */
    size_t at;    /* in the text */
    size_t put;   /* bytes of that splice that have been read */
};
/* Up to n bytes; 0 at the end. */
size_t splices_read(const struct splices *s, struct splices_reader *reader, void *to, size_t n);
MUST_CHECK bool splices_at_end(const struct splices *s, const struct splices_reader *reader);

#endif
