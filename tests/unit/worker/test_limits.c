/* test_limits.c - framing attacks, caps and time limits, over real sockets. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http_fixture.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

TestSuite(limits, .init = setup, .fini = teardown, .timeout = 60);

Test(limits, ambiguous_framing_is_refused_and_the_connection_closed)
{
    static const char *const requests[] = {
        "POST /v1/completions HTTP/1.1\r\n" HOST
        "Content-Length: 4\r\nContent-Length: 44\r\n\r\nabcdGET / HTTP/1.1\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\n" HOST
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\n" HOST
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n",
        "GET /livez HTTP/1.1\n" HOST "\r\n",
        "GET /livez HTTP/1.1\r\nHost: a\n\r\n",
        "GET /livez HTTP/1.1\r\n" HOST "X: a\r\n folded\r\n\r\n",
        "GET /livez HTTP/1.1\r\n" HOST HOST "\r\n",
        "GET /livez HTTP/1.1\r\n\r\n",
        "GET /livez HTTP/1.7\r\n" HOST "\r\n",
        "GET livez HTTP/1.1\r\n" HOST "\r\n",
        "GET ftp://test/livez HTTP/1.1\r\n" HOST "\r\n",
        "GET http:// HTTP/1.1\r\n" HOST "\r\n",
        "OPTIONS * HTTP/1.1\r\n" HOST "\r\n",
        "POST /v1/completions HTTP/1.1\r\n" HOST "Content-Length: 1x\r\n\r\na",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\x01\x01",
    };

    start();
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        const char *answer = ask(requests[i]);

        cr_expect(begins(answer, "HTTP/1.1 400 "), "%zu: %s", i, answer);
        cr_expect_null(strstr(answer + 10, "HTTP/1.1 "), "%zu: one answer only: %s", i, answer);
    }
    cr_expect_eq(exchanges_count, 0);
    AWAIT(http_server_connections(server) == 0);
}

/* Every connection, with any input, comes to an end once the client has said all it will, and
 * each request that got through has ended once. */
Test(limits, mutated_requests_leave_nothing_behind)
{
    static const char *const seeds[] = {
        "POST /v1/chat/completions HTTP/1.1\r\n" HOST
        "content-length: 16\r\n\r\n{\"model\":\"echo\"}GET /v1/models HTTP/1.1\r\n" HOST
        "\r\nHEAD / HTTP/1.1\r\n" HOST "\r\n",
        "POST /api/chat HTTP/1.1\r\n" HOST "transfer-encoding: chunked\r\n\r\n"
        "8\r\n{\"model\"\r\n8\r\n:\"wait\"}\r\n0\r\n\r\n",
        "POST /v1/messages HTTP/1.1\r\n" HOST "expect: 100-continue\r\ncontent-length: 17\r\n"
        "\r\n{\"model\":\"begin\"}GET /x HTTP/1.0\r\n\r\n",
    };
    static const char bytes[] = "\r\n :,\t\0\xff/019aA\"{}";
    unsigned seed = 7;

    start();
    for (unsigned round = 0; round < 1500; round++) {
        const char *text = seeds[round % ARRAY_LEN(seeds)];
        char mutant[512];
        size_t n = strlen(text);
        struct client *c;

        memcpy(mutant, text, n);
        for (unsigned k = 0; k <= round % 3; k++)
            mutant[(size_t)rand_r(&seed) % n] = bytes[(size_t)rand_r(&seed) % sizeof(bytes)];
        if (round % 5 == 0)
            n = (size_t)rand_r(&seed) % n;
        c = dial();
        say_n(c, mutant, n / 2);
        turn();
        say_n(c, mutant + n / 2, n - n / 2);
        turn();
        (void)shutdown(c->fd, SHUT_WR);
        AWAIT(http_server_connections(server) == 0);
        hang_up(c);
        clients_count = 0;
        for (unsigned i = 0; i < exchanges_count; i++)
            cr_assert_eq(exchanges[i].done + exchanges[i].gone, 1);
        exchanges_count = 0;
    }
    cr_expect_gt(counter(PROC_REQUESTS_TOTAL), 500);
}

