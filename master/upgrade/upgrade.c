/* upgrade.c - another master takes over, started from the binary's path as it is now. */
#include "master/upgrade/upgrade.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "master/runtime.h"
#include "master/supervise.h"
#include "shm/facts/nodes.h"
#include "shm/scoreboard.h"

#define READY_WITHIN_US (10 * US_PER_S)
#define REAP_WITHIN_US  US_PER_S /* after its channel closed */
#define NO_EXEC_STATUS  127

extern char **environ;

void upgrade_init(struct upgrade *up, const char *const *config_path, struct runtime *rt,
                  struct supervisor *sup)
{
    ssize_t n;

    *up = (struct upgrade){.config_path = config_path, .rt = rt, .sup = sup, .channel = -1};
    /* Now, while the name is right: once the file is replaced it has " (deleted)" at its end.
     */
    n = readlink("/proc/self/exe", up->program, sizeof(up->program) - 1);
    up->program[n > 0 ? n : 0] = '\0';
}

static void close_channel(struct upgrade *up)
{
    if (up->channel != -1)
        (void)close(up->channel);
    up->channel = -1;
}

void upgrade_finish(struct upgrade *up)
{
    close_channel(up);
}

uint64_t upgrade_want(struct upgrade *up)
{
    up->wanted = true;
    return up->serial + 1;
}

bool upgrade_busy(const struct upgrade *up)
{
    return up->phase != UPGRADE_NONE;
}

bool upgrade_undoing(const struct upgrade *up)
{
    return up->phase == UPGRADE_UNDOING;
}

bool upgrade_undecided(const struct upgrade *up)
{
    return up->phase == UPGRADE_STARTING || up->phase == UPGRADE_GATHERING;
}

void upgrade_pass_command(const struct upgrade *up, const char *word, const char *text)
{
    if (upgrade_undecided(up))
        handover_say(up->channel, word, text);
}

static void notify(const struct upgrade *up, uint64_t serial, bool done, bool ok,
                   const char *text)
{
    if (up->on_news != NULL)
        up->on_news(up->arg, serial, done, ok, text);
}

/* ---- the new process ---- */

static int collect(struct handover *out, const struct upgrade *up)
{
    const struct scoreboard *board = up->rt->board;
    struct node_info *info = malloc(sizeof(*info));
    unsigned workers = supervise_workers(up->sup);
    int rc = info == NULL ? DRV_ENOMEM : 0;

    *out = (struct handover){.scaled = workers != up->sup->config->workers, .workers = workers};
    memcpy(out->activated, up->rt->activated, sizeof(out->activated));
    for (unsigned i = 0; i < scoreboard_max_nodes(board) && rc == 0; i++) {
        struct node_status status;

        if (!nodes_status(board, i, &status) || status.state == NODE_NONE ||
            status.state == NODE_GONE || !nodes_read(board, i, info))
            continue;
        if (status.drain_wanted)
            rc = handover_add_node(out, info->name, HANDOVER_DRAINED);
        else if (status.state == NODE_UP)
            rc = handover_add_node(out, info->name, HANDOVER_UP);
    }
    free(info);
    /* Drained nodes of our own handover text that have not joined yet. */
    for (size_t i = 0; up->before != NULL && i < up->before->nodes_count && rc == 0; i++) {
        const struct handover_node *node = &up->before->nodes[i];

        if (node->state == HANDOVER_DRAINED && !node->done)
            rc = handover_add_node(out, node->name, HANDOVER_DRAINED);
    }
    return rc;
}

/* A memfd with the handover text; -1 with `err`. */
static int write_text(const struct upgrade *up, struct error *err)
{
    struct handover handover;
    struct buf text = BUF_INIT;
    int fd = -1;

    if (collect(&handover, up) == 0)
        handover_encode(&text, &handover);
    else
        text.failed = true;
    handover_finish(&handover);
    if (text.failed) {
        (void)error_set(err, DRV_ENOMEM, "out of memory");
    } else {
        fd = memfd_create("drover-handover", MFD_CLOEXEC);
        if (fd == -1 ||
            pwrite(fd, buf_head(&text), buf_size(&text), 0) != (ssize_t)buf_size(&text)) {
            (void)error_sys(err, "memfd");
            if (fd != -1)
                (void)close(fd);
            fd = -1;
        }
    }
    buf_finish(&text);
    return fd;
}

