/* responder_private.h - the state of one answer, and what the HTTP server does with it. */
#ifndef DROVER_WORKER_HTTP_RESPONDER_PRIVATE_H
#define DROVER_WORKER_HTTP_RESPONDER_PRIVATE_H

#include <h2o.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "base/text/json_check.h"
#include "worker/http/responder.h"

struct client_connection;
struct decode_job;
struct error;
struct http_server;
struct intake_look;
struct route;

/* The answer to one request.  Allocated with the request's pool, and disposed of with it: that
 * happens when the answer is complete or when the connection is lost, whichever way. */
struct responder {
    h2o_generator_t generator; /* libh2o calls back through it; must be first */
    struct http_server *server;
    struct client_connection *conn;
    h2o_req_t *req;
    struct client_request *request; /* in the pool */
    struct responder_events events;
    void *data;
    struct deferred flush;
    struct buf fill;         /* gathers what is written while... */
    struct buf flight;       /* ...this is under way to the socket */
    size_t fill_body;        /* body bytes in each, without chunk framing */
    size_t flight_body;      /* */
    uint64_t written;        /* body bytes taken from the user */
    uint64_t flight_mono_us; /* when the write began, or last moved on */
    uint64_t acked_bytes;    /* what the peer's kernel had taken when last looked at */
    int64_t content_length;  /* -1: not known beforehand */
    unsigned status;
    bool started;   /* responder_start() was called */
    bool head_sent; /* the head has been given to libh2o */
    bool in_flight; /* `flight` (or the head) is being written */
    bool ended;     /* responder_end() was called */
    bool last_sent; /* the end of a chunked body has been framed */
    bool aborted;   /* responder_abort() was called, or memory ran out */
    bool lost;      /* the client has left or stalled */
    bool reported;  /* on_done or on_gone has been called */
    bool done;      /* it was on_done */
    bool closing;   /* close_now() was called: only the failing write is still to be noticed */
    bool chunked;
    bool no_body;                /* HEAD, 204, 304: what is written is counted and dropped */
    bool watched;                /* its descriptor is in the gone set */
    bool body_held;              /* request->body is ours, and counted in server->body_bytes */
    uint64_t body_in;            /* size of the request's body as it came, for the log */
    struct intake_look *look;    /* owned by intake.c: looks through it; NULL = does not */
    struct json_skips skips;     /* owned: of request->root */
    struct decode_job *decoding; /* owned: takes the content coding off it; NULL = does not */
    /* Answers that the server gives itself are logged by the server.  NULL: not ours to log. */
    const char *outcome;
    const char *reason;
    const char *method, *path; /* in the pool */
    const struct route *route; /* in the pool: of what the server answers itself */
};

MUST_CHECK int responders_init(struct http_server *server, struct error *err);
void responders_finish(struct http_server *server);
/* Makes the responder of `request`; request->id and ->client are set. */
struct responder *responder_create(struct client_connection *conn, h2o_req_t *req,
                                   struct client_request *request);
/* Notices from now on when the client leaves. */
void responder_watch(struct responder *r);
/* Takes the request's body out of libh2o's buffers into memory of its own. */
void responder_take_body(struct responder *r);
/* A body of `n` bytes from malloc() takes the place of the request's; it is owned from now on.
 */
void responder_hold_body(struct responder *r, uint8_t *body, size_t n);
/* Makes libh2o hold no memory for the request, whose bytes are all that is in its buffer. */
void responder_shrink_input(struct responder *r);
/* Looks again whether the answer is complete. */
void responder_go_on(struct responder *r);
/* The client has stalled, or the server ends: on_gone, and the connection is closed. */
void responder_lose(struct responder *r);
/* As if the connection had broken, before returning; for the server's end. */
void responder_break(struct responder *r);

#endif
