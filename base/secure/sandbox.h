/*
 * sandbox.h - the system calls that a child of the master, or a drover-node, may make, once it
 * has started.
 *
 * A worker reads bytes of strangers, health those of nodes, and a drover-node an engine's.  If
 * a stranger makes one of them run foreign code, that code cannot run a program, look into
 * another process, signal one, listen, change the owner or mode of a file, remove or rename
 * one, or write to one but by appending.  A call that is not in the table of its kind fails
 * with EPERM and leaves a line in the kernel's log; the process goes on, because a new version
 * of a library that tries some harmless call must not be an outage.
 *
 * Its limit: it sees flags and numbers but no paths, so what may be read is up to the
 * user the process runs as (privileges.h).
 */
#ifndef DROVER_BASE_SANDBOX_H
#define DROVER_BASE_SANDBOX_H

#include <stdbool.h>

#include "base/attrs.h"

struct error;

enum sandbox_mode {
    SANDBOX_ON = 0,
    SANDBOX_OFF,
    SANDBOX_LOG, /* everything is allowed; what would not be is in the kernel's log */
};

enum sandbox_kind {
    SANDBOX_WORKER = 0,
    SANDBOX_HEALTH, /* also resolves names, with threads */
    SANDBOX_NODE,   /* drover-node: likewise, and libcurl does; it listens before it enters */
};

/*
 * Puts the calling process, all its threads, under the filter of its kind for good, and gives
 * up new privileges by exec (no_new_privs).  Call when everything that needs more has been
 * done.  DRV_ESYS: the kernel does not take a filter; DRV_ENOMEM.
 *
 * In a build with AddressSanitizer the calls of its leak check at the end (a thread that traces
 * the others) are allowed too.
 */
MUST_CHECK int sandbox_enter(enum sandbox_kind kind, enum sandbox_mode mode, struct error *err);

/* The same with or without the sanitizer's calls; for sandbox_enter() and its tests. */
MUST_CHECK int sandbox_install(enum sandbox_kind kind, enum sandbox_mode mode, bool sanitizer,
                               struct error *err);

#endif
