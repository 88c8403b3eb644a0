/*
 * server.h - the HTTP side of a worker: connections, hardening, and what needs no node.
 *
 * HTTP/1.1 only.  Answers by itself: health, /v1/models and the like, every error in the head
 * or body of a request.  Valid inference requests go to `on_infer`.
 */
#ifndef DROVER_WORKER_HTTP_SERVER_H
#define DROVER_WORKER_HTTP_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct client_request;
struct config;
struct error;
struct http_server; /* opaque */
struct log_sink;
struct loop;
struct scoreboard;

struct http_server_params {
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    unsigned worker;             /* own row in the process table, for counters */
    int listen_fd;               /* borrowed */
    struct log_sink *access_log; /* borrowed; NULL = none */
    /* A valid request.  The callee owns the answer; see responder.h for when `request` ends. */
    void (*on_infer)(struct client_request *request, void *data);
    /* Makes of request->model, as the client named it, what nodes are chosen for; sets
     * `aliased` and `pooled`. */
    void (*settle_name)(struct client_request *request, void *data);
    /* Is there any node that can serve? For readiness. */
    bool (*ready)(void *data);
    /* May there be models that no node has named yet; are nodes expected to name some? */
    bool (*models_unknown)(void *data);
    bool (*models_awaited)(void *data);
    void *data;
};

MUST_CHECK int http_server_create(struct http_server **out,
                                  const struct http_server_params *params, struct error *err);
/* Stops accepting; idle connections close; open requests go on with `connection: close`. */
void http_server_drain(struct http_server *server);
/* Connections still open. */
unsigned http_server_connections(const struct http_server *server);
/* Closes everything; on_gone runs for each open request. */
void http_server_destroy(struct http_server *server);

#endif
