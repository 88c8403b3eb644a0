/*
 * scoreboard.h - the one shared-memory segment that every Drover process maps.
 *
 * The master creates it, as a file on tmpfs, before the first fork(); workers and the health
 * process inherit the mapping; droverctl maps it read-only by path.  Callers hold an opaque
 * handle; the bytes are described in shm/layout.h, which only shm/ and tests/ may include.
 *
 * No process locks or waits: every field has one writing process at a time (or is only ever
 * added to), and a process killed at any instruction leaves nothing held.  Readers bound their
 * tries and tolerate stale values.  No value read from the segment is used as an index or a
 * length before it has been checked against the private copy of the header that the handle
 * keeps.
 *
 * Contents:  procs.h  the processes.  nodes.h  identity and state of the nodes (health writes).
 * gauges.h  requests and prompt tokens in flight (each worker its own cells). stats.h
 * histograms, counters, learned speeds (any worker adds).  requests.h  open requests. prefix.h
 * which node has seen which prompts.  queue_heads.h  the waiting requests.  decisions.h  why a
 * request went where.  budget.h  how much may be retried.  loads.h  model loads under way.
 * usage.h  the usage of each API key.  aliases.h  the configuration's names of models.
 */
#ifndef DROVER_SHM_SCOREBOARD_H
#define DROVER_SHM_SCOREBOARD_H

#include <stdint.h>

#include "base/attrs.h"

struct error;
struct scoreboard; /* opaque: one handle per process */

#define SCOREBOARD_FILE_NAME "scoreboard" /* inside runtime_dir */

struct scoreboard_params {
    uint32_t max_nodes;           /* 1..1024 */
    uint32_t max_workers;         /* 1..128: processes, draining generations included */
    uint32_t requests_per_worker; /* 1..65536: rows of each worker's request table */
    uint32_t prefix_entries;      /* windows the prefix index holds; 0 = PREFIX_DEFAULT_ENTRIES,
                                     at most PREFIX_MAX_ENTRIES; rounded up to whole sets */
    uint32_t workers;             /* that have room in the file at once; 0 = max_workers */
};

/*
 * Creates the segment: writes it under a temporary name with mode 0600 and renames it to
 * `path`, so a reader never sees half a header; an older file there is replaced (its mappings
 * stay valid).  DRV_EINVAL (params), DRV_ESYS (also: no room for it), DRV_ENOMEM.
 */
MUST_CHECK int scoreboard_create(struct scoreboard **out, const char *path,
                                 const struct scoreboard_params *params, struct error *err);

/*
 * Maps an existing segment read-only.
 *   DRV_ENOENT    no such file; usually the master is not running
 *   DRV_EVERSION  written by a Drover with another layout version; the text names both
 *   DRV_ECORRUPT  too short, foreign, or a header that contradicts itself or the file's size
 *   DRV_ESYS      open, fstat or mmap failed
 */
MUST_CHECK int scoreboard_attach(struct scoreboard **out, const char *path, struct error *err);

/*
 * Room in the file.  On a file system that another program has filled, a page that was not
 * taken before kills the process that touches it.  So the parts that all share have their room
 * from the start, and these take the rest before its first use: for the first `workers` worker
 * processes (master, before it forks one), for a node's models (health, before it publishes
 * more of them). DRV_ESYS: there is none, nothing was taken and all goes on with what it has.
 */
MUST_CHECK int scoreboard_room_for_workers(struct scoreboard *board, uint32_t workers,
                                           struct error *err);
MUST_CHECK int scoreboard_room_for_models(struct scoreboard *board, unsigned node,
                                          uint32_t models, struct error *err);

/* Bytes that scoreboard_create() takes; 0 = it would refuse `params`.  Each model of a node is
 * 520 more. */
uint64_t scoreboard_bytes(const struct scoreboard_params *params);

/* Unmaps and frees the handle.  NULL is allowed. */
void scoreboard_detach(struct scoreboard *board);

uint32_t scoreboard_max_nodes(const struct scoreboard *board);
uint32_t scoreboard_max_workers(const struct scoreboard *board);
uint32_t scoreboard_requests_per_worker(const struct scoreboard *board);
uint64_t scoreboard_created_wall_ms(const struct scoreboard *board);

/* W: master.  The configuration generation in force (1 = the one at start) and workers wanted.
 */
void scoreboard_set_config(struct scoreboard *board, uint32_t generation, uint32_t workers);
void scoreboard_config(const struct scoreboard *board, uint32_t *generation, uint32_t *workers);

#endif
