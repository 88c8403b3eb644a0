/*
 * plans.h - requests that wait in a worker and are planned on a node (policy/route/hold.h).
 *
 * One 8-byte word per node and worker beside the gauge: the gauge means what was sent, this one
 * what is to be sent there.  A plan is no claim: it takes no place, and only costs count it.
 * Only the worker writes its word; a word of another generation of the node reads as empty.
 *
 * A worker has plans only while requests wait in it.  So while queue_heads_any() says that
 * nothing waits anywhere, there is none, and no process needs to look.
 */
#ifndef DROVER_SHM_QUEUE_PLANS_H
#define DROVER_SHM_QUEUE_PLANS_H

#include <stdint.h>

struct scoreboard;

/* Plans of a worker whose last heartbeat is older are not counted: it stands still. */
#define PLANS_STOPPED_US UINT64_C(5000000)

struct plans {
    uint32_t count;
    uint64_t charged_us; /* of prefill */
};

/* One request more is planned there, or one less: with the same charge.  Ignored on a read-only
 * handle, out of range, and, for drop, in a word of another generation. */
void plans_add(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
               uint32_t charge_us);
void plans_drop(struct scoreboard *board, unsigned worker, unsigned node, uint32_t generation,
                uint32_t charge_us);

/* The sum over all workers that run. */
struct plans plans_sum(const struct scoreboard *board, unsigned node, uint32_t generation,
                       uint64_t now_mono_us);

/* W: master, for a worker that is gone. */
void plans_clear_worker(struct scoreboard *board, unsigned worker);

#endif
