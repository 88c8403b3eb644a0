/*
 * stats.h - measurements of each node: any worker adds, no process subtracts.
 *
 * Because the numbers only grow, a worker killed in the middle of anything falsifies nothing.
 * They belong to the node's row; nodes_claim() zeroes them for a new node.
 */
#ifndef DROVER_SHM_FACTS_STATS_H
#define DROVER_SHM_FACTS_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/histogram.h"
#include "base/kinds.h"

struct scoreboard;

enum stats_histogram {
    STATS_TTFT,    /* dispatch to first content, or to when a hedge overtook it */
    STATS_TPOT,    /* time per output token after the first, one sample a request */
    STATS_E2E,     /* dispatch to end, successful requests */
    STATS_CONNECT, /* TCP connect to HTTP/2 SETTINGS */
    STATS_HISTOGRAMS
};
const char *stats_histogram_name(enum stats_histogram which); /* "ttft" */

enum stats_counter {
    STATS_DISPATCHED,   /* attempts sent to the node */
    STATS_OK,           /* attempts that ended as the engine meant it */
    STATS_CLIENT_ERROR, /* the engine said 4xx */
    STATS_CLIENT_GONE,  /* cancelled because the client left */
    STATS_NODE_ERROR,   /* engine 5xx, lost connection, garbage */
    STATS_TIMEOUT,      /* no progress, or deadline */
    STATS_OVERTAKEN,    /* cancelled because another attempt of the request was first */
    STATS_FULL,         /* the node said RESOURCE_EXHAUSTED */
    STATS_CONNECT_FAILED,
    STATS_RETRIED,    /* attempts here that were followed by one elsewhere */
    STATS_HEDGES,     /* attempts sent here beside one that was slow elsewhere ... */
    STATS_HEDGES_WON, /* ... and those of them that were the first to give content */
    STATS_PROMPT_TOKENS,
    STATS_CACHED_TOKENS,
    STATS_OUTPUT_TOKENS,
    STATS_COUNTERS
};
const char *stats_counter_name(enum stats_counter which); /* "node_error" */

/* Moving averages, kept as the bits of a double. */
enum stats_average {
    STATS_AVG_HOLD_S = 0,       /* seconds a slot is held by a generation */
    STATS_AVG_HOLD_EMBEDDING_S, /* ... by an embedding and the like */
    STATS_AVERAGES
};

/* The average of the time that a request of the class, which holds one, holds a slot: a chat's
 * says nothing of an embedding's. */
static inline enum stats_average stats_hold_of(enum op_class op_class)
{
    return op_class == OP_CLASS_EMBEDDING ? STATS_AVG_HOLD_EMBEDDING_S : STATS_AVG_HOLD_S;
}

/* Each ignores a call whose generation is not the row's. */
void stats_note(struct scoreboard *board, unsigned node, uint32_t generation,
                enum stats_histogram which, uint64_t us);
void stats_count(struct scoreboard *board, unsigned node, uint32_t generation,
                 enum stats_counter which, uint64_t add);
/* EWMA by compare-and-swap, at most 8 tries; the first sample is taken as it is. */
void stats_average(struct scoreboard *board, unsigned node, uint32_t generation,
                   enum stats_average which, double sample, double alpha);

/* Reading.  Out-of-range nodes read as zero. */
void stats_read_histogram(const struct scoreboard *board, unsigned node,
                          enum stats_histogram which, struct histogram *out);
uint64_t stats_read_counter(const struct scoreboard *board, unsigned node,
                            enum stats_counter which);
double stats_read_average(const struct scoreboard *board, unsigned node,
                          enum stats_average which); /* 0 = no sample */

/* W: health, for nodes_claim(). */
void stats_zero(struct scoreboard *board, unsigned node);

#endif
