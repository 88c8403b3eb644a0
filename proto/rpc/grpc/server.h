/*
 * server.h - gRPC server: listens, takes connections, dispatches calls to methods.
 *
 * Floods are bounded per connection: header bytes and fields, PING, SETTINGS, RST_STREAM, empty
 * DATA and other frames that carry nothing; a connection over a limit gets GOAWAY
 * (ENHANCE_YOUR_CALM) and is closed.  A connection must complete TLS and SETTINGS within 5 s.
 *
 * No callback runs from inside a server_* function.  Output of a turn leaves in one write per
 * connection at the end of the turn.
 */
#ifndef DROVER_PROTO_RPC_GRPC_SERVER_H
#define DROVER_PROTO_RPC_GRPC_SERVER_H

#include <openssl/ssl.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/io/net.h"
#include "proto/rpc/grpc/status.h"

struct error;
struct loop;
struct grpc_server; /* opaque */
struct server_call; /* opaque */

struct server_handler {
    /* The call's headers are in.  May finish the call at once. */
    void (*on_start)(struct server_call *call, void *method_data);
    /* One whole message; borrowed for the callback. */
    void (*on_message)(struct server_call *call, const uint8_t *message, size_t n);
    /* The client sends no more.  For unary methods (client_streaming false) the library has
     * checked that exactly one message came, and calls this right after on_message.  May be
     * NULL. */
    void (*on_half_close)(struct server_call *call);
    /* The call is over without server_call_finish(): reset, connection lost, or deadline
     * passed. The handle is invalid afterwards. */
    void (*on_gone)(struct server_call *call);
    /* After server_call_finish(), when the trailers are out or lost: the handle is invalid
     * afterwards.  May be NULL. */
    void (*on_closed)(struct server_call *call);
    /* The send queue fell under 64 KiB again.  May be NULL. */
    void (*on_writable)(struct server_call *call);
};

struct server_method {
    const char *path; /* "/drover.v1.Inference/Infer"; static */
    const struct server_handler *handler;
    bool client_streaming;
    bool manual_window;       /* a call's receive window opens only by server_call_release() */
    size_t max_message_bytes; /* 0 = 4 MiB */
    void *data;
};

struct server_config {
    const struct server_method *methods; /* borrowed: outlives the server */
    size_t methods_count;
    SSL_CTX *tls;                  /* borrowed; NULL = cleartext */
    uint32_t max_connections;      /* 0 = 1024; see make_room() of server.c */
    uint32_t max_streams;          /* per connection, advertised; 0 = 1024 */
    uint64_t keepalive_us;         /* silence before we PING the client; 0 = 10 s */
    uint64_t keepalive_timeout_us; /* 0 = 5 s */
    uint64_t min_ping_interval_us; /* faster PINGs from clients are strikes; 0 = 5 s */
    uint64_t request_timeout_us;   /* for a unary call's message to be whole; 0 = 60 s */
    size_t max_buffered_bytes;     /* of incomplete messages, all connections; 0 = 512 MiB */
    /* A call came for a path of no method; it ends with UNIMPLEMENTED by itself.  For a line in
     * the log: the path is text from outside, not terminated.  May be NULL. */
    void (*on_unknown)(void *data, const struct net_addr *peer, const char *path, size_t n);
    void *data; /* of on_unknown */
};

MUST_CHECK int grpc_server_create(struct grpc_server **out, struct loop *loop,
                                  const struct server_config *config, struct error *err);

/* Takes over a listening socket (closed with the server).  DRV_ESYS. */
MUST_CHECK int grpc_server_listen(struct grpc_server *server, int fd, struct error *err);

/* Stops accepting, sends GOAWAY twice as gRPC A9 says, lets calls finish.  `on_idle` (may be
 * NULL) runs from the loop once the last connection has closed, or at `grace_us`, which closes
 * the rest. */
void grpc_server_shutdown(struct grpc_server *server, uint64_t grace_us,
                          void (*on_idle)(struct grpc_server *server, void *data), void *data);

/* Closes everything; on_gone runs for each open call first.  NULL is allowed. */
void grpc_server_destroy(struct grpc_server *server);

/* Connections from now on are over TLS with this context (borrowed), or in clear for NULL;
 * those that exist stay as they are. */
void grpc_server_set_tls(struct grpc_server *server, SSL_CTX *tls);

/* Connections that were closed to make room for others, since the start. */
uint64_t grpc_server_crowded(const struct grpc_server *server);

void *server_call_data(const struct server_call *call); /* what server_call_set_data() stored */
void server_call_set_data(struct server_call *call, void *data);

/* First value of a request metadata field, or NULL.  "-bin" values come decoded; *n gets the
 * length; the bytes are NUL-terminated and live as long as the call. */
const void *server_call_metadata(const struct server_call *call, const char *name, size_t *n);
/* With manual_window: `n` message bytes, as counted by on_message, were disposed of. */
void server_call_release(struct server_call *call, size_t n);
/* An IPv4 peer of a listener on [::] has its IPv4 address. */
void server_call_peer(const struct server_call *call, struct net_addr *out);
/* The caller has proven who it is: its connection is closed for no stranger's sake. */
void server_call_vouch(struct server_call *call);

/* Queues a message (copied).  DRV_ENOMEM; DRV_ECLOSED when the call is over. */
MUST_CHECK int server_call_send(struct server_call *call, const ProtobufCMessage *message);
size_t server_call_queued(const struct server_call *call);

/* Ends the call; queued messages go out first.  `message` may be NULL.  Call data stays until
 * on_closed.  pushback_ms: grpc-retry-pushback-ms, or -2 for none. */
void server_call_finish(struct server_call *call, enum grpc_status status, const char *message);
void server_call_finish_pushback(struct server_call *call, enum grpc_status status,
                                 const char *message, int64_t pushback_ms);

#endif
