/* runtime.c - what the master holds for as long as it runs, and its children inherit. */
#include "master/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/log.h"
#include "base/secure/privileges.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "master/upgrade/handover.h"
#include "proto/control.h"
#include "shm/scoreboard.h"
#include "shm/share/holders.h"

#define LISTEN_BACKLOG 4096 /* the kernel cuts it to net.core.somaxconn */
#define STAGED         ".next"
#define BACKED_UP      ".old"

/* An upgrade must be able to put these back. */
static const char *const backed_up[] = {SCOREBOARD_FILE_NAME, CONTROL_SOCKET_NAME};

static void path_in(char out[RUNTIME_PATH_BYTES + 32], const struct runtime *rt,
                    const char *name)
{
    (void)snprintf(out, RUNTIME_PATH_BYTES + 32, "%s/%s", rt->dir, name);
}

/* A user who can write here can plant a foreign control socket or lock, and the name
 * /tmp/drover-UID is easy to guess. */
static int make_dir(const char *dir, struct error *err)
{
    struct stat st;

    if (mkdir(dir, geteuid() == 0 ? 0755 : 0700) == -1 && errno != EEXIST)
        return error_wrap(err, error_sys(err, "mkdir"), "runtime_dir %s", dir);
    if (lstat(dir, &st) == -1)
        return error_wrap(err, error_sys(err, "stat"), "runtime_dir %s", dir);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, DRV_EPERM, "runtime_dir %s: not a directory", dir);
    if (st.st_uid != geteuid())
        return error_set(err, DRV_EPERM, "runtime_dir %s: belongs to another user", dir);
    if ((st.st_mode & S_IWOTH) != 0)
        return error_set(err, DRV_EPERM, "runtime_dir %s: everyone can write there", dir);
    return 0;
}

static int write_pid(const struct runtime *rt, struct error *err)
{
    char pid[32];

    (void)snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(rt->lock_fd, 0) == -1 ||
        pwrite(rt->lock_fd, pid, strlen(pid), 0) != (ssize_t)strlen(pid))
        return error_sys(err, RUNTIME_LOCK_NAME);
    return 0;
}

/* The lock decides, never the pid in the file: a pid may be stale or reused. */
static int take_lock(struct runtime *rt, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32], pid[32];
    ssize_t n;

    path_in(path, rt, RUNTIME_LOCK_NAME);
    rt->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (rt->lock_fd == -1)
        return error_wrap(err, error_sys(err, "open"), "%s", path);
    if (flock(rt->lock_fd, LOCK_EX | LOCK_NB) == -1) {
        if (errno != EWOULDBLOCK)
            return error_wrap(err, error_sys(err, "flock"), "%s", path);
        n = read(rt->lock_fd, pid, sizeof(pid) - 1);
        pid[n > 0 ? n : 0] = '\0';
        pid[strspn(pid, "0123456789")] = '\0';
        return error_set(err, DRV_EEXIST, "already running (pid %s)", pid);
    }
    return write_pid(rt, err);
}

/* The lock came with us, held already; it must be the one of our directory. */
static int check_lock(const struct runtime *rt, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32];
    struct stat ours, there;

    path_in(path, rt, RUNTIME_LOCK_NAME);
    if (fstat(rt->lock_fd, &ours) == 0 && ours.st_nlink == 0)
        return error_set(err, DRV_ENOENT,
                         "%s is gone: runtime_dir, or the file, was removed while drover ran; "
                         "restart drover",
                         path);
    if (fstat(rt->lock_fd, &ours) == -1 || stat(path, &there) == -1 ||
        ours.st_dev != there.st_dev || ours.st_ino != there.st_ino)
        return error_set(err, DRV_EPERM, "runtime_dir cannot change by an upgrade");
    return 0;
}

/* Is this socket where the configuration wants it? */
static bool bound_to(int fd, const char *address)
{
    char is[NET_TEXT_BYTES], wanted[NET_TEXT_BYTES];
    struct net_addr local, addr;

    if (net_local(&local, fd, NULL) != 0 || net_resolve(&addr, address, NULL) != 0)
        return false;
    if (net_port(&addr) == 0) { /* any port will do; a Unix socket has none to compare */
        net_format_host(is, sizeof(is), &local);
        net_format_host(wanted, sizeof(wanted), &addr);
        if (addr.sa.ss_family != AF_UNIX)
            return strcmp(is, wanted) == 0;
    }
    net_format(is, sizeof(is), &local);
    net_format(wanted, sizeof(wanted), &addr);
    return strcmp(is, wanted) == 0;
}

