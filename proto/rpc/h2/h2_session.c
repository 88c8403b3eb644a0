/* h2_session.c - one HTTP/2 connection: socket, TLS, timers, life and death. */
#include "proto/rpc/h2/h2_session.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/log.h"
#include "proto/rpc/h2/h2_session_private.h"
#include "proto/rpc/h2/tls_stream.h"

#define READ_BYTES  131072            /* taken from a socket in one turn */
#define FLUSH_BYTES 524288            /* serialised in one turn */
#define KEEP_BYTES  65536             /* of an empty output buffer */
#define LINGER_US   UINT64_C(1000000) /* for the peer to close after we did */
#define DRAIN_US    UINT64_C(1000000) /* for the answer to the PING between two GOAWAYs */

/* The limits that servers of gRPC set; see patience(). */
#define BARE_PINGS      3
#define BARE_PINGS_IDLE 1
#define BARE_PING_US    (320 * US_PER_S)

#define MAX_TCP_IDLE_S 32767 /* what Linux takes */

/* Input is processed before the next socket is read, so all sessions of a thread share this. */
static _Thread_local uint8_t input[READ_BYTES];
static _Thread_local uint8_t decrypted[READ_BYTES];

static void on_timer(struct timer *timer);

/* ---- guard ---------------------------------------------------------------------------- */

static void free_session(struct h2_session *session)
{
    nghttp2_session_del(session->h2);
    tls_stream_destroy(session->tls);
    buf_finish(&session->out);
    buf_finish(&session->clear);
    free(session);
}

static void free_dead(struct h2_guard *guard)
{
    struct h2_stream *stream;
    struct h2_session *session;

    while ((stream = SLIST_FIRST(&guard->streams)) != NULL) {
        SLIST_REMOVE_HEAD(&guard->streams, dead);
        stream->free(stream);
    }
    while ((session = SLIST_FIRST(&guard->sessions)) != NULL) {
        SLIST_REMOVE_HEAD(&guard->sessions, dead);
        free_session(session);
    }
}

void h2_guard_leave(struct h2_guard *guard)
{
    assert(guard->depth != 0);
    if (--guard->depth != 0)
        return;
    free_dead(guard);
    if (guard->doomed)
        guard->free_owner(guard);
}

/* ---- streams on a session ------------------------------------------------------------- */

void h2_session_attach(struct h2_session *session, struct h2_stream *stream, int32_t id)
{
    stream->session = session;
    stream->id = id;
    LIST_INSERT_HEAD(&session->streams, stream, link);
    session->open++;
}

void h2_session_detach(struct h2_stream *stream)
{
    struct h2_session *session = stream->session;

    LIST_REMOVE(stream, link);
    stream->session = NULL;
    session->open--;
    session->guard->buffered_bytes -= stream->charged;
    stream->charged = 0;
    if (stream->in_writable) {
        LIST_REMOVE(stream, writable);
        stream->in_writable = false;
    }
}

static void lose_streams(struct h2_session *session, const char *why)
{
    struct h2_stream *stream;

    while ((stream = LIST_FIRST(&session->streams)) != NULL) {
        h2_session_detach(stream);
        session->role->on_lost(stream, why);
    }
}

