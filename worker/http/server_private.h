/*
 * server_private.h - shared by the files of the HTTP server.  Only they and tests include it.
 *
 *   server.c     the server's life; from a complete request to its answer's owner
 *   accept.c     connections: accepts them, limits, counts
 *   timeouts.c      time limits of connections, on the monotonic clock; the limit of memory
 *   responder.c  one answer
 *   reject.c     answers and errors of ours, and libh2o's put into our shape
 */
#ifndef DROVER_WORKER_HTTP_SERVER_PRIVATE_H
#define DROVER_WORKER_HTTP_SERVER_PRIVATE_H

#include <h2o.h>

#include "base/buf.h"
#include "base/loop.h"
#include "worker/api/caller.h"
#include "worker/api/catalog.h"
#include "worker/http/responder.h"
#include "worker/http/server.h"

#define CLIENT_TEXT_BYTES 64

struct client_count;
struct shaped;

/* One accepted connection, from accept() until its descriptor is closed. */
struct client_connection {
    struct http_server *server;
    struct client_connection *prev, *next; /* in server->connections */
    h2o_socket_t *sock;             /* libh2o's; valid until on_close frees this struct */
    struct responder *current;      /* the request being answered; NULL between requests */
    struct shaped *lingering;       /* reject.c: a refused client that still sends */
    struct client_count *counted;   /* NULL when this address is not counted */
    uint64_t since_mono_us;         /* accepted, or the last answer ended */
    uint64_t reading_mono_us;       /* a part of a request was first seen; 0 = none is there */
    uint64_t base_bytes;            /* received before reading_mono_us */
    bool fresh;                     /* no complete request yet */
    char client[CLIENT_TEXT_BYTES]; /* address without port */
};

#define CLIENT_BUCKETS 256

struct http_server {
    struct http_server_params params;
    struct loop *loop;           /* borrowed, as all of params */
    const struct config *config; /* borrowed */
    h2o_globalconf_t globalconf;
    h2o_context_t context;
    h2o_accept_ctx_t accept;
    SSL_CTX *ssl; /* owned; NULL = cleartext */
    bool draining;
    uint64_t drain_mono_us;
    size_t body_bytes; /* request bodies held */
    struct catalog catalog;
    struct callers callers;

    /* accept.c */
    h2o_socket_t *listener; /* on a duplicate of params.listen_fd; NULL once draining */
    bool listening;         /* the listener is being read */
    struct timer accept_timer;
    unsigned held_off;        /* looks in a row that found clients waiting */
    unsigned max_connections; /* limits.max_connections, or what descriptors allow */
    int spare_fd;             /* given up to turn a connection away; -1 = gone */
    struct client_connection connections; /* list head */
    unsigned connections_count;
    struct client_count *clients[CLIENT_BUCKETS];

    /* responder.c */
    int gone_fd; /* epoll set of the connections with an open request */
    struct watch *gone_watch;

    /* timeouts.c */
    struct timer timeouts_timer;
    uint64_t timeouts_us;
    int statm_fd;          /* /proc/self/statm; -1 = not to be had */
    uint64_t memory_bytes; /* this process's own, at the last sweep; 0 = not known */
    size_t memory_bodies;  /* `body_bytes` at that time */
    uint64_t trim_mono_us; /* when malloc was last asked to give back what is free */
    bool memory_short;     /* as last logged */
};

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
    bool no_body;     /* HEAD, 204, 304: what is written is counted and dropped */
    bool watched;     /* its descriptor is in the gone set */
    bool body_held;   /* request->body is ours, and counted in server->body_bytes */
    uint64_t body_in; /* size of the request's body, for the log */
    /* Answers that the server gives itself are logged by the server.  NULL: not ours to log. */
    const char *outcome;
    const char *reason;
    const char *method, *path; /* in the pool */
};

/* ---- accept.c ---- */
MUST_CHECK int accept_init(struct http_server *server, struct error *err);
void accept_stop(struct http_server *server);
void accept_finish(struct http_server *server);
struct client_connection *connection_of(h2o_req_t *req);
/* Makes libh2o close a connection that has no request open, now. */
void connection_close(struct client_connection *conn);

/* ---- timeouts.c ---- */
void timeouts_init(struct http_server *server);
void timeouts_finish(struct http_server *server);
/* Would `more` bytes of request take the process over limits.worker_memory_bytes? */
bool timeouts_memory_short(const struct http_server *server, size_t more);

/* ---- responder.c ---- */
MUST_CHECK int responders_init(struct http_server *server, struct error *err);
void responders_finish(struct http_server *server);
/* Makes the responder of `request`; request->id and ->client are set. */
struct responder *responder_create(struct client_connection *conn, h2o_req_t *req,
                                   struct client_request *request);
/* Notices from now on when the client leaves. */
void responder_watch(struct responder *r);
/* Takes the request's body out of libh2o's buffers into memory of its own. */
void responder_take_body(struct responder *r);
/* The client has stalled, or the server ends: on_gone, and the connection is closed. */
void responder_lose(struct responder *r);
/* As if the connection had broken, before returning; for the server's end. */
void responder_break(struct responder *r);

/* ---- reject.c ---- */
void reject_init(h2o_pathconf_t *path, struct http_server *server);
/* A new id; in the pool. */
const char *execution_id(h2o_req_t *req);
/* The client's x-request-id, in the pool; NULL when there is none, or it is not fit. */
const char *client_id(h2o_req_t *req);

#endif