static int listen_on(int *fd, const char *key, const char *address, struct error *err)
{
    *fd = net_listen(address, LISTEN_BACKLOG, err);
    if (*fd < 0) {
        int rc = *fd;

        *fd = -1;
        return error_wrap(err, rc, "%s %s", key, address);
    }
    return 0;
}

/* One listener: the socket that came for it, or a new one. */
static int open_listener(struct runtime *rt, int *fd, enum inherit_what what,
                         const char *address, struct inherited *in, struct error *err)
{
    char key[24];
    int came = inherit_claim(in, what);

    (void)snprintf(key, sizeof(key), "%s.listen", inherit_name(what));
    if (address == NULL && came != -1 && rt->activated[what]) {
        (void)close(came);
        return error_set(err, DRV_EINVAL, "a socket came for %s, which is not configured", key);
    }
    if (came != -1 && (rt->activated[what] || (address != NULL && bound_to(came, address)))) {
        *fd = came;
        return 0;
    }
    rt->activated[what] = false;
    if (came != -1)
        (void)close(came);
    return address == NULL ? 0 : listen_on(fd, key, address, err);
}

static int open_listeners(struct runtime *rt, const struct config *config, struct inherited *in,
                          const struct handover *from, struct error *err)
{
    int rc;

    for (int i = 0; i < INHERIT_LISTENERS; i++)
        rt->activated[i] = from == NULL ? in->fd[i] != -1 : from->activated[i];
    rc = open_listener(rt, &rt->api_fd, INHERIT_API, config->api.address, in, err);
    if (rc == 0)
        rc = open_listener(rt, &rt->admin_fd, INHERIT_ADMIN, config->admin.address, in, err);
    if (rc == 0)
        rc = open_listener(rt, &rt->registry_fd, INHERIT_REGISTRY,
                           config->registry.listen.address, in, err);
    return rc;
}

void runtime_address(char *out, size_t cap, int fd)
{
    struct net_addr addr;

    if (fd == -1 || net_local(&addr, fd, NULL) != 0)
        (void)snprintf(out, cap, "none");
    else
        net_format(out, cap, &addr);
}

static void add_address(struct buf *json, const char *key, int fd)
{
    char text[NET_TEXT_BYTES];

    runtime_address(text, sizeof(text), fd);
    buf_printf(json, "\"%s\":", key);
    if (fd == -1)
        buf_str(json, "null");
    else
        json_quote_str(json, text);
}

/* By rename, so that a script which waits for the file never reads half of it. */
static int write_addresses(const struct runtime *rt, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32], draft[RUNTIME_PATH_BYTES + 32];
    struct buf json = BUF_INIT;
    int fd = -1, rc = 0;

    path_in(path, rt, RUNTIME_ADDRESSES_NAME);
    path_in(draft, rt, RUNTIME_ADDRESSES_NAME ".new");
    buf_str(&json, "{");
    add_address(&json, "api", rt->api_fd);
    buf_str(&json, ",");
    add_address(&json, "admin", rt->admin_fd);
    buf_str(&json, ",");
    add_address(&json, "registry", rt->registry_fd);
    buf_str(&json, "}\n");
    if (json.failed) {
        rc = error_set(err, DRV_ENOMEM, "out of memory");
        goto out;
    }
    fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd == -1 || write(fd, buf_head(&json), buf_size(&json)) != (ssize_t)buf_size(&json) ||
        rename(draft, path) == -1)
        rc = error_sys(err, path);
out:
    if (fd != -1)
        (void)close(fd);
    buf_finish(&json);
    return rc;
}

static int append(int fd, const void *p, size_t n, off_t *at, struct error *err)
{
    ssize_t w;

    for (size_t done = 0; done < n; done += (size_t)w) {
        w = pwrite(fd, (const char *)p + done, n - done, *at);
        if (w == -1)
            return error_sys(err, "config memfd");
        *at += w;
    }
    return 0;
}

