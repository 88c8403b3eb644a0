/*
 * master.c - the master's life: start, one poll loop, orderly end.
 *
 * The master is boring on purpose.  It parses no byte of a client or a node, holds no lock,
 * waits for nobody, and survives any child.  It runs no event loop of libh2o's and no thread,
 * because both would be copied into every child by fork().
 */
#include "master/master.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "base/net.h"
#include "master/signals.h"
#include "shm/procs.h"
#include "shm/scoreboard.h"

#define TURN_MS 500 /* the longest sleep: our own heartbeat must not look stale */

void master_end(struct master *master, enum child_order order)
{
    if (order <= master->sup.order)
        return;
    log_info("event=ending order=%s children=%u", child_order_name(order),
             supervise_alive(&master->sup));
    supervise_end(&master->sup, order);
    procs_set_state(master->rt.board, procs_master_slot(master->rt.board), PROC_DRAINING);
}

unsigned master_scale(struct master *master, unsigned count)
{
    unsigned before = supervise_workers(&master->sup);

    log_info("event=scale workers_before=%u workers=%u", before, count);
    supervise_set_workers(&master->sup, count);
    return before;
}

/* TERM and INT: first within the grace, a second time at once. */
static void on_term(struct master *master)
{
    master_end(master, master->sup.order >= ORDER_STOP ? ORDER_DIE : ORDER_STOP);
}

static void reopen_logs(struct master *master)
{
    const struct privileges *run_as = &master->reload.config->run_as;
    struct error err;
    int rc;

    privileges_borrow(run_as);
    rc = log_reopen(&err);
    privileges_return(run_as);
    if (rc != 0)
        log_error("event=log_reopen_failed error=%s", log_quote(err.text));
    supervise_signal(&master->sup, SIGUSR1);
    log_info("event=logs_reopened");
}

static void on_signal(struct master *master, int number)
{
    unsigned workers = supervise_workers(&master->sup);

    switch (number) {
    case SIGTERM:
    case SIGINT:
        on_term(master);
        break;
    case SIGQUIT:
        master_end(master, ORDER_FINISH);
        break;
    case SIGHUP:
        (void)reload_want(&master->reload);
        break;
    case SIGTTIN:
        if (workers < SUPERVISE_MAX_WORKERS)
            (void)master_scale(master, workers + 1);
        break;
    case SIGTTOU:
        if (workers > 1)
            (void)master_scale(master, workers - 1);
        break;
    case SIGWINCH:
        (void)master_scale(master, 0);
        break;
    case SIGUSR1:
        reopen_logs(master);
        break;
    case SIGCHLD:
        break; /* every turn reaps */
    }
}

static void on_reload_done(void *arg, uint64_t serial, const char *error)
{
    struct master *master = arg;

    console_reload_done(&master->console, serial, error);
}

static void on_health_lost(void *arg)
{
    struct master *master = arg;

    console_health_lost(&master->console);
}

static void in_child(void *arg)
{
    struct master *master = arg;

    console_leave(&master->console);
    (void)close(master->signal_fd);
}

static int wait_ms(const struct master *master, uint64_t now_mono_us)
{
    int ms = supervise_wait_ms(&master->sup, now_mono_us, TURN_MS);

    ms = reload_wait_ms(&master->reload, ms);
    /* The first children report by shared memory, which cannot wake us. */
    if (!master->sup.proven && ms > 20)
        ms = 20;
    return console_wait_ms(&master->console, now_mono_us, ms);
}

