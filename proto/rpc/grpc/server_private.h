/* server_private.h - what server.c and server_call.c know of each other. */
#ifndef DROVER_PROTO_RPC_GRPC_SERVER_PRIVATE_H
#define DROVER_PROTO_RPC_GRPC_SERVER_PRIVATE_H

#include "base/io/crowd.h"
#include "proto/rpc/grpc/metadata.h"
#include "proto/rpc/grpc/server.h"
#include "proto/rpc/h2/h2_session.h"

struct listener {
    struct grpc_server *server;
    h2o_socket_t *sock;         /* owned */
    SLIST_ENTRY(listener) link; /* in server->listeners */
};

struct grpc_server {
    struct h2_guard guard;
    struct loop *loop;           /* borrowed */
    struct server_config config; /* with defaults filled in */
    struct h2_config h2;
    SLIST_HEAD(, listener) listeners; /* owned */
    struct h2_sessions sessions;      /* all that are not dead */
    unsigned connections;             /* length of `sessions` */
    struct crowd strangers;           /* those of them that proved nothing yet */
    uint64_t crowded;                 /* connections closed to make room */
    bool paused;                      /* accept() failed: the listeners are not read */
    bool stopping;
    bool idle_reported;
    struct timer resume;
    struct timer grace;
    struct deferred idle;
    void (*on_idle)(struct grpc_server *server, void *data);
    void *idle_data;
};

extern const struct h2_role server_role; /* server_call.c fills in most of it */

/* server.c */
void server_on_down(struct h2_session *session, const char *why);

#endif
