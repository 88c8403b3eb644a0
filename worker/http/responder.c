/*
 * responder.c - gathers what an answer's owner writes and hands it to libh2o once a turn.
 *
 * Everything that an owner calls only marks the responder and puts it on the loop's deferred
 * list; on_flush() does the work at the end of the turn.  So no owner is ever called back from
 * inside its own call, and many small writes are one system call.
 *
 * Chunked framing is done here, in the gather buffer: room for a chunk's head is kept at the
 * front, so that an answer leaves as one piece of memory.  The end is sent to libh2o in two
 * steps: the last bytes as "in progress", and, once they are in the socket, an empty "final".
 * That is how "done" can mean what it says.
 *
 * A responder is disposed of together with its request's pool, in on_dispose(), which every
 * path reaches: the answer is complete; a write failed and libh2o closed; close_now() ended it.
 */
#include "worker/http/responder.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "worker/api/cors.h"
#include "worker/encoding/decode_queue.h"
#include "worker/http/access_log.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/shares.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* "ffffffff\r\n" */
#define CHUNK_HEAD_BYTES 10

/* Buffers that have grown beyond this are given back when they have been written out. */
#define KEEP_BYTES 2048

#define GONE_BATCH 64

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req);
static void on_flush(struct deferred *deferred);

static int fd_of(const struct responder *r)
{
    return h2o_socket_get_fd(r->conn->sock);
}

static void flush_soon(struct responder *r)
{
    loop_defer(r->server->loop, &r->flush, on_flush);
}

/* ---- life -------------------------------------------------------------------------------- */

static void tell_gone(struct responder *r)
{
    if (r->reported)
        return;
    r->reported = true;
    if (r->events.on_gone != NULL)
        r->events.on_gone(r->data);
}

static void log_own(const struct responder *r)
{
    const struct client_request *request = r->request;
    struct access_record record = {
        .id = request->id,
        .client = request->client,
        .key = request->key_name,
        .method = r->method,
        .path = r->path,
        .model = request->client_model[0] == '\0' ? NULL : request->client_model,
        .outcome = r->done ? r->outcome : "client_gone",
        .reason = r->reason,
        .status = r->done ? r->status : 499,
        .stream = request->stream,
        .bytes_in = r->body_in,
        .bytes_out = r->written,
        .total_us = clock_mono_us() - request->received_mono_us,
    };

    access_log_write(r->server->access_log, &record);
}

static void unwatch(struct responder *r)
{
    if (!r->watched)
        return;
    r->watched = false;
    (void)epoll_ctl(r->server->gone_fd, EPOLL_CTL_DEL, fd_of(r), NULL);
}

static void free_body(struct responder *r)
{
    json_skips_finish(&r->skips);
    r->request->root = (struct json_value){0};
    if (!r->body_held)
        return;
    r->body_held = false;
    shares_release(r->conn, r->request->body_len);
    free((void *)(uintptr_t)r->request->body);
    r->request->body = NULL;
    r->request->body_len = 0;
}

void responder_hold_body(struct responder *r, uint8_t *body, size_t n)
{
    free_body(r);
    r->request->body = body;
    r->request->body_len = n;
    r->body_held = true;
    shares_hold(r->conn, n);
}

/* The one end of every responder; libh2o calls it before it frees the pool. */
static void on_dispose(void *p)
{
    struct responder *r = p;

    tell_gone(r);
    loop_undefer(r->server->loop, &r->flush);
    unwatch(r);
    if (r->outcome != NULL)
        log_own(r);
    if (r->decoding != NULL)
        decode_cancel(r->decoding);
    free(r->decoding);
    free_body(r);
    buf_finish(&r->fill);
    buf_finish(&r->flight);
    r->server->request_over(r->conn);
    r->conn->current = NULL;
    r->conn->since_mono_us = loop_now_us(r->server->loop);
    r->conn->reading_mono_us = 0;
}

struct responder *responder_create(struct client_connection *conn, h2o_req_t *req,
                                   struct client_request *request)
{
    struct responder *r = h2o_mem_alloc_shared(&req->pool, sizeof(*r), on_dispose);

    memset(r, 0, sizeof(*r));
    r->generator.proceed = on_proceed;
    r->server = conn->server;
    r->conn = conn;
    r->req = req;
    r->request = request;
    r->content_length = -1;
    request->responder = r;
    assert(conn->current == NULL);
    conn->current = r;
    return r;
}

void responder_set_events(struct responder *r, const struct responder_events *events,
                          void *data)
{
    r->events = *events;
    r->data = data;
}

