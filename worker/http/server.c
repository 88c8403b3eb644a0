/*
 * server.c - the HTTP server of a worker: its life, and each request up to the point where its
 * answer has an owner.
 *
 * libh2o calls on_req() when the head is there, and the body if that came with it and is short.
 * Everything that can be wrong with a request is found here, in an order in which each step may
 * rely on the ones before: framing, API key, path and method, body type, body, model.
 */
#include "worker/http/server.h"

#include <assert.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"
#include "proto/rpc/h2/tls.h"
#include "shm/facts/procs.h"
#include "shm/scoreboard.h"
#include "worker/api/local.h"
#include "worker/api/reply.h"
#include "worker/encoding/decode_queue.h"
#include "worker/http/accept.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/admit.h"
#include "worker/http/entry/headers.h"
#include "worker/http/entry/heads.h"
#include "worker/http/entry/peer.h"
#include "worker/http/entry/shares.h"
#include "worker/http/framing/media_type.h"
#include "worker/http/intake.h"
#include "worker/http/reject.h"
#include "worker/http/reject_private.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"
#include "worker/http/timeouts.h"

/* Of a body that no engine gets. */
#define MAX_OWN_BYTES (64 * 1024)

/* libh2o's own limits are a fallback for timeouts.c. */
#define SECOND_LINE_MS (60 * 60 * 1000)

struct api_handler {
    h2o_handler_t super;
    struct http_server *server;
};

/* ---- the body ---------------------------------------------------------------------------- */

/* Fills content_type.  Returns the error in the client's, or NULL. */
static const char *check_media_type(struct client_request *request, h2o_req_t *req)
{
    h2o_iovec_t value = header_value(req, "content-type");
    bool stranger = request->origin == NULL && header_value(req, "origin").base != NULL;
    bool form = operation_takes_form(request->operation,
                                     media_type_fits(value.base, value.len, false, stranger));

    if (!media_type_fits(value.base, value.len, form, stranger)) {
        if (form)
            return "the content type must be multipart/form-data";
        return media_type_fits(value.base, value.len, false, false)
                   ? "the content type must be application/json from a page that "
                     "api.cors_origins does not list"
                   : "the content type must be application/json, not multipart/form-data";
    }
    request->content_type = form ? header_copy(req, &value) : "application/json";
    return NULL;
}

static enum body_encoding find_encoding(const h2o_req_t *req)
{
    enum body_encoding encoding = ENCODING_IDENTITY;
    ssize_t at = -1;

    while ((at = h2o_find_header(&req->headers, H2O_TOKEN_CONTENT_ENCODING, at)) != -1)
        encoding = encoding_parse(encoding, req->headers.entries[at].value.base,
                                  req->headers.entries[at].value.len);
    return encoding;
}

/* ---- the model --------------------------------------------------------------------------- */

/* True when request->model is set; false when the request has been rejected. */
static bool settle_model(struct client_request *request, const char *named)
{
    struct http_server *server = request->responder->server;
    const char *given = request->path_model;
    bool in_body = given == NULL && named[0] != '\0';

    if (request->target != NULL)
        return true; /* whatever the model was */
    if (in_body) {
        given = named;
    } else if (given == NULL) {
        /* Clients of a single model often omit its name, and a bare llama-server allows that.
         */
        catalog_refresh(&server->catalog, server->board, server->config);
        given = catalog_default(&server->catalog, server->config);
    }
    if (given != NULL) {
        (void)strlcpy(request->client_model, given, sizeof(request->client_model));
        (void)strlcpy(request->model, given, sizeof(request->model));
        server->settle_name(request, server->data);
        request->aliased |= !in_body; /* the engine must get the name */
        return true;
    }
    if (server->catalog.count == 0)
        http_reject(request, API_ERROR_NO_NODE, "no node has joined yet", NULL, 5);
    else
        http_reject(request, API_ERROR_BAD_REQUEST,
                    "'model' is missing, and there are several: GET /v1/models lists them (an "
                    "alias '*' in the configuration is for requests that name none)",
                    "model", 0);
    return false;
}

/* ---- loops ------------------------------------------------------------------------------- */

static void name_coordinator(struct http_server *server)
{
    char host[256] = "";
    uint64_t id;

    (void)gethostname(host, sizeof(host) - 1);
    id = hash_spread(hash_mix(hash_text(host), scoreboard_created_wall_ms(server->board)));
    (void)snprintf(server->coordinator_id, sizeof(server->coordinator_id), "%016" PRIx64, id);
}

