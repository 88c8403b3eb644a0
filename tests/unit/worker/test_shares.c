/* test_shares.c - one client cannot take what others need: room for bodies, connections. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/secure/api_keys.h"
#include "http_fixture.h"

TestSuite(shares, .init = setup, .fini = teardown, .timeout = 60);

#define KIB 1024u

/* printf %s abc | sha256sum, and def */
static struct api_key two_keys[] = {
    {.name = "alice",
     .digest = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad}},
    {.name = "bob", .digest = {0xcb, 0x83, 0x79, 0xac, 0x20, 0x98, 0xaa, 0x16, 0x50, 0x29, 0xe3,
                               0x93, 0x8a, 0x51, 0xda, 0x0b, 0xce, 0xcf, 0xc0, 0x08, 0xfd, 0x67,
                               0x95, 0xf4, 0x01, 0x17, 0x86, 0x47, 0xf9, 0x6c, 0x5b, 0x34}},
};
#define ALICE "authorization: Bearer abc\r\n"
#define BOB   "authorization: Bearer def\r\n"

/* A request whose body is all there but for its last byte. */
static void hold_body(struct client *c, const char *headers, unsigned n)
{
    static char body[1 << 20];
    struct buf out = BUF_INIT;

    memset(body, ' ', sizeof(body));
    memcpy(body, "{\"model\":\"echo\"}", 16);
    buf_printf(&out,
               "POST /v1/completions HTTP/1.1\r\n" HOST
               "content-type: application/json\r\n%scontent-length: %u\r\n\r\n",
               headers, n);
    buf_add(&out, body, n - 1);
    say_n(c, buf_head(&out), buf_size(&out));
    buf_finish(&out);
}

static void finish_body(struct client *c)
{
    say_n(c, " ", 1);
}

/* 35 of 15 MiB in 512 MiB, a hundredth. */
static void hold_35(const char *headers)
{
    for (unsigned i = 0; i < 35; i++)
        hold_body(dial(), headers, 150 * KIB);
    for (unsigned i = 0; i < 50; i++)
        turn();
}

static unsigned refused_of_35(void)
{
    unsigned refused = 0;

    for (unsigned i = 0; i < 35; i++)
        if (has(&clients[i], "HTTP/1.1 503 ")) {
            refused++;
            cr_expect(has(&clients[i], "retry-after: 2\r\n"));
            cr_expect(has(&clients[i], "\"code\":\"overloaded\""));
        }
    return refused;
}

Test(shares, bodies_that_one_address_holds_make_room_for_others)
{
    struct client *slow[4];

    config.limits.max_body_total_bytes = 5120 * KIB;
    start();
    hold_35("");
    for (unsigned i = 0; i < 4; i++)
        hold_body(slow[i] = dial_from(2 + i % 2), "", 400 * KIB);
    for (unsigned i = 0; i < 4; i++) {
        finish_body(slow[i]);
        expect(slow[i], "HTTP/1.1 200 OK\r\n");
    }
    cr_expect_geq(refused_of_35(), 5);
    cr_expect_leq(refused_of_35(), 16);
    cr_expect_eq(counter(PROC_UPLOADS_REFUSED), refused_of_35());
    while (clients_count > 0)
        hang_up(&clients[--clients_count]);
    AWAIT(http_server_connections(server) == 0);
    cr_expect_not_null(strstr(logged(), "\"status\":503,\"outcome\":\"rejected\","
                                        "\"reason\":\"overloaded\""));
}

Test(shares, bodies_that_one_key_holds_make_room_for_others)
{
    struct client *slow[2];

    config.limits.max_body_total_bytes = 5120 * KIB;
    config.api.keys = (struct api_keys){two_keys, 2};
    start();
    hold_35(ALICE);
    for (unsigned i = 0; i < 2; i++)
        hold_body(slow[i] = dial(), BOB, 700 * KIB);
    for (unsigned i = 0; i < 2; i++) {
        finish_body(slow[i]);
        expect(slow[i], "HTTP/1.1 200 OK\r\n");
    }
    cr_expect_geq(refused_of_35(), 5);
    cr_expect_leq(refused_of_35(), 18);
}

Test(shares, without_a_key_nothing_is_held)
{
    config.limits.max_body_total_bytes = 5120 * KIB;
    config.api.keys = (struct api_keys){two_keys, 2};
    start();
    hold_35("");
    for (unsigned i = 0; i < 35; i++)
        cr_expect(has(&clients[i], "HTTP/1.1 401 "), "%u", i);
    cr_expect_eq(counter(PROC_UPLOADS_REFUSED), 0);
}

