/*
 * procs.h - the process table.
 *
 * Rows 0 .. max_workers-1 belong to workers (a worker's index is also its column of the gauges
 * and its request table); PROCS_HEALTH and PROCS_MASTER name the others.  A row is FREE,
 * STARTING (assigned by the master before fork), RUNNING or DRAINING (set by the child).
 */
#ifndef DROVER_SHM_FACTS_PROCS_H
#define DROVER_SHM_FACTS_PROCS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attrs.h"

struct scoreboard;

enum proc_state {
    PROC_FREE = 0,
    PROC_STARTING = 1,
    PROC_RUNNING = 2,
    PROC_DRAINING = 3, /* takes no new connections; ends when its requests have */
};
const char *proc_state_name(enum proc_state state);

enum proc_counter {
    PROC_CONNECTIONS_TOTAL,
    PROC_CONNECTIONS_OPEN,      /* a level, not a total */
    PROC_REQUESTS_TOTAL,        /* requests whose head was read */
    PROC_REQUESTS_REJECTED,     /* refused here: bad framing, no model, queue full, ... */
    PROC_REQUESTS_UNAUTHORIZED, /* of these, without a valid API key */
    PROC_LOG_LOST,              /* log lines lost because a log could not take them */
    PROC_UPLOADS_REFUSED,       /* of the requests refused, for want of room for their bodies */
    PROC_CONNECTIONS_GAVE_WAY,  /* closed because another client needed one */
    PROC_COUNTERS
};

struct proc_view {
    enum proc_state state;
    pid_t pid;
    uint32_t generation; /* config generation it was started with */
    uint64_t started_mono_us;
    uint64_t heartbeat_mono_us; /* last turn of its loop, at most 100 ms apart when well */
    uint64_t counter[PROC_COUNTERS];
    uint32_t restarts; /* times the master has filled this row after a crash */
};

/* Indices of the two processes that are not workers. */
unsigned procs_health_index(const struct scoreboard *board);
unsigned procs_master_index(const struct scoreboard *board);
unsigned procs_rows(const struct scoreboard *board); /* total number of rows */

/* W: master.  A worker that is FREE, or -1. */
MUST_CHECK int procs_find_free(const struct scoreboard *board);
/* W: master.  FREE -> STARTING, counters zeroed.  `crashed`: this fills the row after a crash.
 */
void procs_assign(struct scoreboard *board, unsigned process, uint32_t generation,
                  bool crashed);
/* W: master, right after fork() in the parent. */
void procs_set_pid(struct scoreboard *board, unsigned process, pid_t pid);
/* W: master, for reap_process(): the row becomes FREE. */
void procs_clear(struct scoreboard *board, unsigned process);

/* W: the child itself. */
void procs_set_state(struct scoreboard *board, unsigned process, enum proc_state state);
void procs_heartbeat(struct scoreboard *board, unsigned process, uint64_t now_mono_us);
void procs_count(struct scoreboard *board, unsigned process, enum proc_counter which,
                 int64_t add);

/* Any reader.  Has the master got a command to end? */
MUST_CHECK bool procs_ending(const struct scoreboard *board);

/* Any reader.  False when `process` is out of range. */
MUST_CHECK bool procs_read(const struct scoreboard *board, unsigned process,
                           struct proc_view *out);

#endif
