/* server.c - listens, takes connections, stops. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "proto/rpc/grpc/server_private.h"

#define ACCEPTS_PER_TURN 16
#define RESUME_US        UINT64_C(50000) /* after accept() failed for want of descriptors */
#define SETUP_US         UINT64_C(5000000)
#define REQUEST_US       UINT64_C(60000000)

static void on_acceptable(h2o_socket_t *sock, const char *err);

/* ---- accepting ------------------------------------------------------------------------ */

static void on_resume(struct timer *timer)
{
    struct grpc_server *server = CONTAINER_OF(timer, struct grpc_server, resume);
    struct listener *listener;

    server->paused = false;
    SLIST_FOREACH(listener, &server->listeners, link)
        h2o_socket_read_start(listener->sock, on_acceptable);
}

/* Out of descriptors or memory: a listener that stays readable would spin. */
static void pause_accepting(struct grpc_server *server)
{
    static struct log_limit limit;
    struct listener *listener;
    uint32_t missed;

    if (log_limit_ok(&limit, 1, &missed))
        log_warn("event=accept_failed error=%s missed=%u", log_quote(strerror(errno)), missed);
    server->paused = true;
    SLIST_FOREACH(listener, &server->listeners, link)
        h2o_socket_read_stop(listener->sock);
    timer_start(server->loop, &server->resume, RESUME_US, on_resume);
}

/* The one that was silent longest without a call, among those that have proven who they are. */
static struct h2_session *idlest(const struct grpc_server *server)
{
    struct h2_session *session, *found = NULL;

    LIST_FOREACH(session, &server->sessions, link)
        if (session->open == 0 &&
            (found == NULL || session->read_mono_us < found->read_mono_us))
            found = session;
    return found;
}

/* With all places taken a stranger's connection is closed, with what is open on it: the oldest
 * of the address that has most.  So strangers keep no peer out, whatever they hold open. */
static bool make_room(struct grpc_server *server)
{
    static struct log_limit limit;
    struct crowd_member *first = crowd_first_out(&server->strangers);
    struct h2_session *out =
        first == NULL ? idlest(server) : CONTAINER_OF(first, struct h2_session, stranger);
    char peer[NET_TEXT_BYTES];
    uint32_t missed;

    if (out == NULL)
        return false;
    server->crowded++;
    net_format_host(peer, sizeof(peer), &out->peer);
    if (log_limit_minute(&limit, &missed))
        log_warn("event=connections_crowded connections=%u closed_peer=%s missed=%u",
                 server->connections, log_quote(peer), missed);
    h2_session_down(out, "made room for another connection");
    return true;
}

static void welcome(struct grpc_server *server, int fd, struct net_addr *peer)
{
    struct h2_session *session;

    net_unmap(peer);
    if (server->connections >= server->config.max_connections && !make_room(server)) {
        (void)close(fd);
        return;
    }
    if (h2_session_accept(&session, server->loop, &server_role, &server->guard, server,
                          &server->h2, fd, peer, NULL) != 0)
        return;
    LIST_INSERT_HEAD(&server->sessions, session, link);
    server->connections++;
    if (crowd_join(&server->strangers, &session->stranger,
                   net_peer_key((const struct sockaddr *)&peer->sa)) != 0)
        h2_session_down(session, "out of memory");
}

