/* emit.h - writes JSON to a buffer, minding the commas.  Pure. */
#ifndef DROVER_DROVERCTL_FORMAT_EMIT_H
#define DROVER_DROVERCTL_FORMAT_EMIT_H

#include <stdbool.h>
#include <stdint.h>

struct buf;

/* `key` is NULL for an element of an array and for the document itself. */
void emit_object(struct buf *out, const char *key);
void emit_array(struct buf *out, const char *key);
void emit_end_object(struct buf *out);
void emit_end_array(struct buf *out);
void emit_text(struct buf *out, const char *key, const char *value);
void emit_uint(struct buf *out, const char *key, uint64_t value);
void emit_number(struct buf *out, const char *key, double value);
void emit_bool(struct buf *out, const char *key, bool value);
void emit_null(struct buf *out, const char *key);

#endif