/* ---- a request --------------------------------------------------------------------------- */

/* Some engines read JSON behind a byte order mark and others do not: white space instead. */
static void blank_byte_order_mark(struct client_request *request)
{
    if (!request_is_form(request) && request->body_len >= 3 &&
        memcmp(request->body, "\xEF\xBB\xBF", 3) == 0)
        memset((void *)(uintptr_t)request->body, ' ', 3);
}

static bool is_no_loop(struct client_request *request, h2o_req_t *req)
{
    if (headers_pass_on(request, req))
        return true;
    http_reject(request, API_ERROR_LOOP,
                "the request has passed this coordinator before: the engine of one of its "
                "nodes leads back to it",
                NULL, 0);
    return false;
}

/* All of the request is known. */
static void begin(struct client_request *request, h2o_req_t *req)
{
    struct http_server *server = request->responder->server;

    request->priority = find_priority(req, server->config, request->model);
    headers_collect_forwarded(request, req);
    responder_watch(request->responder);
    server->on_infer(request, server->data);
}

static void on_seen(struct client_request *request, const struct inspected *found,
                    const char *param, const char *why)
{
    h2o_req_t *req = request->responder->req;

    if (found == NULL) {
        http_reject(request, API_ERROR_BAD_REQUEST, why, param, 0);
        return;
    }
    if (!settle_model(request, found->model))
        return;
    request_take(request, found);
    request->session = headers_find_session(req, found);
    begin(request, req);
}

/* The body is there, without a coding. */
static void take_request(struct client_request *request)
{
    blank_byte_order_mark(request);
    intake_look(request, request_is_form(request) ? request->content_type : NULL, on_seen);
}

static void on_decoded(struct decode_job *job, enum decode_end end)
{
    struct client_request *request = job->data;
    struct responder *r = request->responder;
    const struct config *config = r->server->config;
    char message[96];

    if (r->lost || r->reported)
        return; /* on its way out */
    r->outcome = NULL;
    switch (end) {
    case DECODE_DONE:
        responder_hold_body(r, job->out, job->out_len);
        free(job);
        r->decoding = NULL;
        take_request(request);
        return;
    case DECODE_BAD:
        http_reject(request, API_ERROR_BAD_REQUEST, job->err.text, NULL, 0);
        return;
    case DECODE_TOO_LARGE:
        (void)snprintf(message, sizeof(message),
                       "the decoded request body is over the limit of %u bytes",
                       config->limits.max_body_bytes);
        http_reject(request, API_ERROR_TOO_LARGE, message, NULL, 0);
        return;
    case DECODE_NO_ROOM:
        intake_no_room(request, http_reject);
        return;
    }
}

/* Decoded bytes count as received ones do. */
static bool hold_decoded(struct decode_job *job, size_t n)
{
    const struct client_request *request = job->data;
    struct client_connection *conn = request->responder->conn;

    if (!intake_may_hold(conn, request->body_len + job->charged, n))
        return false;
    shares_hold(conn, n);
    return true;
}

static void release_decoded(struct decode_job *job, size_t n)
{
    const struct client_request *request = job->data;

    shares_release(request->responder->conn, n);
}

/* The body is there, whichever way it came: every request with one passes here, once. */
static void take_body(struct client_request *request)
{
    static const struct decode_room room = {hold_decoded, release_decoded};
    struct responder *r = request->responder;

    if (request->encoding == ENCODING_IDENTITY || request->body_len == 0) {
        take_request(request);
        return;
    }
    r->decoding = malloc(sizeof(*r->decoding));
    if (r->decoding == NULL) {
        http_reject(request, API_ERROR_OVERLOADED, "the coordinator is short of memory", NULL,
                    2);
        return;
    }
    /* The client may leave meanwhile. */
    r->outcome = "client_gone";
    responder_watch(r);
    decode_start(&r->server->decoding, r->decoding, request->encoding, request->body,
                 request->body_len, r->server->config->limits.max_body_bytes, &room, on_decoded,
                 request);
}

