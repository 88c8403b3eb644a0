/* test_heads.c - what libh2o would refuse, read too early or take for the next request. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>

#include "base/secure/api_keys.h"
#include "http_fixture.h"
#include "worker/http/server_state.h"

TestSuite(heads, .init = setup, .fini = teardown, .timeout = 60);

/* printf %s abc | sha256sum */
static struct api_key one_key = {.name = "alice",
                                 .digest = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
                                            0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
                                            0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
                                            0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad}};

Test(heads, a_head_that_is_refused_has_id_line_counter_and_shape)
{
    const char *a;

    start();
    a = ask("POST /v1/messages HTTP/1.1\r\n" HOST
            "X-Request-ID: odd-1\r\nX: a\r\n folded\r\n\r\n");
    cr_expect(begins(a, "HTTP/1.1 400 "), "%s", a);
    cr_expect_not_null(strstr(a, "x-request-id: odd-1\r\n"));
    cr_expect_not_null(strstr(a, "x-drover-reason: bad_request\r\n"));
    cr_expect_not_null(strstr(a,
                              "{\"type\":\"error\",\"error\":{\"type\":"
                              "\"invalid_request_error\",\"message\":\"folded header line\""));
    a = ask("\x16\x03\x01\x02\x01\x01");
    cr_expect(begins(a, "HTTP/1.1 400 "), "%s", a);
    cr_expect_not_null(strstr(a, "this is TLS, and the port speaks plain HTTP"), "%s", a);
    cr_expect_not_null(strstr(a, "x-request-id: req-"));
    a = ask("GET /api/tags HTTP/1.1\r\n" HOST "x: \x01\r\n\r\n");
    cr_expect_not_null(strstr(a, "\r\n\r\n{\"error\":\"control character in a header\"}"), "%s",
                       a);
    cr_expect_eq(counter(PROC_REQUESTS_REJECTED), 3);
    while (clients_count > 0)
        hang_up(&clients[--clients_count]);
    AWAIT(http_server_connections(server) == 0);
    cr_expect_not_null(strstr(logged(), "\"id\":\"odd-1\""));
    cr_expect_not_null(strstr(logged(),
                              "\"method\":\"POST\",\"path\":\"/v1/messages\",\"status\":400,"
                              "\"outcome\":\"rejected\",\"reason\":\"bad_request\""));
    cr_expect_not_null(strstr(logged(), "\"method\":\"-\",\"path\":\"/-\",\"status\":400"));
}

Test(heads, a_head_that_is_too_large_gets_431)
{
    static char filler[40000];
    struct client *c;

    start();
    memset(filler, 'x', sizeof(filler) - 1);
    c = dial();
    say(c, "POST /v1/chat/completions HTTP/1.1\r\n" HOST "x-request-id: vast\r\nx: ");
    say(c, filler); /* and no end */
    expect(c, "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    expect(c, "x-drover-reason: head_too_large\r\n");
    expect(c, "x-request-id: vast\r\n");
    expect(c, "{\"error\":{\"message\":\"the head is too large\"");
    c = dial();
    say(c, "GET /v1/models HTTP/1.1\r\n" HOST);
    for (int i = 0; i < 101; i++)
        say(c, "x: y\r\n");
    say(c, "\r\n");
    expect(c, "HTTP/1.1 431 ");
    expect(c, "too many lines");
    while (clients_count > 0)
        hang_up(&clients[--clients_count]);
    AWAIT(http_server_connections(server) == 0);
    cr_expect_not_null(strstr(logged(), "\"status\":431,\"outcome\":\"rejected\","
                                        "\"reason\":\"head_too_large\""));
}

/* Without these headers a page reads nothing of what it did wrong. */
Test(heads, a_page_may_read_why_its_head_was_refused)
{
    static char *origins[] = {"https://chat.example"};
    static char filler[40000];
    struct client *c;

    config.api.cors_origins = origins;
    config.api.cors_origins_count = 1;
    start();
    c = dial();
    memset(filler, 'x', sizeof(filler) - 1);
    say(c, "POST /v1/chat/completions HTTP/1.1\r\n" HOST "origin: https://chat.example\r\nx: ");
    say(c, filler);
    expect(c, "HTTP/1.1 431 ");
    expect(c, "access-control-allow-origin: https://chat.example\r\n");
    c = dial();
    say(c, "POST /v1/chat/completions HTTP/1.1\r\n" HOST "origin: https://evil.example\r\n"
           "x: a\r\n b\r\n\r\n");
    expect(c, "HTTP/1.1 400 ");
    expect(c, "folded header line");
    cr_expect_null(strstr(buf_cstr(&c->in), "access-control-allow-origin"));
}

/* libh2o would refuse each by itself, or answer twice. */
Test(heads, blanks_and_expectations_that_need_no_answer_are_none_of_libh2os)
{
    static const char *const headers[] = {"content-length: 16 \r\n",
                                          "content-length: \t16\t \r\n",
                                          "content-length: 16\r\nexpect: 100-continue\r\n",
                                          "expect: 100-Continue \r\ncontent-length: 16\r\n"};
    struct client *c;

    start();
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        c = dial();
        say(c, "POST /v1/completions HTTP/1.1\r\n" HOST);
        say(c, headers[i]);
        say(c, "\r\n{\"model\":\"echo\"}");
        expect(c, "HTTP/1.1 200 OK\r\n");
        expect(c, "{\"model\":\"echo\"}");
        cr_expect_null(strstr(buf_cstr(&c->in), "100 Continue"), "%zu", i);
        say(c, "GET /livez HTTP/1.1\r\n" HOST "content-length: 0 \r\n\r\n"
               "GET /livez HTTP/1.1\r\n" HOST "expect: more\r\ncontent-length: 0\r\n\r\n"
               "GET /livez HTTP/1.1\r\n" HOST "expect: 100-continue\r\n\r\n");
        for (int k = 0; k < 3; k++)
            expect(c, "HTTP/1.1 200 OK\r\n");
    }
    c = dial();
    say(c, "POST /v1/completions HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 16\r\n"
           "\r\n");
    AWAIT(server->intakes == 1);
    say(c, "{\"model\":\"echo\"}");
    expect(c, "{\"model\":\"echo\"}");
    cr_expect(begins(buf_cstr(&c->in), "HTTP/1.1 200 "), "a 1.0 client knows no 100");
}

