/*
 * sim_http.c - the simulated engine as an HTTP/1.1 server.
 *
 * The output of a request gathers in one of two buffers and leaves in one write at the end of
 * the loop's turn, while the other may still be on its way.  A client that leaves is noticed by
 * an epoll set of our own (libh2o does not read from a connection whose answer is under way),
 * and its run is cancelled at once.
 *
 * A client's struct lives in its request's memory pool, so it dies exactly when libh2o lets go
 * of the request: after the last byte, or when the connection breaks.
 */
#include "sim/sim_http.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "sim/sim_answer.h"
#include "sim/sim_engine.h"
#include "sim/sim_pages.h"
#include "sim/sim_request.h"

#define BACKLOG 4096

/* Connections taken in one go, and how long to wait when descriptors run out. */
#define ACCEPT_BATCH    64
#define ACCEPT_PAUSE_US 50000

/* Unsent output at which the engine must wait, and at which to go on. */
#define PAUSE_BYTES  (256u * 1024)
#define RESUME_BYTES (64u * 1024)

/* Time for connections that were shut down to notice, and the interval of the checks. */
#define CLOSE_US      (2 * US_PER_S)
#define CLOSE_TURN_US 10000

struct sim_http {
    struct sim_engine *engine; /* borrowed */
    struct loop *loop;         /* borrowed */
    h2o_globalconf_t conf;
    h2o_context_t context;
    h2o_accept_ctx_t accept;
    h2o_socket_t *listener; /* owned; NULL once stopped */
    struct timer accept_timer;
    LIST_HEAD(, sim_connection) connections; /* each owned by its socket */
    int gone_fd; /* owned: epoll set of the connections with an answer under way */
    struct watch *gone_watch;
    uint64_t created_s;
    char address[NET_TEXT_BYTES];
};

/* One accepted connection: freed when libh2o closes its socket. */
struct sim_connection {
    h2o_socket_t *sock; /* borrowed */
    LIST_ENTRY(sim_connection) link;
};

/* libh2o passes a handler nothing but itself. */
struct handler {
    h2o_handler_t super;
    struct sim_http *http;
};

/* One request for the engine. */
struct client {
    h2o_generator_t generator;
    struct sim_http *http;
    h2o_req_t *req;
    struct sim_run *run; /* NULL once it ended or was cancelled */
    struct deferred flush;
    struct buf out[2];        /* owned: [filling] gathers, the other is being sent */
    unsigned filling;         /* 0 or 1 */
    int fd;                   /* of the connection; in gone_fd iff >= 0 */
    unsigned status;          /* 0 before the head */
    const char *content_type; /* static */
    bool started;             /* the head went to libh2o */
    bool sending;             /* a write is under way */
    bool ended;               /* the answer is complete */
    bool broken;              /* it never will be: cut the connection */
    bool paused;              /* the engine waits for us */
};

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Payload Too Large";
    case 503:
        return "Service Unavailable";
    default:
        return "Internal Server Error";
    }
}

/* ---- the end of a request -------------------------------------------------------------- */

static void drop_run(struct client *client)
{
    if (client->run != NULL)
        sim_run_cancel(client->run);
    client->run = NULL;
}

static void unwatch(struct client *client)
{
    if (client->fd != -1)
        (void)epoll_ctl(client->http->gone_fd, EPOLL_CTL_DEL, client->fd, NULL);
    client->fd = -1;
}

/* libh2o is done with the request, whatever the reason. */
static void on_dispose(void *p)
{
    struct client *client = p;

    drop_run(client);
    unwatch(client);
    loop_undefer(client->http->loop, &client->flush);
    buf_finish(&client->out[0]);
    buf_finish(&client->out[1]);
}

/* Cuts the connection.  `client` may be gone afterwards. */
static void cut_connection(struct client *client)
{
    h2o_req_t *req = client->req;
    bool started = client->started;

    drop_run(client);
    client->broken = true;
    if (client->fd != -1)
        (void)shutdown(client->fd, SHUT_RDWR);
    if (client->sending)
        return; /* the write fails, and libh2o closes */
    req->http1_is_persistent = 0;
    client->ended = true;
    client->sending = true;
    if (!started) {
        client->started = true;
        req->res.status = 500;
        req->res.reason = reason(500);
        req->res.content_length = 0;
        h2o_start_response(req, &client->generator);
        h2o_send(req, NULL, 0, H2O_SEND_STATE_FINAL);
    } else {
        h2o_send(req, NULL, 0, H2O_SEND_STATE_ERROR);
    }
}

