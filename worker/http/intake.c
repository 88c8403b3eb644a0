/*
 * intake.c - reads the long bodies of requests, which libh2o does not see.
 *
 * A body is charged to server->body_bytes as it comes: one that does not come costs nothing.
 * Where there is no room for more, the body that brings it is refused and its room goes to the
 * others, so some of them always become whole.
 */
#include "worker/http/intake.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/background.h"
#include "worker/http/client_request.h"
#include "worker/http/framing/chunks.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* A body up to here goes libh2o's way. */
#define SHORT_BYTES (64 * 1024)
/* Of all bodies in one turn, and of one at least. */
#define TURN_BYTES  (1024 * 1024)
#define LEAST_SHARE (16 * 1024)
/* Of a body in chunks, at first. */
#define FIRST_CAP ((size_t)64 * 1024)
/* Chunks may have so much framing more than body. */
#define FRAMING_BYTES ((size_t)1024 * 1024)
/* Of a body, looked through in one turn. */
#define LOOK_BYTES ((size_t)1024 * 1024)
/* How long, and for how many bytes, a refused client may go on sending. */
#define LINGER_US    (2 * US_PER_S)
#define LINGER_BYTES (64u * 1024 * 1024)

/*
 *   WAITING    the request is being checked; what came with the head is in `early`
 *   READING    its body comes
 *   REFUSED    it has an answer before its body was whole
 *   LINGERING  ... which is sent; what still comes is thrown away
 */
enum phase { WAITING = 0, READING, REFUSED, LINGERING };

/* Why a body is not read to its end. */
enum refusal {
    NO_ROOM = 0, /* limits.max_body_total_bytes are there, with what has come of it */
    NO_MEMORY,   /* there is none for it */
    TOO_LARGE,   /* its chunks are more than limits.max_body_bytes */
    BAD,         /* its chunks are malformed, or so small that they are mostly framing */
    SLOW,        /* hardly a byte of it comes */
};

struct intake {
    enum phase phase;
    h2o_buffer_t *early;            /* owned: what came with the head, and the head; or NULL */
    size_t early_len;               /* bytes of the body in it */
    struct client_request *request; /* borrowed; READING only */
    void (*on_whole)(struct client_request *request);
    intake_reject_cb rejected;
    uint8_t *body; /* owned; READING only */
    size_t cap;    /* of it */
    size_t have;   /* bytes of the body that are there; each is counted in body_bytes */
    struct chunks chunks;
    size_t framing; /* bytes of it, of chunks */
    uint64_t look_mono_us;
    size_t look_have; /* at that time */
    struct timer linger;
    size_t drained;
    struct client_connection *conn; /* borrowed */
};

/* ---- the head ---------------------------------------------------------------------------- */

static void on_head(h2o_socket_t *sock, const char *err);

static void put_in_place(struct client_connection *conn)
{
    conn->read_head = conn->sock->_cb.read;
    conn->sock->_cb.read = on_head;
}

void intake_watch(struct client_connection *conn)
{
    put_in_place(conn);
    if (conn->sock->input->size != 0)
        on_head(conn->sock, NULL);
}

/* Bytes that came behind the last request have been read by libh2o already: so is the rest of
 * their request. */
static void on_watch(struct deferred *deferred)
{
    struct client_connection *conn = CONTAINER_OF(deferred, struct client_connection, watch);

    if (conn->current == NULL && conn->sock->_cb.read != NULL && conn->sock->input->size == 0)
        put_in_place(conn);
}

/* Likewise for the next request, once this turn is over. */
static void watch_later(struct client_connection *conn)
{
    conn->head_seen = false;
    loop_defer(conn->server->loop, &conn->watch, on_watch);
}

/* Puts a buffer in the place of libh2o's that has none of the body's bytes, nor the line that
 * frames it; a request that follows is there, unless the body is in chunks. */
