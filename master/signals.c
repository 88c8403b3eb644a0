/* signals.c - signals as something to read: all are blocked, those with a meaning queue up. */
#include "master/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>

#include "base/error.h"
#include "base/io/signal_fd.h"

static const int wanted[] = {SIGTERM, SIGINT,   SIGQUIT, SIGHUP,  SIGTTIN,
                             SIGTTOU, SIGWINCH, SIGUSR1, SIGUSR2, SIGCHLD};

/* A process that has failed must be able to die of it, and of a watchdog's ABRT. */
static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

int signals_open(struct error *err)
{
    sigset_t all;

    (void)sigfillset(&all);
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
        (void)sigdelset(&all, fatal[i]);
    /* A parent that ignored SIGCHLD would have the kernel reap our children unseen. */
    if (signal(SIGCHLD, SIG_DFL) == SIG_ERR || sigprocmask(SIG_SETMASK, &all, NULL) == -1)
        return error_sys(err, "signals");
    return signal_fd_open(wanted, ARRAY_LEN(wanted), err);
}

/* The terminal uses three of these for its own purposes: a window that changes size must not
 * drain the workers. */
static bool from_terminal(const struct signalfd_siginfo *info)
{
    return info->ssi_code == SI_KERNEL &&
           (info->ssi_signo == SIGWINCH || info->ssi_signo == SIGTTIN ||
            info->ssi_signo == SIGTTOU);
}

int signals_next(int fd)
{
    struct signalfd_siginfo info;

    while (signal_fd_read(fd, &info)) {
        if (!from_terminal(&info))
            return (int)info.ssi_signo;
    }
    return 0;
}
