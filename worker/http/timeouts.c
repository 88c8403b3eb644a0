/*
 * timeouts.c - ends connections that take too long; checks all of them now and then.
 *
 * libh2o's own timers start again with some parts of a request and do not cover writing at all;
 * they are set generously and these limits are the real ones:
 *
 *   header_timeout_ms  the head of a request, also the first one on a new connection, TLS
 *                      included; and the time in which hardly a byte of its body comes
 *   max_body_bytes     twice as much read for one request: most of that must be the frames of
 *                      chunks, or trailers
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
#include "worker/http/framing/strict_head.h"
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

/* The kernel's counters of a connection; all 0 where it has none, as of a Unix socket. */
static void count_bytes(const struct client_connection *conn, uint64_t *acked,
                        uint64_t *received)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (getsockopt(h2o_socket_get_fd(conn->sock), IPPROTO_TCP, TCP_INFO, &info, &len) == -1 ||
        len < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
        info = (struct tcp_info){0};
    *acked = info.tcpi_bytes_acked;
    *received = info.tcpi_bytes_received;
}

/* Many clients may stall at once: a few log lines are enough. */
static void log_stall(const struct client_connection *conn)
{
    static struct log_limit limit;
    const struct responder *r = conn->current;
    uint32_t missed;

    if (log_limit_ok(&limit, 5, &missed))
        log_info("event=write_stall client=%s id=%s pending_bytes=%zu missed=%u", conn->client,
                 r->request->id, responder_pending(r), missed);
}

static void check_writing(struct http_server *server, struct client_connection *conn,
                          uint64_t now)
{
    struct responder *r = conn->current;
    uint64_t limit_ms = server->config->limits.write_stall_ms;
    uint64_t acked, received;

    if (!r->in_flight || r->reported || now - r->flight_mono_us < server->timeouts_us)
        return;
    count_bytes(conn, &acked, &received);
    if (acked - r->acked_bytes > limit_ms * LEAST_BYTES_PER_S / 1000) {
        r->acked_bytes = acked;
        r->flight_mono_us = now;
    } else if (now - r->flight_mono_us >= limit_ms * US_PER_MS) {
        log_stall(conn);
        responder_lose(r);
    }
}

/* Is libh2o reading a body, and not the head, and did enough of it come since the last look?  A
 * client that is slow is served, one that sends a byte now and then is not. */
static bool body_comes(const struct client_connection *conn, uint64_t received,
                       uint64_t limit_ms)
{
    const h2o_buffer_t *input = conn->sock->input;
    size_t n = input->size < STRICT_HEAD_MAX_BYTES ? input->size : STRICT_HEAD_MAX_BYTES;

    return n != 0 && memmem(input->bytes, n, "\r\n\r\n", 4) != NULL &&
           received - conn->slow_bytes >= limit_ms * LEAST_BYTES_PER_S / 1000;
}

static void check_reading(struct http_server *server, struct client_connection *conn,
                          uint64_t now)
{
    const struct config_limits *limits = &server->config->limits;
    bool reading = conn->sock->input != NULL && conn->sock->input->size != 0;
    uint64_t since, acked, received;

    if (reading || conn->fresh) {
        count_bytes(conn, &acked, &received);
        if (reading && conn->reading_mono_us == 0) {
            conn->reading_mono_us = now;
            conn->base_bytes = conn->fresh ? 0 : received;
            conn->slow_bytes = received;
        }
        since = reading && !conn->fresh ? conn->reading_mono_us : conn->since_mono_us;
        if (conn->slow_mono_us > since)
            since = conn->slow_mono_us;
        if (now - since >= limits->header_timeout_ms * US_PER_MS) {
            if (!body_comes(conn, received, limits->header_timeout_ms))
                shut(conn, "request");
            conn->slow_mono_us = now;
            conn->slow_bytes = received;
        } else if (received - conn->base_bytes >
                   2 * (uint64_t)limits->max_body_bytes + STRICT_HEAD_MAX_BYTES)
            shut(conn, "too_many_bytes");
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

/* Bytes of requests that are still being read. */
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
        if (held > server->config->limits.max_body_total_bytes && reading_bytes(conn) != 0) {
            held -= reading_bytes(conn);
            shut(conn, "too_much_held");
        }
    }
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
