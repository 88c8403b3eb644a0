/*
 * reject.c - sends replies, and puts libh2o's own errors in the shape of the client's API.
 *
 * libh2o answers by itself when a request is not fit to reach a handler: a body that is too
 * large or framed wrongly, an unknown expectation.  A filter on the path sees these answers,
 * swaps the body and the headers, and keeps the connection until the client has had a chance to
 * read: closing with unread bytes makes the kernel reset the connection, and the client, still
 * sending, would never see why.
 *
 * The same filter keeps libh2o's own chunked encoder out: being first and passing on nothing,
 * it is the only one.
 */
#include "worker/http/reject.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/secure/origins.h"
#include "shm/facts/procs.h"
#include "worker/api/cors.h"
#include "worker/api/reply.h"
#include "worker/http/accept.h"
#include "worker/http/access_log.h"
#include "worker/http/client_request.h"
#include "worker/http/reject_private.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

#define REQUEST_ID_MAX 64

/* How long, and for how many bytes, a refused client may go on sending. */
#define LINGER_US    (2 * US_PER_S)
#define LINGER_BYTES (64u * 1024 * 1024)

/* ---- ids --------------------------------------------------------------------------------- */

static bool is_id(const h2o_iovec_t *id)
{
    if (id->len == 0 || id->len > REQUEST_ID_MAX)
        return false;
    for (size_t i = 0; i < id->len; i++) {
        char c = id->base[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

const char *execution_id(h2o_req_t *req)
{
    char *id = h2o_mem_alloc_pool(&req->pool, 40);
    uint64_t random[2];

    arc4random_buf(random, sizeof(random));
    (void)snprintf(id, 40, "req-%016llx%016llx", (unsigned long long)random[0],
                   (unsigned long long)random[1]);
    return id;
}

const char *client_id(h2o_req_t *req)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, H2O_STRLIT("x-request-id"), -1);

    if (at == -1 || !is_id(&req->headers.entries[at].value))
        return NULL;
    return h2o_strdup(&req->pool, req->headers.entries[at].value.base,
                      req->headers.entries[at].value.len)
        .base;
}

/* ---- web pages --------------------------------------------------------------------------- */

const char *page_origin(h2o_req_t *req, const struct http_server *server, bool *stranger)
{
    const struct config_api *api = &server->config->api;
    ssize_t at = h2o_find_header_by_str(&req->headers, H2O_STRLIT("origin"), -1);
    h2o_iovec_t origin;

    *stranger = false;
    if (at == -1)
        return NULL;
    origin = req->headers.entries[at].value;
    *stranger = !origin_is_listed((const char *const *)api->cors_origins,
                                  api->cors_origins_count, origin.base, origin.len);
    return *stranger ? NULL : h2o_strdup(&req->pool, origin.base, origin.len).base;
}

static void add_cors(h2o_req_t *req, const struct http_server *server)
{
    struct cors_header headers[CORS_MAX_HEADERS];
    bool stranger;
    const char *origin = page_origin(req, server, &stranger);
    size_t n = origin == NULL ? 0 : cors_answer(headers, origin);

    for (size_t i = 0; i < n; i++)
        h2o_add_header_by_str(&req->pool, &req->res.headers, headers[i].name,
                              strlen(headers[i].name), 0, NULL, headers[i].value,
                              strlen(headers[i].value));
}

/* ---- sending ----------------------------------------------------------------------------- */

static void send_reply(struct responder *r, const struct reply *reply)
{
    for (size_t i = 0; i < reply->headers_count; i++)
        responder_header(r, reply->headers[i].name, reply->headers[i].value);
    responder_start(r, reply->status, reply->content_type, (int64_t)buf_size(&reply->body));
    responder_write(r, buf_head(&reply->body), buf_size(&reply->body));
    responder_end(r);
}

static void send_error(struct client_request *request, enum api_error error,
                       const char *message, const char *param, unsigned retry_after_s)
{
    struct reply reply = REPLY_INIT;

    reply_error(&reply, request->surface, error, message, param, retry_after_s, request->id);
    if (reply.body.failed)
        buf_finish(&reply.body); /* no body is better than a part of one */
    send_reply(request->responder, &reply);
    reply_finish(&reply);
}

void http_reply_error(struct client_request *request, enum api_error error, const char *message,
                      unsigned retry_after_s)
{
    send_error(request, error, message, error == API_ERROR_MODEL_NOT_FOUND ? "model" : NULL,
               retry_after_s);
}

static void note_rejection(struct responder *r, enum api_error error)
{
    r->outcome = "rejected";
    r->reason = api_error_reason(error);
    if (error != API_ERROR_INTERNAL)
        procs_count(r->server->board, r->server->worker, PROC_REQUESTS_REJECTED, 1);
}

void http_reject(struct client_request *request, enum api_error error, const char *message,
                 const char *param, unsigned retry_after_s)
{
    note_rejection(request->responder, error);
    send_error(request, error, message, param, retry_after_s);
}

void http_send_reply(struct client_request *request, const struct reply *reply)
{
    struct responder *r = request->responder;

    if (reply->body.failed) {
        http_reject(request, API_ERROR_INTERNAL, "out of memory", NULL, 0);
        return;
    }
    if (reply->error == API_ERROR_NONE)
        r->outcome = "local";
    else
        note_rejection(r, reply->error);
    send_reply(r, reply);
}

/* ---- libh2o's errors --------------------------------------------------------------------- */

struct shape_filter {
    h2o_filter_t super;
    struct http_server *server;
};

/* The answer in the place of libh2o's, and then the wait for the client.  In the pool. */
struct shaped {
    h2o_ostream_t super;
    struct http_server *server;
    struct client_connection *conn;
    h2o_req_t *req;
    h2o_iovec_t body;
    struct timer linger;
    size_t drained;
    bool sent;
};

static void on_shaped_dispose(void *p)
{
    struct shaped *s = *(struct shaped **)p;

    timer_stop(s->server->loop, &s->linger);
}

static void end_linger(struct shaped *s)
{
    timer_stop(s->server->loop, &s->linger);
    h2o_socket_read_stop(s->conn->sock);
    h2o_ostream_send_next(&s->super, s->req, NULL, 0, H2O_SEND_STATE_FINAL);
}

static void on_linger_timeout(struct timer *timer)
{
    end_linger(CONTAINER_OF(timer, struct shaped, linger));
}

static void on_linger_read(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    struct shaped *s = conn->lingering;

    s->drained += sock->input->size;
    h2o_buffer_consume(&sock->input, sock->input->size);
    if (err != NULL || s->drained > LINGER_BYTES)
        end_linger(s);
}

/* Called twice: by libh2o's error with its own text, and when ours is in the socket. */
static void send_shaped(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *bufs, size_t count,
                        h2o_send_state_t state)
{
    struct shaped *s = (struct shaped *)(void *)self;
    bool head = h2o_memis(req->input.method.base, req->input.method.len, H2O_STRLIT("HEAD"));

    (void)bufs;
    (void)count;
    (void)state;
    if (!s->sent) {
        s->sent = true;
        self->next->do_send(self->next, req, &s->body, head ? 0 : 1,
                            H2O_SEND_STATE_IN_PROGRESS);
        return;
    }
    (void)shutdown(h2o_socket_get_fd(s->conn->sock), SHUT_WR);
    s->conn->lingering = s;
    timer_start(s->server->loop, &s->linger, LINGER_US, on_linger_timeout);
    h2o_socket_read_start(s->conn->sock, on_linger_read);
}

static enum api_error error_of(int status)
{
    return status == 413   ? API_ERROR_TOO_LARGE
           : status == 404 ? API_ERROR_NOT_FOUND
           : status >= 500 ? API_ERROR_INTERNAL
                           : API_ERROR_BAD_REQUEST;
}

h2o_iovec_t request_path(h2o_req_t *req, bool *for_codex)
{
    h2o_iovec_t target = req->input.path;
    const char *query = memchr(target.base, '?', target.len), *path;
    size_t n = query == NULL ? target.len : (size_t)(query - target.base);

    if (for_codex != NULL)
        *for_codex = query != NULL &&
                     memmem(query, target.len - n, H2O_STRLIT("client_version=")) != NULL;
    /* http://HOST/PATH, as to a proxy. */
    path = n != 0 && target.base[0] != '/' ? memmem(target.base, n, "://", 3) : NULL;
    if (path != NULL) {
        path = memchr(path + 3, '/', (size_t)(target.base + n - path - 3));
        if (path == NULL)
            return h2o_iovec_init(H2O_STRLIT("/"));
        return h2o_strdup(&req->pool, path, (size_t)(target.base + n - path));
    }
    return h2o_strdup(&req->pool, target.base, n);
}

h2o_iovec_t request_query_part(const h2o_req_t *req)
{
    h2o_iovec_t target = req->input.path;
    const char *query = memchr(target.base, '?', target.len);

    if (query == NULL)
        return h2o_iovec_init("", 0);
    return h2o_iovec_init(query + 1, (size_t)(target.base + target.len - query - 1));
}

enum request_priority find_priority(h2o_req_t *req, const struct config *config,
                                    const char *model)
{
    static const char *const names[] = {"x-drover-priority", "x-request-priority",
                                        "x-priority"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        ssize_t at = h2o_find_header_by_str(&req->headers, names[i], strlen(names[i]), -1);

        if (at != -1)
            return request_priority_parse(req->headers.entries[at].value.base,
                                          req->headers.entries[at].value.len);
    }
    return config_priority_for(config, model);
}

static void log_shaped(struct shaped *s, const char *id, const char *path, enum api_error error)
{
    h2o_req_t *req = s->req;
    struct access_record record = {
        .id = id,
        .client = s->conn->client,
        .method = h2o_strdup(&req->pool, req->input.method.base, req->input.method.len).base,
        .path = path,
        .outcome = "rejected",
        .reason = api_error_reason(error),
        .status = (unsigned)req->res.status,
        .bytes_out = s->body.len,
    };

    access_log_write(s->server->access_log, &record);
}

static void shape(struct shaped *s, h2o_req_t *req)
{
    enum api_error error = error_of(req->res.status);
    h2o_iovec_t path = request_path(req, NULL);
    h2o_iovec_t plain = h2o_strdup(&req->pool, path.base, path.len);
    struct route route = surface_route(req->input.method.base, req->input.method.len,
                                       plain.base, surface_plain_path(plain.base, plain.len));
    const char *id = client_id(req);
    h2o_headers_t *headers = &req->res.headers;
    char message[96];
    struct buf body = BUF_INIT;

    if (id == NULL)
        id = execution_id(req);
    if (error == API_ERROR_TOO_LARGE)
        (void)snprintf(message, sizeof(message),
                       "the request body is over the limit of %u bytes",
                       s->server->config->limits.max_body_bytes);
    else
        (void)snprintf(message, sizeof(message), "%s",
                       req->res.status == 417
                           ? "the only expectation that is met is 100-continue"
                           : "malformed request");
    surface_error_body(&body, route.surface, error, message, NULL, id);
    if (body.failed)
        buf_finish(&body);
    s->body = h2o_strdup(&req->pool, (const char *)buf_head(&body), buf_size(&body));
    buf_finish(&body);
    memset(headers, 0, sizeof(*headers));
    h2o_add_header(&req->pool, headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/json"));
    h2o_add_header_by_str(&req->pool, headers, H2O_STRLIT("x-request-id"), 0, NULL, id,
                          strlen(id));
    h2o_add_header_by_str(&req->pool, headers, H2O_STRLIT("x-drover-reason"), 0, NULL,
                          api_error_reason(error), strlen(api_error_reason(error)));
    add_cors(req, s->server);
    req->res.content_length = s->body.len;
    req->http1_is_persistent = 0;
    procs_count(s->server->board, s->server->worker, PROC_REQUESTS_TOTAL, 1);
    procs_count(s->server->board, s->server->worker, PROC_REQUESTS_REJECTED, 1);
    log_shaped(s, id, path.base, error);
}

static void on_setup(h2o_filter_t *self, h2o_req_t *req, h2o_ostream_t **slot)
{
    struct http_server *server = ((struct shape_filter *)(void *)self)->server;
    struct client_connection *conn = connection_of(req);
    struct shaped *s, **owner;

    if (conn->current != NULL)
        return; /* an answer of a responder goes straight out */
    s = (struct shaped *)(void *)h2o_add_ostream(req, sizeof(*s), slot);
    s->super.do_send = send_shaped;
    s->server = server;
    s->conn = conn;
    s->req = req;
    s->linger = (struct timer){0};
    s->drained = 0;
    s->sent = false;
    owner = h2o_mem_alloc_shared(&req->pool, sizeof(struct shaped *), on_shaped_dispose);
    *owner = s;
    shape(s, req);
}

void reject_init(h2o_pathconf_t *path, struct http_server *server)
{
    struct shape_filter *filter =
        (struct shape_filter *)(void *)h2o_create_filter(path, sizeof(*filter));

    filter->super.on_setup_ostream = on_setup;
    filter->server = server;
}
