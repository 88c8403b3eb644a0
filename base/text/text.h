/* text.h - questions about short texts, terminated or not.  Pure. */
#ifndef DROVER_BASE_TEXT_H
#define DROVER_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/attrs.h"

MUST_CHECK static inline bool text_equals(const void *p, size_t n, const char *expected)
{
    return n == strlen(expected) && memcmp(p, expected, n) == 0;
}

MUST_CHECK static inline bool text_starts_with(const void *p, size_t n, const char *prefix)
{
    size_t len = strlen(prefix);

    return n >= len && memcmp(p, prefix, len) == 0;
}

/* Is the part in it, upper and lower case alike? */
MUST_CHECK bool text_has(const char *text, const char *part);

/* Is one of the `n` parts in it? */
MUST_CHECK bool text_has_any(const char *text, const char *const *parts, size_t n);

/* Only ASCII from space to tilde?  An empty text is printable. */
MUST_CHECK bool text_is_printable(const void *p, size_t n);

/* [A-Za-z0-9._-]{1,max_bytes} */
MUST_CHECK bool text_is_name(const char *text, size_t max_bytes);

/* UTF-8 without control characters, 1 to max_bytes bytes. */
MUST_CHECK bool text_is_label(const char *text, size_t max_bytes);

/* For what begins with a byte of 0x80 or more: see text_utf8_sequence(). */
size_t text_utf8_long(const uint8_t *p, size_t n, uint32_t *code);

/* Length of the UTF-8 sequence at p (1..4), of which *code is the code point; 0 when it is
 * none. `n` is at least 1. */
static inline size_t text_utf8_sequence(const void *p, size_t n, uint32_t *code)
{
    const uint8_t *bytes = p;

    if (bytes[0] >= 0x80)
        return text_utf8_long(bytes, n, code);
    *code = bytes[0];
    return 1;
}

/* Valid UTF-8 without NUL? */
MUST_CHECK bool text_is_utf8(const void *p, size_t n);

#endif