/* ---- sending --------------------------------------------------------------------------- */

static void start_response(struct client *client)
{
    h2o_req_t *req = client->req;
    bool events = strcmp(client->content_type, "text/event-stream") == 0;

    client->started = true;
    req->res.status = (int)client->status;
    req->res.reason = reason(req->res.status);
    if (client->ended)
        req->res.content_length = buf_size(&client->out[client->filling]);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   client->content_type, strlen(client->content_type));
    if (events)
        h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                       H2O_STRLIT("no-cache"));
    h2o_start_response(req, &client->generator);
}

/* Sends the gathered bytes, unless a write is under way.  `client` may be gone afterwards. */
static void send_gathered(struct client *client)
{
    struct buf *out = &client->out[client->filling];
    /* `out` is never consumed in part, so its data is its head; NULL when it is empty. */
    h2o_iovec_t bytes = {.base = (char *)out->data, .len = buf_size(out)};
    bool last = client->ended;

    if (client->sending)
        return;
    if (client->out[0].failed || client->out[1].failed ||
        (client->broken && (client->status == 0 || bytes.len == 0))) {
        cut_connection(client); /* what came before it broke has been sent */
        return;
    }
    if (client->status == 0 || (bytes.len == 0 && !last))
        return;
    if (!client->started)
        start_response(client);
    client->filling = 1 - client->filling;
    client->sending = true;
    h2o_send(client->req, &bytes, bytes.len == 0 ? 0 : 1,
             last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

/* The write is over. */
static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    struct client *client = CONTAINER_OF(generator, struct client, generator);

    (void)req;
    client->sending = false;
    buf_reset(&client->out[1 - client->filling]);
    if (client->paused && buf_size(&client->out[client->filling]) < RESUME_BYTES) {
        client->paused = false;
        if (client->run != NULL)
            sim_run_pause(client->run, false);
    }
    send_gathered(client);
}

static void on_flush(struct deferred *deferred)
{
    send_gathered(CONTAINER_OF(deferred, struct client, flush));
}

/* ---- the engine's events --------------------------------------------------------------- */

static void on_head(void *data, unsigned status, const char *content_type)
{
    struct client *client = data;

    client->status = status;
    client->content_type = content_type;
}

static void on_body(void *data, const uint8_t *bytes, size_t n)
{
    struct client *client = data;
    struct buf *out = &client->out[client->filling];

    buf_add(out, bytes, n);
    if (!client->paused && buf_size(out) > PAUSE_BYTES) {
        client->paused = true;
        sim_run_pause(client->run, true);
    }
    loop_defer(client->http->loop, &client->flush, on_flush);
}

/* Bytes that no HTTP client can make sense of.  Nothing of an answer went before them. */
static void send_garbage(const struct client *client)
{
    static const char NOISE[] = "\x16\x03\x01 this is no answer {{{ ]]\n\n";
    h2o_conn_t *conn = client->req->conn;
    int fd = h2o_socket_get_fd(conn->callbacks->get_socket(conn));

    /* A socket that has no room for these few bytes breaks off without them. */
    (void)!send(fd, NOISE, sizeof(NOISE) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void on_end(void *data, enum sim_end end)
{
    struct client *client = data;

    client->run = NULL;
    client->ended = end == SIM_END_OK;
    client->broken = end != SIM_END_OK;
    if (end == SIM_END_GARBAGE)
        send_garbage(client);
    loop_defer(client->http->loop, &client->flush, on_flush);
}

/* ---- clients that leave ---------------------------------------------------------------- */

static void on_gone(struct watch *watch, void *data)
{
    struct sim_http *http = data;
    struct epoll_event events[64];
    int n, i;

    (void)watch;
    do {
        n = epoll_wait(http->gone_fd, events, ARRAY_LEN(events), 0);
        for (i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;

            if (!client->broken)
                cut_connection(client);
        }
    } while (n == ARRAY_LEN(events));
}

static void watch_client(struct client *client)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = client};
    h2o_conn_t *conn = client->req->conn;
    int fd = h2o_socket_get_fd(conn->callbacks->get_socket(conn));

    client->fd = -1;
    if (epoll_ctl(client->http->gone_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        client->fd = fd;
}

/* ---- requests -------------------------------------------------------------------------- */

/* A whole answer that needs no engine. */
static void answer_as(h2o_req_t *req, int status, const char *content_type, struct buf *body)
{
    req->res.status = status;
    req->res.reason = reason(status);
    req->res.content_length = buf_size(body);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, content_type,
                   strlen(content_type));
    h2o_send_inline(req, (char *)buf_head(body), buf_size(body)); /* copies */
    buf_finish(body);
}

static void answer(h2o_req_t *req, int status, struct buf *body)
{
    answer_as(req, status, "application/json; charset=utf-8", body);
}

static void answer_error(h2o_req_t *req, int status, const char *type, const char *message)
{
    struct buf body = BUF_INIT;

    sim_error_body(&body, 0, (unsigned)status, type, NULL, message);
    answer(req, status, &body);
}

static void answer_metrics(struct sim_http *http, h2o_req_t *req)
{
    struct buf body = BUF_INIT;

    sim_pages_metrics(&body, http->engine);
    answer_as(req, 200, "text/plain; version=0.0.4", &body);
}

static bool path_is(const h2o_req_t *req, const char *path)
{
    return h2o_memis(req->path_normalized.base, req->path_normalized.len, path, strlen(path));
}

static void get(struct sim_http *http, h2o_req_t *req)
{
    struct buf body = BUF_INIT;

    if (sim_engine_status(http->engine).loading) {
        answer_error(req, 503, "unavailable_error", "Loading model");
    } else if (path_is(req, "/metrics")) {
        answer_metrics(http, req);
    } else if (path_is(req, "/v1/models") || path_is(req, "/models")) {
        sim_pages_models(&body, http->engine, http->created_s);
        answer(req, 200, &body);
    } else if (path_is(req, "/health") || path_is(req, "/v1/health")) {
        buf_str(&body, "{\"status\":\"ok\",\"simulated\":true}");
        answer(req, 200, &body);
    } else if (path_is(req, "/props")) {
        sim_pages_props(&body, http->engine);
        answer(req, 200, &body);
    } else {
        answer_error(req, 404, "not_found_error", "File Not Found");
    }
}

/* The value of a header as a string, or NULL. */
static const char *header_value(h2o_req_t *req, const char *name)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);

    if (at == -1)
        return NULL;
    return h2o_strdup(&req->pool, req->headers.entries[at].value.base,
                      req->headers.entries[at].value.len)
        .base;
}

