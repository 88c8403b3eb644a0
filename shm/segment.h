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

#include "base/attrs.h"
#include "shm/layout.h"

/* The rows of one worker's request table that are free, for the process that owns the table. */
struct row_stack {
    uint32_t *row; /* owned; NULL until first used */
    uint32_t len;
};

/* The file, whose columns grow in number while it is mapped. */
struct segment_file {
    int fd;                   /* owned */
    _Atomic uint32_t columns; /* that it had at the last look; it never loses one */
};

struct scoreboard {
    uint8_t *map;                               /* owned mapping of geometry.total_bytes */
    struct segment_file *file;                  /* owned */
    bool writable;                              /* false: made by scoreboard_attach() */
    uint64_t created_wall_ms;                   /* private copies of the header's */
    struct sb_geometry geometry;                /* checked */
    struct row_stack free_rows[SB_MAX_WORKERS]; /* [w]: touched by worker w alone */
};

/* Can the worker's column be touched?  False: the file does not reach so far. */
MUST_CHECK bool segment_has_column(const struct scoreboard *board, unsigned worker);

static inline struct sb_live *segment_live(const struct scoreboard *board)
{
    return (struct sb_live *)(void *)(board->map + board->geometry.live_offset);
}

static inline struct sb_proc *segment_proc(const struct scoreboard *board, unsigned process)
{
    if (process >= board->geometry.n_workers + 2)
        return NULL;
    return (struct sb_proc *)(void *)(board->map + board->geometry.procs_offset) + process;
}

static inline struct sb_node *segment_node(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_node *)(void *)(board->map + board->geometry.nodes_offset) + node;
}

/* SB_NODE_MODELS_BYTES / 8 words. */
static inline _Atomic uint64_t *segment_models(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.models_offset +
                                        (size_t)node * board->geometry.models_bytes);
}

static inline struct sb_hot *segment_hot(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_hot *)(void *)(board->map + board->geometry.hot_offset) + node;
}

/* Zeroes a word.  A look first, to leave alone the cache lines that other workers are using. */
static inline void segment_zero_word(_Atomic uint64_t *word)
{
    if (atomic_load_explicit(word, memory_order_relaxed) != 0)
        atomic_store_explicit(word, 0, memory_order_release);
}

/* Moves the instant of the last event to now, unless that was less than `apart_us` ago: then
 * it is the same event, and the result is false. */
static inline bool segment_new_event(_Atomic uint64_t *last_mono_us, uint64_t now_mono_us,
                                     uint64_t apart_us)
{
    uint64_t before = atomic_load_explicit(last_mono_us, memory_order_relaxed);

    /* The clock of another worker's loop may be a little ahead of this one's. */
    while (before == 0 || now_mono_us >= before + apart_us) {
        if (atomic_compare_exchange_weak_explicit(last_mono_us, &before, now_mono_us,
                                                  memory_order_relaxed, memory_order_relaxed))
            return true;
    }
    return false;
}

/* The row of gauges of a node: geometry.n_workers words. */
static inline _Atomic uint64_t *segment_gauges(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.gauges_offset) +
           (size_t)node * board->geometry.gauge_stride;
}

/* The row of plans of a node, of the same length. */
static inline _Atomic uint64_t *segment_plans(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.plans_offset) +
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

static inline uint8_t *segment_column(const struct scoreboard *board, unsigned worker)
{
    return board->map + board->geometry.columns_offset +
           (size_t)worker * board->geometry.column_bytes;
}

static inline struct sb_request *segment_request(const struct scoreboard *board,
                                                 unsigned worker, unsigned row)
{
    if (!segment_has_column(board, worker) || row >= board->geometry.requests_per_worker)
        return NULL;
    return (struct sb_request *)(void *)segment_column(board, worker) + row;
}

/* `set` is below geometry.n_prefix_sets / n_session_sets, because the caller made it so. */
static inline struct sb_prefix_set *segment_prefix_set(const struct scoreboard *board,
                                                       uint32_t set)
{
    return (struct sb_prefix_set *)(void *)(board->map + board->geometry.prefix_offset) + set;
}

static inline struct sb_session_set *segment_session_set(const struct scoreboard *board,
                                                         uint32_t set)
{
    return (struct sb_session_set *)(void *)(board->map + board->geometry.sessions_offset) +
           set;
}

static inline struct sb_ring *segment_ring(const struct scoreboard *board, unsigned worker)
{
    if (!segment_has_column(board, worker))
        return NULL;
    return (struct sb_ring *)(void *)(segment_column(board, worker) +
                                      board->geometry.ring_offset);
}

/* SB_BUDGET_MODELS words for retries, and as many for hedges. */
static inline _Atomic uint64_t *segment_budgets(const struct scoreboard *board)
{
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.budgets_offset);
}

static inline struct sb_loads *segment_loads(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_loads *)(void *)(board->map + board->geometry.loads_offset) + node;
}

