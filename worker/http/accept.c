/*
 * accept.c - accepts connections, and counts them.
 *
 * The listening socket is shared by all workers.  At most ACCEPT_BATCH connections are accepted
 * per event, so that a burst spreads over the workers and the open streams get their turn.  A
 * worker at its limit of connections or out of descriptors stops reading the listener, which
 * stays readable and would make the loop spin; the others accept new connections.  It tries
 * again by timer, and when a connection closes.  If each look for a second found connections
 * waiting, no worker accepts them: this one rejects them with an answer.  Before that,
 * connections that are of no use give way to them (entry/give_way.h).
 *
 * A connection of a trusted proxy waits for its first bytes: they may say whose it is.
 *
 * The limit of connections leaves descriptors for everything else: the nodes, the logs.
 */
#include "worker/http/accept.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <h2o/http1.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/io/descriptors.h"
#include "base/io/net.h"
#include "base/log.h"
#include "shm/facts/procs.h"
#include "worker/http/entry/give_way.h"
#include "worker/http/entry/heads.h"
#include "worker/http/entry/peer.h"
#include "worker/http/entry/shares.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

#define ACCEPT_BATCH    16
#define ACCEPT_RETRY_US (50 * 1000)
#define ACCEPT_AGAIN_US (5 * 1000) /* some gave way, and more clients wait */

/* Looks in a row (one second) that found clients waiting, before these are rejected. */
#define SHED_AFTER 20
#define SHED_BATCH 16

/* The kernel holds at most this much unsent answer; beyond it the engine waits.  Without a
 * limit it takes megabytes for a client that does not read. */
#define UNSENT_BYTES (128 * 1024)

/* Descriptors of a worker that are neither clients nor nodes: logs, epoll sets, timers,
 * signals, what the master passed on; and some to spare. */
#define OTHER_FDS 96u

/* Connections of one client: an IPv4 address, or the /64 of an IPv6 address. */
struct client_count {
    struct client_count *next;
    uint64_t key;
    unsigned count;
};

static void start_listening(struct http_server *server);
static void on_retry(struct timer *timer);

/* ---- clients ----------------------------------------------------------------------------- */

static struct client_count **client_entry(struct http_server *server, uint64_t key)
{
    size_t bucket = (size_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 56) % CLIENT_BUCKETS;
    struct client_count **entry = &server->clients[bucket];

    while (*entry != NULL && (*entry)->key != key)
        entry = &(*entry)->next;
    return entry;
}

/* Counts one more connection.  False: this client has its share already. */
static bool client_take(struct http_server *server, uint64_t key, struct client_count **out)
{
    struct client_count **entry;

    *out = NULL;
    if (server->config->limits.max_per_client == 0 || key == 0)
        return true;
    entry = client_entry(server, key);
    if (*entry == NULL) {
        *entry = calloc(1, sizeof(**entry));
        if (*entry == NULL)
            return true;
        (*entry)->key = key;
    }
    if ((*entry)->count >= server->config->limits.max_per_client)
        return false;
    (*entry)->count++;
    *out = *entry;
    return true;
}

static void client_give_back(struct http_server *server, struct client_count *counted)
{
    struct client_count **entry;

    if (counted == NULL || --counted->count != 0)
        return;
    entry = client_entry(server, counted->key);
    assert(*entry == counted);
    *entry = counted->next;
    free(counted);
}

/* Says why, as far as that can be said, to a connection that is about to be closed. */
static void refuse(const struct http_server *server, int fd, const char *answer)
{
    char unread[4096];

    procs_count(server->board, server->worker, PROC_REQUESTS_REJECTED, 1);
    if (server->ssl != NULL)
        return;
    (void)!send(fd, answer, strlen(answer), MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)shutdown(fd, SHUT_WR);
    /* With unread bytes close() resets the connection, and the answer may be lost. */
    (void)!recv(fd, unread, sizeof(unread), MSG_DONTWAIT);
}