/* Signals stay blocked until the new program takes them as its own. */
_Noreturn static void become_successor(const struct upgrade *up, int channel, int text_fd)
{
    struct inherited fds = {
        .fd = {[INHERIT_API] = up->rt->api_fd,
               [INHERIT_ADMIN] = up->rt->admin_fd,
               [INHERIT_REGISTRY] = up->rt->registry_fd,
               [INHERIT_LOCK] = up->rt->lock_fd,
               [INHERIT_CHANNEL] = channel,
               [INHERIT_HANDOVER] = text_fd},
    };
    char option[] = "-c";
    const char *path = *up->config_path;
    char *argv[] = {(char *)(uintptr_t)up->program, option, (char *)(uintptr_t)path, NULL};
    char text[HANDOVER_MESSAGE_BYTES];

    if (getenv("WATCHDOG_PID") != NULL) {
        (void)snprintf(text, sizeof(text), "%d", (int)getpid());
        (void)setenv("WATCHDOG_PID", text, 1);
    }
    if (path == NULL)
        argv[1] = NULL; /* it looks for itself */
    if (inherit_pass(&fds) == 0)
        (void)execve(up->program, argv, environ);
    (void)snprintf(text, sizeof(text), "cannot run %.400s: %s", up->program, strerror(errno));
    handover_say(fds.fd[INHERIT_CHANNEL], "failed", text);
    _exit(NO_EXEC_STATUS);
}

static int start_successor(struct upgrade *up, struct error *err)
{
    int text_fd, pair[2];

    text_fd = write_text(up, err);
    if (text_fd == -1)
        return DRV_ESYS;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == -1) {
        (void)error_sys(err, "socketpair");
        (void)close(text_fd);
        return DRV_ESYS;
    }
    up->pid = fork();
    if (up->pid == 0)
        become_successor(up, pair[1], text_fd);
    (void)close(pair[1]);
    (void)close(text_fd);
    if (up->pid == -1) {
        up->pid = 0;
        (void)error_sys(err, "fork");
        (void)close(pair[0]);
        return DRV_ESYS;
    }
    up->channel = pair[0];
    return 0;
}

/* ---- an attempt ---- */

/* The end of a failed attempt: all is as it was. */
static void conclude_failure(struct upgrade *up)
{
    close_channel(up);
    runtime_restore_names(up->rt);
    if (up->released)
        supervise_take_nodes(up->sup);
    up->released = false;
    up->phase = UPGRADE_NONE;
    log_error("event=upgrade_failed error=%s", log_quote(up->why));
    notify(up, up->serial, true, false, up->why);
    if (up->order != ORDER_SERVE && up->on_order != NULL)
        up->on_order(up->arg, up->order);
}

/* Ends the new process; what follows waits until it is gone, so that it cannot interfere. */
static void fail(struct upgrade *up, const char *why)
{
    if (up->why[0] == '\0')
        (void)snprintf(up->why, sizeof(up->why), "%s", why);
    up->phase = UPGRADE_UNDOING;
    if (up->pid != 0)
        (void)kill(up->pid, SIGKILL);
    /* Its messages do not count any more.  Not before the kill: to one that is ready, the end
     * of the channel says that it is the master. */
    close_channel(up);
    if (up->pid == 0)
        conclude_failure(up);
}

static void begin(struct upgrade *up, uint64_t now_mono_us)
{
    struct error err = {0};

    up->wanted = false;
    up->serial++;
    up->why[0] = '\0';
    up->order = ORDER_SERVE;
    up->deadline_mono_us = now_mono_us + READY_WITHIN_US;
    log_info("event=upgrade_started program=%s", log_quote(up->program));
    if (!up->sup->proven)
        (void)error_set(&err, DRV_EAGAIN, "drover itself is still starting");
    else if (runtime_backup_names(up->rt, &err) == 0)
        (void)start_successor(up, &err);
    if (err.code != 0) {
        fail(up, err.text);
        return;
    }
    up->phase = UPGRADE_STARTING;
    notify(up, up->serial, false, false, "the new process has been started");
}

static void succeed(struct upgrade *up)
{
    char text[160];

    if (up->on_hand_over != NULL)
        up->on_hand_over(up->arg, up->pid);
    handover_say(up->channel, "go", "");
    up->phase = UPGRADE_DONE;
    supervise_order_health(up->sup, HEALTH_LEAVE_ADMIN);
    runtime_hand_over(up->rt);
    (void)snprintf(text, sizeof(text), "process %d serves; process %d finishes its streams",
                   (int)up->pid, (int)getpid());
    log_info("event=upgraded successor=%d", (int)up->pid);
    notify(up, up->serial, true, true, text);
}

