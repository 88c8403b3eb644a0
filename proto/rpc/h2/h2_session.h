/*
 * h2_session.h - one HTTP/2 connection, in either role, for the client and the server of grpc/.
 *
 * A session owns its socket, its nghttp2 session and the list of its streams; a stream is
 * embedded in a call of the client or of the server, which react through a role's functions.
 * Streams carry messages (proto/rpc/frame.h).  h2_session_private.h is what the three files
 * h2_session.c, h2_stream.c and h2_events.c share beyond this.
 *
 *   reading   one recv() a turn into a buffer shared by all sessions of the thread, then one
 *             nghttp2_session_mem_recv(); calls that got messages hear of it once, afterwards.
 *   writing   deferred to the end of the turn: all frames into one buffer, one send().  While
 *             the socket is full nothing more is serialised, so streams see the back-pressure.
 *   life      nothing is freed under its own callbacks.  Every entry from the loop takes the
 *             owner's guard, and what died meanwhile is freed when the last one leaves.
 */
#ifndef DROVER_PROTO_RPC_H2_H2_SESSION_H
#define DROVER_PROTO_RPC_H2_H2_SESSION_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"
#include "base/io/crowd.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/text/buf.h"
#include "proto/rpc/frame.h"
#include "proto/rpc/h2/flood.h"

struct h2_session;
struct h2_stream;
LIST_HEAD(h2_sessions, h2_session);
struct tls_stream;
struct error;

/* ---- guard: what may be freed only when no callback of ours is on the stack ----------- */

struct h2_guard {
    unsigned depth;
    bool doomed;                       /* the owner wants to be freed */
    SLIST_HEAD(, h2_stream) streams;   /* dead */
    SLIST_HEAD(, h2_session) sessions; /* dead */
    size_t buffered_bytes;             /* of messages held for lack of their rest */
    size_t max_buffered_bytes;         /* 0 = no limit */
    void (*free_owner)(struct h2_guard *guard);
};
static inline void h2_guard_enter(struct h2_guard *guard)
{
    guard->depth++;
}
void h2_guard_leave(struct h2_guard *guard);

/* ---- streams -------------------------------------------------------------------------- */

/* A send queue is called full from here on, and writable again below. */
#define H2_WRITABLE_BYTES 65536

/* Why a stream is ended by us for what the peer sent. */
enum h2_fault {
    H2_FAULT_HEADERS, /* over the header limits */
    H2_FAULT_FRAME,   /* see the frame_result */
};

/* Bytes that lie elsewhere and go out behind `out`, as messages of one protobuf field each.
 * Their owner keeps them until all are taken or h2_stream_unlend() has been called. */
struct h2_lent {
    const uint8_t *at; /* borrowed */
    size_t left;       /* from there on */
    size_t part_bytes; /* most of them in one message */
    size_t part_left;  /* of the message that has begun */
    uint8_t tag;       /* of the field */
    uint8_t head[16];  /* what comes before the part: prefix, tag, length */
    uint8_t head_len, head_off;
    bool recalled; /* taken back before all had gone: the stream can end by a reset only */
};

struct h2_stream {
    struct h2_session *session;      /* NULL: not on a connection (yet, or any more) */
    LIST_ENTRY(h2_stream) link;      /* in session->streams */
    STAILQ_ENTRY(h2_stream) batched; /* in session->batch */
    LIST_ENTRY(h2_stream) writable;  /* in session->writable iff in_writable */
    SLIST_ENTRY(h2_stream) dead;     /* in guard->streams */
    void (*free)(struct h2_stream *stream);
    int32_t id;
    bool over;     /* its owner wants to hear nothing more */
    bool in_batch; /* got messages in this read */
    bool in_writable;
    bool waiting;      /* the data provider ran dry: nghttp2 has deferred it */
    bool eof;          /* nothing will be added to `out` */
    bool full;         /* `out` went over H2_WRITABLE_BYTES and on_writable is owed */
    bool manual;       /* receive window opens by h2_stream_release() only */
    bool sent;         /* its HEADERS were serialised */
    bool local_end;    /* END_STREAM was serialised */
    bool remote_end;   /* END_STREAM was received */
    bool peer_reset;   /* RST_STREAM was received */
    bool reset;        /* RST_STREAM was submitted by us */
    unsigned fields;   /* of the header block being received */
    size_t head_bytes; /* of the header block being received */
    size_t unreleased; /* manual: message bytes delivered, not released */
    size_t held_bytes; /* a whole message that its owner keeps for later */
    size_t charged;    /* its share of guard->buffered_bytes */
    size_t unopened;   /* manual: bytes of prefixes not yet given back to the window */
    size_t prepaid;    /* manual: of those and of the partial message, already given back */
    struct frame_reader reader;
    struct buf out; /* framed messages not yet taken by nghttp2 */
    struct h2_lent lent;
};