/* Also to those of the same client. */
Test(shares, bodies_that_stall_give_way)
{
    uint64_t since = clock_mono_us();
    struct client *c;

    config.limits.max_body_total_bytes = 5120 * KIB;
    start();
    hold_35("");
    c = dial();
    hold_body(c, "", 1000 * KIB);
    expect(c, "HTTP/1.1 503 ");
    while (clock_mono_us() - since < 2500 * US_PER_MS)
        turn();
    c = dial();
    hold_body(c, "", 1000 * KIB);
    finish_body(c);
    expect(c, "HTTP/1.1 200 OK\r\n");
}

/* Bodies that are whole do not give way; but one client has nine tenths at most. */
Test(shares, the_last_tenth_is_for_others)
{
    static char body[1000 * 1024];
    struct client *c[5], *other;

    config.limits.max_body_total_bytes = 5120 * KIB;
    start();
    memset(body, ' ', sizeof(body) - 1);
    memcpy(body, "{\"model\":\"wait\"}", 16);
    for (unsigned i = 0; i < 4; i++)
        post(c[i] = dial(), "", body);
    AWAIT(exchanges_count == 4);
    post(c[4] = dial(), "", body);
    expect(c[4], "HTTP/1.1 503 ");
    other = dial_from(2);
    hold_body(other, "", 1000 * KIB);
    finish_body(other);
    expect(other, "HTTP/1.1 200 OK\r\n");
}

/* A body of 1000 KiB, as a few bytes of gzip. */
static void post_packed(struct client *c, const char *model)
{
    static char body[1000 * KIB];
    static uint8_t packed[16 * KIB];
    struct buf out = BUF_INIT;
    z_stream z = {0};

    memset(body, ' ', sizeof(body));
    memcpy(body, model, strlen(model));
    cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)body;
    z.avail_in = sizeof(body);
    z.next_out = packed;
    z.avail_out = sizeof(packed);
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    buf_printf(&out,
               "POST /v1/completions HTTP/1.1\r\n" HOST "content-type: application/json\r\n"
               "content-encoding: gzip\r\ncontent-length: %lu\r\n\r\n",
               z.total_out);
    buf_add(&out, packed, z.total_out);
    say_n(c, buf_head(&out), buf_size(&out));
    buf_finish(&out);
    (void)deflateEnd(&z);
}

