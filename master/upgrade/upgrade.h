/*
 * upgrade.h - another master takes over, started from the binary's path as it is now.
 *
 * The old master's side; successor.h is the new one's.  The order of things:
 *
 *   1. The old one starts the binary with its listening sockets, its lock and a channel.  It
 *      goes on serving; the sockets are never closed, so no connection is ever refused.
 *   2. The new one checks its configuration, makes a scoreboard of its own and starts a health
 *      process.  "started": the old health process lets go of the nodes that had joined, which
 *      then join the new one.  The old workers go on with the nodes they know.
 *   3. When the nodes that were UP are UP with the new one, it starts its workers, puts its
 *      files into place and says "ready".
 *   4. The old one lets its workers finish their streams, however long they take, and ends.
 *
 * A health process of the old one that dies after 2 is followed by one that knows the same
 * nodes and takes in no new ones: they all are to be the new one's.
 *
 * Any failure before "ready" (no such file, it ends, it is not ready within 10 s) ends the new
 * one, puts the files back and, if nodes had been let go, starts a fresh health process, which
 * knows them from the old scoreboard.
 */
#ifndef DROVER_MASTER_UPGRADE_UPGRADE_H
#define DROVER_MASTER_UPGRADE_UPGRADE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attrs.h"
#include "master/supervise.h"
#include "master/upgrade/handover.h"

struct runtime;

enum upgrade_phase {
    UPGRADE_NONE = 0,
    UPGRADE_STARTING,  /* the new process runs; nothing of ours has changed */
    UPGRADE_GATHERING, /* nodes are on their way to it */
    UPGRADE_UNDOING,   /* it has failed and is being ended */
    UPGRADE_DONE,      /* it serves; we only finish */
};

struct upgrade {
    const char *const *config_path; /* borrowed; at its address NULL: there is no file */
    char program[PATH_MAX];         /* where we were started from; "" = unknown */
    struct runtime *rt;             /* borrowed */
    struct supervisor *sup;         /* borrowed */
    const struct handover
        *before; /* borrowed: from the master before us; NULL = there was none */
    enum upgrade_phase phase;
    bool wanted;
    uint64_t serial; /* attempts begun */
    pid_t pid;       /* of the new process, until it is reaped; 0 = none */
    int channel;     /* to it, or -1; owned */
    bool released;   /* nodes have been let go */
    uint64_t deadline_mono_us;
    char why[HANDOVER_MESSAGE_BYTES]; /* it failed; "" = no reason yet */
    enum child_order order;           /* its last message: all shall end */
    /* From here on process `pid` is the master: called before it may report so itself. */
    void (*on_hand_over)(void *arg, pid_t pid);
    /* Progress of an attempt: `done` false: `text` is progress.  Else `ok`: it succeeded. */
    void (*on_news)(void *arg, uint64_t serial, bool done, bool ok, const char *text);
    /* The new master was ordered to end, and so shall we; ORDER_FINISH or more. */
    void (*on_order)(void *arg, enum child_order order);
    void *arg;
};

void upgrade_init(struct upgrade *up, const char *const *config_path, struct runtime *rt,
                  struct supervisor *sup);
void upgrade_finish(struct upgrade *up);

/* Wants an upgrade; the attempt that will do it has the returned serial number. */
uint64_t upgrade_want(struct upgrade *up);

/* Between an attempt's begin and its failure, or for good when it succeeded. */
bool upgrade_busy(const struct upgrade *up);

/* Is a failed attempt's process still being ended? */
bool upgrade_undoing(const struct upgrade *up);

/* Has another master been started, of which it is not yet known whether it takes over? */
bool upgrade_undecided(const struct upgrade *up);

/* Passes on a command of the operator: a new master on its way has only the state of its
 * start.  Words of handover.h. */
void upgrade_pass_command(const struct upgrade *up, const char *word, const char *text);

/* Continues the attempt under way; begins one only when `may_begin`. */
void upgrade_step(struct upgrade *up, uint64_t now_mono_us, bool may_begin);

/* A process has been reaped that is no child of the supervisor's. */
void upgrade_reaped(struct upgrade *up, pid_t pid, int status);

/* We are to end: an attempt under way is called off. */
void upgrade_abandon(struct upgrade *up);

#endif