uint32_t h2_session_room(const struct h2_session *session)
{
    uint32_t max;

    if (session->phase != H2_OPEN || session->draining)
        return 0;
    max = nghttp2_session_get_remote_settings(session->h2,
                                              NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    return max > session->open ? max - session->open : 0;
}

/* ---- the end -------------------------------------------------------------------------- */

void h2_session_down(struct h2_session *session, const char *why)
{
    struct h2_guard *guard = session->guard;

    if (session->phase == H2_DEAD)
        return;
    h2_guard_enter(guard);
    session->phase = H2_DEAD;
    timer_stop(session->loop, &session->timer);
    timer_stop(session->loop, &session->again);
    timer_stop(session->loop, &session->drain);
    loop_undefer(session->loop, &session->flush);
    h2o_socket_close(session->sock);
    session->sock = NULL;
    lose_streams(session, why);
    session->role->on_down(session, why);
    SLIST_INSERT_HEAD(&guard->sessions, session, dead);
    h2_guard_leave(guard);
}

/* Shuts our side and waits for the peer's: closing with unread input would make the kernel send
 * RST, and that could eat our last frames on their way. */
static void linger(struct h2_session *session)
{
    if (!session->draining) {
        session->draining = true;
        session->role->on_goaway(session, NGHTTP2_NO_ERROR);
    }
    if (session->phase == H2_DEAD)
        return;
    session->phase = H2_LINGER;
    timer_start(session->loop, &session->timer, LINGER_US, on_timer);
    (void)shutdown(h2o_socket_get_fd(session->sock), SHUT_WR);
    lose_streams(session, "connection closing");
}

static void terminate(struct h2_session *session, uint32_t h2_error_code, const char *debug)
{
    if (session->phase >= H2_LINGER || session->closing)
        return;
    session->closing = true;
    (void)nghttp2_submit_goaway(session->h2, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(session->h2),
                                h2_error_code, (const uint8_t *)debug, strlen(debug));
    if (!session->draining) {
        session->draining = true;
        session->role->on_goaway(session, h2_error_code);
    }
    if (session->phase >= H2_LINGER)
        return;
    /* If the socket takes nothing there will be no lingering, only an end. */
    timer_start(session->loop, &session->timer, LINGER_US, on_timer);
    h2_session_flush_later(session);
}

void h2_session_calm(struct h2_session *session, const char *blame)
{
    if (blame == NULL)
        return;
    if (session->blame == NULL)
        session->blame = blame;
    terminate(session, NGHTTP2_ENHANCE_YOUR_CALM, blame);
}

void h2_session_retire(struct h2_session *session)
{
    if (session->phase >= H2_LINGER)
        return;
    session->draining = true;
    (void)nghttp2_submit_goaway(session->h2, NGHTTP2_FLAG_NONE,
                                nghttp2_session_get_last_proc_stream_id(session->h2),
                                NGHTTP2_NO_ERROR, NULL, 0);
    h2_session_flush_later(session);
}

static void on_drain_timer(struct timer *timer)
{
    struct h2_session *session = CONTAINER_OF(timer, struct h2_session, drain);

    h2_guard_enter(session->guard);
    h2_session_retire(session);
    h2_guard_leave(session->guard);
}

void h2_session_shutdown(struct h2_session *session)
{
    if (session->phase >= H2_LINGER || session->draining)
        return;
    session->draining = true;
    if (session->phase != H2_OPEN) {
        terminate(session, NGHTTP2_NO_ERROR, "");
        return;
    }
    (void)nghttp2_submit_shutdown_notice(session->h2);
    /* The answer, or the timer, brings the second GOAWAY. */
    (void)nghttp2_submit_ping(session->h2, NGHTTP2_FLAG_NONE, NULL);
    timer_start(session->loop, &session->drain, DRAIN_US, on_drain_timer);
    h2_session_flush_later(session);
}

/* ---- timers --------------------------------------------------------------------------- */

/*
 * Silence of the peer before a PING; UINT64_MAX: no PING now.
 *
 * gRPC servers end a connection ("too_many_pings") for the third PING that came sooner than
 * they like after the one before it, without HEADERS or DATA of theirs in between.  By default
 * that is five minutes while a call is open, and two hours while none is (grpc-core, grpc-java
 * and grpc-go alike).  The first PING after their data never counts.
 */
static uint64_t patience(const struct h2_session *session)
{
    const struct h2_config *config = &session->config;
    bool polite = !session->role->server;

    if (session->open == 0 &&
        (!config->keepalive_idle || (polite && session->bare_pings >= BARE_PINGS_IDLE)))
        return UINT64_MAX;
    if (polite && session->bare_pings >= BARE_PINGS && config->keepalive_us < BARE_PING_US)
        return BARE_PING_US;
    return config->keepalive_us;
}

/* Silence is measured from the last byte read, whatever it was. */
static void keep_alive(struct h2_session *session)
{
    uint64_t now = clock_mono_us(), silence = now - session->read_mono_us;
    uint64_t allowed = patience(session), left;

    if (session->pinged) {
        if (!session->heard) {
            h2_session_down(session, "keepalive timeout");
            return;
        }
        session->pinged = false;
    }
    if (silence < allowed) {
        /* Not for longer than keepalive_us: a call may come, or data, and more be allowed. */
        left = allowed - silence;
        timer_start(session->loop, &session->timer,
                    left < session->config.keepalive_us ? left : session->config.keepalive_us,
                    on_timer);
    } else {
        session->pinged = true;
        session->bare_pings++;
        session->heard = false;
        (void)nghttp2_submit_ping(session->h2, NGHTTP2_FLAG_NONE, NULL);
        timer_start(session->loop, &session->timer, session->config.keepalive_timeout_us,
                    on_timer);
        h2_session_flush_later(session);
    }
}

static void on_timer(struct timer *timer)
{
    struct h2_session *session = CONTAINER_OF(timer, struct h2_session, timer);
    struct h2_guard *guard = session->guard;

    h2_guard_enter(guard);
    if (session->closing) {
        h2_session_down(session, "connection closing");
    } else {
        switch (session->phase) {
        case H2_CONNECTING:
            h2_session_down(session, "connect timed out");
            break;
        case H2_TLS:
            h2_session_down(session, "TLS handshake timed out");
            break;
        case H2_SETTINGS:
            h2_session_down(session, "no HTTP/2 SETTINGS in time");
            break;
        case H2_OPEN:
            keep_alive(session);
            break;
        case H2_LINGER:
            h2_session_down(session, "connection closed");
            break;
        case H2_DEAD:
            break;
        }
    }
    h2_guard_leave(guard);
}

/* The next turn's share of what one turn must not do endlessly. */
static void on_again(struct timer *timer)
{
    struct h2_session *session = CONTAINER_OF(timer, struct h2_session, again);
    struct h2_guard *guard = session->guard;

    h2_guard_enter(guard);
    struct h2_stream *stream;

    while ((stream = LIST_FIRST(&session->writable)) != NULL && session->phase != H2_DEAD) {
        LIST_REMOVE(stream, writable);
        stream->in_writable = false;
        if (!stream->over)
            session->role->on_writable(stream);
    }
    if (session->phase != H2_DEAD)
        h2_session_flush_later(session);
    h2_guard_leave(guard);
}

/* ---- writing -------------------------------------------------------------------------- */

static void push(struct h2_session *session);

static void on_socket_writable(h2o_socket_t *sock, const char *err)
{
    struct h2_session *session = sock->data;
    struct h2_guard *guard = session->guard;

    h2_guard_enter(guard);
    session->blocked = false;
    if (err != NULL)
        h2_session_down(session, err);
    else
        push(session);
    if (session->phase != H2_DEAD && !session->blocked)
        h2_session_flush_later(session);
    h2_guard_leave(guard);
}

static void push(struct h2_session *session)
{
    while (buf_size(&session->out) != 0) {
        ssize_t n = send(h2o_socket_get_fd(session->sock), buf_head(&session->out),
                         buf_size(&session->out), MSG_NOSIGNAL);

        if (n > 0) {
            buf_consume(&session->out, (size_t)n);
            if (buf_size(&session->out) == 0)
                break;
        } else if (n == -1 && errno == EINTR) {
            continue;
        } else if (n == -1 && errno != EAGAIN && errno != EWOULDBLOCK) {
            h2_session_down(session, strerror(errno));
            return;
        }
        session->blocked = true;
        h2o_socket_notify_write(session->sock, on_socket_writable);
        return;
    }
    buf_shrink(&session->out, KEEP_BYTES);
}

/* Serialises what nghttp2 has; false when the session died of it. */
static bool serialise(struct h2_session *session)
{
    struct buf *to = session->tls != NULL ? &session->clear : &session->out;

    while (buf_size(to) < FLUSH_BYTES) {
        const uint8_t *bytes;
        ssize_t n = nghttp2_session_mem_send(session->h2, &bytes);

        if (session->phase == H2_DEAD)
            return false;
        if (n < 0) {
            h2_session_down(session, nghttp2_strerror((int)n));
            return false;
        }
        if (n == 0)
            break;
        buf_add(to, bytes, (size_t)n);
    }
    if (buf_size(to) >= FLUSH_BYTES || !LIST_EMPTY(&session->writable))
        timer_start(session->loop, &session->again, 0, on_again);
    if (session->tls != NULL) {
        if (tls_stream_write(session->tls, buf_head(to), buf_size(to)) != 0) {
            h2_session_down(session, "TLS: cannot encrypt");
            return false;
        }
        buf_shrink(to, KEEP_BYTES);
    }
    return true;
}

static void flush(struct h2_session *session)
{
    if (session->blocked || session->phase == H2_CONNECTING || session->phase >= H2_LINGER)
        return;
    if (session->phase != H2_TLS && !serialise(session))
        return;
    if (session->tls != NULL)
        tls_stream_drain(session->tls, &session->out);
    if (session->out.failed || session->clear.failed) {
        h2_session_down(session, "out of memory");
        return;
    }
    push(session);
    if (session->blocked || session->phase >= H2_LINGER || session->phase == H2_TLS ||
        timer_running(&session->again))
        return;
    if (session->closing || (nghttp2_session_want_read(session->h2) == 0 &&
                             nghttp2_session_want_write(session->h2) == 0)) {
        if (session->tls != NULL) {
            tls_stream_close(session->tls);
            tls_stream_drain(session->tls, &session->out);
            push(session);
        }
        if (session->phase != H2_DEAD)
            linger(session);
    }
}

static void on_flush(struct deferred *deferred)
{
    struct h2_session *session = CONTAINER_OF(deferred, struct h2_session, flush);
    struct h2_guard *guard = session->guard;

    h2_guard_enter(guard);
    flush(session);
    h2_guard_leave(guard);
}

void h2_session_flush_later(struct h2_session *session)
{
    if (session->phase < H2_LINGER && !session->blocked)
        loop_defer(session->loop, &session->flush, on_flush);
}

/* ---- reading -------------------------------------------------------------------------- */

static void run_batch(struct h2_session *session)
{
    struct h2_stream *stream;

    while ((stream = STAILQ_FIRST(&session->batch)) != NULL) {
        STAILQ_REMOVE_HEAD(&session->batch, batched);
        if (stream->in_batch && !stream->over) {
            stream->in_batch = false;
            session->role->on_batch(stream);
        }
        stream->in_batch = false;
    }
}

/* False when the session cannot go on. */
static bool take(struct h2_session *session, const uint8_t *bytes, size_t n)
{
    ssize_t used;

    if (session->closing)
        return false; /* nothing that comes now matters; our GOAWAY is on its way out */
    session->flood.read_bytes += n;
    used = nghttp2_session_mem_recv(session->h2, bytes, n);
    if (session->phase == H2_DEAD)
        return false;
    if (used == NGHTTP2_ERR_FLOODED)
        h2_session_calm(session, "too_many_answers_owed");
    if (session->closing)
        return false;
    if (used < 0) {
        session->blame = nghttp2_strerror((int)used);
        h2_session_down(session, nghttp2_strerror((int)used));
        return false;
    }
    h2_session_calm(session, flood_waste(&session->flood));
    return !session->closing;
}

/* A server logs the peer it refused; a client's owner is informed and logs it itself. */
static void log_refusal(const struct h2_session *session, const char *why)
{
    static struct log_limit limit;
    char peer[NET_TEXT_BYTES] = "";
    struct net_addr addr = {.len = sizeof(addr.sa)};
    uint32_t missed;

    if (!session->role->server || session->phase != H2_TLS || !log_limit_ok(&limit, 1, &missed))
        return;
    if (getpeername(h2o_socket_get_fd(session->sock), (struct sockaddr *)&addr.sa, &addr.len) ==
        0)
        net_format(peer, sizeof(peer), &addr);
    log_warn("event=tls_refused peer=%s why=%s missed=%u", log_quote(peer), log_quote(why),
             missed);
}

static void fail_tls(struct h2_session *session, const struct error *err)
{
    log_refusal(session, err->text);
    tls_stream_drain(session->tls, &session->out); /* the alert, if it fits */
    if (!session->blocked)
        (void)send(h2o_socket_get_fd(session->sock), buf_head(&session->out),
                   buf_size(&session->out), MSG_NOSIGNAL);
    h2_session_down(session, err->text);
}

static void take_tls(struct h2_session *session, const uint8_t *bytes, size_t n)
{
    struct error err = {0};

    if (tls_stream_feed(session->tls, bytes, n) != 0) {
        h2_session_down(session, "out of memory");
        return;
    }
    if (session->phase == H2_TLS) {
        switch (tls_stream_handshake(session->tls, &err)) {
        case TLS_MORE:
            return;
        case TLS_FAILED:
            fail_tls(session, &err);
            return;
        case TLS_DONE:
            session->phase = H2_SETTINGS;
        }
    }
    for (;;) {
        int got = tls_stream_read(session->tls, decrypted, sizeof(decrypted), &err);

        if (got == 0)
            return;
        if (got < 0) {
            fail_tls(session, &err);
            return;
        }
        if (!take(session, decrypted, (size_t)got))
            return;
    }
}

static void read_some(struct h2_session *session)
{
    ssize_t n = recv(h2o_socket_get_fd(session->sock), input, sizeof(input), 0);

    if (n == -1) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            h2_session_down(session, strerror(errno));
        return;
    }
    if (n == 0) {
        h2_session_down(session, "connection closed by peer");
        return;
    }
    if (session->phase == H2_LINGER) {
        /* Bytes under way fit into the window; a peer that sends more is not leaving. */
        session->lingered_bytes += (size_t)n;
        if (session->lingered_bytes > session->config.connection_window_bytes + KEEP_BYTES)
            h2_session_down(session, "connection closed");
        return;
    }
    session->read_mono_us = clock_mono_us();
    session->heard = true;
    if (session->tls != NULL)
        take_tls(session, input, (size_t)n);
    else
        (void)take(session, input, (size_t)n);
    run_batch(session);
    if (session->phase != H2_DEAD)
        h2_session_flush_later(session);
}