static void refuse_over_share(const struct http_server *server, int fd)
{
    static struct log_limit limit;
    uint32_t missed;

    refuse(server, fd,
           "HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 1\r\n"
           "x-drover-reason: too_many_connections\r\ncontent-type: application/json\r\n"
           "content-length: 132\r\n\r\n"
           "{\"error\":{\"message\":\"too many connections from this address\",\"type\":"
           "\"rate_limit_error\",\"param\":null,\"code\":\"too_many_connections\"}}\n");
    if (log_limit_ok(&limit, 1, &missed))
        log_warn("event=client_over_share missed=%u", missed);
}

/* ---- connections ------------------------------------------------------------------------- */

struct client_connection *connection_of(h2o_req_t *req)
{
    return req->conn->callbacks->get_socket(req->conn)->on_close.data;
}

/* libh2o has closed the socket. */
static void on_close(void *data)
{
    struct client_connection *conn = data;
    struct http_server *server = conn->server;

    assert(conn->current == NULL);
    heads_finish(conn);
    TAILQ_REMOVE(&server->connections, conn, link);
    server->connections_count--;
    procs_count(server->board, server->worker, PROC_CONNECTIONS_OPEN, -1);
    client_give_back(server, conn->counted);
    shares_leave(conn);
    free(conn);
    start_listening(server);
}

/* With TLS a part of the first request may be there already: libh2o sees it after heads.c. */
static void serve(struct client_connection *conn)
{
    struct http_server *server = conn->server;
    h2o_socket_t *sock = conn->sock;
    h2o_buffer_t *early = sock->input;

    h2o_buffer_init(&sock->input, &h2o_socket_buffer_prototype);
    h2o_http1_accept(&server->accept, sock, *h2o_get_timestamp(&server->context, NULL, NULL));
    sock->input = early;
    heads_watch(conn);
}

static void on_handshake(h2o_socket_t *sock, const char *err)
{
    if (err != NULL)
        h2o_socket_close(sock);
    else
        serve(sock->on_close.data);
}

static void begin(struct client_connection *conn)
{
    if (conn->server->ssl == NULL)
        serve(conn);
    else
        h2o_socket_ssl_handshake(conn->sock, conn->server->ssl, NULL, on_handshake);
}

/* The first bytes of a trusted proxy's connection: they may say whose it is. */
static void on_first_bytes(h2o_socket_t *sock, const char *err)
{
    struct client_connection *conn = sock->on_close.data;
    enum peer_line line = err != NULL ? PEER_LINE_BAD : peer_take_line(conn);

    if (line == PEER_LINE_MORE)
        return;
    h2o_socket_read_stop(sock);
    if (line == PEER_LINE_CLIENT && !conn->proxied &&
        !client_take(conn->server, conn->address, &conn->counted)) {
        refuse_over_share(conn->server, h2o_socket_get_fd(sock));
        line = PEER_LINE_BAD;
    }
    if (line == PEER_LINE_BAD)
        h2o_socket_close(sock);
    else
        begin(conn);
}

static int admit(struct http_server *server, int fd, const struct peer_address *peer,
                 struct client_count *counted)
{
    struct client_connection *conn = calloc(1, sizeof(*conn));
    int on = 1, unsent = UNSENT_BYTES;

