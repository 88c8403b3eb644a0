/* test_signal_fd.c - signals that are asked for queue up, and keep their values. */
#include "base/io/signal_fd.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <unistd.h>

Test(signal_fd, signals_queue_up_with_their_values)
{
    const int numbers[] = {SIGHUP, SIGUSR1};
    const union sigval value = {.sival_int = 7};
    struct signalfd_siginfo info;
    int fd = signal_fd_open(numbers, ARRAY_LEN(numbers), NULL);

    cr_assert_geq(fd, 0);
    cr_assert_not(signal_fd_read(fd, &info));
    cr_assert_eq(raise(SIGHUP), 0);
    cr_assert_eq(sigqueue(getpid(), SIGUSR1, value), 0);
    cr_assert(signal_fd_read(fd, &info));
    cr_assert_eq(info.ssi_signo, (unsigned)SIGHUP);
    cr_assert(signal_fd_read(fd, &info));
    cr_assert_eq(info.ssi_signo, (unsigned)SIGUSR1);
    cr_assert_eq(info.ssi_int, 7);
    cr_assert_not(signal_fd_read(fd, &info));
    (void)close(fd);
}
