/*
 * client_channel.c - the half of client.h that keeps one connection up.
 *
 *   from        when                                               to
 *   ----------  -------------------------------------------------  ----------
 *   IDLE        channel_connect(), or a call waits                 CONNECTING
 *   CONNECTING  the peer's SETTINGS came                           READY
 *   CONNECTING  failed or timed out                                BACKOFF
 *   READY       GOAWAY or loss, and no call needs a connection     IDLE
 *   READY       GOAWAY or loss                                     CONNECTING
 *   READY       GOAWAY or loss soon after it began, repeatedly     BACKOFF
 *   BACKOFF     the delay is over, or channel_connect()            CONNECTING
 *
 * Everything that may call the user happens in callbacks of the loop: the functions of client.h
 * only note the request and defer work().
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "proto/rpc/grpc/client_private.h"

#define QUICK_US         UINT64_C(1000000) /* a connection that ends before this was no use */
#define MAX_QUICK_LOSSES 2
#define MAX_STREAM_ID    (INT32_C(1) << 30)

static void work(struct channel *channel);
static void work_later(struct channel *channel);

static void set_state(struct channel *channel, enum channel_state state, const char *why)
{
    bool changed = channel->state != state;

    channel->state = state;
    if (why != channel->why)
        (void)strlcpy(channel->why, why, sizeof(channel->why));
    if (changed && channel->config.on_state != NULL && !channel->guard.doomed)
        channel->config.on_state(channel, state, channel->why, channel->config.data);
}

/* ---- waiting calls -------------------------------------------------------------------- */

void channel_add_waiting(struct channel *channel, struct call *call)
{
    call->waiting = true;
    TAILQ_INSERT_TAIL(&channel->waiting, call, link);
    channel->waiting_count++;
    work_later(channel);
}

void channel_unlink_waiting(struct channel *channel, struct call *call)
{
    TAILQ_REMOVE(&channel->waiting, call, link);
    call->waiting = false;
    channel->waiting_count--;
}

/* Calls that the user starts meanwhile are not counted: they have a work() of their own. */
static void fail_waiting(struct channel *channel)
{
    unsigned left = channel->waiting_count;

    while (left-- != 0 && !channel->guard.doomed && channel->state == CHANNEL_BACKOFF) {
        struct call *call;

        TAILQ_FOREACH(call, &channel->waiting, link)
            if (!call->wait_for_ready)
                break;
        if (call == NULL)
            return;
        call_end(call, GRPC_UNAVAILABLE, channel->trouble, channel->why);
    }
}

/* No new calls on the current session; those on it go on. */
static void retire(struct channel *channel)
{
    struct h2_session *session = channel->session;

    channel->session = NULL;
    LIST_INSERT_HEAD(&channel->old, session, link);
}

static void submit_waiting(struct channel *channel)
{
    struct call *call;

    while ((call = TAILQ_FIRST(&channel->waiting)) != NULL && channel->state == CHANNEL_READY) {
        if (nghttp2_session_get_next_stream_id(channel->session->h2) >= MAX_STREAM_ID) {
            struct h2_session *full = channel->session;

            retire(channel);
            h2_session_retire(full);
            set_state(channel, CHANNEL_IDLE, "");
            work_later(channel);
            return;
        }
        if (h2_session_room(channel->session) == 0)
            return;
        if (!call_submit(call, channel->session))
            return;
    }
}

/* ---- connecting ----------------------------------------------------------------------- */

/* The delay before the next attempt: jittered by 20 % either way, so that many clients that
 * lost the same server do not return in step. */
static uint64_t next_backoff(struct channel *channel)
{
    uint64_t delay = channel->backoff_us;
    uint64_t spread = delay / 5;

    channel->backoff_us = delay + delay * 3 / 5;
    if (channel->backoff_us > channel->config.backoff_max_us)
        channel->backoff_us = channel->config.backoff_max_us;
    if (spread > UINT32_MAX / 2)
        spread = UINT32_MAX / 2;
    return delay - spread + arc4random_uniform((uint32_t)(2 * spread + 1));
}

