/*
 * admin.c - the admin listener, on libh2o.
 *
 * libh2o's own timeouts do not cover writing, so each connection also has a limit of ours, and
 * its listener would spin when descriptors run out, so accepting pauses then.
 */
#include "health/admin/admin.h"

#include <h2o.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "base/text/text.h"
#include "health/admin/dashboard.h"
#include "health/admin/host.h"
#include "health/admin/metrics.h"
#include "health/admin/nodes_json.h"
#include "health/admin/snapshot.h"
#include "policy/share/clients.h"
#include "proto/rpc/h2/tls.h"
#include "shm/facts/procs.h"

#define MAX_CONNECTIONS    64u
#define ACCEPTS_PER_EVENT  16
#define LIFE_US            (30 * US_PER_S)
#define ACCEPT_PAUSE_US    (50 * US_PER_MS)
#define REQUEST_TIMEOUT_MS 10000u
#define MAX_BODY_BYTES     1024u /* of a request; none is needed */

struct admin {
    struct loop *loop;        /* borrowed */
    struct scoreboard *board; /* borrowed */
    void (*counts)(struct snapshot_counts *out, void *data);
    void *data;
    h2o_globalconf_t config;
    h2o_context_t context;
    h2o_accept_ctx_t accept_ctx;
    h2o_socket_t *listener;               /* owned */
    SSL_CTX *tls;                         /* owned */
    struct admin_connection *connections; /* list; each owned by its socket */
    unsigned connections_count;
    struct clients clients; /* whose they are */
    TAILQ_HEAD(, metrics_job) jobs;
    struct timer metrics_turn; /* armed iff there are jobs */
    struct timer pause;
    bool local_only; /* on a loopback address: browsers of this machine are the danger */
};

/* One accepted connection: freed by libh2o's socket when that closes. */
struct admin_connection {
    struct admin *admin;
    struct admin_connection **link, *next; /* *link is this one */
    h2o_socket_t *sock;                    /* borrowed: outlives this */
    struct client_share *share;            /* of its client */
    uint64_t since_mono_us;
    bool hung_up;
    struct timer life;
};

/* A handler of libh2o, with the way back to us. */
struct admin_handler {
    h2o_handler_t super;
    struct admin *admin;
};

/* ---- answers ----------------------------------------------------------------------------- */

static void answer(h2o_req_t *req, int status, const char *reason, const char *type,
                   const char *body, size_t n)
{
    req->res.status = status;
    req->res.reason = reason;
    req->http1_is_persistent = 0;
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL, type,
                   strlen(type));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    /* Of the page, its own script and the data of this listener are all that a browser runs. */
    h2o_add_header_by_str(
        &req->pool, &req->res.headers, H2O_STRLIT("content-security-policy"), 0, NULL,
        H2O_STRLIT("default-src 'none'; script-src 'unsafe-inline'; style-src "
                   "'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-content-type-options"),
                          0, NULL, H2O_STRLIT("nosniff"));
    req->res.content_length = n;
    h2o_send_inline(req, body, n);
}

static void answer_text(h2o_req_t *req, int status, const char *reason, const char *text)
{
    answer(req, status, reason, "text/plain; charset=utf-8", text, strlen(text));
}

static void answer_built(h2o_req_t *req, const struct admin *admin, const char *type,
                         void (*build)(struct buf *out, const struct snapshot *snapshot))
{
    struct snapshot_counts counts = {0};
    struct snapshot snapshot;
    struct buf body = BUF_INIT;

    admin->counts(&counts, admin->data);
    if (snapshot_take(&snapshot, admin->board, &counts, clock_mono_us(), clock_wall_ms()) !=
        0) {
        answer_text(req, 503, "Service Unavailable", "out of memory\n");
        return;
    }
    build(&body, &snapshot);
    snapshot_finish(&snapshot);
    if (body.failed)
        answer_text(req, 503, "Service Unavailable", "out of memory\n");
    else
        answer(req, 200, "OK", type, (const char *)buf_head(&body), buf_size(&body));
    buf_finish(&body);
}

/* A text that is made in parts, one in a turn of the loop, and one text after the other; lives
 * in the request's pool. */
