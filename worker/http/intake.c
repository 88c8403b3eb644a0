/*
 * intake.c - reads the bodies of requests that have not come with the head.
 *
 * A body is charged to its client as it comes: one that does not come costs nothing.  Where
 * there is no room for more, a body of the client that holds most is refused and its room goes
 * to the others, so some of them always become whole.
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
#include "base/log.h"
#include "shm/facts/procs.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/shares.h"
#include "worker/http/framing/chunks.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* A walk through a longer one remembers what it may jump over. */
#define SHORT_BYTES (64 * 1024)
/* Of all bodies in one turn, and of one at least. */
#define TURN_BYTES  (1024 * 1024)
#define LEAST_SHARE (16 * 1024)
/* Of a body in chunks, at first. */
#define FIRST_CAP ((size_t)64 * 1024)
/* Chunks may have so much framing more than body. */
#define FRAMING_BYTES ((size_t)1024 * 1024)
/* A body of which no byte comes for so long gives way to any other. */
#define STALL_US (2 * US_PER_S)
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
    size_t most;   /* bytes that it may have */
    size_t have;   /* bytes of the body that are there; each is counted in body_bytes */
    struct chunks chunks;
    size_t framing;        /* bytes of it, of chunks */
    uint64_t byte_mono_us; /* when the last bytes came */
    uint64_t look_mono_us;
    size_t look_have; /* at that time */
    struct timer linger;
    size_t drained;
    struct client_connection *conn; /* borrowed */
};

/* ---- the body ---------------------------------------------------------------------------- */

bool intake_open(struct client_connection *conn, h2o_buffer_t *early, size_t n)
{
    struct intake *intake = calloc(1, sizeof(*intake));

    if (intake == NULL)
        return false;
    intake->conn = conn;
    intake->early = early;
    intake->early_len = n;
    conn->intake = intake;
    return true;
}

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
    if (intake->body != NULL)
        shares_release(conn, intake->have);
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

    shares_release(conn, n);
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

void intake_too_large(struct client_request *request, size_t most, intake_reject_cb rejected)
{
    char message[96];

    (void)snprintf(message, sizeof(message), "the request body is over the limit of %zu bytes",
                   most);
    rejected(request, API_ERROR_TOO_LARGE, message, NULL, 0);
}

void intake_no_room(struct client_request *request, intake_reject_cb rejected)
{
    static struct log_limit limit;
    const struct client_connection *conn = request->responder->conn;
    const struct http_server *server = conn->server;
    uint32_t missed;

    procs_count(server->board, server->worker, PROC_UPLOADS_REFUSED, 1);
    if (log_limit_ok(&limit, 5, &missed))
        log_warn(
            "event=upload_refused client=%s key=%s id=%s clients_bytes=%zu bodies_bytes=%zu "
            "limit=%u missed=%u",
            request->client, request->key_name == NULL ? "-" : request->key_name, request->id,
            conn->share->bytes, server->body_bytes, server->config->limits.max_body_total_bytes,
            missed);
    rejected(request, API_ERROR_OVERLOADED, "too many large requests at once", NULL, 2);
}

