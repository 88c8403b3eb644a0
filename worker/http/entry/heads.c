/*
 * heads.c - shows libh2o one head at a time.
 *
 * Each state of a connection's bytes is here: a head that grows (libh2o is not called), a head
 * in order (shown, with a body that is there and short, or without), a head that is refused
 * (another one is shown), and bytes behind a request (hidden until its answer is out).
 */
#include "worker/http/entry/heads.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/config/config.h"
#include "base/io/loop.h"
#include "base/text/text.h"
#include "worker/http/intake.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* A body up to here goes libh2o's way, if all of it is there. */
#define SHORT_BYTES (64 * 1024)
/* Of the target of a refused head. */
#define TARGET_BYTES 1024
/* Of the method, and of a header that the answer to it needs. */
#define WORD_BYTES   32
#define HEADER_BYTES 256

static void on_head(h2o_socket_t *sock, const char *err);

static void put_in_place(struct client_connection *conn)
{
    conn->read_head = conn->sock->_cb.read;
    conn->sock->_cb.read = on_head;
}

void heads_watch(struct client_connection *conn)
{
    put_in_place(conn);
    if (conn->sock->input->size != 0)
        on_head(conn->sock, NULL);
}

/* ---- between two requests ---------------------------------------------------------------- */

static void on_watch(struct deferred *deferred)
{
    struct client_connection *conn = CONTAINER_OF(deferred, struct client_connection, watch);

    if (conn->current != NULL || conn->sock->_cb.read == NULL)
        return; /* it is being closed */
    put_in_place(conn);
    if (conn->hidden == NULL)
        return;
    assert(conn->sock->input->size == 0);
    h2o_buffer_dispose(&conn->sock->input);
    conn->sock->input = conn->hidden;
    conn->hidden = NULL;
    on_head(conn->sock, NULL);
}

/* libh2o is about to take the request's bytes out of its buffer, and would go on with those
 * behind them. */
static void hide_rest(struct client_connection *conn)
{
    h2o_buffer_t *input = conn->sock->input;
    size_t n = input->size - conn->shown_len;

    if (!conn->current->req->http1_is_persistent || n == 0)
        return;
    h2o_buffer_init(&conn->hidden, &h2o_socket_buffer_prototype);
    memcpy(h2o_buffer_reserve(&conn->hidden, n).base, input->bytes + conn->shown_len, n);
    conn->hidden->size = n;
    input->size = conn->shown_len;
}

void heads_next(struct client_connection *conn)
{
    if (conn->head_seen)
        hide_rest(conn);
    conn->head_seen = false;
    conn->looked = 0;
    loop_defer(conn->server->loop, &conn->watch, on_watch);
}

void heads_finish(struct client_connection *conn)
{
    loop_undefer(conn->server->loop, &conn->watch);
    if (conn->hidden != NULL)
        h2o_buffer_dispose(&conn->hidden);
    conn->hidden = NULL;
}

/* ---- a head in order --------------------------------------------------------------------- */

/* Puts a buffer in the place of libh2o's that has none of the body's bytes, nor the line that
 * frames it; a request that follows is there, unless the body is in chunks. */
static void take_over(struct client_connection *conn)
{
    const struct strict_head *head = &conn->head;
    h2o_buffer_t *input = conn->sock->input, *shown;
    size_t behind = input->size - head->head_len;
    size_t n =
        head->chunked || behind < head->content_length ? behind : (size_t)head->content_length;
    char *to;

    if (!intake_open(conn, input, n)) {
        conn->refused = API_ERROR_OVERLOADED;
        conn->refused_why = "the coordinator is short of memory";
        return;
    }
    h2o_buffer_init(&shown, &h2o_socket_buffer_prototype);
    to = h2o_buffer_reserve(&shown, input->size - n).base;
    memcpy(to, input->bytes, head->head_len);
    memcpy(to + head->head_len, input->bytes + head->head_len + n, behind - n);
    to[head->framing_at] = 'x';
    shown->size = input->size - n;
    conn->sock->input = shown;
    conn->shown_len = head->head_len;
}

static void take_head(struct client_connection *conn)
{
    const struct strict_head *head = &conn->head;
    size_t behind = conn->sock->input->size - head->head_len;
    bool body = head->chunked || head->content_length != 0;

    conn->shown_len = head->head_len + (size_t)head->content_length;
    if (head->expect == STRICT_EXPECT_OTHER && body) {
        conn->refused = API_ERROR_EXPECTATION;
        conn->refused_why = "the only expectation that is met is 100-continue";
    }
    /* libh2o does not read such a length, and answers each expectation, also one without a
     * body. */
    if (!body && head->framing_at != 0)
        conn->sock->input->bytes[head->framing_at] = 'x';
    if (conn->refused != API_ERROR_NONE || head->chunked ||
        (body && (head->expects || head->padded)) || head->content_length > SHORT_BYTES ||
        behind < head->content_length ||
        head->content_length > conn->server->config->limits.max_body_bytes)
        take_over(conn);
}

/* ---- a head that is refused -------------------------------------------------------------- */

struct salvage {
    char method[WORD_BYTES], target[TARGET_BYTES];
    char id[HEADER_BYTES], origin[HEADER_BYTES];
};

/* Copies what can be shown of [p, end), up to the first byte that cannot. */
static void copy_word(char *out, size_t cap, const char *p, const char *end)
{
    size_t n = 0;

    while (p < end && n + 1 < cap && (unsigned char)*p > 0x20 && (unsigned char)*p < 0x7F)
        out[n++] = *p++;
    out[n] = '\0';
}

static const char *end_of_line(const char *p, const char *end)
{
    const char *lf = memchr(p, '\n', (size_t)(end - p));

    return lf == NULL ? end : lf;
}

