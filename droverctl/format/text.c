/* text.c - text for people. */
#include "droverctl/format/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

#include "base/clock.h"
#include "base/text/buf.h"

/* Decodes one character of text[0..n), n > 0: its code point, and in *bytes its length.  -1
 * and 1 byte where it is not UTF-8 (overlong forms and surrogates included). */
static int32_t decode(const char *text, size_t n, size_t *bytes)
{
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *s = (const unsigned char *)text;
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    int32_t code;

    *bytes = 1;
    if (length == 1)
        return s[0];
    if (length == 0 || s[0] > 0xf4 || length > n)
        return -1;
    code = s[0] & (0x7f >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return -1;
        code = code << 6 | (s[i] & 0x3f);
    }
    if (code < least[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return -1;
    *bytes = length;
    return code;
}

/* Invisible characters that change how the others look. */
static bool invisible(int32_t code)
{
    return code == 0xad || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) ||
           code == 0xfeff || (code >= 0xfff0 && code <= 0xfffb) || code >= 0xe0000;
}

/* Columns of a character that may be shown, -1 for one that may not. */
static int columns_of(int32_t code)
{
    if (code < 0x20 || (code >= 0x7f && code < 0xa0) || invisible(code))
        return -1;
    return code < 0x7f ? 1 : wcwidth((wchar_t)code);
}

void text_escape(struct buf *out, const char *text, bool utf8)
{
    size_t n = strlen(text);

    for (size_t at = 0; at < n;) {
        size_t bytes;
        int32_t code = decode(text + at, n - at, &bytes);

        if (code >= 0 && (utf8 || code < 0x80) && columns_of(code) >= 0) {
            buf_add(out, text + at, bytes);
        } else {
            for (size_t i = 0; i < bytes; i++)
                buf_printf(out, "\\x%02x", (unsigned char)text[at + i]);
        }
        at += bytes;
    }
}

size_t text_prefix(const char *escaped, size_t n, size_t columns)
{
    size_t at = 0;

    while (at < n) {
        size_t bytes;
        int width = columns_of(decode(escaped + at, n - at, &bytes));

        if (width < 0)
            width = 1; /* nothing that was escaped */
        if ((size_t)width > columns)
            break;
        columns -= (size_t)width;
        at += bytes;
    }
    return at;
}

size_t text_columns(const char *escaped, size_t n)
{
    size_t columns = 0;

    for (size_t at = 0; at < n;) {
        size_t bytes;
        int width = columns_of(decode(escaped + at, n - at, &bytes));

        columns += width < 0 ? 1 : (size_t)width;
        at += bytes;
    }
    return columns;
}

const char *text_duration(char *out, uint64_t us)
{
    uint64_t s = us / US_PER_S;

    if (us == 0)
        (void)snprintf(out, TEXT_SHORT_BYTES, "-");
    else if (us < 10 * US_PER_MS)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 ".%02" PRIu64 "ms", us / US_PER_MS,
                       us % US_PER_MS / 10);
    else if (us < 100 * US_PER_MS)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 ".%" PRIu64 "ms", us / US_PER_MS,
                       us % US_PER_MS / 100);
    else if (s < 1)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 "ms", us / US_PER_MS);
    else if (s < 60)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 ".%" PRIu64 "s", s,
                       us % US_PER_S / 100000);
    else if (s < 3600)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 "m%" PRIu64 "s", s / 60, s % 60);
    else if (s < 86400)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 "h%" PRIu64 "m", s / 3600,
                       s / 60 % 60);
    else if (s < UINT64_C(1000) * 86400)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64 "d%" PRIu64 "h", s / 86400,
                       s / 3600 % 24);
    else
        (void)snprintf(out, TEXT_SHORT_BYTES, "years");
    return out;
}

const char *text_age(char *out, uint64_t now_mono_us, uint64_t then_mono_us)
{
    if (then_mono_us == 0)
        return text_duration(out, 0);
    if (then_mono_us >= now_mono_us) {
        (void)snprintf(out, TEXT_SHORT_BYTES, "0.0s");
        return out;
    }
    return text_duration(out, now_mono_us - then_mono_us);
}

const char *text_count(char *out, uint64_t count)
{
    static const char units[] = "kMGTP";
    double scaled = (double)count;

    if (count < 10000) {
        (void)snprintf(out, TEXT_SHORT_BYTES, "%" PRIu64, count);
        return out;
    }
    for (const char *unit = units; *unit != '\0'; unit++) {
        scaled /= 1000;
        /* the limits are where the digits before the point would round up to one more */
        if (scaled < 9.995)
            (void)snprintf(out, TEXT_SHORT_BYTES, "%.2f%c", scaled, *unit);
        else if (scaled < 99.95)
            (void)snprintf(out, TEXT_SHORT_BYTES, "%.1f%c", scaled, *unit);
        else if (scaled < 999.5)
            (void)snprintf(out, TEXT_SHORT_BYTES, "%.0f%c", scaled, *unit);
        else
            continue;
        return out;
    }
    (void)snprintf(out, TEXT_SHORT_BYTES, "huge");
    return out;
}

const char *text_rate(char *out, double per_s)
{
    if (!(per_s > 0))
        (void)snprintf(out, TEXT_SHORT_BYTES, "0");
    else if (per_s < 99.95)
        (void)snprintf(out, TEXT_SHORT_BYTES, "%.1f", per_s);
    else
        return text_count(out, per_s < 1e18 ? (uint64_t)(per_s + 0.5) : UINT64_MAX);
    return out;
}
