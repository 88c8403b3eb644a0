/* test_http.c - the simulated engine over HTTP: real sockets, one process, one loop. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/text/buf.h"
#include "sim/sim_engine.h"
#include "sim/sim_http.h"

#define PATIENCE_US (20 * US_PER_S)
#define LLAMAS      "\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about llamas.\"}]"

static struct loop loop;
static struct sim_engine *engine;
static struct sim_http *http;

static void up(const char *spec)
{
    struct error err = {0};

    cr_assert_eq(loop_init(&loop, &err), 0);
    cr_assert_eq(sim_engine_create(&engine, &loop, spec, &err), 0, "%s", err.text);
    cr_assert_eq(sim_http_open(&http, engine, &loop, "127.0.0.1:0", &err), 0, "%s", err.text);
}

/* A client: a socket, and what it got. */
struct client {
    int fd;
    struct buf got;
    bool closed;
};

static void dial(struct client *client)
{
    struct net_addr addr;
    struct error err = {0};

    memset(client, 0, sizeof(*client));
    cr_assert_eq(net_parse(&addr, sim_http_address(http), &err), 0);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_neq(client->fd, -1);
    cr_assert_eq(connect(client->fd, (struct sockaddr *)&addr.sa, addr.len), 0);
}

static void hang_up(struct client *client)
{
    (void)close(client->fd);
    buf_finish(&client->got);
}

static void ask(struct client *client, const char *method, const char *path, const char *body)
{
    char head[512];

    (void)snprintf(head, sizeof(head),
                   "%s %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                   "content-length: %zu\r\n\r\n",
                   method, path, strlen(body));
    cr_assert_eq(send(client->fd, head, strlen(head), MSG_NOSIGNAL), (ssize_t)strlen(head));
    cr_assert_eq(send(client->fd, body, strlen(body), MSG_NOSIGNAL), (ssize_t)strlen(body));
}

