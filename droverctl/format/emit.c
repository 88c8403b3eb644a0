/* emit.c - writes JSON.  A comma is due unless the last byte opened something. */
#include "droverctl/format/emit.h"

#include <inttypes.h>
#include <math.h>

#include "base/text/buf.h"
#include "base/text/json.h"

static void begin(struct buf *out, const char *key)
{
    if (buf_size(out) != 0) {
        uint8_t last = out->data[out->len - 1];

        if (last != '{' && last != '[')
            buf_str(out, ",");
    }
    if (key != NULL) {
        json_quote_str(out, key);
        buf_str(out, ":");
    }
}

void emit_object(struct buf *out, const char *key)
{
    begin(out, key);
    buf_str(out, "{");
}

void emit_array(struct buf *out, const char *key)
{
    begin(out, key);
    buf_str(out, "[");
}

void emit_end_object(struct buf *out)
{
    buf_str(out, "}");
}

void emit_end_array(struct buf *out)
{
    buf_str(out, "]");
}

void emit_text(struct buf *out, const char *key, const char *value)
{
    begin(out, key);
    json_quote_str(out, value);
}

void emit_uint(struct buf *out, const char *key, uint64_t value)
{
    begin(out, key);
    buf_printf(out, "%" PRIu64, value);
}

void emit_number(struct buf *out, const char *key, double value)
{
    begin(out, key);
    if (isfinite(value))
        buf_printf(out, "%.6g", value);
    else
        buf_str(out, "null");
}

void emit_bool(struct buf *out, const char *key, bool value)
{
    begin(out, key);
    buf_str(out, value ? "true" : "false");
}

void emit_null(struct buf *out, const char *key)
{
    begin(out, key);
    buf_str(out, "null");
}
