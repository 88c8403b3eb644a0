/*
 * timeouts.c - ends connections that take too long; checks all of them now and then.
 *
 * libh2o's own timers start again with some parts of a request and do not cover writing at all;
 * they are set generously and these limits are the real ones:
 *
 *   header_timeout_ms  the head of a request, also the first one on a new connection, TLS
 *                      included; and the time in which hardly a byte of its body comes
 *   idle_timeout_ms    nothing at all, after an answer
 *   write_stall_ms     the client's kernel has taken hardly any bytes of an answer
 *
 * The same round checks memory.  The kernel reports the memory that the process holds, so the
 * count misses nothing; bodies that came since are added.  Freed memory that malloc keeps is
 * given back before any request is rejected for it.
 *
 * A connection is ended by shutting its descriptor down; libh2o then sees the end of the stream
 * and closes it in its own way.
 */
#include "worker/http/timeouts.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <malloc.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/log.h"
#include "worker/http/accept.h"
#include "worker/http/client_request.h"
#include "worker/http/entry/give_way.h"
#include "worker/http/intake.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* Connections that are idle when draining begins are given this long: a request that is already
 * on its way must not be cut off. */
#define DRAIN_IDLE_US (1000 * US_PER_MS)
/* Giving freed memory back walks all of it: not more often than this. */
#define TRIM_US (5 * US_PER_S)
/* A client that takes less, over write_stall_ms while bytes wait for it, does not read: it
 * would hold a slot for days.  The slowest lines and programs that do read take several times
 * that. */
#define LEAST_BYTES_PER_S 128

static void shut(const struct client_connection *conn, const char *why)
{
    log_debug("event=connection_timeout client=%s why=%s", conn->client, why);
    (void)shutdown(h2o_socket_get_fd(conn->sock), SHUT_RDWR);
}

/* Bytes that the client's kernel has taken; 0 where they are not known, as of a Unix socket. */
static uint64_t acked_bytes(const struct client_connection *conn)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (getsockopt(h2o_socket_get_fd(conn->sock), IPPROTO_TCP, TCP_INFO, &info, &len) == -1 ||
        len < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked))
        return 0;
    return info.tcpi_bytes_acked;
}

/* Many clients may stall at once: a few log lines are enough. */
static void log_stall(const struct client_connection *conn)
{
    static struct log_limit limit;
    const struct responder *r = conn->current;
    uint32_t missed;

    if (log_limit_ok(&limit, 5, &missed))
        log_info("event=write_stall client=%s id=%s pending_bytes=%zu missed=%u",
                 r->request->client, r->request->id, responder_pending(r), missed);
}

static void check_writing(struct http_server *server, struct client_connection *conn,
                          uint64_t now)
{
    struct responder *r = conn->current;
    uint64_t limit_ms = server->config->limits.write_stall_ms;
    uint64_t acked;

    if (!r->in_flight || r->reported || now - r->flight_mono_us < server->timeouts_us)
        return;
    acked = acked_bytes(conn);
    if (acked - r->acked_bytes > limit_ms * LEAST_BYTES_PER_S / 1000) {
        r->acked_bytes = acked;
        r->flight_mono_us = now;
    } else if (now - r->flight_mono_us >= limit_ms * US_PER_MS) {
        log_stall(conn);
        responder_lose(r);
    }
}

static void check_reading(struct http_server *server, struct client_connection *conn,
                          uint64_t now)
{
    const struct config_limits *limits = &server->config->limits;
    bool reading = conn->sock->input != NULL && conn->sock->input->size != 0;
    uint64_t since;

    if (reading || conn->fresh) {
        if (reading && conn->reading_mono_us == 0)
            conn->reading_mono_us = now;
        since = reading && !conn->fresh ? conn->reading_mono_us : conn->since_mono_us;
        if (now - since >= limits->header_timeout_ms * US_PER_MS)
            shut(conn, "request");
        return;
    }
    if (now - conn->since_mono_us >= limits->idle_timeout_ms * US_PER_MS)
        shut(conn, "idle");
    else if (server->draining && now - server->drain_mono_us >= DRAIN_IDLE_US &&
             now - conn->since_mono_us >= DRAIN_IDLE_US)
        shut(conn, "drain");
}