static void take_line(char *out, const char *name, const char *p, const char *end)
{
    size_t n = strlen(name);

    if ((size_t)(end - p) <= n || strncasecmp(p, name, n) != 0 || p[n] != ':')
        return;
    for (p += n + 1; p < end && *p == ' ';)
        p++;
    copy_word(out, HEADER_BYTES, p, end);
}

static bool is_method(const char *text)
{
    size_t n = strlen(text);

    return n != 0 && strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == n;
}

/* Of a target that is a URL, its path; where there is none, one that is not served. */
static void take_path(char target[TARGET_BYTES])
{
    const char *host = strstr(target, "://");
    const char *path = host == NULL ? NULL : strchr(host + 3, '/');

    if (target[0] == '/')
        return;
    if (path != NULL)
        memmove(target, path, strlen(path) + 1);
    else
        (void)strlcpy(target, "/-", TARGET_BYTES);
}

/* Finds in a head that cannot be read the parts that its answer needs. */
static void salvage(struct salvage *out, const char *p, size_t n)
{
    const char *end = p + (n < STRICT_HEAD_MAX_BYTES ? n : STRICT_HEAD_MAX_BYTES);
    const char *stop;
    size_t method_len;

    *out = (struct salvage){0};
    if (end - p >= 2 && memcmp(p, "\r\n", 2) == 0)
        p += 2;
    stop = end_of_line(p, end);
    copy_word(out->method, sizeof(out->method), p, stop);
    method_len = strlen(out->method);
    if (!is_method(out->method) || p + method_len >= stop || p[method_len] != ' ')
        (void)strlcpy(out->method, "-", sizeof(out->method));
    else
        copy_word(out->target, sizeof(out->target), p + method_len + 1, stop);
    take_path(out->target);
    while (stop < end) {
        p = stop + 1;
        stop = end_of_line(p, end);
        take_line(out->id, "x-request-id", p, stop);
        take_line(out->origin, "origin", p, stop);
    }
}

/* Another head takes its place; what may still come is read and dropped. */
static void show_substitute(struct client_connection *conn)
{
    h2o_buffer_t *input = conn->sock->input, *shown;
    struct salvage found;
    size_t room = sizeof(found) + 128;
    int n;

    salvage(&found, input->bytes, input->size);
    h2o_buffer_init(&shown, &h2o_socket_buffer_prototype);
    n = snprintf(h2o_buffer_reserve(&shown, room).base, room,
                 "%s %s HTTP/1.1\r\n%s%s%s%s%s%s\r\n", found.method, found.target,
                 found.id[0] == '\0' ? "" : "x-request-id: ", found.id,
                 found.id[0] == '\0' ? "" : "\r\n",
                 found.origin[0] == '\0' ? "" : "origin: ", found.origin,
                 found.origin[0] == '\0' ? "" : "\r\n");
    assert(n > 0 && (size_t)n < room);
    shown->size = (size_t)n;
    conn->sock->input = shown;
    h2o_buffer_dispose(&input);
    conn->shown_len = (size_t)n;
    conn->head = (struct strict_head){.head_len = (size_t)n};
    (void)!intake_open(conn, NULL, 0); /* without it the connection is closed at once */
}

/* A TLS handshake record, of any version. */
static bool is_tls(const h2o_buffer_t *input)
{
    return input->size >= 2 && input->bytes[0] == 0x16 && input->bytes[1] == 0x03;
}

/* ---- bytes that came --------------------------------------------------------------------- */

/* True: libh2o may look at what is there. */
static bool examine(struct client_connection *conn)
{
    const h2o_buffer_t *input = conn->sock->input;
    const char *why;

    /* Of a head that comes in drops, only the ends of its lines are worth a look. */
    if (conn->looked != 0 && input->size < STRICT_HEAD_MAX_BYTES &&
        memchr(input->bytes + conn->looked, '\n', input->size - conn->looked) == NULL) {
        conn->looked = (uint32_t)input->size;
        return false;
    }
    conn->refused = API_ERROR_NONE;
    why = strict_head_check(&conn->head, input->bytes, input->size);
    if (why != NULL && conn->head.incomplete) {
        conn->looked = (uint32_t)input->size;
        return false;
    }
    conn->head_seen = true;
    if (why == NULL) {
        take_head(conn);
        return true;
    }
    conn->refused = conn->head.too_large ? API_ERROR_HEAD_TOO_LARGE : API_ERROR_BAD_REQUEST;
    conn->refused_why = conn->sock->ssl == NULL && is_tls(input)
                            ? "this is TLS, and the port speaks plain HTTP: use http://, not "
                              "https://, or set api.tls"
                            : why;
    show_substitute(conn);
    return true;
}

static void on_head(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    h2o_socket_cb read_head = conn->read_head;

    if (err != NULL || conn->head_seen || examine(conn))
        read_head(sock, err); /* which may close the connection */
}

void heads_close(struct client_connection *conn)
{
    h2o_socket_t *sock = conn->sock;
    h2o_socket_cb cb = sock->_cb.write;

    /* A libh2o connection has no other handle than the callback it waits for. */
    if (cb != NULL) /* which stays: by it libh2o knows that TLS cannot say goodbye */
        cb(sock, h2o_socket_error_closed);
    else if (sock->_cb.read != NULL)
        sock->_cb.read(sock, h2o_socket_error_closed);
}

static void keep(h2o_req_t *req, h2o_iovec_t *text)
{
    if (text->base != NULL)
        *text = h2o_strdup(&req->pool, text->base, text->len);
}

void heads_keep(h2o_req_t *req)
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
