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
#include <unistd.h>

#include "base/buf.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/json.h"
#include "base/net.h"
#include "base/secure/privileges.h"
#include "proto/control.h"
#include "shm/scoreboard.h"

#define LISTEN_BACKLOG 4096 /* the kernel cuts it to net.core.somaxconn */

static void path_in(char out[RUNTIME_PATH_BYTES + 32], const struct runtime *rt,
                    const char *name)
{
    (void)snprintf(out, RUNTIME_PATH_BYTES + 32, "%s/%s", rt->dir, name);
}

/* Whoever can write here can hand us a control socket or a lock of his own: /tmp/drover-UID is
 * a name that others can guess. */
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

/* The lock decides, never the pid in the file: a pid may be stale, or somebody else's by now.
 */
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
    (void)snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(rt->lock_fd, 0) == -1 ||
        write(rt->lock_fd, pid, strlen(pid)) != (ssize_t)strlen(pid))
        return error_wrap(err, error_sys(err, "write"), "%s", path);
    return 0;
}

static int listen_on(int *fd, const char *key, const char *address, struct error *err)
{
    if (address == NULL)
        return 0;
    *fd = net_listen(address, LISTEN_BACKLOG, err);
    if (*fd < 0) {
        int rc = *fd;

        *fd = -1;
        return error_wrap(err, rc, "%s %s", key, address);
    }
    return 0;
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

int runtime_set_text(struct runtime *rt, const struct buf *text, struct error *err)
{
    size_t n = buf_size(text), done = 0;
    ssize_t w;

    if (ftruncate(rt->config_fd, 0) == -1)
        return error_sys(err, "config memfd");
    while (done < n) {
        w = pwrite(rt->config_fd, buf_head(text) + done, n - done, (off_t)done);
        if (w == -1)
            return error_sys(err, "config memfd");
        done += (size_t)w;
    }
    return 0;
}

static int make_board(struct runtime *rt, const struct config *config, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32];
    /* One open request a connection; a few more rows so that the last ones are not special. */
    struct scoreboard_params params = {
        .max_nodes = config->limits.max_nodes,
        .max_workers = RUNTIME_MAX_WORKERS,
        .requests_per_worker = (config->limits.max_connections + 63) / 64 * 64,
        .prefix_entries = config->prefix.entries,
    };

    path_in(path, rt, SCOREBOARD_FILE_NAME);
    return scoreboard_create(&rt->board, path, &params, err);
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

int runtime_open(struct runtime *rt, const struct config *config, const struct buf *text,
                 struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32];
    int life[2];
    int rc;

    *rt = (struct runtime){.lock_fd = -1,
                           .api_fd = -1,
                           .admin_fd = -1,
                           .registry_fd = -1,
                           .config_fd = -1,
                           .life_read = -1,
                           .life_write = -1};
    for (unsigned i = 0; i < RUNTIME_MAX_WORKERS; i++)
        rt->wake_fds[i] = -1;
    (void)strlcpy(rt->dir, config->runtime_dir, sizeof(rt->dir));
    rc = make_dir(rt->dir, err);
    if (rc == 0)
        rc = take_lock(rt, err);
    if (rc != 0)
        goto fail_early;
    /* One of a master that was killed would send people to ports that are gone. */
    path_in(path, rt, RUNTIME_ADDRESSES_NAME);
    (void)unlink(path);
    rc = listen_on(&rt->api_fd, "api.listen", config->api.address, err);
    if (rc == 0)
        rc = listen_on(&rt->admin_fd, "admin.listen", config->admin.address, err);
    if (rc == 0)
        rc = listen_on(&rt->registry_fd, "registry.listen", config->registry.listen.address,
                       err);
    if (rc == 0)
        rc = make_board(rt, config, err);
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
    rt->life_read = life[0];
    rt->life_write = life[1];
    rc = make_wake_fds(rt, err);
    if (rc == 0)
        rc = runtime_set_text(rt, text, err);
    if (rc == 0)
        rc = write_addresses(rt, err);
    if (rc != 0)
        goto fail;
    return 0;

fail:
    runtime_close(rt);
    return rc;

fail_early: /* the files there, if any, are another master's */
    if (rt->lock_fd != -1)
        (void)close(rt->lock_fd);
    rt->lock_fd = -1;
    return rc;
}

int runtime_share(const struct runtime *rt, const struct privileges *run_as, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32];
    int rc;

    /* By its group, and not as its owner, who could cut it short under the master's feet. */
    path_in(path, rt, SCOREBOARD_FILE_NAME);
    rc = privileges_share(run_as, path, 0640, err);
    path_in(path, rt, CONTROL_SOCKET_NAME);
    return rc != 0 ? rc : privileges_share(run_as, path, 0660, err);
}

static void close_fd(int *fd)
{
    if (*fd != -1)
        (void)close(*fd);
    *fd = -1;
}

static void close_listener(int *fd)
{
    struct net_addr addr;
    char text[NET_TEXT_BYTES];

    if (*fd != -1 && net_local(&addr, *fd, NULL) == 0 && addr.sa.ss_family == AF_UNIX) {
        net_format(text, sizeof(text), &addr);
        (void)unlink(text + strlen("unix:"));
    }
    close_fd(fd);
}

void runtime_close(struct runtime *rt)
{
    static const char *const files[] = {SCOREBOARD_FILE_NAME, RUNTIME_ADDRESSES_NAME};
    char path[RUNTIME_PATH_BYTES + 32];

    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        path_in(path, rt, files[i]);
        (void)unlink(path);
    }
    close_listener(&rt->api_fd);
    close_listener(&rt->admin_fd);
    close_listener(&rt->registry_fd);
    close_fd(&rt->config_fd);
    for (unsigned i = 0; i < RUNTIME_MAX_WORKERS; i++)
        close_fd(&rt->wake_fds[i]);
    close_fd(&rt->life_write);
    close_fd(&rt->life_read);
    scoreboard_detach(rt->board);
    rt->board = NULL;
    /* The lock's file stays: removing it would let two masters lock two files of one name. */
    if (rt->lock_fd != -1 && ftruncate(rt->lock_fd, 0) == -1)
        (void)0; /* only text for people */
    close_fd(&rt->lock_fd);
}