Test(heads, a_head_may_come_in_drops)
{
    static const char text[] = "\r\nPOST /v1/completions HTTP/1.1\r\n" HOST
                               "content-length: 16\r\n\r\n{\"model\":\"echo\"}";
    struct client *c;

    start();
    c = dial();
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        say_n(c, text + i, 1);
        turn();
    }
    expect(c, "Connection: keep-alive\r\n");
    expect(c, "\r\n\r\n{\"model\":\"echo\"}");
}

/* However short the body is, and however it is framed. */
Test(heads, without_a_key_no_body_is_waited_for)
{
    static const char *const framings[] = {
        "content-length: 10\r\n", "content-length: 9999999\r\n",
        "transfer-encoding: chunked\r\n", "content-length: 10\r\nexpect: 100-continue\r\n"};

    config.api.keys = (struct api_keys){&one_key, 1};
    start();
    for (size_t i = 0; i < ARRAY_LEN(framings); i++) {
        struct client *c = dial();

        say(c, "POST /v1/messages HTTP/1.1\r\n" HOST);
        say(c, framings[i]);
        say(c, "\r\n");
        expect(c, "HTTP/1.1 401 ");
        expect(c, "{\"type\":\"error\",\"error\":{\"type\":\"authentication_error\"");
        hang_up(c);
    }
    cr_expect_eq(counter(PROC_REQUESTS_UNAUTHORIZED), ARRAY_LEN(framings));
    AWAIT(http_server_connections(server) == 0);
}

#define GOOD                                 \
    "POST /v1/completions HTTP/1.1\r\n" HOST \
    "authorization: Bearer abc\r\ncontent-length: 16\r\n\r\n{\"model\":\"echo\"}"

Test(heads, pipelined_requests_pass_the_same_checks)
{
    struct client *c;

    config.api.keys = (struct api_keys){&one_key, 1};
    start();
    c = dial();
    say(c, GOOD GOOD "POST /v1/messages HTTP/1.1\r\n" HOST "content-length: 10\r\n\r\n");
    expect(c, "\r\n\r\n{\"model\":\"echo\"}");
    expect(c, "\r\n\r\n{\"model\":\"echo\"}");
    expect(c, "HTTP/1.1 401 ");
    c = dial();
    say(c, GOOD "GET /api/tags HTTP/1.1\r\n" HOST
                "x-request-id: second\r\nx: a\r\n folded\r\n\r\n" GOOD);
    expect(c, "\r\n\r\n{\"model\":\"echo\"}");
    expect(c, "HTTP/1.1 400 ");
    expect(c, "x-request-id: second\r\n");
    expect(c, "\r\n\r\n{\"error\":\"folded header line\"}");
    expect_eof(c);
    cr_expect(!has(c, "HTTP/1.1"), "nothing follows");
}

Test(heads, a_long_body_behind_another_request_is_read_by_us)
{
    static char body[200000];
    struct client *c;

    memset(body, ' ', sizeof(body) - 1);
    memcpy(body, "{\"model\":\"wait\"}", 16);
    start();
    c = dial();
    say(c, GOOD);
    post(c, "", body);
    expect(c, "\r\n\r\n{\"model\":\"echo\"}");
    AWAIT(exchanges_count == 2);
    cr_expect_eq(exchanges[1].request->body_len, sizeof(body) - 1);
}

Test(heads, another_expectation_is_refused_and_the_body_not_read)
{
    struct client *c;

    start();
    c = dial();
    say(c, "POST /api/chat HTTP/1.1\r\n" HOST "expect: tea\r\ncontent-length: 16\r\n\r\n");
    expect(c, "HTTP/1.1 417 ");
    expect(c, "\r\n\r\n{\"error\":\"the only expectation that is met is 100-continue\"}");
}

Test(heads, an_answer_of_our_own_gets_the_body_that_comes_late)
{
    struct client *c;

    start();
    c = dial();
    say(c, "POST /api/pull HTTP/1.1\r\n" HOST "content-length: 30\r\n\r\n");
    for (int i = 0; i < 5; i++)
        turn();
    say(c, "{\"model\":\"no-such-model-here\"}");
    expect(c, "HTTP/1.1 501 ");
}