    if (conn == NULL)
        return DRV_ENOMEM;
    /* Both fail on a Unix socket, where they are not needed. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
    conn->server = server;
    conn->counted = counted;
    conn->since_mono_us = loop_now_us(server->loop);
    conn->fresh = true;
    peer_set(conn, peer);
    conn->sock =
        h2o_evloop_socket_create(server->loop->h2o, fd, H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION);
    conn->sock->on_close.cb = on_close;
    conn->sock->on_close.data = conn;
    TAILQ_INSERT_TAIL(&server->connections, conn, link);
    server->connections_count++;
    procs_count(server->board, server->worker, PROC_CONNECTIONS_TOTAL, 1);
    procs_count(server->board, server->worker, PROC_CONNECTIONS_OPEN, 1);
    if (conn->proxied)
        h2o_socket_read_start(conn->sock, on_first_bytes);
    else
        begin(conn);
    return 0;
}

/* Sends the answer if that does not block, and closes. */
static void reject(struct http_server *server, int fd, const char *answer)
{
    procs_count(server->board, server->worker, PROC_CONNECTIONS_TOTAL, 1);
    refuse(server, fd, answer);
    (void)close(fd);
}

static void over_share(struct http_server *server, int fd)
{
    procs_count(server->board, server->worker, PROC_CONNECTIONS_TOTAL, 1);
    refuse_over_share(server, fd);
    (void)close(fd);
}

/* ---- the listener ------------------------------------------------------------------------ */

static void stop_listening(struct http_server *server)
{
    if (!server->listening)
        return;
    h2o_socket_read_stop(server->listener);
    server->listening = false;
}

/* Connections that wait to be accepted, at most one batch. */
static unsigned count_waiting(const struct http_server *server)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);

    /* Of a listener it is the number of connections in its queue. */
    if (getsockopt(server->listen_fd, IPPROTO_TCP, TCP_INFO, &info, &len) == -1 ||
        info.tcpi_unacked > SHED_BATCH)
        return SHED_BATCH;
    return info.tcpi_unacked;
}

/* Rejects only connections that have waited for a second, no later ones; the spare descriptor
 * is enough for one after the other. */
static void shed(struct http_server *server)
{
    static struct log_limit limit;
    unsigned n = 0, waiting = count_waiting(server);
    uint32_t missed;
    int fd;

    if (server->spare_fd != -1)
        (void)close(server->spare_fd);
    while (n < waiting &&
           (fd = accept4(server->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) != -1) {
        reject(server, fd,
               "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 2\r\n"
               "x-drover-reason: overloaded\r\ncontent-type: application/json\r\n"
               "content-length: 107\r\n\r\n"
               "{\"error\":{\"message\":\"too many connections\",\"type\":"
               "\"service_unavailable\",\"param\":null,\"code\":\"overloaded\"}}\n");
        n++;
    }
    if (n == waiting ? n < SHED_BATCH : errno == EAGAIN)
        server->held_off = 0; /* that was all: later connections have not waited yet */
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (n != 0 && log_limit_ok(&limit, 1, &missed))
        log_warn("event=connections_shed count=%u connections=%u missed=%u", n,
                 server->connections_count, missed);
}

/* This worker accepts no more for now. */
static void hold_off(struct http_server *server, uint64_t us)
{
    stop_listening(server);
    timer_start(server->loop, &server->accept_timer, us, on_retry);
}

static bool is_full(const struct http_server *server)
{
    return server->connections_count >= server->max_connections;
}

static bool clients_wait(const struct http_server *server)
{
    struct pollfd listener = {.fd = server->listen_fd, .events = POLLIN};

    return poll(&listener, 1, 0) == 1;
}

static void out_of_descriptors(struct http_server *server)
{
    static struct log_limit limit;
    uint32_t missed;

    if (log_limit_ok(&limit, 1, &missed))
        log_error("event=accept_failed error=%s connections=%u missed=%u",
                  log_quote(strerror(errno)), server->connections_count, missed);
    hold_off(server, ACCEPT_RETRY_US);
}

/* One connection, in the place of one of the list if there is no other.  False: no more for
 * now. */
static bool accept_one(struct http_server *server, struct give_way_list *list)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    struct client_count *counted = NULL;
    struct peer_address peer;
    int fd =
        accept4(server->listen_fd, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd == -1) {
        if (errno == ECONNABORTED || errno == EINTR)
            return true;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            out_of_descriptors(server);
        return false; /* EAGAIN: another worker was first */
    }
    server->held_off = 0;
    peer_address_of(&peer, &sa);
    if (!proxies_have(server->proxies, server->proxies_count, &peer) &&
        !client_take(server, peer_address_key(&peer), &counted)) {
        over_share(server, fd);
        return true;
    }
    if (is_full(server) &&
        (list == NULL ||
         !give_way_make_room(list, server, peer_of_newcomer(server, fd, &peer)))) {
        client_give_back(server, counted);
        over_share(server, fd);
        return true;
    }
    if (admit(server, fd, &peer, counted) != 0) {
        client_give_back(server, counted);
        (void)close(fd);
    }
    return true;
}

