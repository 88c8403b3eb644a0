/*
 * master.c - the master's life: start, one poll loop, orderly end.
 *
 * The master is boring on purpose.  It parses no byte of a client or a node, holds no lock,
 * never waits, and survives any child.  It runs no event loop of libh2o's and no thread,
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
#include "base/config/config_find.h"
#include "base/config/config_load.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/log.h"
#include "master/signals.h"
#include "shm/facts/procs.h"
#include "shm/scoreboard.h"

#define OWN_FDS 3
#define SOON_MS 20  /* the sleep while something is awaited that cannot wake us */
#define TURN_MS 500 /* the longest sleep: our own heartbeat must not look stale */

/* The end that was decided begins. */
static void begin_end(struct master *master)
{
    master->end_at_mono_us = 0;
    log_info("event=ending order=%s children=%u", child_order_name(master->order),
             supervise_alive(&master->sup));
    runtime_close_api(&master->rt);
    supervise_end(&master->sup, master->order);
}

/* Decides it, and reports that we are not ready any more. */
static void decide_end(struct master *master, enum child_order order, uint64_t delay_us)
{
    bool first = master->order == ORDER_SERVE;

    if (order <= master->order)
        return;
    master->order = order;
    procs_set_state(master->rt.board, procs_master_index(master->rt.board), PROC_DRAINING);
    notify_stopping(&master->notify);
    upgrade_abandon(&master->upgrade);
    successor_pass_order(&master->successor, order);
    if (first && delay_us != 0 && order != ORDER_DIE) {
        master->end_at_mono_us = clock_mono_us() + delay_us;
        log_info("event=not_ready order=%s delay_ms=%llu", child_order_name(order),
                 (unsigned long long)(delay_us / US_PER_MS));
    } else if (order == ORDER_DIE || master->end_at_mono_us == 0) {
        begin_end(master);
    }
}

/* After shutdown_delay_ms; a lower order than an earlier one is ignored. */
static void end_all(struct master *master, enum child_order order)
{
    decide_end(master, order, master->sup.config->shutdown_delay_ms * US_PER_MS);
}

static unsigned workers_wanted(const struct master *master)
{
    return successor_holds(&master->successor) ? master->successor.workers
                                               : supervise_workers(&master->sup);
}

/* *before gets how many were wanted before. */
static int scale(struct master *master, unsigned count, unsigned *before_out, struct error *err)
{
    unsigned before = workers_wanted(master);
    char text[16];
    int rc = 0;

    *before_out = before;
    if (!successor_holds(&master->successor) && count > before)
        rc = supervise_room_to_scale(&master->sup, count, err);
    if (rc != 0) {
        log_error("event=scale_refused workers_before=%u workers=%u error=%s", before, count,
                  log_quote(err->text));
        return rc;
    }
    log_info("event=scale workers_before=%u workers=%u", before, count);
    if (successor_holds(&master->successor))
        master->successor.workers = count;
    else
        supervise_set_workers(&master->sup, count);
    (void)snprintf(text, sizeof(text), "%u", count);
    upgrade_pass_command(&master->upgrade, "workers", text);
    return 0;
}

/* TERM and INT: first within the grace, a second time at once. */
static void on_term(struct master *master)
{
    end_all(master, master->order >= ORDER_STOP ? ORDER_DIE : ORDER_STOP);
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
    unsigned workers = workers_wanted(master), before;
    struct error err;

    switch (number) {
    case SIGTERM:
    case SIGINT:
        on_term(master);
        break;
    case SIGQUIT:
        end_all(master, ORDER_FINISH);
        break;
    case SIGHUP:
        (void)reload_want(&master->reload);
        upgrade_pass_command(&master->upgrade, "reload", "");
        break;
    case SIGTTIN:
        if (workers < SUPERVISE_MAX_WORKERS)
            (void)scale(master, workers + 1, &before, &err);
        break;
    case SIGTTOU:
        if (workers > 1)
            (void)scale(master, workers - 1, &before, &err);
        break;
    case SIGWINCH:
        (void)scale(master, 0, &before, &err);
        break;
    case SIGUSR1:
        reopen_logs(master);
        upgrade_pass_command(&master->upgrade, "reopen", "");
        break;
    case SIGUSR2:
        (void)upgrade_want(&master->upgrade);
        break;
    case SIGCHLD:
        break; /* every turn reaps */
    }
}

