/*
 * worker.c - a worker process: its loop, its signals, its orderly end.
 *
 * A worker is RUNNING, or DRAINING: no new connections, open requests finish, then it exits.
 * TERM puts a limit on that (shutdown_grace_ms), QUIT does not, and losing the master is like
 * TERM.
 */
#include "worker/worker.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/io/loop.h"
#include "base/io/signal_fd.h"
#include "base/log.h"
#include "base/secure/sandbox.h"
#include "proto/operations.h"
#include "shm/facts/procs.h"
#include "shm/share/holders.h"
#include "worker/context.h"
#include "worker/http/client_request.h"
#include "worker/http/reject.h"
#include "worker/http/server.h"
#include "worker/request/question.h"
#include "worker/request/request.h"
#include "worker/select/enqueue.h"
#include "worker/upstreams/upstreams.h"

#define TURN_MAX_US (100 * US_PER_MS) /* the heartbeat beats at least this often */
/* After the time is up: for error events to reach the clients. */
#define FLUSH_US (1 * US_PER_S)

struct worker {
    const struct worker_params *params;
    struct loop loop;
    struct worker_context context;
    struct question_core questions;
    struct http_server *http;
    struct log_sink *access_log;
    struct watch *signals, *parent, *woken;
    int signal_fd;
    bool draining;
    bool over; /* leave the loop */
    struct timer grace;
};

static size_t open_requests(const struct worker *w)
{
    return request_open_count(&w->context) + question_open(&w->questions);
}

static void on_flushed(struct timer *timer)
{
    CONTAINER_OF(timer, struct worker, grace)->over = true;
}

static void on_grace_over(struct timer *timer)
{
    struct worker *w = CONTAINER_OF(timer, struct worker, grace);

    log_warn("event=grace_over open_requests=%zu", open_requests(w));
    request_stop_all(&w->context);
    question_stop_all(&w->questions);
    timer_start(&w->loop, &w->grace, FLUSH_US, on_flushed);
}

static void drain(struct worker *w, const char *why, bool limited)
{
    if (!w->draining) {
        w->draining = true;
        procs_set_state(w->params->board, w->params->worker, PROC_DRAINING);
        log_info("event=draining why=%s open_requests=%zu", why, open_requests(w));
        http_server_drain(w->http);
        /* Else this copy would keep alive a queue of connections that no process accepts. */
        (void)close(w->params->listen_fd);
    }
    if (limited && !timer_running(&w->grace))
        timer_start(&w->loop, &w->grace, w->params->config->shutdown_grace_ms * US_PER_MS,
                    on_grace_over);
}

static void on_signal(struct watch *watch, void *data)
{
    struct worker *w = data;
    struct signalfd_siginfo info;
    struct error err;

    (void)watch;
    while (signal_fd_read(w->signal_fd, &info)) {
        switch (info.ssi_signo) {
        case SIGTERM:
        case SIGINT:
            drain(w, "SIGTERM", true);
            break;
        case SIGQUIT:
        case SIGWINCH:
            drain(w, "SIGQUIT", false);
            break;
        case SIGUSR1:
            if (log_reopen(&err) != 0)
                log_error("event=log_reopen_failed why=%s", log_quote(err.text));
            if (log_sink_reopen(w->access_log, &err) != 0)
                log_error("event=log_reopen_failed why=%s", log_quote(err.text));
            break;
        default:
            break;
        }
    }
}

static void on_master_gone(struct watch *watch, void *data)
{
    struct worker *w = data;

    watch_stop(watch);
    w->parent = NULL;
    log_warn("event=master_gone");
    drain(w, "master_gone", true);
}

static void settle_name(struct client_request *request, void *data)
{
    struct worker *w = data;
    unsigned models = upstreams_resolve(w->context.upstreams, request->model);

    request->aliased = models != 0;
    request->pooled = models > 1;
}

/* The node that has what the request names, if that is known: no other will do, though it is
 * away.  False: it belongs to another key, and does not exist for this one. */
static bool settle_holder(struct worker *w, struct client_request *request)
{
    uint64_t node, owner;

    request->owner = request->key_name == NULL ? 0 : hash_text(request->key_name);
    if (request->kept_id[0] == '\0' ||
        !holders_find(w->params->holders, request->kept_id, &node, &owner))
        return true;
    request->holder = node;
    if (owner == 0 || request->owner == 0 || owner == request->owner)
        return true;
    http_reject(request, API_ERROR_NOT_FOUND, "there is no response or conversation of this id",
                request->kept_member, 0);
    return false;
}

static void on_infer(struct client_request *request, void *data)
{
    struct worker *w = data;

    if (!settle_holder(w, request))
        return;
    if (operation_is_question(request->operation) ||
        operation_unloads(request->operation, &request->root))
        question_start(&w->questions, request);
    else
        request_start(&w->context, request);
}

static bool is_ready(void *data)
{
    struct worker *w = data;

    /* The prober should look elsewhere as soon as the end is decided, before it begins. */
    return !w->draining && !procs_ending(w->params->board) &&
           upstreams_any_up(w->context.upstreams);
}

static bool models_unknown(void *data)
{
    struct worker *w = data;

    return upstreams_models_unknown(w->context.upstreams);
}

static bool models_awaited(void *data)
{
    struct worker *w = data;

    return upstreams_models_awaited(w->context.upstreams);
}

static void on_upstreams_change(void *data, bool models)
{
    struct worker *w = data;

    enqueue_renew(&w->context, models);
}