/*
 * libh2o keeps the whole request in the connection's input buffer until the answer is complete:
 * 8 KiB at least, up to twice the body.  A stream may last minutes, and a worker holds
 * thousands. So the body moves to memory of its exact size, and a stub takes the buffer's
 * place, which claims the size that libh2o will consume and has none of the bytes.  While an
 * answer is open libh2o neither reads from the socket nor looks into the buffer; what it does
 * with it at the end (consume `size` bytes, or dispose of it) touches only the stub's head.
 */
void responder_shrink_input(struct responder *r)
{
    h2o_socket_t *sock = r->conn->sock;
    h2o_buffer_t *old = sock->input;
    h2o_buffer_t *stub = malloc(sizeof(*stub));

    if (stub == NULL)
        return;
    stub->size = old->size;
    /* Any value but the pooled buffers' own, so that the stub goes back to free(). */
    stub->capacity = old->size + H2O_SOCKET_INITIAL_INPUT_BUFFER_SIZE * 4;
    stub->bytes = stub->_buf;
    stub->_prototype = old->_prototype;
    stub->_fd = -1;
    sock->input = stub;
    h2o_buffer_dispose(&old);
}

void responder_take_body(struct responder *r)
{
    h2o_socket_t *sock = r->conn->sock;
    h2o_iovec_t entity = r->req->entity;
    size_t request_len;
    uint8_t *copy;

    r->request->body = (const uint8_t *)entity.base;
    r->request->body_len = entity.len;
    r->body_in = entity.len;
    if (entity.len == 0)
        return;
    copy = malloc(entity.len);
    if (copy == NULL)
        return; /* borrowing libh2o's is as good, only larger */
    memcpy(copy, entity.base, entity.len);
    request_len = (size_t)(entity.base + entity.len - sock->input->bytes);
    responder_hold_body(r, copy, entity.len);
    r->req->entity = h2o_iovec_init(copy, entity.len);
    /* With pipelined bytes behind the request the buffer must stay. */
    if (request_len == sock->input->size)
        responder_shrink_input(r);
}

void http_drop_body(struct client_request *request)
{
    free_body(request->responder);
}

/* ---- the client leaves ------------------------------------------------------------------- */

void responder_watch(struct responder *r)
{
    struct epoll_event event = {.events = EPOLLHUP | EPOLLERR, .data.ptr = r};

    if (r->watched)
        return;
    if (!r->server->config->allow_half_close)
        event.events |= EPOLLRDHUP;
    r->watched = epoll_ctl(r->server->gone_fd, EPOLL_CTL_ADD, fd_of(r), &event) == 0;
}

/* Frees nothing: every pointer of the batch must stay good until its turn. */
static void on_gone_events(struct watch *watch, void *data)
{
    struct http_server *server = data;
    struct epoll_event events[GONE_BATCH];
    int n = epoll_wait(server->gone_fd, events, GONE_BATCH, 0);

    (void)watch;
    for (int i = 0; i < n; i++) {
        struct responder *r = events[i].data.ptr;

        unwatch(r);
        r->lost = true;
        flush_soon(r);
    }
}

int responders_init(struct http_server *server, struct error *err)
{
    server->gone_fd = epoll_create1(EPOLL_CLOEXEC);
    if (server->gone_fd == -1)
        return error_sys(err, "epoll_create1");
    server->gone_watch =
        watch_start(server->loop, server->gone_fd, on_gone_events, server, err);
    return server->gone_watch == NULL ? DRV_ESYS : 0;
}

void responders_finish(struct http_server *server)
{
    watch_stop(server->gone_watch);
    server->gone_watch = NULL;
    if (server->gone_fd != -1)
        (void)close(server->gone_fd);
    server->gone_fd = -1;
}

/* Ends the request and its connection without a proper end of the answer.  `r` is gone
 * afterwards, at once or when the write that fails now has been noticed. */
static void close_now(struct responder *r)
{
    h2o_req_t *req = r->req;

    assert(!r->in_flight && r->reported && !r->closing);
    r->closing = true;
    req->http1_is_persistent = 0;
    if (!r->head_sent) {
        /* libh2o cannot end a request without writing a head: let it fail to. */
        (void)shutdown(fd_of(r), SHUT_RDWR);
        req->res.status = 500;
        r->head_sent = true;
        h2o_start_response(req, &r->generator);
    }
    h2o_send(req, NULL, 0, H2O_SEND_STATE_ERROR);
}

static void drop(struct responder *r)
{
    tell_gone(r);
    if (r->in_flight)
        (void)shutdown(fd_of(r), SHUT_RDWR); /* the write fails, and on_dispose() follows */
    else if (!r->closing)
        close_now(r);
}

void responder_lose(struct responder *r)
{
    r->aborted = true;
    flush_soon(r);
}

