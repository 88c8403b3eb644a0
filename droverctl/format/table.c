/* table.c - aligned columns that fit a width. */
#include "droverctl/format/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "droverctl/format/text.h"

#define GAP 2u

static const char *tone_sequence(enum tone tone)
{
    switch (tone) {
    case TONE_PLAIN:
        return "";
    case TONE_GOOD:
        return "\x1b[32m";
    case TONE_WARN:
        return "\x1b[33m";
    case TONE_BAD:
        return "\x1b[31m";
    case TONE_DIM:
        return "\x1b[2m";
    case TONE_HEAD:
        return "\x1b[1m";
    }
    return "";
}

void style_add(struct buf *out, const struct style *style, enum tone tone, const char *text,
               size_t n)
{
    bool toned = style->color && tone != TONE_PLAIN && n != 0;

    if (toned)
        buf_str(out, tone_sequence(tone));
    buf_add(out, text, n);
    if (toned)
        buf_str(out, "\x1b[0m");
}

void style_bar(struct buf *out, const struct style *style, double fraction, unsigned columns)
{
    /* Left one-eighth block to left seven-eighths block: U+258F down to U+2589. */
    unsigned eighths, whole;

    if (!(fraction > 0))
        return;
    eighths = (unsigned)((fraction < 1 ? fraction : 1) * columns * 8 + 0.5);
    if (eighths == 0)
        eighths = 1; /* something is not nothing */
    whole = eighths / 8;
    if (!style->utf8) {
        whole = (eighths + 4) / 8;
        for (unsigned i = 0; i < (whole == 0 ? 1 : whole); i++)
            buf_str(out, "#");
        return;
    }
    for (unsigned i = 0; i < whole; i++)
        buf_str(out, "\xe2\x96\x88");
    if (eighths % 8 != 0)
        buf_printf(out, "\xe2\x96%c", (char)(0x90 - eighths % 8));
}

void table_init(struct table *table, const struct column *columns, unsigned n_columns)
{
    assert(n_columns >= 1 && n_columns <= TABLE_MAX_COLUMNS);
    *table = (struct table){.columns = columns, .n_columns = n_columns};
}

void table_finish(struct table *table)
{
    buf_finish(&table->text);
    free(table->cells);
    *table = (struct table){0};
}

/* The cell's text is the part of table->text after `start`. */
static void add_cell(struct table *table, enum tone tone, size_t start)
{
    if (table->len == table->cap) {
        size_t cap = table->cap == 0 ? 64 : table->cap * 2;
        struct table_cell *grown = reallocarray(table->cells, cap, sizeof(*grown));

        if (grown == NULL) {
            table->failed = true;
            return;
        }
        table->cells = grown;
        table->cap = cap;
    }
    table->cells[table->len++] = (struct table_cell){
        .start = start, .len = buf_size(&table->text) - start, .tone = tone};
}

void table_text(struct table *table, const struct style *style, enum tone tone,
                const char *text)
{
    size_t start = buf_size(&table->text);

    text_escape(&table->text, text[0] == '\0' ? "-" : text, style->utf8);
    add_cell(table, tone, start);
}

void table_printf(struct table *table, enum tone tone, const char *fmt, ...)
{
    size_t start = buf_size(&table->text);
    char text[256];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    buf_str(&table->text, text);
    add_cell(table, tone, start);
}

static const char *cell_text(const struct table *table, const struct table_cell *cell)
{
    return cell->len == 0 ? "" : (const char *)buf_head(&table->text) + cell->start;
}

/* Columns that the line takes: shown columns and the gaps between them. */
static unsigned line_width(const struct table *table, const unsigned *width, const bool *shown)
{
    unsigned sum = 0;

    for (unsigned c = 0; c < table->n_columns; c++)
        if (shown[c])
            sum += (sum == 0 ? 0 : GAP) + width[c];
    return sum;
}

/* Cuts the widest column that may be cut by one; false when there is none.  `hard`: below its
 * good width. */
static bool cut_widest(const struct table *table, unsigned *width, const bool *shown, bool hard)
{
    unsigned widest = table->n_columns;

    for (unsigned c = 0; c < table->n_columns; c++) {
        const struct column *column = &table->columns[c];
        unsigned floor = hard || column->good < column->least ? column->least : column->good;

        if (shown[c] && column->least != 0 && width[c] > floor &&
            (widest == table->n_columns || width[c] > width[widest]))
            widest = c;
    }
    if (widest == table->n_columns)
        return false;
    width[widest]--;
    return true;
}

static bool drop_one(const struct table *table, bool *shown)
{
    unsigned first = table->n_columns;

    for (unsigned c = 0; c < table->n_columns; c++)
        if (shown[c] && table->columns[c].drop != 0 &&
            (first == table->n_columns || table->columns[c].drop > table->columns[first].drop))
            first = c;
    if (first == table->n_columns)
        return false;
    shown[first] = false;
    return true;
}

static void fit(const struct table *table, size_t rows, unsigned limit, unsigned *width,
                bool *shown)
{
    for (unsigned c = 0; c < table->n_columns; c++) {
        width[c] = (unsigned)strlen(table->columns[c].title);
        shown[c] = true;
        for (size_t r = 0; r < rows; r++) {
            const struct table_cell *cell = &table->cells[r * table->n_columns + c];
            size_t columns = text_columns(cell_text(table, cell), cell->len);

            if (columns > width[c])
                width[c] = (unsigned)columns;
        }
    }
    while (line_width(table, width, shown) > limit)
        if (!cut_widest(table, width, shown, false) && !drop_one(table, shown) &&
            !cut_widest(table, width, shown, true))
            break;
}

/* One cell of exactly `width` columns; without padding behind the last of a line. */
static void render_cell(struct buf *out, const struct style *style, enum tone tone,
                        const char *text, size_t n, unsigned width, bool right, bool last)
{
    size_t columns = text_columns(text, n);
    bool cut = columns > width;
    unsigned pad;

    if (cut) {
        n = text_prefix(text, n, width - 1);
        columns = text_columns(text, n) + 1;
    }
    pad = width - (unsigned)columns;
    if (right)
        buf_printf(out, "%*s", (int)pad, "");
    style_add(out, style, tone, text, n);
    if (cut)
        style_add(out, style, tone, style->utf8 ? "\xe2\x80\xa6" : "~", style->utf8 ? 3 : 1);
    if (!right && !last)
        buf_printf(out, "%*s", (int)pad, "");
}

void table_render(const struct table *table, const struct style *style, struct buf *out)
{
    size_t rows = table->len / table->n_columns;
    unsigned width[TABLE_MAX_COLUMNS];
    bool shown[TABLE_MAX_COLUMNS];
    unsigned last = 0;

    if (table->failed || table->text.failed) {
        out->failed = true;
        return;
    }
    fit(table, rows, style->width, width, shown);
    for (unsigned c = 0; c < table->n_columns; c++)
        if (shown[c])
            last = c;
    for (size_t r = 0; r <= rows; r++) { /* row 0 is the titles */
        for (unsigned c = 0; c <= last; c++) {
            const struct column *column = &table->columns[c];

            if (!shown[c])
                continue;
            if (r == 0) {
                render_cell(out, style, TONE_HEAD, column->title, strlen(column->title),
                            width[c], column->right, c == last);
            } else {
                const struct table_cell *cell = &table->cells[(r - 1) * table->n_columns + c];

                render_cell(out, style, cell->tone, cell_text(table, cell), cell->len, width[c],
                            column->right, c == last);
            }
            if (c != last)
                buf_printf(out, "%*s", (int)GAP, "");
        }
        buf_str(out, "\n");
    }
}
