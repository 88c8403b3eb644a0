/* console.c - the operator's socket: droverctl's requests, one a connection. */
#include "master/console.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/log.h"
#include "master/runtime.h"
#include "master/supervise.h"
#include "proto/control.h"

#define READ_WITHIN_US    (5 * US_PER_S)
#define COMMAND_WITHIN_US (2 * US_PER_S)
#define RELOAD_WITHIN_US  (60 * US_PER_S) /* it may have to wait for process slots */
#define SCALE_WITHIN_US   (10 * US_PER_S)
#define SOON_MS           20              /* between two looks at what cannot wake us */
#define UPGRADE_WITHIN_US (60 * US_PER_S) /* a reload may have to end first */
#define WRITE_WITHIN_US   (5 * US_PER_S)
#define READ_CHUNK        4096

static void end_session(struct session *session)
{
    if (session->fd != -1)
        (void)close(session->fd);
    buf_finish(&session->in);
    buf_finish(&session->out);
    *session = (struct session){.fd = -1};
}

/* Sends what it can.  True: nothing is left to send, or the peer is gone. */
static bool flush_out(struct session *session)
{
    ssize_t n;

    while (buf_size(&session->out) != 0) {
        n = send(session->fd, buf_head(&session->out), buf_size(&session->out), MSG_NOSIGNAL);
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return errno != EAGAIN;
        buf_consume(&session->out, (size_t)n);
    }
    return true;
}

static void write_out(struct session *session)
{
    if (flush_out(session))
        end_session(session);
}

/* The last thing a session says is in `out`. */
static void begin_reply(struct session *session)
{
    session->phase = SESSION_REPLYING;
    session->deadline_mono_us = clock_mono_us() + WRITE_WITHIN_US;
    if (session->out.failed)
        end_session(session);
    else
        write_out(session);
}

static void answer(struct session *session, bool ok, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void answer(struct session *session, bool ok, const char *fmt, ...)
{
    struct control_reply reply = {.done = true, .ok = ok};
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(reply.text, sizeof(reply.text), fmt, ap);
    va_end(ap);
    control_encode_reply(&session->out, &reply);
    begin_reply(session);
}

/* ---- commands to the health process ---- */

/* Sends one framed request as it is.  `id`: of the session that waits for the reply; 0:
 * none. */
static bool send_command(struct console *console, uint64_t id, const uint8_t *frame, size_t n)
{
    int fd = console->sup->command_fd;

    if (fd == -1 || console->commands_count >= CONSOLE_COMMANDS ||
        send(fd, frame, n, MSG_NOSIGNAL) == -1)
        return false;
    console->commands[console->commands_count++] = id;
    return true;
}

bool console_drain(struct console *console, const char *node)
{
    struct control_request request = {.op = CONTROL_DRAIN};
    struct buf frame = BUF_INIT;
    bool sent;

    (void)strlcpy(request.node, node, sizeof(request.node));
    control_encode_request(&frame, &request);
    sent = !frame.failed && send_command(console, 0, buf_head(&frame), buf_size(&frame));
    buf_finish(&frame);
    return sent;
}

static void pass_command(struct console *console, struct session *session, const uint8_t *frame,
                         size_t n)
{
    if (n > CONTROL_WISH_BYTES) {
        answer(session, false, "the request is too long");
        return;
    }
    if (!send_command(console, session->id, frame, n)) {
        answer(session, false, "the health process cannot be reached; try again");
        return;
    }
    session->phase = SESSION_COMMANDING;
    session->deadline_mono_us = clock_mono_us() + COMMAND_WITHIN_US;
}

static struct session *session_by_id(struct console *console, uint64_t id)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        if (console->sessions[i].phase != SESSION_FREE && console->sessions[i].id == id)
            return &console->sessions[i];
    }
    return NULL;
}

/* One datagram of health's: the reply to the oldest request without one, passed on as it is. */
static void take_command_reply(struct console *console, const uint8_t *bytes, size_t n)
{
    struct session *session;

    if (console->commands_count == 0)
        return;
    session = session_by_id(console, console->commands[0]);
    console->commands_count--;
    memmove(&console->commands[0], &console->commands[1],
            console->commands_count * sizeof(console->commands[0]));
    if (session == NULL || session->phase != SESSION_COMMANDING)
        return;
    if (!control_is_frame(bytes, n)) {
        answer(session, false, "the health process answered nonsense");
        return;
    }
    buf_add(&session->out, bytes, n);
    begin_reply(session);
}

