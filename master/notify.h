/*
 * notify.h - reports the master's state to the service manager: sd_notify(3)'s protocol, one
 * datagram of lines to the socket that NOTIFY_SOCKET names.
 *
 * Without that variable every function does nothing.  A process that is not, or no more, the
 * service's main process stays silent: the manager would refuse what it says.
 */
#ifndef DROVER_MASTER_NOTIFY_H
#define DROVER_MASTER_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/attrs.h"
#include "base/log.h"

struct notify {
    int fd; /* owned; -1: no service manager */
    struct sockaddr_un addr;
    socklen_t addr_len;
    bool silent;          /* we are not the main process */
    bool ready;           /* READY=1 has been said, and nothing else since */
    uint64_t watchdog_us; /* how often it wants to hear from us; 0 = never */
    uint64_t pinged_mono_us;
    struct log_limit limit; /* of complaints */
};

/* Looks at the environment, which stays as it is: a successor needs it too. */
void notify_open(struct notify *notify);
void notify_close(struct notify *notify);

/* Once; call it again and again, because the manager's queue may be full. */
void notify_ready(struct notify *notify, const char *status);
void notify_reloading(struct notify *notify, uint64_t now_mono_us);
void notify_stopping(struct notify *notify);
/* Another process is the main one from now on; this one falls silent.  May wait for a tenth of
 * a second until there is room for it. */
void notify_successor(struct notify *notify, pid_t pid);

/* Says that all is well, when it is and the manager waits for it. */
void notify_tick(struct notify *notify, bool well, uint64_t now_mono_us);

/* Time until notify_tick() has something to say, at most max_ms. */
int notify_wait_ms(const struct notify *notify, uint64_t now_mono_us, int max_ms);

#endif
