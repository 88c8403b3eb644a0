/* test_encoded.c - requests whose body has a content coding, over real sockets. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/attrs.h"
#include "http_fixture.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

#define MIB ((size_t)1024 * 1024)

TestSuite(encoded, .init = setup, .fini = teardown, .timeout = 60);

static uint8_t packed[256 * 1024];

/* By gzip: `text`, and then `zeros` bytes of white space. */
static size_t pack(const char *text, size_t blanks)
{
    static char blank[65536];
    z_stream z = {0};

    memset(blank, ' ', sizeof(blank));
    cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_out = packed;
    z.avail_out = sizeof(packed);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)strlen(text);
    cr_assert_eq(deflate(&z, Z_NO_FLUSH), Z_OK);
    while (blanks > 0) {
        z.next_in = (Bytef *)blank;
        z.avail_in = (uInt)(blanks < sizeof(blank) ? blanks : sizeof(blank));
        blanks -= z.avail_in;
        cr_assert_eq(deflate(&z, Z_NO_FLUSH), Z_OK);
    }
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    (void)deflateEnd(&z);
    return z.total_out;
}

static void send_packed(struct client *c, const char *path, const char *headers, size_t n)
{
    struct buf out = BUF_INIT;

    buf_printf(&out, "POST %s HTTP/1.1\r\n" HOST "content-length: %zu\r\n%s\r\n", path, n,
               headers);
    buf_add(&out, packed, n);
    say_n(c, buf_head(&out), buf_size(&out));
    buf_finish(&out);
}

#define JSON "content-type: application/json\r\n"
#define GZIP JSON "content-encoding: gzip\r\n"
#define CHAT "/v1/chat/completions"

Test(encoded, the_owner_gets_the_plain_body_and_the_connection_goes_on)
{
    struct client *c;
    size_t n;

    start();
    c = dial();
    for (unsigned i = 0; i < 3; i++) {
        n = pack("{\"model\":\"echo\",\"x\":\"long enough\"}", 0);
        send_packed(c, CHAT, GZIP, n);
        expect(c, "HTTP/1.1 200 OK\r\n");
        expect(c, "\r\n\r\n{\"model\":\"echo\",\"x\":\"long enough\"}");
    }
    AWAIT(exchanges[2].done == 1);
    post(c, "content-encoding: identity\r\n", "{\"model\":\"echo\"}");
    expect(c, "\r\n\r\n{\"model\":\"echo\"}");
    AWAIT(server->body_bytes == 0);
}

/* Two requests in one piece: the second waits behind the first in libh2o's buffer. */
Test(encoded, requests_behind_it_in_the_pipe_are_served)
{
    struct client *c;
    struct buf two = BUF_INIT;
    size_t n = pack("{\"model\":\"echo\",\"n\":1}", 0);

    start();
    c = dial();
    buf_printf(&two, "POST " CHAT " HTTP/1.1\r\n" HOST GZIP "content-length: %zu\r\n\r\n", n);
    buf_add(&two, packed, n);
    buf_str(&two, "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    say_n(c, buf_head(&two), buf_size(&two));
    expect(c, "\"n\":1}HTTP/1.1 200 OK\r\n");
    expect(c, "{\"status\":\"ok\"}");
    buf_finish(&two);
}

Test(encoded, the_decoded_body_is_read_as_strictly_as_a_plain_one)
{
    struct client *c;

    start();
    c = dial();
    send_packed(c, CHAT, GZIP, pack("{\"model\":\"echo\",\"Model\":\"b\"}", 0));
    expect(c, "HTTP/1.1 400 ");
    expect(c, "'model' is ambiguous");
    send_packed(c, CHAT, GZIP, pack("{\"model\":", 0));
    expect(c, "HTTP/1.1 400 ");
    expect(c, "the request body is not valid JSON");
    send_packed(c, CHAT, GZIP, pack("", 0));
    expect(c, "HTTP/1.1 400 ");
    expect(c, "the request body is empty");
    send_packed(
        c, "/v1/audio/transcriptions",
        "content-type: multipart/form-data; boundary=x\r\ncontent-encoding: x-gzip\r\n",
        pack("--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\necho\r\n--x--\r\n",
             0));
    expect(c, "HTTP/1.1 200 OK");
    expect(c, "name=\"model\"\r\n\r\necho\r\n--x--");
}

Test(encoded, other_codings_are_refused_with_those_that_are_known)
{
    static const char *const headers[] = {
        JSON "content-encoding: br\r\n",
        JSON "content-encoding: gzip, zstd\r\n",
        JSON "content-encoding: gzip\r\ncontent-encoding: gzip\r\n",
    };
    struct client *c;

    start();
    c = dial();
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        send_packed(c, CHAT, headers[i], pack("{\"model\":\"echo\"}", 0));
        expect(c, "HTTP/1.1 415 ");
        expect(c, "accept-encoding: gzip, deflate, zstd\r\n");
        expect(c, "\"code\":\"unsupported_media_type\"");
    }
    send_packed(c, "/v1/messages", headers[0], pack("{\"model\":\"echo\"}", 0));
    expect(c, "HTTP/1.1 415 ");
    expect(c, "{\"type\":\"error\"");
    send_packed(c, "/api/chat", headers[0], pack("{\"model\":\"echo\"}", 0));
    expect(c, "HTTP/1.1 415 ");
    expect(c, "{\"error\":\"the content encoding must be one of gzip, deflate, zstd\"}");
    cr_expect_eq(exchanges_count, 0);
}

