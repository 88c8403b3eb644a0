/*
 * server_state.h - the state that the files of the HTTP server share: the server and its
 * connections.  Only these files and tests include it.
 *
 *   server.c     the server's life; from a complete request to its answer's owner
 *   accept.c     connections: accepts them, limits, counts
 *   timeouts.c   time limits of connections, on the monotonic clock; the limit of memory
 *   entry/       heads, before libh2o sees them; keys, web pages, proxies, header lines
 *   intake.c     bodies that have not come with the head
 *   responder.c  one answer
 *   reject.c     sends replies
 */
#ifndef DROVER_WORKER_HTTP_SERVER_STATE_H
#define DROVER_WORKER_HTTP_SERVER_STATE_H

#include <h2o.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/io/background.h"
#include "base/io/loop.h"
#include "base/secure/proxies.h"
#include "policy/share/clients.h"
#include "worker/api/caller.h"
#include "worker/api/catalog.h"
#include "worker/api/surface.h"
#include "worker/encoding/decode_queue.h"
#include "worker/http/framing/strict_head.h"

struct client_count;
struct client_request;
struct config;
struct intake;
struct log_sink;
struct responder;
struct scoreboard;

/* One accepted connection, from accept() until its descriptor is closed. */
struct client_connection {
    struct http_server *server;
    TAILQ_ENTRY(client_connection) link; /* in server->connections */
    h2o_socket_t *sock;                  /* libh2o's; valid until on_close frees this struct */
    struct responder *current;           /* the request being answered; NULL between requests */
    struct client_count *counted;        /* NULL when this address is not counted */
    uint64_t address;                    /* its client's, as a number; 0 = none */
    struct client_share *share;          /* its client's */
    uint64_t since_mono_us;              /* accepted, or the last answer ended */
    uint64_t reading_mono_us; /* a part of a head was first seen; 0 = none is there */
    bool fresh;               /* no complete request yet */
    bool proxied;             /* its peer, or whom that speaks for, is a trusted proxy */
    /* worker/http/entry/heads.c */
    bool head_seen;          /* `head` is the present request's, and has been shown to libh2o */
    enum api_error refused;  /* it is not in order: what for, and why */
    const char *refused_why; /* */
    struct strict_head head;
    size_t shown_len;             /* of the present request, as libh2o sees it */
    uint32_t looked;              /* bytes of a head that does not end with them */
    h2o_buffer_t *hidden;         /* owned: what came behind the present request; else NULL */
    h2o_socket_cb read_head;      /* libh2o's callback, while ours is in its place */
    struct deferred watch;        /* puts it there */
    struct intake *intake;        /* owned: reads a body, or what is left of it; else NULL */
    struct peer_address peer;     /* its client's */
    char client[PEER_TEXT_BYTES]; /* the same as text */
};

#define CLIENT_BUCKETS 256

struct http_server {
    /* http_server_params, all borrowed. */
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    unsigned worker;
    int listen_fd;
    struct log_sink *access_log;
    void (*on_infer)(struct client_request *request, void *data);
    void (*settle_name)(struct client_request *request, void *data);
    bool (*ready)(void *data);
    bool (*models_unknown)(void *data);
    bool (*models_awaited)(void *data);
    void *data;

    char coordinator_id[17]; /* hexadecimal; the same in all workers, another after a restart */
    h2o_globalconf_t globalconf;
    h2o_context_t context;
    h2o_accept_ctx_t accept;
    SSL_CTX *ssl; /* owned; NULL = cleartext */
    bool draining;
    uint64_t drain_mono_us;
    struct proxy_net *proxies; /* api.trusted_proxies; owned */
    unsigned proxies_count;
    struct clients shares; /* whose connections and bodies there are */
    size_t body_bytes; /* request bodies held, as far as they have come, and what decoding one
                          takes beside it */
    unsigned intakes;  /* bodies that intake.c is reading */
    struct background looks; /* intake.c: through bodies that have come */
    struct decode_queue decoding;
    struct catalog catalog;
    struct callers callers;

    /* accept.c */
    h2o_socket_t *listener; /* on a duplicate of listen_fd; NULL once draining */
    bool listening;         /* the listener is being read */
    struct timer accept_timer;
    unsigned held_off;        /* looks in a row that found clients waiting */
    unsigned max_connections; /* limits.max_connections, or what descriptors allow */
    int spare_fd;             /* given up to turn a connection away; -1 = gone */
    TAILQ_HEAD(, client_connection) connections;
    unsigned connections_count;
    struct client_count *clients[CLIENT_BUCKETS];

    /* server.c and intake.c, which responder.c does not know: a request is over; its answer has
     * been sent, but the client still sends, and responder_go_on() is called when it has had
     * its time. */
    void (*request_over)(struct client_connection *conn);
    bool (*still_sends)(struct client_connection *conn);

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

#endif
