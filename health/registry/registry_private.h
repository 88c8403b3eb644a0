/*
 * registry_private.h - what registry.c, the service, and node_stream.c, a stream of it, know of
 * each other.
 *
 * A stream's life:
 *
 *   GREETED  -> JOINED    a good proof came, and there is room
 *   GREETED  -> REFUSING  a bad proof came: the answer waits a random moment, so that its
 *                         timing reveals nothing
 *   any      -> ENDING    server_call_finish() was called
 *
 * and it is freed when the server says that the call is gone or closed.
 */
#ifndef DROVER_HEALTH_REGISTRY_PRIVATE_H
#define DROVER_HEALTH_REGISTRY_PRIVATE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/io/crowd.h"
#include "base/io/loop.h"
#include "base/log.h"
#include "health/registry/strikes.h"
#include "proto/join.h"
#include "proto/rpc/grpc/server.h"
#include "proto/wire.h"
#include "shm/facts/nodes.h"

struct config;
struct health_service;
struct node;
struct node_stream_ops;
struct node_table;
struct registry;

/* Streams that have not proven the token yet.  When one more comes, the oldest of the address
 * that has most ends: a crowd of silent ones keeps no node out, wherever it comes from. */
#define REGISTRY_MAX_STRANGERS 256u

enum node_stream_phase {
    NODE_STREAM_GREETED = 0,
    NODE_STREAM_REFUSING,
    NODE_STREAM_JOINED,
    NODE_STREAM_ENDING,
};

struct node_stream {
    struct registry *registry;
    TAILQ_ENTRY(node_stream) link; /* in registry->streams */
    struct crowd_member stranger;  /* in registry->strangers while GREETED or REFUSING */
    struct server_call *call;      /* borrowed: valid until on_gone or on_closed */
    enum node_stream_phase phase;
    uint64_t peer_key; /* net_peer_key() of the peer */
    struct timer timer;
    struct node *node;       /* NULL unless phase == NODE_STREAM_JOINED */
    struct join_facts facts; /* server_nonce from the start, the rest while registering */
};

struct registry {
    struct loop *loop;             /* borrowed */
    struct node_table *table;      /* borrowed */
    const struct config *config;   /* borrowed */
    struct grpc_server *server;    /* owned */
    struct health_service *health; /* owned */
    struct server_method methods[3];
    SSL_CTX *tls; /* owned */
    TAILQ_HEAD(, node_stream) streams;
    struct crowd strangers;  /* streams that are GREETED or REFUSING */
    unsigned joined_streams; /* streams that are JOINED */
    struct strikes strikes;
    struct wire_arena arena;
    struct log_limit refused_limit, version_limit, late_limit, crowded_limit;
    struct node_info scratch; /* too big for the stack of a callback */
    uint64_t joins, refused;
    uint64_t crowded; /* streams that were ended to make room for others */
    char id[64];      /* this coordinator, for the logs of nodes */
    bool stopping;
    bool *stopped; /* borrowed; see registry_stop() */
};

/* The table reports the fate of nodes through these. */
extern const struct node_stream_ops registry_stream_ops;
/* Of the method Attach, whose data is the registry. */
extern const struct server_handler registry_stream_handler;

/* Informs the node, if the stream still says something, that the coordinator stops. */
void node_stream_shutdown(struct node_stream *stream);

/* Its call is gone. */
void node_stream_free(struct node_stream *stream);

#endif