static void take_over(struct client_connection *conn)
{
    const struct strict_head *head = &conn->head;
    h2o_buffer_t *input = conn->sock->input, *shown;
    size_t behind = input->size - head->head_len;
    size_t n =
        head->chunked || behind < head->content_length ? behind : (size_t)head->content_length;
    struct intake *intake = calloc(1, sizeof(*intake));
    char *to;

    if (intake == NULL)
        return;
    h2o_buffer_init(&shown, &h2o_socket_buffer_prototype);
    to = h2o_buffer_reserve(&shown, input->size - n).base;
    memcpy(to, input->bytes, head->head_len);
    memcpy(to + head->head_len, input->bytes + head->head_len + n, behind - n);
    to[head->framing_at] = 'x';
    shown->size = input->size - n;
    intake->conn = conn;
    intake->early = input;
    intake->early_len = n;
    conn->sock->input = shown;
    conn->intake = intake;
}

/* In chunks it may be whole already: then libh2o's way is good enough. */
static bool is_ours(const struct client_connection *conn)
{
    static const char last[] = "0\r\n\r\n";
    const struct strict_head *head = &conn->head;
    const h2o_buffer_t *input = conn->sock->input;

    if (head->expect == STRICT_EXPECT_OTHER)
        return false;
    if (head->chunked)
        return input->size - head->head_len < 5 ||
               memcmp(input->bytes + input->size - 5, last, 5) != 0;
    /* A body that is too large is libh2o's, which answers at once. */
    return head->content_length > SHORT_BYTES &&
           head->content_length <= conn->server->config->limits.max_body_bytes;
}

static void on_head(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    h2o_socket_cb read_head = conn->read_head;

    if (err == NULL && !conn->head_seen &&
        strict_head_check(&conn->head, sock->input->bytes, sock->input->size) == NULL) {
        conn->head_seen = true;
        if (is_ours(conn))
            take_over(conn);
    }
    read_head(sock, err); /* which may close the connection */
}

static void keep(h2o_req_t *req, h2o_iovec_t *text)
{
    if (text->base != NULL)
        *text = h2o_strdup(&req->pool, text->base, text->len);
}

void intake_keep_head(h2o_req_t *req)
{
    keep(req, &req->input.method);
    keep(req, &req->input.path);
    keep(req, &req->input.authority);
    keep(req, &req->upgrade);
    for (size_t i = 0; i < req->headers.size; i++) {
        h2o_header_t *header = &req->headers.entries[i];

        if (!h2o_iovec_is_token(header->name))
            keep(req, header->name);
        keep(req, &header->value);
    }
}

/* ---- the body ---------------------------------------------------------------------------- */

bool intake_is_open(const struct client_connection *conn)
{
    return conn->intake != NULL;
}

static void stop_reading(struct client_connection *conn)
{
    if (conn->sock->_cb.read == NULL)
        return;
    h2o_socket_read_stop(conn->sock);
    h2o_socket_dont_read(conn->sock, 0);
}

/* In clear the bytes are read from the socket to where they are to be.  TLS is libh2o's: what
 * it has decrypted is behind the head. */
static void start_reading(struct client_connection *conn, h2o_socket_cb cb)
{
    h2o_socket_dont_read(conn->sock, conn->sock->ssl == NULL);
    h2o_socket_read_start(conn->sock, cb);
}

