/* inherit.c - descriptors that were open before we started. */
#include "master/upgrade/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"

#define FIRST_FD 3
#define HIGH_FD  64 /* above everything that is put in place */

static const char *const names[INHERIT_COUNT] = {
    "api", "admin", "registry", "drover-lock", "drover-channel", "drover-handover",
};

const char *inherit_name(enum inherit_what what)
{
    return (size_t)what < ARRAY_LEN(names) ? names[what] : "unknown";
}

void inherit_none(struct inherited *out)
{
    for (size_t i = 0; i < INHERIT_COUNT; i++)
        out->fd[i] = -1;
}

static int find_name(const char *name, size_t n)
{
    for (int i = 0; i < INHERIT_COUNT; i++) {
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return i;
    }
    return -1;
}

static bool is_listener(int fd)
{
    int type = 0, listening = 0;
    socklen_t n = sizeof(int), m = sizeof(int);

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) == 0 && type == SOCK_STREAM &&
           getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &m) == 0 && listening != 0;
}

static int take_one(struct inherited *out, int fd, const char *name, size_t n,
                    struct error *err)
{
    int what = find_name(name, n);
    int flags = fcntl(fd, F_GETFD);

    if (flags == -1)
        return error_set(err, DRV_EINVAL, "LISTEN_FDS: descriptor %d is not open", fd);
    if (what == -1)
        return error_set(err, DRV_EINVAL,
                         "LISTEN_FDNAMES: a socket is called '%.*s'; FileDescriptorName= must "
                         "be api, admin or registry",
                         n < 64 ? (int)n : 64, name);
    if (out->fd[what] != -1)
        return error_set(err, DRV_EINVAL, "LISTEN_FDNAMES: two sockets are called '%s'",
                         names[what]);
    if (what < INHERIT_LISTENERS && !is_listener(fd))
        return error_set(err, DRV_EINVAL,
                         "LISTEN_FDS: '%s' (descriptor %d) is no listening stream socket",
                         names[what], fd);
    if (fcntl(fd, F_SETFD, flags | FD_CLOEXEC) == -1)
        return error_sys(err, "fcntl");
    if (what < INHERIT_LISTENERS || what == INHERIT_CHANNEL) {
        flags = fcntl(fd, F_GETFL);
        if (flags == -1 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) == -1)
            return error_sys(err, "fcntl");
    }
    out->fd[what] = fd;
    return 0;
}

/* The number in an environment variable, or -1. */
static long number_in(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long n;

    if (text == NULL || text[0] < '0' || text[0] > '9')
        return -1;
    errno = 0;
    n = strtol(text, &end, 10);
    return *end == '\0' && errno == 0 ? n : -1;
}

static int take_all(struct inherited *out, struct error *err)
{
    const char *name = getenv("LISTEN_FDNAMES");
    long count = number_in("LISTEN_FDS");

    if (count < 0 || count > INHERIT_COUNT)
        return error_set(err, DRV_EINVAL, "LISTEN_FDS is not a number from 0 to %d",
                         INHERIT_COUNT);
    for (long i = 0; i < count; i++) {
        size_t n;
        int rc;

        if (name == NULL)
            return error_set(err, DRV_EINVAL, "LISTEN_FDNAMES names %ld of %ld sockets", i,
                             count);
        n = strcspn(name, ":");
        rc = take_one(out, FIRST_FD + (int)i, name, n, err);
        if (rc != 0)
            return rc;
        name = name[n] == ':' ? name + n + 1 : NULL;
    }
    return 0;
}

int inherit_take(struct inherited *out, struct error *err)
{
    int rc = 0;

    inherit_none(out);
    /* Variables for another process are those of a parent that did not clean up. */
    if (number_in("LISTEN_PID") == (long)getpid())
        rc = take_all(out, err);
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    return rc;
}

int inherit_claim(struct inherited *in, enum inherit_what what)
{
    int fd = in->fd[what];

    in->fd[what] = -1;
    return fd;
}

void inherit_close(struct inherited *in)
{
    for (size_t i = 0; i < INHERIT_COUNT; i++) {
        if (in->fd[i] != -1)
            (void)close(in->fd[i]);
        in->fd[i] = -1;
    }
}

static int set_number(const char *name, long n)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%ld", n);
    return setenv(name, text, 1);
}

int inherit_pass(struct inherited *fds)
{
    int count = 0;
    char list[128] = "";

    /* First all out of the way, then each to its place: the places may be taken by others. */
    for (size_t i = 0; i < INHERIT_COUNT; i++) {
        if (fds->fd[i] == -1)
            continue;
        fds->fd[i] = fcntl(fds->fd[i], F_DUPFD_CLOEXEC, HIGH_FD);
        if (fds->fd[i] == -1)
            return DRV_ESYS;
        (void)strlcat(list, count == 0 ? "" : ":", sizeof(list));
        (void)strlcat(list, names[i], sizeof(list));
        count++;
    }
    count = 0;
    for (size_t i = 0; i < INHERIT_COUNT; i++) {
        if (fds->fd[i] == -1)
            continue;
        fds->fd[i] = dup2(fds->fd[i], FIRST_FD + count++);
        if (fds->fd[i] == -1)
            return DRV_ESYS;
    }
    if (setenv("LISTEN_FDNAMES", list, 1) == -1 || set_number("LISTEN_FDS", count) == -1 ||
        set_number("LISTEN_PID", (long)getpid()) == -1)
        return DRV_ESYS;
    return 0;
}
