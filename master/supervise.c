/*
 * supervise.c - the children: which run, which are to run, which are to end, and by when.
 *
 * A child is born with every signal blocked and with its row of the process table assigned, so
 * there is no instant at which a signal or a crash finds it half registered.  It dies with the
 * master in two ways: the kernel sends TERM when the parent is gone (PR_SET_PDEATHSIG), and the
 * parent pipe's end of file says the same to a child that was being forked just then.
 */
#include "master/supervise_private.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "shm/aliases.h"
#include "shm/facts/procs.h"
#include "shm/reap.h"
#include "shm/scoreboard.h"
#include "worker/worker.h"

#define HEALTH_NICE (-5)

#define KILL_AFTER_US (2 * US_PER_S) /* beyond the grace that the child keeps by itself */

const char *child_order_name(enum child_order order)
{
    switch (order) {
    case ORDER_SERVE:
        return "serve";
    case ORDER_FINISH:
        return "finish";
    case ORDER_STOP:
        return "stop";
    case ORDER_DIE:
        return "die";
    }
    return "unknown";
}

static const char *kind_name(enum child_kind kind)
{
    switch (kind) {
    case CHILD_NONE:
        return "none";
    case CHILD_WORKER:
        return "worker";
    case CHILD_HEALTH:
        return "health";
    }
    return "unknown";
}

void supervise_init(struct supervisor *sup, struct runtime *rt, const struct config *config)
{
    *sup = (struct supervisor){
        .rt = rt, .config = config, .generation = 1, .last_generation = 1, .command_fd = -1};
    /* Without it children still work; only their own log has the reason of a death. */
    sup->errors = mmap(NULL, ARRAY_LEN(sup->children) * sizeof(*sup->errors),
                       PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sup->errors == MAP_FAILED)
        sup->errors = NULL;
    scoreboard_set_config(rt->board, sup->generation, 0);
    aliases_publish(rt->board, config);
}

void supervise_finish(struct supervisor *sup)
{
    assert(supervise_alive(sup) == 0);
    if (sup->command_fd != -1)
        (void)close(sup->command_fd);
    sup->command_fd = -1;
    if (sup->errors != NULL)
        (void)munmap(sup->errors, ARRAY_LEN(sup->children) * sizeof(*sup->errors));
    sup->errors = NULL;
}

unsigned supervise_alive(const struct supervisor *sup)
{
    unsigned n = 0;

    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++)
        n += sup->children[i].kind != CHILD_NONE;
    return n;
}

unsigned supervise_workers_alive(const struct supervisor *sup)
{
    unsigned n = 0;

    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++)
        n += sup->children[i].kind == CHILD_WORKER;
    return n;
}

static enum proc_state state_of(const struct supervisor *sup, const struct child *child)
{
    struct proc_view view;

    if (!procs_read(sup->rt->board, child->process, &view))
        return PROC_FREE;
    return view.state;
}

/* Has this child got as far as serving? */
static bool has_served(const struct supervisor *sup, const struct child *child)
{
    enum proc_state state = state_of(sup, child);

    return state == PROC_RUNNING || state == PROC_DRAINING;
}

/* ---- birth ---- */

/* A reload that may still fail is the workers' affair: until it is committed, the health
 * process goes by the configuration in force. */
static bool goes_by_old(const struct supervisor *sup, enum child_kind kind)
{
    return sup->switching && kind == CHILD_HEALTH;
}

static const struct config *config_of(const struct supervisor *sup, enum child_kind kind)
{
    return goes_by_old(sup, kind) ? sup->switch_config : sup->config;
}

static void close_in_child(int fd)
{
    if (fd != -1)
        (void)close(fd);
}

/* The first steps of both kinds.  Signals stay blocked: the child's own loop takes them. */
static void enter_child(const struct supervisor *sup, const struct child *child, pid_t master,
                        const char *name)
{
    const struct config *config = config_of(sup, child->kind);
    struct error err;

    log_set_proc(name);
    if (sup->errors != NULL)
        log_keep_last_error(sup->errors[child - sup->children], sizeof(*sup->errors));
    if (privileges_drop(&config->run_as, &err) != 0) {
        log_error("event=start_failed why=%s", log_quote(err.text));
        _exit(1);
    }
    privileges_lock(config->core_dumps);
    /* Only now: becoming another user forgets it. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) == -1 || getppid() != master)
        _exit(0);
    /* A group of its own: what the terminal sends on Ctrl-C or when its window changes is for
     * the master, which ends the children in the right order. */
    (void)setpgid(0, 0);
    if (sup->in_child != NULL)
        sup->in_child(sup->arg);
    close_in_child(sup->rt->lock_fd);
    close_in_child(sup->rt->parent_pipe_write);
    if (sup->command_fd != -1)
        (void)close(sup->command_fd);
}

