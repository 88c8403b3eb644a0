/* signal_fd.c - see signal_fd.h. */
#include "base/io/signal_fd.h"

#include <signal.h>
#include <unistd.h>

#include "base/error.h"

int signal_fd_open(const int *numbers, size_t count, struct error *err)
{
    sigset_t set;
    int fd;

    (void)sigemptyset(&set);
    for (size_t i = 0; i < count; i++)
        (void)sigaddset(&set, numbers[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL) == -1)
        return error_sys(err, "sigprocmask");
    fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd == -1 ? error_sys(err, "signalfd") : fd;
}

bool signal_fd_read(int fd, struct signalfd_siginfo *info)
{
    return read(fd, info, sizeof(*info)) == (ssize_t)sizeof(*info);
}