void h2_stream_init(struct h2_stream *stream, size_t max_message_bytes,
                    void (*free_fn)(struct h2_stream *stream));
void h2_stream_finish(struct h2_stream *stream); /* frees what it holds, not itself */
/* Frees it by its own function when no callback is on the stack. */
void h2_stream_free_later(struct h2_guard *guard, struct h2_stream *stream);

/* Room for a framed message of `n` bytes, to be filled by the caller before
 * h2_stream_kick(); NULL = out of memory, or too large. */
MUST_CHECK uint8_t *h2_stream_add_space(struct h2_stream *stream, size_t n);
/* Lends it bytes to send after `out`, in messages that have them in the field with this tag and
 * nothing else, `part_bytes` at most in each.  Nothing is added to `out` afterwards. */
void h2_stream_lend(struct h2_stream *stream, uint8_t tag, const uint8_t *bytes, size_t n,
                    size_t part_bytes);
/* Reads none of them from now on. */
void h2_stream_unlend(struct h2_stream *stream);
/* Wakes nghttp2 after a change of `out`, `lent` or `eof`. */
void h2_stream_kick(struct h2_stream *stream);
void h2_stream_reset(struct h2_stream *stream, uint32_t h2_error_code);
/* manual: opens the window by `n` delivered message bytes. */
void h2_stream_release(struct h2_stream *stream, size_t n);
/* The provider for responses and requests; source.ptr must be the stream. */
nghttp2_data_provider h2_stream_provider(struct h2_stream *stream);
/* Brings the stream's share of guard->buffered_bytes up to date; false: over the limit. */
bool h2_stream_charge(struct h2_stream *stream);

/* ---- sessions ------------------------------------------------------------------------- */

struct h2_role {
    bool server;
    /* Server: a request begins.  Returns its stream, or NULL when out of memory. */
    struct h2_stream *(*on_request)(struct h2_session *session);
    void (*on_header)(struct h2_stream *stream, const uint8_t *name, size_t name_len,
                      const uint8_t *value, size_t value_len);
    void (*on_headers)(struct h2_stream *stream, bool end_stream);
    void (*on_message)(struct h2_stream *stream, const uint8_t *message, size_t n);
    void (*on_fault)(struct h2_stream *stream, enum h2_fault fault, enum frame_result frame);
    void (*on_remote_end)(struct h2_stream *stream);
    void (*on_batch)(struct h2_stream *stream);
    void (*on_writable)(struct h2_stream *stream);
    /* Everything queued has gone to nghttp2.  Server: submits trailers, returns true. */
    bool (*on_drained)(struct h2_stream *stream);
    /* nghttp2 is done with the stream, which is off the session already. */
    void (*on_closed)(struct h2_stream *stream, uint32_t h2_error_code);
    /* The connection broke under the stream, which is off the session already. */
    void (*on_lost)(struct h2_stream *stream, const char *why);
    void (*on_ready)(struct h2_session *session); /* the peer's SETTINGS are in */
    /* No new streams: GOAWAY came, or we are about to end the connection. */
    void (*on_goaway)(struct h2_session *session, uint32_t h2_error_code);
    /* A stream ended: there may be room for another. */
    void (*on_room)(struct h2_session *session);
    /* The connection is gone, and after this call the session too. */
    void (*on_down)(struct h2_session *session, const char *why);
};

struct h2_config {
    SSL_CTX *tls;              /* borrowed; NULL = cleartext */
    const char *tls_name;      /* borrowed for the session's life */
    uint64_t setup_timeout_us; /* TCP, TLS and SETTINGS together */
    uint64_t keepalive_us;     /* UINT64_MAX = never */
    uint64_t keepalive_timeout_us;
    uint64_t min_ping_interval_us; /* server */
    uint32_t stream_window_bytes;
    uint32_t connection_window_bytes;
    uint32_t max_streams; /* server: advertised */
    bool keepalive_idle;
};

