/* test_server.c - connections, answers, and clients that leave, over real sockets. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http_fixture.h"

TestSuite(server, .init = setup, .fini = teardown, .timeout = 60);

/* ---- connections and answers ------------------------------------------------------------- */

Test(server, a_connection_serves_many_requests)
{
    struct client *c;

    start();
    c = dial();
    for (int i = 0; i < 5; i++) {
        post(c, "x-request-id: my.id-1\r\n", "{\"model\":\"echo\"}");
        expect(c, "HTTP/1.1 200 OK\r\n");
        expect(c, "Connection: keep-alive\r\nContent-Length: 16\r\n");
        expect(c, "Server: drover/");
        expect(c, "x-request-id: my.id-1\r\n");
        expect(c, "\r\n\r\n{\"model\":\"echo\"}");
    }
    AWAIT(exchanges[4].done == 1);
    cr_expect_eq(exchanges[4].drained, 16);
    cr_expect_eq(http_server_connections(server), 1);
    cr_expect_eq(counter(PROC_CONNECTIONS_TOTAL), 1);
    cr_expect_eq(counter(PROC_CONNECTIONS_OPEN), 1);
    cr_expect_eq(counter(PROC_REQUESTS_TOTAL), 5);
    hang_up(c);
    AWAIT(http_server_connections(server) == 0);
    cr_expect_eq(counter(PROC_CONNECTIONS_OPEN), 0);
}