static void on_reload_begin(void *arg)
{
    struct master *master = arg;

    if (master->order == ORDER_SERVE)
        notify_reloading(&master->notify, clock_mono_us());
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

static void on_stranger(void *arg, pid_t pid, int status)
{
    struct master *master = arg;

    upgrade_reaped(&master->upgrade, pid, status);
}

static void on_upgrade_news(void *arg, uint64_t serial, bool done, bool ok, const char *text)
{
    struct master *master = arg;

    /* After a success there is no other attempt: every waiting session is satisfied. */
    console_upgrade_news(&master->console, done && ok ? UINT64_MAX : serial, done, ok, text);
    if (!done || !ok)
        return;
    console_reload_done(&master->console, UINT64_MAX, "another master took over; try again");
    console_hand_over(&master->console);
    decide_end(master, ORDER_FINISH, 0);
}

/* The service manager ignores a process that is not yet the main one. */
static void on_hand_over(void *arg, pid_t pid)
{
    struct master *master = arg;

    notify_successor(&master->notify, pid);
}

static void on_upgrade_order(void *arg, enum child_order order)
{
    end_all(arg, order);
}

static void in_child(void *arg)
{
    struct master *master = arg;

    console_leave(&master->console);
    reload_leave(&master->reload);
    notify_close(&master->notify);
    upgrade_finish(&master->upgrade);
    successor_finish(&master->successor);
    (void)close(master->signal_fd);
}

static int wait_ms(const struct master *master, uint64_t now_mono_us)
{
    int ms = supervise_wait_ms(&master->sup, now_mono_us, TURN_MS);

    ms = reload_wait_ms(&master->reload, ms);
    ms = notify_wait_ms(&master->notify, now_mono_us, ms);
    /* Children and nodes report by shared memory, which cannot wake us. */
    if ((!master->sup.proven || successor_busy(&master->successor)) && ms > SOON_MS)
        ms = SOON_MS;
    if (master->end_at_mono_us != 0 && ms > SOON_MS)
        ms = SOON_MS;
    return console_wait_ms(&master->console, now_mono_us, ms);
}

/* We could not get as far as serving. */
static void give_up(struct master *master, const char *why)
{
    if (master->status != MASTER_EXIT_OK)
        return;
    master->status = MASTER_EXIT_FAILED;
    log_error("event=start_failed error=%s", log_quote(why));
    successor_fail(&master->successor, why);
    supervise_end(&master->sup, ORDER_STOP);
}

/* Both sides of an upgrade: to the one after us, and from the one before us. */
static void step_upgrade(struct master *master, uint64_t now_mono_us)
{
    /* The new master gets the scoreboard's state: no command may be on its way there. */
    bool may_begin = master->order == ORDER_SERVE && master->sup.order == ORDER_SERVE &&
                     master->console.commands_count == 0 &&
                     !reload_under_way(&master->reload) && !successor_busy(&master->successor);
    struct error err;

    if (master->upgrade.wanted && may_begin)
        successor_pass_order(&master->successor,
                             ORDER_STOP); /* three at once is one too many */
    upgrade_step(&master->upgrade, now_mono_us, may_begin);
    if (successor_step(&master->successor, now_mono_us, &err) != 0)
        give_up(master, err.text);
    if (master->successor.reload)
        (void)reload_want(&master->reload);
    if (master->successor.reopen)
        reopen_logs(master);
    master->successor.reload = false;
    master->successor.reopen = false;
}

/* Reports the state to the service manager. */
static void step_notify(struct master *master, uint64_t now_mono_us)
{
    const struct supervisor *sup = &master->sup;
    char status[80];
    bool well;

    /* Before "go" the manager takes another process for the main one. */
    if (!sup->proven || successor_busy(&master->successor))
        return;
    (void)snprintf(status, sizeof(status), "serving with %u workers", supervise_workers(sup));
    if (!reload_under_way(&master->reload))
        notify_ready(&master->notify, status);
    /* An end takes as long as the streams take: that we turn is all there is to say. */
    well = sup->order != ORDER_SERVE || supervise_turns(sup, now_mono_us);
    notify_tick(&master->notify, well, now_mono_us);
}

static void turn(struct master *master)
{
    struct pollfd fds[OWN_FDS + CONSOLE_FDS];
    uint64_t now_mono_us = clock_mono_us();
    size_t n = OWN_FDS;
    int number;

    fds[0] = (struct pollfd){.fd = master->signal_fd, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = master->upgrade.channel, .events = POLLIN};
    fds[2] = (struct pollfd){.fd = master->successor.channel, .events = POLLIN};
    n += console_watch(&master->console, fds + OWN_FDS, now_mono_us);
    if (poll(fds, (nfds_t)n, wait_ms(master, now_mono_us)) == -1) {
        log_error("event=poll_failed error=%d", errno);
        (void)poll(NULL, 0, TURN_MS); /* short of memory: what must be done is done, slowly */
    }
    now_mono_us = clock_mono_us();
    procs_heartbeat(master->rt.board, procs_master_index(master->rt.board), now_mono_us);
    console_step(&master->console, fds + OWN_FDS, n - OWN_FDS, now_mono_us);
    while ((number = signals_next(master->signal_fd)) != 0)
        on_signal(master, number);
    supervise_reap(&master->sup);
    /* A successor reads the configuration as it is; its workers are not there yet to be
     * switched. */
    if (!upgrade_busy(&master->upgrade) && !successor_busy(&master->successor))
        reload_step(&master->reload, now_mono_us);
    step_upgrade(master, now_mono_us);
    if (master->end_at_mono_us != 0 && now_mono_us >= master->end_at_mono_us)
        begin_end(master);
    supervise_tick(&master->sup, now_mono_us);
    step_notify(master, now_mono_us);
    procs_count(master->rt.board, procs_master_index(master->rt.board), PROC_LOG_LOST,
                (int64_t)log_count_lost(NULL));
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
             log_quote(config_path == NULL ? "none" : config_path), log_quote(master->rt.dir));
    if (geteuid() == 0 && !master->reload.config->run_as.wanted)
        log_warn("event=children_are_root hint=\"give 'user', or start drover as one\"");
}

