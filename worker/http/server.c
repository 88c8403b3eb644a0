/*
 * server.c - the HTTP server of a worker: its life, and each request up to the point where its
 * answer has an owner.
 *
 * libh2o calls on_req() when head and body are complete.  Everything that can be wrong with a
 * request is found here, in an order in which each step may rely on the ones before: framing,
 * API key, path and method, body type, body, model.
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
#include "base/text/text.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"
#include "proto/rpc/h2/tls.h"
#include "shm/facts/procs.h"
#include "shm/facts/usage.h"
#include "shm/scoreboard.h"
#include "worker/api/cors.h"
#include "worker/api/local.h"
#include "worker/api/reply.h"
#include "worker/encoding/decode_queue.h"
#include "worker/http/accept.h"
#include "worker/http/client_request.h"
#include "worker/http/framing/media_type.h"
#include "worker/http/framing/strict_head.h"
#include "worker/http/intake.h"
#include "worker/http/reject.h"
#include "worker/http/reject_private.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"
#include "worker/http/timeouts.h"

/* A header value that goes on to an engine is not longer than this. */
#define MAX_FORWARD_BYTES 1024
#define LOOP_HEADER       "x-drover-via"
#define LOOP_MAX_BYTES    512 /* of this header as it comes: 28 coordinators */

/* libh2o's own limits are a fallback for timeouts.c. */
#define SECOND_LINE_MS (60 * 60 * 1000)

struct api_handler {
    h2o_handler_t super;
    struct http_server *server;
};

/* ---- headers ----------------------------------------------------------------------------- */

static bool is_printable(const h2o_iovec_t *value)
{
    return text_is_printable(value->base, value->len);
}

static const char *copy(h2o_req_t *req, const h2o_iovec_t *text)
{
    return h2o_strdup(&req->pool, text->base, text->len).base;
}

static h2o_iovec_t header_value(const h2o_req_t *req, const char *name)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);

    return at == -1 ? h2o_iovec_init(NULL, 0) : req->headers.entries[at].value;
}

static bool starts_with(const h2o_iovec_t *name, const char *prefix)
{
    return text_starts_with(name->base, name->len, prefix);
}

static bool is_name(const h2o_iovec_t *name, const char *expected)
{
    return text_equals(name->base, name->len, expected);
}

/* Only what an engine may need and what names neither the client nor a conversation: some
 * engines change their ways on a header (llama-server goes on after its client has left when
 * there is an x-conversation-id). */
static bool is_forwarded(const h2o_iovec_t *name)
{
    return is_name(name, "traceparent") || is_name(name, "tracestate") ||
           starts_with(name, "anthropic-") || starts_with(name, "x-claude-code-");
}

/* The engine knows a request by the id that the node gives it, which is unique; the client's
 * may repeat, so it goes by another name. */
static void collect_forwarded(struct client_request *request, h2o_req_t *req)
{
    if (request->id != request->execution_id)
        request->forward[request->forward_count++] =
            (struct request_header){.name = "x-client-request-id", .value = request->id};
    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_header_t *header = &req->headers.entries[i];
        struct request_header *to;

        if (!is_forwarded(header->name) || header->value.len > MAX_FORWARD_BYTES ||
            !is_printable(&header->value))
            continue;
        if (request->forward_count == REQUEST_MAX_FORWARD - 1)
            break;
        to = &request->forward[request->forward_count++];
        to->name = copy(req, header->name);
        to->value = copy(req, &header->value);
    }
    request->forward[request->forward_count++] =
        (struct request_header){.name = LOOP_HEADER, .value = request->via};
}

static const char *header_session(h2o_req_t *req, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ssize_t at = h2o_find_header_by_str(&req->headers, names[i], strlen(names[i]), -1);
        const h2o_iovec_t *value = at == -1 ? NULL : &req->headers.entries[at].value;

        if (value != NULL && value->len != 0 && value->len < REQUEST_SESSION_BYTES &&
            is_printable(value))
            return copy(req, value);
    }
    return NULL;
}

/* The key that keeps a conversation on the node that has it cached: the first of these. */
static const char *find_session(h2o_req_t *req, const struct inspected *body)
{
    static const char *const names[] = {
        "x-session-id",      "x-session-affinity",   "x-litellm-session-id",
        "x-smg-routing-key", "x-cache-affinity-key", "x-claude-code-session-id",
    };
    const char *session = header_session(req, names, ARRAY_LEN(names));

    if (session == NULL && body->session[0] != '\0')
        session = h2o_strdup(&req->pool, body->session, SIZE_MAX).base;
    return session;
}

/* ---- the body ---------------------------------------------------------------------------- */

