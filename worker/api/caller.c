/*
 * caller.c - whose request is it?  API keys, as the clients of each API send them.
 *
 * OpenAI's and Ollama's clients send `Authorization: Bearer KEY`, Anthropic's `x-api-key: KEY`;
 * either is taken on every path.  The key stays in libh2o's request: it is not copied, not
 * logged and not forwarded; what goes on is the name that the keys file gives it.
 */
#include <string.h>

#include "base/config/config.h"
#include "base/error.h"
#include "shm/procs.h"
#include "shm/usage.h"
#include "worker/http/server_private.h"

int callers_init(struct http_server *server, struct error *err)
{
    const struct api_keys *keys = &server->config->api.keys;

    if (keys->count == 0)
        return 0;
    server->usage_rows = calloc(keys->count, sizeof(*server->usage_rows));
    if (server->usage_rows == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    for (unsigned i = 0; i < keys->count; i++)
        server->usage_rows[i] = usage_claim(server->params.board, keys->list[i].name);
    return 0;
}

void callers_finish(struct http_server *server)
{
    free(server->usage_rows);
    server->usage_rows = NULL;
}

/* What probes need, and what tells nobody anything. */
static bool is_open(const struct route *route)
{
    return route->kind == ROUTE_HEALTH || route->kind == ROUTE_LIVE;
}

/* The key in "Bearer KEY"; empty when it is another scheme. */
static h2o_iovec_t bearer(h2o_iovec_t value)
{
    static const char scheme[] = "bearer";
    size_t n = sizeof(scheme) - 1;

    if (value.len <= n || !h2o_lcstris(value.base, n, scheme, n) || value.base[n] != ' ')
        return h2o_iovec_init(NULL, 0);
    while (n < value.len && value.base[n] == ' ')
        n++;
    return h2o_iovec_init(value.base + n, value.len - n);
}

/* The key that a client shows under `name`, or an empty text. */
static h2o_iovec_t shown(const h2o_req_t *req, const char *name)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);

    return at == -1 ? h2o_iovec_init(NULL, 0) : req->headers.entries[at].value;
}

bool caller_admit(struct infer_request *request, h2o_req_t *req, const struct route *route)
{
    struct http_server *server = request->responder->server;
    const struct api_keys *keys = &server->config->api.keys;
    h2o_iovec_t in_bearer, in_header;
    int found;

    request->usage_row = -1;
    if (keys->count == 0 || is_open(route))
        return true;
    in_bearer = bearer(shown(req, "authorization"));
    in_header = shown(req, "x-api-key");
    found = api_keys_find(keys, in_bearer.base, in_bearer.len);
    if (found == -1)
        found = api_keys_find(keys, in_header.base, in_header.len);
    if (found != -1) {
        request->key_name = keys->list[found].name;
        request->usage_row = server->usage_rows[found];
        usage_add(server->params.board, request->usage_row, USAGE_REQUESTS, 1);
        return true;
    }
    procs_count(server->params.board, server->params.slot, PROC_REQUESTS_UNAUTHORIZED, 1);
    responder_header(request->responder, "www-authenticate", "Bearer");
    reject(request, API_ERROR_UNAUTHORIZED,
           in_bearer.len != 0 || in_header.len != 0
               ? "the API key is not valid"
               : "an API key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
           NULL, 0);
    return false;
}
