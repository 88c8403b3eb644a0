/* privileges.c - from root to an unprivileged user. */
#include "base/secure/privileges.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* AddressSanitizer's leak check traces the process from one of its own threads. */
#ifdef DROVER_ASAN
#define DUMPABLE 1
#else
#define DUMPABLE 0
#endif

/* On top of the parent's, of 1000. */
#define OOM_SCORE_MORE 100

static int find_groups(struct privileges *out, const char *user, struct error *err)
{
    out->groups_count = PRIVILEGES_MAX_GROUPS;
    if (getgrouplist(user, out->gid, out->groups, &out->groups_count) == -1)
        return error_set(err, DRV_EINVAL, "user '%.64s' is in more than %d groups", user,
                         PRIVILEGES_MAX_GROUPS);
    return 0;
}

int privileges_find(struct privileges *out, const char *user, const char *group,
                    struct error *err)
{
    const struct passwd *passwd;
    const struct group *entry;

    *out = (struct privileges){0};
    if (user == NULL)
        return 0;
    errno = 0;
    passwd = getpwnam(user);
    if (passwd == NULL)
        return error_set(err, DRV_ENOENT, "there is no user '%.64s'", user);
    out->uid = passwd->pw_uid;
    out->gid = passwd->pw_gid;
    if (group != NULL) {
        entry = getgrnam(group);
        if (entry == NULL)
            return error_set(err, DRV_ENOENT, "there is no group '%.64s'", group);
        out->gid = entry->gr_gid;
    }
    if (out->uid == geteuid())
        return 0;
    if (out->uid == 0)
        return error_set(err, DRV_EINVAL, "'%.64s' is root; name a user without rights", user);
    if (geteuid() != 0)
        return error_set(err, DRV_EPERM, "only root can run its children as '%.64s'", user);
    out->wanted = true;
    return find_groups(out, user, err);
}

/* The kernel's word that nothing of root is left, and that it cannot be had back. */
static bool is_dropped(const struct privileges *p)
{
    uid_t real, effective, saved;
    gid_t real_group, effective_group, saved_group;

    return getresuid(&real, &effective, &saved) == 0 &&
           getresgid(&real_group, &effective_group, &saved_group) == 0 && real == p->uid &&
           effective == p->uid && saved == p->uid && real_group == p->gid &&
           effective_group == p->gid && saved_group == p->gid && setuid(0) == -1 &&
           setgid(0) == -1;
}

int privileges_drop(const struct privileges *p, struct error *err)
{
    if (!p->wanted)
        return 0;
    if (setgroups((size_t)p->groups_count, p->groups) == -1 ||
        setresgid(p->gid, p->gid, p->gid) == -1 || setresuid(p->uid, p->uid, p->uid) == -1)
        return error_set(err, DRV_EPERM, "cannot become user %u: %s", (unsigned)p->uid,
                         strerror(errno));
    if (!is_dropped(p))
        return error_set(err, DRV_EPERM, "becoming user %u did not take effect",
                         (unsigned)p->uid);
    return 0;
}

/* The file system's ids alone: the process keeps its rights over its children.  These calls
 * report nothing; if they did nothing, opening shows. */
void privileges_borrow(const struct privileges *p)
{
    if (!p->wanted)
        return;
    (void)!setgroups((size_t)p->groups_count, p->groups);
    (void)setfsgid(p->gid);
    (void)setfsuid(p->uid);
}

void privileges_return(const struct privileges *p)
{
    if (!p->wanted)
        return;
    (void)setfsuid(geteuid());
    (void)setfsgid(getegid());
    (void)!setgroups(0, NULL); /* root needs none */
}

int privileges_share(const struct privileges *p, const char *path, mode_t mode,
                     struct error *err)
{
    if (!p->wanted)
        return 0;
    if (lchown(path, (uid_t)-1, p->gid) == -1 || chmod(path, mode) == -1)
        return error_sys(err, path);
    return 0;
}

void privileges_no_core(void)
{
    const struct rlimit none = {0, 0};

    (void)setrlimit(RLIMIT_CORE, &none);
}

void privileges_lock(bool core_dumps)
{
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (core_dumps)
        return;
    privileges_no_core();
    (void)prctl(PR_SET_DUMPABLE, DUMPABLE, 0, 0, 0);
}

void privileges_offer_to_oom(void)
{
    char text[16] = "";
    int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC), n;

    if (fd == -1)
        return;
    if (read(fd, text, sizeof(text) - 1) > 0) {
        long score = strtol(text, NULL, 10) + OOM_SCORE_MORE;

        n = snprintf(text, sizeof(text), "%ld", score > 1000 ? 1000 : score);
        (void)!pwrite(fd, text, (size_t)n, 0);
    }
    (void)close(fd);
}