int runtime_set_text(struct runtime *rt, const struct buf *text, const char *name,
                     struct error *err)
{
    off_t at = 0;
    int rc;

    if (ftruncate(rt->config_fd, 0) == -1)
        return error_sys(err, "config memfd");
    rc = append(rt->config_fd, buf_head(text), buf_size(text), &at, err);
    if (rc == 0)
        rc = append(rt->config_fd, "", 1, &at, err); /* a configuration has no NUL */
    return rc == 0 ? append(rt->config_fd, name, strlen(name), &at, err) : rc;
}

static struct scoreboard_params board_params(const struct config *config, unsigned workers)
{
    return (struct scoreboard_params){
        .max_nodes = config->limits.max_nodes,
        .max_workers = RUNTIME_MAX_WORKERS,
        /* One open request a connection; a few more rows so that the last ones are not special.
         */
        .requests_per_worker = (config->limits.max_connections + 63) / 64 * 64,
        .prefix_entries = config->prefix.entries,
        .workers = workers,
    };
}

void runtime_warnings(const struct config *config, struct buf *out)
{
    /* A reload doubles the workers for a while. */
    struct scoreboard_params params = board_params(config, 2 * config->workers);
    uint64_t needed = scoreboard_bytes(&params), free_bytes;
    struct statvfs fs;

    if (statvfs(config->runtime_dir, &fs) == -1)
        return; /* drover makes it */
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free_bytes < needed)
        buf_printf(out,
                   "runtime_dir %s has %llu KiB of room; a start and a reload take up to %llu "
                   "KiB\n",
                   config->runtime_dir, (unsigned long long)(free_bytes / 1024),
                   (unsigned long long)(needed / 1024));
}

static int make_board(struct runtime *rt, const struct config *config, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32];
    struct scoreboard_params params = board_params(config, config->workers);

    path_in(path, rt,
            rt->files == RUNTIME_FILES_STAGED ? SCOREBOARD_FILE_NAME STAGED
                                              : SCOREBOARD_FILE_NAME);
    return scoreboard_create(&rt->board, path, &params, err);
}

/* With its parents: nothing else makes ~/.local/state on a fresh account. */
static int make_state_dir(const char *dir, struct error *err)
{
    char part[1024];

    (void)strlcpy(part, dir, sizeof(part));
    for (char *at = part + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        (void)mkdir(part, 0755);
        *at = '/';
    }
    return mkdir(part, 0700) == -1 && errno != EEXIST ? error_sys(err, "mkdir") : 0;
}

/* Without a place for it the table ends with the master. */
static int open_holders(struct runtime *rt, const struct config *config, struct error *err)
{
    const char *dir = config->state_dir;
    struct error why = {0};
    int rc;

    if (dir[0] == '\0')
        return holders_open(&rt->holders, NULL, err);
    rc = make_state_dir(dir, &why);
    if (rc == 0)
        rc = holders_open(&rt->holders, dir, &why);
    if (rc == 0)
        return 0;
    log_warn("event=state_not_kept state_dir=%s why=%s hint=\"after a restart it is not known "
             "which node has which response\"",
             log_quote(dir), log_quote(why.text));
    return holders_open(&rt->holders, NULL, err);
}

/* Made before any fork, so that every worker can wake every other, also those of a later
 * generation. */
static int make_wake_fds(struct runtime *rt, struct error *err)
{
    for (unsigned i = 0; i < RUNTIME_MAX_WORKERS; i++) {
        rt->wake_fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (rt->wake_fds[i] == -1)
            return error_sys(err, "eventfd");
    }
    return 0;
}