static void read_command_replies(struct console *console)
{
    uint8_t bytes[CONTROL_WISH_BYTES];
    ssize_t n;

    while (console->sup->command_fd != -1) {
        n = recv(console->sup->command_fd, bytes, sizeof(bytes), 0);
        if (n < 0)
            return;
        take_command_reply(console, bytes, (size_t)n);
    }
}

void console_health_lost(struct console *console)
{
    console->commands_count = 0;
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        if (console->sessions[i].phase == SESSION_COMMANDING)
            answer(&console->sessions[i], false,
                   "the health process ended before it answered; try again");
    }
}

/* ---- requests ---- */

void console_reload_done(struct console *console, uint64_t serial, const char *error)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        struct session *session = &console->sessions[i];

        if (session->phase != SESSION_RELOADING || session->serial > serial)
            continue;
        if (error != NULL)
            answer(session, false, "%s", error);
        else
            answer(session, true, "reloaded: generation %u, %u workers",
                   console->sup->generation, supervise_workers(console->sup));
    }
}

/* A progress message, before the reply. */
static void add_progress(struct session *session, const char *text)
{
    struct control_reply reply = {0};

    (void)strlcpy(reply.text, text, sizeof(reply.text));
    control_encode_reply(&session->out, &reply);
    if (session->out.failed)
        end_session(session);
    else
        flush_out(session);
}

void console_upgrade_news(struct console *console, uint64_t serial, bool done, bool ok,
                          const char *text)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        struct session *session = &console->sessions[i];

        if (session->phase != SESSION_UPGRADING || session->serial > serial)
            continue;
        if (done)
            answer(session, ok, "%s", text);
        else
            add_progress(session, text);
    }
}

/* False: the session has its answer. */
static bool may_change(const struct console *console, struct session *session)
{
    if (!console->ops->upgrading(console->data))
        return true;
    answer(session, false, "an upgrade is under way; try again");
    return false;
}

static bool is_serving(const struct console *console, struct session *session)
{
    if (!console->ops->ending(console->data))
        return true;
    answer(session, false, "drover is stopping");
    return false;
}

static void scale(struct console *console, struct session *session, uint32_t workers)
{
    struct error err;

    if (!is_serving(console, session) || !may_change(console, session))
        return;
    if (workers < 1 || workers > SUPERVISE_MAX_WORKERS) {
        answer(session, false, "workers must be from 1 to %d", SUPERVISE_MAX_WORKERS);
        return;
    }
    if (console->ops->scale(console->data, workers, &session->before, &err) != 0) {
        answer(session, false, "%s", err.text);
        return;
    }
    session->phase = SESSION_SCALING;
    session->deadline_mono_us = clock_mono_us() + SCALE_WITHIN_US;
    session->goal = workers;
}

/* `frame` is what the request was read from, `n` bytes. */
static void handle(struct console *console, struct session *session,
                   const struct control_request *request, const uint8_t *frame, size_t n)
{
    log_info("event=operator op=%s node=%s workers=%u quick=%d", control_op_name(request->op),
             log_quote(request->node), request->workers, request->quick ? 1 : 0);
    switch (request->op) {
    case CONTROL_NONE:
        answer(session, false, "unknown request");
        break;
    case CONTROL_DRAIN:
    case CONTROL_UNDRAIN:
        if (may_change(console, session))
            pass_command(console, session, frame, n);
        break;
    case CONTROL_RELOAD:
        session->phase = SESSION_RELOADING;
        session->deadline_mono_us = clock_mono_us() + RELOAD_WITHIN_US;
        session->serial = console->ops->reload(console->data);
        break;
    case CONTROL_UPGRADE:
        if (!is_serving(console, session))
            break;
        session->phase = SESSION_UPGRADING;
        session->deadline_mono_us = clock_mono_us() + UPGRADE_WITHIN_US;
        session->serial = console->ops->upgrade(console->data);
        break;
    case CONTROL_SCALE:
        scale(console, session, request->workers);
        break;
    case CONTROL_STOP:
        session->phase = SESSION_STOPPING;
        session->deadline_mono_us = UINT64_MAX;
        session->reported = UINT_MAX;
        console->ops->end(console->data, request->quick);
        break;
    }
}

static void read_request(struct console *console, struct session *session)
{
    struct control_request request;
    const uint8_t *frame;
    struct error err;
    size_t before;
    uint8_t *to;
    ssize_t n;
    int rc;

    to = buf_reserve(&session->in, READ_CHUNK);
    if (to == NULL) {
        end_session(session);
        return;
    }
    n = recv(session->fd, to, READ_CHUNK, 0);
    if (n == -1 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        end_session(session);
        return;
    }
    session->in.len += (size_t)n;
    frame = buf_head(&session->in);
    before = buf_size(&session->in);
    rc = control_decode_request(&request, &session->in, &err);
    if (rc == 0) /* consumed, but still where it was */
        handle(console, session, &request, frame, before - buf_size(&session->in));
    else if (rc != DRV_EAGAIN)
        answer(session, false, "bad request: %s", err.text);
}

