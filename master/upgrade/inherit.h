/*
 * inherit.h - descriptors that were open before we started: a service manager's sockets, or all
 * that a master hands to its successor.
 *
 * Both come the same way (systemd's socket activation, sd_listen_fds(3)): descriptors from 3
 * on, LISTEN_FDS says how many, LISTEN_FDNAMES what they are, LISTEN_PID for whom.
 */
#ifndef DROVER_MASTER_UPGRADE_INHERIT_H
#define DROVER_MASTER_UPGRADE_INHERIT_H

#include "base/attrs.h"

struct error;

enum inherit_what {
    INHERIT_API = 0,  /* listening; these three may come from a service manager */
    INHERIT_ADMIN,    /* listening */
    INHERIT_REGISTRY, /* listening */
    INHERIT_LOCK,     /* the lock file, locked; from here on only from a master */
    INHERIT_CHANNEL,  /* socket to that master */
    INHERIT_HANDOVER, /* memfd: what handover_decode() reads */
    INHERIT_COUNT
};
#define INHERIT_LISTENERS 3 /* the first so many are listeners */

struct inherited {
    int fd[INHERIT_COUNT]; /* owned; -1 = did not come */
};

/* "api", as in LISTEN_FDNAMES. */
const char *inherit_name(enum inherit_what what);

void inherit_none(struct inherited *out);

/*
 * Takes what came, and takes the variables out of the environment.  DRV_EINVAL: the variables
 * contradict themselves, a name is unknown or there twice, or a descriptor is no listening
 * stream socket; `err` says which.  Descriptors that were taken before stay in `out`.
 */
MUST_CHECK int inherit_take(struct inherited *out, struct error *err);

/* Takes one out: the caller owns it. */
MUST_CHECK int inherit_claim(struct inherited *in, enum inherit_what what);

/* Closes the unclaimed descriptors. */
void inherit_close(struct inherited *in);

/* In a child that is about to exec: puts the descriptors, whose numbers change, and the
 * variables where inherit_take() will find them.  DRV_ESYS. */
MUST_CHECK int inherit_pass(struct inherited *fds);

#endif