_Noreturn static void be_worker(const struct supervisor *sup, const struct child *child,
                                pid_t master, bool replaces)
{
    char name[32];
    struct worker_params params = {
        .config = sup->config,
        .board = sup->rt->board,
        .holders = sup->rt->holders,
        .worker = child->process,
        .listen_fd = sup->rt->api_fd,
        .wake_fds = sup->rt->wake_fds,
        .parent_fd = sup->rt->parent_pipe_read,
        .replaces = replaces,
    };

    (void)snprintf(name, sizeof(name), "worker%u", child->process);
    privileges_offer_to_oom();
    enter_child(sup, child, master, name);
    close_in_child(sup->rt->admin_fd);
    close_in_child(sup->rt->registry_fd);
    close_in_child(sup->rt->config_fd);
    setproctitle("worker %u", child->process);
    exit(worker_main(&params));
}

_Noreturn static void be_health(const struct supervisor *sup, const struct child *child,
                                pid_t master, int command_fd)
{
    struct health_params params = {
        .config = config_of(sup, CHILD_HEALTH),
        .board = sup->rt->board,
        .process = child->process,
        .admin_fd = sup->rt->admin_fd,
        .registry_fd = sup->rt->registry_fd,
        .config_fd = sup->rt->config_fd,
        .command_fd = command_fd,
        .parent_fd = sup->rt->parent_pipe_read,
        .admin_later = sup->held,
        .nodes_left = sup->nodes_left,
    };

    /* Little work, and none that can wait: a late probe or heartbeat looks like a dead node. As
     * much as the rights of this user allow. */
    (void)setpriority(PRIO_PROCESS, 0, HEALTH_NICE);
    enter_child(sup, child, master, "health");
    close_in_child(sup->rt->api_fd);
    setproctitle("health");
    exit(health_main(&params));
}

static struct child *free_row(struct supervisor *sup)
{
    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        if (sup->children[i].kind == CHILD_NONE)
            return &sup->children[i];
    }
    return NULL;
}

/* A new pair for each health process, so that no reply of an earlier one is taken for an answer
 * to a later command. */
static int renew_commands(struct supervisor *sup)
{
    int pair[2];

    if (sup->command_fd != -1)
        (void)close(sup->command_fd);
    sup->command_fd = -1;
    if (sup->on_health_lost != NULL)
        sup->on_health_lost(sup->arg);
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == -1)
        return -1;
    sup->command_fd = pair[0];
    return pair[1];
}

/* Forks one child.  NULL: not now (logged). */
static struct child *start_child(struct supervisor *sup, enum child_kind kind, bool crashed)
{
    struct scoreboard *board = sup->rt->board;
    struct child *child = free_row(sup);
    pid_t master = getpid();
    int command_fd = -1;
    struct error err;
    int process;

    process = kind == CHILD_HEALTH ? (int)procs_health_index(board) : procs_find_free(board);
    if (child == NULL || process < 0) {
        log_error("event=start_failed kind=%s error=\"no free process row\"", kind_name(kind));
        return NULL;
    }
    if (kind == CHILD_WORKER &&
        scoreboard_room_for_workers(board, (unsigned)process + 1, &err) != 0) {
        log_error("event=start_failed kind=worker error=%s", log_quote(err.text));
        return NULL;
    }
    if (kind == CHILD_HEALTH) {
        command_fd = renew_commands(sup);
        if (command_fd == -1) {
            log_error("event=start_failed kind=health error=%s", log_quote(strerror(errno)));
            return NULL;
        }
    }
    *child = (struct child){
        .kind = kind,
        .process = (unsigned)process,
        .generation = goes_by_old(sup, kind) ? sup->switch_from : sup->generation,
        .started_mono_us = clock_mono_us(),
    };
    if (sup->errors != NULL)
        sup->errors[child - sup->children][0] = '\0';
    procs_assign(board, child->process, child->generation, crashed);
    child->pid = fork();
    if (child->pid == 0) {
        if (kind == CHILD_WORKER)
            be_worker(sup, child, master, crashed);
        be_health(sup, child, master, command_fd);
    }
    if (command_fd != -1)
        (void)close(command_fd);
    if (child->pid == -1) {
        log_error("event=start_failed kind=%s error=%s", kind_name(kind),
                  log_quote(strerror(errno)));
        reap_process(board, child->process);
        *child = (struct child){0};
        return NULL;
    }
    procs_set_pid(board, child->process, child->pid);
    log_info("event=child_started kind=%s process=%u child=%d generation=%u", kind_name(kind),
             child->process, (int)child->pid, child->generation);
    return child;
}