static void on_socket_readable(h2o_socket_t *sock, const char *err)
{
    struct h2_session *session = sock->data;
    struct h2_guard *guard = session->guard;

    h2_guard_enter(guard);
    if (err != NULL)
        h2_session_down(session, err);
    else
        read_some(session);
    h2_guard_leave(guard);
}

/* ---- the beginning -------------------------------------------------------------------- */

/* TCP is up. */
static void go(struct h2_session *session)
{
    session->phase = session->tls != NULL ? H2_TLS : H2_SETTINGS;
    h2o_socket_read_start(session->sock, on_socket_readable);
    if (session->phase == H2_TLS && !session->role->server) {
        struct error err = {0};

        /* The client's hello; a server has nothing to say yet. */
        if (tls_stream_handshake(session->tls, &err) == TLS_FAILED) {
            h2_session_down(session, err.text);
            return;
        }
    }
    h2_session_flush_later(session);
}

static void on_connected(h2o_socket_t *sock, const char *err)
{
    struct h2_session *session = sock->data;
    struct h2_guard *guard = session->guard;
    int failure = 0;
    socklen_t len = sizeof(failure);

    h2_guard_enter(guard);
    if (err == NULL &&
        getsockopt(h2o_socket_get_fd(sock), SOL_SOCKET, SO_ERROR, &failure, &len) == -1)
        failure = errno;
    if (err != NULL)
        h2_session_down(session, err);
    else if (failure != 0)
        h2_session_down(session, strerror(failure));
    else
        go(session);
    h2_guard_leave(guard);
}

