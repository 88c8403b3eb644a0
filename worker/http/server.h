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
#include "worker/http/access_log.h"
#include "worker/http/client_request.h"

struct buf;
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
    /* Is there any node that can serve? For readiness. */
    bool (*ready)(void *data);
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

/* The body is not needed any more (no other attempt will be made): its memory is given back now
 * and not at the end of the answer.  request->body is NULL afterwards. */
void http_drop_body(struct client_request *request);

/*
 * Answers `request` with an error of ours in its surface's shape, with x-request-id,
 * x-drover-reason, Retry-After (if retry_after_s != 0, clamped to 1..60) and x-should-retry.
 * Before responder_start() only.
 */
void http_reply_error(struct client_request *request, enum api_error error, const char *message,
                      unsigned retry_after_s);

/* The same for a request rejected before it has an owner, with the name of the wrong field, or
 * NULL.  The server writes the access log. */
void http_reject(struct client_request *request, enum api_error error, const char *message,
                 const char *param, unsigned retry_after_s);
/* A whole answer that needs no node; likewise. */
void http_answer(struct client_request *request, unsigned status, const char *content_type,
                 const struct buf *body);

#endif
