/* test_chunks.c - a body without the framing of its chunks, however it is cut. */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/attrs.h"
#include "worker/http/framing/chunks.h"

/* Feeds it in pieces of `step` bytes, each in memory of its exact size; the body goes to `out`.
 */
static enum chunks_result feed(const char *text, size_t step, char *out, size_t *rest)
{
    size_t n = strlen(text), at = 0, len = 0, body;
    enum chunks_result result = CHUNKS_MORE;
    struct chunks chunks = {0};

    while (result == CHUNKS_MORE && at < n) {
        size_t take = step < n - at ? step : n - at;
        uint8_t *piece = malloc(take);

        memcpy(piece, text + at, take);
        at += take;
        result = chunks_take(&chunks, piece, take, &body, rest);
        memcpy(out + len, piece, body);
        len += body;
        if (result == CHUNKS_END) {
            cr_assert_eq(memcmp(piece + take - *rest, text + at - *rest, *rest), 0);
            *rest += n - at;
        }
        free(piece);
    }
    out[len] = '\0';
    return result;
}

Test(chunks, a_body_is_the_same_however_it_is_cut)
{
    static const char *const texts[] = {
        "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /",
        "b\r\nhello world\r\n0\r\n\r\nGET /",
        "5;a=\"b\"\r\nhello\r\n00006 \r\n world\r\n000;x\r\nTrailer: x\r\nB:\r\n\r\nGET /",
        "1\r\nh\r\nA\r\nello world\r\n0\r\n\r\nGET /",
    };
    char out[64];
    size_t rest;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (size_t step = 1; step <= strlen(texts[i]); step++) {
            cr_assert_eq(feed(texts[i], step, out, &rest), CHUNKS_END, "%s", texts[i]);
            cr_assert_str_eq(out, "hello world");
            cr_assert_eq(rest, 5);
        }
    cr_assert_eq(feed("5\r\nhel", 2, out, &rest), CHUNKS_MORE);
    cr_assert_str_eq(out, "hel");
    cr_assert_eq(feed("0\r\n\r\n", 9, out, &rest), CHUNKS_END);
    cr_assert_eq(rest, 0);
}

Test(chunks, chunks_that_two_servers_might_read_differently_are_refused)
{
    static const char *const texts[] = {
        "\r\n",        "x\r\n",           "5\nhello",         "5\r hello",
        "5\r\nhellox", "5\r\nhello\n",    "-1\r\n",           "0x5\r\n",
        ";a\r\n",      " 5\r\nhello\r\n", "5;a\nb\r\nhello",  "0\r\nA: b\n\r\n",
        "0\r\n\rX",    "0\r\n A: b\r\n",  "1000000000000000", "0\r\n\r\r",
    };
    char out[64];
    size_t rest;

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (size_t step = 1; step <= strlen(texts[i]); step++)
            cr_assert_eq(feed(texts[i], step, out, &rest), CHUNKS_BAD, "%s", texts[i]);
}

Test(chunks, extensions_and_trailers_are_short)
{
    static uint8_t text[CHUNKS_MAX_IGNORED + 64];
    struct chunks chunks = {0};
    size_t body, rest;

    memset(text, 'x', sizeof(text));
    memcpy(text, "0\r\nA:", 5);
    cr_assert_eq(chunks_take(&chunks, text, CHUNKS_MAX_IGNORED, &body, &rest), CHUNKS_MORE);
    cr_assert_eq(chunks_take(&chunks, text + 9, 64, &body, &rest), CHUNKS_BAD);
}

Test(chunks, forms_that_some_read_otherwise_are_marked)
{
    static const struct {
        const char *text;
        bool odd;
    } cases[] = {
        {"5\r\nhello\r\n0\r\n\r\n", false},
        {"A\r\nhellohello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n", false},
        {"05\r\nhello\r\n0\r\n\r\n", true},
        {"5\r\nhello\r\n00\r\n\r\n", true},
        {"5;a=b\r\nhello\r\n0\r\n\r\n", true},
        {"5 \r\nhello\r\n0\r\n\r\n", true},
        {"5\r\nhello\r\n0;\r\n\r\n", true},
        {"5\r\nhello\r\n0\r\nA: b\r\n\r\n", true},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct chunks chunks = {0};
        size_t n = strlen(cases[i].text), body, rest;
        uint8_t bytes[64];

        memcpy(bytes, cases[i].text, n);
        cr_assert_eq(chunks_take(&chunks, bytes, n, &body, &rest), CHUNKS_END);
        cr_expect_eq(chunks.odd, cases[i].odd, "%s", cases[i].text);
    }
}