/* ---- memory ------------------------------------------------------------------------------ */

/* Memory that is resident and not shared with a file or another process; 0 = not known. */
static uint64_t own_memory(const struct http_server *server)
{
    unsigned long long resident, shared;
    char text[128];
    ssize_t n = pread(server->statm_fd, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return 0;
    text[n] = '\0';
    if (sscanf(text, "%*u %llu %llu", &resident, &shared) != 2 || resident < shared)
        return 0;
    return (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
}

bool timeouts_memory_short(const struct http_server *server, size_t more)
{
    uint64_t limit = server->config->limits.worker_memory_bytes;
    uint64_t fresh = server->body_bytes > server->memory_bodies
                         ? server->body_bytes - server->memory_bodies
                         : 0;

    return limit != 0 && server->memory_bytes + fresh + more > limit;
}

static void look_at_memory(struct http_server *server, uint64_t now)
{
    bool is_short;

    if (server->config->limits.worker_memory_bytes == 0)
        return;
    server->memory_bytes = own_memory(server);
    server->memory_bodies = server->body_bytes;
    is_short = timeouts_memory_short(server, 0);
    if (is_short && now - server->trim_mono_us >= TRIM_US) {
        server->trim_mono_us = now;
        (void)malloc_trim(0);
        server->memory_bytes = own_memory(server);
        is_short = timeouts_memory_short(server, 0);
    }
    if (is_short == server->memory_short)
        return;
    server->memory_short = is_short;
    if (is_short)
        log_error("event=memory_short bytes=%llu limit=%u bodies_bytes=%zu connections=%u",
                  (unsigned long long)server->memory_bytes,
                  server->config->limits.worker_memory_bytes, server->body_bytes,
                  server->connections_count);
    else
        log_info("event=memory_enough bytes=%llu", (unsigned long long)server->memory_bytes);
}

/* ---- the round --------------------------------------------------------------------------- */

/* Bytes of a head that is still being read. */
static size_t reading_bytes(const struct client_connection *conn)
{
    if (conn->current != NULL || conn->sock->input == NULL || conn->sock->input->bytes == NULL)
        return 0;
    return conn->sock->input->capacity;
}

static void on_timeouts(struct timer *timer)
{
    struct http_server *server = CONTAINER_OF(timer, struct http_server, timeouts_timer);
    uint64_t now = loop_now_us(server->loop);
    size_t held = server->body_bytes;
    struct client_connection *conn;

    timer_start(server->loop, timer, server->timeouts_us, on_timeouts);
    look_at_memory(server, now);
    TAILQ_FOREACH(conn, &server->connections, link) {
        /* Nothing in here frees a connection: shutting down and losing take effect later. */
        if (intake_is_open(conn))
            intake_check(conn, server->config->limits.header_timeout_ms, LEAST_BYTES_PER_S);
        if (conn->current != NULL)
            check_writing(server, conn, now);
        else
            check_reading(server, conn, now);
        held += reading_bytes(conn);
    }
    if (held > server->config->limits.max_body_total_bytes)
        give_way_end_heads(server);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void timeouts_init(struct http_server *server)
{
    const struct config_limits *limits = &server->config->limits;
    uint64_t shortest_ms = least(least(limits->header_timeout_ms, limits->idle_timeout_ms),
                                 limits->write_stall_ms);

    /* A limit is exceeded by a fourth at most, and by half a second at most. */
    server->timeouts_us = least(shortest_ms / 4, 500) * US_PER_MS;
    if (server->timeouts_us < 10 * US_PER_MS)
        server->timeouts_us = 10 * US_PER_MS;
    server->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    timer_start(server->loop, &server->timeouts_timer, server->timeouts_us, on_timeouts);
}

void timeouts_finish(struct http_server *server)
{
    timer_stop(server->loop, &server->timeouts_timer);
    if (server->statm_fd != -1)
        (void)close(server->statm_fd);
    server->statm_fd = -1;
}
