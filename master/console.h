/*
 * console.h - the operator's socket: droverctl's requests, one a connection.
 *
 * Bounded in every direction: a few sessions, each with a deadline, one small message each way.
 * Nothing here waits: a slow command (a reload, a command to the health process) leaves its
 * session open until the outcome is known.
 */
#ifndef DROVER_MASTER_CONSOLE_H
#define DROVER_MASTER_CONSOLE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attrs.h"
#include "base/text/buf.h"

struct error;
struct supervisor;

#define CONSOLE_SESSIONS 16
#define CONSOLE_COMMANDS 64
#define CONSOLE_FDS      (CONSOLE_SESSIONS + 2)

enum session_phase {
    SESSION_FREE = 0,
    SESSION_READING,    /* the request is coming in */
    SESSION_COMMANDING, /* health has been asked */
    SESSION_RELOADING,
    SESSION_UPGRADING,
    SESSION_SCALING,  /* until the workers wanted serve */
    SESSION_STOPPING, /* until all is over */
    SESSION_REPLYING, /* the reply is going out; then the end */
};

struct session {
    enum session_phase phase;
    int fd; /* -1 iff SESSION_FREE */
    uint64_t deadline_mono_us;
    uint64_t serial;       /* of the reload or upgrade it waits for */
    unsigned before, goal; /* workers, of a scaling */
    unsigned reported;     /* connections still open, as last said to one that stops */
    uint64_t id;           /* never used twice */
    struct buf in, out;    /* owned */
};

/* The commands of the operator, as the master obeys them. */
struct console_ops {
    bool (*ending)(void *data);
    /* Is an upgrade on the way, so that another master would miss a change? */
    bool (*upgrading)(void *data);
    /* Both return the serial of the attempt that will report. */
    uint64_t (*reload)(void *data);
    uint64_t (*upgrade)(void *data);
    /* *before gets how many were wanted before. */
    int (*scale)(void *data, unsigned count, unsigned *before, struct error *err);
    void (*end)(void *data, bool quick);
    /* May this user ask? */
    bool (*allows)(void *data, uid_t uid);
};

struct console {
    const struct console_ops *ops; /* borrowed */
    void *data;                    /* of the operations */
    const struct supervisor *sup;  /* borrowed: to look at */
    const char *dir;               /* borrowed: the runtime directory */
    int listen_fd;                 /* or -1 */
    bool staged;                   /* it has another name, until console_publish() */
    uint64_t deaf_until_mono_us;   /* no descriptors left: do not accept until then */
    uint64_t last_id;
    struct session sessions[CONSOLE_SESSIONS];
    /* Replies that health owes, oldest first: the session's id.  One that gave up stays in the
     * queue, so that its late reply is not taken for the next one's. */
    uint64_t commands[CONSOLE_COMMANDS];
    unsigned commands_count;
};

/* Opens the socket in the runtime directory, for our own user and root only; `staged`: under
 * another name, because a master before us has the right one. */
MUST_CHECK int console_open(struct console *console, const struct console_ops *ops, void *data,
                            const struct supervisor *sup, const char *dir, bool staged,
                            struct error *err);
void console_close(struct console *console);

/* After `staged`: the right name.  DRV_ESYS. */
MUST_CHECK int console_publish(struct console *console, struct error *err);
/* A successor has the name now: no session is accepted, open ones are finished. */
void console_hand_over(struct console *console);

/* Has the health process drain a node, for the master itself; false: not now. */
MUST_CHECK bool console_drain(struct console *console, const char *node);

/* Closes the descriptors, in a child. */
void console_leave(struct console *console);

/* Fills at most CONSOLE_FDS entries; returns how many. */
size_t console_watch(const struct console *console, struct pollfd *fds, uint64_t now_mono_us);
/* Handles what poll() reported for them, and deadlines. */
void console_step(struct console *console, const struct pollfd *fds, size_t n,
                  uint64_t now_mono_us);
/* Time until the next deadline, at most max_ms. */
int console_wait_ms(const struct console *console, uint64_t now_mono_us, int max_ms);

/* A reload attempt has ended; `error` NULL: well. */
void console_reload_done(struct console *console, uint64_t serial, const char *error);
/* Progress of an upgrade; `done`: it has ended, well or not. */
void console_upgrade_news(struct console *console, uint64_t serial, bool done, bool ok,
                          const char *text);
/* All has ended: sessions that wait for that get their reply. */
void console_stopped(struct console *console);
/* The health process is gone, and its replies with it. */
void console_health_lost(struct console *console);

#endif
