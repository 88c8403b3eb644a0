/* test_strict_head.c - heads that two servers could read differently do not pass. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "worker/http/framing/strict_head.h"

/* Checks a copy of exact size, so that ASan sees a read beyond it. */
static const char *check(struct strict_head *out, const char *head, size_t n)
{
    char *copy = malloc(n == 0 ? 1 : n);
    const char *why;

    memcpy(copy, head, n);
    why = strict_head_check(out, copy, n);
    free(copy);
    return why;
}

static const char *why(const char *head)
{
    struct strict_head out;

    return check(&out, head, strlen(head));
}

#define POST "POST /v1/chat/completions HTTP/1.1\r\n"
#define HOST "Host: a.example:8080\r\n"

Test(strict_head, ordinary_heads_pass)
{
    static const char *const heads[] = {
        "GET / HTTP/1.1\r\n" HOST "\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET /a?b=%20c HTTP/1.1\r\nhost:a\r\nAccept: */*\r\nX-Empty:\r\n\r\n",
        POST HOST "Content-Length: 5\r\n\r\nhello",
        POST "host:\t[::1]:80 \r\nTRANSFER-ENCODING: Chunked\r\n\r\n5\r\n",
        "\r\n" POST HOST "content-length: 0\r\n\r\n",
        POST HOST "user-agent: caf\xc3\xa9\r\nx: a\tb\r\n\r\n",
    };

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        cr_expect_null(why(heads[i]), "%zu: %s", i, why(heads[i]));
}

Test(strict_head, the_framing_of_the_body_is_reported)
{
    static const char head[] = POST HOST "transfer-encoding: chunked\r\n\r\n";
    struct strict_head out;

    cr_assert_null(check(&out, head, sizeof(head) - 1));
    cr_expect(out.chunked);
    cr_expect_eq(out.head_len, sizeof(head) - 1);
    cr_assert_null(
        check(&out, POST HOST "content-length: 2\r\n\r\n{}", strlen(POST HOST) + 21 + 2));
    cr_expect(!out.chunked);
    cr_expect_eq(out.head_len, strlen(POST HOST) + 21);
}

Test(strict_head, every_ambiguity_is_refused)
{
    static const char *const heads[] = {
        POST HOST "Content-Length: 4\r\nContent-Length: 44\r\n\r\n",
        POST HOST "Content-Length: 4\r\nContent-Length: 4\r\n\r\n",
        POST HOST "Content-Length: 4, 4\r\n\r\n",
        POST HOST "Content-Length: +4\r\n\r\n",
        POST HOST "Content-Length: -4\r\n\r\n",
        POST HOST "Content-Length: 0x4\r\n\r\n",
        POST HOST "Content-Length: 4 4\r\n\r\n",
        POST HOST "Content-Length:\r\n\r\n",
        POST HOST "Content-Length: 99999999999999999999\r\n\r\n",
        POST HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
        POST HOST "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST HOST "Transfer-Encoding: chunked, chunked\r\n\r\n",
        POST HOST "Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST HOST "Transfer-Encoding: identity\r\n\r\n",
        POST HOST "Transfer-Encoding: xchunked\r\n\r\n",
        POST HOST "Transfer-Encoding: \x0b"
                  "chunked\r\n\r\n",
        POST HOST "Transfer-Encoding : chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST HOST "X: a\r\n b\r\n\r\n",
        POST HOST "X: a\r\n\tTransfer-Encoding: chunked\r\n\r\n",
        POST " Host: a\r\n\r\n",
        POST HOST "X: a\n\r\n",
        POST HOST "X: a\nContent-Length: 4\r\n\r\n",
        POST HOST "X: a\rContent-Length: 4\r\n\r\n",
        "POST / HTTP/1.1\n" HOST "\r\n",
        POST HOST "X: a\r\n\n",
        POST "X: a\r\n\r\n",
        POST HOST HOST "\r\n",
        POST HOST "Host: b\r\n\r\n",
        POST "Host: a b\r\n\r\n",
        POST "Host: user@a\r\n\r\n",
        POST "Host: a/b\r\n\r\n",
        POST "Host: a,b\r\n\r\n",
        "GET / HTTP/1.2\r\n" HOST "\r\n",
        "GET / HTTP/2.0\r\n" HOST "\r\n",
        "GET / http/1.1\r\n" HOST "\r\n",
        "GET /\r\n" HOST "\r\n",
        "GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n",
        "GET * HTTP/1.1\r\n" HOST "\r\n",
        "CONNECT a:443 HTTP/1.1\r\n" HOST "\r\n",
        "GET  / HTTP/1.1\r\n" HOST "\r\n",
        "GET / HTTP/1.1 \r\n" HOST "\r\n",
        "GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n",
        "GET /\x7f HTTP/1.1\r\n" HOST "\r\n",
        "G@T / HTTP/1.1\r\n" HOST "\r\n",
        " GET / HTTP/1.1\r\n" HOST "\r\n",
        "\r\n\r\n" POST HOST "\r\n",
        POST HOST ": empty name\r\n\r\n",
        POST HOST "no colon\r\n\r\n",
        POST HOST "a b: c\r\n\r\n",
        POST HOST "x: \x01\r\n\r\n",
        POST HOST "x: \x7f\r\n\r\n",
        "",
        "GET / HTTP/1.1",
    };

    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        cr_expect_not_null(why(heads[i]), "%zu: %s", i, heads[i]);
}

Test(strict_head, a_nul_anywhere_in_the_head_is_refused)
{
    char head[] = POST HOST "Content-Length: 2\r\nx-a: b\r\n\r\n";
    struct strict_head out;

    for (size_t i = 0; i < sizeof(head) - 1; i++) {
        char kept = head[i];

        head[i] = '\0';
        cr_expect_not_null(check(&out, head, sizeof(head) - 1), "at %zu", i);
        head[i] = kept;
    }
    cr_expect_null(check(&out, head, sizeof(head) - 1));
}

Test(strict_head, a_head_cut_at_any_byte_is_refused)
{
    static const char head[] = POST HOST "Content-Length: 2\r\n\r\n";
    struct strict_head out;

    for (size_t n = 0; n < sizeof(head) - 1; n++)
        cr_expect_not_null(check(&out, head, n), "cut at %zu", n);
}

Test(strict_head, a_head_over_32_kib_is_refused)
{
    size_t n = 40 * 1024;
    char *head = malloc(n + 1);
    struct strict_head out;

    memset(head, 'a', n);
    memcpy(head, POST HOST "x: ", strlen(POST HOST "x: "));
    memcpy(head + n - 4, "\r\n\r\n", 5);
    cr_expect_not_null(check(&out, head, n));
    memcpy(head + 30 * 1024, "\r\n\r\n", 4);
    cr_expect_null(check(&out, head, n), "what follows the head does not count");
    free(head);
}
