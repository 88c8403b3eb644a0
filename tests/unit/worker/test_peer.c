/* test_peer.c - whose a connection and a request are, where trusted proxies are between. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/attrs.h"
#include "http_fixture.h"

/* 127.0.0.1 and 127.0.0.2; others of the machine are strangers. */
static void setup_proxies(void)
{
    static char one[] = "127.0.0.1", two[] = "127.0.0.2", nets[] = "10.0.0.0/8";
    static char *list[] = {one, two, nets};

    setup();
    config.api.trusted_proxies = list;
    config.api.trusted_proxies_count = ARRAY_LEN(list);
}

TestSuite(peer, .init = setup_proxies, .fini = teardown, .timeout = 60);

#define V1   "PROXY TCP4 198.51.100.7 10.0.0.1 4711 8080\r\n"
#define V1_B "PROXY TCP4 203.0.113.9 10.0.0.1 4711 8080\r\n"
#define V2                                                             \
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\x0a\x00\x00" \
    "\x01\x12\x67\x1f\x90"

/* A request that is logged, whatever its answer. */
static void say_request(struct client *c, const char *id, const char *headers)
{
    char text[512];

    (void)snprintf(text, sizeof(text), "GET /%s HTTP/1.1\r\n" HOST "x-request-id: %s\r\n%s\r\n",
                   id, id, headers);
    say(c, text);
}

/* The line of a request in the access log, or NULL. */
static const char *line_of(const char *id)
{
    char with_id[64];
    const char *line;

    (void)snprintf(with_id, sizeof(with_id), "\"id\":\"%s\",", id);
    line = strstr(logged(), with_id);
    return line == NULL || strchr(line, '\n') == NULL ? NULL : line;
}

static void expect_client(const char *id, const char *client)
{
    char with_client[64];
    const char *line, *at;

    (void)snprintf(with_client, sizeof(with_client), ",\"client\":\"%s\",", client);
    AWAIT((line = line_of(id)) != NULL);
    at = strstr(line, with_client);
    cr_expect(at != NULL && at < strchr(line, '\n'), "%s is not %s: %.200s", id, client, line);
}

Test(peer, a_proxy_that_is_listed_is_believed_and_no_other_peer)
{
    static const struct {
        unsigned peer;
        const char *line, *headers, *client;
    } cases[] = {
        {1, "", "", "127.0.0.1"},
        {9, "", "X-Forwarded-For: 198.51.100.1\r\n", "127.0.0.9"},
        {9, "", "X-Forwarded-For: 127.0.0.1\r\n", "127.0.0.9"},
        {1, "", "X-Forwarded-For: 198.51.100.1\r\n", "198.51.100.1"},
        {2, "", "x-forwarded-FOR: [2001:db8::5]:4711\r\n", "2001:db8::5"},
        {1, "", "X-Forwarded-For: ::ffff:198.51.100.1\r\n", "198.51.100.1"},
        /* The client may have written what is before its address, ... */
        {1, "", "X-Forwarded-For: 6.6.6.6, 198.51.100.1, 10.0.0.9\r\n", "198.51.100.1"},
        {1, "", "X-Forwarded-For: 127.0.0.1, 198.51.100.1\r\n", "198.51.100.1"},
        /* ... on a line of its own, too. */
        {1, "", "X-Forwarded-For: 6.6.6.6\r\nA: b\r\nX-Forwarded-For: 198.51.100.1\r\n",
         "198.51.100.1"},
        {1, "", "X-Forwarded-For: 198.51.100.1\r\nA: b\r\nX-Forwarded-For: 10.0.0.9\r\n",
         "198.51.100.1"},
        {1, "", "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: nonsense\r\n", "127.0.0.1"},
        {1, "", "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For:\r\n", "127.0.0.1"},
        {1, "", "Forwarded: for=198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\n", "127.0.0.1"},
        {1, V1, "", "198.51.100.7"},
        /* The client of a line is no proxy: the header is its invention; unless it is one. */
        {1, V1, "X-Forwarded-For: 6.6.6.6\r\n", "198.51.100.7"},
        {1, "PROXY TCP4 10.0.0.3 10.0.0.1 4711 8080\r\n", "X-Forwarded-For: 198.51.100.1\r\n",
         "198.51.100.1"},
        {1, "PROXY TCP6 ::ffff:198.51.100.7 ::1 4711 8080\r\n", "", "198.51.100.7"},
        /* The balancer does not know whose bytes follow, so it did not write the header. */
        {1, "PROXY UNKNOWN\r\n", "X-Forwarded-For: 198.51.100.1\r\n", "127.0.0.1"},
    };

    start();
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct client *c = dial_from(cases[i].peer);
        char id[16];

        (void)snprintf(id, sizeof(id), "case-%u", i);
        say(c, cases[i].line);
        say_request(c, id, cases[i].headers);
        expect(c, "HTTP/1.1 404 ");
        expect_client(id, cases[i].client);
    }
}