/*
 *   from        when                                        to
 *   ---------   -----------------------------------------   ---------
 *   CONNECTING  TCP is up                                   TLS, or SETTINGS in cleartext
 *   TLS         handshake done, ALPN h2                     SETTINGS
 *   SETTINGS    the peer's SETTINGS came                    OPEN
 *   SETTINGS, OPEN  nghttp2 wants neither read nor write    LINGER
 *   LINGER      the peer closed, or 1 s passed              DEAD
 *   any         error, timeout, abandoned                   DEAD
 */
enum h2_phase {
    H2_CONNECTING = 0,
    H2_TLS,
    H2_SETTINGS,
    H2_OPEN,
    H2_LINGER, /* our side of TCP is shut; input is thrown away, so that no RST eats output */
    H2_DEAD,
};

struct h2_session {
    enum h2_phase phase;
    const struct h2_role *role; /* borrowed, static */
    struct h2_guard *guard;     /* borrowed: the owner's */
    void *owner;                /* borrowed */
    struct loop *loop;          /* borrowed */
    struct h2_config config;
    h2o_socket_t *sock;     /* owned; NULL iff DEAD */
    nghttp2_session *h2;    /* owned */
    struct tls_stream *tls; /* owned; NULL = cleartext */
    struct net_addr peer;
    struct buf out;      /* bytes for the socket */
    struct buf clear;    /* bytes for TLS, within one flush */
    bool blocked;        /* the socket is full; waiting for on_socket_writable() */
    bool draining;       /* GOAWAY sent or received: no new streams */
    bool closing;        /* lingers once all output is out */
    bool heard;          /* bytes came since the last PING of ours */
    bool pinged;         /* a keepalive PING is out */
    unsigned bare_pings; /* keepalive PINGs of ours since the peer's last HEADERS or DATA */
    struct deferred flush;
    struct timer timer;      /* setup, keepalive or linger, by phase */
    struct timer again;      /* more to write, or on_writable owed: next turn */
    struct timer drain;      /* server: second GOAWAY */
    uint64_t read_mono_us;   /* last byte read */
    uint64_t opened_mono_us; /* when TCP connect began, or the connection was accepted */
    uint64_t ready_mono_us;  /* the peer's SETTINGS; 0 = not yet */
    uint64_t ping_mono_us;   /* last PING of the peer */
    unsigned strikes;        /* PINGs that came too fast */
    uint64_t lingered_bytes; /* thrown away in LINGER */
    struct flood flood;
    const char *blame; /* static: what the peer did that made us end it; NULL = nothing */
    unsigned open;     /* length of `streams` */
    LIST_HEAD(, h2_stream) streams;
    STAILQ_HEAD(, h2_stream) batch; /* got messages in this read */
    LIST_HEAD(, h2_stream) writable;
    LIST_ENTRY(h2_session) link;  /* in a list of the owner's */
    struct crowd_member stranger; /* in a crowd of the owner's */
    SLIST_ENTRY(h2_session) dead; /* in guard->sessions */
};

/* Connects, without calling back.  DRV_ENOMEM; DRV_EFULL: no descriptor or port to be
 * had here; DRV_ESYS: connect(2) failed at once. */
MUST_CHECK int h2_session_connect(struct h2_session **out, struct loop *loop,
                                  const struct h2_role *role, struct h2_guard *guard,
                                  void *owner, const struct h2_config *config,
                                  const struct net_addr *addr, struct error *err);

/* Takes over an accepted socket; closes it on failure.  DRV_ENOMEM. */
MUST_CHECK int h2_session_accept(struct h2_session **out, struct loop *loop,
                                 const struct h2_role *role, struct h2_guard *guard,
                                 void *owner, const struct h2_config *config, int fd,
                                 const struct net_addr *peer, struct error *err);

/* Ends it now: on_lost for each stream, then on_down.  Does nothing when DEAD. */
void h2_session_down(struct h2_session *session, const char *why);
/* Server: GOAWAY twice, a PING apart; closes when the last stream has ended. */
void h2_session_shutdown(struct h2_session *session);
/* Client: sends GOAWAY; closes when the last stream has ended. */
void h2_session_retire(struct h2_session *session);

void h2_session_attach(struct h2_session *session, struct h2_stream *stream, int32_t id);
void h2_session_flush_later(struct h2_session *session);
/* Streams the peer would take now. */
uint32_t h2_session_room(const struct h2_session *session);

#endif