static void fill_seat(struct supervisor *sup, struct seat *seat, enum child_kind kind,
                      uint64_t now_mono_us)
{
    if (seat->child != NULL || seat->start_at_mono_us > now_mono_us)
        return;
    seat->child = start_child(sup, kind, seat->crashed);
    if (seat->child == NULL)
        seat->start_at_mono_us = now_mono_us + backoff_next_us(&seat->backoff, 0);
    else
        seat->crashed = false;
}

/* ---- orders ---- */

/* The one place that orders a child to end. */
void supervise_order(const struct supervisor *sup, struct child *child, enum child_order order,
                     uint64_t now_mono_us)
{
    uint64_t grace_us = sup->config->shutdown_grace_ms * US_PER_MS;

    if (child == NULL || child->kind == CHILD_NONE || order <= child->order)
        return;
    child->order = order;
    switch (order) {
    case ORDER_SERVE:
        break;
    case ORDER_FINISH:
        (void)kill(child->pid, SIGQUIT);
        break;
    case ORDER_STOP:
        (void)kill(child->pid, SIGTERM);
        /* Health holds no user's stream, so it gets no grace. */
        child->kill_at_mono_us =
            now_mono_us + KILL_AFTER_US + (child->kind == CHILD_WORKER ? grace_us : 0);
        break;
    case ORDER_DIE:
        (void)kill(child->pid, SIGKILL);
        child->kill_at_mono_us = 0;
        break;
    }
}

unsigned supervise_workers(const struct supervisor *sup)
{
    return sup->switching ? sup->switch_target : sup->seats_count;
}

void supervise_publish(const struct supervisor *sup)
{
    scoreboard_set_config(sup->rt->board, sup->generation, supervise_workers(sup));
    aliases_publish(sup->rt->board, sup->config);
}

void supervise_drop_seats(struct supervisor *sup, unsigned count)
{
    uint64_t now_mono_us = clock_mono_us();

    while (sup->seats_count > count) {
        struct seat *seat = &sup->seats[--sup->seats_count];

        supervise_order(sup, seat->child, ORDER_FINISH, now_mono_us);
        supervise_order(sup, seat->previous, ORDER_FINISH, now_mono_us);
        *seat = (struct seat){0};
    }
}

void supervise_set_workers(struct supervisor *sup, unsigned count)
{
    uint64_t now_mono_us = clock_mono_us();

    if (sup->order != ORDER_SERVE)
        return;
    if (count > SUPERVISE_MAX_WORKERS)
        count = SUPERVISE_MAX_WORKERS;
    if (sup->switching) {
        /* The old children keep their seats until the reload has succeeded. */
        sup->switch_target = count;
        for (unsigned i = count; i < sup->seats_count; i++) {
            supervise_order(sup, sup->seats[i].child, ORDER_FINISH, now_mono_us);
            sup->seats[i].child = NULL;
        }
    } else {
        supervise_drop_seats(sup, count);
    }
    while (sup->seats_count < count)
        sup->seats[sup->seats_count++] = (struct seat){0};
    supervise_publish(sup);
}

void supervise_end(struct supervisor *sup, enum child_order order)
{
    uint64_t now_mono_us = clock_mono_us();

    if (order <= sup->order)
        return;
    sup->order = order;
    /* A reload that was under way is off, and its configuration is about to go. */
    if (sup->switching)
        sup->config = sup->switch_config;
    sup->switching = false;
    sup->seats_count = 0;
    memset(sup->seats, 0, sizeof(sup->seats));
    sup->health.start_at_mono_us = UINT64_MAX;
    supervise_publish(sup);
    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        struct child *child = &sup->children[i];

        /* Health goes on telling the world until the last stream is done; supervise_tick()
         * sends it home. */
        if (child->kind == CHILD_WORKER || order == ORDER_DIE)
            supervise_order(sup, child, order, now_mono_us);
    }
}