struct metrics_job {
    h2o_req_t *req; /* borrowed */
    struct admin *admin;
    TAILQ_ENTRY(metrics_job) link; /* in admin->jobs, until it is answered */
    bool waits, began;
    struct snapshot snapshot; /* owned, once it began */
    struct buf text;          /* owned */
    unsigned part;
};

static void on_metrics_turn(struct timer *timer);

/* It is answered, or its request is over. */
static void end_job(struct metrics_job *job)
{
    struct admin *admin = job->admin;

    if (!job->waits)
        return;
    TAILQ_REMOVE(&admin->jobs, job, link);
    job->waits = false;
    if (job->began)
        snapshot_finish(&job->snapshot);
    buf_finish(&job->text);
    if (TAILQ_EMPTY(&admin->jobs))
        timer_stop(admin->loop, &admin->metrics_turn);
}

static void on_job_gone(void *data)
{
    end_job(data);
}

/* True: there is more to do for it. */
static bool do_part(struct metrics_job *job)
{
    struct snapshot_counts counts = {0};

    if (job->began)
        return metrics_build_part(&job->text, &job->snapshot, job->part++);
    job->admin->counts(&counts, job->admin->data);
    job->began = snapshot_take(&job->snapshot, job->admin->board, &counts, clock_mono_us(),
                               clock_wall_ms()) == 0;
    job->text.failed = !job->began;
    return job->began;
}

static void on_metrics_turn(struct timer *timer)
{
    struct admin *admin = CONTAINER_OF(timer, struct admin, metrics_turn);
    struct metrics_job *job = TAILQ_FIRST(&admin->jobs);

    timer_start(admin->loop, &admin->metrics_turn, 0, on_metrics_turn);
    if (do_part(job))
        return;
    if (job->text.failed)
        answer_text(job->req, 503, "Service Unavailable", "out of memory\n");
    else
        answer(job->req, 200, "OK", METRICS_CONTENT_TYPE, (const char *)buf_head(&job->text),
               buf_size(&job->text));
    end_job(job);
}

static void answer_metrics(h2o_req_t *req, struct admin *admin)
{
    struct metrics_job *job = h2o_mem_alloc_shared(&req->pool, sizeof(*job), on_job_gone);

    *job = (struct metrics_job){.req = req, .admin = admin, .waits = true, .text = BUF_INIT};
    TAILQ_INSERT_TAIL(&admin->jobs, job, link);
    timer_start(admin->loop, &admin->metrics_turn, 0, on_metrics_turn);
}

static void answer_ready(h2o_req_t *req, const struct admin *admin)
{
    const char *missing = snapshot_not_ready(admin->board);
    char text[128];

    if (missing == NULL) {
        answer_text(req, 200, "OK", "ready\n");
        return;
    }
    (void)snprintf(text, sizeof(text), "%s\n", missing);
    answer_text(req, 503, "Service Unavailable", text);
}

static bool equals(h2o_iovec_t text, const char *expected)
{
    return text_equals(text.base, text.len, expected);
}

static int on_request(h2o_handler_t *handler, h2o_req_t *req)
{
    struct admin *admin = ((struct admin_handler *)(void *)handler)->admin;

    if (admin->local_only && !host_is_local(req->authority.base, req->authority.len)) {
        answer_text(req, 421, "Misdirected Request",
                    "this listener goes by its address or as localhost\n");
    } else if (!equals(req->method, "GET") && !equals(req->method, "HEAD")) {
        h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("allow"), 0, NULL,
                              H2O_STRLIT("GET, HEAD"));
        answer_text(req, 405, "Method Not Allowed", "only GET and HEAD\n");
    } else if (equals(req->path_normalized, "/")) {
        h2o_add_header_by_str(&req->pool, &req->res.headers,
                              H2O_STRLIT("content-security-policy"), 0, NULL,
                              H2O_STRLIT(DASHBOARD_POLICY));
        answer(req, 200, "OK", "text/html; charset=utf-8", (const char *)dashboard_page,
               dashboard_page_bytes);
    } else if (equals(req->path_normalized, "/livez")) {
        answer_text(req, 200, "OK", "alive\n");
    } else if (equals(req->path_normalized, "/readyz")) {
        answer_ready(req, admin);
    } else if (equals(req->path_normalized, "/metrics")) {
        answer_metrics(req, admin);
    } else if (equals(req->path_normalized, "/nodes")) {
        answer_built(req, admin, "application/json", nodes_json_build);
    } else {
        answer_text(req, 404, "Not Found",
                    "there are /, /livez, /readyz, /metrics and /nodes here\n");
    }
    return 0;
}

