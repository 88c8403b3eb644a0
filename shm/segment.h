/*
 * segment.h - the handle of the scoreboard and safe ways into its parts.  Only for shm/.
 *
 * Every way in checks its numbers against the handle's private copy of the geometry, so no
 * value from the segment ever becomes an address.  The *_rw ways also give NULL on a read-only
 * handle.
 */
#ifndef DROVER_SHM_SEGMENT_H
#define DROVER_SHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/layout.h"
#include "shm/scoreboard.h"

/* The rows of one worker's request table that are free, for the process that owns the table. */
struct row_stack {
    uint32_t *row; /* owned; NULL until first used */
    uint32_t len;
};

struct scoreboard {
    uint8_t *map;                               /* owned mapping of geometry.total_bytes */
    bool writable;                              /* false: made by scoreboard_attach() */
    uint64_t created_wall_ms;                   /* private copies of the header's */
    struct sb_geometry geometry;                /* checked */
    struct row_stack free_rows[SB_MAX_WORKERS]; /* [w]: touched by worker w alone */
};

static inline struct sb_live *segment_live(const struct scoreboard *board)
{
    return (struct sb_live *)(void *)(board->map + board->geometry.live_offset);
}

static inline struct sb_proc *segment_proc(const struct scoreboard *board, unsigned slot)
{
    if (slot >= board->geometry.n_workers + 2)
        return NULL;
    return (struct sb_proc *)(void *)(board->map + board->geometry.procs_offset) + slot;
}

static inline struct sb_node *segment_node(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_node *)(void *)(board->map + board->geometry.nodes_offset) + node;
}

/* The row of gauges of a node: geometry.n_workers words. */
static inline _Atomic uint64_t *segment_gauges(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.gauges_offset) +
           (size_t)node * board->geometry.gauge_stride;
}

static inline struct sb_stats *segment_stats(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_stats *)(void *)(board->map + board->geometry.stats_offset) + node;
}

static inline struct sb_table *segment_table(const struct scoreboard *board, unsigned worker)
{
    if (worker >= board->geometry.n_workers)
        return NULL;
    return (struct sb_table *)(void *)(board->map + board->geometry.tables_offset) + worker;
}

static inline struct sb_request *segment_request(const struct scoreboard *board,
                                                 unsigned worker, unsigned row)
{
    if (worker >= board->geometry.n_workers || row >= board->geometry.requests_per_worker)
        return NULL;
    return (struct sb_request *)(void *)(board->map + board->geometry.requests_offset) +
           (size_t)worker * board->geometry.requests_per_worker + row;
}

/* For writers: NULL on a read-only handle. */
static inline struct sb_proc *segment_proc_rw(struct scoreboard *board, unsigned slot)
{
    return board->writable ? segment_proc(board, slot) : NULL;
}

static inline struct sb_node *segment_node_rw(struct scoreboard *board, unsigned node)
{
    return board->writable ? segment_node(board, node) : NULL;
}

/* The present generation of a node slot. */
static inline uint32_t segment_generation(const struct sb_node *row)
{
    return atomic_load_explicit(&row->generation, memory_order_acquire);
}

/* Tells the readers of nodes_epoch() that something changed. */
static inline void segment_touch_nodes(struct scoreboard *board)
{
    atomic_fetch_add_explicit(&segment_live(board)->nodes_epoch, 1, memory_order_release);
}

#endif
