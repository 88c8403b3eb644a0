/*
 * privileges.h - from root to an unprivileged user, and the rights that every child drops.
 *
 * The master may run as root, to bind low ports; its children, which read bytes of strangers,
 * run as `user`.  They become that user right after the fork, so everything that the
 * configuration names (certificates, keys, tokens, logs) is opened as that user.  To find out
 * at once and not at the first reload that it may not, the master opens those files with its
 * rights too: between privileges_borrow() and privileges_return().
 */
#ifndef DROVER_BASE_PRIVILEGES_H
#define DROVER_BASE_PRIVILEGES_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/attrs.h"

struct error;

#define PRIVILEGES_MAX_GROUPS 32

struct privileges {
    bool wanted; /* false: stay as we are; the rest is then of no meaning */
    uid_t uid;
    gid_t gid;
    gid_t groups[PRIVILEGES_MAX_GROUPS]; /* supplementary ones, as the system's tables say */
    int groups_count;
};

/*
 * Looks up `user` (NULL = stay), with `group` in the place of its own (NULL = its own).  When
 * we are that user already, nothing is wanted.  DRV_ENOENT: no such user or group.  DRV_EINVAL:
 * it is root, or has too many groups.  DRV_EPERM: it is another user, and we are not root.
 */
MUST_CHECK int privileges_find(struct privileges *out, const char *user, const char *group,
                               struct error *err);

/* Becomes that user for good; on return the way back has been tried and is closed.  DRV_EPERM.
 */
MUST_CHECK int privileges_drop(const struct privileges *p, struct error *err);

/* Files are opened with that user's rights, and new ones belong to it, until the return. */
void privileges_borrow(const struct privileges *p);
void privileges_return(const struct privileges *p);

/* Lets that user's group have a file of root's, by `mode`.  DRV_ESYS. */
MUST_CHECK int privileges_share(const struct privileges *p, const char *path, mode_t mode,
                                struct error *err);

/* No core file of this process nor of its children: prompts and tokens are in there. */
void privileges_no_core(void);

/* No more rights by exec, and, unless `core_dumps`, no core file, and no debugger of the same
 * user. */
void privileges_lock(bool core_dumps);

/* Makes this process a likelier victim than its parent when memory runs out. */
void privileges_offer_to_oom(void);

#endif