int runtime_open(struct runtime *rt, const struct config *config, struct inherited *in,
                 const struct handover *from, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32];
    int life[2];
    int rc;

    *rt = (struct runtime){.lock_fd = -1,
                           .api_fd = -1,
                           .admin_fd = -1,
                           .registry_fd = -1,
                           .config_fd = -1,
                           .parent_pipe_read = -1,
                           .parent_pipe_write = -1};
    for (unsigned i = 0; i < RUNTIME_MAX_WORKERS; i++)
        rt->wake_fds[i] = -1;
    (void)strlcpy(rt->dir, config->runtime_dir, sizeof(rt->dir));
    rt->lock_fd = inherit_claim(in, INHERIT_LOCK);
    rc = make_dir(rt->dir, err);
    if (rc == 0)
        rc = rt->lock_fd != -1 ? check_lock(rt, err) : take_lock(rt, err);
    if (rc != 0)
        goto fail;
    rt->files = from != NULL ? RUNTIME_FILES_STAGED : RUNTIME_FILES_OURS;
    if (from == NULL) {
        /* One of a master that was killed would send people to ports that are gone. */
        path_in(path, rt, RUNTIME_ADDRESSES_NAME);
        (void)unlink(path);
    }
    rc = open_listeners(rt, config, in, from, err);
    if (rc == 0)
        rc = make_board(rt, config, err);
    if (rc == 0)
        rc = open_holders(rt, config, err);
    if (rc != 0)
        goto fail;
    rt->config_fd = memfd_create("drover-config", MFD_CLOEXEC);
    if (rt->config_fd == -1) {
        rc = error_sys(err, "memfd_create");
        goto fail;
    }
    if (pipe2(life, O_CLOEXEC | O_NONBLOCK) == -1) {
        rc = error_sys(err, "pipe");
        goto fail;
    }
    rt->parent_pipe_read = life[0];
    rt->parent_pipe_write = life[1];
    rc = make_wake_fds(rt, err);
    if (rc == 0 && rt->files == RUNTIME_FILES_OURS)
        rc = write_addresses(rt, err);
    if (rc != 0)
        goto fail;
    return 0;

fail:
    runtime_close(rt);
    return rc;
}

int runtime_share(const struct runtime *rt, const struct privileges *run_as, struct error *err)
{
    bool staged = rt->files == RUNTIME_FILES_STAGED;
    char path[RUNTIME_PATH_BYTES + 32];
    int rc;

    /* By its group, and not as its owner, who could truncate it while the master uses it. */
    path_in(path, rt, staged ? SCOREBOARD_FILE_NAME STAGED : SCOREBOARD_FILE_NAME);
    rc = privileges_share(run_as, path, 0640, err);
    path_in(path, rt, staged ? CONTROL_SOCKET_NAME STAGED : CONTROL_SOCKET_NAME);
    return rc != 0 ? rc : privileges_share(run_as, path, 0660, err);
}

static void close_fd(int *fd)
{
    if (*fd != -1)
        (void)close(*fd);
    *fd = -1;
}

/* `remove`: a Unix socket's name goes too, if the socket was bound here. */
static void close_listener(struct runtime *rt, int *fd, enum inherit_what what, bool remove)
{
    struct net_addr addr;
    char text[NET_TEXT_BYTES];

    if (remove && *fd != -1 && !rt->activated[what] && net_local(&addr, *fd, NULL) == 0 &&
        addr.sa.ss_family == AF_UNIX) {
        net_format(text, sizeof(text), &addr);
        (void)unlink(text + strlen("unix:"));
    }
    close_fd(fd);
}

static void close_listeners(struct runtime *rt, bool remove)
{
    close_listener(rt, &rt->api_fd, INHERIT_API, remove);
    close_listener(rt, &rt->admin_fd, INHERIT_ADMIN, remove);
    close_listener(rt, &rt->registry_fd, INHERIT_REGISTRY, remove);
}

void runtime_close_api(struct runtime *rt)
{
    close_listener(rt, &rt->api_fd, INHERIT_API, rt->files == RUNTIME_FILES_OURS);
}

static void remove_files(struct runtime *rt)
{
    static const char *const ours[] = {SCOREBOARD_FILE_NAME, RUNTIME_ADDRESSES_NAME};
    static const char *const staged[] = {SCOREBOARD_FILE_NAME STAGED};
    char path[RUNTIME_PATH_BYTES + 32];

    for (size_t i = 0; i < ARRAY_LEN(ours) && rt->files == RUNTIME_FILES_OURS; i++) {
        path_in(path, rt, ours[i]);
        (void)unlink(path);
    }
    for (size_t i = 0; i < ARRAY_LEN(staged) && rt->files == RUNTIME_FILES_STAGED; i++) {
        path_in(path, rt, staged[i]);
        (void)unlink(path);
    }
    /* The lock's file stays: removing it would let two masters lock two files of one name. */
    if (rt->files == RUNTIME_FILES_OURS && ftruncate(rt->lock_fd, 0) == -1)
        (void)0; /* only text for people */
}