void supervise_hold_workers(struct supervisor *sup, bool held)
{
    sup->held = held;
}

bool supervise_health_serves(const struct supervisor *sup)
{
    return sup->health.child != NULL && has_served(sup, sup->health.child);
}

void supervise_order_health(const struct supervisor *sup, enum health_order order)
{
    union sigval value = {.sival_int = (int)order};

    if (sup->health.child != NULL &&
        sigqueue(sup->health.child->pid, HEALTH_ORDER_SIGNAL, value) == -1)
        log_warn("event=order_lost kind=health order=%d error=%d", (int)order, errno);
}

void supervise_leave_nodes(struct supervisor *sup)
{
    sup->nodes_left = true;
    supervise_order_health(sup, HEALTH_LEAVE_NODES);
}

void supervise_take_nodes(struct supervisor *sup)
{
    sup->nodes_left = false;
    if (sup->order == ORDER_SERVE)
        supervise_order(sup, sup->health.child, ORDER_STOP, clock_mono_us());
}

void supervise_signal(const struct supervisor *sup, int signal_number)
{
    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        if (sup->children[i].kind != CHILD_NONE)
            (void)kill(sup->children[i].pid, signal_number);
    }
}

/* ---- death ---- */

static struct seat *seat_of(struct supervisor *sup, const struct child *child)
{
    if (child == sup->health.child)
        return &sup->health;
    for (unsigned i = 0; i < sup->seats_count; i++) {
        if (sup->seats[i].child == child)
            return &sup->seats[i];
    }
    return NULL;
}

/* A dead worker's requests hold no place any more: waiting requests are checked now. */
static void wake_workers(const struct supervisor *sup)
{
    static const uint64_t one = 1;

    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        const struct child *child = &sup->children[i];

        /* An eventfd that is too full to be written is readable. */
        if (child->pid != 0 && child->kind == CHILD_WORKER &&
            write(sup->rt->wake_fds[child->process], &one, sizeof(one)) == -1)
            continue;
    }
}

static void forget_previous(struct supervisor *sup, const struct child *child)
{
    for (unsigned i = 0; i < sup->seats_count; i++) {
        if (sup->seats[i].previous == child)
            sup->seats[i].previous = NULL;
    }
}

/* Copies a dead child's last error line; "" when it has left none. */
static void last_error(char out[SUPERVISE_ERROR_BYTES], const struct supervisor *sup,
                       const struct child *child)
{
    out[0] = '\0';
    if (sup->errors == NULL)
        return;
    memcpy(out, sup->errors[child - sup->children], SUPERVISE_ERROR_BYTES);
    out[SUPERVISE_ERROR_BYTES - 1] = '\0';
}

/* "signal=11 name=SEGV core=0", "status=1" */
static void format_cause(char *out, size_t cap, int status)
{
    const char *name = WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : NULL;

    if (WIFSIGNALED(status))
        (void)snprintf(out, cap, "cause=signal signal=%d name=%s core=%d", WTERMSIG(status),
                       name != NULL ? name : "?", WCOREDUMP(status) ? 1 : 0);
    else
        (void)snprintf(out, cap, "cause=exit status=%d", WEXITSTATUS(status));
}

static void log_end(const struct child *child, int status, const char *errors, bool expected,
                    uint64_t up_us, uint64_t wait_us)
{
    enum log_level level = expected ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR;
    char cause[80], again[40] = "";

    format_cause(cause, sizeof(cause), status);
    if (wait_us != UINT64_MAX)
        (void)snprintf(again, sizeof(again), " restart_in_ms=%llu",
                       (unsigned long long)(wait_us / US_PER_MS));
    log_line(level,
             "event=child_ended kind=%s process=%u child=%d %s order=%s up_ms=%llu%s%s%s%s",
             kind_name(child->kind), child->process, (int)child->pid, cause,
             child_order_name(child->order), (unsigned long long)(up_us / US_PER_MS), again,
             child->stalled ? " stalled=1" : "", errors[0] != '\0' ? " last_error=" : "",
             errors[0] != '\0' ? log_quote(errors) : "");
}