Test(peer, each_request_of_a_connection_has_its_own_client)
{
    struct client *c;

    start();
    c = dial();
    say_request(c, "one", "X-Forwarded-For: 198.51.100.1\r\n");
    say_request(c, "two", "X-Forwarded-For: 198.51.100.2\r\n");
    say_request(c, "none", "");
    for (unsigned i = 0; i < 3; i++)
        expect(c, "HTTP/1.1 404 ");
    expect_client("one", "198.51.100.1");
    expect_client("two", "198.51.100.2");
    expect_client("none", "127.0.0.1");
}

Test(peer, a_line_may_come_in_pieces)
{
    static const struct {
        const char *id, *bytes;
        size_t n;
    } lines[] = {{"v1", V1, sizeof(V1) - 1}, {"v2", V2, sizeof(V2) - 1}};

    start();
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++) {
        struct client *c = dial();

        for (size_t k = 0; k < lines[i].n; k++) {
            say_n(c, lines[i].bytes + k, 1);
            turn();
        }
        say_request(c, lines[i].id, "");
        expect(c, "HTTP/1.1 404 ");
        expect_client(lines[i].id, "198.51.100.7");
    }
}

Test(peer, a_line_of_a_stranger_is_a_bad_request)
{
    struct client *c;

    start();
    c = dial_from(9);
    say(c, V1);
    say_request(c, "line", "");
    expect(c, "HTTP/1.1 400 ");
    c = dial_from(9);
    say_n(c, V2, sizeof(V2) - 1);
    say_request(c, "line", "");
    expect(c, "HTTP/1.1 400 ");
}

Test(peer, a_damaged_line_is_not_answered)
{
    static const char *const lines[] = {
        "PROXY TCP4 1.2.3 nonsense\r\n", "PROXY \n",
        "PROXY UNKNOWN 0123456789012345678901234567890123456789012345678901234567890123456789"
        "0123456789012345678901234567890123456789",
        V1 V1_B};

    start();
    for (unsigned i = 0; i < ARRAY_LEN(lines); i++) {
        struct client *c = dial();

        say(c, lines[i]);
        say_request(c, "damaged", "");
        /* The second line of two is the beginning of a request. */
        if (i + 1 == ARRAY_LEN(lines)) {
            expect(c, "HTTP/1.1 400 ");
            continue;
        }
        expect_eof(c);
        cr_expect_eq(c->seen, 0);
    }
    AWAIT(http_server_connections(server) == 0);
}

Test(peer, a_line_that_does_not_end_has_its_time)
{
    struct client *c;

    config.limits.header_timeout_ms = 200;
    start();
    say(c = dial(), "PROXY TCP4 198.51");
    expect_eof(c);
    hang_up(c);
    c = dial();
    say(c, "PROXY TCP4 198.51");
    turn();
    hang_up(c);
    AWAIT(http_server_connections(server) == 0);
    say(dial(), "PROXY TCP4 198.51"); /* as the server ends */
    turn();
}

/* ---- shares ------------------------------------------------------------------------------ */

static void get_live(struct client *c, const char *line, const char *headers)
{
    say(c, line);
    say(c, "GET /livez HTTP/1.1\r\n" HOST);
    say(c, headers);
    say(c, "\r\n");
    expect(c, "HTTP/1.1 200 ");
}

static unsigned count_gone(unsigned from, unsigned to)
{
    unsigned gone = 0;

    for (unsigned i = from; i < to; i++)
        gone += clients[i].eof;
    return gone;
}

