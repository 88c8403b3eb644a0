/*
 * json_scan.h - the bytes of JSON text, many at a time where they are plain; for json.c and
 * json_check.c alone.
 *
 * Bodies are mostly long strings, and every walk over a body passes them.
 */
#ifndef DROVER_BASE_JSON_SCAN_H
#define DROVER_BASE_JSON_SCAN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static inline bool json_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static inline bool json_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline const char *json_skip_space(const char *p, const char *end)
{
    while (p < end && json_is_space(*p))
        p++;
    return p;
}

/* The value of a hexadecimal digit; -1 when it is none. */
static inline int json_scan_hex(char c)
{
    if (json_is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

#ifdef __SSE2__
#define JSON_SCAN_STEP 16

/* Is a quote, a backslash or a control character among the 16 bytes at p? */
static inline int json_scan_hits(const char *p)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    __m128i back = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);

    return _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, back), control));
}
#else
#define JSON_SCAN_STEP 8

/* The same of 8 bytes, but a borrow can also mark a byte above a true hit: not 0 says only that
 * there is one. */
static inline int json_scan_hits(const char *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t w, quote, back, hits;

    memcpy(&w, p, sizeof(w));
    quote = w ^ (ones * '"');
    back = w ^ (ones * '\\');
    hits = ((quote - ones) & ~quote) | ((back - ones) & ~back) | ((w - ones * 0x20) & ~w);
    return (hits & (ones << 7)) != 0;
}
#endif

/* The first quote, backslash or control character in [p, end), or end. */
static inline const char *json_scan_plain(const char *p, const char *end)
{
    while (end - p >= JSON_SCAN_STEP && json_scan_hits(p) == 0)
        p += JSON_SCAN_STEP;
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
        p++;
    return p;
}

#endif