static void post(struct sim_http *http, h2o_req_t *req)
{
    static const struct sim_events EVENTS = {
        .on_head = on_head, .on_body = on_body, .on_end = on_end};
    const char *attempt = header_value(req, "x-drover-attempt");
    struct sim_input input = {
        .operation = sim_operation_of(req->path_normalized.base, req->path_normalized.len),
        .content_type = header_value(req, "content-type"),
        .body = (const uint8_t *)req->entity.base,
        .body_len = req->entity.len,
        .attempt = attempt == NULL ? 0 : (uint32_t)strtoul(attempt, NULL, 10),
    };
    struct client *client;

    if (input.operation == SIM_OP_NONE) {
        answer_error(req, 404, "not_found_error", "File Not Found");
        return;
    }
    client = h2o_mem_alloc_shared(&req->pool, sizeof(*client), on_dispose);
    memset(client, 0, sizeof(*client));
    client->generator.proceed = on_proceed;
    client->http = http;
    client->req = req;
    client->fd = -1;
    if (sim_run_start(&client->run, http->engine, &input, &EVENTS, client) != 0) {
        answer_error(req, 500, "server_error", "out of memory");
        return;
    }
    watch_client(client);
}

static int on_req(h2o_handler_t *self, h2o_req_t *req)
{
    struct sim_http *http = ((struct handler *)self)->http;

    if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("GET")))
        get(http, req);
    else if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("POST")))
        post(http, req);
    else
        answer_error(req, 405, "invalid_request_error", "method not allowed");
    return 0;
}

/* ---- connections ----------------------------------------------------------------------- */

static void on_closed(void *data)
{
    struct sim_connection *connection = data;

    LIST_REMOVE(connection, link);
    free(connection);
}

static void accept_connection(struct sim_http *http, h2o_socket_t *sock)
{
    struct sim_connection *connection = calloc(1, sizeof(*connection));

    if (connection == NULL) {
        h2o_socket_close(sock);
        return;
    }
    connection->sock = sock;
    LIST_INSERT_HEAD(&http->connections, connection, link);
    sock->on_close.cb = on_closed;
    sock->on_close.data = connection;
    h2o_accept(&http->accept, sock);
}

static void on_accept(h2o_socket_t *listener, const char *err);

static void on_accept_again(struct timer *timer)
{
    struct sim_http *http = CONTAINER_OF(timer, struct sim_http, accept_timer);

    h2o_socket_read_start(http->listener, on_accept);
}