static void on_acceptable(h2o_socket_t *listener, const char *err)
{
    struct http_server *server = listener->data;

    (void)err;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        if (is_full(server)) {
            hold_off(server, ACCEPT_RETRY_US);
            return;
        }
        if (!accept_one(server, NULL))
            return;
    }
}

/* No worker has accepted those that wait: connections that are of no use give way to them. */
static void let_in(struct http_server *server)
{
    struct give_way_list list;

    give_way_find(&list, server, GIVE_WAY_NEVER);
    for (size_t i = 0; i < list.count; i++)
        if (!accept_one(server, &list))
            return;
}

static void on_retry(struct timer *timer)
{
    struct http_server *server = CONTAINER_OF(timer, struct http_server, accept_timer);
    bool waiting = clients_wait(server);

    if (waiting && is_full(server)) {
        server->held_off++;
        let_in(server);
        waiting = clients_wait(server);
    } else if (waiting) {
        server->held_off++;
    }
    if (!waiting)
        server->held_off = 0;
    else if (server->held_off > SHED_AFTER)
        shed(server);
    if (is_full(server))
        hold_off(server, waiting && server->held_off == 0 ? ACCEPT_AGAIN_US : ACCEPT_RETRY_US);
    else
        start_listening(server);
}

static void start_listening(struct http_server *server)
{
    if (server->listener == NULL || server->listening || is_full(server))
        return;
    timer_stop(server->loop, &server->accept_timer);
    h2o_socket_read_start(server->listener, on_acceptable);
    server->listening = true;
}

/* limits.max_connections, or what the limit of descriptors leaves for clients. */
static unsigned connections_limit(const struct http_server *server)
{
    const struct config_limits *limits = &server->config->limits;
    uint64_t others = (uint64_t)limits->max_nodes + OTHER_FDS;
    uint64_t wanted = others + limits->max_connections;
    uint64_t files = descriptors_raise(wanted);
    uint64_t fit;

    if (files >= wanted)
        return limits->max_connections;
    fit = files > 2 * others ? files - others : files / 2;
    if (fit > limits->max_connections)
        fit = limits->max_connections;
    log_warn("event=few_descriptors limit=%llu max_connections=%u connections=%u",
             (unsigned long long)files, limits->max_connections, (unsigned)fit);
    return (unsigned)fit;
}

int accept_init(struct http_server *server, struct error *err)
{
    int copy;

    server->max_connections = connections_limit(server);
    TAILQ_INIT(&server->connections);
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (server->spare_fd == -1)
        return error_sys(err, "open /dev/null");
    copy = fcntl(server->listen_fd, F_DUPFD_CLOEXEC, 3);
    if (copy == -1)
        return error_sys(err, "fcntl(F_DUPFD_CLOEXEC)");
    server->listener =
        h2o_evloop_socket_create(server->loop->h2o, copy, H2O_SOCKET_FLAG_DONT_READ);
    server->listener->data = server;
    start_listening(server);
    return 0;
}

void accept_stop(struct http_server *server)
{
    timer_stop(server->loop, &server->accept_timer);
    if (server->listener == NULL)
        return;
    stop_listening(server);
    h2o_socket_close(server->listener);
    server->listener = NULL;
}

void accept_finish(struct http_server *server)
{
    struct client_connection *conn;

    accept_stop(server);
    while ((conn = TAILQ_FIRST(&server->connections)) != NULL) {
        if (conn->current != NULL)
            responder_break(conn->current);
        else
            heads_close(conn);
        if (TAILQ_FIRST(&server->connections) != conn)
            continue;
        /* Not closed yet: a TLS close_notify or a failed write is still under way.  The loop
         * owns the rest. */
        conn->sock->on_close.cb = NULL;
        heads_finish(conn);
        TAILQ_REMOVE(&server->connections, conn, link);
        server->connections_count--;
        client_give_back(server, conn->counted);
        shares_leave(conn);
        free(conn);
    }
    if (server->spare_fd != -1)
        (void)close(server->spare_fd);
    server->spare_fd = -1;
}
