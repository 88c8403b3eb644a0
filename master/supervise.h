/*
 * supervise.h - the children: which run, which are to run, which are to end, and by when.
 *
 * The only code that forks, reaps and assigns rows of the process table.
 *
 * A seat is a place that shall be filled: one for each worker wanted, one for the health
 * process.  When the child in a seat ends, the seat is filled again, after a back-off.  A child
 * that was ordered to end has no seat any more; it is only waited for.  A reload fills the
 * seats anew: see switch.h.
 */
#ifndef DROVER_MASTER_SUPERVISE_H
#define DROVER_MASTER_SUPERVISE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attrs.h"
#include "base/backoff.h"
#include "health/health.h"
#include "master/pulse.h"
#include "master/runtime.h"

struct config;
struct error;

#define SUPERVISE_ERROR_BYTES 256
#define SUPERVISE_MAX_WORKERS 64 /* seats; the process table has room for two generations */

enum child_kind {
    CHILD_NONE = 0, /* the row is free */
    CHILD_WORKER,
    CHILD_HEALTH,
};

/* The last order of a child, or of all of them.  Only ever grows. */
enum child_order {
    ORDER_SERVE = 0,
    ORDER_FINISH, /* QUIT: finish open streams, however long they take */
    ORDER_STOP,   /* TERM: finish within the grace, then KILL */
    ORDER_DIE,    /* KILL */
};
const char *child_order_name(enum child_order order);

struct child {
    enum child_kind kind;
    enum child_order order;
    pid_t pid;
    unsigned process; /* in the process table */
    uint32_t generation;
    uint64_t started_mono_us;
    uint64_t kill_at_mono_us; /* 0 = never */
    bool stalled;             /* its heartbeat is overdue: ABRT was sent */
};

struct seat {
    struct child *child;    /* NULL: to be filled at start_at_mono_us */
    struct child *previous; /* of the last generation; NULL unless a reload is under way */
    struct backoff backoff;
    uint64_t start_at_mono_us;
    bool crashed; /* the next child replaces one that ended on its own */
};

struct supervisor {
    struct runtime *rt;          /* borrowed */
    const struct config *config; /* borrowed; what new children get */
    uint32_t generation;         /* of the config above */
    uint32_t last_generation;    /* ever given out; a failed reload uses one up */
    int command_fd; /* our end of the present health process's socket, or -1; owned */
    struct child children[RUNTIME_MAX_WORKERS + 1];
    struct seat seats[SUPERVISE_MAX_WORKERS];
    unsigned seats_count;
    struct seat health;
    struct crash_meter crashes;
    enum child_order order;    /* of the whole: > ORDER_SERVE: nothing is started any more */
    bool switching;            /* between switch_begin() and commit or rollback */
    bool switch_failed;        /* a new child ended before it served */
    unsigned switch_target;    /* workers of the new generation */
    unsigned switch_old_count; /* seats of the old one */
    uint32_t switch_from;      /* generation of the old one */
    const struct config *switch_config; /* borrowed: of the old one */
    uint64_t switch_mono_us;            /* when the switch began */
    bool nodes_left;   /* the health process keeps the nodes it knows, and no new one joins */
    bool held;         /* no worker is started, and health leaves the admin listener alone */
    bool proven;       /* every first child has served once: crashes are now worked around */
    bool start_failed; /* before that, a child gave up with an error */
    struct pulse pulse;
    /* The last error line of each child, by its place in the table, in memory shared with it;
     * NULL: there is none.  Owned. */
    char (*errors)[SUPERVISE_ERROR_BYTES];
    char
        why_not_served[SUPERVISE_ERROR_BYTES]; /* of the last one that ended before it served */
    void (*on_health_lost)(void *arg); /* its replies still owed will never come; may be NULL */
    /* A process was reaped that is no child of the table's; may be NULL. */
    void (*on_stranger)(void *arg, pid_t pid, int status);
    void (*in_child)(void *arg); /* closes the master's descriptors; may be NULL */
    void *arg;
};

/* Starts nothing yet.  `config` and `rt` outlive the supervisor. */
void supervise_init(struct supervisor *sup, struct runtime *rt, const struct config *config);
void supervise_finish(struct supervisor *sup); /* when no child is left */

/* Workers wanted, those of a reload under way if there is one. */
unsigned supervise_workers(const struct supervisor *sup);

/* The number of those that serve; during a reload, of the new ones. */
unsigned supervise_serving(const struct supervisor *sup);

/* Connections of clients that all workers have open, finishing ones too; *workers gets how many
 * those are. */
unsigned supervise_connections(const struct supervisor *sup, unsigned *workers);

/* Wants `count` workers, 0 .. SUPERVISE_MAX_WORKERS.  The newest are the first to go. */
void supervise_set_workers(struct supervisor *sup, unsigned count);

/* In an upgrade: while `held`, the health process runs alone. */
void supervise_hold_workers(struct supervisor *sup, bool held);

/* Does the health process do its work? */
MUST_CHECK bool supervise_health_serves(const struct supervisor *sup);

void supervise_order_health(const struct supervisor *sup, enum health_order order);

/* In an upgrade: nodes that joined shall join another master's health process, and none comes
 * back to ours, not even to one that takes the place of one that dies. */
void supervise_leave_nodes(struct supervisor *sup);
/* ... after all not: another health process takes the seat, and the nodes. */
void supervise_take_nodes(struct supervisor *sup);

/* Reaps every child that has ended. */
void supervise_reap(struct supervisor *sup);

/* Starts what is due, kills what is overdue, looks at heartbeats once a second: a child that
 * has not turned its loop for PULSE_LIMIT_US is ended and so replaced. */
void supervise_tick(struct supervisor *sup, uint64_t now_mono_us);

/* Do the health process and at least one worker, if any is wanted, turn their loops? */
bool supervise_turns(const struct supervisor *sup, uint64_t now_mono_us);

/* Milliseconds until something is due; at most max_ms. */
int supervise_wait_ms(const struct supervisor *sup, uint64_t now_mono_us, int max_ms);

/* Would the process table hold `count` more workers?  If not, those of earlier generations that
 * are still finishing get the grace, and then no more. */
MUST_CHECK bool supervise_make_room(struct supervisor *sup, unsigned count);

/* Takes the room in the scoreboard for `count` more workers than there are.  DRV_ESYS: its file
 * system is full, say, and nothing has changed. */
MUST_CHECK int supervise_take_room(const struct supervisor *sup, unsigned count,
                                   struct error *err);
/* The same for as many as it takes to have `wanted` of them. */
MUST_CHECK int supervise_room_to_scale(const struct supervisor *sup, unsigned wanted,
                                       struct error *err);

/* Ends everything: workers first, then health.  A lower order than before is ignored. */
void supervise_end(struct supervisor *sup, enum child_order order);

/* Sends a signal to every child. */
void supervise_signal(const struct supervisor *sup, int signal_number);

unsigned supervise_alive(const struct supervisor *sup);

#endif