static void infer(struct client_request *request, h2o_req_t *req)
{
    struct responder *r = request->responder;
    struct http_server *server = r->server;
    const char *why = check_media_type(request, req);
    size_t body_len =
        intake_is_open(r->conn) ? (size_t)r->conn->head.content_length : req->entity.len;

    if (why != NULL) {
        http_reject(request, API_ERROR_MEDIA_TYPE, why, NULL, 0);
        return;
    }
    request->encoding = find_encoding(req);
    if (request->encoding == ENCODING_OTHER) {
        responder_header(r, "accept-encoding", ENCODINGS_ACCEPTED);
        http_reject(request, API_ERROR_MEDIA_TYPE,
                    "the content encoding must be one of " ENCODINGS_ACCEPTED, NULL, 0);
        return;
    }
    if (body_len > server->config->limits.max_body_bytes) {
        intake_too_large(request, server->config->limits.max_body_bytes, http_reject);
        return;
    }
    if (intake_is_open(r->conn) ? !intake_may_come(r->conn, body_len)
                                : !intake_may_hold(r->conn, 0, body_len)) {
        intake_no_room(request, http_reject);
        return;
    }
    if (timeouts_memory_short(server, body_len)) {
        http_reject(request, API_ERROR_OVERLOADED, "the coordinator is short of memory", NULL,
                    2);
        return;
    }
    if (!is_no_loop(request, req))
        return;
    if (intake_is_open(r->conn)) {
        intake_begin(r->conn, request, server->config->limits.max_body_bytes, take_body,
                     http_reject);
        return;
    }
    responder_take_body(r);
    take_body(request);
}

/* A path and a query are all of the request. */
static void infer_bodiless(struct client_request *request, h2o_req_t *req)
{
    h2o_iovec_t query = request_query_part(req);
    char model[NODE_MODEL_BYTES];
    bool named = request_query(model, sizeof(model), query.base, query.len, "model");

    request->content_type = "application/json";
    if (is_no_loop(request, req) && settle_model(request, named ? model : ""))
        begin(request, req);
}

static bool has_body(const struct client_request *request, const h2o_req_t *req)
{
    return intake_is_open(request->responder->conn) || req->entity.len != 0;
}

/* False: the request has been rejected. */
static bool take_target(struct client_request *request, h2o_req_t *req, const struct route *to)
{
    h2o_iovec_t query = request_query_part(req);
    char *target = h2o_mem_alloc_pool(&req->pool, OPERATION_TARGET_BYTES + 1);

    if (request_take_target(request, target, to->tail, to->tail_len, query.base, query.len))
        return true;
    http_reject(request, API_ERROR_BAD_REQUEST, "the path or its query is malformed", NULL, 0);
    return false;
}

static void answer_locally(struct client_request *request)
{
    struct http_server *server = request->responder->server;
    struct local_facts facts = {
        .config = server->config,
        .board = server->board,
        .catalog = &server->catalog,
        .models_unknown = server->models_unknown,
        .models_awaited = server->models_awaited,
        .for_codex = request->for_codex,
        .data = server->data,
        .body = (const char *)request->body,
        .body_len = request->body_len,
    };
    struct reply reply = REPLY_INIT;

    if (server->draining)
        facts.not_ready = "draining";
    else if (!server->ready(server->data))
        facts.not_ready = "no node can serve";
    local_reply(&reply, request->responder->route, request->id, &facts);
    http_send_reply(request, &reply);
    reply_finish(&reply);
}

static void keep_route(struct client_request *request, h2o_req_t *req, const struct route *to)
{
    struct route *kept = h2o_mem_alloc_pool(&req->pool, sizeof(*kept));

    *kept = *to;
    request->responder->route = kept;
}

/* The one answer of our own that depends on a body. */
static void take_short_body(struct client_request *request, h2o_req_t *req,
                            const struct route *to)
{
    struct client_connection *conn = request->responder->conn;

    keep_route(request, req, to);
    if (!intake_is_open(conn)) {
        responder_take_body(request->responder);
        answer_locally(request);
    } else if (conn->head.content_length > MAX_OWN_BYTES) {
        http_reject(request, API_ERROR_TOO_LARGE, "the body of such a request is short", NULL,
                    0);
    } else {
        intake_begin(conn, request, MAX_OWN_BYTES, answer_locally, http_reject);
    }
}

/* OPTIONS, which no web page sent. */
static void answer_options(struct responder *r)
{
    r->outcome = "local";
    responder_start(r, 204, NULL, -1);
    responder_end(r);
}