/* Allowed are root, our own user and the configuration's `user`. */
static bool allowed(const struct console *console, int fd)
{
    struct ucred peer;
    socklen_t n = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 &&
           (peer.uid == 0 || peer.uid == geteuid() ||
            console->ops->allows(console->data, peer.uid));
}

static struct session *free_session(struct console *console)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        if (console->sessions[i].phase == SESSION_FREE)
            return &console->sessions[i];
    }
    return NULL;
}

static void accept_sessions(struct console *console, uint64_t now_mono_us)
{
    struct session *session;
    int fd;

    while ((session = free_session(console)) != NULL) {
        fd = accept4(console->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd == -1) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                console->deaf_until_mono_us = now_mono_us + US_PER_S;
            return;
        }
        *session = (struct session){.fd = fd,
                                    .phase = SESSION_READING,
                                    .id = ++console->last_id,
                                    .deadline_mono_us = now_mono_us + READ_WITHIN_US};
        if (!allowed(console, fd))
            answer(session, false, "only root and the user that runs drover may do this");
    }
}

/* ---- the socket ---- */

static void socket_path(char out[RUNTIME_PATH_BYTES + 32], const struct console *console,
                        bool staged)
{
    (void)snprintf(out, RUNTIME_PATH_BYTES + 32, "%s/" CONTROL_SOCKET_NAME "%s", console->dir,
                   staged ? ".next" : "");
}

int console_open(struct console *console, const struct console_ops *ops, void *data,
                 const struct supervisor *sup, const char *dir, bool staged, struct error *err)
{
    char path[RUNTIME_PATH_BYTES + 32], address[RUNTIME_PATH_BYTES + 40];
    mode_t old;

    *console = (struct console){
        .ops = ops, .data = data, .sup = sup, .dir = dir, .listen_fd = -1, .staged = staged};
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++)
        console->sessions[i].fd = -1;
    socket_path(path, console, staged);
    (void)snprintf(address, sizeof(address), "unix:%s", path);
    old = umask(0177); /* no other user may connect, not even between bind and chmod */
    console->listen_fd = net_listen(address, CONSOLE_SESSIONS, err);
    (void)umask(old);
    if (console->listen_fd < 0) {
        int rc = console->listen_fd;

        console->listen_fd = -1;
        return error_wrap(err, rc, "control socket %s", address);
    }
    return 0;
}

int console_publish(struct console *console, struct error *err)
{
    char from[RUNTIME_PATH_BYTES + 32], to[RUNTIME_PATH_BYTES + 32];

    socket_path(from, console, true);
    socket_path(to, console, false);
    if (rename(from, to) == -1)
        return error_sys(err, to);
    console->staged = false;
    return 0;
}

void console_hand_over(struct console *console)
{
    if (console->listen_fd != -1)
        (void)close(console->listen_fd);
    console->listen_fd = -1;
}

void console_leave(struct console *console)
{
    if (console->listen_fd != -1)
        (void)close(console->listen_fd);
    console->listen_fd = -1;
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++)
        end_session(&console->sessions[i]);
}

void console_close(struct console *console)
{
    char path[RUNTIME_PATH_BYTES + 32];

    if (console->listen_fd != -1) {
        socket_path(path, console, console->staged);
        (void)unlink(path);
    }
    console_leave(console);
}

size_t console_watch(const struct console *console, struct pollfd *fds, uint64_t now_mono_us)
{
    size_t n = 0;
    bool room = false;

    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        const struct session *session = &console->sessions[i];

        room = room || session->phase == SESSION_FREE;
        if (session->phase == SESSION_FREE)
            continue;
        /* A session that waits for an outcome is watched for its end only. */
        fds[n++] = (struct pollfd){
            .fd = session->fd,
            .events = session->phase == SESSION_READING    ? POLLIN
                      : session->phase == SESSION_REPLYING ? POLLOUT
                                                           : 0,
        };
    }
    if (console->listen_fd != -1 && room && now_mono_us >= console->deaf_until_mono_us)
        fds[n++] = (struct pollfd){.fd = console->listen_fd, .events = POLLIN};
    if (console->sup->command_fd != -1)
        fds[n++] = (struct pollfd){.fd = console->sup->command_fd, .events = POLLIN};
    return n;
}

