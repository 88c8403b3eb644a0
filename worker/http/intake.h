/*
 * intake.h - reads the long bodies of requests, which libh2o does not see.  Inside worker/http
 * only.
 *
 * libh2o gathers a body in a buffer that doubles, and calls no handler before the end.  So
 * the head of a request whose Content-Length is above 64 KiB is shown to it without that line:
 * it hands the request over at once, the request is checked, and then its body is read from the
 * socket into memory of the body's size.  A refusal comes before the body.  A
 * turn reads 1 MiB at most of all bodies together, so the other connections have their turns.
 * Bodies in chunks and short ones go libh2o's way.
 */
#ifndef DROVER_WORKER_HTTP_INTAKE_H
#define DROVER_WORKER_HTTP_INTAKE_H

#include <h2o.h>
#include <stdbool.h>
#include <stdint.h>

struct client_connection;
struct client_request;
struct http_server;

void intake_init(struct http_server *server);

/* Looks at what the connection brings from now on, and at what it has brought, before libh2o.
 */
void intake_watch(struct client_connection *conn);
/* Copies the head of a request whose body is read here: libh2o leaves it in its buffer where it
 * sees no body. */
void intake_keep_head(h2o_req_t *req);

/* Has the present request a long body that is not whole? */
bool intake_is_open(const struct client_connection *conn);

enum intake_end {
    INTAKE_WHOLE = 0, /* `request` has its body */
    INTAKE_NO_MEMORY, /* there is none for it */
    INTAKE_SLOW,      /* hardly a byte of it comes */
};

/* Reads that body.  `on_end` is called when it is there, or will not be, perhaps at once; the
 * request is to be answered then.  Not so where the client leaves. */
void intake_begin(struct client_connection *conn, struct client_request *request,
                  void (*on_end)(struct client_request *request, enum intake_end end));

/* Now and then: the request is rejected when less than `least` bytes a second came in
 * `limit_ms`.
 */
void intake_check(struct client_connection *conn, uint64_t limit_ms, uint64_t least);

#endif
