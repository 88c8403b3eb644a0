/*
 * runtime.h - what the master holds for as long as it runs, and its children inherit: the lock,
 * the listening sockets, the scoreboard, the text of the config, the parent pipe.
 *
 * Order matters: the lock is taken before anything is bound or written, so a second master
 * changes nothing.
 *
 * In an upgrade two masters share one directory.  The new one inherits the lock and writes its
 * files under other names until runtime_publish(); the old one keeps second names of its own
 * files (backup_names) until it knows which of the two goes on (restore_names, hand_over).
 */
#ifndef DROVER_MASTER_RUNTIME_H
#define DROVER_MASTER_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

#include "master/upgrade/inherit.h"

struct buf;
struct config;
struct error;
struct handover;
struct privileges;
struct scoreboard;

#define RUNTIME_LOCK_NAME      "drover.lock" /* holds the pid, as text for people */
#define RUNTIME_ADDRESSES_NAME "addresses"   /* JSON: where each listener really is */
#define RUNTIME_MAX_WORKERS    128           /* process slots; two generations of 64 */
#define RUNTIME_PATH_BYTES     128

enum runtime_files {
    RUNTIME_FILES_NONE = 0, /* none of the names in the directory is ours */
    RUNTIME_FILES_STAGED,   /* ours have other names; a master before us has the right ones */
    RUNTIME_FILES_OURS,
};

struct runtime {
    char dir[RUNTIME_PATH_BYTES];
    enum runtime_files files;
    bool backed_up;                    /* our files have second names */
    bool activated[INHERIT_LISTENERS]; /* the socket is a service manager's */
    int lock_fd;     /* the lock lives as long as this descriptor; never in a child */
    int api_fd;      /* listening */
    int admin_fd;    /* listening */
    int registry_fd; /* listening, or -1: not served */
    int config_fd;   /* memfd: the text of the config in force */
    int wake_fds[RUNTIME_MAX_WORKERS]; /* eventfds, one per worker slot; -1 = none */
    int parent_pipe_read;     /* children hold this end; end of file: the master is gone */
    int parent_pipe_write;    /* the master alone holds this end */
    struct holders *holders;  /* owned */
    struct scoreboard *board; /* owned */
};

/*
 * Makes everything, from what `in` has where it fits: a service manager's sockets as they are,
 * a master's if they are bound to what the configuration says.  `from` is that master's
 * handover; NULL: there is none.  On failure nothing is left open, and `err` has one line.
 */
MUST_CHECK int runtime_open(struct runtime *rt, const struct config *config,
                            struct inherited *in,

                            const struct handover *from, struct error *err);

/* A line for each thing that a good configuration will lack on this machine as it is now. */
void runtime_warnings(const struct config *config, struct buf *out);

/* Lets the user of the children read the scoreboard and use the control socket, which is there
 * by now: what droverctl needs.  DRV_ESYS. */
MUST_CHECK int runtime_share(const struct runtime *rt, const struct privileges *run_as,
                             struct error *err);

/* Closes everything and removes the files of a master that has ended in order. */
void runtime_close(struct runtime *rt);

/* Closes the API listener: a new client is refused instead of waiting in a backlog that no
 * process reads. */
void runtime_close_api(struct runtime *rt);

/* STAGED -> OURS: the files get their right names, the lock our pid.  DRV_ESYS. */
MUST_CHECK int runtime_publish(struct runtime *rt, struct error *err);

/* An upgrade begins: our files get second names.  DRV_ESYS. */
MUST_CHECK int runtime_backup_names(struct runtime *rt, struct error *err);
/* It failed, or was not even begun: the files are what they were. */
void runtime_restore_names(struct runtime *rt);
/* It succeeded: lock, sockets and names are the successor's alone. */
void runtime_hand_over(struct runtime *rt);

/* Replaces what health reads at HUP: the text, a NUL, and `name`, the file that the text is of.
 */
MUST_CHECK int runtime_set_text(struct runtime *rt, const struct buf *text, const char *name,
                                struct error *err);

/* "127.0.0.1:41234", after the kernel has chosen; "none" for -1. */
void runtime_address(char *out, size_t cap, int fd);

#endif
