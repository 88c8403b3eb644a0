/* notify.c - reports the master's state to the service manager. */
#include "master/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define MESSAGE_BYTES 512

static uint64_t number_in(const char *name)
{
    const char *text = getenv(name);
    unsigned long long n;
    char *end;

    if (text == NULL || text[0] < '0' || text[0] > '9')
        return 0;
    errno = 0;
    n = strtoull(text, &end, 10);
    return *end == '\0' && errno == 0 ? n : 0;
}

void notify_open(struct notify *notify)
{
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path == NULL ? 0 : strlen(path);

    *notify = (struct notify){.fd = -1};
    if (n < 2 || n >= sizeof(notify->addr.sun_path) || (path[0] != '/' && path[0] != '@'))
        return;
    notify->addr.sun_family = AF_UNIX;
    memcpy(notify->addr.sun_path, path, n);
    if (path[0] == '@')
        notify->addr.sun_path[0] = '\0'; /* an abstract name, which has no file */
    notify->addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    notify->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (notify->fd == -1)
        log_warn("event=notify_failed error=%d", errno);
    if (number_in("WATCHDOG_PID") == 0 || number_in("WATCHDOG_PID") == (uint64_t)getpid())
        notify->watchdog_us = number_in("WATCHDOG_USEC");
}

void notify_close(struct notify *notify)
{
    if (notify->fd != -1)
        (void)close(notify->fd);
    notify->fd = -1;
}

/* False: the manager's queue was full, or it has gone. */
static bool say(struct notify *notify, const char *fmt, ...) PRINTF_LIKE(2, 3);
static bool say(struct notify *notify, const char *fmt, ...)
{
    char text[MESSAGE_BYTES];
    uint32_t missed;
    va_list ap;

    if (notify->fd == -1 || notify->silent)
        return true;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (sendto(notify->fd, text, strlen(text), MSG_NOSIGNAL,
               (const struct sockaddr *)&notify->addr, notify->addr_len) != -1)
        return true;
    if (log_limit_minute(&notify->limit, &missed))
        log_warn("event=notify_failed error=%d missed=%u", errno, missed);
    return false;
}

void notify_ready(struct notify *notify, const char *status)
{
    if (!notify->ready)
        notify->ready = say(notify, "READY=1\nSTATUS=%s", status);
}

void notify_reloading(struct notify *notify, uint64_t now_mono_us)
{
    (void)say(notify, "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=reloading",
              (unsigned long long)now_mono_us);
    notify->ready = false;
}

void notify_stopping(struct notify *notify)
{
    (void)say(notify, "STOPPING=1\nSTATUS=finishing open streams");
    notify->ready = true; /* it is too late for anything else */
}

void notify_successor(struct notify *notify, pid_t pid)
{
    const struct timespec pause = {.tv_nsec = 20000000};

    /* A manager that has not read it ends the service when we end: worth a tenth of a second.
     */
    for (int i = 0; i < 5 && !say(notify, "MAINPID=%d\nSTATUS=upgraded", (int)pid); i++)
        (void)nanosleep(&pause, NULL);
    notify->silent = true;
}

/* Twice as often as it must be, as sd_watchdog_enabled(3) advises. */
static uint64_t due_mono_us(const struct notify *notify)
{
    return notify->pinged_mono_us + notify->watchdog_us / 2;
}

void notify_tick(struct notify *notify, bool well, uint64_t now_mono_us)
{
    if (notify->watchdog_us == 0 || !well || now_mono_us < due_mono_us(notify))
        return;
    (void)say(notify, "WATCHDOG=1");
    notify->pinged_mono_us = now_mono_us;
}

int notify_wait_ms(const struct notify *notify, uint64_t now_mono_us, int max_ms)
{
    uint64_t left_us;

    if (notify->watchdog_us == 0 || notify->fd == -1 || now_mono_us >= due_mono_us(notify))
        return max_ms; /* overdue: not well, and each turn looks again */
    left_us = due_mono_us(notify) - now_mono_us;
    return left_us / US_PER_MS < (uint64_t)max_ms ? (int)(left_us / US_PER_MS) + 1 : max_ms;
}