static void reject(const struct intake *intake, enum refusal why)
{
    struct client_request *request = intake->request;
    intake_reject_cb rejected = intake->rejected;

    switch (why) {
    case NO_ROOM:
        intake_no_room(request, rejected);
        return;
    case NO_MEMORY:
        rejected(request, API_ERROR_OVERLOADED, "the coordinator is short of memory", NULL, 2);
        return;
    case TOO_LARGE:
        intake_too_large(request, intake->most, rejected);
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

    /* 100 Continue is still on its way, and libh2o has one write at a time: the client, which
     * does not read, gets no answer, and on_continue_sent() ends it. */
    if (conn->sock->_cb.write != NULL) {
        (void)shutdown(h2o_socket_get_fd(conn->sock), SHUT_RDWR);
        return;
    }
    stop_reading(conn);
    reject(intake, why);
    drop_body(conn);
    intake->phase = REFUSED;
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
    if (cap > intake->most)
        cap = intake->most;
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
    conn->intake->byte_mono_us = loop_now_us(conn->server->loop);
    conn->intake->have += n;
    conn->intake->request->responder->body_in = conn->intake->have;
    shares_hold(conn, n);
}

/* Takes the n bytes that have come behind those that are there.  True: the body goes on. */
static bool take(struct client_connection *conn, size_t n)
{
    struct intake *intake = conn->intake;
    size_t max = intake->most, body, rest;
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

/* ---- room -------------------------------------------------------------------------------- */

/* No byte of it has come for a while: whoever sends it has hardly a claim to the room. */
static bool is_stalled(const struct client_connection *conn)
{
    return loop_now_us(conn->server->loop) - conn->intake->byte_mono_us >= STALL_US;
}

static bool goes_before(const struct client_connection *a, const struct client_connection *b)
{
    if (a->share->bytes != b->share->bytes)
        return a->share->bytes > b->share->bytes;
    return a->intake->byte_mono_us < b->intake->byte_mono_us;
}

/* Of the bodies that come, the one that gives way to `to`, whose client holds `bytes`: of a
 * client that holds more, or stalled, and where `own` is set, one of its own that is.  NULL:
 * there is none. */
static struct client_connection *find_upload(const struct client_connection *to, size_t bytes,
                                             bool own)
{
    struct client_connection *conn, *best = NULL;

    TAILQ_FOREACH(conn, &to->server->connections, link) {
        if (conn == to || conn->intake == NULL || conn->intake->phase != READING ||
            conn->intake->have == 0 || (own && conn->share != to->share))
            continue;
        if ((own || conn->share->bytes <= bytes) && !is_stalled(conn))
            continue;
        if (best == NULL || goes_before(conn, best))
            best = conn;
    }
    return best;
}

bool intake_may_hold(struct client_connection *conn, size_t one, size_t n)
{
    enum share_verdict verdict;

    while ((verdict = shares_judge(conn, one, n)) != SHARE_FITS) {
        struct client_connection *upload =
            find_upload(conn, conn->share->bytes + n, verdict == SHARE_OVER);

        if (upload == NULL)
            return false;
        refuse(upload, NO_ROOM);
    }
    return true;
}

bool intake_may_come(struct client_connection *conn, size_t n)
{
    enum share_verdict verdict = shares_judge(conn, 0, n);

    return verdict == SHARE_FITS ||
           find_upload(conn, conn->share->bytes, verdict == SHARE_OVER) != NULL;
}

static void on_body(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    struct intake *intake = conn->intake;
    const struct http_server *server = conn->server;
    size_t n = wanted(conn), total = server->config->limits.max_body_total_bytes;
    ssize_t got;

    /* Rather the last bytes that fit than none. */
    if (sock->ssl == NULL && server->body_bytes < total && n > total - server->body_bytes)
        n = total - server->body_bytes;
    if (!intake_may_hold(conn, intake->have, n)) {
        refuse(conn, NO_ROOM);
        return;
    }
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

/* The client waits for this before it sends the body.  In clear nothing of it is ever under
 * way, as libh2o cannot end a connection that has a write which is not its own. */
static void send_continue(struct client_connection *conn)
{
    static h2o_iovec_t text = {H2O_STRLIT("HTTP/1.1 100 Continue\r\n\r\n")};

    if (conn->sock->ssl != NULL)
        h2o_socket_write(conn->sock, &text, 1, on_continue_sent);
    else if (send(h2o_socket_get_fd(conn->sock), text.base, text.len,
                  MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)text.len)
        start_reading(conn, on_body);
    else
        leave(conn); /* it does not read what it was sent before */
}

void intake_begin(struct client_connection *conn, struct client_request *request, size_t most,
                  void (*on_whole)(struct client_request *request), intake_reject_cb rejected)
{
    struct intake *intake = conn->intake;
    size_t early_len = intake->early_len;

    assert(intake->phase == WAITING);
    intake->phase = READING;
    conn->server->intakes++;
    intake->request = request;
    intake->most = most;
    intake->on_whole = on_whole;
    intake->rejected = rejected;
    intake->look_mono_us = intake->byte_mono_us = loop_now_us(conn->server->loop);
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

/* ---- too many connections ---------------------------------------------------------------- */

bool intake_waits(const struct client_connection *conn, uint64_t *since_mono_us)
{
    if (conn->intake == NULL || conn->intake->phase != READING)
        return false;
    *since_mono_us = conn->intake->byte_mono_us;
    return true;
}

bool intake_lingers(const struct client_connection *conn)
{
    return conn->intake != NULL && conn->intake->phase == LINGERING;
}

void intake_give_way(struct client_connection *conn)
{
    refuse(conn, NO_ROOM);
}

/* ---- the end ----------------------------------------------------------------------------- */

void intake_check(struct client_connection *conn, uint64_t limit_ms, uint64_t least)
{
    struct intake *intake = conn->intake;
    uint64_t now = loop_now_us(conn->server->loop);
    bool enough;

    if (intake->phase != READING ||
        (conn->sock->_cb.read == NULL && conn->sock->_cb.write == NULL) ||
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

/* As pull(), of bytes without a use: with TLS all that came, as libh2o does not announce
 * the same bytes again. */
static ssize_t drain(struct client_connection *conn)
{
    static char unread[TURN_BYTES / 4];
    h2o_buffer_t *input = conn->sock->input;
    size_t behind;

    if (conn->sock->ssl == NULL)
        return pull(conn, unread, sizeof(unread));
    behind = input->size - conn->head.head_len;
    input->size = conn->head.head_len;
    return (ssize_t)behind;
}

static void on_rest(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    struct intake *intake = conn->intake;
    ssize_t got = drain(conn);

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

void intake_over(struct client_connection *conn)
{
    end_look(conn->current);
    if (conn->intake != NULL)
        free_intake(conn);
}

void intake_init(struct http_server *server)
{
    server->still_sends = still_sends;
    background_init(&server->looks, server->loop);
}

void intake_finish(struct http_server *server)
{
    background_finish(&server->looks);
}