static void on_retry(struct timer *timer)
{
    struct channel *channel = CONTAINER_OF(timer, struct channel, retry);

    h2_guard_enter(&channel->guard);
    channel->now = true;
    work(channel);
    h2_guard_leave(&channel->guard);
}

static void back_off(struct channel *channel, enum call_end trouble, const char *why)
{
    channel->trouble = trouble;
    timer_start(channel->loop, &channel->retry, next_backoff(channel), on_retry);
    set_state(channel, CHANNEL_BACKOFF, why);
    work_later(channel);
}

static void connect_now(struct channel *channel)
{
    struct error err = {0};
    int rc;

    timer_stop(channel->loop, &channel->retry);
    rc = h2_session_connect(&channel->session, channel->loop, &client_role, &channel->guard,
                            channel, &channel->h2, &channel->config.addr, &err);
    if (rc == 0)
        set_state(channel, CHANNEL_CONNECTING, channel->why);
    else
        back_off(channel, rc == DRV_ESYS ? CALL_END_CONNECT : CALL_END_LOCAL, err.text);
}

static void work(struct channel *channel)
{
    bool now = channel->now;

    channel->now = false;
    switch (channel->state) {
    case CHANNEL_IDLE:
        if (channel->wanted || !TAILQ_EMPTY(&channel->waiting))
            connect_now(channel);
        break;
    case CHANNEL_BACKOFF:
        if (now)
            connect_now(channel);
        else
            fail_waiting(channel);
        break;
    case CHANNEL_READY:
        submit_waiting(channel);
        break;
    case CHANNEL_CONNECTING:
        break;
    }
}

static void on_work(struct deferred *deferred)
{
    struct channel *channel = CONTAINER_OF(deferred, struct channel, work);

    h2_guard_enter(&channel->guard);
    work(channel);
    h2_guard_leave(&channel->guard);
}

static void work_later(struct channel *channel)
{
    if (!channel->guard.doomed)
        loop_defer(channel->loop, &channel->work, on_work);
}

/* ---- what the session says ------------------------------------------------------------ */

void channel_on_ready(struct h2_session *session)
{
    struct channel *channel = session->owner;

    if (session != channel->session)
        return;
    channel->connect_us = session->ready_mono_us - session->opened_mono_us;
    channel->backoff_us = channel->config.backoff_min_us;
    set_state(channel, CHANNEL_READY, "");
    work_later(channel);
}

void channel_on_room(struct h2_session *session)
{
    struct channel *channel = session->owner;

    if (!TAILQ_EMPTY(&channel->waiting) && session == channel->session)
        work_later(channel);
}

/* The current connection is of no use for new calls; `was_ready`: it was READY once. */
static void replace(struct channel *channel, const struct h2_session *session, const char *why)
{
    bool was_ready = session->ready_mono_us != 0;

    if (was_ready && clock_mono_us() - session->ready_mono_us >= QUICK_US)
        channel->quick_losses = 0;
    else
        channel->quick_losses++;
    if (!was_ready || channel->quick_losses > MAX_QUICK_LOSSES) {
        back_off(channel, CALL_END_CONNECT, why);
        return;
    }
    set_state(channel, CHANNEL_IDLE, why);
    work_later(channel); /* and from there to CONNECTING, if anyone needs it */
}

void channel_on_goaway(struct h2_session *session, uint32_t h2_error_code)
{
    struct channel *channel = session->owner;

    if (h2_error_code == NGHTTP2_ENHANCE_YOUR_CALM && channel->h2.keepalive_us < UINT64_MAX / 2)
        channel->h2.keepalive_us *= 2; /* gRPC A8: we pinged too often for this server */
    if (session != channel->session)
        return;
    retire(channel);
    replace(channel, session,
            h2_error_code == 0 ? "the peer sent GOAWAY"
                               : nghttp2_http2_strerror(h2_error_code));
}

