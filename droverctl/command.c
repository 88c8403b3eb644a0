/* command.c - the operator's commands, sent to the master over its control socket. */
#include "droverctl/command.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/buf.h"

#define PATIENCE_US (UINT64_C(120) * US_PER_S)

static int connect_to(const char *path, struct error *err)
{
    /* A stopped master does not accept: neither connect() nor send() may wait for ever. */
    const struct timeval patience = {.tv_sec = 10};
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int fd, saved;

    if (strlcpy(sun.sun_path, path, sizeof(sun.sun_path)) >= sizeof(sun.sun_path))
        return error_set(err, DRV_EINVAL, "the path %.150s is too long for a socket", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return error_sys(err, "socket");
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) == 0)
        return fd;
    saved = errno;
    (void)close(fd);
    errno = saved;
    if (saved == ENOENT || saved == ECONNREFUSED || saved == ENOTDIR)
        return error_set(err, DRV_ENOENT, "drover is not running (%.150s: %s)", path,
                         strerror(saved));
    if (saved == EACCES || saved == EPERM)
        return error_set(err, DRV_EPERM, "not allowed: be root or the user that runs drover");
    if (saved == EAGAIN)
        return error_set(err, DRV_EAGAIN, "the master does not answer");
    return error_sys(err, path);
}

static int send_all(int fd, const struct buf *out, struct error *err)
{
    const uint8_t *at = buf_head(out);
    size_t left = buf_size(out);

    while (left != 0) {
        ssize_t n = send(fd, at, left, MSG_NOSIGNAL);

        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1 && (errno == EPIPE || errno == ECONNRESET))
            return error_set(err, DRV_ECLOSED, "the master hung up");
        if (n == -1)
            return error_sys(err, "send");
        at += n;
        left -= (size_t)n;
    }
    return 0;
}

/* Reads the bytes that have come into `in`, waiting until `deadline_mono_us`. */
static int receive_some(int fd, struct buf *in, uint64_t deadline_mono_us, struct error *err)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    uint64_t now_mono_us = clock_mono_us();
    uint8_t *to = buf_reserve(in, 4096);
    ssize_t n;
    int rc;

    if (to == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (now_mono_us >= deadline_mono_us)
        return error_set(err, DRV_EAGAIN, "the master does not answer");
    rc = poll(&ready, 1, (int)((deadline_mono_us - now_mono_us) / US_PER_MS) + 1);
    if (rc == -1 && errno != EINTR)
        return error_sys(err, "poll");
    if (rc <= 0)
        return 0;
    n = recv(fd, to, 4096, 0);
    if (n == -1 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n == 0 || (n == -1 && errno == ECONNRESET))
        return error_set(err, DRV_ECLOSED, "the master hung up without an answer");
    if (n == -1)
        return error_sys(err, "recv");
    in->len += (size_t)n;
    return 0;
}

static uint64_t patience(uint64_t until_mono_us)
{
    uint64_t deadline_mono_us = clock_mono_us() + PATIENCE_US;

    return until_mono_us != 0 && until_mono_us < deadline_mono_us ? until_mono_us
                                                                  : deadline_mono_us;
}

static int receive_reply(struct control_reply *reply, int fd, uint64_t until_mono_us,
                         void (*progress)(const char *text), struct error *err)
{
    uint64_t deadline_mono_us = patience(until_mono_us);
    struct buf in = BUF_INIT;
    int rc;

    for (;;) {
        rc = control_decode_reply(reply, &in, err);
        if (rc == DRV_EAGAIN) {
            rc = receive_some(fd, &in, deadline_mono_us, err);
            if (rc != 0)
                break;
            continue;
        }
        if (rc == DRV_EINVAL || rc == DRV_ETOOBIG)
            rc = DRV_EPROTO;
        if (rc != 0 || reply->done)
            break;
        deadline_mono_us = patience(until_mono_us);
        if (progress != NULL)
            progress(reply->text);
    }
    buf_finish(&in);
    return rc;
}

int command_send(struct control_reply *reply, const char *runtime_dir,
                 const struct control_request *request, uint64_t until_mono_us,
                 void (*progress)(const char *text), struct error *err)
{
    struct buf out = BUF_INIT;
    char path[512];
    int fd, rc;

    *reply = (struct control_reply){0};
    (void)snprintf(path, sizeof(path), "%s/%s", runtime_dir, CONTROL_SOCKET_NAME);
    fd = connect_to(path, err);
    if (fd < 0)
        return fd;
    control_encode_request(&out, request);
    if (out.failed)
        rc = error_set(err, DRV_ENOMEM, "out of memory");
    else
        rc = send_all(fd, &out, err);
    /* A master that refuses us may hang up first and still have said why. */
    if (rc == 0 || rc == DRV_ECLOSED)
        rc = receive_reply(reply, fd, until_mono_us, progress, err);
    buf_finish(&out);
    (void)close(fd);
    return rc;
}
