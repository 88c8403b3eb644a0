/*
 * policy.h - which node gets a request.  Pure: candidates, random bits and a cursor in, an
 * index out.
 *
 *   least_conn   least (in flight + 1) / (slots * weight): the node whose share of use would be
 * the least after taking this request.  The "+ 1" makes an idle large node win over an idle
 * small one; nginx leaves it out.  Ties at random. round_robin  the next one after the cursor
 * that has room.
 *
 * A candidate with inflight >= cap is never chosen.
 */
#ifndef DROVER_WORKER_POLICY_H
#define DROVER_WORKER_POLICY_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/config.h"

struct policy_candidate {
    uint32_t inflight; /* over all workers */
    uint32_t cap;      /* may hold this many; 0 = out of the question */
    uint32_t slots;    /* open to traffic; at least 1 when cap != 0 */
    uint32_t weight;   /* percent; at least 1 */
};

/*
 * The index of the chosen candidate, or -1 when none has room.  `cursor` is the caller's memory
 * from one choice to the next; `random` is 64 fresh random bits.
 */
MUST_CHECK int policy_choose(enum policy_kind kind, const struct policy_candidate *candidates,
                             size_t n, uint32_t *cursor, uint64_t random);

#endif
