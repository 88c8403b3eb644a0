/*
 * gauges.h - requests in flight and the prefill charged for them, per node.
 *
 * One 8-byte word per (node, worker): generation of the node's row (16 bits), requests in
 * flight (16), charged prefill (32, microseconds).  Only that worker writes it, so there is no
 * lost update; a reader sums a node's row and skips words of another generation, so that
 * requests sent to an earlier node of the row are not charged to the present one.  The master
 * zeroes a dead worker's column.
 */
#ifndef DROVER_SHM_SHARE_GAUGES_H
#define DROVER_SHM_SHARE_GAUGES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

struct gauge {
    uint32_t inflight;   /* requests sent and neither finished nor abandoned */
    uint64_t charged_us; /* of prefill, for requests not yet at first token */
};

/*
 * Claims a place for one request, which costs the node `charge_us` until its first token:
 * announces the claim in the own cell, then sums the row, and takes it back if that is over
 * `cap`.  True: the request counts in the own cell, and no more than `cap` are held on the
 * node.  Two workers that race for the last place do not both lose it: the tie is broken by
 * worker number, the greater one steps back.
 *
 * False: no place; or the row has another generation; or, rarely, a competitor was stopped in
 * the middle of its own claim.  Because of the last, a waiting process must also try again
 * every now and then (tens of milliseconds), not only when a request is over.
 */
MUST_CHECK bool gauges_claim(struct scoreboard *board, unsigned worker, unsigned node,
                             uint32_t generation, uint32_t charge_us, uint32_t cap);

/* The first token came (or the request will never have one): gives back the same charge. */
void gauges_prefill_done(struct scoreboard *board, unsigned worker, unsigned node,
                         uint32_t generation, uint32_t charge_us);

/* The request is over.  `charge_us`: what prefill_done has not given back yet.  A cell of
 * another generation is left alone. */
void gauges_release(struct scoreboard *board, unsigned worker, unsigned node,
                    uint32_t generation, uint32_t charge_us);

/* The worker knows the node now: its word counts as an empty one of this generation, so that
 * the sum of the row is the fast one from the start.  Places that it holds there stay. */
void gauges_enter(struct scoreboard *board, unsigned worker, unsigned node,
                  uint32_t generation);

/* The sum over all workers. */
struct gauge gauges_sum(const struct scoreboard *board, unsigned node, uint32_t generation);

/* W: master, for a worker that is gone. */
void gauges_clear_worker(struct scoreboard *board, unsigned worker);

#endif
