/*
 * intake.h - reads the long bodies of requests, which libh2o does not see, and looks through
 * bodies.  Inside worker/http only.
 *
 * libh2o gathers a body in a buffer that doubles, and calls no handler before the end.  So
 * the head of a request whose Content-Length is above 64 KiB, or whose chunks are not all there
 * yet, is shown to it without the line that says so: it hands the request over at once, the
 * request is checked, and then its body is read from the socket into memory of its own.  A
 * refusal comes before the body.  A turn reads 1 MiB at most of all bodies together, and looks
 * through 1 MiB, so the other connections have their turns.
 */
#ifndef DROVER_WORKER_HTTP_INTAKE_H
#define DROVER_WORKER_HTTP_INTAKE_H

#include <h2o.h>
#include <stdbool.h>
#include <stdint.h>

#include "worker/api/surface.h"

struct client_connection;
struct client_request;
struct http_server;
struct inspected;

void intake_init(struct http_server *server);
/* No request is left. */
void intake_finish(struct http_server *server);

/* Looks at what the connection brings from now on, and at what it has brought, before libh2o.
 */
void intake_watch(struct client_connection *conn);
/* Copies the head of a request whose body is read here: libh2o leaves it in its buffer where it
 * sees no body. */
void intake_keep_head(h2o_req_t *req);

/* Has the present request a long body that is not whole? */
bool intake_is_open(const struct client_connection *conn);

/* As http_reject(). */
typedef void (*intake_reject_cb)(struct client_request *request, enum api_error error,
                                 const char *message, const char *param,
                                 unsigned retry_after_s);
/* Reads that body.  One of the two is called, perhaps at once: `on_whole` when it is there,
 * `rejected` when it will not be.  Neither where the client leaves. */
void intake_begin(struct client_connection *conn, struct client_request *request,
                  void (*on_whole)(struct client_request *request), intake_reject_cb rejected);

/*
 * Looks through the body of a request for what routing needs; `content_type` is a form's, or
 * NULL. `on_seen` is called when that is done, perhaps at once: `found` is NULL when the body
 * is to be refused, `why` is fit for the client then and `param` names the field or is NULL. It
 * is not called where the client leaves.
 */
typedef void (*intake_seen_cb)(struct client_request *request, const struct inspected *found,
                               const char *param, const char *why);
void intake_look(struct client_request *request, const char *content_type,
                 intake_seen_cb on_seen);

/* Now and then: the request is rejected when less than `least` bytes a second came in
 * `limit_ms`.
 */
void intake_check(struct client_connection *conn, uint64_t limit_ms, uint64_t least);

#endif
