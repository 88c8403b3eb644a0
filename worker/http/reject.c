/*
 * reject.c - sends replies.
 *
 * libh2o never answers by itself: it is shown nothing that it would refuse
 * (worker/http/entry/heads.h).  A filter on the path keeps its chunked encoder out: being first
 * and passing on nothing, it is the only one.
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

/* ---- the request line ---------------------------------------------------------------------
 */

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

/* ---- libh2o's encoder -------------------------------------------------------------------- */

/* An answer of a responder goes straight out. */
static void on_setup(h2o_filter_t *self, h2o_req_t *req, h2o_ostream_t **slot)
{
    (void)self;
    (void)req;
    (void)slot;
}

void reject_init(h2o_pathconf_t *path)
{
    h2o_create_filter(path, sizeof(h2o_filter_t))->on_setup_ostream = on_setup;
}
