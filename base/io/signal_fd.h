/* signal_fd.h - signals as something to read: those asked for are blocked and queue up. */
#ifndef DROVER_BASE_SIGNAL_FD_H
#define DROVER_BASE_SIGNAL_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/signalfd.h>

#include "base/attrs.h"

struct error;

/* Blocks these signals in the calling process and returns a descriptor for signal_fd_read(),
 * non-blocking and closed on exec.  DRV_ESYS. */
MUST_CHECK int signal_fd_open(const int *numbers, size_t count, struct error *err);

/* The next one that has come; false: none. */
MUST_CHECK bool signal_fd_read(int fd, struct signalfd_siginfo *info);

#endif