/* The one function in which children die. */
static void reap_child(struct supervisor *sup, struct child *child, int status)
{
    uint64_t now_mono_us = clock_mono_us();
    uint64_t up_us = now_mono_us - child->started_mono_us;
    struct seat *seat = seat_of(sup, child);
    bool served = has_served(sup, child);
    bool expected = child->order != ORDER_SERVE || sup->order != ORDER_SERVE;
    uint64_t wait_us = UINT64_MAX; /* until it is started again: never */
    char errors[SUPERVISE_ERROR_BYTES];

    last_error(errors, sup, child);
    if (!served) {
        format_cause(sup->why_not_served, sizeof(sup->why_not_served), status);
        if (errors[0] != '\0')
            (void)strlcpy(sup->why_not_served, errors, sizeof(sup->why_not_served));
    }
    reap_process(sup->rt->board, child->process);
    if (child->kind == CHILD_WORKER)
        wake_workers(sup);
    forget_previous(sup, child);
    if (seat != NULL && !expected) {
        wait_us = backoff_next_us(&seat->backoff, up_us);
        seat->start_at_mono_us = now_mono_us + wait_us;
        seat->crashed = true;
        if (!served && sup->switching && child->kind == CHILD_WORKER)
            sup->switch_failed = true;
        if (!served && !sup->proven && WIFEXITED(status) && WEXITSTATUS(status) != 0)
            sup->start_failed = true;
    }
    if (seat != NULL)
        seat->child = NULL;
    if (child->kind == CHILD_HEALTH && sup->on_health_lost != NULL)
        sup->on_health_lost(sup->arg);
    log_end(child, status, errors, expected, up_us, wait_us);
    if (!expected && crash_meter_note(&sup->crashes, now_mono_us))
        log_error("event=crash_loop crashes=%u per=minute", sup->crashes.count);
    *child = (struct child){0};
}

static struct child *find_child(struct supervisor *sup, pid_t pid)
{
    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        if (sup->children[i].kind != CHILD_NONE && sup->children[i].pid == pid)
            return &sup->children[i];
    }
    return NULL;
}

void supervise_reap(struct supervisor *sup)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct child *child = find_child(sup, pid);

        if (child != NULL)
            reap_child(sup, child, status);
        else if (sup->on_stranger != NULL)
            sup->on_stranger(sup->arg, pid, status);
    }
}

/* ---- time ---- */

/* A child that does not turn its loop serves no client, but holds its streams. */
static void check_heartbeats(struct supervisor *sup, uint64_t now_mono_us)
{
    struct proc_view view;

    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        struct child *child = &sup->children[i];
        uint64_t silent_us;

        if (child->kind == CHILD_NONE || child->stalled ||
            !procs_read(sup->rt->board, child->process, &view))
            continue;
        silent_us = pulse_silent_us(&sup->pulse, view.heartbeat_mono_us, now_mono_us);
        if (silent_us <= PULSE_LIMIT_US)
            continue;
        child->stalled = true;
        log_error("event=child_stalled kind=%s process=%u child=%d silent_ms=%llu",
                  kind_name(child->kind), child->process, (int)child->pid,
                  (unsigned long long)(silent_us / US_PER_MS));
        (void)kill(child->pid, SIGABRT);
        if (child->kill_at_mono_us == 0 || child->kill_at_mono_us > now_mono_us + PULSE_KILL_US)
            child->kill_at_mono_us = now_mono_us + PULSE_KILL_US;
    }
}

static bool turns(const struct supervisor *sup, const struct child *child, uint64_t now_mono_us)
{
    struct proc_view view;

    return child != NULL && has_served(sup, child) &&
           procs_read(sup->rt->board, child->process, &view) &&
           pulse_silent_us(&sup->pulse, view.heartbeat_mono_us, now_mono_us) <= PULSE_LIMIT_US;
}

bool supervise_turns(const struct supervisor *sup, uint64_t now_mono_us)
{
    bool any = supervise_workers(sup) == 0;

    for (size_t i = 0; i < ARRAY_LEN(sup->children) && !any; i++)
        any =
            sup->children[i].kind == CHILD_WORKER && turns(sup, &sup->children[i], now_mono_us);
    return any && turns(sup, sup->health.child, now_mono_us);
}