static void turn(struct master *master)
{
    struct pollfd fds[1 + CONSOLE_FDS];
    uint64_t now_mono_us = clock_mono_us();
    size_t n = 1;
    int number;

    fds[0] = (struct pollfd){.fd = master->signal_fd, .events = POLLIN};
    n += console_watch(&master->console, fds + 1, now_mono_us);
    if (poll(fds, (nfds_t)n, wait_ms(master, now_mono_us)) == -1) {
        log_error("event=poll_failed error=%d", errno);
        return;
    }
    now_mono_us = clock_mono_us();
    procs_heartbeat(master->rt.board, procs_master_slot(master->rt.board), now_mono_us);
    console_step(&master->console, fds + 1, n - 1, now_mono_us);
    while ((number = signals_next(master->signal_fd)) != 0)
        on_signal(master, number);
    supervise_reap(&master->sup);
    reload_step(&master->reload, now_mono_us);
    supervise_tick(&master->sup, now_mono_us);
}

static void log_started(const struct master *master, const char *config_path)
{
    char api[NET_TEXT_BYTES], admin[NET_TEXT_BYTES], registry[NET_TEXT_BYTES];

    runtime_address(api, sizeof(api), master->rt.api_fd);
    runtime_address(admin, sizeof(admin), master->rt.admin_fd);
    runtime_address(registry, sizeof(registry), master->rt.registry_fd);
    log_info("event=started version=%s api=%s admin=%s registry=%s workers=%u config=%s "
             "runtime_dir=%s",
             DROVER_VERSION, api, admin, registry, supervise_workers(&master->sup),
             log_quote(config_path), log_quote(master->rt.dir));
}

static void sign_in(const struct master *master)
{
    unsigned slot = procs_master_slot(master->rt.board);

    procs_assign(master->rt.board, slot, 1, false);
    procs_set_pid(master->rt.board, slot, getpid());
    procs_set_state(master->rt.board, slot, PROC_RUNNING);
    procs_heartbeat(master->rt.board, slot, clock_mono_us());
}

/* Says it to whoever started us, and to the log if that is elsewhere. */
static int fail_start(const struct config *config, const struct error *err)
{
    (void)fprintf(stderr, "drover: %s\n", err->text);
    if (config->log_file != NULL)
        log_error("event=start_failed error=%s", log_quote(err->text));
    return MASTER_EXIT_FAILED;
}

int master_run(const char *config_path, struct config *config, const struct buf *text)
{
    static struct master master; /* large, and found by a debugger */
    struct error err;
    int status = MASTER_EXIT_OK, rc;

    log_set_proc("master");
    log_set_level(config->log_level);
    privileges_borrow(&config->run_as);
    rc = log_open(config->log_file, &err);
    privileges_return(&config->run_as);
    if (rc != 0 || runtime_open(&master.rt, config, text, &err) != 0) {
        status = fail_start(config, &err);
        config_destroy(config);
        return status;
    }
    reload_init(&master.reload, config_path, &master.rt, &master.sup, config);
    master.reload.on_done = on_reload_done;
    master.reload.arg = &master;
    supervise_init(&master.sup, &master.rt, config);
    master.sup.on_health_lost = on_health_lost;
    master.sup.in_child = in_child;
    master.sup.arg = &master;
    master.signal_fd = signals_open(&err);
    if (master.signal_fd < 0 || console_open(&master.console, &master, &err) != 0 ||
        runtime_share(&master.rt, &config->run_as, &err) != 0) {
        status = fail_start(config, &err);
        goto out;
    }
    setproctitle("master");
    sign_in(&master);
    supervise_set_workers(&master.sup, config->workers);
    log_started(&master, config_path);
    supervise_tick(&master.sup, clock_mono_us());

    while (master.sup.order == ORDER_SERVE || supervise_alive(&master.sup) != 0) {
        turn(&master);
        if (master.sup.start_failed && status == MASTER_EXIT_OK) {
            log_error("event=start_failed error=\"a child could not start\"");
            status = MASTER_EXIT_FAILED;
            supervise_end(&master.sup, ORDER_STOP);
        }
    }
    log_info("event=stopped status=%d", status);
    console_close(&master.console);
out:
    if (master.signal_fd >= 0)
        (void)close(master.signal_fd);
    supervise_finish(&master.sup);
    runtime_close(&master.rt);
    reload_finish(&master.reload);
    return status;
}