/* Fills content_type.  Returns the error in the client's, or NULL. */
static const char *check_media_type(struct client_request *request, h2o_req_t *req)
{
    h2o_iovec_t value = header_value(req, "content-type");
    bool stranger = request->origin == NULL && header_value(req, "origin").base != NULL;
    bool form = operation_takes_form(request->operation,
                                     media_type_fits(value.base, value.len, false, stranger));

    if (!media_type_fits(value.base, value.len, form, stranger))
        return form ? "the content type must be multipart/form-data"
                    : "the content type must be application/json";
    request->content_type = form ? copy(req, &value) : "application/json";
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
                    "'model' is missing, and there are several: GET /v1/models lists them",
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

/* Adds this coordinator to the list of those that the request has passed.  False: it is there
 * already, or the list is too long; a client that sends such a list refuses itself only. */
static bool pass_on(struct client_request *request, h2o_req_t *req)
{
    struct http_server *server = request->responder->server;
    ssize_t at = h2o_find_header_by_str(&req->headers, H2O_STRLIT(LOOP_HEADER), -1);
    const h2o_iovec_t *passed = at == -1 ? NULL : &req->headers.entries[at].value;
    const char *id = server->coordinator_id;

    if (passed == NULL || !is_printable(passed)) {
        request->via = h2o_strdup(&req->pool, id, SIZE_MAX).base;
        return true;
    }
    if (passed->len > LOOP_MAX_BYTES || memmem(passed->base, passed->len, id, 16) != NULL)
        return false;
    request->via = h2o_concat(&req->pool, *passed, h2o_iovec_init(H2O_STRLIT(", ")),
                              h2o_iovec_init(id, 16))
                       .base;
    return true;
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
    if (pass_on(request, req))
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
    collect_forwarded(request, req);
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
    request->session = find_session(req, found);
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
        http_reject(request, API_ERROR_OVERLOADED, "too many large requests at once", NULL, 2);
        return;
    }
}

/* The body is there, whichever way it came: every request with one passes here, once. */
static void take_body(struct client_request *request)
{
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
                 request->body_len, r->server->config->limits.max_body_bytes, on_decoded,
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
    if (server->body_bytes > server->config->limits.max_body_total_bytes ||
        body_len > server->config->limits.max_body_total_bytes - server->body_bytes) {
        http_reject(request, API_ERROR_OVERLOADED, "too many large requests at once", NULL, 2);
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
        intake_begin(r->conn, request, take_body, http_reject);
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

static void answer_locally(struct client_request *request, const struct route *route)
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
        .body = request->responder->req->entity.base,
        .body_len = request->responder->req->entity.len,
    };
    struct reply reply = REPLY_INIT;

    if (server->draining)
        facts.not_ready = "draining";
    else if (!server->ready(server->data))
        facts.not_ready = "no node can serve";
    local_reply(&reply, route, request->id, &facts);
    http_send_reply(request, &reply);
    reply_finish(&reply);
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
    case ROUTE_MODELS:
    case ROUTE_MODEL:
    case ROUTE_TAGS:
    case ROUTE_PS:
    case ROUTE_PULL:
    case ROUTE_MANAGE:
    case ROUTE_VERSION:
    case ROUTE_ROOT:
    case ROUTE_HEALTH:
    case ROUTE_LIVE:
        answer_locally(request, to);
        return;
    }
}

/* Probes need these paths, and the answers reveal nothing. */
static bool is_open(const struct route *route)
{
    return route->kind == ROUTE_HEALTH || route->kind == ROUTE_LIVE;
}

/* True: the request may go on, and has its key's name.  False: it has been rejected. */
static bool admit(struct client_request *request, h2o_req_t *req, const struct route *route)
{
    struct http_server *server = request->responder->server;
    h2o_iovec_t authorization, x_api_key, api_key;
    struct caller_headers headers;
    bool shown;

    request->usage_row = -1;
    if (server->callers.keys->count == 0 || is_open(route))
        return true;
    authorization = header_value(req, "authorization");
    x_api_key = header_value(req, "x-api-key");
    api_key = header_value(req, "api-key");
    headers = (struct caller_headers){.authorization = authorization.base,
                                      .authorization_len = authorization.len,
                                      .x_api_key = x_api_key.base,
                                      .x_api_key_len = x_api_key.len,
                                      .api_key = api_key.base,
                                      .api_key_len = api_key.len};
    if (callers_find(&server->callers, &headers, &request->key_name, &request->usage_row,
                     &shown)) {
        usage_add(server->board, request->usage_row, USAGE_REQUESTS, 1);
        return true;
    }
    procs_count(server->board, server->worker, PROC_REQUESTS_UNAUTHORIZED, 1);
    responder_header(request->responder, "www-authenticate", "Bearer");
    http_reject(request, API_ERROR_UNAUTHORIZED,
                shown
                    ? "the API key is not valid"
                    : "an API key is needed: 'Authorization: Bearer KEY', 'x-api-key: KEY' or "
                      "'api-key: KEY'",
                NULL, 0);
    return false;
}