static void receive(struct client *client)
{
    uint8_t bytes[65536];
    ssize_t n;

    while ((n = recv(client->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        buf_add(&client->got, bytes, (size_t)n);
    if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
        client->closed = true;
}

static bool has(const struct client *client, const char *text)
{
    return buf_size(&client->got) != 0 &&
           memmem(buf_head(&client->got), buf_size(&client->got), text, strlen(text)) != NULL;
}

/* Turns the loop until the client has got `text`, or until it is cut off (`text` NULL). */
static void turn_until(struct client *client, const char *text)
{
    uint64_t until = clock_mono_us() + PATIENCE_US;

    for (;;) {
        receive(client);
        if (text == NULL ? client->closed : has(client, text))
            return;
        cr_assert(text == NULL || !client->closed, "cut off before \"%s\"", text);
        cr_assert_lt(clock_mono_us(), until, "waiting for \"%s\"",
                     text == NULL ? "the end" : text);
        loop_turn(&loop, 1000);
    }
}

static void turn_until_running(uint32_t running)
{
    uint64_t until = clock_mono_us() + PATIENCE_US;

    while (sim_engine_status(engine).running != running) {
        cr_assert_lt(clock_mono_us(), until);
        loop_turn(&loop, 1000);
    }
}

static void expect(struct client *client, const char *method, const char *path,
                   const char *body, const char *words)
{
    buf_reset(&client->got);
    ask(client, method, path, body);
    turn_until(client, words);
}

Test(sim_http, one_connection_serves_every_kind_of_answer)
{
    struct client client;

    up("base_ms=0.1,slope_ms=0,tokens=5,length=limit");
    dial(&client);
    expect(&client, "GET", "/health", "", "{\"status\":\"ok\"");
    expect(&client, "GET", "/v1/models", "", "\"owned_by\":\"drover-sim\"");
    expect(&client, "GET", "/props", "", "\"total_slots\":4");
    expect(&client, "GET", "/metrics", "", "\nllamacpp:requests_processing 0\n");
    expect(&client, "GET", "/nope", "", "HTTP/1.1 404 Not Found");
    expect(&client, "POST", "/nope", "{}", "HTTP/1.1 404 Not Found");
    expect(&client, "DELETE", "/health", "", "HTTP/1.1 405 ");
    expect(&client, "POST", "/v1/chat/completions", "{" LLAMAS "}",
           "\"total_tokens\":15,\"prompt_tokens_details\":{\"cached_tokens\":0}}}");
    cr_assert(has(&client, "HTTP/1.1 200 OK"));
    expect(&client, "POST", "/v1/chat/completions", "{\"stream\":true," LLAMAS "}",
           "data: [DONE]\n\n\r\n0\r\n\r\n");
    cr_assert(has(&client, "transfer-encoding: chunked"));
    cr_assert(has(&client, "content-type: text/event-stream"));
    expect(&client, "POST", "/api/chat", "{" LLAMAS "}", "\"done\":true");
    expect(&client, "POST", "/chat/completions", "{", "HTTP/1.1 400 Bad Request");
    expect(&client, "POST", "/v1/embeddings", "{\"input\":\"x\"}", "\"embedding\":[");
    cr_assert_not(client.closed);
    hang_up(&client);
}

Test(sim_http, a_client_that_leaves_frees_its_slot)
{
    struct client client;

    up("slots=1,base_ms=0.1,slope_ms=0");
    dial(&client);
    ask(&client, "POST", "/v1/chat/completions",
        "{\"stream\":true,\"drover_sim\":{\"fault\":\"hang\",\"after_tokens\":1}," LLAMAS "}");
    turn_until(&client, "\"role\":\"assistant\"");
    cr_assert_eq(sim_engine_status(engine).running, 1);
    hang_up(&client);
    turn_until_running(0);

    dial(&client); /* and before any byte of the answer */
    ask(&client, "POST", "/v1/chat/completions",
        "{\"drover_sim\":{\"fault\":\"hang\"}," LLAMAS "}");
    turn_until_running(1);
    cr_assert_eq(shutdown(client.fd, SHUT_WR), 0, "half a close is a close");
    turn_until_running(0);
    hang_up(&client);
}

Test(sim_http, a_broken_answer_breaks_the_connection_after_what_came_before)
{
    struct client client;

    up("base_ms=0.1,slope_ms=0,tokens=3,length=limit");
    dial(&client);
    ask(&client, "POST", "/v1/completions",
        "{\"prompt\":\"x\",\"stream\":true,\"drover_sim\":{\"fault\":\"reset\","
        "\"after_tokens\":3}}");
    turn_until(&client, NULL);
    cr_assert(has(&client, "HTTP/1.1 200 OK"));
    cr_assert_not(has(&client, "\r\n0\r\n\r\n"), "it looks complete");
    cr_assert_not(has(&client, "[DONE]"));
    hang_up(&client);

    dial(&client);
    ask(&client, "POST", "/v1/completions",
        "{\"prompt\":\"x\",\"drover_sim\":{\"fault\":\"reset\"}}");
    turn_until(&client, NULL);
    cr_assert_not(has(&client, "200 OK"));
    hang_up(&client);
}

Test(sim_http, garbage_is_no_http)
{
    struct client client;

    up("base_ms=0.1,slope_ms=0");
    dial(&client);
    ask(&client, "POST", "/v1/completions",
        "{\"prompt\":\"x\",\"stream\":true,\"drover_sim\":{\"fault\":\"garbage\"}}");
    turn_until(&client, NULL);
    cr_assert(has(&client, "this is no answer"));
    cr_assert_not(has(&client, "HTTP/1.1"));
    hang_up(&client);
}

Test(sim_http, the_header_of_an_attempt_chooses_who_suffers_a_fault)
{
    struct client client;
    static const char BODY[] =
        "{\"prompt\":\"x\",\"drover_sim\":{\"fault\":\"5xx\",\"only_attempt\":1}}";
    char head[512];

    up("base_ms=0.1,slope_ms=0,tokens=3");
    dial(&client);
    expect(&client, "POST", "/v1/completions", BODY, "HTTP/1.1 200 OK");
    turn_until(&client, "\"usage\"");
    buf_reset(&client.got);
    (void)snprintf(head, sizeof(head),
                   "POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-drover-attempt: 1\r\n"
                   "content-length: %zu\r\n\r\n%s",
                   strlen(BODY), BODY);
    cr_assert_eq(send(client.fd, head, strlen(head), MSG_NOSIGNAL), (ssize_t)strlen(head));
    turn_until(&client, "HTTP/1.1 500 ");
    hang_up(&client);
}

Test(sim_http, while_it_loads_every_page_says_so_and_who_says_it)
{
    struct client client;

    up("load_ms=3600000");
    dial(&client);
    expect(&client, "GET", "/v1/models", "", "\"Loading model\"");
    cr_assert(has(&client, "HTTP/1.1 503 "));
    cr_assert(has(&client, "server: drover-sim\r\n") || has(&client, "Server: drover-sim\r\n"));
    expect(&client, "GET", "/health", "", "HTTP/1.1 503 ");
    hang_up(&client);
}

Test(sim_http, a_client_that_does_not_read_stops_its_stream_and_no_other)
{
    struct client lazy, keen;
    uint64_t before, until = clock_mono_us() + PATIENCE_US;
    int small = 131072;

    up("rate=20000,slots=2,ctx=1000000,length=limit");
    dial(&lazy);
    (void)setsockopt(lazy.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    ask(&lazy, "POST", "/v1/completions",
        "{\"model\":\"sim\",\"prompt\":\"x\",\"stream\":true,\"max_tokens\":40000}");
    /* 40,000 events are 10 MB: more than the sockets and the engine hold. */
    do {
        before = sim_engine_status(engine).progress;
        for (unsigned i = 0; i < 20; i++)
            loop_turn(&loop, 5000);
        cr_assert_lt(clock_mono_us(), until, "it never stops");
    } while (sim_engine_status(engine).progress != before || before == 0);
    cr_assert_lt(before, 40000);
    until = clock_mono_us() + PATIENCE_US;
    dial(&keen);
    ask(&keen, "POST", "/v1/completions",
        "{\"model\":\"sim\",\"prompt\":\"x\",\"stream\":true,\"max_tokens\":10}");
    turn_until(&keen, "[DONE]");
    do { /* it goes on when it is read */
        receive(&lazy);
        loop_turn(&loop, 1000);
        cr_assert_lt(clock_mono_us(), until, "it never goes on");
    } while (sim_engine_status(engine).progress <= before + 100);
    hang_up(&lazy);
    hang_up(&keen);
}

Test(sim_http, says_what_is_wrong_with_an_address)
{
    struct error err = {0};
    struct sim_http *none;

    up("");
    cr_assert_lt(sim_http_open(&none, engine, &loop, "127.0.0.1", &err), 0);
    cr_assert_eq(strncmp(err.text, "--listen: ", 10), 0, "%s", err.text);
    cr_assert_null(none);
    cr_assert(sim_http_close(http));
    sim_engine_destroy(engine);
    loop_finish(&loop);
}

Test(sim_http, closing_it_breaks_off_every_connection_and_leaves_nothing_behind)
{
    struct client clients[5] = {0}, *idle = &clients[0], *lazy = &clients[1],
                  *held = &clients[2], *queued = &clients[3], *half = &clients[4];
    int small = 65536;

    up("rate=20000,slots=2,ctx=1000000,length=limit");
    for (size_t i = 0; i < ARRAY_LEN(clients); i++)
        dial(&clients[i]);
    expect(idle, "GET", "/health", "", "{\"status\":\"ok\"");
    (void)setsockopt(lazy->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    ask(lazy, "POST", "/v1/completions",
        "{\"model\":\"sim\",\"prompt\":\"x\",\"stream\":true,\"max_tokens\":900000}");
    turn_until_running(1);
    ask(held, "POST", "/v1/chat/completions",
        "{\"stream\":true,\"drover_sim\":{\"fault\":\"hang\",\"after_tokens\":1}," LLAMAS "}");
    turn_until(held, "\"role\":\"assistant\"");
    ask(queued, "POST", "/v1/chat/completions", "{" LLAMAS "}");
    cr_assert_eq(send(half->fd, "POST /v1/chat", 13, MSG_NOSIGNAL), 13);
    turn_until_running(2);
    while (sim_engine_status(engine).queued != 1)
        loop_turn(&loop, 1000);

    cr_assert(sim_http_close(http));
    cr_assert_eq(sim_engine_status(engine).running, 0);
    cr_assert_eq(sim_engine_status(engine).queued, 0);
    for (size_t i = 0; i < ARRAY_LEN(clients); i++) {
        while (!clients[i].closed)
            receive(&clients[i]);
        hang_up(&clients[i]);
    }
    sim_engine_destroy(engine);
    loop_finish(&loop);
}
