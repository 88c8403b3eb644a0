/*
 * health.c - the health process: its parts, and the signals and commands it obeys.
 *
 * It listens to four things besides the network: signals, the master's parent pipe, the
 * operator's commands that the master passes on, and its clock.
 */
#include "health/health.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/config/config_load.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/io/signal_fd.h"
#include "base/log.h"
#include "base/secure/sandbox.h"
#include "base/text/buf.h"
#include "health/admin/admin.h"
#include "health/admin/snapshot.h"
#include "health/nodes/configured.h"
#include "health/nodes/table.h"
#include "health/registry/lease.h"
#include "health/registry/registry.h"
#include "proto/control.h"
#include "shm/facts/procs.h"

#define TURN_US          (100 * US_PER_MS)
#define STOP_GRACE_US    (500 * US_PER_MS)
#define MAX_CONFIG       (4u * 1024 * 1024)
#define COMMANDS_AT_ONCE 32

struct health {
    const struct health_params *params;
    struct config *own; /* owned; NULL until the first reload */
    struct loop loop;
    struct node_table *table;  /* owned */
    struct registry *registry; /* owned; NULL = not served */
    struct admin *admin;       /* owned; NULL = not served */
    int signal_fd;
    struct watch *signal_watch, *parent_watch, *command_watch; /* owned */
    bool stop;             /* leave the loop as soon as nodes have heard */
    uint64_t stop_mono_us; /* when that was said; 0 = not yet */
    bool reported_all;     /* they have */
};

/* ---- reload ------------------------------------------------------------------------------ */

/* The whole text of the active configuration. */
static int read_config(struct buf *out, int fd, struct error *err)
{
    for (;;) {
        uint8_t *to = buf_reserve(out, 65536);
        ssize_t n;

        if (to == NULL)
            return error_set(err, DRV_ENOMEM, "out of memory");
        n = pread(fd, to, 65536, (off_t)buf_size(out));
        if (n == 0)
            return 0;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_sys(err, "cannot read the configuration");
        out->len += (size_t)n;
        if (buf_size(out) > MAX_CONFIG)
            return error_set(err, DRV_ETOOBIG, "the configuration is too big");
    }
}

static void reload(struct health *health)
{
    struct config *next = NULL;
    struct buf text = BUF_INIT;
    struct error err = {0};
    const char *start, *name;
    int rc = read_config(&text, health->params->config_fd, &err);

    start = buf_cstr(&text);
    name = memchr(start, '\0', buf_size(&text));
    if (rc == 0 && name != NULL)
        rc = config_parse(&next, start, (size_t)(name - start), name + 1, &err);
    else if (rc == 0)
        rc = error_set(&err, DRV_EINVAL, "the configuration is cut short");
    if (rc != 0) {
        /* The master has checked this text; most likely a file it names has gone since. */
        log_error("event=reload_failed why=%s", log_quote(err.text));
        buf_finish(&text);
        return;
    }
    buf_finish(&text);
    configured_reload(health->table, next);
    if (health->registry != NULL)
        registry_reload(health->registry, next);
    if (health->admin != NULL)
        admin_reload(health->admin, next);
    log_set_level(next->log_level);
    if (log_open(next->log_file, &err) != 0)
        log_error("event=log_open_failed why=%s", log_quote(err.text));
    config_destroy(health->own);
    health->own = next;
    log_info("event=reloaded nodes=%u", next->nodes_count);
}

/* ---- from outside ------------------------------------------------------------------------ */

static void begin_stop(struct health *health, const char *why)
{
    if (health->stop)
        return;
    log_info("event=stopping why=%s", why);
    health->stop = true;
    health->stop_mono_us = clock_mono_us();
    procs_set_state(health->params->board, health->params->process, PROC_DRAINING);
    admin_stop(health->admin);
    if (health->registry != NULL)
        registry_stop(health->registry, STOP_GRACE_US, &health->reported_all);
    else
        health->reported_all = true;
}