void runtime_close(struct runtime *rt)
{
    remove_files(rt);
    close_listeners(rt, rt->files == RUNTIME_FILES_OURS);
    close_fd(&rt->config_fd);
    for (unsigned i = 0; i < RUNTIME_MAX_WORKERS; i++)
        close_fd(&rt->wake_fds[i]);
    close_fd(&rt->parent_pipe_write);
    close_fd(&rt->parent_pipe_read);
    scoreboard_detach(rt->board);
    rt->board = NULL;
    holders_close(rt->holders);
    rt->holders = NULL;
    rt->files = RUNTIME_FILES_NONE;
    close_fd(&rt->lock_fd);
}

/* ---- two masters, one directory ---- */

int runtime_publish(struct runtime *rt, struct error *err)
{
    char staged[RUNTIME_PATH_BYTES + 32], path[RUNTIME_PATH_BYTES + 32];
    int rc;

    path_in(staged, rt, SCOREBOARD_FILE_NAME STAGED);
    path_in(path, rt, SCOREBOARD_FILE_NAME);
    if (rename(staged, path) == -1)
        return error_sys(err, path);
    rt->files = RUNTIME_FILES_OURS;
    rc = write_addresses(rt, err);
    return rc == 0 ? write_pid(rt, err) : rc;
}

static void remove_second_names(struct runtime *rt)
{
    char path[RUNTIME_PATH_BYTES + 32], second[RUNTIME_PATH_BYTES + 40];

    for (size_t i = 0; i < ARRAY_LEN(backed_up); i++) {
        path_in(path, rt, backed_up[i]);
        (void)snprintf(second, sizeof(second), "%s" BACKED_UP, path);
        (void)unlink(second);
    }
    rt->backed_up = false;
}

int runtime_backup_names(struct runtime *rt, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32], second[RUNTIME_PATH_BYTES + 40];

    /* Second names that a killed master left are of no use. */
    remove_second_names(rt);
    for (size_t i = 0; i < ARRAY_LEN(backed_up); i++) {
        path_in(path, rt, backed_up[i]);
        (void)snprintf(second, sizeof(second), "%s" BACKED_UP, path);
        /* A removed file cannot be put back; the new master makes it anew. */
        if (link(path, second) == -1 && errno != ENOENT) {
            int rc = error_sys(err, second);

            remove_second_names(rt);
            return rc;
        }
    }
    rt->backed_up = true;
    return 0;
}

void runtime_restore_names(struct runtime *rt)
{
    static const char *const staged[] = {SCOREBOARD_FILE_NAME STAGED,
                                         CONTROL_SOCKET_NAME STAGED};
    char path[RUNTIME_PATH_BYTES + 32], second[RUNTIME_PATH_BYTES + 40];
    struct error err;

    if (!rt->backed_up)
        return;
    for (size_t i = 0; i < ARRAY_LEN(backed_up); i++) {
        path_in(path, rt, backed_up[i]);
        (void)snprintf(second, sizeof(second), "%s" BACKED_UP, path);
        if (rename(second, path) == -1) {
            if (errno != ENOENT)
                log_warn("event=file_not_put_back file=%s error=%d", log_quote(path), errno);
            else
                (void)unlink(path); /* there was none: this is the other master's */
        }
        path_in(path, rt, staged[i]);
        (void)unlink(path);
    }
    remove_second_names(rt); /* rename() of two names of one file does nothing */
    if (write_addresses(rt, &err) != 0 || write_pid(rt, &err) != 0)
        log_warn("event=file_not_put_back error=%s", log_quote(err.text));
}

void runtime_hand_over(struct runtime *rt)
{
    remove_second_names(rt);
    rt->files = RUNTIME_FILES_NONE;
    close_listeners(rt, false);
    close_fd(&rt->lock_fd);
}
