/* intake.c - reads the long bodies of requests, which libh2o does not see. */
#include "worker/http/intake.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "worker/http/client_request.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* A body up to here goes libh2o's way. */
#define SHORT_BYTES (64 * 1024)
/* Of all bodies in one turn, and of one at least. */
#define TURN_BYTES  (1024 * 1024)
#define LEAST_SHARE (16 * 1024)
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

struct intake {
    enum phase phase;
    h2o_buffer_t *early;            /* owned: what came with the head, and the head; or NULL */
    size_t early_len;               /* bytes of the body in it */
    struct client_request *request; /* borrowed; READING only */
    void (*on_end)(struct client_request *request, enum intake_end end);
    size_t have; /* bytes of the body that are there */
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

/* Puts a buffer in the place of libh2o's that has none of the body's bytes, nor the line with
 * its size; a request that follows is there. */
static void take_over(struct client_connection *conn)
{
    const struct strict_head *head = &conn->head;
    h2o_buffer_t *input = conn->sock->input, *shown;
    size_t behind = input->size - head->head_len;
    size_t n = behind < head->content_length ? behind : (size_t)head->content_length;
    struct intake *intake = calloc(1, sizeof(*intake));
    char *to;

    if (intake == NULL)
        return;
    h2o_buffer_init(&shown, &h2o_socket_buffer_prototype);
    to = h2o_buffer_reserve(&shown, input->size - n).base;
    memcpy(to, input->bytes, head->head_len);
    memcpy(to + head->head_len, input->bytes + head->head_len + n, behind - n);
    to[head->length_at] = 'x';
    shown->size = input->size - n;
    intake->conn = conn;
    intake->early = input;
    intake->early_len = n;
    conn->sock->input = shown;
    conn->intake = intake;
}

static void on_head(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    h2o_socket_cb read_head = conn->read_head;

    if (err == NULL && !conn->head_seen &&
        strict_head_check(&conn->head, sock->input->bytes, sock->input->size) == NULL) {
        conn->head_seen = true;
        /* A body that is too large is libh2o's, which answers at once. */
        if (conn->head.content_length > SHORT_BYTES &&
            conn->head.content_length <= conn->server->config->limits.max_body_bytes &&
            conn->head.expect != STRICT_EXPECT_OTHER)
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

static void free_intake(struct client_connection *conn)
{
    struct intake *intake = conn->intake;

    conn->intake = NULL;
    if (intake->phase == READING)
        conn->server->intakes--;
    timer_stop(conn->server->loop, &intake->linger);
    stop_reading(conn);
    drop_early(intake);
    free(intake);
}

static void be_whole(struct client_connection *conn)
{
    struct client_request *request = conn->intake->request;
    void (*on_end)(struct client_request * request, enum intake_end end) = conn->intake->on_end;

    free_intake(conn);
    request->received_mono_us = loop_now_us(conn->server->loop);
    if (conn->sock->input->size == conn->head.head_len)
        responder_shrink_input(request->responder);
    on_end(request, INTAKE_WHOLE);
}

/* No answer helps a client that has left; the access log has a line. */
static void leave(struct client_connection *conn)
{
    struct responder *r = conn->current;

    free_intake(conn);
    r->outcome = "client_gone";
    responder_lose(r);
}

static void on_body(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    struct intake *intake = conn->intake;
    const struct client_request *request = intake->request;
    size_t left = request->body_len - intake->have, n = share(conn->server);
    uint8_t *to = (uint8_t *)(uintptr_t)request->body + intake->have;
    ssize_t got = pull(conn, to, sock->ssl != NULL || left < n ? left : n);

    if (got > 0)
        intake->have += (size_t)got;
    if (intake->have == request->body_len)
        be_whole(conn);
    else if (got == -1 || err != NULL)
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
                  void (*on_end)(struct client_request *request, enum intake_end end))
{
    struct intake *intake = conn->intake;
    struct responder *r = request->responder;
    size_t n = (size_t)conn->head.content_length;
    uint8_t *body = malloc(n); /* the kernel gives pages as they are written */

    assert(intake->phase == WAITING);
    if (body == NULL) {
        on_end(request, INTAKE_NO_MEMORY);
        return;
    }
    responder_hold_body(r, body, n);
    r->body_in = n;
    intake->phase = READING;
    conn->server->intakes++;
    intake->request = request;
    intake->on_end = on_end;
    intake->have = intake->early_len;
    memcpy(body, intake->early->bytes + conn->head.head_len, intake->have);
    drop_early(intake);
    intake->look_mono_us = loop_now_us(conn->server->loop);
    intake->look_have = intake->have;
    if (intake->have == n)
        be_whole(conn);
    else if (intake->have == 0 && conn->head.expect == STRICT_EXPECT_CONTINUE)
        send_continue(conn);
    else
        start_reading(conn, on_body);
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
    if (enough)
        return;
    conn->server->intakes--;
    intake->phase = REFUSED;
    stop_reading(conn);
    intake->on_end(intake->request, INTAKE_SLOW);
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
    if (conn->intake != NULL)
        free_intake(conn);
    watch_later(conn);
}

void intake_init(struct http_server *server)
{
    server->request_over = request_over;
    server->still_sends = still_sends;
}
