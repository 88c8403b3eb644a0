/* reload.c - a new configuration takes over, or everything stays as it was. */
#include "master/reload/reload.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/config/config_load.h"
#include "base/error.h"
#include "base/log.h"
#include "base/secure/privileges.h"
#include "master/reload/switch.h"
#include "master/reload/verify.h"
#include "master/runtime.h"
#include "master/supervise.h"

#define GOOD            "good"
#define SERVE_WITHIN_US (5 * US_PER_S)
#define GAP_US          (US_PER_S / 2) /* between attempts, so that a storm of HUPs is few reloads */
#define POLL_MS         20 /* children say that they serve in shared memory, which cannot wake us */

void reload_init(struct reload *reload, const char *path, struct runtime *rt,
                 struct supervisor *sup, struct config *config)
{
    *reload =
        (struct reload){.path = path, .rt = rt, .sup = sup, .config = config, .check_fd = -1};
}

static void end_check(struct reload *reload)
{
    if (reload->check_fd != -1)
        (void)close(reload->check_fd);
    reload->check_fd = -1;
}

void reload_leave(struct reload *reload)
{
    end_check(reload);
}

void reload_finish(struct reload *reload)
{
    end_check(reload);
    config_destroy(reload->config);
    config_destroy(reload->next);
    reload->config = NULL;
    reload->next = NULL;
    buf_finish(&reload->text);
}

uint64_t reload_want(struct reload *reload)
{
    reload->wanted = true;
    return reload->serial + 1;
}

bool reload_under_way(const struct reload *reload)
{
    return reload->next != NULL;
}

MUST_CHECK static int apply_log(const struct config *config, struct error *err)
{
    int rc;

    privileges_borrow(&config->run_as);
    rc = log_open(config->log_file, err);
    privileges_return(&config->run_as);
    if (rc == 0)
        log_set_level(config->log_level);
    return rc;
}

/* The end of every attempt. */
static void conclude(struct reload *reload, const char *error)
{
    uint64_t took_us = clock_mono_us() - reload->since_mono_us;

    end_check(reload);
    config_destroy(reload->next);
    reload->next = NULL;
    buf_finish(&reload->text);
    if (error != NULL)
        log_error("event=reload_failed generation=%u error=%s", reload->sup->generation,
                  log_quote(error));
    else
        log_info("event=reloaded generation=%u workers=%u took_ms=%llu",
                 reload->sup->generation, supervise_workers(reload->sup),
                 (unsigned long long)(took_us / US_PER_MS));
    if (reload->on_done != NULL)
        reload->on_done(reload->arg, reload->serial, error);
}

/* Back to the log of the configuration in force. */
static void give_up_log(struct reload *reload, const char *why)
{
    struct error err;

    if (apply_log(reload->config, &err) != 0)
        log_warn("event=log_open_failed error=%s", log_quote(err.text));
    conclude(reload, why);
}

/* ... and to its workers. */
static void give_up(struct reload *reload, const char *why)
{
    switch_rollback(reload->sup, reload->config);
    give_up_log(reload, why);
}

static const char *name_of(const struct reload *reload)
{
    return reload->path == NULL ? CONFIG_DEFAULTS_NAME : reload->path;
}

/* Without a file at the start one may be there by now; it stays the one. */
static int read_next(struct reload *reload, struct error *err)
{
    uint32_t line, column;
    const char *key;
    int rc = 0;

    if (reload->path == NULL && config_find(reload->found))
        reload->path = reload->found;
    if (reload->path == NULL)
        buf_str(&reload->text, CONFIG_DEFAULTS);
    else
        rc = config_read(&reload->text, reload->path, err);
    if (rc == 0)
        rc = config_parse(&reload->next, (const char *)reload->text.data,
                          buf_size(&reload->text), name_of(reload), err);
    if (rc != 0)
        return rc;
    key = config_not_reloadable(reload->config, reload->next);
    if (key == NULL)
        return 0;
    config_place((const char *)reload->text.data, buf_size(&reload->text), key, &line, &column);
    return error_set(err, DRV_EPERM,
                     "%s:%" PRIu32 ":%" PRIu32
                     ": %s: cannot change by a reload; restart drover",
                     name_of(reload), line, column, key);
}

/* A number set by signal or droverctl stays, unless the file says something new. */
static unsigned workers_wanted(const struct reload *reload)
{
    unsigned now = supervise_workers(reload->sup);

    return now == 0 || reload->next->workers != reload->config->workers ? reload->next->workers
                                                                        : now;
}

/* In a child: do the certificates and keys load, as the user that will use them?  Says GOOD, or
 * why not; one that dies without a word has not found them good. */