static void give_counts(struct snapshot_counts *out, void *data)
{
    struct health *health = data;

    out->gauge_audit_violations = health->table->violations;
    out->ejections = health->table->ejections;
    out->kept = health->table->kept;
    if (health->registry != NULL)
        registry_counts(health->registry, out);
}

static int open_admin(struct health *health, struct error *err)
{
    const struct health_params *params = health->params;
    const struct config *config = health->own != NULL ? health->own : params->config;

    return admin_create(&health->admin, &health->loop, params->board, config, params->admin_fd,
                        give_counts, health, err);
}

/* Another master takes over, or this process belongs to the one that does. */
static void follow(struct health *health, enum health_order order)
{
    struct error err = {0};

    switch (order) {
    case HEALTH_LEAVE_NODES:
        log_info("event=leaving_nodes");
        health->table->leases_held = true;
        if (health->registry != NULL)
            registry_stop(health->registry, STOP_GRACE_US, &health->reported_all);
        break;
    case HEALTH_LEAVE_ADMIN:
        admin_stop(health->admin);
        break;
    case HEALTH_OPEN_ADMIN:
        if (health->admin == NULL && health->params->admin_fd != -1 &&
            open_admin(health, &err) != 0)
            log_error("event=admin_failed why=%s", log_quote(err.text));
        break;
    }
}

static void on_signal(struct watch *watch, void *data)
{
    struct health *health = data;
    struct signalfd_siginfo info;
    struct error err = {0};

    (void)watch;
    while (signal_fd_read(health->signal_fd, &info)) {
        if ((int)info.ssi_signo == HEALTH_ORDER_SIGNAL) {
            follow(health, (enum health_order)info.ssi_int);
            continue;
        }
        switch ((int)info.ssi_signo) {
        case SIGHUP:
            reload(health);
            break;
        case SIGUSR1:
            if (log_reopen(&err) != 0)
                log_error("event=log_reopen_failed why=%s", log_quote(err.text));
            break;
        case SIGTERM:
        case SIGINT:
        case SIGQUIT:
            begin_stop(health, "signal");
            break;
        default:
            break;
        }
    }
}

static void on_parent_gone(struct watch *watch, void *data)
{
    struct health *health = data;
    char byte;
    ssize_t n = read(health->params->parent_fd, &byte, 1);

    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    watch_stop(watch);
    health->parent_watch = NULL;
    begin_stop(health, "master_gone");
}

static void fulfil(struct health *health, const struct control_request *request,
                   struct control_reply *reply)
{
    bool drain = request->op == CONTROL_DRAIN;

    reply->done = true;
    if (request->op != CONTROL_DRAIN && request->op != CONTROL_UNDRAIN) {
        (void)snprintf(reply->text, sizeof(reply->text), "the health process cannot %s",
                       control_op_name(request->op));
        return;
    }
    if (node_table_drain(health->table, request->node, drain) != 0) {
        (void)snprintf(reply->text, sizeof(reply->text), "no node is called '%s'",
                       request->node);
        return;
    }
    reply->ok = true;
    (void)snprintf(reply->text, sizeof(reply->text),
                   drain ? "%s takes no new requests" : "%s takes requests again once probed",
                   request->node);
}

/* One datagram is one framed message; so is the answer. */
static bool take_command(struct health *health)
{
    uint8_t bytes[CONTROL_WISH_BYTES];
    struct buf in = BUF_INIT, out = BUF_INIT;
    struct control_request request = {0};
    struct control_reply reply = {.done = true};
    struct error err = {0};
    ssize_t n = recv(health->params->command_fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n <= 0)
        return false;
    buf_add(&in, bytes, (size_t)n);
    if (in.failed || control_decode_request(&request, &in, &err) != 0)
        (void)snprintf(reply.text, sizeof(reply.text), "not a control request: %.200s",
                       err.text);
    else
        fulfil(health, &request, &reply);
    control_encode_reply(&out, &reply);
    if (out.failed || send(health->params->command_fd, buf_head(&out), buf_size(&out),
                           MSG_DONTWAIT | MSG_NOSIGNAL) == -1)
        log_warn("event=command_reply_lost op=%s", control_op_name(request.op));
    buf_finish(&in);
    buf_finish(&out);
    return true;
}

