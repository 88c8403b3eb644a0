/*
 * client.h - gRPC client: a channel is one HTTP/2 connection to one peer, kept up; a call is
 * one stream on it.
 *
 * A channel connects at channel_connect() or when the first call needs it, and after
 * a loss connects again with back-off (gRPC doc/connection-backoff.md: initial, x1.6, cap, +-20
 * % jitter, reset when the peer's SETTINGS arrive).  Calls started while it connects wait for
 * it; while it backs off they fail at once with UNAVAILABLE.  Keepalive PINGs, GOAWAY (streams
 * above the last id end as refused, the others go on while a new connection is made for new
 * calls), TCP_USER_TIMEOUT, stream ids running out and the peer's MAX_CONCURRENT_STREAMS
 * (waiting calls queue in the channel) are handled here.
 *
 * No callback runs from inside channel_create, channel_connect, call_start, call_send,
 * call_half_close, call_release, call_cancel or channel_destroy: they come from the loop.
 * All output of a turn leaves in one write per connection at the end of the turn.
 */
#ifndef DROVER_PROTO_RPC_GRPC_CLIENT_H
#define DROVER_PROTO_RPC_GRPC_CLIENT_H

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
struct channel; /* opaque */
struct call;    /* opaque */

enum channel_state {
    CHANNEL_IDLE = 0,   /* not connected, not wanted */
    CHANNEL_CONNECTING, /* TCP, TLS, or waiting for the peer's SETTINGS */
    CHANNEL_READY,
    CHANNEL_BACKOFF, /* failed; will connect again by itself */
};

/* Zero in a number means the default in brackets. */
struct channel_config {
    struct net_addr addr;
    const char *authority; /* copied; NULL: the address as text */
    SSL_CTX *tls;          /* borrowed: outlives the channel; NULL = cleartext (h2c) */
    const char *tls_name;  /* copied; name to verify and SNI; NULL = do not verify a name */
    uint64_t connect_timeout_us;      /* until SETTINGS [3 s] */
    uint64_t backoff_min_us;          /* [1 s] */
    uint64_t backoff_max_us;          /* [30 s] */
    uint64_t keepalive_us;            /* silence before a PING; UINT64_MAX = never [10 s] */
    uint64_t keepalive_timeout_us;    /* for any byte to come back [5 s] */
    bool keepalive_idle;              /* also ping while no call is open */
    uint32_t stream_window_bytes;     /* [256 KiB] */
    uint32_t connection_window_bytes; /* [16 MiB] */
    size_t max_message_bytes;         /* of a received message [4 MiB] */
    /* The state changed.  `why` is one line for people, "" when all is well.  May be NULL. */
    void (*on_state)(struct channel *channel, enum channel_state state, const char *why,
                     void *data);
    void *data;
};

MUST_CHECK int channel_create(struct channel **out, struct loop *loop,
                              const struct channel_config *config, struct error *err);

/* Cancels every call without calling back, closes, frees.  NULL is allowed.  Safe in callbacks.
 */
void channel_destroy(struct channel *channel);

/* Connects if IDLE, or at once if backing off; and from now on stays connected. */
void channel_connect(struct channel *channel);
enum channel_state channel_state(const struct channel *channel);

/* The time from starting the last successful connect to its SETTINGS; 0 = never connected. */
uint64_t channel_connect_us(const struct channel *channel);

/* Why a call ended, beyond its status. */
enum call_end {
    CALL_END_STATUS = 0, /* the peer said so (trailers or RST_STREAM) */
    CALL_END_REFUSED,    /* the peer certainly never processed it (never sent, REFUSED_STREAM,
                            GOAWAY) */
    CALL_END_LOST,       /* the connection broke after the call had been sent */
    CALL_END_CONNECT,    /* no connection could be made */
    CALL_END_DEADLINE,   /* our own deadline */
    CALL_END_PROTOCOL,   /* the peer broke gRPC or a limit of ours; status says which */
    CALL_END_LOCAL,      /* out of memory or descriptors here; not the peer's fault */
};

struct call_result {
    enum grpc_status status;
    enum call_end end;
    /* Percent-decoded, UTF-8 checked; "" when none; borrowed for the callback. */
    const char *message;
    int64_t pushback_ms; /* grpc-retry-pushback-ms; -1 = do not retry; -2 = absent */
};

struct call_handler {
    /* One whole message; the bytes are borrowed for the callback.  May be NULL. */
    void (*on_message)(struct call *call, const uint8_t *message, size_t n, void *data);
    /* A batch of input is over: every message that one read of the socket brought for this call
     * has been delivered.  May be NULL. */
    void (*on_batch)(struct call *call, void *data);
    /* Exactly once, unless call_cancel or channel_destroy came first; the call is freed
     * afterwards. */
    void (*on_end)(struct call *call, const struct call_result *result, void *data);
    /* The send queue fell under 64 KiB again.  May be NULL. */
    void (*on_writable)(struct call *call, void *data);
};

struct call_metadata {
    const char *name;  /* lower case; ends in "-bin" when the value is bytes */
    const void *value; /* raw; base64 is added for -bin */
    size_t len;
};

struct call_options {
    const char *path;                     /* "/drover.v1.Inference/Infer" */
    uint64_t timeout_us;                  /* 0 = no deadline */
    const struct call_metadata *metadata; /* copied */
    size_t metadata_count;
    bool manual_window;       /* the stream's receive window opens only by call_release() */
    bool wait_for_ready;      /* wait also while the channel backs off */
    bool unary;               /* exactly one message must come with status OK */
    size_t max_message_bytes; /* 0 = the channel's */
};

/* Starts a call.  Returns 0 and *out, or DRV_ENOMEM; DRV_EINVAL: metadata that cannot be sent
 * (more than 48 fields, a reserved name, a NUL in a text value). */
MUST_CHECK int call_start(struct call **out, struct channel *channel,
                          const struct call_options *options,
                          const struct call_handler *handler, void *data, struct error *err);

/* Queues a message (copied).  DRV_ENOMEM; DRV_ECLOSED after half-close. */
MUST_CHECK int call_send(struct call *call, const ProtobufCMessage *message);
void call_half_close(struct call *call);

/*
 * Sends, after what is queued, `n` bytes that stay where they are: as messages that have a part
 * of them, `part` bytes at most, in the field with this number (1 to 15) and nothing else. Only
 * the half-close may follow.  The bytes are the call's until all have gone, call_unlend() or
 * the call's end (on_end, call_cancel).
 */
void call_lend(struct call *call, unsigned field, const uint8_t *bytes, size_t n, size_t part);
/* Lent bytes that the connection has not taken yet. */
size_t call_lent(const struct call *call);
/* Takes them back.  If some have not gone, the call stays cut off where it is: cancel it, or
 * let the peer end it. */
void call_unlend(struct call *call);

/* Bytes queued and not yet handed to the connection. */
size_t call_queued(const struct call *call);

/* With manual_window: `n` message bytes, as counted by on_message, were disposed of.  It is
 * fine to gather up to 32 KiB of them and release them together. */
void call_release(struct call *call, size_t n);

/* RST_STREAM(CANCEL) (or nothing, if it never left), then frees.  on_end does not run. */
void call_cancel(struct call *call);

#endif