static inline struct sb_usage *segment_usage(const struct scoreboard *board, unsigned row)
{
    if (row >= SB_USAGE_ROWS)
        return NULL;
    return (struct sb_usage *)(void *)(board->map + board->geometry.usage_offset) + row;
}

static inline struct sb_outcomes *segment_outcomes(const struct scoreboard *board,
                                                   unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_outcomes *)(void *)(board->map + board->geometry.outcomes_offset) + node;
}

/* geometry.n_workers words. */
static inline _Atomic uint64_t *segment_queue_heads(const struct scoreboard *board,
                                                    unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.queue_heads_offset) +
           (size_t)node * board->geometry.head_stride;
}

/* geometry.n_workers words. */
static inline _Atomic uint32_t *segment_queue_totals(const struct scoreboard *board)
{
    return (_Atomic uint32_t *)(void *)(board->map + board->geometry.queue_totals_offset);
}

/* A bit for each of geometry.n_nodes. */
static inline _Atomic uint64_t *segment_offers(const struct scoreboard *board, unsigned worker)
{
    if (worker >= board->geometry.n_workers)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.offers_offset) +
           (size_t)worker * board->geometry.offer_stride;
}

/* SB_SPEEDS_ROWS words. */
static inline _Atomic uint64_t *segment_speed_owners(const struct scoreboard *board)
{
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.speed_owners_offset);
}

/* geometry.n_nodes words. */
static inline _Atomic uint64_t *segment_speeds(const struct scoreboard *board, uint32_t row)
{
    if (row > SB_SPEEDS_ROWS)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.speeds_offset) +
           (size_t)row * board->geometry.n_nodes;
}

/* geometry.n_nodes words, and behind them SB_CLOCK_WORDS. */
static inline _Atomic uint64_t *segment_tries(const struct scoreboard *board, uint32_t row)
{
    if (row > SB_SPEEDS_ROWS)
        return NULL;
    return (_Atomic uint64_t *)(void *)(board->map + board->geometry.tries_offset) +
           (size_t)row * (board->geometry.n_nodes + SB_CLOCK_WORDS);
}

/* SB_MODEL_QUEUES rows. */
static inline struct sb_model_queue *segment_model_queues(const struct scoreboard *board)
{
    return (struct sb_model_queue *)(void *)(board->map + board->geometry.model_queues_offset);
}

/* geometry.n_workers words; `row` is in range. */
static inline _Atomic uint32_t *segment_model_waiting(const struct scoreboard *board,
                                                      uint32_t row)
{
    return (_Atomic uint32_t *)(void *)(board->map + board->geometry.model_waiting_offset) +
           (size_t)row * board->geometry.waiting_stride;
}

static inline struct sb_taught_head *segment_taught_head(const struct scoreboard *board)
{
    return (struct sb_taught_head *)(void *)(board->map + board->geometry.taught_head_offset);
}

static inline struct sb_aliases *segment_aliases(const struct scoreboard *board)
{
    return (struct sb_aliases *)(void *)(board->map + board->geometry.aliases_offset);
}

static inline struct sb_taught *segment_taught(const struct scoreboard *board, unsigned node)
{
    if (node >= board->geometry.n_nodes)
        return NULL;
    return (struct sb_taught *)(void *)(board->map + board->geometry.taught_offset) + node;
}

/* For writers: NULL on a read-only handle. */
static inline struct sb_proc *segment_proc_rw(struct scoreboard *board, unsigned process)
{
    return board->writable ? segment_proc(board, process) : NULL;
}

static inline struct sb_node *segment_node_rw(struct scoreboard *board, unsigned node)
{
    return board->writable ? segment_node(board, node) : NULL;
}

/* The present generation of a node's row. */
static inline uint32_t segment_generation(const struct sb_hot *hot)
{
    return atomic_load_explicit(&hot->generation, memory_order_acquire);
}

/* Worker columns from here on have never been used: nothing to read there. */
static inline uint32_t segment_columns(const struct scoreboard *board)
{
    uint32_t n = atomic_load_explicit(&segment_live(board)->columns, memory_order_seq_cst);

    return n < board->geometry.n_workers ? n : board->geometry.n_workers;
}

/* Before the first use of a worker's column. */
static inline void segment_use_column(struct scoreboard *board, unsigned worker)
{
    _Atomic uint32_t *columns = &segment_live(board)->columns;
    uint32_t now = atomic_load_explicit(columns, memory_order_seq_cst);

    while (now <= worker &&
           !atomic_compare_exchange_weak_explicit(columns, &now, worker + 1,
                                                  memory_order_seq_cst, memory_order_seq_cst))
        ;
}

/* Signals a change to the readers of nodes_epoch(). */
static inline void segment_touch_nodes(struct scoreboard *board)
{
    atomic_fetch_add_explicit(&segment_live(board)->nodes_epoch, 1, memory_order_release);
}

#endif