Test(limits, http_2_is_not_spoken)
{
    start();
    const char *answer =
        ask("GET /livez HTTP/1.1\r\n" HOST "connection: upgrade, http2-settings, close\r\n"
            "upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n");
    cr_expect(begins(answer, "HTTP/1.1 200 "), "%s", answer);
}

Test(limits, a_body_over_the_limit_gets_413_even_while_it_is_being_sent)
{
    static char body[4 << 20];
    struct client *c;

    start();
    c = dial();
    say(c, "POST /v1/chat/completions HTTP/1.1\r\n" HOST "x-request-id: big\r\n"
           "content-length: 4194304\r\n\r\n");
    say_n(c, body, sizeof(body));
    expect(c, "HTTP/1.1 413 ");
    expect(c, "x-request-id: big\r\n");
    expect(c,
           "{\"error\":{\"message\":\"the request body is over the limit of 1048576 bytes\"");
    expect(c, "\"code\":\"request_too_large\"");
    expect_eof(c);
    c = dial();
    say(c,
        "POST /v1/messages HTTP/1.1\r\n" HOST "transfer-encoding: chunked\r\n\r\n400000\r\n");
    say_n(c, body, sizeof(body));
    expect(c, "HTTP/1.1 413 ");
    expect(c, "{\"type\":\"error\",\"error\":{\"type\":\"request_too_large\"");
    expect_eof(c);
    AWAIT(http_server_connections(server) == 0);
    cr_expect_not_null(strstr(logged(), "\"status\":413,\"outcome\":\"rejected\""));
}

Test(limits, bodies_held_are_limited_in_sum)
{
    static char body[600 * 1024];
    struct client *c, *d;

    config.limits.max_body_total_bytes = 1u << 20;
    start();
    memset(body, ' ', sizeof(body));
    memcpy(body, "{\"model\":\"wait\"}", 16);
    body[sizeof(body) - 1] = '\0';
    c = dial();
    post(c, "", body);
    AWAIT(exchanges_count == 1);
    d = dial();
    post(d, "", body);
    expect(d, "HTTP/1.1 503 ");
    expect(d, "retry-after: 2\r\n");
    expect(d, "\"code\":\"overloaded\"");
    http_drop_body(exchanges[0].request);
    cr_expect_null(exchanges[0].request->body);
    d = dial(); /* the body of the other was not read to its end */
    post(d, "", body);
    AWAIT(exchanges_count == 2);
    hang_up(c);
    hang_up(d);
    AWAIT(exchanges[1].gone == 1);
}

Test(limits, a_request_that_does_not_arrive_is_given_up)
{
    struct client *silent, *slow, *body;
    uint64_t since = clock_mono_us();

    config.limits.header_timeout_ms = 300;
    start();
    silent = dial();
    slow = dial();
    body = dial();
    say(body, "POST /v1/completions HTTP/1.1\r\n" HOST "content-length: 9\r\n\r\n{");
    say(slow, "GET /livez HTTP/1.1\r\n");
    while (!slow->eof) { /* a byte now and then does not help */
        uint64_t next = clock_mono_us() + 20 * US_PER_MS;

        cr_assert_lt(clock_mono_us() - since, 5 * US_PER_S);
        say(slow, "X");
        while (clock_mono_us() < next)
            turn();
    }
    expect_eof(silent);
    expect_eof(body);
    cr_expect_geq(clock_mono_us() - since, 300 * US_PER_MS);
    AWAIT(http_server_connections(server) == 0);
}

Test(limits, an_idle_connection_is_closed_and_a_busy_one_is_not)
{
    struct client *idle, *busy;

    config.limits.idle_timeout_ms = 300;
    start();
    idle = dial();
    busy = dial();
    post(idle, "", "{\"model\":\"echo\"}");
    expect(idle, "}");
    post(busy, "", "{\"model\":\"begin\"}");
    expect(busy, "data: 1");
    expect_eof(idle);
    cr_expect(!busy->eof);
    cr_expect_eq(exchanges[1].gone, 0);
    responder_end(exchanges[1].request->responder);
    expect(busy, "0\r\n\r\n");
    post(busy, "", "{\"model\":\"echo\"}");
    expect(busy, "{\"model\":\"echo\"}");
    expect_eof(busy);
}