void channel_on_down(struct h2_session *session, const char *why)
{
    struct channel *channel = session->owner;

    if (session == channel->session) {
        channel->session = NULL;
        replace(channel, session, why);
        return;
    }
    LIST_REMOVE(session, link);
}

/* ---- client.h ------------------------------------------------------------------------- */

static void free_channel(struct h2_guard *guard)
{
    struct channel *channel = CONTAINER_OF(guard, struct channel, guard);

    free(channel->authority);
    free(channel->tls_name);
    free(channel);
}

#define OR_DEFAULT(value, otherwise) ((value) != 0 ? (value) : (otherwise))

static void fill_defaults(struct channel *channel, const struct channel_config *from)
{
    struct channel_config *config = &channel->config;
    struct h2_config *h2 = &channel->h2;

    *config = *from;
    config->backoff_min_us = OR_DEFAULT(from->backoff_min_us, UINT64_C(1000000));
    config->backoff_max_us = OR_DEFAULT(from->backoff_max_us, UINT64_C(30000000));
    config->max_message_bytes = OR_DEFAULT(from->max_message_bytes, (size_t)4 << 20);
    channel->backoff_us = config->backoff_min_us;
    h2->tls = from->tls;
    h2->tls_name = channel->tls_name;
    h2->setup_timeout_us = OR_DEFAULT(from->connect_timeout_us, UINT64_C(3000000));
    h2->keepalive_us = OR_DEFAULT(from->keepalive_us, UINT64_C(10000000));
    h2->keepalive_timeout_us = OR_DEFAULT(from->keepalive_timeout_us, UINT64_C(5000000));
    h2->keepalive_idle = from->keepalive_idle;
    h2->stream_window_bytes = OR_DEFAULT(from->stream_window_bytes, UINT32_C(256) << 10);
    h2->connection_window_bytes = OR_DEFAULT(from->connection_window_bytes, UINT32_C(16) << 20);
}

int channel_create(struct channel **out, struct loop *loop, const struct channel_config *config,
                   struct error *err)
{
    struct channel *channel = calloc(1, sizeof(*channel));
    char text[NET_TEXT_BYTES];

    *out = NULL;
    if (channel == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    channel->guard.free_owner = free_channel;
    TAILQ_INIT(&channel->waiting);
    LIST_INIT(&channel->old);
    channel->loop = loop;
    if (config->addr.sa.ss_family == AF_UNIX)
        (void)strlcpy(text, "localhost", sizeof(text));
    else
        net_format(text, sizeof(text), &config->addr);
    channel->authority = strdup(config->authority != NULL ? config->authority : text);
    if (config->tls_name != NULL)
        channel->tls_name = strdup(config->tls_name);
    if (channel->authority == NULL || (config->tls_name != NULL && channel->tls_name == NULL)) {
        free_channel(&channel->guard);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    fill_defaults(channel, config);
    *out = channel;
    return 0;
}

static void drop_session(struct h2_session *session)
{
    struct h2_stream *stream;

    LIST_FOREACH(stream, &session->streams, link)
        if (!stream->over)
            call_drop(CONTAINER_OF(stream, struct call, stream));
    h2_session_down(session, "channel destroyed");
}

void channel_destroy(struct channel *channel)
{
    if (channel == NULL || channel->guard.doomed)
        return;
    h2_guard_enter(&channel->guard);
    channel->guard.doomed = true;
    loop_undefer(channel->loop, &channel->work);
    while (!TAILQ_EMPTY(&channel->waiting))
        call_drop(TAILQ_FIRST(&channel->waiting));
    if (channel->session != NULL)
        drop_session(channel->session);
    while (!LIST_EMPTY(&channel->old))
        drop_session(LIST_FIRST(&channel->old));
    timer_stop(channel->loop, &channel->retry);
    h2_guard_leave(&channel->guard);
}

void channel_connect(struct channel *channel)
{
    channel->wanted = true;
    channel->now = true;
    work_later(channel);
}

enum channel_state channel_state(const struct channel *channel)
{
    return channel->state;
}

uint64_t channel_connect_us(const struct channel *channel)
{
    return channel->connect_us;
}