static void refuse_method(struct client_request *request, h2o_req_t *req,
                          const struct route *route)
{
    struct responder *r = request->responder;
    char message[160];

    responder_header(r, "allow", route->allow);
    if (h2o_memis(req->input.method.base, req->input.method.len, H2O_STRLIT("OPTIONS"))) {
        answer_options(r);
        return;
    }
    /* Codex tries this first.  At 426 it takes HTTP at once, at 405 after seven attempts. */
    if (h2o_lcstris(req->upgrade.base, req->upgrade.len, H2O_STRLIT("websocket"))) {
        responder_header(r, "upgrade", "HTTP/1.1");
        http_reject(request, API_ERROR_UPGRADE, "there are no WebSockets here: use POST", NULL,
                    0);
        return;
    }
    (void)snprintf(message, sizeof(message), "%.100s takes %s", r->path, route->allow);
    http_reject(request, API_ERROR_METHOD, message, NULL, 0);
}

static void dispatch(struct client_request *request, h2o_req_t *req, const struct route *to)
{
    char message[160];

    switch (to->kind) {
    case ROUTE_INFER:
        if (to->tail != NULL && !take_target(request, req, to))
            return;
        if (to->model[0] != '\0')
            request->path_model = h2o_strdup(&req->pool, to->model, SIZE_MAX).base;
        if (strcmp(to->method, "POST") == 0 && (to->tail == NULL || has_body(request, req)))
            infer(request, req);
        else
            infer_bodiless(request, req);
        return;
    case ROUTE_UNKNOWN:
        (void)snprintf(message, sizeof(message), "there is nothing at %.100s",
                       request->responder->path);
        http_reject(request, API_ERROR_NOT_FOUND, message, NULL, 0);
        return;
    case ROUTE_BAD_METHOD:
        refuse_method(request, req, to);
        return;
    case ROUTE_PULL:
        take_short_body(request, req, to);
        return;
    case ROUTE_MODELS:
    case ROUTE_MODEL:
    case ROUTE_TAGS:
    case ROUTE_PS:
    case ROUTE_MANAGE:
    case ROUTE_VERSION:
    case ROUTE_ROOT:
    case ROUTE_HEALTH:
    case ROUTE_LIVE:
        keep_route(request, req, to);
        answer_locally(request);
        return;
    }
}

static int on_req(h2o_handler_t *handler, h2o_req_t *req)
{
    struct http_server *server = ((struct api_handler *)(void *)handler)->server;
    struct client_connection *conn = connection_of(req);
    struct client_request *request = h2o_mem_alloc_pool(&req->pool, sizeof(*request));
    h2o_iovec_t path, plain;
    struct route route;
    bool stranger;

    memset(request, 0, sizeof(*request));
    if (intake_is_open(conn))
        heads_keep(req);
    conn->fresh = false;
    procs_count(server->board, server->worker, PROC_REQUESTS_TOTAL, 1);
    headers_trim(req);
    path = request_path(req, &request->for_codex);
    plain = h2o_strdup(&req->pool, path.base, path.len);
    plain.len = surface_plain_path(plain.base, plain.len);
    route = surface_route(req->input.method.base, req->input.method.len, plain.base, plain.len);
    request->surface = route.surface;
    if (route.kind != ROUTE_INFER && route.surface == SURFACE_OPENAI &&
        header_value(req, "anthropic-version").base != NULL)
        request->surface = route.surface = SURFACE_ANTHROPIC; /* both have /v1/models */
    request->operation = route.operation;
    request->method = route.method == NULL ? "" : route.method;
    request->execution_id = execution_id(req);
    request->id = client_id(req);
    if (request->id == NULL)
        request->id = request->execution_id;
    request->received_mono_us = loop_now_us(server->loop);
    responder_create(conn, req, request);
    peer_of_request(request, req);
    request->responder->method = header_copy(req, &req->input.method);
    request->responder->path = path.base;
    request->path = path.base;

    if (conn->refused != API_ERROR_NONE || server->draining)
        req->http1_is_persistent = 0;
    if (conn->refused != API_ERROR_NONE) {
        request->origin = page_origin(req, server, &stranger);
        http_reject(request, conn->refused, conn->refused_why, NULL, 0);
    } else if (admit_page(request, req, &route) && admit_caller(request, req, &route)) {
        shares_know(conn, request);
        dispatch(request, req, &route);
    }
    return 0;
}