static void sign_in(const struct master *master)
{
    unsigned process = procs_master_index(master->rt.board);

    procs_assign(master->rt.board, process, 1, false);
    procs_set_pid(master->rt.board, process, getpid());
    procs_set_state(master->rt.board, process, PROC_RUNNING);
    procs_heartbeat(master->rt.board, process, clock_mono_us());
}

/* The parts that can fail before there is anything to close but these. */
static int open_runtime(struct master *master, const char *config_path, struct config *config,
                        const struct buf *text, struct inherited *in, struct error *err)
{
    int rc = successor_init(&master->successor, inherit_claim(in, INHERIT_CHANNEL),
                            inherit_claim(in, INHERIT_HANDOVER), err);

    if (rc != 0)
        return rc;
    privileges_borrow(&config->run_as);
    rc = log_open(config->log_file, err);
    privileges_return(&config->run_as);
    if (rc == 0)
        rc = runtime_open(&master->rt, config, in,
                          successor_is(&master->successor) ? &master->successor.from : NULL,
                          err);
    if (rc != 0)
        return rc;
    rc = runtime_set_text(&master->rt, text,
                          config_path == NULL ? CONFIG_DEFAULTS_NAME : config_path, err);
    if (rc != 0)
        runtime_close(&master->rt);
    return rc;
}

/* ---- what the operator may want -------------------------------------------------------- */

static bool op_ending(void *data)
{
    const struct master *master = data;

    return master->order != ORDER_SERVE;
}

static bool op_upgrading(void *data)
{
    const struct master *master = data;

    return upgrade_undecided(&master->upgrade) || upgrade_undoing(&master->upgrade) ||
           successor_busy(&master->successor);
}

static uint64_t op_reload(void *data)
{
    struct master *master = data;

    return reload_want(&master->reload);
}

static uint64_t op_upgrade(void *data)
{
    struct master *master = data;

    return upgrade_want(&master->upgrade);
}

static int op_scale(void *data, unsigned count, unsigned *before, struct error *err)
{
    return scale(data, count, before, err);
}

static void op_end(void *data, bool quick)
{
    end_all(data, quick ? ORDER_STOP : ORDER_FINISH);
}

/* Whom our children run as. */
static bool op_allows(void *data, uid_t uid)
{
    const struct master *master = data;
    const struct privileges *run_as = &master->reload.config->run_as;

    return run_as->wanted && uid == run_as->uid;
}

static const struct console_ops console_ops = {
    .ending = op_ending,
    .upgrading = op_upgrading,
    .reload = op_reload,
    .upgrade = op_upgrade,
    .scale = op_scale,
    .end = op_end,
    .allows = op_allows,
};

