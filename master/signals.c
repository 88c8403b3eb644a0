/* signals.c - signals as something to read: all are blocked, those with a meaning queue up. */
#include "master/signals.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/error.h"

static const int wanted[] = {SIGTERM, SIGINT,   SIGQUIT, SIGHUP,  SIGTTIN,
                             SIGTTOU, SIGWINCH, SIGUSR1, SIGUSR2, SIGCHLD};

/* A process that has failed must be able to die of it, and of a watchdog's ABRT. */
static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

int signals_open(struct error *err)
{
    sigset_t all, some;
    int fd;

    (void)sigfillset(&all);
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++)
        (void)sigdelset(&all, fatal[i]);
    (void)sigemptyset(&some);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        (void)sigaddset(&some, wanted[i]);
    /* A parent that ignored SIGCHLD would have the kernel reap our children unseen. */
    if (signal(SIGCHLD, SIG_DFL) == SIG_ERR || sigprocmask(SIG_SETMASK, &all, NULL) == -1)
        return error_sys(err, "signals");
    fd = signalfd(-1, &some, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd == -1 ? error_sys(err, "signalfd") : fd;
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

    while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (!from_terminal(&info))
            return (int)info.ssi_signo;
    }
    return 0;
}