static void step_session(struct console *console, struct session *session)
{
    switch (session->phase) {
    case SESSION_FREE:
        break;
    case SESSION_READING:
        read_request(console, session);
        break;
    case SESSION_COMMANDING:
    case SESSION_RELOADING:
    case SESSION_UPGRADING:
    case SESSION_SCALING:
    case SESSION_STOPPING:
        end_session(session); /* it hung up; what it asked for goes on */
        break;
    case SESSION_REPLYING:
        write_out(session);
        break;
    }
}

static void step_scaling(struct console *console, struct session *session)
{
    const struct supervisor *sup = console->sup;
    unsigned wanted = supervise_workers(sup);

    if (wanted != session->goal)
        answer(session, false, "another order came meanwhile: %u workers", wanted);
    else if (supervise_serving(sup) == wanted)
        answer(session, true, "workers: %u -> %u", session->before, wanted);
}

static void step_stopping(struct console *console, struct session *session)
{
    unsigned workers, connections = supervise_connections(console->sup, &workers);
    char text[96];

    if (connections == session->reported || !flush_out(session))
        return; /* a client that does not read gets the latest figure, not all of them */
    session->reported = connections;
    (void)snprintf(text, sizeof(text), "waiting for %u workers with %u connections", workers,
                   connections);
    add_progress(session, text);
}

static void step_waiting(struct console *console)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        if (console->sessions[i].phase == SESSION_SCALING)
            step_scaling(console, &console->sessions[i]);
        else if (console->sessions[i].phase == SESSION_STOPPING)
            step_stopping(console, &console->sessions[i]);
    }
}

void console_stopped(struct console *console)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        if (console->sessions[i].phase == SESSION_STOPPING)
            answer(&console->sessions[i], true, "drover has ended");
    }
}

static void check_deadlines(struct console *console, uint64_t now_mono_us)
{
    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        struct session *session = &console->sessions[i];

        if (session->phase == SESSION_FREE || now_mono_us < session->deadline_mono_us)
            continue;
        switch (session->phase) {
        case SESSION_FREE:
            break;
        case SESSION_READING:
        case SESSION_REPLYING:
            end_session(session);
            break;
        case SESSION_COMMANDING:
            answer(session, false, "the health process did not answer in time");
            break;
        case SESSION_RELOADING:
            answer(session, false, "the reload is still waiting for earlier workers to finish");
            break;
        case SESSION_SCALING:
            answer(session, false, "%u of %u workers serve after %d s%s%s",
                   supervise_serving(console->sup), session->goal,
                   (int)(SCALE_WITHIN_US / US_PER_S),
                   console->sup->why_not_served[0] != '\0' ? ": " : "",
                   console->sup->why_not_served);
            break;
        case SESSION_STOPPING:
            break;
        case SESSION_UPGRADING:
            answer(session, false, "the upgrade is still waiting for a reload to end");
            break;
        }
    }
}

void console_step(struct console *console, const struct pollfd *fds, size_t n,
                  uint64_t now_mono_us)
{
    bool knocked = false;

    for (size_t i = 0; i < n; i++) {
        if (fds[i].revents == 0)
            continue;
        if (fds[i].fd == console->listen_fd) {
            knocked = true;
            continue;
        }
        if (fds[i].fd == console->sup->command_fd) {
            read_command_replies(console);
            continue;
        }
        for (size_t s = 0; s < CONSOLE_SESSIONS; s++) {
            if (console->sessions[s].phase != SESSION_FREE &&
                console->sessions[s].fd == fds[i].fd) {
                step_session(console, &console->sessions[s]);
                break;
            }
        }
    }
    /* Last, so that no new descriptor has the number of one that was just closed. */
    if (knocked)
        accept_sessions(console, now_mono_us);
    step_waiting(console);
    check_deadlines(console, now_mono_us);
}

int console_wait_ms(const struct console *console, uint64_t now_mono_us, int max_ms)
{
    uint64_t due_mono_us = now_mono_us + (uint64_t)max_ms * US_PER_MS;

    for (size_t i = 0; i < CONSOLE_SESSIONS; i++) {
        const struct session *session = &console->sessions[i];

        if (session->phase != SESSION_FREE && session->deadline_mono_us < due_mono_us)
            due_mono_us = session->deadline_mono_us;
        if (session->phase == SESSION_SCALING && max_ms > SOON_MS &&
            due_mono_us > now_mono_us + SOON_MS * US_PER_MS)
            due_mono_us = now_mono_us + SOON_MS * US_PER_MS;
    }
    if (due_mono_us <= now_mono_us)
        return 0;
    return (int)((due_mono_us - now_mono_us + US_PER_MS - 1) / US_PER_MS);
}
