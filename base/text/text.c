/* text.c - see text.h. */
#include "base/text/text.h"

#include <stdint.h>

bool text_has(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

bool text_has_any(const char *text, const char *const *parts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text_has(text, parts[i]))
            return true;
    return false;
}

bool text_is_printable(const void *p, size_t n)
{
    const uint8_t *bytes = p;

    for (size_t i = 0; i < n; i++)
        if (bytes[i] < 0x20 || bytes[i] > 0x7e)
            return false;
    return true;
}

bool text_is_name(const char *text, size_t max_bytes)
{
    size_t n;

    for (n = 0; text[n] != '\0'; n++) {
        char c = text[n];

        if (n == max_bytes)
            return false;
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return n != 0;
}

size_t text_utf8_long(const uint8_t *p, size_t n, uint32_t *code)
{
    size_t len, i;

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        len = 2;
        *code = p[0] & 0x1f;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        len = 3;
        *code = p[0] & 0x0f;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        len = 4;
        *code = p[0] & 0x07;
    } else {
        return 0;
    }
    if (len > n)
        return 0;
    for (i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (p[i] & 0x3f);
    }
    /* Overlong forms, surrogates and what lies beyond Unicode. */
    if ((len == 3 && *code < 0x800) || (len == 4 && (*code < 0x10000 || *code > 0x10ffff)) ||
        (*code >= 0xd800 && *code <= 0xdfff))
        return 0;
    return len;
}

bool text_is_label(const char *text, size_t max_bytes)
{
    size_t n = strnlen(text, max_bytes + 1), i = 0;

    if (n == 0 || n > max_bytes)
        return false;
    while (i < n) {
        uint32_t code;
        size_t len = text_utf8_sequence(text + i, n - i, &code);

        if (len == 0 || code < 0x20 || (code >= 0x7f && code <= 0x9f))
            return false;
        i += len;
    }
    return true;
}

bool text_is_utf8(const void *p, size_t n)
{
    const uint8_t *bytes = p;
    size_t i = 0;

    while (i < n) {
        uint32_t code;
        size_t len;

        if (bytes[i] >= 0x01 && bytes[i] < 0x80) {
            i++;
            continue;
        }
        len = text_utf8_sequence(bytes + i, n - i, &code);
        if (len == 0 || code == 0)
            return false;
        i += len;
    }
    return true;
}