/* ---- connections ------------------------------------------------------------------------- */

static void on_connection_closed(void *data)
{
    struct admin_connection *connection = data;

    timer_stop(connection->admin->loop, &connection->life);
    *connection->link = connection->next;
    if (connection->next != NULL)
        connection->next->link = connection->link;
    connection->admin->connections_count--;
    client_leave(&connection->admin->clients, connection->share);
    free(connection);
}

/* libh2o notices and closes. */
static void hang_up(struct admin_connection *connection)
{
    connection->hung_up = true;
    (void)shutdown(h2o_socket_get_fd(connection->sock), SHUT_RDWR);
}

static void on_life_over(struct timer *timer)
{
    hang_up(CONTAINER_OF(timer, struct admin_connection, life));
}

static void on_accept(h2o_socket_t *listener, const char *err);

static void on_pause_over(struct timer *timer)
{
    struct admin *admin = CONTAINER_OF(timer, struct admin, pause);

    if (admin->listener != NULL)
        h2o_socket_read_start(admin->listener, on_accept);
}

static void note_gave_way(struct admin *admin, const struct admin_connection *connection)
{
    static struct log_limit limit;
    uint32_t missed;

    procs_count(admin->board, procs_health_index(admin->board), PROC_CONNECTIONS_GAVE_WAY, 1);
    if (log_limit_ok(&limit, 1, &missed))
        log_warn("event=admin_connection_gave_way clients_connections=%u connections=%u "
                 "missed=%u",
                 (unsigned)connection->share->connections, admin->connections_count, missed);
}

/* Of the clients that have more than the newcomer, and of itself, the one that has most loses
 * its oldest connection.  False: there is none. */
static bool make_room(struct admin *admin, uint64_t client)
{
    uint32_t mine = client_connections(&admin->clients, client);
    struct give_way_candidate best_as = {0};
    struct admin_connection *best = NULL;

    for (struct admin_connection *c = admin->connections; c != NULL; c = c->next) {
        struct give_way_candidate as = {
            .connections = c->share->connections,
            .share = MAX_CONNECTIONS / (admin->clients.count + 1),
            .how = GIVE_WAY_SILENT, /* a request is answered at once */
            .since_mono_us = c->since_mono_us,
        };

        if (!c->hung_up && gives_way_to(&as, c->share->key == client, mine) &&
            (best == NULL || gives_way_before(&as, &best_as))) {
            best = c;
            best_as = as;
        }
    }
    if (best == NULL)
        return false;
    note_gave_way(admin, best);
    hang_up(best);
    return true;
}

static void adopt(struct admin *admin, h2o_socket_t *sock)
{
    struct admin_connection *connection = NULL;
    struct sockaddr_storage sa = {0};
    uint64_t client;

    (void)h2o_socket_getpeername(sock, (struct sockaddr *)&sa);
    client = net_peer_key((struct sockaddr *)&sa);
    /* One that gives way is there until libh2o notices. */
    if (admin->connections_count < MAX_CONNECTIONS ||
        (admin->connections_count < 2 * MAX_CONNECTIONS && make_room(admin, client)))
        connection = calloc(1, sizeof(*connection));
    if (connection == NULL) {
        h2o_socket_close(sock);
        return;
    }
    connection->admin = admin;
    connection->sock = sock;
    connection->share = client_join(&admin->clients, client);
    connection->since_mono_us = loop_now_us(admin->loop);
    sock->on_close.cb = on_connection_closed;
    sock->on_close.data = connection;
    connection->next = admin->connections;
    connection->link = &admin->connections;
    if (connection->next != NULL)
        connection->next->link = &connection->next;
    admin->connections = connection;
    admin->connections_count++;
    timer_start(admin->loop, &connection->life, LIFE_US, on_life_over);
    h2o_accept(&admin->accept_ctx, sock);
}

static void on_accept(h2o_socket_t *listener, const char *err)
{
    struct admin *admin = listener->data;

    if (err != NULL)
        return;
    for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
        h2o_socket_t *sock = h2o_evloop_socket_accept(listener);

        if (sock == NULL) {
            /* No more of them, or no descriptors: the one costs a moment, the other would spin.
             */
            if (i == 0) {
                h2o_socket_read_stop(listener);
                timer_start(admin->loop, &admin->pause, ACCEPT_PAUSE_US, on_pause_over);
            }
            return;
        }
        adopt(admin, sock);
    }
}