/* A node was offered to a request here, or a worker has died. */
static void on_woken(struct watch *watch, void *data)
{
    struct worker *w = data;
    uint64_t count;

    (void)watch;
    if (read(w->params->wake_fds[w->params->worker], &count, sizeof(count)) ==
        (ssize_t)sizeof(count))
        queue_woken(&w->context.queue);
}

static int watch_signals(struct worker *w, struct error *err)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGQUIT, SIGWINCH, SIGUSR1};

    (void)signal(SIGPIPE, SIG_IGN);
    w->signal_fd = signal_fd_open(numbers, ARRAY_LEN(numbers), err);
    if (w->signal_fd < 0)
        return w->signal_fd;
    w->signals = watch_start(&w->loop, w->signal_fd, on_signal, w, err);
    w->parent = watch_start(&w->loop, w->params->parent_fd, on_master_gone, w, err);
    w->woken = watch_start(&w->loop, w->params->wake_fds[w->params->worker], on_woken, w, err);
    return w->signals == NULL || w->parent == NULL || w->woken == NULL ? DRV_ESYS : 0;
}

static int start(struct worker *w, struct error *err)
{
    const struct worker_params *params = w->params;
    struct http_server_params http = {
        .loop = &w->loop,
        .config = params->config,
        .board = params->board,
        .worker = params->worker,
        .listen_fd = params->listen_fd,
        .on_infer = on_infer,
        .settle_name = settle_name,
        .ready = is_ready,
        .models_unknown = models_unknown,
        .models_awaited = models_awaited,
        .data = w,
    };
    int rc;

    rc = loop_init(&w->loop, err);
    if (rc != 0)
        return rc;
    rc = watch_signals(w, err);
    if (rc != 0)
        return rc;
    rc = log_sink_open(&w->access_log, params->config->access_log, err);
    if (rc != 0 && params->replaces) {
        log_error("event=access_log_not_opened error=%s", log_quote(err->text));
        rc = log_sink_open_later(&w->access_log, params->config->access_log, err);
    }
    if (rc != 0)
        return error_wrap(err, rc, "access log");
    w->context.loop = &w->loop;
    w->context.config = params->config;
    w->context.board = params->board;
    w->context.holders = params->holders;
    w->context.worker = params->worker;
    w->context.access_log = w->access_log;
    w->context.wake_fds = params->wake_fds;
    worker_context_init(&w->context);
    enqueue_init(&w->context);
    request_init(&w->context);
    rc = upstreams_create(&w->context.upstreams, &w->loop, params->config, params->board,
                          params->worker, on_upstreams_change, w, err);
    if (rc != 0)
        return rc;
    upstreams_renew(w->context.upstreams);
    w->questions = (struct question_core){.loop = &w->loop,
                                          .config = params->config,
                                          .board = params->board,
                                          .holders = params->holders,
                                          .worker = params->worker,
                                          .upstreams = w->context.upstreams,
                                          .access_log = w->access_log};
    question_core_init(&w->questions);
    http.access_log = w->access_log;
    rc = http_server_create(&w->http, &http, err);
    return rc != 0 ? rc : sandbox_enter(SANDBOX_WORKER, params->config->seccomp, err);
}

static void report_lost_lines(struct worker *w)
{
    uint64_t lost = log_count_lost(w->access_log);

    if (lost != 0)
        procs_count(w->params->board, w->params->worker, PROC_LOG_LOST, (int64_t)lost);
}

static void run(struct worker *w)
{
    while (!w->over) {
        loop_turn(&w->loop, TURN_MAX_US);
        procs_heartbeat(w->params->board, w->params->worker, loop_now_us(&w->loop));
        upstreams_renew(w->context.upstreams);
        report_lost_lines(w);
        if (w->draining && open_requests(w) == 0 && http_server_connections(w->http) == 0)
            w->over = true;
    }
}

/* A body passes through several buffers of its size.  By itself malloc() would get the pages of
 * each from the kernel and give them back, for every request: a quarter of the time that a body
 * of 220 KiB costs. */
#define OWN_PAGES_BYTES (2 * 1024 * 1024) /* only larger blocks have pages of their own */
#define KEEP_BYTES      (8 * 1024 * 1024) /* free memory at the end of the heap that is kept */

static void keep_freed_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, OWN_PAGES_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, KEEP_BYTES);
}

int worker_main(const struct worker_params *params)
{
    struct worker *w = calloc(1, sizeof(*w));
    struct error err = {0};
    char name[32];
    int rc = 1;

    (void)snprintf(name, sizeof(name), "worker%u", params->worker);
    log_set_proc(name);
    keep_freed_memory();
    if (w == NULL) {
        log_error("event=worker_start_failed why=\"out of memory\"");
        return 1;
    }
    w->params = params;
    w->signal_fd = -1;
    if (start(w, &err) == 0) {
        procs_set_state(params->board, params->worker, PROC_RUNNING);
        log_info("event=worker_running");
        run(w);
        log_info("event=worker_stopped");
        rc = 0;
    } else {
        log_error("event=worker_start_failed why=%s", log_quote(err.text));
    }
    http_server_destroy(w->http);
    if (w->context.loop != NULL) {
        enqueue_finish(&w->context);
        worker_context_finish(&w->context);
    }
    if (w->questions.loop != NULL)
        question_core_finish(&w->questions);
    upstreams_destroy(w->context.upstreams);
    watch_stop(w->signals);
    watch_stop(w->parent);
    watch_stop(w->woken);
    log_sink_close(w->access_log);
    if (w->signal_fd >= 0)
        (void)close(w->signal_fd);
    loop_finish(&w->loop);
    free(w);
    return rc;
}