Test(limits, connections_over_the_cap_wait_their_turn)
{
    struct client *c[4];

    config.limits.max_connections = 2;
    start();
    for (int i = 0; i < 2; i++)
        post(c[i] = dial(), "", "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == 2);
    for (int i = 2; i < 4; i++)
        say(c[i] = dial(), "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    for (int i = 0; i < 20; i++)
        turn();
    cr_expect_eq(http_server_connections(server), 2);
    cr_expect_eq(buf_size(&c[2]->in), 0);
    hang_up(c[0]);
    expect(c[2], "200 OK");
    hang_up(c[1]);
    expect(c[3], "200 OK");
}

Test(limits, one_client_cannot_take_all_connections)
{
    struct client *c[3];

    config.limits.max_per_client = 2;
    start();
    for (int i = 0; i < 2; i++) {
        c[i] = dial();
        say(c[i], "GET /livez HTTP/1.1\r\n" HOST "\r\n");
        expect(c[i], "200 OK");
    }
    c[2] = dial();
    expect(c[2], "HTTP/1.1 429 ");
    expect(c[2], "\"code\":\"too_many_connections\"}}\n");
    expect_eof(c[2]);
    hang_up(c[0]);
    AWAIT(http_server_connections(server) == 1);
    c[2] = dial();
    say(c[2], "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    expect(c[2], "200 OK");
}

/* 104 nodes and 96 descriptors of its own leave 300 of 500. */
static void begin_with_descriptors(rlim_t soft, rlim_t hard, unsigned max_connections)
{
    const struct rlimit files = {.rlim_cur = soft, .rlim_max = hard};

    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &files), 0);
    config.limits.max_nodes = 104;
    config.limits.max_connections = max_connections;
    start();
}

static rlim_t soft_limit(void)
{
    struct rlimit files;

    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &files), 0);
    return files.rlim_cur;
}

Test(limits, the_limit_of_descriptors_is_raised_as_far_as_needed)
{
    begin_with_descriptors(256, 2000, 1000);
    cr_expect_eq(server->max_connections, 1000);
    cr_expect_eq(soft_limit(), 1200);
}

Test(limits, descriptors_that_cannot_be_had_are_not_given_to_clients)
{
    begin_with_descriptors(256, 500, 1000);
    cr_expect_eq(server->max_connections, 300);
    cr_expect_eq(soft_limit(), 500);
}

Test(limits, few_descriptors_do_not_let_in_more_than_the_configuration)
{
    begin_with_descriptors(200, 200, 20);
    cr_expect_eq(server->max_connections, 20, "and not half of 200");
}

Test(limits, a_limit_of_descriptors_that_may_not_be_raised_counts_as_it_is)
{
    const struct rlimit files = {.rlim_cur = 500, .rlim_max = 2000};
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &files), 0);
    config.limits.max_nodes = 104;
    cr_assert_eq(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 1,
                                  SCMP_A2(SCMP_CMP_NE, 0, 0)),
                 0);
    cr_assert_eq(seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setrlimit), 0), 0);
    cr_assert_eq(seccomp_load(filter), 0);
    seccomp_release(filter);
    start();
    cr_expect_eq(server->max_connections, 300);
    cr_expect_eq(soft_limit(), 500);
}

Test(limits, running_out_of_descriptors_is_survived_without_spinning)
{
    struct rlimit limit;
    struct client *held[12], *late;
    int spares[256], n = 0;
    unsigned turns = 0;
    uint64_t until;

    start();
    for (int i = 0; i < 12; i++)
        held[i] = dial();
    /* Use up every descriptor below the limit. */
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 128;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    while (n < 256 && (spares[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) != -1)
        n++;
    cr_assert_lt(n, 256);
    for (int i = 0; i < 12; i++)
        say(held[i], "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    until = clock_mono_us() + 400 * US_PER_MS;
    for (; clock_mono_us() < until; turns++)
        loop_turn(&loop, 20 * US_PER_MS);
    cr_expect_eq(http_server_connections(server), 0);
    cr_expect_lt(turns, 200, "the listener is tried every 50 ms, not all the time");
    while (n > 0)
        (void)close(spares[--n]);
    for (int i = 0; i < 12; i++)
        expect(held[i], "200 OK");
    late = dial();
    say(late, "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    expect(late, "200 OK");
}