/* TCP's own probes find a host that is gone also where no PING may be sent; TCP_USER_TIMEOUT
 * says when they are given up.  All of this fails on Unix sockets, which need none of it. */
static void tune(int fd, const struct h2_config *config)
{
    int on = 1, every_s = 1, idle_s = MAX_TCP_IDLE_S;
    unsigned timeout_ms = (unsigned)(config->keepalive_timeout_us / US_PER_MS);

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
    if (config->keepalive_us == UINT64_MAX)
        return;
    if (config->keepalive_us < MAX_TCP_IDLE_S * US_PER_S)
        idle_s = (int)((config->keepalive_us + US_PER_S - 1) / US_PER_S);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof(every_s));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* Makes a session around `fd`, which it owns from here on, also when it fails. */
static int create(struct h2_session **out, struct loop *loop, const struct h2_role *role,
                  struct h2_guard *guard, void *owner, const struct h2_config *config, int fd,
                  const struct net_addr *peer, struct error *err)
{
    struct h2_session *session = calloc(1, sizeof(*session));
    int rc;

    *out = NULL;
    if (session == NULL) {
        (void)close(fd);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    session->role = role;
    session->guard = guard;
    session->owner = owner;
    session->loop = loop;
    session->config = *config;
    session->peer = *peer;
    LIST_INIT(&session->streams);
    LIST_INIT(&session->writable);
    STAILQ_INIT(&session->batch);
    session->opened_mono_us = clock_mono_us();
    session->read_mono_us = session->opened_mono_us;
    rc = h2_events_start(session);
    if (rc != 0)
        rc = error_set(err, rc, "out of memory");
    if (rc == 0 && config->tls != NULL)
        rc = tls_stream_create(&session->tls, config->tls, role->server, config->tls_name, err);
    if (rc != 0) {
        (void)close(fd);
        free_session(session);
        return rc;
    }
    tune(fd, config);
    session->sock = h2o_evloop_socket_create(loop->h2o, fd, H2O_SOCKET_FLAG_DONT_READ);
    session->sock->data = session;
    timer_start(loop, &session->timer, config->setup_timeout_us, on_timer);
    *out = session;
    return 0;
}

/* Nothing was sent: no port, no buffer or no memory to be had on this machine. */
static bool is_local(int failure)
{
    return failure == EADDRNOTAVAIL || failure == EAGAIN || failure == ENOBUFS ||
           failure == ENOMEM;
}

int h2_session_connect(struct h2_session **out, struct loop *loop, const struct h2_role *role,
                       struct h2_guard *guard, void *owner, const struct h2_config *config,
                       const struct net_addr *addr, struct error *err)
{
    int fd, rc;

    *out = NULL;
    fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1) {
        (void)error_sys(err, "socket");
        return DRV_EFULL; /* of descriptors: not the peer's fault */
    }
    if (connect(fd, (const struct sockaddr *)&addr->sa, addr->len) == -1 &&
        errno != EINPROGRESS) {
        rc = error_set(err, is_local(errno) ? DRV_EFULL : DRV_ESYS, "%s", strerror(errno));
        (void)close(fd);
        return rc;
    }
    rc = create(out, loop, role, guard, owner, config, fd, addr, err);
    if (rc == 0)
        h2o_socket_notify_write((*out)->sock, on_connected);
    return rc;
}

int h2_session_accept(struct h2_session **out, struct loop *loop, const struct h2_role *role,
                      struct h2_guard *guard, void *owner, const struct h2_config *config,
                      int fd, const struct net_addr *peer, struct error *err)
{
    int rc = create(out, loop, role, guard, owner, config, fd, peer, err);

    if (rc == 0)
        go(*out);
    return rc;
}