static void check_proven(struct supervisor *sup)
{
    if (sup->proven || sup->held || !supervise_health_serves(sup))
        return;
    for (unsigned i = 0; i < supervise_workers(sup); i++) {
        if (sup->seats[i].child == NULL || !has_served(sup, sup->seats[i].child))
            return;
    }
    sup->proven = true;
    log_info("event=ready workers=%u", supervise_workers(sup));
}

void supervise_tick(struct supervisor *sup, uint64_t now_mono_us)
{
    if (sup->order == ORDER_SERVE) {
        fill_seat(sup, &sup->health, CHILD_HEALTH, now_mono_us);
        for (unsigned i = 0; i < supervise_workers(sup) && !sup->held; i++)
            fill_seat(sup, &sup->seats[i], CHILD_WORKER, now_mono_us);
        check_proven(sup);
    } else if (supervise_workers_alive(sup) == 0) {
        supervise_order(sup, sup->health.child, ORDER_STOP, now_mono_us);
    }
    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        struct child *child = &sup->children[i];

        if (child->kill_at_mono_us != 0 && child->kill_at_mono_us <= now_mono_us) {
            log_warn("event=child_killed kind=%s process=%u child=%d reason=overdue",
                     kind_name(child->kind), child->process, (int)child->pid);
            supervise_order(sup, child, ORDER_DIE, now_mono_us);
        }
    }
    if (pulse_due(&sup->pulse, now_mono_us))
        check_heartbeats(sup, now_mono_us);
}

static void earlier(uint64_t *due_mono_us, uint64_t at_mono_us)
{
    if (at_mono_us < *due_mono_us)
        *due_mono_us = at_mono_us;
}

int supervise_wait_ms(const struct supervisor *sup, uint64_t now_mono_us, int max_ms)
{
    uint64_t due_mono_us = now_mono_us + (uint64_t)max_ms * US_PER_MS;

    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        if (sup->children[i].kill_at_mono_us != 0)
            earlier(&due_mono_us, sup->children[i].kill_at_mono_us);
    }
    if (sup->order == ORDER_SERVE) {
        if (sup->health.child == NULL)
            earlier(&due_mono_us, sup->health.start_at_mono_us);
        for (unsigned i = 0; i < supervise_workers(sup); i++) {
            if (sup->seats[i].child == NULL)
                earlier(&due_mono_us, sup->seats[i].start_at_mono_us);
        }
    }
    if (due_mono_us <= now_mono_us)
        return 0;
    return (int)((due_mono_us - now_mono_us + US_PER_MS - 1) / US_PER_MS);
}

/* ---- room and figures ---- */

void supervise_hurry(struct supervisor *sup, uint32_t generation)
{
    uint64_t now_mono_us = clock_mono_us();

    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        struct child *child = &sup->children[i];

        if (child->kind == CHILD_WORKER && child->order == ORDER_FINISH &&
            child->generation < generation)
            supervise_order(sup, child, ORDER_STOP, now_mono_us);
    }
}

bool supervise_make_room(struct supervisor *sup, unsigned count)
{
    if (supervise_workers_alive(sup) + count <= RUNTIME_MAX_WORKERS)
        return true;
    supervise_hurry(sup, sup->generation);
    return false;
}

int supervise_take_room(const struct supervisor *sup, unsigned count, struct error *err)
{
    return scoreboard_room_for_workers(sup->rt->board, supervise_workers_alive(sup) + count,
                                       err);
}

int supervise_room_to_scale(const struct supervisor *sup, unsigned wanted, struct error *err)
{
    unsigned missing = wanted;

    for (unsigned i = 0; i < sup->seats_count; i++)
        missing -= sup->seats[i].child != NULL && missing != 0;
    return supervise_take_room(sup, missing, err);
}

unsigned supervise_serving(const struct supervisor *sup)
{
    unsigned n = 0;

    for (unsigned i = 0; i < supervise_workers(sup); i++)
        n += sup->seats[i].child != NULL && has_served(sup, sup->seats[i].child);
    return n;
}

unsigned supervise_connections(const struct supervisor *sup, unsigned *workers)
{
    struct proc_view view;
    uint64_t n = 0;

    *workers = supervise_workers_alive(sup);
    for (size_t i = 0; i < ARRAY_LEN(sup->children); i++) {
        if (sup->children[i].kind == CHILD_WORKER &&
            procs_read(sup->rt->board, sup->children[i].process, &view))
            n += view.counter[PROC_CONNECTIONS_OPEN];
    }
    return (unsigned)n;
}