Test(encoded, damaged_and_cut_bodies_are_refused_in_words)
{
    struct client *c;
    size_t n;

    start();
    c = dial();
    n = pack("{\"model\":\"echo\"}", 0);
    send_packed(c, CHAT, GZIP, n - 3);
    expect(c, "HTTP/1.1 400 ");
    expect(c, "the request body is not valid gzip: it is cut off");
    packed[n] = 'x';
    send_packed(c, "/api/chat", GZIP, n + 1);
    expect(c, "HTTP/1.1 400 ");
    expect(
        c,
        "{\"error\":\"the request body is not valid gzip: there are bytes behind its end\"}");
    post(c, "content-encoding: zstd\r\n", "{\"model\":\"echo\"}");
    expect(c, "HTTP/1.1 400 ");
    expect(c, "the request body is not valid zstd: it does not begin like that");
    AWAIT(server->body_bytes == 0);
}

Test(encoded, a_bomb_is_413_and_never_held)
{
    struct client *c;
    size_t n, most = 0;

    start();
    c = dial();
    n = pack("{\"model\":\"echo\"}", 60 * MIB);
    cr_assert_lt(n, 70000);
    send_packed(c, CHAT, GZIP, n);
    while (!has(c, "HTTP/1.1 413 ")) {
        turn();
        if (server->body_bytes > most)
            most = server->body_bytes;
    }
    cr_expect_lt(most, MIB + MIB / 4, "limits.max_body_bytes and what decoding takes");
    expect(c, "the decoded request body is over the limit of 1048576 bytes");
    /* As much as is allowed: white space behind the text is a part of it. */
    n = pack("{\"model\":\"echo\"}", MIB - 16);
    send_packed(c, CHAT, GZIP, n);
    expect(c, "HTTP/1.1 200 OK");
    AWAIT(exchanges[0].done == 1);
    cr_expect_eq(exchanges[0].drained, MIB);
    AWAIT(server->body_bytes == 0);
}

Test(encoded, too_many_at_once_are_503_with_a_time)
{
    struct client *c;

    config.limits.max_body_bytes = 8 * MIB;
    config.limits.max_body_total_bytes = 2 * MIB;
    start();
    c = dial();
    send_packed(c, CHAT, GZIP, pack("{\"model\":\"echo\"}", 3 * MIB));
    expect(c, "HTTP/1.1 503 ");
    expect(c, "retry-after: 2\r\n");
    expect(c, "too many large requests at once");
    AWAIT(server->body_bytes == 0);
}

Test(encoded, others_are_served_and_the_client_may_leave_meanwhile)
{
    struct client *c, *other;
    size_t n;

    config.limits.max_body_bytes = 64 * MIB;
    config.limits.max_body_total_bytes = 200 * MIB;
    start();
    c = dial();
    other = dial();
    n = pack("{\"model\":\"echo\"}", 60 * MIB);
    send_packed(c, CHAT, GZIP, n);
    AWAIT(server->body_bytes > MIB);
    say(other, "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    expect(other, "{\"status\":\"ok\"}");
    cr_expect_lt(server->body_bytes, 70 * MIB, "it is under way");
    cr_assert_eq(exchanges_count, 0);
    hang_up(c);
    AWAIT(server->body_bytes == 0);
    AWAIT(http_server_connections(server) == 1);
    cr_expect_eq(exchanges_count, 0, "nobody is asked for a client that has left");
    cr_expect_not_null(strstr(logged(), "client_gone"));
    /* The server may end in the middle, too. */
    send_packed(other, CHAT, GZIP, n);
    AWAIT(server->body_bytes > MIB);
}