Test(peer, a_limit_for_each_client_is_not_one_for_the_proxy)
{
    struct client *c;

    config.limits.max_per_client = 2;
    start();
    for (unsigned i = 0; i < 3; i++)
        get_live(dial(), "", "");
    for (unsigned i = 0; i < 2; i++)
        get_live(dial(), V1, "");
    say(c = dial(), V1);
    expect(c, "HTTP/1.1 429 ");
    expect(c, "\"code\":\"too_many_connections\"}}\n");
    expect_eof(c);
    get_live(dial(), V1_B, "");
    hang_up(&clients[3]);
    AWAIT(http_server_connections(server) == 5);
    get_live(dial(), V1, "");
    for (unsigned i = 0; i < 2; i++)
        get_live(dial_from(9), "", "");
    expect(dial_from(9), "HTTP/1.1 429 ");
}

#define CROWD 20

/* A client behind a proxy is the one whose connections give way, not those beside it. */
static void crowd(const char *line, const char *headers, const char *others_line,
                  const char *others_headers)
{
    struct client *few;

    config.limits.max_connections = CROWD;
    start();
    get_live(few = dial(), others_line, others_headers);
    for (unsigned i = 0; i < CROWD - 1; i++)
        get_live(dial(), line, headers);
    for (unsigned i = 0; i < 8; i++)
        get_live(dial(), others_line, others_headers);
    cr_expect(!few->eof, "it was idle for longest");
    cr_expect_eq(count_gone(1, CROWD), 8);
    get_live(few, "", others_headers);
}

Test(peer, a_crowd_behind_a_proxy_gives_way_by_the_header)
{
    crowd("", "X-Forwarded-For: 198.51.100.7\r\n", "", "X-Forwarded-For: 203.0.113.9\r\n");
}

Test(peer, a_crowd_behind_a_proxy_gives_way_by_the_line)
{
    crowd(V1, "", V1_B, "");
}

Test(peer, a_busy_crowd_behind_a_proxy_does_not_push_out_others)
{
    struct client *few, *c;

    config.limits.max_connections = CROWD;
    start();
    get_live(few = dial(), V1_B, "");
    for (unsigned i = 0; i < CROWD - 1; i++) {
        say(c = dial(), V1);
        post(c, "", "{\"model\":\"wait\"}");
    }
    AWAIT(exchanges_count == CROWD - 1);
    say(c = dial(), V1);
    expect(c, "HTTP/1.1 429 ");
    cr_expect(!few->eof);
    get_live(dial(), "PROXY TCP4 192.0.2.5 10.0.0.1 4711 8080\r\n", "");
    cr_expect(few->eof, "it has one connection, and the newcomer none");
}

/* A body of 150 KiB, but for its last byte. */
static void hold_body(struct client *c, const char *line, const char *headers)
{
    static char body[150 * 1024 - 1];
    char head[256];

    memset(body, ' ', sizeof(body));
    memcpy(body, "{\"model\":\"echo\"}", 16);
    (void)snprintf(head, sizeof(head),
                   "%sPOST /v1/completions HTTP/1.1\r\n" HOST
                   "content-type: application/json\r\n%scontent-length: %zu\r\n\r\n",
                   line, headers, sizeof(body) + 1);
    say(c, head);
    say_n(c, body, sizeof(body));
}

static void bodies(const char *line, const char *headers, const char *others_line,
                   const char *others_headers)
{
    struct client *other;

    config.limits.max_body_total_bytes = 1500 * 1024;
    start();
    for (unsigned i = 0; i < 12; i++)
        hold_body(dial(), line, headers);
    for (unsigned i = 0; i < 50; i++)
        turn();
    hold_body(other = dial(), others_line, others_headers);
    say(other, " ");
    expect(other, "HTTP/1.1 200 ");
    cr_expect_geq(counter(PROC_UPLOADS_REFUSED), 1);
}

Test(peer, bodies_of_one_client_behind_a_proxy_make_room_for_others_by_the_header)
{
    bodies("", "X-Forwarded-For: 198.51.100.7\r\n", "", "X-Forwarded-For: 203.0.113.9\r\n");
}

Test(peer, bodies_of_one_client_behind_a_proxy_make_room_for_others_by_the_line)
{
    bodies(V1, "", V1_B, "");
}