Test(shares, bodies_that_are_sent_encoded_are_held_as_large_as_they_are)
{
    struct client *over, *other;

    config.limits.max_body_total_bytes = 5120 * KIB;
    config.limits.max_body_bytes = 1000 * KIB;
    start();
    for (unsigned i = 0; i < 4; i++)
        post_packed(dial(), "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == 4);
    post_packed(over = dial(), "{\"model\":\"wait\"}");
    expect(over, "HTTP/1.1 503 ");
    expect(over, "retry-after: 2\r\n");
    cr_expect_eq(counter(PROC_UPLOADS_REFUSED), 1);
    post_packed(other = dial_from(2), "{\"model\":\"echo\"}");
    expect(other, "HTTP/1.1 200 OK\r\n");
}

Test(shares, bodies_of_others_make_room_for_one_that_is_decoded)
{
    struct client *c;

    config.limits.max_body_total_bytes = 5120 * KIB;
    config.limits.max_body_bytes = 1000 * KIB;
    start();
    hold_35("");
    post_packed(c = dial_from(2), "{\"model\":\"echo\"}");
    expect(c, "HTTP/1.1 200 OK\r\n");
    cr_expect_geq(refused_of_35(), 3);
    cr_expect_leq(refused_of_35(), 12);
}

/* ---- connections ------------------------------------------------------------------------- */

#define CROWD 20

static void begin_crowd(void)
{
    config.limits.max_connections = CROWD;
    start();
}

static void get_live(struct client *c)
{
    say(c, "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    expect(c, "200 OK");
}

static void wait_ms(unsigned ms)
{
    uint64_t until = clock_mono_us() + ms * US_PER_MS;

    while (clock_mono_us() < until)
        turn();
}

static unsigned count_gone(unsigned from, unsigned to)
{
    unsigned gone = 0;

    for (unsigned i = from; i < to; i++)
        gone += clients[i].eof;
    return gone;
}

Test(shares, the_longest_idle_connection_gives_way_first_then_a_silent_one)
{
    struct client *c;

    begin_crowd();
    for (unsigned i = 0; i < CROWD - 1; i++)
        (void)dial();
    wait_ms(300);
    get_live(dial());
    get_live(dial_from(2));
    cr_expect(clients[CROWD - 1].eof, "it was idle");
    cr_expect_eq(count_gone(0, CROWD - 1), 0);
    c = dial_from(3);
    get_live(c);
    cr_expect(clients[0].eof, "it was silent for longest");
    cr_expect_eq(count_gone(1, CROWD - 1), 0);
    cr_expect_eq(counter(PROC_CONNECTIONS_GAVE_WAY), 2);
    cr_expect_leq(http_server_connections(server), CROWD);
}

Test(shares, a_crowd_gives_way_and_a_client_with_few_connections_does_not)
{
    struct client *few;

    begin_crowd();
    get_live(few = dial_from(2));
    for (unsigned i = 0; i < CROWD - 1; i++)
        get_live(dial());
    for (unsigned i = 0; i < 8; i++)
        get_live(dial_from(3 + i));
    cr_expect(!few->eof, "it was idle for longest");
    cr_expect_eq(count_gone(1, CROWD), 8);
    get_live(few);
}

Test(shares, heads_that_do_not_end_give_way)
{
    begin_crowd();
    for (unsigned i = 0; i < CROWD; i++)
        say(dial(), "GET /livez HTTP/1.1\r\nX: ");
    wait_ms(300);
    get_live(dial_from(2));
    cr_expect_eq(count_gone(0, CROWD), 1);
}

Test(shares, pipelined_beginnings_give_way)
{
    begin_crowd();
    for (unsigned i = 0; i < CROWD; i++) {
        struct client *c = dial();

        say(c, "GET /livez HTTP/1.1\r\n" HOST "\r\nGET /livez HTTP/1.1\r\nX: ");
        expect(c, "200 OK");
    }
    wait_ms(300);
    get_live(dial_from(2));
    cr_expect_eq(count_gone(0, CROWD), 1);
}

Test(shares, answers_that_are_not_read_give_way)
{
    static char block[1 << 20];

    config.limits.max_connections = 4;
    start();
    for (unsigned i = 0; i < 4; i++) {
        struct client *c = dial();

        c->paused = true;
        post(c, "", "{\"model\":\"begin\"}");
        AWAIT(exchanges_count == i + 1);
        for (unsigned k = 0; k < 12; k++) /* more than the kernels take */
            responder_write(exchanges[i].request->responder, block, sizeof(block));
    }
    wait_ms(1300);
    get_live(dial_from(2));
    cr_expect_eq(counter(PROC_CONNECTIONS_GAVE_WAY), 1);
    cr_expect_eq(exchanges[0].gone, 1);
}

Test(shares, bodies_that_do_not_come_give_way_with_an_answer)
{
    begin_crowd();
    for (unsigned i = 0; i < CROWD; i++)
        hold_body(dial(), "", 100 * KIB);
    wait_ms(100);
    get_live(dial_from(2));
    AWAIT(count_gone(0, CROWD) >= 1);
    cr_expect(has(&clients[0], "HTTP/1.1 503 "));
    cr_expect_geq(counter(PROC_UPLOADS_REFUSED), 1);
}

static void post_echo(struct client *c, const char *key)
{
    post(c, key, "{\"model\":\"echo\"}");
    expect(c, "HTTP/1.1 200 OK\r\n");
    expect(c, "{\"model\":\"echo\"}");
}

/* One address: bob's connections are idle, those of a crowd without a key are silent. */
Test(shares, a_crowd_without_a_key_does_not_push_out_a_key_of_its_address)
{
    config.api.keys = (struct api_keys){two_keys, 2};
    begin_crowd();
    for (unsigned i = 0; i < 3; i++)
        post_echo(dial(), BOB);
    for (unsigned i = 3; i < CROWD; i++)
        (void)dial();
    wait_ms(300);
    get_live(dial());
    post_echo(dial(), BOB);
    cr_expect_eq(count_gone(0, 3), 0);
    cr_expect_eq(count_gone(3, CROWD + 1), 2);
}

/* A newcomer may be of any key; it counts as the one of its address that has most. */
Test(shares, a_key_with_a_crowd_does_not_push_out_others_of_its_address)
{
    struct client *c;

    config.api.keys = (struct api_keys){two_keys, 2};
    begin_crowd();
    for (unsigned i = 0; i < 3; i++)
        post_echo(dial(), BOB);
    for (unsigned i = 3; i < CROWD; i++)
        post(dial(), ALICE, "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == CROWD);
    c = dial();
    post(c, ALICE, "{\"model\":\"wait\"}");
    expect(c, "HTTP/1.1 429 ");
    cr_expect_eq(count_gone(0, CROWD), 0);
    post_echo(&clients[0], BOB);
}

Test(shares, requests_that_are_served_do_not_give_way)
{
    struct client *c;

    begin_crowd();
    for (unsigned i = 0; i < CROWD; i++)
        post(dial(), "", "{\"model\":\"wait\"}");
    AWAIT(exchanges_count == CROWD);
    c = dial_from(2);
    say(c, "GET /livez HTTP/1.1\r\n" HOST "\r\n");
    expect(c, "HTTP/1.1 503 ");
    cr_expect_eq(count_gone(0, CROWD), 0);
}