/* ---- the server -------------------------------------------------------------------------- */

static void on_request_over(struct client_connection *conn)
{
    intake_over(conn);
    heads_next(conn);
}

static void configure(struct http_server *server)
{
    static char name[] = "drover/" DROVER_VERSION;
    h2o_globalconf_t *conf = &server->globalconf;
    const struct config_limits *limits = &server->config->limits;
    struct api_handler *handler;
    h2o_hostconf_t *host;

    /* Else a body that is larger than 32 MiB with its buffer's room would go to a file in /tmp.
     */
    h2o_socket_buffer_prototype.mmap_settings = NULL;
    h2o_config_init(conf);
    conf->server_name = h2o_iovec_init(name, sizeof(name) - 1);
    conf->max_request_entity_size = limits->max_body_bytes;
    conf->http1.upgrade_to_http2 = 0;
    conf->http1.req_timeout = SECOND_LINE_MS;
    conf->handshake_timeout = SECOND_LINE_MS;
    /* One path for everything, so that libh2o's redirects and fallbacks never answer. */
    host = h2o_config_register_host(conf, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    reject_init(&host->fallback_path);
    handler = (struct api_handler *)(void *)h2o_create_handler(&host->fallback_path,
                                                               sizeof(*handler));
    handler->super.on_req = on_req;
    handler->server = server;
    h2o_context_init(&server->context, server->loop->h2o, conf);
    server->accept.ctx = &server->context;
    server->accept.hosts = conf->hosts;
    server->accept.ssl_ctx = server->ssl;
}

int http_server_create(struct http_server **out, const struct http_server_params *params,
                       struct error *err)
{
    struct http_server *server = calloc(1, sizeof(*server));
    int rc;

    *out = NULL;
    if (server == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    server->loop = params->loop;
    server->config = params->config;
    server->board = params->board;
    server->worker = params->worker;
    server->listen_fd = params->listen_fd;
    server->access_log = params->access_log;
    server->on_infer = params->on_infer;
    server->settle_name = params->settle_name;
    server->ready = params->ready;
    server->models_unknown = params->models_unknown;
    server->models_awaited = params->models_awaited;
    server->data = params->data;
    server->gone_fd = -1;
    server->spare_fd = -1;
    server->statm_fd = -1;
    name_coordinator(server);
    decode_queue_init(&server->decoding, server->loop);
    server->request_over = on_request_over;
    intake_init(server);
    /* libh2o writes with writev(), which has no MSG_NOSIGNAL. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (server->config->api.tls.enabled) {
        rc =
            tls_server_context(&server->ssl, &server->config->api.tls, TLS_PROTOCOL_HTTP1, err);
        if (rc != 0) {
            free(server);
            return rc;
        }
    }
    configure(server);
    rc = peer_init(server, err);
    if (rc == 0)
        rc = callers_init(&server->callers, &server->config->api.keys, params->board, err);
    if (rc == 0)
        rc = responders_init(server, err);
    if (rc == 0)
        rc = accept_init(server, err);
    if (rc != 0) {
        http_server_destroy(server);
        return rc;
    }
    timeouts_init(server);
    *out = server;
    return 0;
}

void http_server_drain(struct http_server *server)
{
    struct client_connection *conn;

    if (server->draining)
        return;
    server->draining = true;
    server->drain_mono_us = clock_mono_us();
    accept_stop(server);
    TAILQ_FOREACH(conn, &server->connections, link)
        if (conn->current != NULL && !conn->current->head_sent)
            conn->current->req->http1_is_persistent = 0;
}

unsigned http_server_connections(const struct http_server *server)
{
    return server->connections_count;
}

void http_server_destroy(struct http_server *server)
{
    h2o_multithread_queue_t *queue;

    if (server == NULL)
        return;
    timeouts_finish(server);
    accept_finish(server);
    responders_finish(server);
    peer_finish(server);
    decode_queue_finish(&server->decoding);
    intake_finish(server);
    queue = server->context.queue;
    h2o_context_dispose(&server->context);
    free(queue); /* libh2o 2.2.5 forgets to */
    h2o_config_dispose(&server->globalconf);
    SSL_CTX_free(server->ssl);
    catalog_finish(&server->catalog);
    callers_finish(&server->callers);
    free(server);
}
