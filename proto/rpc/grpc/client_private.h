/* client_private.h - what client_channel.c and client_call.c know of each other. */
#ifndef DROVER_PROTO_RPC_GRPC_CLIENT_PRIVATE_H
#define DROVER_PROTO_RPC_GRPC_CLIENT_PRIVATE_H

#include <sys/queue.h>

#include "proto/rpc/grpc/client.h"
#include "proto/rpc/h2/h2_session.h"

struct channel {
    struct h2_guard guard;
    struct loop *loop;            /* borrowed */
    struct channel_config config; /* with defaults filled in */
    struct h2_config h2;
    char *authority;            /* owned */
    char *tls_name;             /* owned; may be NULL */
    enum channel_state state;   /* written by set_state() only */
    struct h2_session *session; /* CONNECTING and READY; NULL otherwise */
    struct h2_sessions old;     /* draining: no new calls */
    TAILQ_HEAD(, call) waiting; /* calls not on a session, oldest first */
    unsigned waiting_count;
    struct deferred work;
    struct timer retry;    /* runs iff BACKOFF */
    uint64_t backoff_us;   /* the next one */
    uint64_t connect_us;   /* what the last successful connect took */
    unsigned quick_losses; /* connections in a row that ended soon after they began */
    bool wanted;           /* channel_connect() was called: stay connected */
    bool now;              /* ... and does not wait for the back-off */
    enum call_end trouble; /* what calls that fail in BACKOFF end with */
    char why[256];         /* likewise */
};

struct call {
    struct h2_stream stream;
    struct channel *channel;     /* borrowed; NULL once over */
    struct call_handler handler; /* copied */
    void *data;
    TAILQ_ENTRY(call) link; /* in channel->waiting iff `waiting` */
    bool waiting;           /* it is there */
    bool wait_for_ready;
    bool unary;
    struct timer deadline;
    uint64_t due_mono_us; /* 0 = no deadline */
    struct buf head;      /* path and metadata, until submitted; see client_call.c */
    unsigned messages;    /* received */

    /* Of the response. */
    bool started; /* a header block other than 1xx came */
    bool grpc;    /* content-type is right */
    bool has_status;
    unsigned http_status;
    enum grpc_status status;
    int64_t pushback_ms;
    struct buf message;
};

extern const struct h2_role client_role; /* client_call.c fills in most of it */

/* client_channel.c */
void channel_add_waiting(struct channel *channel, struct call *call);
void channel_unlink_waiting(struct channel *channel, struct call *call);
void channel_on_ready(struct h2_session *session);
void channel_on_goaway(struct h2_session *session, uint32_t h2_error_code);
void channel_on_room(struct h2_session *session);
void channel_on_down(struct h2_session *session, const char *why);

/* client_call.c.  All but call_drop() may call the user. */
/* Puts a waiting call on the session.  False: the session takes no more. */
MUST_CHECK bool call_submit(struct call *call, struct h2_session *session);
void call_end(struct call *call, enum grpc_status status, enum call_end end, const char *text);
/* Ends a call without a word. */
void call_drop(struct call *call);

#endif