_Noreturn static void check(const struct reload *reload, int fd)
{
    struct error err = {0};
    int rc = privileges_drop(&reload->next->run_as, &err);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it holds descriptors of the master */
    if (rc == 0)
        rc = verify_tls(reload->next, &err);
    if (rc != 0)
        rc = error_wrap(&err, rc, "%s", name_of(reload));
    (void)!write(fd, rc == 0 ? GOOD : err.text, rc == 0 ? strlen(GOOD) : strlen(err.text));
    _exit(rc == 0 ? 0 : 1);
}

static int start_check(struct reload *reload, struct error *err)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == -1)
        return error_sys(err, "pipe");
    pid = fork();
    if (pid == 0)
        check(reload, ends[1]);
    (void)close(ends[1]);
    if (pid == -1) {
        (void)error_sys(err, "fork");
        (void)close(ends[0]);
        return DRV_ESYS;
    }
    reload->check_fd = ends[0];
    reload->check_pid = pid;
    return 0;
}

static void begin(struct reload *reload, uint64_t now_mono_us)
{
    struct error err;
    int rc;

    if (reload->serial != 0 && now_mono_us - reload->since_mono_us < GAP_US)
        return;
    if (!supervise_make_room(reload->sup, SUPERVISE_MAX_WORKERS))
        return; /* later, when enough of the earlier generations have finished */
    reload->wanted = false;
    reload->serial++;
    reload->since_mono_us = now_mono_us;
    if (reload->on_begin != NULL)
        reload->on_begin(reload->arg);
    rc = read_next(reload, &err);
    if (rc == 0)
        rc = start_check(reload, &err);
    if (rc != 0)
        conclude(reload, err.text);
}

/* The check has passed: new workers. */
static void switch_over(struct reload *reload)
{
    struct error err;
    int rc = apply_log(reload->next, &err);

    if (rc == 0)
        rc = switch_begin(reload->sup, reload->next, workers_wanted(reload), &err);
    if (rc != 0)
        give_up_log(reload, err.text);
}

static void step_check(struct reload *reload, uint64_t now_mono_us)
{
    char text[ERROR_TEXT_BYTES];
    ssize_t n = read(reload->check_fd, text, sizeof(text) - 1);

    if (reload->sup->order != ORDER_SERVE) {
        conclude(reload, "drover is stopping");
    } else if (n > 0) { /* short enough to be written at once */
        text[n] = '\0';
        if (strcmp(text, GOOD) != 0) {
            conclude(reload, text);
        } else {
            end_check(reload);
            switch_over(reload);
        }
    } else if (n == 0) {
        conclude(reload, "the process that reads the certificates died");
    } else if (now_mono_us - reload->since_mono_us >= SERVE_WITHIN_US) {
        (void)kill(reload->check_pid, SIGKILL); /* not reaped: its end of the pipe is open */
        conclude(reload, "the certificates could not be read within 5 s");
    }
}

static void take_over(struct reload *reload)
{
    struct config *old = reload->config;
    struct error err;

    if (runtime_set_text(reload->rt, &reload->text, name_of(reload), &err) != 0) {
        give_up(reload, err.text);
        return;
    }
    switch_commit(reload->sup);
    reload->config = reload->next;
    reload->next = NULL;
    config_destroy(old); /* the children that use it have copies of their own */
    conclude(reload, NULL);
}

void reload_step(struct reload *reload, uint64_t now_mono_us)
{
    char why[SUPERVISE_ERROR_BYTES + 80];
    bool late;

    if (reload->next == NULL) {
        if (reload->wanted)
            begin(reload, now_mono_us);
        return;
    }
    if (reload->check_fd != -1) {
        step_check(reload, now_mono_us);
        return;
    }
    if (!reload->sup->switching) { /* a stop came in between */
        give_up_log(reload, "drover is stopping");
        return;
    }
    late = now_mono_us - reload->since_mono_us >= SERVE_WITHIN_US;
    switch (switch_state(reload->sup)) {
    case SWITCH_READY:
        take_over(reload);
        break;
    case SWITCH_FAILED:
        (void)snprintf(why, sizeof(why),
                       "a worker of the new configuration could not serve: %s",
                       reload->sup->why_not_served);
        give_up(reload, why);
        break;
    case SWITCH_WAITING:
        /* One that serves shows that the configuration works; the others are slow. */
        if (late && supervise_serving(reload->sup) != 0)
            take_over(reload);
        else if (late)
            give_up(reload, "no worker of the new configuration served within 5 s");
        break;
    }
}

int reload_wait_ms(const struct reload *reload, int max_ms)
{
    return (reload->next != NULL || reload->wanted) && max_ms > POLL_MS ? POLL_MS : max_ms;
}