static void on_accept(h2o_socket_t *listener, const char *err)
{
    struct sim_http *http = listener->data;
    h2o_socket_t *sock;
    unsigned i;

    if (err != NULL)
        return;
    for (i = 0; i < ACCEPT_BATCH; i++) {
        sock = h2o_evloop_socket_accept(listener);
        if (sock == NULL) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                /* The listener stays readable: looking again at once would only spin. */
                h2o_socket_read_stop(listener);
                timer_start(http->loop, &http->accept_timer, ACCEPT_PAUSE_US, on_accept_again);
            }
            return;
        }
        accept_connection(http, sock);
    }
}

static void configure(struct sim_http *http)
{
    h2o_hostconf_t *host;
    h2o_pathconf_t *path;
    struct handler *handler;

    h2o_config_init(&http->conf);
    http->conf.server_name = h2o_iovec_init(H2O_STRLIT("drover-sim"));
    http->conf.http1.upgrade_to_http2 = 0; /* libh2o 2.2.5 is not safe with HTTP/2 clients */
    http->conf.http1.req_timeout = 600000; /* peers keep idle connections */
    http->conf.max_request_entity_size = SIM_MAX_BODY_BYTES;
    host = h2o_config_register_host(&http->conf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    path = h2o_config_register_path(host, "/", 0);
    handler = (struct handler *)(void *)h2o_create_handler(path, sizeof(*handler));
    handler->super.on_req = on_req;
    handler->http = http;
    h2o_context_init(&http->context, http->loop->h2o, &http->conf);
    http->accept.ctx = &http->context;
    http->accept.hosts = http->conf.hosts;
}

int sim_http_open(struct sim_http **out, struct sim_engine *engine, struct loop *loop,
                  const char *address, struct error *err)
{
    struct sim_http *http = calloc(1, sizeof(*http));
    struct net_addr local;
    int fd = -1, rc;

    *out = NULL;
    if (http == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    http->engine = engine;
    http->loop = loop;
    http->created_s = clock_wall_ms() / 1000;
    http->gone_fd = epoll_create1(EPOLL_CLOEXEC);
    if (http->gone_fd == -1) {
        rc = error_sys(err, "epoll_create1");
        goto fail;
    }
    http->gone_watch = watch_start(loop, http->gone_fd, on_gone, http, err);
    if (http->gone_watch == NULL) {
        rc = DRV_ESYS;
        goto fail;
    }
    fd = net_listen(address, BACKLOG, err);
    if (fd < 0) {
        rc = fd;
        goto fail;
    }
    rc = net_local(&local, fd, err);
    if (rc != 0)
        goto fail;
    net_format(http->address, sizeof(http->address), &local);
    (void)signal(SIGPIPE, SIG_IGN);
    configure(http);
    http->listener = h2o_evloop_socket_create(loop->h2o, fd, H2O_SOCKET_FLAG_DONT_READ);
    http->listener->data = http;
    h2o_socket_read_start(http->listener, on_accept);
    *out = http;
    return 0;

fail: /* `rc` and `err` are set */
    if (fd >= 0)
        (void)close(fd);
    watch_stop(http->gone_watch);
    if (http->gone_fd != -1)
        (void)close(http->gone_fd);
    free(http);
    return error_wrap(err, rc, "--listen");
}

const char *sim_http_address(const struct sim_http *http)
{
    return http->address;
}

bool sim_http_close(struct sim_http *http)
{
    uint64_t until = clock_mono_us() + CLOSE_US;
    h2o_multithread_queue_t *queue;
    struct sim_connection *connection;

    if (http == NULL)
        return true;
    timer_stop(http->loop, &http->accept_timer);
    h2o_socket_read_stop(http->listener);
    h2o_socket_close(http->listener);
    LIST_FOREACH(connection, &http->connections, link)
        (void)shutdown(h2o_socket_get_fd(connection->sock), SHUT_RDWR);
    /* libh2o sees the end of what it reads or writes, on_gone() that of an answer which waits.
     */
    while (!LIST_EMPTY(&http->connections) && clock_mono_us() < until)
        loop_turn(http->loop, CLOSE_TURN_US);
    if (!LIST_EMPTY(&http->connections))
        return false;
    watch_stop(http->gone_watch);
    (void)close(http->gone_fd);
    queue = http->context.queue;
    h2o_context_dispose(&http->context);
    free(queue); /* libh2o 2.2.5 forgets to */
    h2o_config_dispose(&http->conf);
    free(http);
    return true;
}