/* Up to n bytes; 0: none are there now; -1: the client has left. */
static ssize_t pull(struct client_connection *conn, void *to, size_t n)
{
    h2o_socket_t *sock = conn->sock;
    size_t head_len = conn->head.head_len, behind;
    ssize_t got;

    if (sock->ssl == NULL) {
        got = recv(h2o_socket_get_fd(sock), to, n, MSG_DONTWAIT);
        if (got == -1 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return 0;
        return got == 0 ? -1 : got;
    }
    behind = sock->input->size - head_len;
    if (n > behind)
        n = behind;
    if (n != 0)
        memcpy(to, sock->input->bytes + head_len, n);
    memmove(sock->input->bytes + head_len, sock->input->bytes + head_len + n, behind - n);
    sock->input->size -= n;
    return (ssize_t)n;
}

static size_t share(const struct http_server *server)
{
    size_t n = TURN_BYTES / (server->intakes == 0 ? 1 : server->intakes);

    return n < LEAST_SHARE ? LEAST_SHARE : n;
}

static void drop_early(struct intake *intake)
{
    if (intake->early != NULL)
        h2o_buffer_dispose(&intake->early);
    intake->early = NULL;
}

static void drop_body(struct client_connection *conn)
{
    struct intake *intake = conn->intake;

    if (intake->phase == READING)
        conn->server->intakes--;
    conn->server->body_bytes -= intake->body == NULL ? 0 : intake->have;
    free(intake->body);
    intake->body = NULL;
}

static void free_intake(struct client_connection *conn)
{
    struct intake *intake = conn->intake;

    drop_body(conn);
    conn->intake = NULL;
    timer_stop(conn->server->loop, &intake->linger);
    stop_reading(conn);
    drop_early(intake);
    free(intake);
}

static void be_whole(struct client_connection *conn)
{
    struct intake *intake = conn->intake;
    struct client_request *request = intake->request;
    void (*on_whole)(struct client_request * request) = intake->on_whole;
    uint8_t *body = intake->body, *exact;
    size_t n = intake->have;

    conn->server->body_bytes -= n;
    intake->body = NULL;
    if (n < intake->cap && n != 0) {
        exact = realloc(body, n);
        if (exact != NULL)
            body = exact;
    }
    free_intake(conn);
    responder_hold_body(request->responder, body, n);
    request->received_mono_us = loop_now_us(conn->server->loop);
    if (conn->sock->input->size == conn->head.head_len)
        responder_shrink_input(request->responder);
    on_whole(request);
}

static void reject(struct client_request *request, enum refusal why, intake_reject_cb rejected)
{
    char message[96];

    switch (why) {
    case NO_ROOM:
        rejected(request, API_ERROR_OVERLOADED, "too many large requests at once", NULL, 2);
        return;
    case NO_MEMORY:
        rejected(request, API_ERROR_OVERLOADED, "the coordinator is short of memory", NULL, 2);
        return;
    case TOO_LARGE:
        (void)snprintf(message, sizeof(message),
                       "the request body is over the limit of %u bytes",
                       request->responder->server->config->limits.max_body_bytes);
        rejected(request, API_ERROR_TOO_LARGE, message, NULL, 0);
        return;
    case BAD:
        rejected(request, API_ERROR_BAD_REQUEST, "malformed or too small chunks", NULL, 0);
        return;
    case SLOW:
        rejected(request, API_ERROR_SLOW_BODY, "the body of the request does not come", NULL,
                 0);
        return;
    }
}

/* The request gets its answer before its body is whole. */
static void refuse(struct client_connection *conn, enum refusal why)
{
    struct intake *intake = conn->intake;

    drop_body(conn);
    intake->phase = REFUSED;
    stop_reading(conn);
    reject(intake->request, why, intake->rejected);
}

/* No answer helps a client that has left; the access log has a line. */
static void leave(struct client_connection *conn)
{
    struct responder *r = conn->current;

    free_intake(conn);
    r->outcome = "client_gone";
    responder_lose(r);
}

/* Bytes behind the body are the next request's: they go behind the head, which libh2o takes
 * away at the end of this one. */
static void give_back(struct client_connection *conn, const uint8_t *bytes, size_t n)
{
    size_t head_len = conn->head.head_len, behind = conn->sock->input->size - head_len;
    char *to;

    if (n == 0)
        return;
    (void)h2o_buffer_reserve(&conn->sock->input, n);
    to = conn->sock->input->bytes + head_len;
    memmove(to + n, to, behind);
    memcpy(to, bytes, n);
    conn->sock->input->size += n;
}

/* Room for n more bytes. */
static bool make_room(struct client_connection *conn, size_t n)
{
    struct intake *intake = conn->intake;
    size_t cap = intake->cap == 0 ? FIRST_CAP : 2 * intake->cap;
    uint8_t *body;

    if (intake->body != NULL && n <= intake->cap - intake->have)
        return true;
    if (cap > conn->server->config->limits.max_body_bytes)
        cap = conn->server->config->limits.max_body_bytes;
    if (cap < intake->have + n)
        cap = intake->have + n;
    body = realloc(intake->body, cap); /* the kernel gives pages as they are written */
    if (body == NULL)
        return false;
    intake->body = body;
    intake->cap = cap;
    return true;
}

static void count(struct client_connection *conn, size_t n)
{
    conn->intake->have += n;
    conn->intake->request->responder->body_in = conn->intake->have;
    conn->server->body_bytes += n;
}

/* Takes the n bytes that have come behind those that are there.  True: the body goes on. */
static bool take(struct client_connection *conn, size_t n)
{
    struct intake *intake = conn->intake;
    size_t max = conn->server->config->limits.max_body_bytes, body, rest;
    uint8_t *bytes = intake->body + intake->have;
    enum chunks_result result;

    if (!conn->head.chunked) {
        count(conn, n);
        if (intake->have < conn->head.content_length)
            return true;
        be_whole(conn);
        return false;
    }
    result = chunks_take(&intake->chunks, bytes, n, &body, &rest);
    count(conn, body);
    intake->framing += n - body - rest;
    if (result == CHUNKS_BAD || intake->framing > FRAMING_BYTES + intake->have) {
        refuse(conn, BAD);
        return false;
    }
    if (intake->have > max ||
        (intake->chunks.state == CHUNKS_DATA && intake->chunks.left > max - intake->have)) {
        refuse(conn, TOO_LARGE);
        return false;
    }
    if (result == CHUNKS_MORE)
        return true;
    if (intake->chunks.odd)
        intake->request->responder->req->http1_is_persistent = 0;
    else
        give_back(conn, bytes + n - rest, rest);
    be_whole(conn);
    return false;
}

/* So much may be read now: of TLS all that is decrypted, which is in memory anyway and is not
 * announced again. */
static size_t wanted(const struct client_connection *conn)
{
    size_t n = share(conn->server);

    if (conn->sock->ssl != NULL)
        n = conn->sock->input->size - conn->head.head_len;
    if (!conn->head.chunked && n > conn->head.content_length - conn->intake->have)
        n = (size_t)conn->head.content_length - conn->intake->have;
    return n;
}

static size_t body_room(const struct http_server *server)
{
    size_t total = server->config->limits.max_body_total_bytes;

    return server->body_bytes < total ? total - server->body_bytes : 0;
}

static void on_body(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    struct intake *intake = conn->intake;
    const struct http_server *server = conn->server;
    size_t n = wanted(conn), room = body_room(server);
    ssize_t got;

    if (room == 0 || (sock->ssl != NULL && n > room)) {
        refuse(conn, NO_ROOM);
        return;
    }
    if (n > room)
        n = room;
    if (server->memory_short || !make_room(conn, n)) {
        refuse(conn, NO_MEMORY);
        return;
    }
    got = pull(conn, intake->body + intake->have, n);
    if (got > 0 && !take(conn, (size_t)got))
        return;
    if (got == -1 || err != NULL)
        leave(conn);
}

static void on_continue_sent(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;

    if (conn->intake == NULL || conn->intake->phase != READING)
        return;
    if (err != NULL)
        leave(conn);
    else
        start_reading(conn, on_body);
}

/* The client waits for this before it sends the body. */
static void send_continue(struct client_connection *conn)
{
    static h2o_iovec_t text = {H2O_STRLIT("HTTP/1.1 100 Continue\r\n\r\n")};

    h2o_socket_write(conn->sock, &text, 1, on_continue_sent);
}

void intake_begin(struct client_connection *conn, struct client_request *request,
                  void (*on_whole)(struct client_request *request), intake_reject_cb rejected)
{
    struct intake *intake = conn->intake;
    size_t early_len = intake->early_len;

    assert(intake->phase == WAITING);
    intake->phase = READING;
    conn->server->intakes++;
    intake->request = request;
    intake->on_whole = on_whole;
    intake->rejected = rejected;
    intake->look_mono_us = loop_now_us(conn->server->loop);
    if (!make_room(conn, conn->head.chunked ? early_len : (size_t)conn->head.content_length)) {
        refuse(conn, NO_MEMORY);
        return;
    }
    if (early_len != 0)
        memcpy(intake->body, intake->early->bytes + conn->head.head_len, early_len);
    drop_early(intake);
    if (!take(conn, early_len))
        return;
    intake->look_have = intake->have;
    if (early_len == 0 && conn->head.expect == STRICT_EXPECT_CONTINUE)
        send_continue(conn);
    else
        start_reading(conn, on_body);
}

/* ---- what is in it ----------------------------------------------------------------------- */

struct intake_look {
    struct background_task task;
    struct client_request *request; /* borrowed */
    intake_seen_cb on_seen;
    struct inspection inspection;
    struct inspected found;
};

static void end_look(struct responder *r)
{
    if (r->look == NULL)
        return;
    background_stop(&r->server->looks, &r->look->task);
    free(r->look);
    r->look = NULL;
}

static void on_look(struct background_task *task)
{
    struct intake_look *look = CONTAINER_OF(task, struct intake_look, task);
    struct client_request *request = look->request;
    intake_seen_cb on_seen = look->on_seen;
    struct error err = {0};
    struct inspected found;
    const char *param;
    int rc;

    if (request->responder->lost || request->responder->reported) {
        end_look(request->responder); /* it is on its way out */
        return;
    }
    rc = inspection_go(&look->inspection, LOOK_BYTES, &look->found, &param, &err);
    if (rc == DRV_EAGAIN)
        return;
    found = look->found;
    end_look(request->responder);
    request->responder->outcome = NULL;
    on_seen(request, rc == 0 ? &found : NULL, param, err.text);
}

void intake_look(struct client_request *request, const char *content_type,
                 intake_seen_cb on_seen)
{
    struct responder *r = request->responder;
    struct intake_look *look = calloc(1, sizeof(*look));
    struct error err = {0};

    if (look == NULL) {
        on_seen(request, NULL, NULL, "the coordinator is out of memory");
        return;
    }
    look->request = request;
    look->on_seen = on_seen;
    r->look = look;
    if (inspection_begin(&look->inspection, request->operation, content_type, request->body,
                         request->body_len, request->body_len > SHORT_BYTES ? &r->skips : NULL,
                         &err) != 0) {
        end_look(r);
        on_seen(request, NULL, content_type == NULL ? NULL : "model", err.text);
        return;
    }
    if (request->body_len <= LOOK_BYTES) {
        on_look(&look->task);
        return;
    }
    /* The client may leave meanwhile. */
    r->outcome = "client_gone";
    responder_watch(r);
    background_begin(&r->server->looks, &look->task, on_look);
}

/* ---- the end ----------------------------------------------------------------------------- */

void intake_check(struct client_connection *conn, uint64_t limit_ms, uint64_t least)
{
    struct intake *intake = conn->intake;
    uint64_t now = loop_now_us(conn->server->loop);
    bool enough;

    if (intake->phase != READING || conn->sock->_cb.read == NULL ||
        now - intake->look_mono_us < limit_ms * US_PER_MS)
        return;
    enough = intake->have - intake->look_have >= limit_ms * least / 1000;
    intake->look_mono_us = now;
    intake->look_have = intake->have;
    if (!enough)
        refuse(conn, SLOW);
}

static void end_linger(struct intake *intake)
{
    struct client_connection *conn = intake->conn;

    free_intake(conn);
    responder_go_on(conn->current);
}

static void on_linger_timeout(struct timer *timer)
{
    end_linger(CONTAINER_OF(timer, struct intake, linger));
}

static void on_rest(h2o_socket_t *sock, const char *err)
{
    static char unread[TURN_BYTES / 4];
    struct client_connection *conn = sock->on_close.data;
    struct intake *intake = conn->intake;
    ssize_t got = pull(conn, unread, sizeof(unread));

    if (got > 0)
        intake->drained += (size_t)got;
    if (got == -1 || err != NULL || intake->drained > LINGER_BYTES)
        end_linger(intake);
}

static bool still_sends(struct client_connection *conn)
{
    struct intake *intake = conn->intake;

    if (intake == NULL)
        return false;
    if (intake->phase == LINGERING)
        return true;
    assert(intake->phase != READING);
    intake->phase = LINGERING;
    drop_early(intake);
    (void)shutdown(h2o_socket_get_fd(conn->sock), SHUT_WR);
    timer_start(conn->server->loop, &intake->linger, LINGER_US, on_linger_timeout);
    start_reading(conn, on_rest);
    return true;
}

static void request_over(struct client_connection *conn)
{
    end_look(conn->current);
    if (conn->intake != NULL)
        free_intake(conn);
    watch_later(conn);
}

void intake_init(struct http_server *server)
{
    server->request_over = request_over;
    server->still_sends = still_sends;
    background_init(&server->looks, server->loop);
}

void intake_finish(struct http_server *server)
{
    background_finish(&server->looks);
}
