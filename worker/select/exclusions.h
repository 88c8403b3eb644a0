/*
 * exclusions.h - the nodes that one request is not sent to: for good, as they failed for it, or
 * for a while, as they were full or away.  Pure.
 */
#ifndef DROVER_WORKER_SELECT_EXCLUSIONS_H
#define DROVER_WORKER_SELECT_EXCLUSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "worker/select/gather.h"

/* limits.max_attempts and limits.max_resumes are at most 16 each, and at most seven nodes are
 * away, so failures never fill the table.  The rest is for pauses. */
#define EXCLUSIONS_MAX 40

struct exclusions {
    uint32_t count;
    struct excluded_node *of; /* owned; NULL until the first: most requests have none */
};

/* A node that is in the table keeps one entry, the latest.  In a full table the pause that ends
 * first gives way; without memory for the table nothing is kept.  True: it is away, and was not
 * before. */
bool exclusions_add(struct exclusions *exclusions, struct excluded_node node,
                    uint64_t now_mono_us);
/* Did the node fail for the request, so that it is no node to wait for either? */
MUST_CHECK bool exclusions_failed(const struct exclusions *exclusions, unsigned node,
                                  uint32_t generation, uint64_t now_mono_us);
void exclusions_finish(struct exclusions *exclusions);

#endif