static void on_acceptable(h2o_socket_t *sock, const char *err)
{
    struct listener *listener = sock->data;
    struct grpc_server *server = listener->server;
    unsigned i;

    (void)err;
    for (i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct net_addr peer = {.len = sizeof(peer.sa)};
        int fd = accept4(h2o_socket_get_fd(sock), (struct sockaddr *)&peer.sa, &peer.len,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd != -1) {
            welcome(server, fd, &peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            pause_accepting(server);
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void close_listeners(struct grpc_server *server)
{
    struct listener *listener;

    timer_stop(server->loop, &server->resume);
    while ((listener = SLIST_FIRST(&server->listeners)) != NULL) {
        SLIST_REMOVE_HEAD(&server->listeners, link);
        if (h2o_socket_is_reading(listener->sock))
            h2o_socket_read_stop(listener->sock);
        h2o_socket_close(listener->sock);
        free(listener);
    }
}

int grpc_server_listen(struct grpc_server *server, int fd, struct error *err)
{
    struct listener *listener = calloc(1, sizeof(*listener));

    if (listener == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    listener->server = server;
    listener->sock = h2o_evloop_socket_create(server->loop->h2o, fd, H2O_SOCKET_FLAG_DONT_READ);
    listener->sock->data = listener;
    SLIST_INSERT_HEAD(&server->listeners, listener, link);
    if (!server->paused)
        h2o_socket_read_start(listener->sock, on_acceptable);
    return 0;
}

/* ---- life ----------------------------------------------------------------------------- */

static void free_server(struct h2_guard *guard)
{
    free(CONTAINER_OF(guard, struct grpc_server, guard));
}

#define OR_DEFAULT(value, otherwise) ((value) != 0 ? (value) : (otherwise))

int grpc_server_create(struct grpc_server **out, struct loop *loop,
                       const struct server_config *config, struct error *err)
{
    struct grpc_server *server = calloc(1, sizeof(*server));

    *out = NULL;
    if (server == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    server->guard.free_owner = free_server;
    server->guard.max_buffered_bytes =
        OR_DEFAULT(config->max_buffered_bytes, (size_t)512 << 20);
    server->loop = loop;
    server->config = *config;
    server->config.max_connections = OR_DEFAULT(config->max_connections, 1024U);
    server->config.request_timeout_us = OR_DEFAULT(config->request_timeout_us, REQUEST_US);
    server->h2 = (struct h2_config){
        .tls = config->tls,
        .setup_timeout_us = SETUP_US,
        .keepalive_us = OR_DEFAULT(config->keepalive_us, UINT64_C(10000000)),
        .keepalive_timeout_us = OR_DEFAULT(config->keepalive_timeout_us, UINT64_C(5000000)),
        .min_ping_interval_us = OR_DEFAULT(config->min_ping_interval_us, UINT64_C(5000000)),
        .stream_window_bytes = UINT32_C(1) << 20,
        .connection_window_bytes = UINT32_C(16) << 20,
        .max_streams = OR_DEFAULT(config->max_streams, 1024U),
        .keepalive_idle = true,
    };
    *out = server;
    return 0;
}

static void on_idle(struct deferred *deferred)
{
    struct grpc_server *server = CONTAINER_OF(deferred, struct grpc_server, idle);

    if (server->idle_reported)
        return;
    server->idle_reported = true;
    timer_stop(server->loop, &server->grace);
    h2_guard_enter(&server->guard);
    if (server->on_idle != NULL)
        server->on_idle(server, server->idle_data);
    h2_guard_leave(&server->guard);
}

/* A peer that floods us comes again: one line a second is enough. */
static void log_blame(const struct h2_session *session)
{
    static struct log_limit limit;
    char peer[NET_TEXT_BYTES];
    uint32_t missed;

    if (!log_limit_ok(&limit, 1, &missed))
        return;
    net_format_host(peer, sizeof(peer), &session->peer);
    log_warn("event=peer_sent_away peer=%s why=%s missed=%u", log_quote(peer),
             log_quote(session->blame), missed);
}

void server_on_down(struct h2_session *session, const char *why)
{
    struct grpc_server *server = session->owner;

    (void)why;
    if (session->blame != NULL)
        log_blame(session);
    LIST_REMOVE(session, link);
    crowd_leave(&server->strangers, &session->stranger);
    server->connections--;
    if (server->stopping && server->connections == 0 && !server->guard.doomed)
        loop_defer(server->loop, &server->idle, on_idle);
}

uint64_t grpc_server_crowded(const struct grpc_server *server)
{
    return server->crowded;
}

static void close_sessions(struct grpc_server *server)
{
    h2_guard_enter(&server->guard);
    while (!LIST_EMPTY(&server->sessions))
        h2_session_down(LIST_FIRST(&server->sessions), "server stopped");
    h2_guard_leave(&server->guard);
}

static void on_grace_over(struct timer *timer)
{
    struct grpc_server *server = CONTAINER_OF(timer, struct grpc_server, grace);

    close_sessions(server);
}

void grpc_server_shutdown(struct grpc_server *server, uint64_t grace_us,
                          void (*on_idle_fn)(struct grpc_server *server, void *data),
                          void *data)
{
    struct h2_session *session;

    if (server->stopping)
        return;
    server->stopping = true;
    server->on_idle = on_idle_fn;
    server->idle_data = data;
    close_listeners(server);
    LIST_FOREACH(session, &server->sessions, link)
        h2_session_shutdown(session);
    if (server->connections == 0)
        loop_defer(server->loop, &server->idle, on_idle);
    else
        timer_start(server->loop, &server->grace, grace_us, on_grace_over);
}

void grpc_server_destroy(struct grpc_server *server)
{
    if (server == NULL || server->guard.doomed)
        return;
    h2_guard_enter(&server->guard);
    server->guard.doomed = true;
    close_listeners(server);
    timer_stop(server->loop, &server->grace);
    loop_undefer(server->loop, &server->idle);
    close_sessions(server);
    h2_guard_leave(&server->guard);
}

void grpc_server_set_tls(struct grpc_server *server, SSL_CTX *tls)
{
    server->config.tls = tls;
    server->h2.tls = tls;
}
