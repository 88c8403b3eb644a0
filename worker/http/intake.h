/*
 * intake.h - reads the bodies of requests that have not come with the head, and looks through
 * bodies.  Inside worker/http only.
 *
 * libh2o gathers a body in a buffer that doubles, and calls no handler before the end.  So
 * the head of a request whose body is not there, is long or comes in chunks is shown to it
 * without the line that says so (worker/http/entry/heads.h): it hands the request over at once,
 * the request is checked, and then its body is read from the socket into memory of its own.  A
 * refusal comes before the body.  A turn reads 1 MiB at most of all bodies together, and looks
 * through 1 MiB, so the other connections have their turns.
 */
#ifndef DROVER_WORKER_HTTP_INTAKE_H
#define DROVER_WORKER_HTTP_INTAKE_H

#include <h2o.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "worker/api/surface.h"

struct client_connection;
struct client_request;
struct http_server;
struct inspected;

void intake_init(struct http_server *server);
/* No request is left. */
void intake_finish(struct http_server *server);

/* The present request has a body that libh2o does not see.  The first n bytes of it are in
 * `early`, behind the head, and `early` is owned from now on; NULL: none are.  False: out of
 * memory, and nothing has happened. */
MUST_CHECK bool intake_open(struct client_connection *conn, h2o_buffer_t *early, size_t n);
/* Has the present request such a body, not whole yet? */
bool intake_is_open(const struct client_connection *conn);

/* As http_reject(). */
typedef void (*intake_reject_cb)(struct client_request *request, enum api_error error,
                                 const char *message, const char *param,
                                 unsigned retry_after_s);
/* Rejects a request whose body is over limits.max_body_bytes. */
void intake_too_large(struct client_request *request, size_t most, intake_reject_cb rejected);
/* ... or one for whose body there is no room. */
void intake_no_room(struct client_request *request, intake_reject_cb rejected);
/* May the connection's request hold n bytes more of the body of which it has `one`?  Bodies of
 * clients that hold more give way to it. */
MUST_CHECK bool intake_may_hold(struct client_connection *conn, size_t one, size_t n);
/* Might there be room for a body of n bytes, when it comes? */
MUST_CHECK bool intake_may_come(struct client_connection *conn, size_t n);
/* Reads that body, which may have `most` bytes.  One of the two is called, perhaps at once:
 * `on_whole` when it is there, `rejected` when it will not be.  Neither where the client
 * leaves. */
void intake_begin(struct client_connection *conn, struct client_request *request, size_t most,
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

/* Does it wait for bytes of that body, and since when?  ... or only for its client to go? */
MUST_CHECK bool intake_waits(const struct client_connection *conn, uint64_t *since_mono_us);
MUST_CHECK bool intake_lingers(const struct client_connection *conn);
/* The first: the request is rejected, others need the connection. */
void intake_give_way(struct client_connection *conn);

/* The present request is over. */
void intake_over(struct client_connection *conn);

/* Now and then: the request is rejected when less than `least` bytes a second came in
 * `limit_ms`.
 */
void intake_check(struct client_connection *conn, uint64_t limit_ms, uint64_t least);

#endif