/* The order that this message is, or ORDER_SERVE. */
static enum child_order order_of(const char *message)
{
    for (enum child_order order = ORDER_FINISH; order <= ORDER_DIE; order++) {
        if (strcmp(message, child_order_name(order)) == 0)
            return order;
    }
    return ORDER_SERVE;
}

static void hear(struct upgrade *up, const char *message)
{
    if (up->phase == UPGRADE_DONE) {
        enum child_order order = order_of(message);

        if (order != ORDER_SERVE && up->on_order != NULL)
            up->on_order(up->arg, order);
    } else if (strncmp(message, "failed ", 7) == 0) {
        (void)snprintf(up->why, sizeof(up->why), "%s", message + 7);
        fail(up, "");
    } else if (strcmp(message, "started") == 0 && up->phase == UPGRADE_STARTING) {
        up->phase = UPGRADE_GATHERING;
        up->released = true;
        supervise_leave_nodes(up->sup);
        notify(up, up->serial, false, false, "its health process runs; nodes are joining it");
    } else if (strncmp(message, "nodes ", 6) == 0) {
        char text[64];
        unsigned got, of;

        if (sscanf(message + 6, "%u %u", &got, &of) == 2) {
            (void)snprintf(text, sizeof(text), "%u of %u nodes are up with it", got, of);
            notify(up, up->serial, false, false, text);
        }
    } else if (strcmp(message, "ready") == 0 && up->phase == UPGRADE_GATHERING) {
        succeed(up);
    }
}

static void listen_to(struct upgrade *up)
{
    char message[HANDOVER_MESSAGE_BYTES];
    int rc = 0;

    while (up->channel != -1 && up->phase != UPGRADE_UNDOING &&
           (rc = handover_hear(up->channel, message)) == 1)
        hear(up, message);
    if (rc != -1 || up->channel == -1 || up->phase == UPGRADE_UNDOING)
        return;
    close_channel(up);
    /* If the process died, upgrade_reaped() learns more. */
    if (up->phase != UPGRADE_DONE)
        up->deadline_mono_us = clock_mono_us() + REAP_WITHIN_US;
}

void upgrade_step(struct upgrade *up, uint64_t now_mono_us, bool may_begin)
{
    if (up->phase == UPGRADE_NONE && up->wanted && may_begin)
        begin(up, now_mono_us);
    listen_to(up);
    if (upgrade_undecided(up) && now_mono_us >= up->deadline_mono_us)
        fail(up, up->channel == -1 ? "the new process closed its channel before it was ready"
                                   : "the new process was not ready within 10 s");
}

/* Of a process that is dead: that it was ready does not count any more, but what an operator
 * wanted of it does. */
static void hear_last_error(struct upgrade *up)
{
    char message[HANDOVER_MESSAGE_BYTES];

    while (up->channel != -1 && handover_hear(up->channel, message) == 1) {
        if (strncmp(message, "failed ", 7) == 0 && up->why[0] == '\0')
            (void)snprintf(up->why, sizeof(up->why), "%s", message + 7);
        else if (order_of(message) > up->order)
            up->order = order_of(message);
    }
}

void upgrade_reaped(struct upgrade *up, pid_t pid, int status)
{
    if (pid != up->pid)
        return;
    up->pid = 0;
    if (up->phase == UPGRADE_DONE) {
        log_warn("event=successor_ended status=%d", status);
        return;
    }
    hear_last_error(up);
    /* Else it has reported the reason itself, or we have given it up. */
    if (up->why[0] == '\0' && WIFSIGNALED(status))
        (void)snprintf(up->why, sizeof(up->why), "the new process was ended by signal %d",
                       WTERMSIG(status));
    else if (up->why[0] == '\0')
        (void)snprintf(up->why, sizeof(up->why),
                       "the new process ended with status %d before it was ready; see its "
                       "lines in the log",
                       WEXITSTATUS(status));
    conclude_failure(up);
}

void upgrade_abandon(struct upgrade *up)
{
    if (up->wanted)
        notify(up, up->serial + 1, true, false, "drover is stopping");
    up->wanted = false;
    if (upgrade_undecided(up))
        fail(up, "drover is stopping");
}
