/*
 * table.h - lays out rows of text in aligned columns that fit a width.  Pure.
 *
 * When the rows are too wide, the columns that may be cut are cut, the widest first, down to a
 * good width; if that is not enough, the columns that may go are left out, the one with the
 * greatest `drop` first; then columns are cut further, down to their least width.
 */
#ifndef DROVER_DROVERCTL_FORMAT_TABLE_H
#define DROVER_DROVERCTL_FORMAT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"

enum tone {
    TONE_PLAIN = 0,
    TONE_GOOD,
    TONE_WARN,
    TONE_BAD,
    TONE_DIM,
    TONE_HEAD, /* titles */
};

struct style {
    bool color; /* escape sequences may be used */
    bool utf8;  /* so may characters outside ASCII */
    unsigned width;
};

/* Appends `n` bytes of escaped text in a tone. */
void style_add(struct buf *out, const struct style *style, enum tone tone, const char *text,
               size_t n);
/* Appends a bar of `fraction` (0..1) of `columns`: blocks in UTF-8, else number signs. */
void style_bar(struct buf *out, const struct style *style, double fraction, unsigned columns);

struct column {
    const char *title;
    bool right;     /* align right, as numbers are */
    unsigned least; /* columns it may be cut down to; 0 = never cut */
    unsigned good;  /* columns it keeps as long as another column can go instead */
    unsigned drop;  /* 0 = never left out */
};

#define TABLE_MAX_COLUMNS 16

struct table_cell {
    size_t start, len; /* in table.text */
    enum tone tone;
};

struct table {
    const struct column *columns; /* borrowed */
    unsigned n_columns;           /* at most TABLE_MAX_COLUMNS */
    struct buf text;              /* owned: all cells, one after the other */
    struct table_cell *cells;     /* owned: row by row */
    size_t len, cap;
    bool failed; /* out of memory */
};

void table_init(struct table *table, const struct column *columns, unsigned n_columns);
void table_finish(struct table *table);

/* The next cell, left to right, row by row.  table_text() is for text from outside. */
void table_text(struct table *table, const struct style *style, enum tone tone,
                const char *text);
void table_printf(struct table *table, enum tone tone, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Appends titles and complete rows; latches out->failed when out of memory. */
void table_render(const struct table *table, const struct style *style, struct buf *out);

#endif
