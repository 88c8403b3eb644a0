/* http_fixture.c - a server, the scripted owner of its answers, and clients. */
#include "http_fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "shm/scoreboard.h"
#include "worker/http/reject.h"

struct loop loop;
struct scoreboard *board;
struct config config;
struct http_server *server;
static struct log_sink *access_sink;
static int listen_fd = -1;
static in_port_t port; /* network order */
static char log_path[64];
bool ready, models_unknown;

/* ---- the scripted owner of answers ------------------------------------------------------- */

struct request exchanges[512];
unsigned exchanges_count;

static void on_drain(void *data, size_t n)
{
    ((struct request *)data)->drained += n;
}

static void ended(struct request *x)
{
    x->request = NULL;
    x->ended_mono_us = clock_mono_us();
    timer_stop(&loop, &x->timer);
}

static void on_gone(void *data)
{
    struct request *x = data;

    x->gone++;
    ended(x);
}

static void on_done(void *data)
{
    struct request *x = data;

    x->done++;
    ended(x);
}

void event_text(char *out, size_t cap, unsigned number, unsigned left)
{
    (void)snprintf(out, cap, "data: {\"stream\":%u,\"left\":%u}\n\n", number, left);
}

/* Three writes an event, to be gathered; the last event ends the answer. */
static void on_tick(struct timer *timer)
{
    struct request *x = CONTAINER_OF(timer, struct request, timer);
    struct responder *r = x->request->responder;
    char text[96];

    event_text(text, sizeof(text), x->number, x->events_left);
    responder_write(r, text, 5);
    responder_write(r, text + 5, 1);
    responder_write(r, text + 6, strlen(text) - 6);
    if (--x->events_left == 0)
        responder_end(r);
    else
        timer_start(&loop, timer, 500, on_tick);
}

static void on_infer(struct client_request *request, void *data)
{
    static const struct responder_events events = {on_drain, on_gone, on_done};
    struct request *x = &exchanges[exchanges_count];
    struct responder *r = request->responder;

    (void)data;
    cr_assert_lt(exchanges_count, ARRAY_LEN(exchanges));
    *x = (struct request){.request = request, .number = exchanges_count++};
    responder_set_events(r, &events, x);
    if (strcmp(request->model, "echo") == 0) {
        responder_start(r, 200, "application/json", (int64_t)request->body_len);
        responder_write(r, request->body, request->body_len);
        responder_end(r);
    } else if (strncmp(request->model, "stream", 6) == 0) {
        x->events_left = (unsigned)strtoul(request->model + 6, NULL, 10);
        responder_start(r, 200, "text/event-stream", -1);
        timer_start(&loop, &x->timer, 500, on_tick);
    } else if (strcmp(request->model, "begin") == 0) {
        responder_start(r, 200, "text/event-stream", -1);
        responder_write(r, "data: 1\n\n", 9);
    } else if (strcmp(request->model, "teapot") == 0) {
        responder_header(r, "x-good", "yes");
        responder_header(r, "x-evil", "a\r\nset-cookie: b");
        responder_start(r, 418, "text/plain", -1);
        responder_write(r, "short", 5);
        responder_end(r);
    } else if (strcmp(request->model, "liar") == 0) {
        responder_start(r, 200, "text/plain", 10);
        responder_write(r, "four", 4);
        responder_end(r);
    } else if (strcmp(request->model, "full") == 0) {
        http_reply_error(request, API_ERROR_QUEUE_FULL, "busy", 900);
    }
    /* "wait": nothing yet */
}

static void settle_name(struct client_request *request, void *data)
{
    unsigned models;
    const struct config_alias *alias = config_find_alias(&config, request->model, &models);

    (void)data;
    request->aliased = alias != NULL;
    if (alias != NULL)
        (void)strlcpy(request->model, alias->model, sizeof(request->model));
}

static bool is_ready(void *data)
{
    (void)data;
    return ready;
}

static bool are_unknown(void *data)
{
    (void)data;
    return models_unknown;
}

/* ---- fixture ----------------------------------------------------------------------------- */

void start(void)
{
    struct http_server_params params = {
        .loop = &loop,
        .config = &config,
        .board = board,
        .worker = 0,
        .listen_fd = listen_fd,
        .access_log = access_sink,
        .on_infer = on_infer,
        .settle_name = settle_name,
        .ready = is_ready,
        .models_unknown = are_unknown,
        .models_awaited = are_unknown,
    };
    struct error err = {0};

    cr_assert_eq(http_server_create(&server, &params, &err), 0, "%s", err.text);
}

