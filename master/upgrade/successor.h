/*
 * successor.h - the new master's side of an upgrade; upgrade.h describes the whole.
 *
 * A process that was not started by a master has none of this to do: its phase is NONE.
 */
#ifndef DROVER_MASTER_UPGRADE_SUCCESSOR_H
#define DROVER_MASTER_UPGRADE_SUCCESSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "master/supervise.h"
#include "master/upgrade/handover.h"

struct error;
struct runtime;

enum successor_phase {
    SUCCESSOR_NONE = 0,
    SUCCESSOR_STARTING,  /* health is on its way */
    SUCCESSOR_GATHERING, /* nodes are */
    SUCCESSOR_FILLING,   /* workers are */
    SUCCESSOR_WAITING,   /* ready, and we have said so */
    SUCCESSOR_SERVING,   /* we are the master */
};

/* The master that it is part of. */
struct successor_ops {
    bool (*drain)(void *data, const char *node);   /* false: not now */
    int (*publish)(void *data, struct error *err); /* the control socket gets its name */
};

struct successor {
    enum successor_phase phase;
    int channel; /* owned; to the master before us, -1 once it is gone */
    struct handover from;
    struct runtime *rt;              /* borrowed */
    struct supervisor *sup;          /* borrowed */
    const struct successor_ops *ops; /* borrowed */
    void *data;                      /* of the operations */
    unsigned workers;       /* to start; an operator may change it before SUCCESSOR_FILLING */
    bool reload, reopen;    /* asked of the master before us; reset by the master when done */
    unsigned reported;      /* nodes UP, as last said */
    uint64_t since_mono_us; /* when the phase began */
};

/* Reads the handover, if there is one.  Owns the two descriptors. */
MUST_CHECK int successor_init(struct successor *succ, int channel, int text_fd,
                              struct error *err);
void successor_finish(struct successor *succ);

/* Is this process the successor of a running master? */
bool successor_is(const struct successor *succ);

/* Gives it the parts it works with, once they exist; `workers` is what the configuration says.
 * No worker starts before the nodes are there. */
void successor_begin(struct successor *succ, struct runtime *rt, struct supervisor *sup,
                     const struct successor_ops *ops, void *data, unsigned workers,
                     uint64_t now_mono_us);

/* Goes on.  DRV_ESYS: the files could not be put into place; we have to end. */
MUST_CHECK int successor_step(struct successor *succ, uint64_t now_mono_us, struct error *err);

/* Is something to be watched for that cannot wake us? */
bool successor_busy(const struct successor *succ);

/* Are its workers still to be started, `workers` of them?  Then that is the number to change.
 */
bool successor_holds(const struct successor *succ);

/* Reports our end to the master before us, if it still waits for us and may go on without. */
void successor_fail(struct successor *succ, const char *why);

/* We were ordered to end.  The master before us goes on if we are not ready; else, even if it
 * does not know that yet, its files are ours and the order is for both. */
void successor_pass_order(struct successor *succ, enum child_order order);

/* Has the master before us ended, or was there none? */
bool successor_alone(const struct successor *succ);

#endif