void responder_go_on(struct responder *r)
{
    flush_soon(r);
}

void responder_break(struct responder *r)
{
    h2o_socket_t *sock = r->conn->sock;
    h2o_socket_cb on_write;

    tell_gone(r);
    if (!r->in_flight && !r->closing) {
        bool closes_at_once = r->head_sent;

        close_now(r);
        if (closes_at_once)
            return;
    }
    /* The write that is under way, or was made to fail just now.  It stays there: by it libh2o
     * knows that TLS cannot say goodbye. */
    on_write = sock->_cb.write;
    on_write(sock, h2o_socket_error_io);
}

/* ---- writing ----------------------------------------------------------------------------- */

static const char *status_text(unsigned status)
{
    static const struct {
        unsigned status;
        const char *text;
    } texts[] = {
        {200, "OK"},
        {201, "Created"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {508, "Loop Detected"},
        {529, "Overloaded"},
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return status < 400 ? "OK" : "Error";
}

/* A value from a node must not be able to end its line. */
static bool is_clean(const char *value)
{
    for (; *value != '\0'; value++)
        if (((unsigned char)*value < 0x20 && *value != '\t') || *value == 0x7F)
            return false;
    return true;
}

void responder_header(struct responder *r, const char *name, const char *value)
{
    h2o_mem_pool_t *pool = &r->req->pool;
    h2o_iovec_t n, v;

    if (r->reported || r->started || !is_clean(value))
        return;
    n = h2o_strdup(pool, name, strlen(name));
    v = h2o_strdup(pool, value, strlen(value));
    h2o_set_header_by_str(pool, &r->req->res.headers, n.base, n.len, 1, v.base, v.len, 1);
}

static void add_cors(struct responder *r)
{
    struct cors_header headers[CORS_MAX_HEADERS];
    size_t n;

    if (r->request->origin == NULL)
        return;
    n = cors_answer(headers, r->request->origin);
    for (size_t i = 0; i < n; i++)
        responder_header(r, headers[i].name, headers[i].value);
}

void responder_start(struct responder *r, unsigned status, const char *content_type,
                     int64_t content_length)
{
    h2o_req_t *req = r->req;

    if (r->reported || r->started)
        return;
    responder_header(r, "x-request-id", r->request->id);
    if (r->request->surface == SURFACE_ANTHROPIC)
        responder_header(r, "request-id", r->request->id); /* where Anthropic's SDKs look */
    add_cors(r);
    if (content_type != NULL) {
        responder_header(r, "content-type", content_type);
        if (strncmp(content_type, "text/event-stream", 17) == 0) {
            responder_header(r, "cache-control", "no-cache");
            responder_header(r, "x-accel-buffering", "no");
        }
    }
    r->no_body = status == 204 || status == 304 ||
                 h2o_memis(req->input.method.base, req->input.method.len, H2O_STRLIT("HEAD"));
    r->content_length = content_length;
    if (content_length < 0 && !r->no_body) {
        r->chunked = req->version == 0x101;
        if (r->chunked)
            responder_header(r, "transfer-encoding", "chunked");
        else
            req->http1_is_persistent = 0; /* HTTP/1.0: the end is the end of the connection */
    }
    if (r->server->draining || r->conn->intake != NULL)
        req->http1_is_persistent = 0;
    req->res.status = (int)status;
    req->res.reason = status_text(status);
    req->res.content_length = content_length < 0 ? SIZE_MAX : (size_t)content_length;
    r->status = status;
    r->started = true;
    flush_soon(r);
}

void responder_write(struct responder *r, const void *bytes, size_t n)
{
    assert(r->started && !r->ended);
    if (r->reported || r->ended)
        return;
    if (r->content_length >= 0 && n > (uint64_t)r->content_length - r->written)
        n = (size_t)((uint64_t)r->content_length - r->written);
    if (n == 0)
        return;
    r->written += n;
    if (r->no_body)
        return;
    if (r->chunked && r->fill.len == 0) {
        if (buf_reserve(&r->fill, CHUNK_HEAD_BYTES + n) != NULL)
            r->fill.len = CHUNK_HEAD_BYTES;
    }
    buf_add(&r->fill, bytes, n);
    if (r->fill.failed)
        r->aborted = true;
    r->fill_body += n;
    flush_soon(r);
}

void responder_end(struct responder *r)
{
    if (r->reported || r->ended)
        return;
    assert(r->started);
    r->ended = true;
    flush_soon(r);
}

void responder_abort(struct responder *r)
{
    if (r->reported)
        return;
    r->aborted = true;
    flush_soon(r);
}

size_t responder_pending(const struct responder *r)
{
    return r->fill_body + r->flight_body;
}

uint64_t responder_read(const struct responder *r)
{
    return r->body_in;
}

uint64_t responder_written(const struct responder *r)
{
    return r->written;
}

/* Everything is in the socket.  `r` is gone afterwards, unless the client still sends. */
static void complete(struct responder *r)
{
    h2o_req_t *req = r->req;

    if (r->server->still_sends(r->conn))
        return;
    /* An owner that promised more than it wrote: the client must not wait for the rest. */
    if (r->content_length >= 0 && !r->no_body && r->written != (uint64_t)r->content_length)
        req->http1_is_persistent = 0;
    r->reported = true;
    r->done = true;
    if (r->events.on_done != NULL)
        r->events.on_done(r->data);
    h2o_send(req, NULL, 0, H2O_SEND_STATE_FINAL);
}

/* Puts the framing around what has been gathered; returns where the bytes to send begin. */
static size_t frame_chunk(struct responder *r)
{
    char head[CHUNK_HEAD_BYTES + 1];
    size_t skip = 0;
    int n;

    if (r->fill_body != 0) {
        n = snprintf(head, sizeof(head), "%x\r\n", (unsigned)r->fill_body);
        assert(n > 0 && n <= CHUNK_HEAD_BYTES);
        skip = CHUNK_HEAD_BYTES - (size_t)n;
        memcpy(r->fill.data + skip, head, (size_t)n);
        buf_add(&r->fill, "\r\n", 2);
    }
    if (r->ended && !r->last_sent) {
        buf_add(&r->fill, "0\r\n\r\n", 5);
        r->last_sent = true;
    }
    return skip;
}

/* Everything that was to be written has been handed over? */
static bool all_sent(const struct responder *r)
{
    return r->ended && r->fill.len == 0 && (!r->chunked || r->last_sent);
}

/* The write is in the socket. */
static void written(struct responder *r)
{
    size_t n = r->flight_body;

    r->in_flight = false;
    r->flight_body = 0;
    buf_shrink(&r->flight, KEEP_BYTES);
    if (r->reported) {
        close_now(r);
        return;
    }
    if (n != 0 && r->events.on_drain != NULL)
        r->events.on_drain(r->data, n);
    /* A client that has everything may leave: that is no loss. */
    if (all_sent(r) && !r->aborted)
        complete(r);
    else if (r->fill.len != 0 || r->ended || r->lost || r->aborted)
        flush_soon(r);
}

/*
 * Once the head is out and nothing is under way in libh2o, a piece of a stream goes straight to
 * the socket: a token costs one send(2) and not also libh2o's filters, write queue and
 * callback.  The part that the socket does not accept at once, and all of TLS, goes through
 * libh2o.
 */
static void send_gathered(struct responder *r)
{
    bool direct = r->head_sent && r->conn->sock->ssl == NULL;
    size_t skip = r->chunked ? frame_chunk(r) : 0;
    struct buf emptied = r->flight;
    h2o_iovec_t vec;

    if (r->fill.failed) {
        r->aborted = true;
        drop(r);
        return;
    }
    if (r->head_sent && r->fill.len == skip) {
        if (r->ended)
            complete(r);
        return;
    }
    r->flight = r->fill;
    r->flight_body = r->fill_body;
    r->fill = emptied;
    r->fill_body = 0;
    r->in_flight = true;
    r->flight_mono_us = loop_now_us(r->server->loop);
    if (!r->head_sent) {
        r->head_sent = true;
        h2o_start_response(r->req, &r->generator);
    }
    vec = r->flight.len == skip ? h2o_iovec_init(NULL, 0)
                                : h2o_iovec_init(r->flight.data + skip, r->flight.len - skip);
    if (direct && vec.len != 0) {
        ssize_t w = send(fd_of(r), vec.base, vec.len, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (w == (ssize_t)vec.len) {
            written(r);
            return;
        }
        if (w > 0) {
            vec.base += w;
            vec.len -= (size_t)w;
        }
    }
    h2o_send(r->req, &vec, vec.len == 0 ? 0 : 1, H2O_SEND_STATE_IN_PROGRESS);
}

static void on_flush(struct deferred *deferred)
{
    struct responder *r = CONTAINER_OF(deferred, struct responder, flush);

    if (r->lost && !r->aborted && r->in_flight && all_sent(r))
        return; /* it has left, perhaps with everything: the write's end decides */
    if (r->lost || r->aborted)
        drop(r);
    else if (r->started && !r->in_flight && !r->reported)
        send_gathered(r);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)req;
    written(CONTAINER_OF(generator, struct responder, generator));
}