static void on_command(struct watch *watch, void *data)
{
    struct health *health = data;

    for (int i = 0; i < COMMANDS_AT_ONCE; i++) {
        if (!take_command(health))
            break;
    }
    (void)watch;
}

/* ---- life -------------------------------------------------------------------------------- */

static int start_watches(struct health *health, struct error *err)
{
    const int numbers[] = {SIGHUP, SIGUSR1, SIGTERM, SIGINT, SIGQUIT, HEALTH_ORDER_SIGNAL};

    (void)signal(SIGPIPE, SIG_IGN);
    health->signal_fd = signal_fd_open(numbers, ARRAY_LEN(numbers), err);
    if (health->signal_fd < 0)
        return health->signal_fd;
    health->signal_watch =
        watch_start(&health->loop, health->signal_fd, on_signal, health, err);
    if (health->signal_watch == NULL)
        return DRV_ESYS;
    health->parent_watch =
        watch_start(&health->loop, health->params->parent_fd, on_parent_gone, health, err);
    if (health->parent_watch == NULL)
        return DRV_ESYS;
    if (health->params->command_fd == -1)
        return 0;
    health->command_watch =
        watch_start(&health->loop, health->params->command_fd, on_command, health, err);
    return health->command_watch == NULL ? DRV_ESYS : 0;
}

static int start(struct health *health, struct error *err)
{
    const struct health_params *params = health->params;
    int rc = loop_init(&health->loop, err);

    if (rc != 0)
        return rc;
    rc = start_watches(health, err);
    if (rc == 0)
        rc = node_table_create(&health->table, &health->loop, params->board, params->config,
                               err);
    if (rc == 0) {
        lease_start(health->table);
        configured_start(health->table);
    }
    /* Nodes that looked for the other master would come here as well, and be lost to it. */
    if (rc == 0 && params->nodes_left)
        health->table->leases_held = true;
    if (rc == 0 && params->registry_fd != -1 && !params->nodes_left)
        rc = registry_create(&health->registry, &health->loop, health->table, params->config,
                             params->registry_fd, err);
    if (rc == 0 && params->admin_fd != -1 && !params->admin_later)
        rc = open_admin(health, err);
    if (rc == 0)
        rc = sandbox_enter(SANDBOX_HEALTH, params->config->seccomp, err);
    return rc;
}

/* Is every node informed and the admin listener idle, or is the time for it over? */
static bool over(const struct health *health)
{
    if (!health->stop)
        return false;
    return (health->reported_all && admin_idle(health->admin)) ||
           clock_mono_us() >= health->stop_mono_us + 2 * STOP_GRACE_US;
}

static void finish(struct health *health)
{
    registry_destroy(health->registry);
    configured_stop(health->table);
    node_table_destroy(health->table);
    admin_destroy(health->admin);
    watch_stop(health->command_watch);
    watch_stop(health->parent_watch);
    watch_stop(health->signal_watch);
    if (health->signal_fd >= 0)
        (void)close(health->signal_fd);
    loop_finish(&health->loop);
    config_destroy(health->own);
}

int health_main(const struct health_params *params)
{
    struct health health = {.params = params, .signal_fd = -1};
    struct error err = {0};

    log_set_proc("health");
    if (start(&health, &err) != 0) {
        log_error("event=start_failed why=%s", log_quote(err.text));
        admin_stop(health.admin);
        finish(&health);
        return EXIT_FAILURE;
    }
    procs_set_state(params->board, params->process, PROC_RUNNING);
    log_info("event=started nodes=%u", health.table->count);
    while (!over(&health)) {
        loop_turn(&health.loop, TURN_US);
        lease_check_gap(health.table);
        procs_heartbeat(params->board, params->process, clock_mono_us());
        procs_count(params->board, params->process, PROC_LOG_LOST,
                    (int64_t)log_count_lost(NULL));
    }
    finish(&health);
    log_info("event=stopped");
    return EXIT_SUCCESS;
}