/* ---- web pages --------------------------------------------------------------------------- */

/* A browser asks with this before it sends what a page wants to send. */
static bool is_preflight(const h2o_req_t *req)
{
    return h2o_memis(req->input.method.base, req->input.method.len, H2O_STRLIT("OPTIONS")) &&
           header_value(req, "origin").base != NULL &&
           header_value(req, "access-control-request-method").base != NULL;
}

static void answer_preflight(struct client_request *request, h2o_req_t *req)
{
    struct responder *r = request->responder;
    h2o_iovec_t asked = header_value(req, "access-control-request-headers");
    struct cors_header headers[CORS_MAX_HEADERS];
    size_t n;

    n = cors_preflight(headers, request->origin,
                       asked.base != NULL && is_printable(&asked) ? copy(req, &asked) : NULL,
                       header_value(req, "access-control-request-private-network").base !=
                           NULL);
    for (size_t i = 0; i < n; i++)
        responder_header(r, headers[i].name, headers[i].value);
    request->origin = NULL; /* these headers stand for those of other answers */
    r->outcome = "local";
    responder_start(r, 204, NULL, -1);
    responder_end(r);
}

/* True: the request goes on.  A page that is not listed never gets past the browser's question;
 * what browsers send without asking reaches nothing where no key protects it. */
static bool admit_page(struct client_request *request, h2o_req_t *req,
                       const struct route *route)
{
    struct http_server *server = request->responder->server;
    bool stranger, preflight = is_preflight(req);
    h2o_iovec_t origin = header_value(req, "origin");
    char message[200];

    request->origin = page_origin(req, server, &stranger);
    if (stranger && (preflight || (server->callers.keys->count == 0 && !is_open(route)))) {
        (void)snprintf(message, sizeof(message),
                       "web pages of %.*s may not use this server; api.cors_origins in its "
                       "configuration lists those that may",
                       (int)(origin.len > 80 ? 80 : origin.len),
                       is_printable(&origin) ? origin.base : "?");
        http_reject(request, API_ERROR_FORBIDDEN, message, NULL, 0);
        return false;
    }
    if (preflight)
        answer_preflight(request, req);
    return !preflight;
}

/* libh2o leaves white space behind a value there. */
static void trim_values(h2o_req_t *req)
{
    for (size_t i = 0; i < req->headers.size; i++) {
        h2o_iovec_t *value = &req->headers.entries[i].value;

        while (value->len > 0 && strchr(" \t", value->base[value->len - 1]) != NULL)
            value->len--;
    }
}

static int on_req(h2o_handler_t *handler, h2o_req_t *req)
{
    struct http_server *server = ((struct api_handler *)(void *)handler)->server;
    struct client_connection *conn = connection_of(req);
    struct client_request *request = h2o_mem_alloc_pool(&req->pool, sizeof(*request));
    h2o_iovec_t path, plain;
    const char *why = NULL;
    struct route route;

    memset(request, 0, sizeof(*request));
    if (intake_is_open(conn))
        intake_keep_head(req);
    conn->fresh = false;
    procs_count(server->board, server->worker, PROC_REQUESTS_TOTAL, 1);
    if (!conn->head_seen)
        why = strict_head_check(&conn->head, conn->sock->input->bytes, conn->sock->input->size);

    trim_values(req);
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
    request->client = conn->client; /* outlives the request */
    request->received_mono_us = loop_now_us(server->loop);
    responder_create(conn, req, request);
    request->responder->method = copy(req, &req->input.method);
    request->responder->path = path.base;
    request->path = path.base;

    /* After a body in chunks that libh2o has read the connection is not used again: it reads
     * the chunks' own lines leniently, so the next bytes could be a smuggled request. */
    if (why != NULL || (conn->head.chunked && !intake_is_open(conn)) || server->draining)
        req->http1_is_persistent = 0;
    if (why != NULL)
        http_reject(request, API_ERROR_BAD_REQUEST, why, NULL, 0);
    else if (admit_page(request, req, &route) && admit(request, req, &route))
        dispatch(request, req, &route);
    return 0;
}

/* ---- the server -------------------------------------------------------------------------- */

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
    reject_init(&host->fallback_path, server);
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
    decode_queue_init(&server->decoding, server->loop, &server->body_bytes,
                      server->config->limits.max_body_total_bytes);
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