Test(server, pipelined_requests_are_answered_in_order)
{
    static const char one[] = "POST /v1/completions HTTP/1.1\r\n" HOST
                              "content-length: 22\r\n\r\n{\"model\":\"echo\",\"n\":1}";
    static const char two[] = "POST /v1/completions HTTP/1.1\r\n" HOST
                              "content-length: 22\r\n\r\n{\"model\":\"echo\",\"n\":2}";
    struct client *c;

    start();
    c = dial();
    say(c, one);
    say(c, two);
    say(c, "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    say(c, one);
    expect(c, "\"n\":1}HTTP/1.1 200 OK\r\n");
    expect(c, "\"n\":2}HTTP/1.1 200 OK\r\n");
    expect(c, "{\"status\":\"ok\"}HTTP/1.1 200 OK\r\n");
    expect(c, "\"n\":1}");
}

Test(server, a_bad_request_id_is_replaced)
{
    struct client *c;

    start();
    c = dial();
    post(c, "x-request-id: a b\r\n", "{\"model\":\"echo\"}");
    expect(c, "x-request-id: req-");
    c->seen = 0;
    cr_expect(!has(c, "a b"));
}

/* Takes the chunks apart; returns how many there were, or 0 if the framing is wrong. */
static unsigned dechunk(struct buf *out, const char *p, size_t n)
{
    const char *end = p + n;
    unsigned chunks = 0;

    for (;;) {
        char *rest;
        unsigned long size = strtoul(p, &rest, 16);

        if (rest == p || end - rest < 2 || memcmp(rest, "\r\n", 2) != 0)
            return 0;
        p = rest + 2;
        if ((size_t)(end - p) < size + 2 || memcmp(p + size, "\r\n", 2) != 0)
            return 0;
        if (size == 0)
            return p + 2 == end ? chunks : 0;
        buf_add(out, p, size);
        p += size + 2;
        chunks++;
    }
}

Test(server, a_hundred_streams_arrive_whole)
{
    enum { STREAMS = 100, EVENTS = 50 };
    struct buf got = BUF_INIT, wanted = BUF_INIT;

    start();
    for (unsigned i = 0; i < STREAMS; i++)
        post(dial(), "", "{\"model\":\"stream50\",\"stream\":true}");
    for (unsigned i = 0; i < STREAMS; i++)
        expect(&clients[i], "\r\n0\r\n\r\n");
    for (unsigned i = 0; i < STREAMS; i++) {
        const char *text = buf_cstr(&clients[i].in);
        const char *body = strstr(text, "\r\n\r\n") + 4;
        unsigned number, chunks;

        cr_assert_not_null(strcasestr(text, "transfer-encoding: chunked\r\n"));
        cr_assert_not_null(strstr(text, "x-accel-buffering: no\r\n"));
        cr_assert_not_null(strstr(text, "content-type: text/event-stream\r\n"));
        buf_reset(&got);
        buf_reset(&wanted);
        chunks = dechunk(&got, body, strlen(body));
        cr_assert_eq(sscanf(buf_cstr(&got), "data: {\"stream\":%u", &number), 1);
        for (unsigned left = EVENTS; left != 0; left--) {
            char event[96];

            event_text(event, sizeof(event), number, left);
            buf_str(&wanted, event);
        }
        cr_assert_str_eq(buf_cstr(&got), buf_cstr(&wanted));
        cr_assert(chunks >= 1 && chunks <= EVENTS, "three writes are one chunk, not %u",
                  chunks);
    }
    for (unsigned i = 0; i < STREAMS; i++)
        AWAIT(exchanges[i].done == 1);
    buf_finish(&got);
    buf_finish(&wanted);
}

Test(server, an_answer_of_unknown_length_to_http_1_0_ends_with_the_connection)
{
    struct client *c;

    start();
    c = dial();
    say(c,
        "POST /v1/completions HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 19\r\n\r\n"
        "{\"model\":\"stream2\"}");
    expect_eof(c);
    cr_expect(has(c, "Connection: close\r\n"));
    cr_expect_null(strcasestr(buf_cstr(&c->in), "chunked"));
    cr_expect_not_null(strstr(buf_cstr(&c->in), "\r\n\r\ndata: {\"stream\":0,\"left\":2}\n\n"
                                                "data: {\"stream\":0,\"left\":1}\n\n"));
}

Test(server, other_statuses_are_chunked_too_and_bad_headers_are_dropped)
{
    struct client *c;

    start();
    c = dial();
    post(c, "", "{\"model\":\"teapot\"}");
    expect(c, "HTTP/1.1 418 ");
    expect(c, "Connection: keep-alive\r\n");
    expect(c, "x-good: yes\r\n");
    expect(c, "\r\n\r\n5\r\nshort\r\n0\r\n\r\n");
    c->seen = 0;
    cr_expect(!has(c, "set-cookie"));
    cr_expect(!has(c, "x-evil"));
}

Test(server, an_answer_shorter_than_promised_closes_the_connection)
{
    struct client *c;

    start();
    c = dial();
    post(c, "", "{\"model\":\"liar\"}");
    expect(c, "Content-Length: 10\r\n");
    expect(c, "\r\n\r\nfour");
    expect_eof(c);
    cr_expect_eq(exchanges[0].done, 1);
}

Test(server, an_aborted_answer_has_no_proper_end)
{
    struct client *c;

    start();
    c = dial();
    post(c, "", "{\"model\":\"begin\"}");
    expect(c, "9\r\ndata: 1\n\n\r\n");
    responder_abort(exchanges[0].request->responder);
    cr_expect_eq(exchanges[0].gone, 0, "never from inside a call");
    expect_eof(c);
    cr_expect(!has(c, "0\r\n\r\n"));
    cr_expect_eq(exchanges[0].gone, 1);
    cr_expect_eq(exchanges[0].done, 0);
    c = dial();
    post(c, "", "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == 2);
    responder_abort(exchanges[1].request->responder);
    expect_eof(c);
    cr_expect_eq(buf_size(&c->in), 0, "no head has been invented");
    cr_expect_eq(exchanges[1].gone, 1);
}

Test(server, an_expectation_is_met_before_the_body_is_sent)
{
    struct client *c;

    start();
    c = dial();
    say(c, "POST /v1/completions HTTP/1.1\r\n" HOST
           "expect: 100-continue\r\ncontent-length: 16\r\n\r\n");
    expect(c, "HTTP/1.1 100 Continue\r\n\r\n");
    say(c, "{\"model\":\"echo\"}");
    expect(c, "HTTP/1.1 200 OK\r\n");
    expect(c, "{\"model\":\"echo\"}");
}

#define CHUNKED "POST /v1/completions HTTP/1.1\r\n" HOST "transfer-encoding: chunked\r\n\r\n"
#define CHUNKS  "6\r\n{\"mode\r\na\r\nl\":\"echo\"}\r\n0\r\n\r\n"

Test(server, after_a_body_in_chunks_that_are_read_strictly_the_connection_goes_on)
{
    struct client *c;

    start();
    c = dial();
    say(c, CHUNKED CHUNKS CHUNKED "5 \r\n");
    expect(c, "Connection: keep-alive\r\nContent-Length: 16\r\n");
    expect(c, "{\"model\":\"echo\"}");
    say(c, "GET /smuggled HTTP/1.1\r\n\r\n");
    expect(c, "HTTP/1.1 400 ");
    expect_eof(c);
}

/* ---- clients that leave ------------------------------------------------------------------ */

static uint64_t time_to_notice(struct request *x)
{
    uint64_t since = clock_mono_us();

    AWAIT(x->gone == 1);
    return x->ended_mono_us - since;
}

Test(server, a_client_that_leaves_is_noticed_within_a_second)
{
    struct client *c;

    start();
    c = dial();
    post(c, "", "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == 1);
    hang_up(c);
    cr_expect_lt(time_to_notice(&exchanges[0]), US_PER_S, "before the first byte");
    c = dial();
    post(c, "", "{\"model\":\"begin\"}");
    expect(c, "data: 1");
    hang_up(c);
    cr_expect_lt(time_to_notice(&exchanges[1]), US_PER_S, "after the first byte");
    c = dial();
    post(c, "", "{\"model\":\"begin\"}");
    expect(c, "data: 1");
    (void)shutdown(c->fd, SHUT_WR);
    cr_expect_lt(time_to_notice(&exchanges[2]), US_PER_S, "having closed its half");
    expect_eof(c);
    c = dial();
    post(c, "", "{\"model\":\"begin\"}");
    expect(c, "data: 1");
    struct linger hard = {.l_onoff = 1};
    cr_assert_eq(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    hang_up(c);
    cr_expect_lt(time_to_notice(&exchanges[3]), US_PER_S, "with a reset");
    AWAIT(http_server_connections(server) == 0);
}

Test(server, a_half_closed_client_gets_its_answer_where_that_is_allowed)
{
    struct client *c;

    config.allow_half_close = true;
    start();
    c = dial();
    post(c, "", "{\"model\":\"stream20\"}");
    (void)shutdown(c->fd, SHUT_WR);
    expect(c, "\r\n0\r\n\r\n");
    AWAIT(exchanges[0].done == 1);
}

Test(server, a_client_that_leaves_while_much_is_under_way_is_noticed)
{
    static char block[1 << 20];
    struct client *c;

    start();
    c = dial();
    c->paused = true;
    post(c, "", "{\"model\":\"begin\"}");
    AWAIT(exchanges_count == 1);
    for (int i = 0; i < 16; i++)
        responder_write(exchanges[0].request->responder, block, sizeof(block));
    for (int i = 0; i < 20; i++)
        turn();
    cr_assert_gt(responder_pending(exchanges[0].request->responder), 1u << 20);
    hang_up(c);
    cr_expect_lt(time_to_notice(&exchanges[0]), US_PER_S);
    AWAIT(http_server_connections(server) == 0);
}

Test(server, a_client_that_takes_nothing_is_given_up)
{
    static char block[1 << 20];
    struct client *c;
    uint64_t since;

    config.limits.write_stall_ms = 300;
    start();
    c = dial();
    c->paused = true;
    post(c, "", "{\"model\":\"begin\"}");
    AWAIT(exchanges_count == 1);
    for (int i = 0; i < 16; i++)
        responder_write(exchanges[0].request->responder, block, sizeof(block));
    since = clock_mono_us();
    AWAIT(exchanges[0].gone == 1);
    cr_expect_geq(exchanges[0].ended_mono_us - since, 300 * US_PER_MS);
    cr_expect_lt(exchanges[0].ended_mono_us - since, 3 * US_PER_S);
    AWAIT(http_server_connections(server) == 0);
}

Test(server, a_slow_client_is_not_given_up)
{
    static char block[1 << 20];
    uint64_t begin = clock_mono_us();
    struct client *c;
    size_t total = 0;
    int small = 65536;

    config.limits.write_stall_ms = 300;
    start();
    c = dial();
    (void)setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    c->paused = true;
    post(c, "", "{\"model\":\"begin\"}");
    AWAIT(exchanges_count == 1);
    for (int i = 0; i < 12; i++)
        responder_write(exchanges[0].request->responder, block, sizeof(block));
    /* It takes a piece every 50 ms, for four times the limit, and then the rest. */
    while (total < (12u << 20) && exchanges[0].gone == 0) {
        ssize_t n;

        if (clock_mono_us() - begin < 1200 * US_PER_MS) {
            uint64_t next = clock_mono_us() + 50 * US_PER_MS;

            while (clock_mono_us() < next)
                turn();
        } else {
            turn();
        }
        n = read(c->fd, block, 128 * 1024);
        if (n > 0)
            total += (size_t)n;
    }
    cr_expect_eq(exchanges[0].gone, 0);
    AWAIT(responder_pending(exchanges[0].request->responder) == 0);
}

Test(server, a_request_that_ends_in_two_ways_at_once_ends_once)
{
    struct linger hard = {.l_onoff = 1};
    struct client *c;

    start();
    for (unsigned i = 0; i < 2; i++) {
        c = dial();
        post(c, "", i == 0 ? "{\"model\":\"wait\"}" : "{\"model\":\"begin\"}");
        AWAIT(exchanges_count == i + 1);
        cr_assert_eq(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
        hang_up(c);
        responder_abort(exchanges[i].request->responder);
        AWAIT(http_server_connections(server) == 0);
        cr_expect_eq(exchanges[i].gone, 1);
        cr_expect_eq(exchanges[i].done, 0);
    }
}

/* ---- the end ----------------------------------------------------------------------------- */

Test(server, draining_finishes_what_is_open_and_takes_nothing_new)
{
    struct client *streaming, *waiting, *idle;

    start();
    streaming = dial();
    post(streaming, "", "{\"model\":\"begin\"}");
    expect(streaming, "data: 1");
    waiting = dial();
    post(waiting, "", "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == 2);
    idle = dial();
    post(idle, "", "{\"model\":\"echo\"}");
    expect(idle, "{\"model\":\"echo\"}");
    AWAIT(exchanges_count == 3);
    http_server_drain(server);
    http_server_drain(server);
    (void)dial();
    /* A request that was already on its way is answered, and its connection closes. */
    say(idle, "GET /health HTTP/1.1\r\n" HOST "\r\n");
    expect(idle, "HTTP/1.1 503 ");
    expect(idle, "Connection: close\r\n");
    expect(idle, "draining");
    expect_eof(idle);
    responder_start(exchanges[1].request->responder, 200, "text/plain", 2);
    responder_write(exchanges[1].request->responder, "ok", 2);
    responder_end(exchanges[1].request->responder);
    expect(waiting, "Connection: close\r\n");
    expect_eof(waiting);
    responder_end(exchanges[0].request->responder);
    expect(streaming, "0\r\n\r\n");
    expect_eof(streaming);
    AWAIT(http_server_connections(server) == 0);
    cr_expect_eq(exchanges[0].done + exchanges[1].done + exchanges[2].done, 3);
}

Test(server, destroying_ends_every_open_request)
{
    static char block[1 << 20];
    struct client *stuck;

    start();
    (void)dial();
    say(dial(), "GET /livez HT");
    post(dial(), "", "{\"model\":\"wait\"}");
    post(dial(), "", "{\"model\":\"begin\"}");
    AWAIT(exchanges_count == 2);
    stuck = dial();
    stuck->paused = true;
    post(stuck, "", "{\"model\":\"begin\"}");
    AWAIT(exchanges_count == 3);
    for (int i = 0; i < 16; i++)
        responder_write(exchanges[2].request->responder, block, sizeof(block));
    for (int i = 0; i < 10; i++)
        turn();
    post(dial(), "", "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == 4);
    responder_abort(exchanges[3].request->responder);
    AWAIT(exchanges[3].gone == 1); /* notified, and its connection not closed yet */
    cr_expect_eq(http_server_connections(server), 6);
    http_server_destroy(server);
    server = NULL;
    for (int i = 0; i < 4; i++)
        cr_expect_eq(exchanges[i].gone, 1, "%d", i);
}

Test(server, the_access_log_says_which_client_left)
{
    start();
    cr_assert_not_null(get("/livez"));
    AWAIT(strstr(logged(), "\n") != NULL);
    cr_expect(begins(logged(), "{\"time\":\"2"));
    cr_expect_not_null(strstr(logged(), "\"client\":\"127.0.0.1\",\"key\":null,"
                                        "\"method\":\"GET\",\"path\":\"/livez\","
                                        "\"status\":200,\"outcome\":\"local\","
                                        "\"reason\":null,\"model\":null"));
}
