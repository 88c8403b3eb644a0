/* admit.c - may this request be served, by its key and by the web page it comes from? */
#include "worker/http/entry/admit.h"

#include <stdio.h>
#include <string.h>

#include "base/config/config.h"
#include "shm/facts/procs.h"
#include "shm/facts/usage.h"
#include "worker/api/cors.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/headers.h"
#include "worker/http/reject.h"
#include "worker/http/reject_private.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* Probes need these paths, and the answers reveal nothing. */
static bool is_open(const struct route *route)
{
    return route->kind == ROUTE_HEALTH || route->kind == ROUTE_LIVE;
}

bool admit_caller(struct client_request *request, h2o_req_t *req, const struct route *route)
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

    n = cors_preflight(
        headers, request->origin,
        asked.base != NULL && header_is_printable(&asked) ? header_copy(req, &asked) : NULL,
        header_value(req, "access-control-request-private-network").base != NULL);
    for (size_t i = 0; i < n; i++)
        responder_header(r, headers[i].name, headers[i].value);
    request->origin = NULL; /* these headers stand for those of other answers */
    r->outcome = "local";
    responder_start(r, 204, NULL, -1);
    responder_end(r);
}

bool admit_page(struct client_request *request, h2o_req_t *req, const struct route *route)
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
                       header_is_printable(&origin) ? origin.base : "?");
        http_reject(request, API_ERROR_FORBIDDEN, message, NULL, 0);
        return false;
    }
    if (preflight)
        answer_preflight(request, req);
    return !preflight;
}
