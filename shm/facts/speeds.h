/*
 * speeds.h - the nodes' learned speeds, and when each was last tried.
 *
 * A speed belongs to a node, a model and a class of operation.  Model and class together have a
 * row, with a word per node: a decision finds the row once and then reads 8 bytes a node.  Rows
 * are given first come, first served, and never taken back; when all are given, the rest of the
 * models share one.  How a speed changes is policy/route/estimate.h's business.
 *
 * The last try belongs to the same three, or a node that is busy with one model would never be
 * tried again with another.  It is an instant by a clock of the row, which soon stands while
 * no request comes at all: no node is passed over then.  The other instants lie on
 * the node's hot line (struct node_hot has them for reading).  All are shared, because 64
 * workers would otherwise try a node, and blame it, 64 times.
 */
#ifndef DROVER_SHM_FACTS_SPEEDS_H
#define DROVER_SHM_FACTS_SPEEDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/attrs.h"
#include "base/kinds.h"

struct scoreboard;

#define SPEEDS_ROWS   512u
#define SPEEDS_NO_ROW UINT32_MAX
/* The last bit of the exponent, and the sign, of each of two floats in a word. */
#define SPEEDS_EXPONENT UINT64_C(0x0080000000800000)
#define SPEEDS_SIGN     UINT64_C(0x8000000080000000)

/* Two averages that change together; both 0 = no sample. */
struct speed {
    float tokens;
    float seconds;
};

/* The row of a model and class, or SPEEDS_NO_ROW if nothing was learned there. */
uint32_t speeds_find(const struct scoreboard *board, uint64_t model_hash,
                     enum op_class op_class);
/* The same, and takes one if need be: never SPEEDS_NO_ROW on a writable board. */
uint32_t speeds_take(struct scoreboard *board, uint64_t model_hash, enum op_class op_class);

/* A row, for a decision that reads it for many nodes; good for as long as the board is. */
struct speeds_view {
    const _Atomic uint64_t *words;
    const _Atomic uint64_t *tries;
    unsigned nodes; /* 0: there is no such row */
};
struct speeds_view speeds_view(const struct scoreboard *board, uint32_t row);

/* Finite and not negative, whatever the bytes. */
static inline struct speed speeds_at(struct speeds_view view, unsigned node)
{
    struct speed speed;
    uint64_t bits;

    if (node >= view.nodes)
        return (struct speed){0};
    bits = atomic_load_explicit(&view.words[node], memory_order_relaxed);
    memcpy(&speed, &bits, sizeof(speed));
    /* In both floats neither the sign nor all of the exponent is set. */
    if (((bits | (bits + SPEEDS_EXPONENT)) & SPEEDS_SIGN) == 0)
        return speed;
    return (struct speed){0};
}

/* So much of the time since a row's clock was set counts; 0 = it never was. */
static inline uint64_t speeds_gap_us(uint64_t set_mono_us, uint64_t now_mono_us,
                                     uint64_t gap_us)
{
    uint64_t us = now_mono_us > set_mono_us ? now_mono_us - set_mono_us : 0;

    return set_mono_us == 0 || us > gap_us ? gap_us : us;
}

/* The present by the row's clock: of the time between two requests it counts `gap_us` at most.
 * A row that does not exist yet is as old as one gap. */
static inline uint64_t speeds_now_us(struct speeds_view view, uint64_t now_mono_us,
                                     uint64_t gap_us)
{
    const _Atomic uint64_t *clock; /* see speeds.c */

    if (view.nodes == 0)
        return gap_us;
    clock = &view.tries[view.nodes];
    return atomic_load_explicit(&clock[0], memory_order_relaxed) +
           speeds_gap_us(atomic_load_explicit(&clock[1], memory_order_relaxed), now_mono_us,
                         gap_us);
}

/* When a request of the row was last sent there, by its clock; the node came then if none was.
 */
static inline uint64_t speeds_tried_us(struct speeds_view view, unsigned node)
{
    if (node >= view.nodes)
        return 0;
    return atomic_load_explicit(&view.tries[node], memory_order_relaxed);
}

struct speed speeds_read(const struct scoreboard *board, uint32_t row, unsigned node);

/* Replaces `seen` by `next`.  False: another worker was faster, and *seen is the present value;
 * or the row has another generation, or the row is none. */
MUST_CHECK bool speeds_swap(struct scoreboard *board, uint32_t row, unsigned node,
                            uint32_t generation, struct speed *seen, struct speed next);

/* A request of the row was sent to the node.  `gap_us` as in speeds_now_us(). */
void speeds_note_sent(struct scoreboard *board, uint32_t row, unsigned node,
                      uint32_t generation, uint64_t now_mono_us, uint64_t gap_us);
/* Claims the next speed trial of a node whose last request of the row was sent at `tried_us`.
 * False: it has been sent one since.  Both are instants by the row's clock. */
MUST_CHECK bool speeds_take_trial(struct scoreboard *board, uint32_t row, unsigned node,
                                  uint32_t generation, uint64_t tried_us, uint64_t now_us);
/* From now on the engine is at the request that is now its first: one was sent while no other
 * was before its first token, or the one before it had its own, or will never have one. */
void speeds_note_work(struct scoreboard *board, unsigned node, uint32_t generation,
                      uint64_t now_mono_us);
/* A request failed by the node's own fault.  True: no worker noted one within `event_us`
 * before, so the caller learns from it. */
MUST_CHECK bool speeds_note_failure(struct scoreboard *board, unsigned node,
                                    uint32_t generation, uint64_t now_mono_us,
                                    uint64_t event_us);

/* W: health, for nodes_claim(). */
void speeds_zero(struct scoreboard *board, unsigned node);

#endif