void setup(void)
{
    struct scoreboard_params params = {
        .max_nodes = 4, .max_workers = 2, .requests_per_worker = 4};
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    struct error err = {0};
    char path[64];

    config = (struct config){0};
    config.limits.max_connections = 1000;
    config.limits.max_body_bytes = 1u << 20;
    config.limits.max_body_total_bytes = 64u << 20;
    config.limits.header_timeout_ms = 10000;
    config.limits.idle_timeout_ms = 10000;
    config.limits.write_stall_ms = 10000;
    ready = true;
    models_unknown = false;
    (void)snprintf(path, sizeof(path), "/tmp/drover-test-server-%d", (int)getpid());
    (void)snprintf(log_path, sizeof(log_path), "/tmp/drover-test-access-%d", (int)getpid());
    cr_assert_eq(scoreboard_create(&board, path, &params, &err), 0, "%s", err.text);
    (void)unlink(path);
    procs_assign(board, 0, 1, false);
    cr_assert_eq(log_sink_open(&access_sink, log_path, &err), 0, "%s", err.text);
    cr_assert_eq(loop_init(&loop, &err), 0, "%s", err.text);
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(listen_fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    cr_assert_eq(listen(listen_fd, 256), 0);
    cr_assert_eq(getsockname(listen_fd, (struct sockaddr *)&sa, &len), 0);
    port = sa.sin_port;
}

void teardown(void)
{
    http_server_destroy(server);
    /* Lets closed connections say goodbye by TLS, and libh2o free them. */
    for (int i = 0; i < 3; i++)
        loop_turn(&loop, 0);
    loop_finish(&loop);
    log_sink_close(access_sink);
    scoreboard_detach(board);
    (void)close(listen_fd);
    (void)unlink(log_path);
}

/* ---- clients ----------------------------------------------------------------------------- */

struct client clients[128];
unsigned clients_count;

struct client *dial(void)
{
    return dial_from(1);
}

struct client *dial_from(unsigned host)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = port};
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host)};
    struct client *c = &clients[clients_count++];

    cr_assert_leq(clients_count, ARRAY_LEN(clients));
    *c = (struct client){0};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_neq(c->fd, -1);
    cr_assert_eq(bind(c->fd, (struct sockaddr *)&from, sizeof(from)), 0);
    cr_assert_eq(connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    cr_assert_eq(fcntl(c->fd, F_SETFL, O_NONBLOCK), 0);
    return c;
}

void hang_up(struct client *c)
{
    (void)close(c->fd);
    c->fd = -1;
    buf_finish(&c->in);
}

void turn(void)
{
    loop_turn(&loop, 1000);
    for (unsigned i = 0; i < clients_count; i++) {
        struct client *c = &clients[i];

        while (c->fd != -1 && !c->eof && !c->paused) {
            uint8_t *to = buf_reserve(&c->in, 65536);
            ssize_t n = read(c->fd, to, 65536);

            if (n > 0)
                c->in.len += (size_t)n;
            else if (n == -1 && errno == EAGAIN)
                break;
            else
                c->eof = true;
        }
    }
}

void say_n(struct client *c, const void *bytes, size_t n)
{
    const char *p = bytes;

    while (n != 0) {
        ssize_t sent = send(c->fd, p, n, MSG_NOSIGNAL);

        if (sent > 0) {
            p += sent;
            n -= (size_t)sent;
        } else if (errno == EAGAIN) {
            turn();
        } else {
            return; /* closed already: the test looks at what came back */
        }
    }
}

void say(struct client *c, const char *text)
{
    say_n(c, text, strlen(text));
}

void post(struct client *c, const char *headers, const char *body)
{
    struct buf out = BUF_INIT;

    buf_printf(&out,
               "POST /v1/chat/completions HTTP/1.1\r\n" HOST
               "content-type: application/json\r\ncontent-length: %zu\r\n%s\r\n%s",
               strlen(body), headers, body);
    say_n(c, buf_head(&out), buf_size(&out));
    buf_finish(&out);
}

bool has(const struct client *c, const char *text)
{
    return buf_size(&c->in) != 0 &&
           memmem(buf_head(&c->in) + c->seen, buf_size(&c->in) - c->seen, text, strlen(text)) !=
               NULL;
}

void expect(struct client *c, const char *text)
{
    uint64_t give_up = clock_mono_us() + PATIENCE_US;
    uint8_t *hit;

    while (!has(c, text)) {
        cr_assert(clock_mono_us() < give_up && !c->eof, "wanted:\n%s\ngot:\n%s", text,
                  buf_cstr(&c->in) + c->seen);
        turn();
    }
    hit = memmem(buf_head(&c->in) + c->seen, buf_size(&c->in) - c->seen, text, strlen(text));
    c->seen = (size_t)(hit - buf_head(&c->in)) + strlen(text);
}

void expect_eof(struct client *c)
{
    AWAIT(c->eof);
}

const char *ask(const char *request)
{
    struct client *c = dial();

    say(c, request);
    expect_eof(c);
    return buf_cstr(&c->in);
}

const char *get(const char *path)
{
    char request[256];

    (void)snprintf(request, sizeof(request),
                   "GET %s HTTP/1.1\r\n" HOST "connection: close\r\n\r\n", path);
    return ask(request);
}

bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

const char *logged(void)
{
    static struct buf text;
    FILE *f = fopen(log_path, "r");
    size_t n;

    buf_reset(&text);
    do {
        n = fread(buf_reserve(&text, 4096), 1, 4096, f);
        text.len += n;
    } while (n != 0);
    (void)fclose(f);
    return buf_cstr(&text);
}

uint64_t counter(enum proc_counter which)
{
    struct proc_view view;

    cr_assert(procs_read(board, 0, &view));
    return view.counter[which];
}