/* ---- life -------------------------------------------------------------------------------- */

int admin_create(struct admin **out, struct loop *loop, struct scoreboard *board,
                 const struct config *config, int listen_fd,
                 void (*counts)(struct snapshot_counts *out, void *data), void *data,
                 struct error *err)
{
    struct admin *admin = calloc(1, sizeof(*admin));
    h2o_hostconf_t *host;
    h2o_pathconf_t *path;
    struct admin_handler *handler;

    *out = NULL;
    if (admin == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    TAILQ_INIT(&admin->jobs);
    admin->loop = loop;
    admin->board = board;
    admin->counts = counts;
    admin->data = data;
    if (config->admin.tls.enabled) {
        int rc = tls_server_context(&admin->tls, &config->admin.tls, TLS_PROTOCOL_HTTP1, err);

        if (rc != 0) {
            free(admin);
            return error_wrap(err, rc, "admin.tls");
        }
    }
    admin->local_only =
        strncmp(config->admin.address, "unix:", 5) != 0 && net_is_local(config->admin.address);
    h2o_config_init(&admin->config);
    admin->config.http1.upgrade_to_http2 = 0;
    admin->config.http1.req_timeout = REQUEST_TIMEOUT_MS;
    admin->config.max_request_entity_size = MAX_BODY_BYTES;
    admin->config.server_name = h2o_iovec_init(H2O_STRLIT("drover"));
    /* Also what libh2o takes a request to mean that has no Host. */
    host = h2o_config_register_host(&admin->config, h2o_iovec_init(H2O_STRLIT("localhost")),
                                    65535);
    path = h2o_config_register_path(host, "/", 0);
    handler = (struct admin_handler *)(void *)h2o_create_handler(path, sizeof(*handler));
    handler->admin = admin;
    handler->super.on_req = on_request;
    h2o_context_init(&admin->context, loop->h2o, &admin->config);
    admin->accept_ctx.ctx = &admin->context;
    admin->accept_ctx.hosts = admin->config.hosts;
    admin->accept_ctx.ssl_ctx = admin->tls;
    admin->listener = h2o_evloop_socket_create(loop->h2o, listen_fd, H2O_SOCKET_FLAG_DONT_READ);
    if (admin->listener == NULL) {
        h2o_context_dispose(&admin->context);
        h2o_config_dispose(&admin->config);
        SSL_CTX_free(admin->tls);
        free(admin);
        return error_set(err, DRV_ESYS, "cannot listen for admin requests");
    }
    admin->listener->data = admin;
    h2o_socket_read_start(admin->listener, on_accept);
    *out = admin;
    return 0;
}

void admin_reload(struct admin *admin, const struct config *config)
{
    struct error err = {0};
    SSL_CTX *fresh = NULL;

    if (config->admin.tls.enabled &&
        tls_server_context(&fresh, &config->admin.tls, TLS_PROTOCOL_HTTP1, &err) != 0) {
        log_error("event=tls_not_renewed listener=admin why=%s", log_quote(err.text));
        return;
    }
    admin->accept_ctx.ssl_ctx = fresh;
    SSL_CTX_free(admin->tls); /* connections have their own reference */
    admin->tls = fresh;
}

void admin_stop(struct admin *admin)
{
    if (admin == NULL || admin->listener == NULL)
        return;
    timer_stop(admin->loop, &admin->pause);
    h2o_socket_close(admin->listener);
    admin->listener = NULL;
    for (struct admin_connection *c = admin->connections; c != NULL; c = c->next)
        hang_up(c);
}

bool admin_idle(const struct admin *admin)
{
    return admin == NULL || admin->connections == NULL;
}

void admin_destroy(struct admin *admin)
{
    h2o_multithread_queue_t *queue;

    if (admin == NULL || !admin_idle(admin))
        return;
    queue = admin->context.queue;
    h2o_context_dispose(&admin->context);
    free(queue); /* libh2o 2.2.5 forgets to */
    h2o_config_dispose(&admin->config);
    SSL_CTX_free(admin->tls);
    free(admin);
}