/* ---- what a successor needs of us ------------------------------------------------------ */

static bool op_drain(void *data, const char *node)
{
    struct master *master = data;

    return console_drain(&master->console, node);
}

static int op_publish(void *data, struct error *err)
{
    struct master *master = data;

    return console_publish(&master->console, err);
}

static const struct successor_ops successor_ops = {.drain = op_drain, .publish = op_publish};

/* ---- life ------------------------------------------------------------------------------ */

static int open_all_listeners(struct master *master, const struct config *config,
                              struct error *err)
{
    int rc;

    master->signal_fd = signals_open(err);
    if (master->signal_fd < 0)
        return master->signal_fd;
    rc = console_open(&master->console, &console_ops, master, &master->sup, master->rt.dir,
                      successor_is(&master->successor), err);
    if (rc != 0)
        return rc;
    rc = runtime_share(&master->rt, &config->run_as, err);
    if (rc != 0)
        console_close(&master->console);
    return rc;
}

static void connect_parts(struct master *master, const char *config_path, struct config *config)
{
    reload_init(&master->reload, config_path, &master->rt, &master->sup, config);
    master->reload.on_begin = on_reload_begin;
    master->reload.on_done = on_reload_done;
    master->reload.arg = master;
    supervise_init(&master->sup, &master->rt, config);
    master->sup.on_health_lost = on_health_lost;
    master->sup.on_stranger = on_stranger;
    master->sup.in_child = in_child;
    master->sup.arg = master;
    notify_open(&master->notify);
    upgrade_init(&master->upgrade, &master->reload.path, &master->rt, &master->sup);
    master->upgrade.before = &master->successor.from;
    master->upgrade.on_hand_over = on_hand_over;
    master->upgrade.on_news = on_upgrade_news;
    master->upgrade.on_order = on_upgrade_order;
    master->upgrade.arg = master;
}

/* On standard error for the operator, and in the log if that is elsewhere. */
static int fail_start(struct master *master, const struct config *config,
                      const struct error *err)
{
    (void)fprintf(stderr, "drover: %s\n", err->text);
    if (config->log_file != NULL)
        log_error("event=start_failed error=%s", log_quote(err->text));
    successor_fail(&master->successor, err->text);
    return MASTER_EXIT_FAILED;
}

static void begin(struct master *master, const char *config_path, const struct config *config)
{
    setproctitle("master");
    sign_in(master);
    if (successor_is(&master->successor))
        successor_begin(&master->successor, &master->rt, &master->sup, &successor_ops, master,
                        config->workers, clock_mono_us());
    else
        supervise_set_workers(&master->sup, config->workers);
    log_started(master, config_path);
    supervise_tick(&master->sup, clock_mono_us());
}

/* Is there anything left to do or to wait for? */
static bool living(const struct master *master)
{
    return master->sup.order == ORDER_SERVE || supervise_alive(&master->sup) != 0 ||
           !successor_alone(&master->successor) || upgrade_undoing(&master->upgrade);
}

int master_run(const char *config_path, struct config *config, const struct buf *text,
               struct inherited *in)
{
    static struct master master; /* large, and found by a debugger */
    struct error err;

    log_set_proc("master");
    log_set_level(config->log_level);
    if (!config->core_dumps)
        privileges_no_core();
    if (open_runtime(&master, config_path, config, text, in, &err) != 0) {
        master.status = fail_start(&master, config, &err);
        successor_finish(&master.successor);
        config_destroy(config);
        return master.status;
    }
    connect_parts(&master, config_path, config);
    if (open_all_listeners(&master, config, &err) != 0) {
        master.status = fail_start(&master, config, &err);
        goto out;
    }
    begin(&master, config_path, config);
    while (living(&master)) {
        turn(&master);
        if (master.sup.start_failed)
            give_up(&master, master.sup.why_not_served);
    }
    log_info("event=stopped status=%d", master.status);
    console_stopped(&master.console);
    console_close(&master.console);
out:
    if (master.signal_fd >= 0)
        (void)close(master.signal_fd);
    notify_close(&master.notify);
    upgrade_finish(&master.upgrade);
    successor_finish(&master.successor);
    supervise_finish(&master.sup);
    runtime_close(&master.rt);
    reload_finish(&master.reload);
    return master.status;
}
